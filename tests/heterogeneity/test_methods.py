"""What is measured: the task's metric in place of its loss, and the two measures that the paper compares with."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from highmmt.heterogeneity import (
    HeterogeneityMatrix,
    HeterogeneitySettings,
    TransferMeasurement,
    measure_heterogeneity,
)
from highmmt.heterogeneity.baselines import _mean_features, train_jointly
from highmmt.suites import Suite
from highmmt.train import MultitaskTrainer, TrainingSettings, encode_suite, metric_names

FAST = HeterogeneitySettings(num_steps=3, num_evaluations=1, batch_size=6, share=1.0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Any, Any]:
    """A suite of classes, numbers and labels, its processor and its data."""
    spec = importlib.util.spec_from_file_location("tiny_suite", root / "tests" / "train" / "tiny_suite.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    suite = module.tiny_suite(tmp_path_factory.mktemp("rows"))
    processor = suite.build_processor()
    return suite, processor, encode_suite(suite, processor)


@pytest.fixture
def measure(prepared: tuple[Suite, Any, Any], tmp_path: Path) -> Callable[..., HeterogeneityMatrix]:
    def make(kind: Any = "unimodal", folder: str = "runs", **changes: Any) -> HeterogeneityMatrix:
        return measure_heterogeneity(*prepared, kind, dataclasses.replace(FAST, **changes), tmp_path / folder)

    return make


def test_metrics_are_compared_in_percentage_points(
    measure: Callable[..., HeterogeneityMatrix], prepared: tuple[Suite, Any, Any]
) -> None:
    matrix = measure(loss_scale="metric")
    for run, [value] in matrix.losses["transfer"].items():
        source, target = run.split("->")
        factor = 100 / matrix.losses["null"][target] if target.startswith("arm/") else -100
        expected = factor * (value - matrix.losses["scratch"][target][0])
        assert matrix.transfer[matrix.nodes.index(source), matrix.nodes.index(target)] == pytest.approx(expected)
    # Accuracy over 12 rows, RMSE in the target's own unit: the constant's is the deviation of the coordinates.
    shares = [value * 12 for run, [value] in matrix.losses["transfer"].items() if "->shapes" in run]
    assert np.allclose(shares, np.round(shares)) and 0 <= min(shares) <= max(shares) <= 12
    suite, processor, _ = prepared
    train, validation = (np.array(suite.load("arm")[split]["position"]) for split in ("train", "validation"))
    assert matrix.losses["null"]["arm/table"] == pytest.approx(((validation - train.mean(0)) ** 2).mean() ** 0.5)


def test_the_metric_of_a_run_is_the_one_that_a_trainer_computes(
    prepared: tuple[Suite, Any, Any], tmp_path: Path
) -> None:
    suite, processor, data = prepared
    settings = dataclasses.replace(FAST, loss_scale="metric", learning_rate=1e-30, weight_decay=0.0)
    made = TransferMeasurement(suite, processor, data, "unimodal", settings, tmp_path)
    for node in ("shapes/table", "arm/table", "tone/spectrum"):
        task = node.split("/")[0]
        outcome = made._train(node, 3, [{}], keep=True)
        model = made._model(node, 3)
        model.load_state_dict(outcome.state)
        names = {task: metric_names(suite)[task]}
        reader: Any = _OneModality(processor, node)
        trainer = MultitaskTrainer(model, reader, {task: data[task]}, names, TrainingSettings())
        rows = data[task]["validation"].remove_columns(
            [name for name in suite.task(task).modalities if name != node.split("/")[1]]
        )
        assert rows.num_rows == len(data[task]["validation"])
        assert outcome.losses == pytest.approx([trainer.evaluate()[task][names[task]]])


class _OneModality:
    """A processor that collates one modality."""

    def __init__(self, processor: Any, node: str) -> None:
        self.processor, self.node = processor, node
        self.rescale_target = processor.rescale_target

    def collate(self, task: str, rows: Any) -> Any:
        return self.processor.collate(task, rows, modalities=[self.node.split("/")[1]])


def test_the_best_metric_counts_in_its_own_direction(prepared: tuple[Suite, Any, Any], tmp_path: Path) -> None:
    suite, processor, data = prepared
    settings = dataclasses.replace(FAST, loss_scale="metric", num_steps=6, num_evaluations=6, learning_rate=0.05)
    made = TransferMeasurement(suite, processor, data, "unimodal", settings, tmp_path)
    validate, seen = TransferMeasurement._validate, []

    def noted(*arguments: Any) -> list[float]:
        seen.append(validate(made, *arguments))
        return seen[-1]

    made._validate = noted  # type: ignore[method-assign]
    for node, best in (("shapes/table", max), ("arm/table", min)):
        del seen[:]
        found = made._train(node, 0, [{}], keep=False).losses[0]
        assert len({value for [value] in seen}) > 1
        assert found == best(value for [value] in seen)


@pytest.mark.parametrize("kind", ["unimodal", "interaction"])
def test_random_distances_know_nothing_and_train_nothing(
    measure: Callable[..., HeterogeneityMatrix], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(TransferMeasurement, "_train", None)
    matrix, again = measure(kind, method="random", num_seeds=2), measure(kind, "again", method="random", num_seeds=2)
    assert matrix == again
    other = measure(kind, "other", method="random", num_seeds=2, seed=7)
    assert not np.allclose(matrix.values, other.values)
    upper = matrix.values[np.triu_indices(len(matrix.nodes), 1)]
    assert ((upper > 0) & (upper < 1)).all()
    assert np.isfinite(matrix.standard_errors).all() and np.isnan(matrix.transfer).any()


@pytest.mark.parametrize("kind", ["unimodal", "interaction"])
def test_feature_distances_are_squared_differences_of_mean_features(
    measure: Callable[..., HeterogeneityMatrix],
    prepared: tuple[Suite, Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
) -> None:
    found = {}

    def noted(model: Any, *arguments: Any) -> Any:
        found[arguments[-1]] = _mean_features(model, *arguments)
        models.append(model)
        return found[arguments[-1]]

    models: list[Any] = []
    monkeypatch.setattr("highmmt.heterogeneity.baselines._mean_features", noted)
    matrix = measure(kind, method="feature")
    for i, first in enumerate(matrix.nodes):
        for j, second in enumerate(matrix.nodes):
            assert matrix.values[i, j] == pytest.approx(((found[first] - found[second]) ** 2).sum(), abs=1e-9)
    assert matrix.values.max() > 0
    suite, processor, data = prepared
    table = data["arm"]["validation"].with_format("arrow")[:]
    present = table.take([row for row, series in enumerate(table["series"].to_pylist()) if series])
    batch = processor.collate("arm", present)
    batch.pop("row")
    with torch.no_grad():
        output = models[0](**batch)
    if kind == "unimodal":
        expected, node = output.unimodal_states["arm"]["series"].mean(0).flatten(), "arm/series"
    else:
        expected, node = output.multimodal_states["arm"].mean(0).unflatten(0, (2, -1)).sum(0), "arm/series+table"
    assert found[node] == pytest.approx(expected.double().numpy(), abs=1e-5)


def test_a_joint_model_that_diverges_is_an_error(measure: Callable[..., HeterogeneityMatrix]) -> None:
    with pytest.raises(FloatingPointError, match="joint model's training loss of step .* shapes.* learning_rate"):
        measure(method="feature", learning_rate=1e30)


def test_the_task_by_which_a_joint_model_diverges_is_named(
    prepared: tuple[Suite, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, processor, data = prepared
    collate = type(processor).collate

    def broken(self: Any, task: str, *arguments: Any, **options: Any) -> Any:
        batch = collate(self, task, *arguments, **options)
        if task == "arm" and len(batch["labels"]["arm"]) == FAST.batch_size:
            batch["labels"]["arm"] = batch["labels"]["arm"] * 1e30
        return batch

    monkeypatch.setattr(type(processor), "collate", broken)
    settings = dataclasses.replace(FAST, method="feature")
    with pytest.raises(FloatingPointError, match=r"loss of step 1 is inf, by the task arm\. Lower"):
        train_jointly(suite, processor, data, settings, 0, lambda steps: None)


def test_without_an_interaction_no_joint_model_is_trained(prepared: tuple[Suite, Any, Any], tmp_path: Path) -> None:
    suite, processor, data = prepared
    settings, advanced = dataclasses.replace(FAST, method="feature"), []
    rows = data["arm"]["validation"]
    without = rows.select([number for number, series in enumerate(rows["series"]) if not series])
    changed = {**data, "arm": {**data["arm"], "validation": without}}
    matrix = measure_heterogeneity(
        suite.select(["arm", "tone"]), processor, changed, "interaction", settings, tmp_path, advanced.append
    )
    assert matrix.nodes == [] and list(matrix.excluded) == ["arm/series+table"]
    assert sum(advanced) == settings.num_steps and not list(tmp_path.rglob("*.safetensors"))


def test_a_task_that_cannot_be_measured_has_no_part_in_the_joint_model(
    prepared: tuple[Suite, Any, Any], tmp_path: Path
) -> None:
    suite, processor, data = prepared
    rows = data["shapes"]["validation"]
    same = rows.select([number for number, label in enumerate(rows["labels"]) if label == rows["labels"][0]])
    changed = {**data, "shapes": {**data["shapes"], "validation": same}}
    settings = dataclasses.replace(FAST, method="feature")
    found = measure_heterogeneity(suite, processor, changed, "unimodal", settings, tmp_path / "all")
    part = suite.select([task for task in suite.tasks if task != "shapes"])
    alone = measure_heterogeneity(part, processor, data, "unimodal", settings, tmp_path / "part")
    assert list(found.excluded) == ["shapes/spectrum", "shapes/table"]
    assert found.nodes == alone.nodes and found.values == pytest.approx(alone.values)
    # One joint model serves both matrices here, too.
    advanced: list[int] = []
    both = measure_heterogeneity(suite, processor, changed, "interaction", settings, tmp_path / "all", advanced.append)
    assert both.nodes == ["arm/series+table"] and sum(advanced) == settings.num_steps
    assert (tmp_path / "all" / "joint-runs.jsonl").read_text().count("\n") == 2


def test_joint_models_are_trained_once_for_both_matrices_and_kept(
    measure: Callable[..., HeterogeneityMatrix], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[int] = []

    def counted(*arguments: Any) -> Any:
        if stop_at is not None and len(trained) >= stop_at:
            raise KeyboardInterrupt
        trained.append(arguments[4])
        return train_jointly(*arguments)

    monkeypatch.setattr("highmmt.heterogeneity.baselines.train_jointly", counted)
    stop_at: int | None = None
    whole = [measure(kind, "whole", method="feature", num_seeds=3) for kind in ("unimodal", "interaction")]
    assert trained == [0, 1, 2]
    stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        measure(method="feature", num_seeds=3)
    assert trained[3:] == [0, 1]
    stop_at = None
    assert [measure(kind, method="feature", num_seeds=3) for kind in ("unimodal", "interaction")] == whole
    assert trained[3:] == [0, 1, 2]
    (tmp_path / "runs" / "joint-models" / "seed1.safetensors").unlink()
    assert measure(method="feature", num_seeds=3) == whole[0]
    assert trained[6:] == [1]


def test_joint_models_of_other_settings_are_refused(measure: Callable[..., HeterogeneityMatrix]) -> None:
    measure(method="feature")
    with pytest.raises(ValueError, match="-runs.jsonl holds runs of another suite, other settings"):
        measure("interaction", method="feature", num_steps=4)
