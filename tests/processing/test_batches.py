"""Rows of data sets as batches, the collator of a `DataLoader`, and what a second process finds in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from torch.utils.data import DataLoader

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.processing.kinds import SERIALIZERS

TABLE: tuple[Any, Any] = (
    {"table": {"kind": "table"}},
    {"toy": {"modalities": {"table": {"columns": ["age", "ward"]}}, "target": {"column": "label"}}},
)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second)


@pytest.mark.parametrize("task", ["shapes", "clinic", "arm"])
def test_rows_slices_and_lists_of_rows_are_batches(processor: HighMMTProcessor, splits: Any, task: str) -> None:
    rows = splits[task]["test"]
    rows = rows.add_column("more", list(range(len(rows))))
    encoded = processor.collate(task, processor.encode(task, rows).with_format("arrow")[:3])
    encoded.pop("row")
    assert same(processor(task, rows[:3]).data, encoded)
    assert same(processor(task, [rows[index] for index in range(3)]).data, encoded)
    one = processor(task, rows[0])
    assert {name: item.shape[0] for name, item in one["inputs"][task].items()} == dict.fromkeys(one["inputs"][task], 1)
    without = processor(task, rows.remove_columns(processor.tasks[task]["target"]["column"])[:3])
    assert "labels" not in without
    assert same(without["inputs"], encoded["inputs"])


def test_a_batch_goes_into_the_model_after_a_move(processor: HighMMTProcessor, splits: Any) -> None:
    config = HighMMTConfig(
        modalities=processor.modality_configs(), tasks=processor.task_configs(), num_latents=2, d_latents=8
    )
    model = HighMMTModel(config).eval()
    for task in processor.tasks:
        batch = processor(task, splits[task]["test"][:4]).to("cpu", torch.float32)
        output = model(**batch)
        assert output.logits[task].shape[0] == 4
        assert torch.isfinite(output.loss)


def test_what_is_no_batch_is_refused(processor: HighMMTProcessor, splits: Any) -> None:
    rows = splits["arm"]["test"]
    with pytest.raises(ValueError, match="Task 'arm': give a batch or 'image', not both"):
        processor("arm", rows[0], image=None)
    with pytest.raises(ValueError, match="Task 'arm': a batch is a mapping of columns or a list of rows, not Dataset"):
        processor("arm", rows)
    with pytest.raises(ValueError, match="Task 'arm', row 1: there is no column 'force', which row 0 has"):
        processor("arm", [rows[0], {"frames": rows[1]["frames"]}])
    with pytest.raises(ValueError, match="modality 'force' is not given"):
        processor("arm", rows.remove_columns("force")[0])


@pytest.mark.parametrize("task", ["shapes", "clinic", "arm"])
def test_a_data_loader_collates_encoded_rows(processor: HighMMTProcessor, splits: Any, task: str) -> None:
    encoded = processor.encode(task, splits[task]["test"])
    loader = DataLoader(encoded, batch_size=4, collate_fn=partial(processor.collate, task))
    table = encoded.with_format("arrow")
    for start, batch in zip(range(0, len(encoded), 4), loader, strict=True):
        assert same(batch, processor.collate(task, table[start : start + 4]))
    with pytest.raises(ValueError, match=f"Task '{task}': there are no rows to collate"):
        processor.collate(task, [])


def test_two_processes_encode_what_one_does(processor: HighMMTProcessor, splits: Any) -> None:
    rows = splits["clinic"]["train"]
    one, two = processor.encode("clinic", rows), processor.encode("clinic", rows, num_proc=2)
    assert one.to_dict() == two.to_dict()


def toy_file(folder: Path) -> str:
    path = folder / "rows.parquet"
    rows = {"age": [1.0, 2.0, None, 4.0], "ward": ["a", "b", "a", None], "label": [0, 1, 1, 0]}
    Dataset.from_dict(rows).to_parquet(path)
    return str(path)


def test_what_was_fitted_and_encoded_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toy_file(tmp_path)

    def encode() -> tuple[Any, Any]:
        rows = load_dataset("parquet", data_files=path, cache_dir=str(tmp_path / "cache"), split="train")
        processor = HighMMTProcessor(*TABLE)
        processor.fit("toy", rows)
        return processor.statistics, processor.encode("toy", rows).to_dict()

    first = encode()
    with monkeypatch.context() as patch:
        for method in ("fit", "encode"):
            patch.setattr(SERIALIZERS["table"], method, None)
        assert encode() == first
        patch.setitem(TABLE[0]["table"], "scale", "standard")
        with pytest.raises(TypeError):
            encode()


SCRIPT = """
import sys
from datasets import load_dataset
from highmmt.processing import HighMMTProcessor, kinds
table = kinds.SERIALIZERS["table"]
if sys.argv[2] == "again":
    table.fit = table.encode = None
rows = load_dataset("parquet", data_files=sys.argv[1], split="train").train_test_split(0.5, seed=0)
processor = HighMMTProcessor(
    {"table": {"kind": "table"}},
    {"toy": {"modalities": {"table": {"columns": ["age", "ward"]}}, "target": {"column": "label"}}},
)
processor.fit("toy", rows["train"])
print(processor.to_json_string(), processor.encode("toy", rows["test"]).to_dict())
"""


@pytest.mark.slow
def test_a_second_process_reads_what_the_first_one_made(tmp_path: Path) -> None:
    path = toy_file(tmp_path)
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    results = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, path, word], env=environment, capture_output=True, text=True, check=False
        )
        for word in ("first", "again")
    ]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    assert results[0].stdout == results[1].stdout
