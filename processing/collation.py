"""Encoded rows to padded tensors with their masks, and batches to a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

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
