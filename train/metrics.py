"""The metrics tasks are judged by, computed by scikit-learn from all predictions of a split at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

REGRESSION, RETRIEVAL = ("regression",), ("retrieval",)
# Queries that are compared with all candidates at a time.
_QUERIES = 1024


@dataclass(frozen=True)
class Metric:
    """A named score of a whole split.

    Attributes:
        name: as suites and tables call it.
        function: from targets and predictions to one number, NaN where the targets do not determine it.
            Classification: class indices `(rows,)` and probabilities `(rows, classes)`. Multi-label: 0/1 and
            probabilities, both `(rows, labels)`. Regression: `(rows, quantities)`, both in original units. Of a
            sequence of targets each labelled step is a row. Retrieval: items `(rows,)` and the embeddings of both
            modalities side by side, `(rows, 2 * width)`.
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
    """Share of right answers; with several labels the share over all rows and labels."""
    if target.ndim == 2:
        return float(((probabilities >= 0.5) == (target == 1)).mean())
    return float(accuracy_score(target, probabilities.argmax(1)))


def _macro_f1(target: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean F1 of the classes that occur in targets or guesses, or of all labels."""
    if target.ndim == 1:
        return float(f1_score(target, probabilities.argmax(1), average="macro", zero_division=0.0))
    guess = probabilities >= 0.5
    return float(
        np.mean([f1_score(target[:, k] == 1, guess[:, k], zero_division=0.0) for k in range(target.shape[1])])
    )


def _auroc(target: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean area under the ROC curve, one class against the rest, of the classes with rows inside and outside."""
    if target.ndim == 2:
        columns, positive = range(target.shape[1]), target == 1
    else:
        count = probabilities.shape[1]
        columns, positive = range(1 if count == 2 else 0, count), target[:, None] == np.arange(count)
    areas = [
        roc_auc_score(positive[:, k], probabilities[:, k])
        for k in columns
        if positive[:, k].any() and not positive[:, k].all()
    ]
    return float(np.mean(areas)) if areas else math.nan


def _r2(target: np.ndarray, guess: np.ndarray) -> float:
    return float(r2_score(target, guess)) if len(target) > 1 else math.nan


def retrieval_ranks(items: np.ndarray, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """How many candidates of other items are at least as similar to each query as the best one of its own, `(rows,)`.

    Equal similarities count against the query: embeddings that are all the same find nothing.

    Args:
        items: `(rows,)`, of query and candidate alike.
        queries, candidates: `(rows, width)`; their products are the similarities.
    """
    ranks = []
    for start in range(0, len(items), _QUERIES):
        part = slice(start, start + _QUERIES)
        similarity = queries[part] @ candidates.T
        same = items[part, None] == items[None, :]
        best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
        ranks.append(((similarity >= best) & ~same).sum(axis=1))
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def _recall(items: np.ndarray, embeddings: np.ndarray, at: int) -> float:
    """Share of queries that have a candidate of their item among the best `at`, mean of both directions."""
    first, second = np.split(embeddings, 2, axis=1)
    ranks = np.stack([retrieval_ranks(items, first, second), retrieval_ranks(items, second, first)])
    return float((ranks < at).mean()) if len(np.unique(items)) > 1 else math.nan


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
        Metric("r2", _r2, True, REGRESSION),
        Metric("recall_at_1", partial(_recall, at=1), True, RETRIEVAL),
        Metric("recall_at_5", partial(_recall, at=5), True, RETRIEVAL),
        Metric("recall_at_10", partial(_recall, at=10), True, RETRIEVAL),
    )
}


def get_metric(name: str, task: str, problem_type: str) -> Metric:
    """The metric of that name, if it suits the task.

    Raises:
        ValueError: unknown, or not made for this problem type; the message names the task and lists what is.
    """
    suitable = [metric.name for metric in METRICS.values() if problem_type in metric.problem_types]
    if name not in suitable:
        raise ValueError(
            f"Task {task!r}: metric {name!r} cannot judge {problem_type}; use one of {', '.join(suitable)}."
        )
    return METRICS[name]
