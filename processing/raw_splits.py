"""What the processor does to all rows of a raw split, by way of `datasets`, and the rows of it that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from .arrow import elements_to_arrow, labels_to_arrow
from .plain_data import plain_copy
from .rows import RowError

if TYPE_CHECKING:
    from .processing_highmmt import HighMMTProcessor


def require_columns(dataset: Dataset, columns: Sequence[str], task: str) -> None:
    """Refuse what is no split, or one without these columns.

    Raises:
        ValueError: naming the task and the column.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Task {task!r}: give one split, a datasets.Dataset, not {type(dataset).__name__}.")
    for column in columns:
        if column not in dataset.column_names:
            known = ", ".join(dataset.column_names)
            raise ValueError(f"Task {task!r}: there is no column {column!r} in the data; its columns are {known}.")


def learn_split(processor: HighMMTProcessor, task: str, dataset: Dataset, limit: int) -> dict[int, str]:
    """Take the statistics of a training split; see `HighMMTProcessor.fit`."""
    bad: dict[int, str] = {}
    while True:
        bad = _learn(processor, task, dataset, bad, limit)
        if not limit:
            return bad
        # Not every serializer looks at every row, and the statistics are to be those of the rows that will be encoded.
        checked = _encode(processor, task, dataset, True, limit, rows_only=True)
        found = unreadable_rows(processor, task, dataset, checked, True)
        if found.keys() <= bad.keys():
            return bad
        bad |= found
        _require_few(bad, limit)


def encode_split(
    processor: HighMMTProcessor, task: str, dataset: Dataset, with_labels: bool, num_proc: int | None, limit: int
) -> Dataset:
    """A split without the rows that cannot be read; see `HighMMTProcessor.encode`."""
    encoded = _encode(processor, task, dataset, with_labels, limit, num_proc=num_proc)
    # Cached results may be of another limit, and several processes do not know of each other's rows.
    if len(dataset) - len(encoded) > limit:
        _require_few(unreadable_rows(processor, task, dataset, encoded, with_labels), limit)
    return encoded


def unreadable_rows(
    processor: HighMMTProcessor, task: str, dataset: Dataset, encoded: Dataset, with_labels: bool
) -> dict[int, str]:
    """Row to the reason, for the rows that are not among the encoded ones; see `HighMMTProcessor.unreadable_rows`."""
    if len(encoded) == len(dataset):
        return {}
    rows = dataset.select_columns(_columns(processor, task, with_labels)).with_format("arrow")
    reasons = {}
    for row in sorted(set(range(len(dataset))) - set(encoded["row"])):
        reasons[row] = f"Task {task!r}, row {row}: it could not be read when the rows were encoded."
        try:
            _encode_table(rows[[row]], [row], processor=processor, task=task, with_labels=with_labels)
        except ValueError as error:
            reasons[row] = str(error)
    return reasons


def _learn(
    processor: HighMMTProcessor, task: str, dataset: Dataset, bad: dict[int, str], limit: int
) -> dict[int, str]:
    """Take statistics without the bad rows; returns these, and those that are found to be so on the way."""
    feature = dataset.features.get(processor._targets[task].column)
    names = getattr(getattr(feature, "feature", feature), "names", None)  # of a sequence's elements
    learned = _map_raw(
        partial(_fit_table, processor=processor, task=task, names=names, bad=bad, limit=limit),
        dataset,
        _columns(processor, task, True),
        features={"statistics": "string", "bad_rows": "string"},
        batch_size=None,
        new_fingerprint=processor._fingerprint("fit", task, dataset, names, *([sorted(bad)] if limit else [])),
        desc=f"Fitting {task}",
    )[0]
    processor.statistics.update(json.loads(learned["statistics"]))
    found = {int(row): reason for row, reason in json.loads(learned["bad_rows"]).items()}
    _require_few(found, limit)
    return found


def _fit_table(
    table: pa.Table,
    *,
    processor: HighMMTProcessor,
    task: str,
    names: list[str] | None,
    bad: dict[int, str],
    limit: int,
) -> pa.Table:
    """One row: the statistics of a task, as JSON, and the rows they were taken without."""
    bad, kept = dict(bad), None
    while True:
        if bad:
            kept = np.setdiff1d(np.arange(len(table)), list(bad))
        try:
            rows = table if kept is None else table.filter(pa.array(np.isin(np.arange(len(table)), kept)))
            learned = plain_copy("statistics", _statistics(rows, kept, processor, task, names))
            return pa.table({"statistics": [json.dumps(learned)], "bad_rows": [json.dumps(bad)]})
        except RowError as error:
            bad[error.row] = str(error)
            _require_few(bad, limit)


def _statistics(
    rows: pa.Table, numbers: np.ndarray | None, processor: HighMMTProcessor, task: str, names: list[str] | None
) -> dict[str, Any]:
    """What is learned from some rows, given their numbers in the raw split (None: from 0 on)."""
    learned = {}
    for modality in processor._names(task):
        source = replace(processor._source(task, modality), numbers=numbers)
        values = processor._column(task, modality, rows)
        learned[f"{task}/{modality}"] = processor.serializer(task, modality).fit(values, source)
    target = processor._targets[task]
    labels = None if target.column is None else rows[target.column]
    source = replace(processor._label_source(task), numbers=numbers)
    return {**learned, f"{task}/labels": target.fit(labels, source, names)}


def _encode(
    processor: HighMMTProcessor,
    task: str,
    dataset: Dataset,
    with_labels: bool,
    limit: int,
    *,
    rows_only: bool = False,
    num_proc: int | None = None,
) -> Dataset:
    """The rows that can be encoded; or, of these, the numbers alone."""
    encode: Any = partial(_encode_table, processor=processor, task=task, with_labels=with_labels, rows_only=rows_only)
    features = processor._encoded_features(task, with_labels)
    if rows_only:
        features = {"row": features["row"]}
    if limit:
        nothing = Features(features).arrow_schema.empty_table()
        encode = partial(_encode_readable, encode=encode, nothing=nothing, limit=limit, bad={})
    more = [with_labels, *(["skips"] if limit else []), *(["rows"] if rows_only else [])]
    return _map_raw(
        encode,
        dataset,
        _columns(processor, task, with_labels),
        features=features,
        with_indices=True,
        batch_size=processor._rows_per_batch(task),
        num_proc=num_proc,
        new_fingerprint=processor._fingerprint("encode", task, dataset, *more),
        desc=f"Checking {task}" if rows_only else f"Encoding {task}",
    )


def _encode_readable(
    table: pa.Table, indices: list[int], *, encode: Any, nothing: pa.Table, limit: int, bad: dict[int, str]
) -> pa.Table:
    """Encoded rows without those that cannot be, which are added to `bad`; `nothing` where none can be."""
    try:
        return encode(table, indices)
    except ValueError:
        parts, before = [], len(bad)
        for position, row in enumerate(indices):
            try:
                parts.append(encode(table.slice(position, 1), [row]))
            except ValueError as reason:
                bad[row] = str(reason)
                _require_few(bad, limit)
        if len(bad) == before:  # no row of its own is to blame
            raise
        return pa.concat_tables(parts) if parts else nothing


def _encode_table(
    table: pa.Table,
    indices: list[int],
    *,
    processor: HighMMTProcessor,
    task: str,
    with_labels: bool,
    rows_only: bool = False,
) -> pa.Table:
    first = int(indices[0])
    columns: dict[str, Any] = {"row": pa.array(indices, pa.int64())}
    for modality in processor._names(task):
        values = processor._column(task, modality, table)
        source, statistics = processor._source(task, modality, first), processor._fitted(task, modality)
        elements = processor.serializer(task, modality).encode(values, source, statistics)
        columns[modality] = elements_to_arrow(elements, processor.shape(task, modality))
    if with_labels:
        target, statistics = processor._targets[task], processor._fitted(task, "labels")
        if target.column is None:  # a retrieval in which every row is an item of its own
            labels = np.array(indices, dtype=np.int64)
        else:
            labels = target.encode(table[target.column], processor._label_source(task, first), statistics)
        columns["labels"] = labels_to_arrow(labels)
    return pa.table({"row": columns["row"]} if rows_only else columns)


def _map_raw(function: Any, dataset: Dataset, columns: list[str], **options: Any) -> Dataset:
    """`Dataset.map` over some raw columns as Arrow tables; the result replaces them and is cached."""
    options["features"] = Features(
        {name: Value(kind) if isinstance(kind, str) else kind for name, kind in options["features"].items()}
    )
    rows = dataset.select_columns(columns).with_format("arrow")
    return rows.map(function, batched=True, remove_columns=columns, **options).with_format(None)


def _columns(processor: HighMMTProcessor, task: str, with_labels: bool) -> list[str]:
    """The raw columns that are read, each once."""
    found = processor._columns_with_target(task) if with_labels else processor._raw_columns(task)
    return list(dict.fromkeys(found))


def _require_few(bad: dict[int, str], limit: int) -> None:
    """Refuse more bad rows than may be left out.

    Raises:
        RowError: why the first that is too many cannot be read.
    """
    if len(bad) <= limit:
        return
    row, reason = list(bad.items())[limit]
    if limit:
        before = "1 row was" if limit == 1 else f"{limit} rows were"
        reason = f"{reason.rstrip('.')}. {before} left out before it, which is the limit."
    error = RowError(reason)
    error.row = row
    raise error
