"""Memory of mapped files is given back, and what is read from them stays the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

from highmmt.processing import HighMMTProcessor
from highmmt.train import TrainingBatches, make_sampler
from highmmt.train.mapped_files import MappedFiles

linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is resident")


def resident(path: str) -> int:
    """Kilobytes of a file that are in memory of this process."""
    total, of_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            of_file = line.endswith(path)
        elif of_file and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@linux
def test_pages_that_were_read_are_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20_000, 64))
    Dataset.from_dict({"values": values}).save_to_disk(tmp_path)
    dataset = load_from_disk(tmp_path).with_format("arrow")
    (file,) = [entry["filename"] for entry in dataset.cache_files]
    files = MappedFiles([file])
    for _ in range(2):
        read = dataset[:]["values"].combine_chunks().flatten().to_numpy()
        np.testing.assert_array_equal(read.reshape(values.shape), values)
        assert resident(file) > 10_000
        files.release()
        assert resident(file) < 100


def test_small_files_are_left_alone(tmp_path: Path) -> None:
    Dataset.from_dict({"values": [1.0]}).save_to_disk(tmp_path)
    dataset = load_from_disk(tmp_path)
    files = MappedFiles(entry["filename"] for entry in dataset.cache_files)
    files.release()
    assert files.ranges == []


def test_batches_of_large_files_are_those_of_small_ones(
    data: dict, processor: HighMMTProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels() -> list[list]:
        sampler = make_sampler("staggered", {"shapes": 24}, {"shapes": 20})
        steps = TrainingBatches({"shapes": data["shapes"]}, processor, sampler, seed=0).epoch(0)
        return [
            [step.batch["labels"]["shapes"].tolist(), step.batch["inputs"]["shapes"]["table"].tolist()]
            for step in steps
        ]

    small = labels()
    monkeypatch.setattr("highmmt.train.mapped_files._SMALL", 0)
    released: list[MappedFiles] = []
    monkeypatch.setattr(MappedFiles, "release", lambda files: released.append(files))
    assert labels() == small
    # Once at the start, twice for 20 rows of which 16 are read at once, once for the last 4.
    assert len(released) == 4
