"""The metrics tasks are judged by, computed by scikit-learn from all predictions of a split at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

REGRESSION = ("regression",)


@dataclass(frozen=True)
class Metric:
    """A named score of a whole split.

    Attributes:
        name: as suites and tables call it.
        function: from targets and predictions to one number. Classification: class indices `(rows,)` and
            probabilities `(rows, classes)`. Multi-label: 0/1 and probabilities. Regression: both in original units.
        higher_is_better: the direction checkpoints are compared in.
        problem_types: what it can be used for.
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    problem_types: tuple[str, ...]

    @property
    def direction(self) -> int:
        """1 where higher is better, -1 for errors."""
        return 1 if self.higher_is_better else -1


def _accuracy(target: np.ndarray, probabilities: np.ndarray) -> float:
    if target.ndim == 2:
        return float(((probabilities >= 0.5) == (target == 1)).mean())
    return float(accuracy_score(target, probabilities.argmax(1)))


def _macro_f1(target: np.ndarray, probabilities: np.ndarray) -> float:
    guess = (probabilities >= 0.5).astype(int) if target.ndim == 2 else probabilities.argmax(1)
    return float(f1_score(target, guess, average="macro", zero_division=0.0))


def _auroc(target: np.ndarray, probabilities: np.ndarray) -> float:
    if target.ndim == 1 and probabilities.shape[1] == 2:
        return float(roc_auc_score(target, probabilities[:, 1]))
    if target.ndim == 1:
        labels = np.arange(probabilities.shape[1])
        return float(roc_auc_score(target, probabilities, multi_class="ovr", average="macro", labels=labels))
    return float(roc_auc_score(target, probabilities, average="macro"))


_ANY_CLASS = ("single_label_classification", "multi_label_classification")
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _accuracy, True, _ANY_CLASS),
        Metric("macro_f1", _macro_f1, True, _ANY_CLASS),
        Metric("auroc", _auroc, True, _ANY_CLASS),
        Metric("mse", lambda target, guess: float(mean_squared_error(target, guess)), False, REGRESSION),
        Metric("rmse", lambda target, guess: float(mean_squared_error(target, guess) ** 0.5), False, REGRESSION),
        Metric("mae", lambda target, guess: float(mean_absolute_error(target, guess)), False, REGRESSION),
        Metric("r2", lambda target, guess: float(r2_score(target, guess)), True, REGRESSION),
    )
}


def get_metric(name: str, task: str, problem_type: str) -> Metric:
    """The metric of that name, if it suits the task.

    Raises:
        ValueError: unknown, or not made for this problem type; the message names the task and lists what is.
    """
    suitable = [metric.name for metric in METRICS.values() if problem_type in metric.problem_types]
    if name not in suitable:
        raise ValueError(f"Task {task!r}: metric {name!r} cannot judge {problem_type}; use one of {', '.join(suitable)}.")
    return METRICS[name]
