"""Raw columns, from Arrow or Python, as flat numpy arrays: the form every serializer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Values: TypeAlias = pa.ChunkedArray | pa.Array | np.ndarray | Sequence[Any]


@dataclass(frozen=True)
class Source:
    """Where values come from, for error messages.

    Args:
        task: name of the task.
        column: raw column, as the dataset names it.
        modality: name of the modality; None for targets.
        first_row: index, in the raw split, of the first of the values.
    """

    task: str
    column: str
    modality: str | None = None
    first_row: int = 0

    def error(self, message: str, row: int | None = None) -> ValueError:
        """A `ValueError` that names task, modality, column and, counted from `first_row`, the row."""
        place = f"Task {self.task!r}, "
        if self.modality is not None:
            place += f"modality {self.modality!r}, "
        place += f"column {self.column!r}"
        if row is not None:
            place += f", row {self.first_row + row}"
        return ValueError(f"{place}: {message}")


@dataclass(frozen=True)
class Rows:
    """Numbers of several rows, end to end; only the first axis of a row may differ in length.

    Args:
        values: (sum of lengths, *tail), any numeric dtype; missing numbers are NaN.
        lengths: (rows,) int64, size of each row's first axis; 0 for an absent row (None) and for an empty one.
        present: (rows,) bool, False where the whole row is None.
        source: where the values come from.
    """

    values: np.ndarray
    lengths: np.ndarray
    present: np.ndarray
    source: Source

    @property
    def tail(self) -> tuple[int, ...]:
        """Sizes of the axes after the first."""
        return self.values.shape[1:]

    def row_of(self, element: int) -> int:
        """The row that holds the given position of the first axis of `values`."""
        return int(np.searchsorted(np.cumsum(self.lengths), element, side="right"))

    def as_float(self) -> np.ndarray:
        """The values as a new float64 array, checked.

        Raises:
            ValueError: a value is infinite; the message names the row.
        """
        self.require_finite()
        return self.values.astype(np.float64)

    def require_finite(self) -> None:
        """Refuse infinite values; NaN, a missing one, passes.

        Raises:
            ValueError: naming the first row with one.
        """
        if self.values.dtype.kind != "f":
            return
        infinite = np.isinf(self.values)
        if infinite.any():
            row = self.row_of(int(infinite.reshape(len(self.values), -1).any(axis=1).argmax()))
            raise self.source.error("found an infinite value; numbers must be finite, NaN where missing.", row)

    def require_length(self, length: int) -> None:
        """Refuse rows whose first axis is neither empty nor of the given size.

        Raises:
            ValueError: naming the first such row, with the shape that was found and the one expected.
        """
        wrong = (self.lengths != length) & (self.lengths > 0)
        if wrong.any():
            row = int(wrong.argmax())
            found, expected = (int(self.lengths[row]), *self.tail), (length, *self.tail)
            raise self.source.error(f"found shape {shape_text(found)}, expected {shape_text(expected)}.", row)


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape for messages, `16 x 15`; `any` for an axis that is free."""
    return " x ".join("any" if size is None else str(size) for size in shape) or "a single number"


def read_rows(values: Values, source: Source, tail: Sequence[int] | None = None) -> Rows:
    """Numeric rows from an Arrow column, an array whose first axis is the rows, or a sequence of samples.

    Args:
        values: one entry per row: nested lists, arrays, tensors or None (absent). The input is never changed.
        source: where the values come from.
        tail: expected sizes of the axes after the first; without it the first row that holds values decides.

    Raises:
        ValueError: not numeric, or the shape of a row differs; the message names the row, found and expected.
    """
    expected = None if tail is None else tuple(tail)
    if isinstance(values, (pa.ChunkedArray, pa.Array)):
        rows = _from_arrow(plain_array(values), source, expected)
    else:
        rows = _from_samples(values, source, expected)
    if expected is not None and rows.tail != expected:
        if rows.values.size or len(rows.values):
            row = int((rows.lengths > 0).argmax())
            found = shape_text((int(rows.lengths[row]), *rows.tail))
            raise source.error(f"found shape {found}, expected {shape_text((None, *expected))}.", row)
        return Rows(np.zeros((0, *expected)), rows.lengths, rows.present, source)
    return rows


def read_numbers(values: Values, source: Source) -> np.ndarray:
    """One number per row as float64, (rows,); None and NaN become NaN.

    Raises:
        ValueError: an entry is not a single number; the message names the row.
    """
    if isinstance(values, (pa.ChunkedArray, pa.Array)):
        array = plain_array(values)
        if is_list(array.type):
            raise source.error(f"found a list ({array.type}), expected a single number.", 0)
        return _arrow_numbers(array, source, 0).astype(np.float64)
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value is not None:
            array = as_array(value, source, row)
            if array.ndim:
                raise source.error(f"found shape {shape_text(array.shape)}, expected a single number.", row)
            numbers[row] = array
    return numbers


def plain_array(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One Arrow array without chunks and without extension types (`datasets.Array2D` and its relatives)."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # some versions of pyarrow keep one chunk as chunked
            values = values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    return values


def is_list(kind: pa.DataType) -> bool:
    """True for each of Arrow's list types."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _from_arrow(array: pa.Array, source: Source, expected: tuple[int, ...] | None) -> Rows:
    present = array.is_valid().to_numpy(zero_copy_only=False)
    if not is_list(array.type):
        if not pa.types.is_null(array.type):
            raise source.error(f"found {array.type}, expected a list of numbers.", 0)
        return Rows(np.zeros((0, *(expected or ()))), np.zeros(len(array), np.int64), present, source)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(lengths)
    array = array.flatten()
    tail: list[int] = []
    per_element = 1  # how many entries of `array` one element of the first axis holds
    while is_list(array.type):
        fixed = array.type.list_size if pa.types.is_fixed_size_list(array.type) else None
        axis = len(tail)
        wanted = expected[axis] if expected is not None and axis < len(expected) else fixed
        if array.null_count or fixed is None:
            sizes = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
            if wanted is None and len(sizes):
                wanted = int(sizes[0])
            wrong = sizes != wanted
            if wrong.any():
                first = int(wrong.argmax())
                row = int(np.searchsorted(ends, first // per_element, side="right"))
                found = "a missing (null) list" if sizes[first] < 0 else f"a list of {sizes[first]} values"
                raise source.error(f"found {found} on axis {axis + 2}, expected a list of {wanted} values.", row)
        elif wanted != fixed and len(array):
            row = int((lengths > 0).argmax())
            raise source.error(f"found lists of {fixed} values on axis {axis + 2}, expected {wanted}.", row)
        size = fixed if wanted is None else wanted
        tail.append(0 if size is None else size)
        per_element *= tail[-1]
        array = array.flatten()
    first_row = int((lengths > 0).argmax()) if len(lengths) else 0
    numbers = _arrow_numbers(array, source, first_row)
    return Rows(numbers.reshape(int(lengths.sum()), *tail), lengths, present, source)


def _arrow_numbers(array: pa.Array, source: Source, row: int) -> np.ndarray:
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise source.error(f"found {kind} values, expected numbers.", row)
    return array.to_numpy(zero_copy_only=False)  # nulls become NaN


def _from_samples(values: Values, source: Source, expected: tuple[int, ...] | None) -> Rows:
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and values.ndim >= 2:
        lengths = np.full(len(values), values.shape[1], np.int64)
        flat = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
        return Rows(flat, lengths, np.ones(len(values), bool), source)
    arrays: list[np.ndarray] = []
    lengths, present = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    for row, value in enumerate(values):
        if value is None:
            continue
        array = as_array(value, source, row)
        if array.ndim == 0:
            raise source.error("found a single number, expected a list of numbers.", row)
        present[row], lengths[row] = True, len(array)
        if len(array) == 0:
            continue
        if expected is None:
            expected = array.shape[1:]
        if array.shape[1:] != expected:
            wanted = shape_text((None, *expected))
            raise source.error(f"found shape {shape_text(array.shape)}, expected {wanted}.", row)
        arrays.append(array)
    flat = np.concatenate(arrays) if arrays else np.zeros((0, *(expected or ())))
    return Rows(flat, lengths, present, source)


def as_array(value: Any, source: Source, row: int) -> np.ndarray:
    """One sample (nested lists, array, tensor, number) as a numeric array; None inside becomes NaN.

    Raises:
        ValueError: not numeric, or ragged where it must not be; the message names the row.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if isinstance(value, (list, tuple)) and any(hasattr(item, "detach") for item in value):
        value = [item.detach().cpu() if hasattr(item, "detach") else item for item in value]
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise source.error("found lists of different lengths, expected a regular array of numbers.", row) from error
    if array.dtype.kind == "O":
        for item in array.reshape(-1):
            if not (item is None or isinstance(item, (bool, int, float, np.number, np.bool_))):
                raise source.error(f"found {type(item).__name__} {str(item)[:40]!r}, expected numbers.", row)
        try:
            array = array.astype(np.float64)
        except OverflowError as error:
            raise source.error("found a number too large for a float.", row) from error
    if array.dtype.kind not in "biuf":
        raise source.error(f"found {array.dtype} values, expected numbers.", row)
    return array
