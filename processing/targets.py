"""Targets: raw labels to what a loss reads, and predictions back to names and units."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..configuration.configuration_highmmt import ProblemType
from .rows import Source, Values, as_array, entries_of, is_arrow, read_numbers, read_rows, shape_text
from .scaling import mean_and_deviation
from .serializers import Statistics

DEFAULT_PROJECTION_DIM = 64


@dataclass(frozen=True)
class Target:
    """What a task predicts.

    Args:
        column: raw column. Class indices or class names; for several labels a list of zeros and ones; for regression
            a number or a list of numbers. One level of lists more makes it a sequence: a target for each step, of
            which some may be missing. For a retrieval the id of the row's item, a text or a whole number; None makes
            every row an item of its own.
        problem_type: as in `TaskConfig`.
        classes: names of the classes, in the order of their indices; None takes the training split's, sorted.
        names: names of the predicted quantities of a regression; None numbers them.
        num_steps: number of steps of a sequence; None takes the longest of the training split. If given, a list of
            numbers is one number for each step.
        projection_dim: width of the space in which a retrieval compares its modalities; None takes 64.
    """

    column: str | None = None
    problem_type: ProblemType = "single_label_classification"
    classes: list[str] | None = None
    names: list[str] | None = None
    num_steps: int | None = None
    projection_dim: int | None = None

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
        target = cls(**values)
        retrieval = target.problem_type == "retrieval"
        if not isinstance(target.column, str) and not (retrieval and target.column is None):
            raise ValueError(f"{owner}: the target needs the name of its column, got {target.column!r}.")
        if target.problem_type not in get_args(ProblemType):
            known = ", ".join(get_args(ProblemType))
            raise ValueError(f"{owner}: problem_type={target.problem_type!r} is not one of {known}.")
        for key in ("classes", "names"):
            entries = values.get(key)
            if entries is None:
                continue
            if retrieval:
                raise ValueError(f"{owner}: {key!r} is not for a retrieval, which predicts no labels.")
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise ValueError(f"{owner}: {key}={entries!r} must be a list of names.")
            if len(set(entries)) != len(entries) or not entries:
                raise ValueError(f"{owner}: {key}={entries!r} must be names that differ, at least one.")
        if target.classes is not None and target.problem_type == "regression":
            raise ValueError(f"{owner}: a regression has no classes; name its quantities with 'names'.")
        if target.names is not None and target.problem_type != "regression":
            raise ValueError(f"{owner}: 'names' is for regression; name the classes with 'classes'.")
        for key, wanted, smallest in (("num_steps", not retrieval, 1), ("projection_dim", retrieval, 2)):
            value = getattr(target, key)
            if value is None:
                continue
            if not wanted:
                raise ValueError(f"{owner}: {key!r} is not for the problem type {target.problem_type}.")
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(f"{owner}: {key}={value!r} must be a whole number, {smallest} or more.")
        return target

    @property
    def is_class(self) -> bool:
        """True where a label is one class, not a list of numbers."""
        return self.problem_type == "single_label_classification"

    def fit(self, values: Values | None, source: Source, class_names: list[str] | None = None) -> Statistics:
        """What the training split says about the target.

        Args:
            values: the raw target column; None for a retrieval without one.
            source: where it comes from.
            class_names: names that the dataset itself carries (`datasets.ClassLabel`).

        Returns:
            `{"classes": [...]}`, or `{"mean": [...], "deviation": [...], "names": [...]}` for regression; `num_steps`
            beside them for a sequence. Nothing for a retrieval.
        """
        if self.problem_type == "retrieval":
            if values is not None and len(np.unique(item_ids(values, source))) < 2:
                raise source.error("all rows are of one item, so there is nothing to tell apart.")
            return {}
        if values is None:
            raise source.error("there is no target to learn from.")
        if self.num_steps is not None or nesting(values) == (1 if self.is_class else 2):
            return self._fit_sequence(values, source, class_names)
        if self.is_class:
            classes = self.classes or class_names or _found_classes(_entries(values), source)
            self.encode(values, source, {"classes": classes})  # refuse a bad label now rather than in training
            return {"classes": classes}
        return self._fit_columns(self._matrix(values, source, None), source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> np.ndarray:
        """Labels as a loss reads them, (rows, *`label_shape`).

        Classes and items are int64, -100 where missing; numbers are float32, NaN where missing. Only steps and items
        may be missing. Regression targets are standardised with the training split's mean and deviation.

        Raises:
            ValueError: a label that is missing, unknown or no number, or a sequence longer than those of the training
                split; the message names the row.
        """
        if self.problem_type == "retrieval":
            return item_ids(values, source)
        if "num_steps" in statistics:
            return self._encode_sequence(values, source, statistics)
        if self.is_class:
            return _class_indices(_entries(values), source, statistics["classes"])
        numbers = self._matrix(values, source, self.num_labels(statistics))
        return self._as_labels(numbers, source, statistics)

    def num_labels(self, statistics: Statistics) -> int:
        """Number of classes or of predicted quantities; for a retrieval the width of the shared space."""
        if self.problem_type == "retrieval":
            return self.projection_dim or DEFAULT_PROJECTION_DIM
        return len(statistics["mean"] if self.problem_type == "regression" else statistics["classes"])

    def label_shape(self, statistics: Statistics) -> tuple[int, ...]:
        """Shape of one row's label: () for a class or an item, else of steps, labels, or both."""
        steps = (statistics["num_steps"],) if "num_steps" in statistics else ()
        single = self.is_class or self.problem_type == "retrieval"
        return steps if single else (*steps, self.num_labels(statistics))

    def label_names(self, statistics: Statistics) -> list[str] | None:
        """Names of the classes or of the predicted quantities, by index; None for a retrieval."""
        if self.problem_type == "retrieval":
            return None
        return list(statistics["names"] if self.problem_type == "regression" else statistics["classes"])

    def decode(self, logits: Tensor, statistics: Statistics) -> list[dict[str, Any]]:
        """Predictions in words, one dict per row of `logits`, (batch, num_labels) or (batch, num_steps, num_labels).

        Returns:
            One label: `{"label", "score", "probabilities": {label: p}}`. Several labels: `{"labels": [those above
            0.5], "probabilities"}`. Regression: `{name: value}` in the target's own unit. For a sequence each of these
            is a list over its steps.
        """
        names = self.label_names(statistics) or []
        logits = torch.as_tensor(logits)
        steps = statistics.get("num_steps")
        expected = (len(names),) if steps is None else (steps, len(names))
        if tuple(logits.shape[1:]) != expected:
            wanted = ", ".join(str(size) for size in ("batch", *expected))
            raise ValueError(f"Target {self.column!r}: logits of shape {tuple(logits.shape)}, expected ({wanted}).")
        logits = logits.detach().cpu().double()
        if steps is None:
            return self._in_words(logits, names, statistics)
        each = self._in_words(logits.flatten(0, 1), names, statistics)
        return [_as_lists(each[start : start + steps]) for start in range(0, len(each), steps)]

    def _in_words(self, logits: Tensor, names: list[str], statistics: Statistics) -> list[dict[str, Any]]:
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

    def _fit_columns(self, numbers: np.ndarray, source: Source) -> Statistics:
        """Statistics of (rows, labels) numbers, NaN where missing."""
        width = numbers.shape[1]
        if self.problem_type == "multi_label_classification":
            classes = self.classes or [str(index) for index in range(width)]
            if len(classes) != width:
                raise source.error(f"found {width} labels, expected the {len(classes)} named in 'classes'.", 0)
            return {"classes": classes}
        names = self.names or ([source.column] if width == 1 else [str(index) for index in range(width)])
        if len(names) != width:
            raise source.error(f"found {width} numbers, expected the {len(names)} named in 'names'.", 0)
        pairs = []
        for name, column in zip(names, numbers.T, strict=True):
            if np.isnan(column).all():
                raise source.error(f"{name!r} is missing everywhere, so there is nothing to learn from.")
            pairs.append(mean_and_deviation(column[~np.isnan(column)]))
        deviations = [deviation if deviation > 0 else 1.0 for _, deviation in pairs]
        return {"mean": [mean for mean, _ in pairs], "deviation": deviations, "names": names}

    def _as_labels(self, numbers: np.ndarray, source: Source, statistics: Statistics) -> np.ndarray:
        """(rows, ..., num_labels) numbers as float32 labels, NaN where missing."""
        if self.problem_type == "regression":
            scaled = (numbers - np.array(statistics["mean"])) / np.array(statistics["deviation"])
            return scaled.astype(np.float32)
        wrong = (numbers != 0) & (numbers != 1) & ~np.isnan(numbers)
        if wrong.any():
            row = int(wrong.reshape(len(wrong), -1).any(axis=1).argmax())
            raise source.error("found a label other than 0 and 1.", row)
        return numbers.astype(np.float32)

    def _fit_sequence(self, values: Values, source: Source, class_names: list[str] | None) -> Statistics:
        rows = step_lists(values, source)
        num_steps = self.num_steps or max((len(steps) for steps in rows), default=0)
        known = [step for steps in rows for step in steps if not _is_missing(step)]
        if not known:
            raise source.error("no step has a target, so there is nothing to learn from.")
        if self.is_class:
            statistics: Statistics = {"classes": self.classes or class_names or _found_classes(known, source)}
        else:
            width = len(known[0]) if isinstance(known[0], list) else 1
            numbers = step_numbers(rows, source, num_steps, width).reshape(-1, width)
            statistics = self._fit_columns(numbers, source)
        statistics["num_steps"] = num_steps
        self.encode(values, source, statistics)
        return statistics

    def _encode_sequence(self, values: Values, source: Source, statistics: Statistics) -> np.ndarray:
        rows, num_steps = step_lists(values, source), statistics["num_steps"]
        if not self.is_class:
            numbers = step_numbers(rows, source, num_steps, self.num_labels(statistics))
            return self._as_labels(numbers, source, statistics)
        index_of = {name: index for index, name in enumerate(statistics["classes"])}
        labels = np.full((len(rows), num_steps), -100, dtype=np.int64)
        for row, steps in enumerate(rows):
            _require_steps(len(steps), num_steps, source, row)
            for step, entry in enumerate(steps):
                if not _is_missing(entry):
                    labels[row, step] = _class_index(entry, index_of, source, row)
        return labels

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
    if is_arrow(values):
        from .arrow import is_list, plain_array

        return not is_list(plain_array(values).type)
    return all(value is None or np.ndim(value) == 0 for value in values)


def _entries(values: Values) -> list[Any]:
    return [value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value for value in entries_of(values)]


def _found_classes(entries: list[Any], source: Source) -> list[str]:
    """Names of the classes in a training column: its sorted texts, or its whole numbers from 0 without gaps."""
    if any(isinstance(entry, str) for entry in entries):
        for row, entry in enumerate(entries):
            if not isinstance(entry, str):
                raise source.error(f"found {entry!r} among class names.", row)
        return sorted(set(entries))
    found = sorted({_whole(entry, source, row) for row, entry in enumerate(entries)})
    if found != list(range(len(found))):
        raise source.error(f"found classes {found[:20]}, expected 0, 1, 2, ... without gaps; give 'classes' names.")
    return [str(index) for index in found]


def _class_indices(entries: list[Any], source: Source, classes: list[str]) -> np.ndarray:
    index_of = {name: index for index, name in enumerate(classes)}
    return np.array([_class_index(entry, index_of, source, row) for row, entry in enumerate(entries)], dtype=np.int64)


def _class_index(entry: Any, index_of: Mapping[str, int], source: Source, row: int) -> int:
    if isinstance(entry, str):
        if entry not in index_of:
            raise source.error(f"unknown class {entry!r}; classes are {', '.join(list(index_of)[:50])}.", row)
        return index_of[entry]
    index = _whole(entry, source, row)
    if not 0 <= index < len(index_of):
        raise source.error(f"found class {index}, expected 0 to {len(index_of) - 1}.", row)
    return index


def _whole(entry: Any, source: Source, row: int) -> int:
    if _is_missing(entry):
        raise source.error("the target is missing.", row)
    if not isinstance(entry, (bool, int, float)) or not math.isfinite(entry) or entry != int(entry):
        raise source.error(f"found {entry!r}, expected the index or the name of a class.", row)
    return int(entry)


def _is_missing(entry: Any) -> bool:
    return entry is None or (isinstance(entry, float) and math.isnan(entry))


def nesting(values: Values) -> int:
    """How many levels of lists stand within a row: 0 for single numbers and texts."""
    for entry in _entries(values):
        levels = 0
        while entry is not None and (isinstance(entry, (list, tuple)) or getattr(entry, "ndim", 0) > 0):
            levels += 1
            entry = next((item for item in entry if item is not None), None)
        if entry is not None:
            return levels
    return 0


def step_lists(values: Values, source: Source) -> list[list[Any]]:
    """Each row's steps, None where one is missing; no step at all for a row without target.

    Raises:
        ValueError: a row is no list; the message names it.
    """
    rows: list[list[Any]] = []
    for row, entry in enumerate(_entries(values)):
        steps = [] if entry is None else entry.tolist() if hasattr(entry, "tolist") else entry
        if not isinstance(steps, (list, tuple)):
            raise source.error(f"found {entry!r}, expected a list with a target for each step.", row)
        rows.append([step.tolist() if hasattr(step, "tolist") else step for step in steps])
    return rows


def step_numbers(rows: list[list[Any]], source: Source, num_steps: int, width: int) -> np.ndarray:
    """Steps of numbers as (rows, num_steps, width) float64, NaN where missing and after the last step.

    Raises:
        ValueError: a row with more steps, a step of another width, or a value that is no finite number.
    """
    numbers = np.full((len(rows), num_steps, width), np.nan)
    for row, steps in enumerate(rows):
        _require_steps(len(steps), num_steps, source, row)
        if not steps:
            continue
        listed = any(isinstance(step, (list, tuple)) for step in steps)
        blank = [math.nan] * width if listed else math.nan
        found = as_array([blank if step is None else step for step in steps], source, row)
        found = found if listed else found[:, None]
        if found.shape[1:] != (width,):
            raise source.error(f"found steps of {shape_text(found.shape[1:])} numbers, expected {width}.", row)
        if np.isinf(found).any():
            raise source.error("found an infinite value; numbers must be finite, NaN where missing.", row)
        numbers[row, : len(steps)] = found
    return numbers


def _require_steps(found: int, num_steps: int, source: Source, row: int) -> None:
    if found > num_steps:
        raise source.error(
            f"found {found} steps, expected at most {num_steps}. That is 'num_steps' of the target or, where it is "
            "not given, the longest row of the training split.",
            row,
        )


def item_ids(values: Values, source: Source) -> np.ndarray:
    """Whole numbers, (rows,) int64, that are equal where rows are of the same item; -100 where it is missing.

    Numbers stay as they are. Texts become the first 63 bits of their hash, so that rows of any split can be compared.

    Raises:
        ValueError: neither a text nor a whole number from 0 below 2**63; the message names the row.
    """
    ids = np.full(len(values), -100, dtype=np.int64)
    for row, entry in enumerate(_entries(values)):
        if isinstance(entry, str):
            ids[row] = int.from_bytes(hashlib.sha256(entry.encode()).digest()[:8], "big") >> 1
        elif not _is_missing(entry):
            number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
            if not (number and 0 <= entry < 2**63 and entry == int(entry)):
                raise source.error(f"found {entry!r}, expected an item's id: a text or a whole number from 0.", row)
            ids[row] = int(entry)
    return ids


def best_matches(logits: Tensor, num_matches: int = 10) -> list[tuple[list[int], list[float]]]:
    """For each query the best candidates and their probabilities among all, best first.

    Args:
        logits: (queries, candidates). Rows and columns of zeros lack the modality: such a query has no matches, and
            such a candidate is nobody's.
        num_matches: how many candidates are named at most.
    """
    logits = torch.as_tensor(logits).detach().cpu().double()
    there = (logits != 0).any(dim=0)
    candidates = there.nonzero().flatten()
    scores, places = logits[:, there].softmax(dim=1).topk(min(num_matches, len(candidates)), dim=1)
    matches = candidates[places]
    return [
        (matches[row].tolist(), scores[row].tolist()) if bool((logits[row] != 0).any()) else ([], [])
        for row in range(len(logits))
    ]


def name_matches(modality: str, matches: tuple[list[int], list[float]]) -> dict[str, Any]:
    """One query's best matches in words: `{"sound_matches": [rows], "sound_scores": [probabilities]}`."""
    rows, scores = matches
    return {f"{modality}_matches": rows, f"{modality}_scores": scores}


def _as_lists(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Dicts of equal keys as one dict of lists, nested dicts likewise."""
    return {
        key: _as_lists([step[key] for step in steps]) if isinstance(value, dict) else [step[key] for step in steps]
        for key, value in steps[0].items()
    }
