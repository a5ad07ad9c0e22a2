"""Training and judging retrievals and sequences of targets: whole splits, labelled steps only, planted answers."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from highmmt.modeling_highmmt import task_loss
from highmmt.modeling_highmmt.heads import retrieval_loss
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import (
    METRICS,
    MultitaskTrainer,
    TrainingSettings,
    build_config,
    build_model,
    encode_suite,
    metric_names,
)
from highmmt.train.metrics import retrieval_ranks


def _load(name: str) -> ModuleType:
    # Test folders are no packages, so that their names are free.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mixed = _load("mixed_suite")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return mixed.mixed_suite(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def processor(suite: Suite) -> HighMMTProcessor:
    return suite.build_processor()


@pytest.fixture(scope="module")
def data(suite: Suite, processor: HighMMTProcessor) -> dict[str, dict[str, Any]]:
    return encode_suite(suite, processor)


def trainer_of(
    suite: Suite, processor: HighMMTProcessor, data: dict, tasks: list[str] | None = None, **changes: Any
) -> MultitaskTrainer:
    names = tasks or list(suite.tasks)
    model = build_model(build_config(suite, processor, names), seed=changes.get("seed", 0))
    settings = TrainingSettings(**{"num_epochs": 1, "batch_size": 16, **changes})
    chosen = {task: data[task] for task in names}
    return MultitaskTrainer(model, processor, chosen, metric_names(suite), settings)


# The metric


def test_recall_worked_out_by_hand() -> None:
    # Queries along 0, 10, 90 degrees; candidates along 0, 90, 100.
    def at(*degrees: float) -> np.ndarray:
        return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    first, second = at(0, 10, 90), at(0, 90, 100)
    items = np.array([0, 1, 2])
    # 0 finds 0 at once. 10 ranks 0, 90, 100, and is looking for 90. 90 ranks 90, 100, and is looking for 100.
    assert retrieval_ranks(items, first, second).tolist() == [0, 1, 1]
    # Back: 0 ranks 0 first; 90 ranks 90 (item 2) before 10; 100 finds 90 at once.
    assert retrieval_ranks(items, second, first).tolist() == [0, 1, 0]
    pairs = np.concatenate([first, second], axis=1)
    assert METRICS["recall_at_1"].function(items, pairs) == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert METRICS["recall_at_5"].function(items, pairs) == 1.0
    # One right one among several is enough.
    assert retrieval_ranks(np.array([0, 1, 1]), first, second).tolist() == [0, 1, 0]


def test_embeddings_that_are_all_the_same_find_nothing() -> None:
    same = np.ones((12, 2))
    assert METRICS["recall_at_10"].function(np.arange(12), np.concatenate([same, same], axis=1)) == 0.0
    assert math.isnan(METRICS["recall_at_1"].function(np.zeros(12), np.concatenate([same, same], axis=1)))


def test_a_large_split_is_searched_piece_by_piece_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items, (first, second) = rng.integers(0, 9, 30), rng.normal(size=(2, 30, 4))
    whole = retrieval_ranks(items, first, second)
    monkeypatch.setattr("highmmt.train.metrics._QUERIES", 7)
    assert (retrieval_ranks(items, first, second) == whole).all()


# Evaluation


def test_a_retrieval_is_judged_on_the_whole_split_whatever_the_batches(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    small, large = (trainer_of(suite, processor, data, ["find"], eval_batch_size=size) for size in (5, 256))
    found, expected = small.evaluate("test")["find"], large.evaluate("test")["find"]
    assert found == pytest.approx(expected, rel=1e-4)
    embeddings, labels = large.predict("find", "test")
    assert embeddings.shape == (20, 16)
    # Row 3 has no spectrum; every eighth is of the next one's item.
    assert labels[3] == -100 and (labels == -100).sum() == 1
    assert labels[0] == labels[1] and labels[8] == labels[9] and len(labels.unique()) == 20 - 3
    known = labels != -100
    value = METRICS["recall_at_5"].function(labels[known].numpy(), embeddings[known].double().numpy())
    assert found["recall_at_5"] == pytest.approx(value)


def test_the_loss_of_a_retrieval_is_that_of_chunks_as_large_as_a_training_step(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    whole = trainer_of(suite, processor, data, ["find"], batch_size=20)
    embeddings, labels = whole.predict("find", "test")
    with torch.no_grad():
        logits = whole.model.heads["find"](embeddings)
    assert whole.evaluate("test")["find"]["loss"] == pytest.approx(float(retrieval_loss(logits, labels)), rel=1e-5)
    # Fewer candidates to tell apart cost less; one alone costs nothing.
    halves, alone = (trainer_of(suite, processor, data, ["find"], batch_size=size) for size in (10, 1))
    assert 0 < halves.evaluate("test")["find"]["loss"] < whole.evaluate("test")["find"]["loss"]
    assert alone.evaluate("test")["find"]["loss"] == 0


def test_sequences_are_judged_on_labelled_steps_in_their_own_unit(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    trainer = trainer_of(suite, processor, data, ["walk", "phase"])
    with torch.no_grad():
        for head in trainer.model.heads.values():
            head.classifier.weight.zero_()
            head.classifier.bias.zero_()
        trainer.model.heads["phase"].classifier.bias[::2] = 1.0  # "up" at every step
    values = trainer.evaluate("test")

    def steps(task: str, split: str) -> list[Any]:
        column = suite.load(task)[split][suite.task(task).target["column"]]
        return [step for row in column if row is not None for step in row if step is not None]

    train, test = np.array(steps("walk", "train")), np.array(steps("walk", "test"))
    assert values["walk"]["rmse"] == pytest.approx(float(np.sqrt(((test - train.mean(0)) ** 2).mean())), rel=1e-5)
    said = steps("phase", "test")
    assert values["phase"]["accuracy"] == pytest.approx(said.count("up") / len(said))
    share = said.count("up") / len(said)
    expected = share * math.log(1 + math.exp(-1)) + (1 - share) * math.log(1 + math.e)
    assert values["phase"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_split_without_any_label_is_refused_by_name(suite: Suite, processor: HighMMTProcessor, data: dict) -> None:
    rows = data["phase"]["test"].map(lambda row: {"labels": [-100] * 3})
    trainer = trainer_of(suite, processor, {"phase": {**data["phase"], "test": rows}}, ["phase"])
    with pytest.raises(ValueError, match="Task 'phase': no row of the test split has a label"):
        trainer.evaluate("test")


# Training


def test_all_types_learn_what_is_planted_side_by_side(suite: Suite, processor: HighMMTProcessor, data: dict) -> None:
    trainer = trainer_of(suite, processor, data, num_epochs=15, learning_rate=0.02, seed=10)
    before = trainer.evaluate("test")
    trainer.train()
    after = trainer.evaluate("test")
    chance = 5 / 19  # one of 19 candidates
    assert before["find"]["recall_at_5"] < 2 * chance
    assert after["find"]["recall_at_5"] > 0.7
    assert after["walk"]["rmse"] < 0.8 * before["walk"]["rmse"]
    assert after["phase"]["accuracy"] > 0.75
    assert after["kind"]["accuracy"] > 0.9


def test_a_step_without_any_label_of_a_task_leaves_its_loss_at_zero(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    model = build_model(build_config(suite, processor), seed=0)
    batch = processor.collate("walk", data["walk"]["train"].with_format("arrow")[:6])
    batch.pop("row")
    output = model(inputs=batch["inputs"], attention_mask=batch["attention_mask"])
    logits, labels = output.logits["walk"], batch["labels"]["walk"]
    assert logits.shape == labels.shape == (6, 4, 2)
    known = ~torch.isnan(labels)
    assert known.sum() == 2 * (1 + 1 + 0 + 4 + 1 + 2)
    loss = task_loss("walk", model.config.tasks["walk"], logits, labels)
    torch.testing.assert_close(loss, (logits[known] - labels[known]).square().mean())
    assert task_loss("walk", model.config.tasks["walk"], logits[2:3], labels[2:3]).item() == 0
