"""Batches of training: the sampler's rows, the same from any number of workers, and what happens to bad rows."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from highmmt.modeling_highmmt import labelled
from highmmt.processing import HighMMTProcessor
from highmmt.train import StepBatch, TaskSampler, TrainingBatches, WorkerDiedError, encode_suite, make_sampler

# Python 3.12 and later warn wherever a process with threads starts another.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
SIZES = {"shapes": 5, "arm": 4, "tone": 2}
Rows = dict[str, list[Any]]


def load(name: str) -> ModuleType:
    # Test folders are no packages, so that their names are free.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sampler_of(data: dict, sizes: dict[str, int] | None = None, name: str = "staggered") -> TaskSampler:
    rows = {task: len(data[task]["train"]) for task in data}
    return make_sampler(name, rows, {**SIZES, **(sizes or {})}, seed=3)


def batches_of(data: dict, processor: HighMMTProcessor, sizes: dict[str, int] | None = None, **options: Any) -> Any:
    return TrainingBatches(data, processor, sampler_of(data, sizes), **{"seed": 7, **options})


def with_transform(data: dict, task: str, transform: Callable[[Rows], Rows]) -> dict:
    return {**data, task: {**data[task], "train": data[task]["train"].with_transform(transform)}}


def flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dicts with its path; tensors as lists, so that equal means bit for bit."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flat(value, f"{path}/{key}")
    else:
        yield path, values.tolist() if hasattr(values, "tolist") else values


def plain(step: StepBatch) -> dict[str, Any]:
    return dict(flat(vars(step)))


def test_a_step_holds_the_rows_of_the_sampler_as_the_processor_collates_them(
    data: dict, processor: HighMMTProcessor
) -> None:
    steps = list(batches_of(data, processor).epoch(1))
    expected = list(sampler_of(data).epoch(1))
    assert [(step.epoch, step.step) for step in steps] == [(1, number) for number in range(len(expected))]
    for step, rows_of_tasks in zip(steps, expected, strict=True):
        assert step.shares == dict.fromkeys(rows_of_tasks, 1.0)
        assert step.bad_rows == {}
        for task, rows in rows_of_tasks.items():
            assert step.rows[task].tolist() == rows.tolist()
            assert step.sample_ids[task] == [f"{task}/train/{row}" for row in rows]
            table = data[task]["train"].with_format("arrow")[rows]
            collated = processor.collate(task, table)
            for part in ("inputs", "attention_mask", "labels"):
                assert dict(flat(step.batch[part][task])) == dict(flat(collated[part][task]))


def noisy(rows: Rows) -> Rows:
    """Noise of all three generators, and a length by chance."""
    series = []
    for row in rows["series"]:
        values = np.asarray(row, dtype=np.float32).reshape(-1, 2)
        values = values + random.gauss(0, 1) + np.random.normal(size=values.shape)
        series.append(values[: random.randint(0, len(values))])
    return {**rows, "series": series, "table": [torch.tensor(row) + torch.rand(len(row)) for row in rows["table"]]}


def test_random_rows_are_the_same_from_workers_and_after_a_resume(data: dict, processor: HighMMTProcessor) -> None:
    augmented = with_transform(data, "arm", noisy)
    whole = [plain(step) for step in batches_of(augmented, processor).epoch(0)]
    assert whole != [plain(step) for step in batches_of(data, processor).epoch(0)]
    assert whole != [plain(step) for step in batches_of(augmented, processor, seed=8).epoch(0)]
    for workers in (1, 2):
        batches = batches_of(augmented, processor, num_workers=workers)
        assert [plain(step) for step in batches.epoch(0)] == whole
        assert [plain(step) for step in batches.epoch(0, start=3)] == whole[3:]
    assert [plain(step) for step in batches_of(augmented, processor).epoch(0, start=2)] == whole[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_generators_of_training_alone(
    data: dict, processor: HighMMTProcessor, workers: int
) -> None:
    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = states()
    handler = signal.getsignal(signal.SIGCHLD)
    for _ in batches_of(with_transform(data, "arm", noisy), processor, num_workers=workers).epoch(0):
        assert states() == before
        assert signal.getsignal(signal.SIGCHLD) == handler


@settings(max_examples=30)
@given(sizes=st.fixed_dictionaries({task: st.integers(1, 9) for task in SIZES}), world=st.integers(1, 5))
def test_processes_share_the_rows_of_every_step(
    data: dict, processor: HighMMTProcessor, sizes: dict[str, int], world: int
) -> None:
    ranks = [list(batches_of(data, processor, sizes, rank=rank, world_size=world).epoch(0)) for rank in range(world)]
    for number, rows_of_tasks in enumerate(sampler_of(data, sizes).epoch(0)):
        steps = [rank[number] for rank in ranks]
        for task, rows in rows_of_tasks.items():
            own = [step.rows[task].tolist() if step.row_weights[task] else [] for step in steps]
            assert sorted(row for part in own for row in part) == sorted(rows.tolist())
            # The mean over processes of (share times mean over own rows) is the mean over all rows.
            assert sum(step.shares[task] for step in steps) == pytest.approx(world)
            for step, part in zip(steps, own, strict=True):
                assert step.shares[task] == pytest.approx(len(part) * world / len(rows))
                assert len(step.rows[task]) == len(step.batch["labels"][task]) >= 1
                assert step.sample_ids[task] == [f"{task}/train/{row}" for row in rows]


def test_a_process_counts_by_its_labels_and_has_all_rows_of_a_retrieval(tmp_path: Path) -> None:
    mixed = load("mixed_suite").mixed_suite(tmp_path)
    processor = mixed.build_processor()
    data = {
        task: {"train": splits["train"].select(range(6))} for task, splits in encode_suite(mixed, processor).items()
    }
    sampler = make_sampler("staggered", dict.fromkeys(data, 6), dict.fromkeys(data, 6))
    steps = [
        next(TrainingBatches(data, processor, sampler, seed=0, rank=rank, world_size=2).epoch(0)) for rank in (0, 1)
    ]
    for task in ("walk", "phase", "kind"):
        counts = [int(labelled(step.batch["labels"][task]).sum()) for step in steps]
        assert [step.shares[task] for step in steps] == [pytest.approx(2 * count / sum(counts)) for count in counts]
        assert [step.row_weights[task] for step in steps] == [1, 1]
    assert steps[0].shares["walk"] != steps[1].shares["walk"]
    for step in steps:
        assert sorted(step.rows["find"].tolist()) == list(range(6))
        assert (step.shares["find"], step.row_weights["find"]) == (1, 0.5)


def refusing(*bad: int) -> Callable[[Rows], Rows]:
    def transform(rows: Rows) -> Rows:
        for row in rows["row"]:
            if row in bad:
                raise OSError(f"broken pixel in {row}")
        return rows

    return transform


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_that_cannot_be_read_is_named_with_task_and_file(
    data: dict, processor: HighMMTProcessor, workers: int
) -> None:
    batches = batches_of(with_transform(data, "arm", refusing(6)), processor, num_workers=workers)
    with pytest.raises(ValueError) as caught:
        list(batches.epoch(0))
    file = data["arm"]["train"].cache_files[0]["filename"]
    assert str(caught.value) == (
        f"Task 'arm', row arm/train/6 ({file}) cannot be read: OSError: broken pixel in 6. To go on without such "
        "rows, set skip_bad_rows."
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_left_out_counted_once_and_limited(
    data: dict, processor: HighMMTProcessor, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    broken = with_transform(data, "arm", refusing(6, 11))
    batches = batches_of(broken, processor, num_workers=workers, skip_bad_rows=2)
    for epoch in range(2):
        seen = []
        for step in batches.epoch(epoch):
            if "arm" in step.rows:
                seen += step.rows["arm"].tolist()
                bad = len(step.bad_rows.get("arm", {}))
                assert len(step.batch["labels"]["arm"]) == len(step.rows["arm"])
                assert step.shares["arm"] == len(step.rows["arm"]) / (len(step.rows["arm"]) + bad)
        assert sorted(seen) == [row for row in range(13) if row not in (6, 11)]
    assert set(batches.skipped["arm"]) == {6, 11}
    assert "broken pixel in 11" in batches.skipped["arm"][11]
    # What was skipped before a resume counts after it.
    state = json.loads(json.dumps(batches.state_dict()))
    worse = with_transform(data, "arm", refusing(6, 11, 2))
    resumed = batches_of(worse, processor, num_workers=workers, skip_bad_rows=2)
    resumed.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"row arm/train/2 .*broken pixel in 2\. 2 rows were skipped before it, which"
    ):
        list(resumed.epoch(1))


def test_a_batch_of_bad_rows_alone_counts_nothing(data: dict, processor: HighMMTProcessor) -> None:
    broken = with_transform(data, "tone", refusing(*range(8)))
    steps = [
        step
        for step in batches_of(broken, processor, {"tone": 1}, skip_bad_rows=8).epoch(0)
        if step.row_weights.get("tone") == 0
    ]
    assert len(steps) == 8
    assert {row for step in steps for row in step.rows["tone"].tolist()} == {8}
    with pytest.raises(ValueError, match="Task 'tone': no row of the train split can be read"):
        list(batches_of(with_transform(data, "tone", refusing(*range(9))), processor, skip_bad_rows=9).epoch(0))


def dying(rows: Rows) -> Rows:
    if 6 in rows["row"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows


def test_a_worker_that_dies_is_reported_with_the_rows_it_was_at(data: dict, processor: HighMMTProcessor) -> None:
    batches = batches_of(with_transform(data, "arm", dying), processor, num_workers=2)
    with pytest.raises(WorkerDiedError) as caught:
        list(batches.epoch(0))
    (rows,) = [step["arm"].tolist() for step in sampler_of(data).epoch(0) if 6 in step.get("arm", [])]
    named = ", ".join(f"arm/train/{row}" for row in rows)
    assert f"It was at: Task 'arm', row {named} ({data['arm']['train'].cache_files[0]['filename']})" in str(
        caught.value
    )


def test_steps_are_read_only_a_little_ahead(data: dict, processor: HighMMTProcessor) -> None:
    class Counting:
        num_rows = {"tone": 9}
        taken = 0

        def epoch(self, epoch: int, start: int) -> Iterator[dict[str, np.ndarray]]:
            for _ in range(1000):
                self.taken += 1
                yield {"tone": np.array([1, 2])}

    for workers, ahead in ((0, 1), (2, 5)):
        sampler = Counting()
        steps = TrainingBatches({"tone": data["tone"]}, processor, sampler, seed=0, num_workers=workers).epoch(0)  # type: ignore[arg-type]
        next(steps)
        assert sampler.taken <= ahead
        steps.close()


def test_a_row_that_cannot_be_read_is_named_with_the_data_files_that_are_given(
    data: dict, processor: HighMMTProcessor
) -> None:
    batches = batches_of(with_transform(data, "arm", refusing(6)), processor, files={"arm": ["arms.parquet"]})
    with pytest.raises(ValueError, match=r"^Task 'arm', row arm/train/6 \(arms\.parquet\) cannot be read: OSError"):
        list(batches.epoch(0))


def test_rows_are_named_by_the_datas_own_ids(data: dict, processor: HighMMTProcessor) -> None:
    rows = data["tone"]["train"]
    named = {"tone": {"train": rows.add_column("id", [f"song {row}" for row in range(len(rows))])}}
    step = next(batches_of(named, processor).epoch(0))
    assert step.sample_ids["tone"] == [f"song {row}" for row in step.rows["tone"]]


def test_rows_keep_the_number_they_had_before_some_were_taken_out(data: dict, processor: HighMMTProcessor) -> None:
    fewer: Dataset = data["tone"]["train"].select([8, 3, 5])
    step = next(batches_of({"tone": {"train": fewer}}, processor).epoch(0))
    assert step.sample_ids["tone"] == [f"tone/train/{[8, 3, 5][row]}" for row in step.rows["tone"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": -1}, "num_workers=-1 must be a whole number"),
        ({"num_workers": True}, "num_workers=True must be a whole number"),
        ({"skip_bad_rows": 0.5}, "skip_bad_rows=0.5 must be a whole number"),
        ({"rank": 2, "world_size": 2}, "rank=2 is not one of the 2 processes"),
    ],
)
def test_impossible_numbers_are_refused(data: dict, processor: HighMMTProcessor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches_of(data, processor, **options)


def test_a_sampler_of_other_data_is_refused(data: dict, processor: HighMMTProcessor) -> None:
    for rows in ({"arm": 12}, {"gait": 3}):
        sampler = make_sampler("staggered", rows, dict.fromkeys(rows, 2))
        (task,) = rows
        with pytest.raises(ValueError, match=f"Task {task!r}: the sampler is for {rows[task]} training rows, the"):
            TrainingBatches(data, processor, sampler, seed=0)
