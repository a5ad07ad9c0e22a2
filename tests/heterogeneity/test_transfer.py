"""Measuring heterogeneity: what a run is, what transfers, and a sweep that is killed, resumed or misused."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from highmmt.heterogeneity import (
    HeterogeneityMatrix,
    HeterogeneitySettings,
    TransferMeasurement,
    finished_steps,
    measure_heterogeneity,
)
from highmmt.heterogeneity.transfer import Job, share_out
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import StaggeredSchedule, build_config, build_model, encode_suite

FAST = HeterogeneitySettings(num_steps=4, num_evaluations=2, batch_size=6, share=0.5)
UNIMODAL = ["shapes/spectrum", "shapes/table", "arm/series", "arm/table", "tone/spectrum"]
INTERACTIONS = ["shapes/spectrum+table", "arm/series+table"]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def suite(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return _load(root / "tests" / "train" / "tiny_suite.py").tiny_suite(
        tmp_path_factory.mktemp("rows"), hidden_dropout_prob=0.1
    )


@pytest.fixture(scope="module")
def processor(suite: Suite) -> HighMMTProcessor:
    return suite.build_processor()


@pytest.fixture(scope="module")
def data(suite: Suite, processor: HighMMTProcessor) -> dict[str, dict[str, Any]]:
    return encode_suite(suite, processor)


@pytest.fixture
def measurement(suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path) -> Callable[..., Any]:
    """A function that starts a measurement: `measurement("interaction", num_steps=8)`."""

    def make(kind: Any = "unimodal", folder: str = "runs", **changes: Any) -> TransferMeasurement:
        return TransferMeasurement(
            suite, processor, data, kind, dataclasses.replace(FAST, **changes), tmp_path / folder
        )

    return make


@pytest.fixture
def measure(suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path) -> Callable[..., Any]:
    """A function that measures a whole matrix."""

    def make(kind: Any = "unimodal", folder: str = "runs", **changes: Any) -> HeterogeneityMatrix:
        settings = dataclasses.replace(FAST, **changes)
        return measure_heterogeneity(suite, processor, data, kind, settings, tmp_path / folder)

    return make


def scratch(made: TransferMeasurement, node: str, seed: int) -> float:
    """The result of one run from scratch."""
    made.train_from_scratch([node], [seed])
    return made.scratch_loss(node, seed)


def transfer(made: TransferMeasurement, source: str, target: str, seed: int) -> float:
    """The result of one transfer, its source trained if need be."""
    scratch(made, source, seed)
    made.transfer([(source, target)], [seed])
    return made.transfer_loss(source, target, seed)


def learned(
    made: TransferMeasurement, node: str, seed: int, start: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights of one run that were best."""
    state = made._train(node, seed, [start], keep=True).state
    assert state is not None
    return state


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are really made, in order."""
    made: list[str] = []
    train = TransferMeasurement._train

    def counted(self: TransferMeasurement, node: str, seed: int, starts: Any, **options: Any) -> Any:
        result = train(self, node, seed, starts, **options)
        made.extend([f"{'transfer to ' if starts[0] else ''}{node}#{seed}"] * len(starts))
        return result

    monkeypatch.setattr(TransferMeasurement, "_train", counted)
    return made


# What a matrix is


def test_a_unimodal_matrix_of_classes_numbers_and_labels_is_a_distance_matrix(measure: Callable[..., Any]) -> None:
    matrix = measure()
    assert matrix.nodes == UNIMODAL
    assert np.isfinite(matrix.values).all() and (matrix.values >= 0).all()
    assert (np.diagonal(matrix.values) == 0).all() and (np.diagonal(matrix.transfer) == 0).all()
    assert (matrix.values == matrix.values.T).all()
    assert matrix.num_measured == 5  # half of the 10 pairs
    measured = matrix.measured
    positive = np.maximum(matrix.transfer, 0)
    assert matrix.values[measured] == pytest.approx((positive + positive.T)[measured])
    assert np.isnan(matrix.standard_errors[measured]).all()  # one seed says nothing about the error


def test_transfers_are_losses_of_the_target_in_units_of_its_null_loss(measure: Callable[..., Any]) -> None:
    for scale in ("null", "none"):
        matrix = measure(folder=scale, loss_scale=scale, num_steps=1)
        assert len(matrix.losses["transfer"]) == 2 * matrix.num_measured
        for run, [loss] in matrix.losses["transfer"].items():
            source, target = run.split("->")
            unit = matrix.losses["null"][target] if scale == "null" else 1.0
            expected = (loss - matrix.losses["scratch"][target][0]) / unit
            found = matrix.transfer[matrix.nodes.index(source), matrix.nodes.index(target)]
            assert found == pytest.approx(expected)


def test_a_share_of_one_measures_every_pair(measure: Callable[..., Any]) -> None:
    matrix = measure(share=1.0, num_steps=1)
    assert matrix.num_measured == 10
    assert np.isfinite(matrix.transfer).all()


def test_two_seeds_give_standard_errors(measure: Callable[..., Any]) -> None:
    matrix = measure("interaction", num_seeds=2)
    assert matrix.nodes == INTERACTIONS
    assert matrix.num_measured == 1
    assert np.isfinite(matrix.standard_errors).all() and matrix.standard_errors[0, 1] >= 0
    first, second = matrix.losses["scratch"]["arm/series+table"]
    assert first != second
    assert [len(losses) for losses in matrix.losses["transfer"].values()] == [2, 2]


def test_a_matrix_survives_its_file(measure: Callable[..., Any], tmp_path: Path) -> None:
    matrix = measure("interaction")
    matrix.to_json_file(tmp_path / "interaction.json")
    assert HeterogeneityMatrix.from_json_file(tmp_path / "interaction.json") == matrix
    assert matrix.settings == FAST.to_dict()


def test_a_suite_without_interactions_has_an_empty_matrix(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    matrix = measure_heterogeneity(suite.select(["tone"]), processor, data, "interaction", FAST, tmp_path)
    assert (matrix.nodes, matrix.values.shape) == ([], (0, 0))


def test_one_node_alone_is_at_no_distance(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    matrix = measure_heterogeneity(suite.select(["tone"]), processor, data, "unimodal", FAST, tmp_path)
    assert matrix.values.tolist() == [[0.0]]


# What a run is


def test_a_run_from_scratch_is_plain_training_on_the_rows_that_have_the_input(
    suite: Suite, processor: HighMMTProcessor, data: dict, measurement: Callable[..., Any]
) -> None:
    modality, task = "series", "arm"
    config = build_config(suite, processor)
    config.tasks = {task: dataclasses.replace(config.tasks[task], modalities=[modality])}
    model = build_model(type(config)(**config.to_dict()), seed=2)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=FAST.learning_rate, weight_decay=FAST.weight_decay, fused=True
    )
    rows = {}
    for split in ("train", "validation"):
        table = data[task][split].with_format("arrow")[:]
        rows[split] = table.take([row for row, series in enumerate(table[modality].to_pylist()) if series])
    assert len(rows["train"]) < len(data[task]["train"])
    schedule = StaggeredSchedule({task: len(rows["train"])}, {task: FAST.batch_size}, seed=2)
    order = [step[task] for epoch in range(4) for step in schedule.epoch(epoch)][: FAST.num_steps]
    losses = []
    torch.manual_seed(2)
    for numbers in order:
        model.train()
        batch = processor.collate(task, rows["train"].take(numbers), modalities=[modality])
        del batch["row"]
        loss = model(**batch).loss / config.tasks[task].loss_weight
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.eval()
        batch = processor.collate(task, rows["validation"], modalities=[modality])
        del batch["row"]
        with torch.no_grad():
            losses.append(float(model(**batch).losses[task]))
    found = scratch(measurement(), "arm/series", 2)
    assert found == pytest.approx(min(losses[1], losses[3]), rel=1e-5)


def test_a_run_is_the_same_whenever_it_is_made(measurement: Callable[..., Any]) -> None:
    first, second = measurement(folder="first"), measurement(folder="second")
    transfer(first, "tone/spectrum", "shapes/table", 0)
    torch.manual_seed(5)
    for node in UNIMODAL[:2]:
        assert scratch(first, node, 0) == scratch(second, node, 0)


def test_runs_side_by_side_give_what_each_gives_alone(measurement: Callable[..., Any], calls: list[str]) -> None:
    """Dropout, batch norm, clipping and AdamW included."""
    target, sources = "arm/table", ["shapes/spectrum", "shapes/table", "arm/series", "tone/spectrum"]
    together, alone = measurement(folder="together"), measurement(folder="alone")
    together.train_from_scratch(sources, [0])
    del calls[:]
    together.transfer([(source, target) for source in sources], [0])
    assert calls == ["transfer to arm/table#0"] * 4
    found = [together.transfer_loss(source, target, 0) for source in sources]
    # Adam makes whole steps of gradients that are rounding alone, such as those of biases before a batch norm.
    assert found == pytest.approx([transfer(alone, source, target, 0) for source in sources], rel=5e-4)
    # Far more than the tolerance: no two runs are mixed up.
    assert min(abs(one - other) for one, other in itertools.combinations(found, 2)) > 2e-3


def test_the_gradient_of_each_model_is_cut_to_a_norm_of_its_own(measurement: Callable[..., Any]) -> None:
    made = measurement()
    starts = [made._model("arm/table", seed).state_dict() for seed in (1, 2)]
    batch = made._batch("arm/table", "train", np.arange(6))
    batch["labels"]["arm"] = 10 * batch["labels"]["arm"]
    stack = made._stack("arm/table", 0, starts)
    torch.manual_seed(0)
    stack.train_step(batch)
    for index, start in enumerate(starts):
        model = made._model("arm/table", 0).train()
        model.load_state_dict(start)
        torch.manual_seed(0)
        model(**batch).losses["arm"].backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1.0
        for name, parameter in model.named_parameters():
            assert torch.allclose(stack.parameters[name].grad[index], parameter.grad, rtol=1e-4, atol=1e-6)


def test_more_runs_than_fit_one_stack_are_divided(
    measurement: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sources = "tone/spectrum", UNIMODAL[:4]
    whole, parted = measurement(folder="whole"), measurement(folder="parted")
    sizes, train = [], TransferMeasurement._train

    def counted(self: TransferMeasurement, node: str, seed: int, starts: Any, **options: Any) -> Any:
        sizes.append(len(starts))
        return train(self, node, seed, starts, **options)

    monkeypatch.setattr(TransferMeasurement, "_train", counted)
    for made, most in ((whole, 20), (parted, 3)):
        monkeypatch.setattr("highmmt.heterogeneity.transfer.MAX_STACKED", most)
        made.train_from_scratch(sources, [0])
        made.transfer([(source, target) for source in sources], [0])
    assert [size for size in sizes if size > 1] == [4, 2, 2]
    results = [[made.transfer_loss(source, target, 0) for source in sources] for made in (whole, parted)]
    assert results[0] == pytest.approx(results[1], rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 6},
        {"num_evaluations": 1},
        {"batch_size": 5},
        {"learning_rate": 4e-3},
        {"weight_decay": 0.9},
    ],
)
def test_every_setting_of_a_run_changes_it(measurement: Callable[..., Any], change: dict[str, Any]) -> None:
    # At this rate the loss is lowest in the middle, so that looking once finds another.
    base = {"learning_rate": 0.2} if "num_evaluations" in change else {}
    losses = [
        [scratch(made, node, 0) for node in UNIMODAL]
        for made in (measurement(folder="base", **base), measurement(folder="changed", **{**base, **change}))
    ]
    assert losses[0] != losses[1]


def test_the_seed_of_a_run_changes_it(measurement: Callable[..., Any]) -> None:
    made = measurement()
    assert scratch(made, "tone/spectrum", 0) != scratch(made, "tone/spectrum", 1)


# What transfers


@pytest.mark.parametrize(
    ("kind", "source", "target"),
    [("unimodal", "arm/series", "shapes/table"), ("interaction", "arm/series+table", "shapes/spectrum+table")],
)
def test_shared_parameters_transfer_and_the_head_does_not(
    measurement: Callable[..., Any], tmp_path: Path, kind: str, source: str, target: str
) -> None:
    trained = measurement(kind, learning_rate=0.05)
    scratch(trained, source, 0)
    [file] = (tmp_path / "runs" / f"{kind}-sources").iterdir()
    start = load_file(file)
    assert {name.split(".")[0] for name in start} == {"unimodal_groups"} | (
        {"crossmodal_groups"} if kind == "interaction" else set()
    )
    # A run that learns nothing shows what it started from.
    still = measurement(kind, folder="still", learning_rate=1e-30, weight_decay=0.0)
    after = learned(still, target, 0, start)
    fresh = still._model(target, 0).state_dict()
    for name, value in after.items():
        if name.startswith("heads."):
            assert "running" in name or "tracked" in name or torch.allclose(value, fresh[name], rtol=0, atol=1e-20)
        else:
            assert torch.equal(value, start[name])
            assert name.endswith(("norm.weight", "norm.bias")) or not torch.equal(value, fresh[name])


def test_a_transfer_is_training_on_from_the_source(measurement: Callable[..., Any]) -> None:
    made = measurement()
    found = transfer(made, "shapes/table", "tone/spectrum", 0)
    state = learned(made, "shapes/table", 0, {})
    start = {name: value for name, value in state.items() if not name.startswith("heads.")}
    assert [found] == made._train("tone/spectrum", 0, [start], keep=False).losses
    assert found != scratch(made, "tone/spectrum", 0)


def test_vectors_of_token_ids_transfer_between_texts_and_stay_new_elsewhere(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    words = ["left", "right", "up", "down"]
    rng = np.random.default_rng(0)
    tasks = {}
    for task in ("mail", "chat"):
        texts = [" ".join(rng.choice(words, 3)) for _ in range(16)]
        values = {"text": texts, "x": rng.normal(size=16).tolist(), "label": [int("left" in text) for text in texts]}
        datasets.Dataset.from_dict(values).to_parquet(tmp_path / f"{task}.parquet")
        tasks[task] = {
            "source": {"path": "parquet", "data_files": {"train": f"{task}.parquet"}},
            "splits": {"validation": 0.25, "test": 0.25},
            "modalities": {"text": "text", "table": {"columns": ["x"]}},
            "target": {"column": "label", "problem_type": "single_label_classification"},
        }
    modalities = {"text": {"kind": "text", "num_channels": 4}, "table": {"kind": "table"}}
    values = {"name": "words", "model": {"d_latents": 8}, "modalities": modalities, "tasks": tasks}
    suite = Suite.from_dict(values, tmp_path)
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    settings = dataclasses.replace(FAST, learning_rate=0.05, weight_decay=0.0)
    trained = TransferMeasurement(suite, processor, data, "unimodal", settings, tmp_path / "trained")
    still = dataclasses.replace(settings, learning_rate=1e-30)
    target = TransferMeasurement(suite, processor, data, "unimodal", still, tmp_path / "still")
    name = "token_embeddings.text.weight"
    fresh = target._model("chat/text", 0).state_dict()[name]
    for source, stays_new in (("mail/text", False), ("mail/table", True)):
        start = {key: value for key, value in learned(trained, source, 0, {}).items() if "heads" not in key}
        after = learned(target, "chat/text", 0, start)
        assert torch.equal(after[name], start[name])
        assert torch.equal(after[name], fresh) == stays_new


# The null loss


def test_the_null_loss_is_that_of_the_best_constant_worked_out_by_hand(
    suite: Suite, measurement: Callable[..., Any]
) -> None:
    made = measurement()
    splits = {task: suite.load(task) for task in suite.tasks}
    train, validation = (np.array(splits["shapes"][split]["label"]) for split in ("train", "validation"))
    shares = np.bincount(train) / len(train)
    assert made.null_loss("shapes/table") == pytest.approx(-np.log(shares[validation]).mean())

    train, validation = (np.array(splits["arm"][split]["position"]) for split in ("train", "validation"))
    scaled = (validation - train.mean(0)) / train.std(0)
    assert made.null_loss("arm/table") == pytest.approx((scaled**2).mean(), rel=1e-5)
    # Of the series only the rows count that have one, for the constant as for the error.
    has = [
        np.array([len(series) > 0 for series in splits["arm"][split]["series"]]) for split in ("train", "validation")
    ]
    scaled = (validation[has[1]] - train[has[0]].mean(0)) / train.std(0)
    assert made.null_loss("arm/series") == pytest.approx((scaled**2).mean(), rel=1e-5)

    train, validation = (np.array(splits["tone"][split]["labels"]) for split in ("train", "validation"))
    share = train.mean(0).clip(1e-3, 1 - 1e-3)
    expected = -(validation * np.log(share) + (1 - validation) * np.log(1 - share)).mean()
    assert made.null_loss("tone/spectrum") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("task", "keeps", "left_out", "reason"),
    [
        ("shapes", lambda row: row["label"] == 1, ["shapes/spectrum", "shapes/table"], "the target of the {} rows"),
        ("arm", lambda row: not row["series"], ["arm/series"], "no row of the {} split has this input"),
        ("tone", lambda row: False, ["tone/spectrum"], "no row of the {} split has this input"),
    ],
)
def test_a_node_with_nothing_to_learn_is_left_out_by_name(
    suite: Suite,
    processor: HighMMTProcessor,
    data: dict,
    tmp_path: Path,
    task: str,
    keeps: Callable[[Any], bool],
    left_out: list[str],
    reason: str,
    split: str,
) -> None:
    rows = data[task][split]
    column = "labels" if task == "shapes" else "series"
    named = {"labels": "label", "series": "series"}[column]
    chosen = [number for number in range(len(rows)) if task == "tone" or keeps({named: rows[number][column]})]
    changed = {**data, task: {**data[task], split: rows.select([] if task == "tone" else chosen)}}
    matrix = measure_heterogeneity(suite, processor, changed, "unimodal", FAST, tmp_path)
    assert list(matrix.excluded) == left_out
    assert all(text.startswith(f"{node}: {reason.format(split)}") for node, text in matrix.excluded.items())
    assert matrix.nodes == [node for node in UNIMODAL if node not in left_out]
    assert np.isfinite(matrix.values).all() and matrix.num_measured > 0


def test_a_suite_with_nothing_to_learn_is_refused(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    empty = {task: {**splits, "validation": splits["validation"].select([])} for task, splits in data.items()}
    with pytest.raises(ValueError, match="No node can be measured. shapes/spectrum: no row of the validation split"):
        measure_heterogeneity(suite, processor, empty, "unimodal", FAST, tmp_path)


# Sweeps that stop and go on


def test_a_finished_sweep_is_not_repeated_and_leaves_no_weights(
    measure: Callable[..., Any], calls: list[str], tmp_path: Path
) -> None:
    first = measure()
    assert len(calls) == 5 + 2 * 5
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["unimodal-runs.jsonl"]
    del calls[:]
    assert measure() == first
    assert calls == []


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_a_killed_sweep_resumes_and_repeats_nothing(
    measure: Callable[..., Any], calls: list[str], monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    short = {"num_steps": 1, "num_evaluations": 1}
    whole = measure(folder="whole", **short)
    expected = list(calls)
    del calls[:]
    counted = TransferMeasurement._train

    def killed(self: TransferMeasurement, *args: Any, **options: Any) -> Any:
        if len(calls) >= stop:
            raise KeyboardInterrupt
        return counted(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TransferMeasurement, "_train", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(**short)
    finished = len(calls)
    assert stop <= finished < len(expected) and calls == expected[:finished]
    assert measure(**short) == whole
    assert calls == expected


@pytest.mark.parametrize("case", ["plain", "excluded", "diverged", "lost sources", "one seed diverged"])
def test_the_steps_that_are_told_add_up_to_those_that_were_planned(
    suite: Suite,
    processor: HighMMTProcessor,
    data: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    seeds = 2 if case == "one seed diverged" else 1
    settings = dataclasses.replace(FAST, num_steps=1, num_seeds=seeds, num_evaluations=1, share=1.0)
    train, told, limit = TransferMeasurement._train, [], math.inf

    def odd(self: TransferMeasurement, node: str, seed: int, starts: Any, **options: Any) -> Any:
        if len(self.log.losses) >= limit:
            raise KeyboardInterrupt
        outcome = train(self, node, seed, starts, **options)
        if node == "arm/table" and (case == "diverged" or (case == "one seed diverged" and seed == 1)):
            outcome.losses, outcome.errors, outcome.state = [math.nan] * len(starts), ["inf"] * len(starts), None
        return outcome

    monkeypatch.setattr(TransferMeasurement, "_train", odd)
    if case == "excluded":
        rows = data["shapes"]["validation"]
        same = rows.select([number for number, label in enumerate(rows["labels"]) if label == 1])
        data = {**data, "shapes": {**data["shapes"], "validation": same}}
    arguments = (suite, processor, data, "unimodal", settings, tmp_path)
    if case == "lost sources":
        limit = 8
        with pytest.raises(KeyboardInterrupt):
            measure_heterogeneity(*arguments, told.append)
        assert 8 <= sum(told) == finished_steps(suite, "unimodal", settings, tmp_path)
        for file in (tmp_path / "unimodal-sources").iterdir():
            file.unlink()
        limit = math.inf
    matrix = measure_heterogeneity(*arguments, told.append)
    assert len(matrix.nodes) == {"excluded": 3, "diverged": 4}.get(case, 5)
    assert sum(told) == settings.num_runs(len(UNIMODAL)) * settings.num_steps and min(told) >= 0
    told.clear()
    measure_heterogeneity(*arguments, told.append)
    planned = settings.num_runs(len(UNIMODAL)) * settings.num_steps
    assert sum(told) + finished_steps(suite, "unimodal", settings, tmp_path) == planned


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_job_is_made_once_and_nobody_waits_for_long(processes: int) -> None:
    seconds = sorted(np.random.default_rng(processes).gamma(1.0, size=40).tolist(), reverse=True)
    costs = {Job(f"node {number}", 0): cost for number, cost in enumerate(seconds)}
    rounds = list(share_out(costs, processes))
    assert all(len(shares) == processes for shares in rounds)
    assert sorted(costs[job] for shares in rounds for share in shares for job in share) == sorted(seconds)
    lasting = sum(max(sum(costs[job] for job in share) for share in shares) for shares in rounds)
    assert lasting <= 1.1 * sum(seconds) / processes + seconds[0]


def test_a_line_cut_short_is_a_run_not_made(measure: Callable[..., Any], calls: list[str], tmp_path: Path) -> None:
    whole = measure()
    log = tmp_path / "runs" / "unimodal-runs.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    last = calls[-1]
    del calls[:]
    assert measure() == whole
    # The sources are gone after a finished sweep, so the one it needs is trained again.
    assert calls[-1] == last and len(calls) == 2
    assert json.loads(log.read_text().splitlines()[-1])["run"].endswith(last.removeprefix("transfer to "))


def test_a_first_line_cut_short_is_a_new_start(measurement: Callable[..., Any], tmp_path: Path) -> None:
    measurement()
    log = tmp_path / "runs" / "unimodal-runs.jsonl"
    text = log.read_text()
    log.write_text(text[:20])
    measurement()
    assert log.read_text() == text


def test_runs_of_something_else_are_refused(
    suite: Suite,
    processor: HighMMTProcessor,
    data: dict,
    measurement: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measurement()
    for change in ({"num_steps": 5}, {"seed": 1}, {"loss_scale": "none"}):
        with pytest.raises(ValueError, match=r"unimodal-runs\.jsonl holds runs of another suite, other settings"):
            measurement(**change)
    other = dataclasses.replace(suite, model={**suite.model, "d_latents": 16})
    with pytest.raises(ValueError, match="another suite, other settings"):
        TransferMeasurement(other, processor, data, "unimodal", FAST, tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr("highmmt.heterogeneity.settings.MEASURING_VERSION", 99)
        with pytest.raises(ValueError, match="another version of the measurement"):
            measurement()
    measurement("interaction")  # has a file of its own


@pytest.mark.parametrize("line", ["{cut", '{"run": "a"}', "[]", '{"run": "a", "loss": "low"}'])
def test_a_damaged_log_is_named(measurement: Callable[..., Any], tmp_path: Path, line: str) -> None:
    measurement()
    log = tmp_path / "runs" / "unimodal-runs.jsonl"
    log.write_text(f"{log.read_text()}{line}\n")
    with pytest.raises(ValueError, match=r"unimodal-runs\.jsonl is damaged .* Delete it"):
        measurement()


# What is refused


def test_a_suite_whose_models_all_diverge_is_refused(measure: Callable[..., Any]) -> None:
    with pytest.raises(FloatingPointError, match=r"all nodes diverge. shapes/spectrum: the .* learning_rate"):
        measure(learning_rate=1e30)


def test_the_sweep_goes_on_without_a_node_that_diverges(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batch = TransferMeasurement._batch

    def broken(self: TransferMeasurement, node: str, split: str, rows: Any) -> Any:
        found = batch(self, node, split, rows)
        if node == "arm/table":
            found["labels"]["arm"] = found["labels"]["arm"] + math.inf
        return found

    monkeypatch.setattr(TransferMeasurement, "_batch", broken)
    matrix = measure(share=1.0, num_steps=1)
    assert matrix.nodes == [node for node in UNIMODAL if node != "arm/table"]
    assert list(matrix.excluded) == ["arm/table"]
    assert "arm/table: the training loss of step 1 is inf" in matrix.excluded["arm/table"]
    assert matrix.num_measured == 6
    # It is as little repeated as a run that finished.
    monkeypatch.setattr(TransferMeasurement, "_train", None)
    matrix.to_json_file(tmp_path / "unimodal.json")
    assert measure(share=1.0, num_steps=1) == HeterogeneityMatrix.from_json_file(tmp_path / "unimodal.json")


def test_a_transfer_that_diverges_is_named_and_harms_none_beside_it(
    measurement: Callable[..., Any], tmp_path: Path
) -> None:
    sources, target = ["arm/table", "arm/series"], "shapes/table"
    made, whole = measurement(), measurement(folder="whole")
    for one in (made, whole):
        one.train_from_scratch(sources, [0])
    file = made._source_path("arm/table", 0)
    save_file({name: torch.full_like(value, math.nan) for name, value in load_file(file).items()}, file)
    for one in (made, whole):
        one.transfer([(source, target) for source in sources], [0])
    assert math.isnan(made.transfer_loss("arm/table", target, 0))
    assert made.transfer_loss("arm/series", target, 0) == whole.transfer_loss("arm/series", target, 0)
    [error] = measurement().log.errors.values()
    assert error.startswith("After training on arm/table: shapes/table: the training loss of step 1 is nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_evaluations": 1.5}, "num_evaluations=1.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"num_seeds": 0}, "num_seeds=0"),
        ({"rank": 0}, "rank=0"),
        ({"seed": -1}, "seed=-1"),
        ({"share": 0}, "share=0"),
        ({"share": 1.1}, "share=1.1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": "2e-3"}, "learning_rate='2e-3'"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"loss_scale": "points"}, "loss_scale='points' is not one of null, none, metric"),
        ({"method": "guess"}, "method='guess' is not one of transfer, random, feature"),
    ],
)
def test_bad_settings_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        HeterogeneitySettings(**change)
    assert message in str(error.value)
