"""The metrics tasks are judged by, computed by scikit-learn from all predictions of a split at once.

`load_metric` gives them in the form of the modules of `evaluate`, without that package and without a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather, pad_across_processes
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)
from torch import Tensor

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
        description: what the number says.
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    problem_types: tuple[str, ...]
    description: str

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


def _mse(target: np.ndarray, guess: np.ndarray) -> float:
    return float(mean_squared_error(target, guess))


def _mae(target: np.ndarray, guess: np.ndarray) -> float:
    return float(mean_absolute_error(target, guess))


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
        Metric("accuracy", _accuracy, True, _ANY_CLASS, "Share of right answers, of several labels over all of them."),
        Metric("macro_f1", _macro_f1, True, _ANY_CLASS, "Mean F1 of the classes or labels."),
        Metric("auroc", _auroc, True, _ANY_CLASS, "Mean area under the ROC curve, one class against the rest."),
        Metric("mse", _mse, False, REGRESSION, "Mean squared error."),
        Metric("rmse", lambda *rows: _mse(*rows) ** 0.5, False, REGRESSION, "Root of the mean squared error."),
        Metric("mae", _mae, False, REGRESSION, "Mean absolute error."),
        Metric("r2", _r2, True, REGRESSION, "Coefficient of determination, mean of the quantities."),
        *(
            Metric(
                f"recall_at_{at}",
                partial(_recall, at=at),
                True,
                RETRIEVAL,
                f"Share of queries with a candidate of their item among the best {at}, mean of both directions.",
            )
            for at in (1, 5, 10)
        ),
    )
}
_INPUTS = {
    "single_label_classification": "class indices (rows,) as references, probabilities (rows, classes) as predictions",
    "multi_label_classification": "zeros and ones (rows, labels) as references, probabilities of that shape",
    "regression": "quantities (rows, quantities), both alike",
    "retrieval": "items (rows,) as references, embeddings of both modalities side by side (rows, 2 * width)",
}


class MetricModule:
    """A metric in the form of the modules of `evaluate`: add batches, then compute.

    All rows are kept until `compute`, so that the number is that of all rows at once, however they were divided.

    Args:
        metric: what to compute.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._predictions: list[np.ndarray] = []
        self._references: list[np.ndarray] = []

    @property
    def name(self) -> str:
        """Name of the metric, and key of the result."""
        return self.metric.name

    @property
    def description(self) -> str:
        """What the number says."""
        return self.metric.description

    @property
    def inputs_description(self) -> str:
        """What `references` and `predictions` are, for each problem type."""
        return "; or ".join(f"{kind}: {_INPUTS[kind]}" for kind in self.metric.problem_types) + "."

    def __len__(self) -> int:
        """Rows added since the last `compute`."""
        return sum(map(len, self._references))

    def add_batch(self, *, predictions: Any, references: Any) -> None:
        """Add rows; arrays, tensors or lists.

        Raises:
            ValueError: shapes that do not fit each other or the metric.
        """
        guess, target = _as_array(predictions), _as_array(references)
        item = "retrieval" in self.metric.problem_types
        same = "regression" in self.metric.problem_types or target.ndim == 2
        fits = guess.shape == target.shape if same else guess.ndim == 2 and target.ndim == 1
        if not (fits and len(guess) == len(target)) or (item and guess.shape[1] % 2):
            raise ValueError(
                f"{self.name}: found predictions {guess.shape} and references {target.shape}; expected "
                f"{self.inputs_description}"
            )
        self._predictions.append(guess)
        self._references.append(target)

    def add(self, *, prediction: Any, reference: Any) -> None:
        """Add one row."""
        self.add_batch(predictions=_as_array(prediction)[None], references=_as_array(reference)[None])

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float]:
        """The metric of all rows added, and of these; they are forgotten afterwards.

        Returns:
            `{name: value}`; NaN where the references do not determine it.

        Raises:
            ValueError: there are no rows, or as for `add_batch`.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not len(self):
            raise ValueError(f"{self.name}: there are no rows to compute it of; call add_batch first.")
        guess, target = np.concatenate(self._predictions), np.concatenate(self._references)
        self._predictions, self._references = [], []
        return {self.name: self.metric.function(target, guess)}

    def _feature_names(self) -> list[str]:
        # What `evaluate.combine` asks its modules.
        return ["predictions", "references"]


def load_metric(name: str) -> MetricModule:
    """The metric of that name, as `evaluate.load` would give it.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}; use one of {', '.join(METRICS)}.")
    return MetricModule(METRICS[name])


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows that several processes have, in the order of their numbers, each once; the same on every process.

    Args:
        values: this process's rows, `(rows, ...)`; a process may have none.
        rows: their numbers, `(rows,)` int64, 0 or more. Those that are there twice, as padding of batches, are
            dropped.
    """
    numbers = gather(pad_across_processes(rows, pad_index=-1))
    values = gather(pad_across_processes(values))
    found, first = np.unique(numbers.cpu().numpy(), return_index=True)
    return values[torch.from_numpy(first[found >= 0]).to(values.device)]


def _as_array(values: Any) -> np.ndarray:
    """A copy as numbers, floats in double precision."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    array = np.array(values)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


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
