"""Arrow columns: raw ones as flat numpy arrays, encoded ones as lists and back.

Other modules of this room import it where a function meets a column, so that raw Python values need no pyarrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .rows import Rows, Source
from .serializers import Elements, ElementShape


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


def rows_of_column(column: pa.ChunkedArray | pa.Array, source: Source, expected: tuple[int, ...] | None) -> Rows:
    """`read_rows` for a column: lists of numbers, nested as deep as they are.

    Args:
        column: one list per row; null where it is absent.
        source: where the values come from.
        expected: sizes of the axes after the first; None where the first row that holds values decides.

    Raises:
        ValueError: not numeric, or the shape of a row differs; the message names the row, found and expected.
    """
    array = plain_array(column)
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
    numbers = _numbers(array, source, first_row)
    return Rows(numbers.reshape(int(lengths.sum()), *tail), lengths, present, source)


def numbers_of_column(column: pa.ChunkedArray | pa.Array, source: Source) -> np.ndarray:
    """`read_numbers` for a column: one number per row as float64, (rows,); null becomes NaN.

    Raises:
        ValueError: an entry is not a single number; the message names the row.
    """
    array = plain_array(column)
    if is_list(array.type):
        raise source.error(f"found a list ({array.type}), expected a single number.", 0)
    return _numbers(array, source, 0).astype(np.float64)


def objects_of_column(column: pa.ChunkedArray | pa.Array) -> Any:
    """Python values of a column of files, texts or structures, or of lists of them; any other column as it is."""
    array = plain_array(column)
    kind = array.type
    while is_list(kind):
        kind = kind.value_type
    return array.to_pylist() if _is_object(kind) else array


def fields_of_column(column: pa.ChunkedArray | pa.Array, names: Sequence[str]) -> list[pa.Array] | None:
    """Fields of a column of structures, null where a structure is; None for another column or other structures."""
    array = plain_array(column)
    if not pa.types.is_struct(array.type) or any(array.type.get_field_index(name) < 0 for name in names):
        return None
    return [pc.struct_field(array, name) for name in names]


def elements_to_arrow(elements: Elements, shape: ElementShape) -> pa.ListArray:
    """One flat list per row, row-major over axes and channels."""
    width = int(np.prod(shape.tail, dtype=np.int64))
    ends = np.cumsum(elements.lengths) * width
    if len(ends) and ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{ends[-1]} numbers are too many for one batch of rows; encode fewer rows at a time.")
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(elements.values.reshape(-1)))


def elements_from_arrow(column: pa.ChunkedArray | pa.Array, shape: ElementShape, owner: str) -> Elements:
    """What `elements_to_arrow` made a column of.

    Args:
        column: flat lists of float32 or int32.
        shape: shape of one row.
        owner: what errors begin with, such as `Task 'digits', modality 'image'`.

    Raises:
        ValueError: not such lists, or a length that the shape does not divide: made by another processor.
    """
    array = plain_array(column)
    expected = pa.float32() if shape.num_channels is not None else pa.int32()
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)) or array.type.value_type != expected:
        raise ValueError(f"{owner}: found {array.type}, expected lists of {expected}; encode with this processor.")
    width = int(np.prod(shape.tail, dtype=np.int64))
    sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    fixed = None if shape.varies or shape.axes[0] is None else shape.axes[0] * width
    wrong = sizes % width != 0 if fixed is None else (sizes != fixed) & (sizes != 0)
    if wrong.any():
        found, wanted = int(sizes[wrong.argmax()]), f"a multiple of {width}" if fixed is None else str(fixed)
        raise ValueError(f"{owner}: found {found} numbers in a row, expected {wanted}; encode with this processor.")
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return Elements(flat.reshape(-1, *shape.tail), sizes // width)


def labels_to_arrow(labels: np.ndarray) -> pa.Array:
    """A column of (rows,) numbers, or of one flat list per row of (rows, *shape)."""
    if labels.ndim == 1:
        return pa.array(labels)
    rows = labels.reshape(len(labels), -1)
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(rows.reshape(-1)))


def labels_from_arrow(column: pa.ChunkedArray | pa.Array, shape: Sequence[int]) -> np.ndarray:
    """What `labels_to_arrow` made a column of: (rows, *shape), int64 or float32."""
    array = plain_array(column)
    flat = array.flatten() if is_list(array.type) else array
    kind = np.int64 if pa.types.is_integer(flat.type) else np.float32
    return np.array(flat.to_numpy(zero_copy_only=False), dtype=kind).reshape(len(column), *shape)


def _numbers(array: pa.Array, source: Source, row: int) -> np.ndarray:
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


def _is_object(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return pa.types.is_struct(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or binary
