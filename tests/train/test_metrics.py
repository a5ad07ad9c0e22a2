"""Metrics: scikit-learn's numbers, values worked out by hand, refusals by name."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from highmmt.suites import schema
from highmmt.train import METRICS, gather_rows, get_metric, load_metric


def classes(seed: int, count: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    raw = np.exp(rng.normal(size=(rows, count)))
    return np.concatenate([np.arange(count), rng.integers(0, count, rows - count)]), raw / raw.sum(1, keepdims=True)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), count=st.integers(2, 5))
def test_scores_of_classes_equal_scikit_learn(seed: int, count: int) -> None:
    target, probabilities = classes(seed, count)
    guess = probabilities.argmax(1)
    assert METRICS["accuracy"].function(target, probabilities) == sk.accuracy_score(target, guess)
    macro = sk.f1_score(target, guess, average="macro", zero_division=0.0)
    assert METRICS["macro_f1"].function(target, probabilities) == pytest.approx(macro)
    if count == 2:
        area = sk.roc_auc_score(target, probabilities[:, 1])
    else:
        area = sk.roc_auc_score(target, probabilities, multi_class="ovr", average="macro")
    assert METRICS["auroc"].function(target, probabilities) == pytest.approx(area)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), count=st.integers(2, 4))
def test_scores_of_several_labels_equal_scikit_learn(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, (30, count)).astype(float)
    target[0], target[1] = 0, 1
    probabilities = rng.random((30, count))
    guess = probabilities >= 0.5
    assert METRICS["accuracy"].function(target, probabilities) == pytest.approx(1 - sk.hamming_loss(target, guess))
    macro = sk.f1_score(target, guess, average="macro", zero_division=0.0)
    assert METRICS["macro_f1"].function(target, probabilities) == pytest.approx(macro)
    area = sk.roc_auc_score(target, probabilities, average="macro")
    assert METRICS["auroc"].function(target, probabilities) == pytest.approx(area)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), width=st.integers(1, 3))
def test_errors_of_numbers_equal_scikit_learn(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    target, guess = rng.normal(size=(20, width)), rng.normal(size=(20, width))
    assert METRICS["mse"].function(target, guess) == pytest.approx(sk.mean_squared_error(target, guess))
    assert METRICS["rmse"].function(target, guess) == pytest.approx(math.sqrt(sk.mean_squared_error(target, guess)))
    assert METRICS["mae"].function(target, guess) == pytest.approx(sk.mean_absolute_error(target, guess))
    assert METRICS["r2"].function(target, guess) == pytest.approx(sk.r2_score(target, guess))


ONE_HOT = np.eye(3)


@pytest.mark.parametrize(
    ("metric", "target", "guess", "value"),
    [
        ("accuracy", [0, 1, 2, 2], ONE_HOT[[0, 1, 2, 0]], 0.75),
        ("accuracy", [[1, 0], [0, 0]], [[0.9, 0.5], [0.1, 0.4]], 0.75),
        # F1 is 2/3 for class 0 (one of two guesses right), 1 for class 1, 2/3 for class 2 (one of two rows found).
        ("macro_f1", [0, 1, 2, 2], ONE_HOT[[0, 1, 2, 0]], (2 / 3 + 1 + 2 / 3) / 3),
        ("macro_f1", [[1], [1], [0]], [[0.9], [0.1], [0.1]], 2 / 3),
        ("auroc", [0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], 0.75),
        # No row of class 2: the mean is over the other two, both perfect.
        ("auroc", [0, 1, 1], [[0.8, 0.1, 0.1], [0.1, 0.5, 0.4], [0.1, 0.6, 0.3]], 1.0),
        ("mse", [[1.0], [3.0]], [[2.0], [1.0]], 2.5),
        ("rmse", [[1.0], [3.0]], [[2.0], [1.0]], math.sqrt(2.5)),
        ("mae", [[1.0], [3.0]], [[2.0], [1.0]], 1.5),
        ("r2", [[1.0], [3.0]], [[2.0], [2.0]], 0.0),
        ("r2", [[1.0], [3.0]], [[1.0], [3.0]], 1.0),
    ],
)
def test_values_worked_out_by_hand(metric: str, target: list, guess: list, value: float) -> None:
    assert METRICS[metric].function(np.array(target), np.array(guess)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("metric", "target", "guess"),
    [("auroc", [1, 1], [[0.1, 0.9], [0.2, 0.8]]), ("auroc", [[1], [1]], [[0.1], [0.2]]), ("r2", [[1.0]], [[2.0]])],
)
def test_what_the_targets_do_not_determine_is_nan(metric: str, target: list, guess: list) -> None:
    assert math.isnan(METRICS[metric].function(np.array(target), np.array(guess)))


def test_errors_are_better_when_lower() -> None:
    assert {name for name, metric in METRICS.items() if metric.direction == -1} == {"mse", "rmse", "mae"}


def test_suites_offer_exactly_the_metrics_there_are() -> None:
    assert schema.METRICS == {name: metric.problem_types for name, metric in METRICS.items()}


@pytest.mark.parametrize(
    ("name", "problem_type", "listed"),
    [
        ("rmse", "single_label_classification", "accuracy, macro_f1, auroc"),
        ("accuracy", "regression", "mse, rmse, mae, r2"),
        ("perplexity", "multi_label_classification", "accuracy, macro_f1, auroc"),
    ],
)
def test_a_metric_that_does_not_suit_the_task_is_refused_by_name(name: str, problem_type: str, listed: str) -> None:
    with pytest.raises(ValueError) as error:
        get_metric(name, "gait", problem_type)
    assert all(part in str(error.value) for part in ("Task 'gait'", repr(name), problem_type, listed))


def rows_for(name: str, seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and references of a kind that the metric judges."""
    rng = np.random.default_rng(seed)
    kind = METRICS[name].problem_types[0]
    if kind == "single_label_classification":
        target, probabilities = classes(seed, 4, count)
        return probabilities, target
    if kind == "retrieval":
        return rng.normal(size=(count, 8)), rng.integers(0, 9, count)
    return rng.normal(size=(count, 2)), rng.normal(size=(count, 2))


def scikit_learn(name: str, predictions: np.ndarray, references: np.ndarray) -> float:
    if name.startswith("recall_at_"):
        first, second = np.split(predictions, 2, axis=1)
        found = []
        for queries, candidates in ((first, second), (second, first)):
            scores = queries @ candidates.T
            for item, row in zip(references, scores, strict=True):
                best = np.argsort(-row)[: int(name.rsplit("_", 1)[1])]
                found.append(item in references[best])
        return float(np.mean(found))
    guess = predictions.argmax(1)
    return {
        "accuracy": lambda: sk.accuracy_score(references, guess),
        "macro_f1": lambda: sk.f1_score(references, guess, average="macro"),
        "auroc": lambda: sk.roc_auc_score(references, predictions, multi_class="ovr", average="macro"),
        "mse": lambda: sk.mean_squared_error(references, predictions),
        "rmse": lambda: sk.mean_squared_error(references, predictions) ** 0.5,
        "mae": lambda: sk.mean_absolute_error(references, predictions),
        "r2": lambda: sk.r2_score(references, predictions),
    }[name]()


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=10)
@given(seed=st.integers(0, 999), data=st.data())
def test_a_module_gives_scikit_learns_number_however_the_rows_are_divided(
    name: str, seed: int, data: st.DataObject
) -> None:
    predictions, references = rows_for(name, seed)
    module = load_metric(name)
    whole = module.compute(predictions=predictions, references=references)
    assert whole == {name: pytest.approx(scikit_learn(name, predictions, references), rel=0, abs=1e-12)}
    cuts = sorted(data.draw(st.lists(st.integers(0, 30), max_size=6)))
    for begin, end in zip([0, *cuts], [*cuts, 30], strict=True):
        if end > begin:
            batch = torch.tensor(predictions[begin:end])
            module.add_batch(predictions=batch, references=references[begin:end].tolist())
    assert len(module) == 30
    assert module.compute() == whole
    assert len(module) == 0
    for prediction, reference in zip(predictions, references, strict=True):
        module.add(prediction=prediction, reference=reference)
    assert module.compute() == whole


def test_a_module_keeps_a_copy_of_what_it_is_given() -> None:
    module, buffer = load_metric("mse"), np.array([[1.0]])
    for value in (1.0, 3.0):
        buffer[:] = value
        module.add_batch(predictions=buffer, references=[[0.0]])
    assert module.compute() == {"mse": 5.0}


def test_modules_describe_themselves() -> None:
    module = load_metric("accuracy")
    assert module.name == "accuracy"
    assert module.description == "Share of right answers, of several labels over all of them."
    assert "probabilities (rows, classes) as predictions" in module.inputs_description
    assert "zeros and ones (rows, labels)" in module.inputs_description
    with pytest.raises(ValueError, match="no metric 'accuracies'; use one of accuracy, macro_f1"):
        load_metric("accuracies")


@pytest.mark.parametrize(
    ("name", "predictions", "references"),
    [
        ("accuracy", [[0.5, 0.5]], [0, 1]),
        ("accuracy", [0, 1], [0, 1]),
        ("auroc", [[0.5, 0.5, 0.5]], [[0, 1]]),
        ("mse", [[1.0], [2.0]], [1.0, 2.0]),
        ("recall_at_1", [[1.0, 2.0, 3.0]], [0]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, predictions: list, references: list) -> None:
    with pytest.raises(ValueError, match=f"{name}: found predictions .* and references .*; expected"):
        load_metric(name).add_batch(predictions=predictions, references=references)


def test_nothing_can_be_computed_of_no_rows() -> None:
    with pytest.raises(ValueError, match="mse: there are no rows"):
        load_metric("mse").compute()


def test_modules_go_together_with_those_of_evaluate() -> None:
    evaluate = pytest.importorskip("evaluate")
    public = [name for name in vars(evaluate.EvaluationModule) if name in ("add", "add_batch", "compute")]
    assert len(public) == 3
    assert all(hasattr(load_metric("mse"), name) for name in public)
    both = evaluate.combine([load_metric("mse"), load_metric("mae")])
    assert both.compute(predictions=[[1.0], [3.0]], references=[[2.0], [1.0]]) == {"mse": 2.5, "mae": 1.5}
    for prediction, reference in ((1.0, 2.0), (3.0, 1.0)):
        both.add_batch(predictions=[[prediction]], references=[[reference]])
    assert both.compute() == {"mse": 2.5, "mae": 1.5}


def test_gathered_rows_are_in_order_and_there_once() -> None:
    values, rows = torch.tensor([[3.0], [1.0], [3.0], [0.0]]), torch.tensor([3, 1, 3, 0])
    assert gather_rows(values, rows).tolist() == [[0.0], [1.0], [3.0]]


# Run by every process: rows in batches that are padded with rows of the beginning, as data loaders do.
SCRIPT = """
import importlib.util, json, sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from highmmt.train import METRICS, gather_rows, load_metric

spec = importlib.util.spec_from_file_location("test_metrics", sys.argv[2])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
state = PartialState(cpu=True)
rank, world = state.process_index, state.num_processes
result = {}
for count in (30, 5, 2):
    for name in METRICS:
        predictions, references = tests.rows_for(name, seed=1, count=30)
        rows = np.arange(count)[rank::world]
        padded = np.concatenate([rows, np.arange(3)[: count % 3]])
        module = load_metric(name)
        guess, target = (
            gather_rows(torch.from_numpy(values[padded]), torch.from_numpy(padded))
            for values in (predictions, references)
        )
        for begin in range(0, len(guess), 7):
            module.add_batch(predictions=guess[begin : begin + 7], references=target[begin : begin + 7])
        result[f"{name} {count}"] = [len(module), module.compute()[name]]
(Path(sys.argv[1]) / f"{rank}-of-{world}.json").write_text(json.dumps(result))
state.destroy_process_group()
"""


@pytest.mark.slow
def test_every_row_counts_once_on_one_two_and_four_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    results: list[dict[str, Any]] = []
    for processes in (1, 2, 4):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [*launch, str(script), str(tmp_path), __file__]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        results += [json.loads((tmp_path / f"{rank}-of-{processes}.json").read_text()) for rank in range(processes)]
    for name in METRICS:
        predictions, references = rows_for(name, seed=1)
        for count in (30, 5, 2):
            rows = slice(0, count)
            expected = METRICS[name].function(references[rows], predictions[rows])
            assert [result[f"{name} {count}"] for result in results] == [[count, expected]] * 7
