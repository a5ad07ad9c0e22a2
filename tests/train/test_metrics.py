"""Metrics: scikit-learn's numbers, values worked out by hand, refusals by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from highmmt.suites import schema
from highmmt.train import METRICS, get_metric


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
