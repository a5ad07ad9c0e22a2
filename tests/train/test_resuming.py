"""A run that was stopped and goes on ends as one that was not, to the last bit."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import (
    CheckpointFolder,
    MultitaskTrainer,
    TrainingInterrupted,
    TrainingSettings,
    build_config,
    build_model,
    metric_names,
)
from highmmt.train.trainer import MultitaskTrainer as Trainer

BASE = {"num_epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "save_steps": 2, "keep": 2}
Build = Any


def shake(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Noise of all three generators on every table and spectrum."""
    noisy = dict(rows)
    for name in {"table", "spectrum"} & set(rows):
        numbers = [np.asarray(row) + np.random.normal(scale=0.1, size=len(row)) for row in rows[name]]
        noisy[name] = [row + 0.1 * torch.randn(len(row)).numpy() + random.uniform(0, 0.1) for row in numbers]
    return noisy


@pytest.fixture
def build(suite: Suite, processor: HighMMTProcessor, data: dict) -> Build:
    def make(rows: dict | None = None, shaken: bool = False, **changes: Any) -> MultitaskTrainer:
        if shaken:
            rows = {task: {**splits, "train": splits["train"].with_transform(shake)} for task, splits in data.items()}
        model = build_model(build_config(suite, processor, hidden_dropout_prob=0.2), seed=0)
        settings = TrainingSettings.from_dict({**BASE, **changes})
        return MultitaskTrainer(model, processor, rows or data, metric_names(suite), settings)

    return make


def final(folder: CheckpointFolder) -> dict[str, bytes]:
    """Every file of the newest checkpoint."""
    newest = folder.newest()
    assert newest is not None
    return {path.name: path.read_bytes() for path in newest.folder.iterdir()}


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise in the midst of the step after so many."""
    step, calls = Trainer._update, []

    def update(self: Trainer, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > steps:
            raise ConnectionError("pulled the plug")
        step(self, *arguments)

    monkeypatch.setattr(Trainer, "_update", update)


VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "learned weights of losses": {"loss_weighting": "uncertainty"},
    "gathered gradients": {"gradient_accumulation_steps": 4, "save_steps": 4},
    "drawn tasks": {"sampling": "temperature", "lr_scheduler": "cosine", "warmup_ratio": 0.2},
    "sgd": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "lr_scheduler": "reduce_lr_on_plateau"},
    "bf16": {"mixed_precision": "bf16", "optimizer": "adamw"},
    "random rows": {"shaken": True},
    "random rows from workers": {"shaken": True, "num_workers": 2},
}


# Python 3.12 and later warn wherever a process with threads starts another.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_crashed_ends_as_one_that_did_not(
    name: str, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = CheckpointFolder(tmp_path / "whole"), CheckpointFolder(tmp_path / "broken")
    expected = build(**VARIANTS[name])
    result = expected.train(whole)
    for steps in (1, 3, 4, 7):
        with monkeypatch.context() as patch:
            stop_after(steps, patch)
            try:
                build(**VARIANTS[name]).train(broken)
            except ConnectionError:
                continue
    trainer = build(**VARIANTS[name])
    assert trainer.train(broken) == result
    assert final(broken) == final(whole)
    weights = trainer.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in expected.model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_random_rows_are_trained_on_alike_with_any_number_of_workers(build: Build) -> None:
    shaken = build(shaken=True, num_epochs=1).train()
    assert shaken == build(shaken=True, num_epochs=1, num_workers=2).train()
    assert shaken.history != build(num_epochs=1).train().history


def test_checkpoints_change_nothing(build: Build, tmp_path: Path) -> None:
    with_them, without = build(), build()
    assert with_them.train(CheckpointFolder(tmp_path)) == without.train()
    weights = without.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in with_them.model.state_dict().items())


def test_a_finished_run_is_not_trained_again(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    first = build()
    result = first.train(folder)
    stop_after(0, monkeypatch)
    again = build()
    assert again.train(folder) == result
    assert all(torch.equal(value, first.model.state_dict()[key]) for key, value in again.model.state_dict().items())


def test_other_settings_or_data_are_refused_by_name_but_for_those_that_change_no_number(
    build: Build, data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        stop_after(5, patch)
        build().train(folder)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate: 0\.01 there, 0\.02 now\)"):
        build(learning_rate=2e-2).train(folder)
    fewer = {**data, "arm": {**data["arm"], "train": data["arm"]["train"].select(range(9))}}
    with pytest.raises(ValueError, match="Task 'arm': 9 training rows, but"):
        build(rows=fewer).train(folder)
    build(save_steps=None, keep=1).train(CheckpointFolder(tmp_path, keep=1))
    assert len(folder.positions()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    number: signal.Signals, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = CheckpointFolder(tmp_path / "whole"), CheckpointFolder(tmp_path / "stopped")
    result = build(save_steps=None).train(whole)
    forward, calls = HighMMTModel.forward, []

    def stop(self: HighMMTModel, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(number)
        return forward(self, *arguments, **options)

    before = signal.getsignal(number)
    former = signal.signal(number, signal.default_int_handler)  # a test run in the background ignores Ctrl-C
    try:
        with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted, match="in epoch 1 of 3 after step 3"):
            patch.setattr(HighMMTModel, "forward", stop)
            try:
                build(save_steps=None).train(folder)
            except TrainingInterrupted as error:
                assert error.exit_code == 128 + number
                raise
    finally:
        signal.signal(number, former)
    assert signal.getsignal(number) == before
    assert [str(position) for position in folder.positions()] == ["epoch-00000-step-00000003"]
    assert build(save_steps=None).train(folder) == result
    assert final(folder) == final(whole)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("manifest.json", "manifest.json"),
        ("progress.json", "history and counts begin anew"),
        ("weights.safetensors", "the present weights; the best so far are taken"),
        ("best.safetensors", "the best weights so far; the present ones are taken"),
        ("optimizer.safetensors", "the optimizer's moments"),
        ("process-00000.json", "random numbers"),
        ("loss_weights.safetensors", "the learned weights of the losses, which begin anew"),
    ],
)
def test_without_one_file_the_run_goes_on_only_if_asked_and_says_what_is_lost(
    name: str,
    lost: str,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    weighting = "uncertainty" if name == "loss_weights.safetensors" else "fixed"
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        stop_after(9, patch)
        build(loss_weighting=weighting).train(folder)
    (position,) = folder.positions()
    (folder.folder / str(position) / name).unlink()
    with pytest.raises(ValueError, match=f"No checkpoint in .* is whole: .*{name}"):
        build(loss_weighting=weighting).train(folder)
    with caplog.at_level(logging.WARNING):
        result = build(loss_weighting=weighting).train(folder, allow_inexact=True)
    assert "not exactly. Lost: " in caplog.text and lost in caplog.text
    assert result.history[-1].epoch == 2 and math.isfinite(result.best_score)


def test_a_checkpoint_holds_no_pickle_and_plain_numbers(build: Build, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    build(num_epochs=1).train(folder)
    for name, content in final(folder).items():
        assert name.endswith((".json", ".safetensors"))
        if name.endswith(".json"):
            json.loads(content)


def with_values(data: dict, task: str, row: int, value: float) -> dict:
    """The data with one modality of a training row replaced by a number."""
    rows = data[task]["train"]
    table = [dict(entry) for entry in rows]
    table[row]["table"] = [value] * len(table[row]["table"])
    return {**data, task: {**data[task], "train": Dataset.from_list(table, features=rows.features)}}


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_sample_that_is_not_finite_costs_its_step_and_is_named(
    value: float, build: Build, data: dict, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build(rows=with_values(data, "arm", 5, value), save_steps=None)
    result = trainer.train()
    for record in result.history:
        assert [step.samples for step in record.skipped] == [{"arm": ["arm/train/5"]}]
    assert "samples arm/train/5. The step was skipped." in caplog.text
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.state_dict().values())


@pytest.mark.slow
def test_one_such_sample_of_64_never_spoils_the_weights_of_100_seeds(build: Build, data: dict) -> None:
    train = data["shapes"]["train"]
    many = Dataset.from_list([dict(train[row % len(train)]) for row in range(64)], features=train.features)
    rows = with_values({"shapes": {**data["shapes"], "train": many}}, "shapes", 7, math.nan)
    only = {"shapes": rows["shapes"]}
    for seed in range(100):
        trainer = build(rows=only, num_epochs=1, seed=seed, save_steps=None, batch_size=8)
        result = trainer.train()
        assert len(result.history[0].skipped) == 1
        assert all(bool(torch.isfinite(value).all()) for value in trainer.model.state_dict().values()), seed


def test_a_skipped_step_leaves_no_trace(build: Build, data: dict) -> None:
    # An epoch of one step, which is skipped: nothing has moved, not even the statistics of batch norms.
    trainer = build(rows={"arm": data["arm"]}, num_epochs=1, batch_size=13, save_steps=None)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with torch.no_grad():
        trainer.model.heads["arm"].classifier.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="Task 'arm': the training loss of epoch 0"):
        trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) or name == "heads.arm.classifier.bias"


def test_too_many_such_steps_in_a_row_end_the_run_and_keep_the_last_checkpoint(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        stop_after(8, patch)
        build().train(folder)
    kept = shutil.copytree(folder.folder, tmp_path / "kept")
    trainer = build(max_non_finite_steps=10)
    losses = MultitaskTrainer._add_gradients

    def spoilt(self: Trainer, run: Any, gathered: Any, *rest: Any) -> None:
        losses(self, run, gathered, *rest)
        gathered.spoilt = True
        gathered.losses["arm"] = math.nan

    with monkeypatch.context() as patch:
        patch.setattr(MultitaskTrainer, "_add_gradients", spoilt)
        with pytest.raises(FloatingPointError, match="is nan, .* in a row were not finite|not finite in any"):
            trainer.train(CheckpointFolder(kept))
    assert CheckpointFolder(kept).newest() is not None
