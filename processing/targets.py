"""Targets: raw labels to what a loss reads, and predictions back to names and units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..configuration.configuration_highmmt import ProblemType
from .rows import Source, Values, is_list, plain_array, read_numbers, read_rows
from .scaling import mean_and_deviation
from .serializers import Statistics


@dataclass(frozen=True)
class Target:
    """What a task predicts.

    Args:
        column: raw column. Class indices or class names; for several labels a list of zeros and ones; for regression
            a number or a list of numbers.
        problem_type: as in `TaskConfig`.
        classes: names of the classes, in the order of their indices; None takes the training split's, sorted.
        names: names of the predicted quantities of a regression; None numbers them.
    """

    column: str
    problem_type: ProblemType = "single_label_classification"
    classes: list[str] | None = None
    names: list[str] | None = None

    @classmethod
    def from_dict(cls, values: Any, owner: str) -> Target:
        """The target described by a mapping of these fields.

        Raises:
            ValueError: an unknown or missing field or an impossible value; the message begins with `owner`.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{owner}: the target must be a mapping with at least 'column', got {values!r}.")
        allowed = [field.name for field in fields(cls)]
        for key in values:
            if key not in allowed:
                raise ValueError(f"{owner}: a target has no field {key!r}; its fields are {', '.join(allowed)}.")
        if not isinstance(values.get("column"), str):
            raise ValueError(f"{owner}: the target needs the name of its column, got {values.get('column')!r}.")
        target = cls(**values)
        if target.problem_type not in get_args(ProblemType):
            known = ", ".join(get_args(ProblemType))
            raise ValueError(f"{owner}: problem_type={target.problem_type!r} is not one of {known}.")
        for key in ("classes", "names"):
            entries = values.get(key)
            if entries is None:
                continue
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise ValueError(f"{owner}: {key}={entries!r} must be a list of names.")
            if len(set(entries)) != len(entries) or not entries:
                raise ValueError(f"{owner}: {key}={entries!r} must be names that differ, at least one.")
        if target.classes is not None and target.problem_type == "regression":
            raise ValueError(f"{owner}: a regression has no classes; name its quantities with 'names'.")
        if target.names is not None and target.problem_type != "regression":
            raise ValueError(f"{owner}: 'names' is for regression; name the classes with 'classes'.")
        return target

    def fit(self, values: Values, source: Source, class_names: list[str] | None = None) -> Statistics:
        """What the training split says about the target.

        Args:
            values: the raw target column.
            source: where it comes from.
            class_names: names that the dataset itself carries (`datasets.ClassLabel`).

        Returns:
            `{"classes": [...]}`, or `{"mean": [...], "deviation": [...], "names": [...]}` for regression.
        """
        if self.problem_type == "regression":
            numbers = self._matrix(values, source, None)
            width = numbers.shape[1]
            names = self.names or ([self.column] if width == 1 else [str(index) for index in range(width)])
            if len(names) != width:
                raise source.error(f"found {width} numbers, expected the {len(names)} named in 'names'.", 0)
            pairs = [mean_and_deviation(column) for column in numbers.T]
            deviations = [deviation if deviation > 0 else 1.0 for _, deviation in pairs]
            return {"mean": [mean for mean, _ in pairs], "deviation": deviations, "names": names}
        if self.problem_type == "multi_label_classification":
            width = self._matrix(values, source, None).shape[1]
            classes = self.classes or [str(index) for index in range(width)]
            if len(classes) != width:
                raise source.error(f"found {width} labels, expected the {len(classes)} named in 'classes'.", 0)
            return {"classes": classes}
        classes = self.classes or class_names or _found_classes(values, source)
        self.encode(values, source, {"classes": classes})  # refuse a bad label now rather than in training
        return {"classes": classes}

    def encode(self, values: Values, source: Source, statistics: Statistics) -> np.ndarray:
        """Labels as a loss reads them: (rows,) int64, or (rows, num_labels) float32.

        Regression targets are standardised with the training split's mean and deviation.

        Raises:
            ValueError: a label that is missing, unknown or no number; the message names the row.
        """
        if self.problem_type == "regression":
            numbers = self._matrix(values, source, len(statistics["mean"]))
            scaled = (numbers - np.array(statistics["mean"])) / np.array(statistics["deviation"])
            return scaled.astype(np.float32)
        classes = statistics["classes"]
        if self.problem_type == "multi_label_classification":
            numbers = self._matrix(values, source, len(classes))
            wrong = ((numbers != 0) & (numbers != 1)).any(axis=1)
            if wrong.any():
                raise source.error("found a label other than 0 and 1.", int(wrong.argmax()))
            return numbers.astype(np.float32)
        return _class_indices(values, source, classes)

    def num_labels(self, statistics: Statistics) -> int:
        """Number of classes or of predicted quantities."""
        return len(statistics["mean"] if self.problem_type == "regression" else statistics["classes"])

    def label_names(self, statistics: Statistics) -> list[str]:
        """Names of the classes or of the predicted quantities, by index."""
        return list(statistics["names"] if self.problem_type == "regression" else statistics["classes"])

    def decode(self, logits: Tensor, statistics: Statistics) -> list[dict[str, Any]]:
        """Predictions in words, one dict per row of `logits`, (batch, num_labels).

        Returns:
            One label: `{"label", "score", "probabilities": {label: p}}`. Several labels: `{"labels": [those above
            0.5], "probabilities"}`. Regression: `{name: value}` in the target's own unit.
        """
        names = self.label_names(statistics)
        logits = torch.as_tensor(logits)
        if logits.ndim != 2 or logits.shape[1] != len(names):
            raise ValueError(
                f"Target {self.column!r}: logits of shape {tuple(logits.shape)}, expected (batch, {len(names)})."
            )
        logits = logits.detach().cpu().double()
        if self.problem_type == "regression":
            deviation = torch.tensor(statistics["deviation"], dtype=torch.float64)
            values = logits * deviation + torch.tensor(statistics["mean"], dtype=torch.float64)
            return [dict(zip(names, row, strict=True)) for row in values.tolist()]
        several = self.problem_type == "multi_label_classification"
        rows = (logits.sigmoid() if several else logits.softmax(dim=-1)).tolist()
        results: list[dict[str, Any]] = []
        for row in rows:
            probabilities = dict(zip(names, row, strict=True))
            if several:
                chosen = [name for name in names if probabilities[name] > 0.5]
                results.append({"labels": chosen, "probabilities": probabilities})
            else:
                best = max(names, key=probabilities.__getitem__)
                results.append({"label": best, "score": probabilities[best], "probabilities": probabilities})
        return results

    def _matrix(self, values: Values, source: Source, width: int | None) -> np.ndarray:
        """(rows, width) float64 without missing values."""
        if _is_flat(values):
            numbers = read_numbers(values, source)[:, None]
            if not np.isfinite(numbers).all():
                raise source.error("the target is missing or infinite.", int((~np.isfinite(numbers)).argmax()))
            if width not in (None, 1):
                raise source.error(f"found a single number, expected {width}.", 0)
            return numbers
        rows = read_rows(values, source, ())
        if width is None:
            width = int(rows.lengths.max(initial=0))
        rows.require_length(width)
        absent = (rows.lengths == 0) | ~rows.present
        if absent.any():
            raise source.error("the target is missing.", int(absent.argmax()))
        if not width:
            raise source.error("there is no target to learn from.")
        numbers = rows.as_float().reshape(-1, width)
        if np.isnan(numbers).any():
            raise source.error("the target is missing (NaN).", int(np.isnan(numbers).any(axis=1).argmax()))
        return numbers


def _is_flat(values: Values) -> bool:
    """True where each row is one number rather than a list."""
    if isinstance(values, (pa.ChunkedArray, pa.Array)):
        return not is_list(plain_array(values).type)
    return all(value is None or np.ndim(value) == 0 for value in values)


def _entries(values: Values) -> list[Any]:
    if isinstance(values, (pa.ChunkedArray, pa.Array)):
        return plain_array(values).to_pylist()
    return [value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value for value in values]


def _found_classes(values: Values, source: Source) -> list[str]:
    """Names of the classes in a training column: its sorted texts, or its whole numbers from 0 without gaps."""
    entries = _entries(values)
    if any(isinstance(entry, str) for entry in entries):
        for row, entry in enumerate(entries):
            if not isinstance(entry, str):
                raise source.error(f"found {entry!r} among class names.", row)
        return sorted(set(entries))
    found = sorted({_whole(entry, source, row) for row, entry in enumerate(entries)})
    if found != list(range(len(found))):
        raise source.error(f"found classes {found[:20]}, expected 0, 1, 2, ... without gaps; give 'classes' names.")
    return [str(index) for index in found]


def _class_indices(values: Values, source: Source, classes: list[str]) -> np.ndarray:
    index_of = {name: index for index, name in enumerate(classes)}
    indices = np.zeros(len(values), dtype=np.int64)
    for row, entry in enumerate(_entries(values)):
        if isinstance(entry, str):
            if entry not in index_of:
                raise source.error(f"unknown class {entry!r}; classes are {', '.join(classes[:50])}.", row)
            indices[row] = index_of[entry]
        else:
            indices[row] = _whole(entry, source, row)
            if not 0 <= indices[row] < len(classes):
                raise source.error(f"found class {indices[row]}, expected 0 to {len(classes) - 1}.", row)
    return indices


def _whole(entry: Any, source: Source, row: int) -> int:
    if entry is None or (isinstance(entry, float) and math.isnan(entry)):
        raise source.error("the target is missing.", row)
    if not isinstance(entry, (bool, int, float)) or not math.isfinite(entry) or entry != int(entry):
        raise source.error(f"found {entry!r}, expected the index or the name of a class.", row)
    return int(entry)
