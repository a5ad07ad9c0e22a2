"""What is told of a run: a line for each epoch whatever happened, trackers, and the table at the end."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from highmmt.train import METRICS, EpochLog, Trackers, own_bests, result_table
from highmmt.train.tracking import epoch_line, forget_runs, require_trackers, say_in_a_pipe

METRICS_OF = {"shapes": METRICS["accuracy"], "arm": METRICS["rmse"]}


def record(epoch: int, accuracy: float = 0.5, rmse: float = 2.0) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "steps": 7,
        "train_loss": {"shapes": 0.75, "arm": 1.5},
        "weighted_loss": {"shapes": 0.75, "arm": 0.75},
        "validation": {"shapes": {"loss": 1.0, "accuracy": accuracy}, "arm": {"loss": 3.0, "rmse": rmse}},
        "score": accuracy - rmse,
        "learning_rate": 0.001,
        "skipped": [],
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_epoch_is_a_line_of_json(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "log.jsonl")
    assert lines(log.path) == []
    for epoch in range(3):
        log.append(record(epoch))
    assert lines(log.path) == [record(epoch) for epoch in range(3)]


@given(logged=st.integers(0, 5), over=st.integers(0, 5), cut=st.integers(0, 400), data=st.data())
def test_after_a_resume_no_line_is_missing_or_there_twice(
    tmp_path_factory: pytest.TempPathFactory, logged: int, over: int, cut: int, data: st.DataObject
) -> None:
    # The process may have died before, within or after a line, and the checkpoint may be older or newer than the log.
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    log = EpochLog(path)
    for epoch in range(logged):
        log.append({**record(epoch), "seconds": 5.0})
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    kept = path.read_bytes().count(b"\n")
    log = EpochLog(path, [record(epoch) for epoch in range(over)])
    found = lines(path)
    assert [line["epoch"] for line in found] == list(range(over))
    assert all("seconds" in line for line in found[:kept])
    log.append(record(over))
    assert [line["epoch"] for line in lines(path)] == list(range(over + 1))


def test_runs_share_a_log_and_change_their_own_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for run in ("a", "b/phase-1", "b/phase-2", "bc"):
        log = EpochLog(path, run=run)
        for epoch in range(2):
            log.append(record(epoch))
    EpochLog(path, [record(0)], "a").append(record(1))
    found = [(line["run"], line["epoch"]) for line in lines(path)]
    assert found == [(run, epoch) for run in ("b/phase-1", "b/phase-2", "bc", "a") for epoch in range(2)]
    forget_runs(path, "b")
    assert [line["run"] for line in lines(path)] == ["bc", "bc", "a", "a"]


def test_numbers_that_are_not_finite_leave_a_line_that_is_json(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "log.jsonl")
    log.append({"epoch": 0, "train_loss": {"arm": math.nan}, "values": [math.inf, 1.0]})
    assert lines(log.path) == [{"epoch": 0, "train_loss": {"arm": None}, "values": [None, 1.0]}]


def test_each_task_has_its_own_best_the_first_of_equal_ones() -> None:
    history = [record(0, 0.5, 3.0), record(1, 0.75, 4.0), record(2, 0.75, 2.5), record(3, 0.25, 2.5)]
    assert own_bests(history, METRICS_OF) == {"shapes": (1, 0.75), "arm": (2, 2.5)}


def test_the_table_shows_the_kept_epoch_beside_each_tasks_own_best() -> None:
    history = [record(0, 0.5, 3.0), record(1, 0.75, 4.0), record(2, 0.625, 2.5)]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(history, 2, METRICS_OF, "Pretraining"))
    console.file.close()
    rows = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert rows[0] == "Pretraining"
    assert "task metric kept own best in epoch train loss validation loss" in rows
    assert "shapes accuracy 0.625 0.75 2 0.75 1" in rows
    assert "arm rmse 2.5 2.5 3 1.5 3" in rows
    assert "kept: epoch 3 of 3" in rows


def test_a_pipe_gets_a_line_for_an_epoch_and_a_terminal_none(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = epoch_line(record(1), METRICS_OF, 4, "Pretraining [all]")
    assert line == ("Pretraining [all]: epoch 2/4, score -1.5; shapes loss 0.75 accuracy 0.5; arm loss 1.5 rmse 2")
    say_in_a_pipe(line * 10)
    assert capsys.readouterr().err == line * 10 + "\n"
    monkeypatch.setattr(Console, "is_terminal", True)
    say_in_a_pipe(line)
    assert capsys.readouterr().err == ""


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """One that leaves no tracker behind."""
    made = Accelerator(cpu=True)
    yield made
    for tracker in made.trackers:
        tracker.finish()


def test_tensorboard_is_told_numbers_and_settings(tmp_path: Path, accelerator: Accelerator) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"seed": 3, "patience": None, "batch_sizes": {"shapes": 4}, "betas": [0.9, 0.98]}
    trackers = Trackers(accelerator, ["tensorboard"], tmp_path, "run", settings)
    for epoch in range(2):
        trackers.log(record(epoch, rmse=2.0 + epoch))
    trackers.close()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("validation/arm/rmse")] == [(0, 2.0), (1, 3.0)]
    told = set(events.Tags()["scalars"])
    assert {"train_loss/shapes", "weighted_loss/arm", "learning_rate", "score", "steps"} <= told
    assert "epoch" not in told
    assert "batch_sizes/shapes: 4" in next((tmp_path / "run").rglob("hparams.yml")).read_text()
    assert not accelerator.trackers


def test_trackers_that_were_started_before_are_used_and_left_running(tmp_path: Path, accelerator: Accelerator) -> None:
    class Told:
        name, told, finished = "told", [], False  # noqa: RUF012

        def log(self, values: dict, step: int, **options: Any) -> None:
            self.told.append((step, values))

        def finish(self) -> None:
            self.finished = True

    mine = Told()
    accelerator.trackers = [mine]  # type: ignore[list-item]
    trackers = Trackers(accelerator, [], tmp_path, "run", {})
    trackers.log({"epoch": 4, "train_loss": {"arm": 0.5}, "skipped": []})
    trackers.close()
    assert mine.told == [(4, {"train_loss/arm": 0.5})]
    assert not mine.finished
    accelerator.trackers = []


def test_without_trackers_nothing_is_told(tmp_path: Path, accelerator: Accelerator) -> None:
    trackers = Trackers(accelerator, [], tmp_path, "run", {"seed": 1})
    trackers.log(record(0))
    trackers.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as caught:
        require_trackers([name])
    assert str(caught.value) == f'The tracker {name!r} is not installed: pip install "highmmt[{name}]"'


def test_trackers_are_named_one_by_one_or_with_commas() -> None:
    pytest.importorskip("tensorboard")
    assert require_trackers("tensorboard, tensorboard") == ["tensorboard"]
    assert require_trackers(["tensorboard,", "tensorboard"]) == ["tensorboard"]
    assert require_trackers([]) == []


def test_an_unknown_tracker_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no tracker 'tensorbored'; use one of tensorboard, wandb, mlflow"):
        require_trackers(["tensorbored"])
