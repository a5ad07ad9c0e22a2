"""The paper's suites and all recipes on twins, from raw files to the metric of every task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from highmmt.configuration import ParameterGroups
from highmmt.suites import Suite, load_suite
from highmmt.training import METRICS_FILE, RECIPES, RecipeOptions, train_recipe

NEED_HDF5 = ("small", "medium")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the builders make, 16 rows of each split at most, evenly spaced."""
    load = Suite.load

    def some(self: Suite, task: str) -> DatasetDict:
        rows = load(self, task)
        return DatasetDict({split: one.select(range(0, len(one), -(-len(one) // 16))) for split, one in rows.items()})

    monkeypatch.setattr(Suite, "load", some)


def trained(suite: Suite, folder: Path, recipe: str, **options: Any) -> dict[str, tuple[str, float]]:
    return train_recipe(suite, folder, RecipeOptions(recipe, quick=True, **options)).scores


def metrics_of(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["test"]
    assert all(math.isfinite(value) for value in found.values())
    return found


@pytest.mark.parametrize("name", ["small", "medium", "large", "retrieval"])
def test_every_suite_goes_from_raw_files_to_the_metric_of_every_task(twins: Path, tmp_path: Path, name: str) -> None:
    if name in NEED_HDF5:
        pytest.importorskip("h5py")
    suite = load_suite(f"multibench-{name}", data_dir=twins)
    scores = trained(suite, tmp_path, "pretrain")
    assert set(metrics_of(tmp_path / "pretrained")) == set(suite.tasks)
    assert {task: metric for task, (metric, _) in scores.items()} == {
        task: spec.metric for task, spec in suite.tasks.items()
    }


def test_every_other_recipe_goes_from_raw_files_to_metrics(twins: Path, tmp_path: Path) -> None:
    suite = load_suite("multibench-retrieval", data_dir=twins)
    groups = ParameterGroups.share_none(suite.modality_task_pairs(), suite.interactions())
    (tmp_path / "groups.json").write_text(json.dumps(groups.to_dict()), encoding="utf-8")
    made = {
        "pretrain": {"pretrained": set(suite.tasks)},
        "finetune": {"finetuned": set(suite.tasks)},
        "single_task": {f"single_task/{task}": {task} for task in suite.tasks},
        "transfer": {"transfer/avmnist": {"avmnist"}},
        "few_shot": {"few_shot/cifar_esc": {"cifar_esc"}},
        "retrieval": {"retrieval": {"cifar_esc", "cifar_esc-retrieval", "avmnist", "avmnist-retrieval"}},
    }
    assert set(made) == set(RECIPES)
    for recipe, folders in made.items():
        target = {"transfer": "avmnist", "few_shot": "cifar_esc"}.get(recipe)
        file = tmp_path / "groups.json" if recipe == "finetune" else None
        trained(suite, tmp_path / "run", recipe, target=target, groups=file, share=0.5)
        for folder, tasks in folders.items():
            assert set(metrics_of(tmp_path / "run" / folder)) == tasks


# --- All that the tables' suites do not predict ----------------------------------------------------------------------

TARGETS = [
    ("large", "mimic", {"column": "mortality", "classes": [f"group {number}" for number in range(6)]}, {}),
    ("large", "mosei", {"column": "sentiment", "problem_type": "regression"}, {}),
    ("small", "vision_touch", {"column": "pose", "problem_type": "regression"}, {}),
    ("small", "push", {"column": "state", "problem_type": "regression", "names": ["x", "y"]}, {}),
    ("retrieval", "cifar_esc", {"column": "concept", "problem_type": "retrieval"}, {"pairs": False}),
    ("retrieval", "cifar_esc", {"column": "concept", "classes": [f"class {number}" for number in range(17)]}, {}),
]
METRIC = {"single_label_classification": "accuracy", "regression": "r2", "retrieval": "recall_at_10"}


@pytest.mark.parametrize(("name", "task", "target", "options"), TARGETS)
def test_every_other_target_of_the_builders_reaches_a_metric(
    twins: Path, tmp_path: Path, name: str, task: str, target: dict[str, Any], options: dict[str, Any]
) -> None:
    if name in NEED_HDF5:
        pytest.importorskip("h5py")
    values = load_suite(f"multibench-{name}", data_dir=twins).select([task]).to_dict()
    target = {"problem_type": "single_label_classification", **target}
    values["tasks"][task] |= {"target": target, "metric": METRIC[target["problem_type"]]}
    values["tasks"][task]["source"] |= options
    trained(Suite.from_dict(values), tmp_path, "pretrain")
    assert set(metrics_of(tmp_path / "pretrained")) == {task}
