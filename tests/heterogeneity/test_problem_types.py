"""Heterogeneity of retrievals and of sequences of targets: what a node's run is, and what there is to learn."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from highmmt.heterogeneity import HeterogeneitySettings, TransferMeasurement, measure_heterogeneity
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import encode_suite

FAST = HeterogeneitySettings(num_steps=2, num_evaluations=1, batch_size=8, share=0.4)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def suite(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return _load(root / "tests" / "train" / "mixed_suite.py").mixed_suite(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def processor(suite: Suite) -> HighMMTProcessor:
    return suite.build_processor()


@pytest.fixture(scope="module")
def data(suite: Suite, processor: HighMMTProcessor) -> dict[str, dict[str, Any]]:
    return encode_suite(suite, processor)


def test_both_matrices_of_a_suite_of_all_types(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    unimodal = measure_heterogeneity(suite, processor, data, "unimodal", FAST, tmp_path)
    assert unimodal.nodes == [
        "find/table",
        "find/spectrum",
        "walk/table",
        "phase/spectrum",
        "kind/spectrum",
        "kind/table",
    ]
    assert np.isfinite(unimodal.values).all()
    interaction = measure_heterogeneity(suite, processor, data, "interaction", FAST, tmp_path)
    assert interaction.nodes == ["kind/spectrum+table"]


def test_a_retrieval_is_compared_by_its_recall_in_percentage_points(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    settings = dataclasses.replace(FAST, loss_scale="metric", share=1.0)
    matrix = measure_heterogeneity(suite, processor, data, "unimodal", settings, tmp_path)
    assert matrix.nodes[:2] == ["find/table", "find/spectrum"] and np.isfinite(matrix.values).all()
    target = matrix.nodes.index("find/table")
    [scratch] = matrix.losses["scratch"]["find/table"]
    assert 0 <= scratch <= 1 and matrix.losses["null"]["find/table"] == 0
    for source, node in enumerate(matrix.nodes):
        if source != target:
            [after] = matrix.losses["transfer"][f"{node}->find/table"]
            assert matrix.transfer[source, target] == pytest.approx(100 * (scratch - after))


def test_features_of_a_retrieval_are_those_of_its_own_encoders(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    settings = dataclasses.replace(FAST, method="feature")
    matrix = measure_heterogeneity(suite, processor, data, "unimodal", settings, tmp_path)
    assert matrix.nodes[:2] == ["find/table", "find/spectrum"] and len(matrix.nodes) == 6
    assert (matrix.values[~np.eye(6, dtype=bool)] > 0).all() and matrix.num_measured == 15


def test_a_node_of_a_retrieval_transfers_its_own_encoder_and_its_partner_is_always_new(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    made = TransferMeasurement(suite, processor, data, "unimodal", FAST, tmp_path)
    for node, partner in (("find/table", "find/spectrum"), ("find/spectrum", "find/table")):
        model = made._model(node, 0)
        assert model.config.groups().unimodal == {node: 0, partner: 1}
        made.train_from_scratch([node, "walk/table"], [0])
        source = load_file(made._source_path(node, 0))
        assert {name.split(".")[1] for name in source if name.startswith("unimodal_groups")} == {"0"}
        # What was trained is what a run on another node starts from.
        fresh = made._model("walk/table", 0).state_dict()
        assert source.keys() == {name for name in fresh if not name.startswith("heads.")}
        assert not torch.equal(source["unimodal_groups.0.latents"], fresh["unimodal_groups.0.latents"])
        made.transfer([(node, "walk/table"), ("walk/table", node)], [0])
        assert math.isfinite(made.transfer_loss(node, "walk/table", 0))
        assert made.transfer_loss("walk/table", node, 0) != made.scratch_loss(node, 0)


def test_rows_without_the_partner_take_no_part(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    made = TransferMeasurement(suite, processor, data, "unimodal", FAST, tmp_path)
    assert len(made._row_numbers("find/table", "validation")) == 24 - 1


def test_chance_is_what_there_is_to_learn_of_a_retrieval(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TransferMeasurement(suite, processor, data, "unimodal", FAST, tmp_path)
    assert made.null_loss("find/table") == pytest.approx(math.log(23))
    # Compared with as many as a validation loss is taken over.
    monkeypatch.setattr("highmmt.heterogeneity.transfer.VALIDATION_BATCH_SIZE", 10)
    assert made.null_loss("find/table") == pytest.approx((20 * math.log(10) + 3 * math.log(3)) / 23)


def test_the_best_constant_of_a_sequence_is_one_for_each_step(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    made = TransferMeasurement(suite, processor, data, "unimodal", FAST, tmp_path)

    def steps(task: str, split: str, step: int) -> list[Any]:
        rows = suite.load(task)[split][suite.task(task).target["column"]]
        return [row[step] for row in rows if row is not None and len(row) > step and row[step] is not None]

    costs: list[float] = []
    for step in range(3):
        up = np.mean([entry == "up" for entry in steps("phase", "train", step)])
        costs += [-math.log(up if entry == "up" else 1 - up) for entry in steps("phase", "validation", step)]
    assert made.null_loss("phase/spectrum") == pytest.approx(np.mean(costs), rel=1e-5)

    scale = np.concatenate([steps("walk", "train", step) for step in range(4)]).std(0)
    squares: list[Any] = []
    for step in range(4):
        mean = np.mean(steps("walk", "train", step), axis=0)
        squares += [((np.array(place) - mean) / scale) ** 2 for place in steps("walk", "validation", step)]
    assert made.null_loss("walk/table") == pytest.approx(np.mean(squares), rel=1e-5)
