"""Raw columns, from Arrow or Python, as flat numpy arrays: the form every serializer reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Values: TypeAlias = "pa.ChunkedArray | pa.Array | np.ndarray | Sequence[Any]"

MAX_FIT_NUMBERS = 2**27  # pixels, or numbers of spectrograms, that statistics are taken from


class RowError(ValueError):
    """A row that cannot be read.

    Attributes:
        row: its number in the raw split.
    """

    row: int = -1


@dataclass(frozen=True)
class Source:
    """Where values come from, for error messages.

    Args:
        task: name of the task.
        column: raw column, as the dataset names it.
        modality: name of the modality; None for targets.
        first_row: index, in the raw split, of the first of the values.
        row_step: how many rows of the raw split there are from one of the values to the next.
        numbers: number of every row in the raw split, where some of its rows are left out.
    """

    task: str
    column: str
    modality: str | None = None
    first_row: int = 0
    row_step: int = 1
    numbers: np.ndarray | None = field(default=None, compare=False, repr=False)

    def error(self, message: str, row: int | None = None) -> ValueError:
        """A `ValueError` that names task, modality, column and, counted from `first_row`, the row (`RowError`)."""
        place = f"Task {self.task!r}, "
        if self.modality is not None:
            place += f"modality {self.modality!r}, "
        place += f"column {self.column!r}"
        if row is None:
            return ValueError(f"{place}: {message}")
        number = self.first_row + row * self.row_step
        number = int(number if self.numbers is None else self.numbers[number])
        error = RowError(f"{place}, row {number}: {message}")
        error.row = number
        return error


@dataclass(frozen=True)
class Columns:
    """Several raw columns side by side, for tables.

    Args:
        names: one for each column.
        columns: one value for each row: Arrow columns or sequences.
    """

    names: list[str]
    columns: list[Any]

    def __len__(self) -> int:
        return len(self.columns[0])


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
    if is_arrow(values):
        from .arrow import rows_of_column

        rows = rows_of_column(values, source, expected)
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
    if is_arrow(values):
        from .arrow import numbers_of_column

        return numbers_of_column(values, source)
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value is not None:
            array = as_array(value, source, row)
            if array.ndim:
                raise source.error(f"found shape {shape_text(array.shape)}, expected a single number.", row)
            numbers[row] = array
    return numbers


def some_rows(values: Values, source: Source, numbers_of: Callable[[Any, Source], int]) -> tuple[Values, Source]:
    """Evenly spaced rows of a column, as many as hold `MAX_FIT_NUMBERS`; all of them, in most cases.

    Args:
        values: a column of rows that are about as large as the first one that is there.
        source: where it comes from.
        numbers_of: how many numbers a column has, given the column and where it comes from.
    """
    first = next((row for row in range(len(values)) if entries_of(values[row : row + 1])[0] is not None), 0)
    numbers = numbers_of(values[first : first + 1], replace(source, first_row=source.first_row + first))
    step = -(-len(values) * numbers // MAX_FIT_NUMBERS)
    return (values, source) if step <= 1 else (values[::step], replace(source, row_step=step))


def entries_of(values: Values) -> list[Any]:
    """The rows of an Arrow column or of a sequence as Python values."""
    if is_arrow(values):
        from .arrow import plain_array

        values = plain_array(values).to_pylist()
    return list(values)


def is_arrow(values: Values) -> TypeGuard[pa.ChunkedArray | pa.Array]:
    """True for an Arrow column; asked without pyarrow, which raw Python values do not need."""
    return hasattr(values, "to_pylist")


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
    if isinstance(value, (str, bytes)):
        raise source.error(f"found {type(value).__name__} {str(value)[:40]!r}, expected numbers.", row)
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
