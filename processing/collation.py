"""Encoded rows to padded tensors with their masks, and batches to a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from transformers import BatchFeature

from .rows import plain_array
from .serializers import Elements, ElementShape


class HighMMTBatch(BatchFeature):
    """A `BatchFeature` whose tensors sit in nested dicts, as `HighMMTModel` takes them: `model(**batch)`."""

    def to(self, *args: Any, **kwargs: Any) -> HighMMTBatch:
        """The same batch on another device or in another floating dtype; ids, masks and class labels keep theirs.

        Args:
            args, kwargs: a device, a dtype, or both, as in `torch.Tensor.to`.
        """
        self.data = to_device(self.data, *args, **kwargs)
        return self


def to_device(batch: Any, *args: Any, **kwargs: Any) -> Any:
    """A copy of nested dicts, lists and tuples with every tensor sent through `Tensor.to`.

    Tensors that are not floating (ids, masks, class labels) change their device only.
    """
    if isinstance(batch, Tensor):
        if batch.is_floating_point():
            return batch.to(*args, **kwargs)
        kept = [arg for arg in args if not isinstance(arg, torch.dtype)]
        named = {name: value for name, value in kwargs.items() if name != "dtype"}
        return batch.to(*kept, **named) if kept or named.get("device") is not None else batch
    if isinstance(batch, Mapping):
        return {key: to_device(value, *args, **kwargs) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, *args, **kwargs) for value in batch)
    return batch


def pad_elements(elements: Elements, shape: ElementShape, pad_value: int = 0) -> tuple[Tensor, Tensor | None]:
    """Rows padded to one length, that of the longest row (or of the shape, where it is fixed), and their mask.

    Args:
        elements: encoded rows; a length of 0 is an absent modality.
        shape: shape of one row.
        pad_value: what padding holds: 0, or the padding token's id.

    Returns:
        (batch, *axes, channels) float32, or (batch, tokens) int64 for token ids; and a (batch, *axes) bool mask, True
        where an element is real, or None where all are. A batch whose rows are all empty has one masked element.
    """
    lengths, tail = elements.lengths, shape.tail
    size = max(int(lengths.max(initial=0)), 1)
    if shape.axes[0] is not None and not shape.varies:
        size = shape.axes[0]
    values = elements.values if shape.num_channels is not None else elements.values.astype(np.int64)
    if (lengths == size).all() and len(lengths):
        return torch.from_numpy(values.reshape(len(lengths), size, *tail).copy()), None
    real = np.arange(size) < lengths[:, None]  # (batch, size)
    padded = np.full((len(lengths), size, *tail), pad_value, dtype=values.dtype)
    padded[real] = values
    axes = shape.axes[1:]
    mask = torch.from_numpy(real).reshape(len(lengths), size, *[1] * len(axes))
    return torch.from_numpy(padded), mask.expand(len(lengths), size, *[n for n in axes if n is not None]).contiguous()


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
