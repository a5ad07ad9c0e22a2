"""Arguments of a processor call, one sample or many, as one column for each modality."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .rows import Source

# The axes of an object that is no number, list or array, given whether it stands in a list.
ObjectNdim = Callable[[Any, bool], int]
# Values of several raw columns as one sample or a list of them.
Join = Callable[[list[Any]], Any]


def arrange_samples(
    task: str,
    entries: Mapping[str, Mapping[str, Any]],
    ndims: Mapping[str, int],
    object_ndims: Mapping[str, ObjectNdim],
    joins: Mapping[str, Join],
    samples: Mapping[str, Any],
) -> tuple[dict[str, Any], bool]:
    """Keyword arguments as one list of samples for each of the task's modalities.

    Args:
        task: name of the task.
        entries: modality to its `column` or `columns`.
        ndims: modality to the axes of one raw sample.
        object_ndims: modality to the axes that a text, bytes, a mapping or a picture counts as.
        joins: modality to what makes samples of the values of its several `columns`.
        samples: what the caller gave, by modality or raw column.

    Returns:
        Modality to its samples, in the order of `entries`, and whether the caller gave a single sample.

    Raises:
        ValueError: an argument is unknown or missing, or some arguments are one sample and others several.
    """
    given = dict(samples)
    values: dict[str, Any] = {}
    for modality, entry in entries.items():
        columns = entry.get("columns")
        if modality in given:
            values[modality] = given.pop(modality)
            mapping = values[modality]
            if columns is not None and isinstance(mapping, Mapping) and any(column in mapping for column in columns):
                for column in columns:
                    if column not in mapping:
                        raise ValueError(f"Task {task!r}: modality {modality!r} lacks its column {column!r}.")
                values[modality] = joins[modality]([mapping[column] for column in columns])
        elif columns is not None and all(column in given for column in columns):
            values[modality] = joins[modality]([given.pop(column) for column in columns])
        elif entry.get("column") in given:
            values[modality] = given.pop(entry["column"])
        else:
            raise ValueError(f"Task {task!r}: modality {modality!r} is not given; where it is absent, pass None.")
    if given:
        known = ", ".join(entries)
        raise ValueError(f"Task {task!r}: unknown argument {next(iter(given))!r}; its modalities are {known}.")
    single = _is_single(task, entries, values, ndims, object_ndims)
    if single:
        return {modality: [value] for modality, value in values.items()}, True
    counts = {modality: len(value) for modality, value in values.items() if value is not None}
    count = max(counts.values(), default=0)
    for modality, found in counts.items():
        if found != count:
            raise ValueError(f"Task {task!r}: modality {modality!r} has {found} samples, others have {count}.")
    return {modality: [None] * count if value is None else value for modality, value in values.items()}, False


def chosen_columns(
    task: str, batch: Mapping[str, Any] | Sequence[Mapping[str, Any]], known: Sequence[str]
) -> dict[str, Any]:
    """The columns of a row, of a slice of a data set or of a list of rows that a task knows.

    Raises:
        ValueError: something else, or rows of which some lack a column.
    """
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in batch if name in known}
    if not isinstance(batch, (list, tuple)) or not batch or not all(isinstance(row, Mapping) for row in batch):
        raise ValueError(
            f"Task {task!r}: a batch is a mapping of columns or a list of rows, not {type(batch).__name__}."
        )
    names = [name for name in batch[0] if name in known]
    for row, values in enumerate(batch):
        for name in names:
            if name not in values:
                raise ValueError(f"Task {task!r}, row {row}: there is no column {name!r}, which row 0 has.")
    return {name: [row[name] for row in batch] for name in names}


def _is_single(
    task: str,
    entries: Mapping[str, Mapping[str, Any]],
    values: Mapping[str, Any],
    ndims: Mapping[str, int],
    object_ndims: Mapping[str, ObjectNdim],
) -> bool:
    votes: dict[bool, str] = {}
    for modality, value in values.items():
        depth, ndim = _depth(value, object_ndims[modality]), ndims[modality]
        if depth is None:
            continue
        if depth not in (ndim, ndim + 1):
            place = _source(task, modality, entries)
            if depth > ndim + 1 and isinstance(value, (list, tuple)):  # a list of samples, one of which is no sample
                depths = [_depth(item, object_ndims[modality], True) or 0 for item in value]
                row = next(index for index, item in enumerate(depths) if item > ndim)
                raise place.error(f"found {depths[row]} axes, expected {ndim}.", row)
            raise place.error(f"found {depth} axes; one sample has {ndim}, a batch {ndim + 1}.", 0)
        votes[depth == ndim] = modality
    if len(votes) == 2:
        many = votes[False]
        raise _source(task, votes[True], entries).error(
            f"found one sample, while {many!r} (column {_source(task, many, entries).column!r}) is a batch; give all "
            "alike.",
            0,
        )
    return votes.popitem()[0] if votes else True


def _source(task: str, modality: str, entries: Mapping[str, Mapping[str, Any]]) -> Source:
    entry = entries[modality]
    return Source(task, entry.get("column") or "+".join(entry["columns"]), modality)


def _depth(value: Any, object_ndim: ObjectNdim, nested: bool = False) -> int | None:
    """Axes of nested lists, arrays or objects; None where nothing is found to tell."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        found = [depth for depth in (_depth(item, object_ndim, True) for item in value) if depth is not None]
        return 1 + max(found) if found else None
    if isinstance(value, (str, bytes, os.PathLike, Mapping)) or hasattr(value, "convert"):
        return object_ndim(value, nested)
    return int(np.ndim(value))
