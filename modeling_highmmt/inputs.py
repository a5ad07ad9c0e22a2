"""Inputs as the network reads them: position codes, modality codes, and sequences of standard width without zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import logging

from ..configuration import ModalityConfig

logger = logging.get_logger(__name__)


def _slow_on_this_cpu() -> frozenset[torch.dtype]:
    if not torch.backends.mkldnn.is_available():
        return frozenset({torch.bfloat16, torch.float16})
    fast = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, is_fast in fast.items() if not is_fast)


# Without instructions for them, torch multiplies matrices of these types by loops, tens of times slower than float32.
_SLOW_ON_CPU = _slow_on_this_cpu()


def _fourier_features(points: Tensor, num_bands: int, max_frequency: float) -> Tensor:
    """Sines, cosines and the points `(...)` themselves, `(..., 2 * num_bands + 1)` in fp32."""
    last = math.log2(max_frequency / 2.0)
    exponents = torch.linspace(1.0, last, num_bands, dtype=points.dtype, device=points.device)
    angles = torch.pi * points[..., None] * exponents.exp2()
    return torch.cat([angles.sin(), angles.cos(), points[..., None]], dim=-1).to(torch.float32)


@lru_cache(maxsize=512)
def _axis_positions(size: int, num_bands: int, max_frequency: float, device: torch.device) -> Tensor:
    # A tensor first made inside inference mode could not be used for training later.
    with torch.inference_mode(False), torch.no_grad():
        points = torch.arange(size, dtype=torch.float64) * 2 / max(size - 1, 1) - 1
        return _fourier_features(points, num_bands, max_frequency).to(device)


def one_hot_code(column: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """A modality's embedding, `(width,)`: 1 at its column."""
    return F.one_hot(torch.tensor(column), width).to(device=device, dtype=torch.float32)


def axis_positions(size: int, num_bands: int, max_frequency: float, device: torch.device | str = "cpu") -> Tensor:
    """Fourier features of a grid of `size` points from -1 to 1.

    Args:
        size: number of points; a single point lies at -1.
        num_bands: frequencies, spaced evenly in log2 from 2 to `max_frequency / 2`.
        max_frequency: sets the last frequency; values below 4 make the frequencies fall.
        device: where the result lives.

    Returns:
        `(size, 2 * num_bands + 1)`: sines, cosines, the point itself.

    Source: Liang et al., TMLR 05/2023, appendix B.1, with the public code's frequencies.
    """
    if torch.compiler.is_compiling():
        return _axis_positions.__wrapped__(size, num_bands, float(max_frequency), torch.device(device))
    return _axis_positions(size, num_bands, float(max_frequency), torch.device(device))


def grid_positions(shape: Sequence[int], modality: ModalityConfig, device: torch.device | str = "cpu") -> Tensor:
    """Positions of every element of a grid, axes flattened row by row.

    Args:
        shape: size of each axis. With `modality.max_length`, the first axis covers the start of that many points.
        modality: says how many bands each axis has.
        device: where the result lives.

    Returns:
        `(elements, num_position_channels)`; width 0 where the modality is not ordered.
    """
    return _grid(tuple(shape), *_bands(modality), torch.device(device))


def _bands(modality: ModalityConfig) -> tuple[int, float, int | None, bool]:
    """What positions on a grid depend on."""
    return modality.num_frequency_bands, float(modality.max_frequency), modality.max_length, modality.ordered


def _grid(
    shape: tuple[int, ...],
    num_bands: int,
    max_frequency: float,
    max_length: int | None,
    ordered: bool,
    device: torch.device,
) -> Tensor:
    elements = math.prod(shape)
    if not ordered:
        return torch.zeros(elements, 0, device=device)
    codes = []
    for axis, size in enumerate(shape):
        span = max_length if axis == 0 and max_length is not None else size
        code = axis_positions(span, num_bands, max_frequency, device)[:size]
        view = [1] * len(shape) + [code.shape[1]]
        view[axis] = size
        codes.append(code.view(view).expand(*shape, -1))
    return torch.cat(codes, dim=-1).reshape(elements, -1)


def ragged_positions(lengths: Tensor, shape: Sequence[int], modality: ModalityConfig) -> Tensor:
    """Positions of every element of padded samples, each of which spans -1 to 1 by its own size.

    Args:
        lengths: size of each sample along each axis, `(batch, axes)`, at least 1.
        shape: size of each axis with padding.
        modality: as for `grid_positions`; with `max_length` the first axis stands where it does in any other sample.

    Returns:
        `(batch, elements, num_position_channels)`. What lies beyond a sample's size is padding and means nothing.
    """
    # Grids are made in float64 too; not every accelerator has it.
    dtype = torch.float32 if lengths.device.type == "mps" else torch.float64
    codes = []
    for axis, size in enumerate(shape):
        span = lengths[:, axis, None]
        if axis == 0 and modality.max_length is not None:
            span = torch.full_like(span, modality.max_length)
        index = torch.arange(size, dtype=dtype, device=lengths.device)
        points = index * 2 / (span - 1).clamp_min(1) - 1  # (batch, size)
        code = _fourier_features(points, modality.num_frequency_bands, float(modality.max_frequency))
        view = [lengths.shape[0], *[1] * len(shape), code.shape[-1]]
        view[1 + axis] = size
        codes.append(code.view(view).expand(-1, *shape, -1))
    return torch.cat(codes, dim=-1).flatten(1, -2)


def autocast_where_faster(device: torch.device) -> AbstractContextManager[object]:
    """Autocast as the caller has set it, but off on a processor that has no arithmetic for its dtype.

    There the same step in float32 is more exact and tens of times as fast.

    Args:
        device: where the model is.
    """
    is_wasted = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not is_wasted or torch.get_autocast_dtype("cpu") not in _SLOW_ON_CPU:
        return nullcontext()
    if not torch.compiler.is_compiling():
        name = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.")
        logger.warning_once(
            f"This processor has no {name} arithmetic: autocast is left off, HighMMT computes in float32."
        )
    return torch.autocast("cpu", enabled=False)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What matrix products of a tensor are computed in: autocast's choice where it is on."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


@dataclass(frozen=True)
class Codes:
    """Positions and modality embedding of elements, and what they add to the moments of elements of width `d_all`.

    Attributes:
        values: `(elements, width)`, or `(batch, elements, width)` where each sample has its own positions.
        mean, square: their sum and their squared length by `d_all`, `(..., elements, 1)` in fp32 or wider.
    """

    values: Tensor
    mean: Tensor
    square: Tensor

    @classmethod
    def of(cls, values: Tensor, d_all: int, dtype: torch.dtype) -> Codes:
        """The codes `values`, themselves in the `dtype` that matrix products are computed in."""
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        square = wide.square().sum(-1, keepdim=True) / d_all
        return cls(values.to(dtype), wide.sum(-1, keepdim=True) / d_all, square)


@lru_cache(maxsize=256)
def _constant_codes(
    shape: tuple[int, ...],
    bands: tuple[int, float, int | None, bool],
    column: tuple[int, int] | None,
    d_all: int,
    dtype: torch.dtype,
    product_dtype: torch.dtype,
    device: torch.device,
) -> Codes:
    # A tensor first made inside inference mode could not be used for training later.
    with torch.inference_mode(False), torch.no_grad():
        codes = _grid(shape, *bands, device)
        if column is not None:
            codes = torch.cat([codes, one_hot_code(*column, device).expand(codes.shape[0], -1)], dim=-1)
        return Codes.of(codes.to(dtype), d_all, product_dtype)


def constant_codes(
    shape: Sequence[int], modality: ModalityConfig, column: tuple[int, int] | None, d_all: int, like: Tensor
) -> Codes:
    """Codes of a grid with a one-hot modality embedding, or none: the same in every step, and so kept.

    Args:
        shape, modality: as for `grid_positions`.
        column: of the one-hot embedding, and how many there are; None for none.
        d_all: width of the whole element.
        like: tells device and dtypes.
    """
    make = _constant_codes.__wrapped__ if torch.compiler.is_compiling() else _constant_codes
    return make(tuple(shape), _bands(modality), column, d_all, like.dtype, compute_dtype(like), like.device)


@dataclass
class InputSequence:
    """One modality of one task, standardised but with the zero columns left out.

    Attributes:
        values: `(batch, elements, codes + 1 + channels)`: positions and modality embedding, then the mean of the
            full-width element, then data.
        num_codes, num_channels: widths of the first and the last part.
        mask: `(batch, elements)`, True where an element is real; None where all are.
        present: `(batch,)`, True where a sample has at least one real element; None where all have.
        inverse_std: of each full-width element, `(batch, elements, 1)`; with the mean, what its layer norm needs.
    """

    values: Tensor
    num_codes: int
    num_channels: int
    mask: Tensor | None
    present: Tensor | None
    inverse_std: Tensor

    @classmethod
    def build(cls, data: Tensor, codes: Codes, mask: Tensor | None, d_all: int, eps: float) -> InputSequence:
        """The sequence of elements `[data | zeros | codes]` of width `d_all`.

        Args:
            data: `(batch, elements, channels)`.
            codes: positions and modality embedding.
            mask: `(batch, elements)`, True where an element is real; None where all are.
            d_all: width of the whole element.
            eps: epsilon of the layer norm.
        """
        present = None
        if mask is not None:
            # Padding may hold anything, even NaN, and must not reach a sum.
            data = data.masked_fill(~mask[..., None], 0.0)
            present = mask.any(dim=1)
        # A difference of large numbers: in half precision nothing would be left of it.
        wide = codes.mean.dtype
        mean = torch.add(codes.mean, data.sum(-1, keepdim=True, dtype=wide), alpha=1 / d_all)
        norm = torch.linalg.vector_norm(data, dim=-1, keepdim=True, dtype=wide)
        square = torch.addcmul(codes.square, norm, norm, value=1 / d_all)
        inverse_std = (torch.addcmul(square, mean, mean, value=-1).clamp_min(0.0) + eps).rsqrt()
        # Autocast would cast them at each of their uses.
        mean, data = (part.to(codes.values.dtype) for part in (mean, data))
        values = torch.cat([codes.values.expand(data.shape[0], -1, -1), mean, data], dim=-1)
        return cls(values, codes.values.shape[-1], data.shape[-1], mask, present, inverse_std)

    def project(self, norm: nn.LayerNorm, matrix: Tensor) -> Tensor:
        """`norm(element) @ matrix` of every full-width element, `(batch, elements, out)`."""
        rows = rows_of_values(matrix * norm.weight[:, None], [self], 0)
        return torch.matmul(self.values, rows) * self.inverse_std + torch.matmul(norm.bias, matrix)


def rows_of_values(projection: Tensor, sequences: Sequence[InputSequence], dim: int) -> Tensor:
    """A projection of elements `[data | zeros | codes]` with its rows in the order of `InputSequence.values`.

    The mean gets a row of its own, since a layer norm takes it from every column. Codes stand before the data, so that
    the rows of a sequence lie side by side, whatever their number: no sequence has to gather its own.

    Args:
        projection: with `d_all` rows at `dim`.
        sequences: those that it is for.
        dim: where the rows are.

    Returns:
        The same with `codes + 1 + channels` rows, the largest numbers of all sequences.
    """
    num_codes = max(sequence.num_codes for sequence in sequences)
    codes = projection.narrow(dim, projection.shape[dim] - num_codes, num_codes)
    data = projection.narrow(dim, 0, max(sequence.num_channels for sequence in sequences))
    return torch.cat([codes, -projection.sum(dim, keepdim=True), data], dim)


def rows_of_each(shared: Tensor, sequences: Sequence[InputSequence], dim: int) -> list[Tensor]:
    """Each sequence's own rows of what `rows_of_values` has made for all of them.

    Args:
        shared: with `codes + 1 + channels` rows at `dim`.
        sequences: those that it is for.
        dim: where the rows are.
    """
    num_codes = max(sequence.num_codes for sequence in sequences)
    return [shared.narrow(dim, num_codes - own.num_codes, own.values.shape[-1]) for own in sequences]
