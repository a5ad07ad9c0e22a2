"""Batch norms that several processes compute as one."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..modeling_highmmt import BatchNorm, HighMMTModel


class SynchronisedBatchNorms:
    """While entered, a model's batch norms train on the rows of all processes together.

    Mean, variance, their gradients and the running statistics are those of one process that has all rows, up to
    rounding, and the statistics are the same on every process to the last bit. Works on CPU (gloo) and GPU; without
    other processes, or without a batch norm, nothing is changed. Parameters, buffers and their names stay.

    Every process must enter, call the model with the same tasks, and go backward or not, together with the others;
    a process without rows of a task takes part with a row of weight 0.

    Args:
        wrapped: the model as Accelerate has prepared it.
    """

    def __init__(self, wrapped: nn.Module) -> None:
        self._wrapped = wrapped
        model = getattr(wrapped, "module", wrapped)
        heads = model.heads if isinstance(model, HighMMTModel) else nn.ModuleDict()
        self._norms = {
            task: norms
            for task, head in heads.items()
            if (norms := [module for module in head.modules() if isinstance(module, BatchNorm)])
        }
        self._shared: dict[str, list[_SharedForward]] = {}
        self._group: Any = None

    def __enter__(self) -> SynchronisedBatchNorms:
        """Begin; every process must do so."""
        if not self._norms or _num_processes() == 1:
            return self
        # Of its own: in the common one these calls would mix with those for gradients, in no certain order.
        self._group = torch.distributed.new_group()
        # The buffers are equal as it is. A process that repeats its forward pass would wait for the others here.
        self._wrapped.broadcast_buffers = False  # type: ignore[assignment]
        for task, norms in self._norms.items():
            self._shared[task] = [_SharedForward(norm, self._group) for norm in norms]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The norms as they were."""
        for shared in self._shared.values():
            for each in shared:
                each.remove()
        self._shared = {}
        if self._group is not None:
            torch.distributed.destroy_process_group(self._group)
            self._group = None

    def weigh_rows(self, row_weights: Mapping[str, float]) -> None:
        """Say what this process's rows count in the next forward passes; they count 1 before.

        Args:
            row_weights: task to the weight of each of its rows, `StepBatch.row_weights`.
        """
        for task, weight in row_weights.items():
            for shared in self._shared.get(task, []):
                shared.weight = weight


class _SharedForward:
    """Takes the place of a batch norm's forward."""

    def __init__(self, norm: BatchNorm, group: Any) -> None:
        self.norm, self.group = norm, group
        self.weight = 1.0
        norm.forward = torch.compiler.disable(self.forward)  # type: ignore[method-assign]

    def remove(self) -> None:
        """The norm's own forward again."""
        vars(self.norm).pop("forward", None)

    def forward(self, states: Tensor) -> Tensor:
        """`(batch, width)`, each column normalised over the rows of all processes."""
        norm = self.norm
        if not norm.training:
            plain: Tensor = type(norm).forward(norm, states)
            return plain
        # Where nothing else needs a gradient on this process, it may on others, which wait in their backward pass.
        anchor = torch.zeros((), device=states.device, requires_grad=True)
        normed: Tensor = _SharedBatchNorm.apply(states, norm.weight, norm.bias, anchor, norm, self.weight, self.group)
        return normed


class _SharedBatchNorm(torch.autograd.Function):
    """Batch norm over weighted rows of all processes; one exchange forward and one backward.

    Fewer than two rows in all have no variance: the running statistics stand in and are left as they are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        scale: Tensor,
        shift: Tensor,
        anchor: Tensor,
        norm: BatchNorm,
        weight: float,
        group: Any,
    ) -> Tensor:
        """Normalise, and move the running statistics on."""
        wide = _wide(states)
        count, mean, squares = _merged(*_moments(wide, weight), group)
        enough = count > 1.5  # whole, but for rounding
        buffers = dict(norm.named_buffers())
        running_mean, running_var = (buffers[name].to(wide.dtype) for name in ("running_mean", "running_var"))
        mean = torch.where(enough, mean, running_mean)
        variance = torch.where(enough, squares / count.clamp_min(1.0), running_var)
        unbiased = torch.where(enough, squares / (count - 1.0).clamp_min(1.0), running_var)
        norm.move_statistics(mean, unbiased, enough.long())
        inverse_std = (variance + norm.eps).rsqrt()
        normed = (wide - mean) * inverse_std
        ctx.save_for_backward(normed, inverse_std, scale, weight / count.clamp_min(1.0) * enough)
        ctx.group, ctx.dtype = group, states.dtype
        return (normed * scale + shift).to(states.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of this process's rows, scale and shift; the latter two are averaged with all other parameters."""
        normed, inverse_std, scale, part = ctx.saved_tensors
        gradient = gradients[0].to(normed.dtype)
        own_shift, own_scale = gradient.sum(0), (gradient * normed).sum(0)
        sums = torch.stack([own_shift, own_scale])  # (2, width)
        torch.distributed.all_reduce(sums, group=ctx.group)
        inner = (gradient - part * (sums[0] + normed * sums[1])) * (scale * inverse_std)
        return inner.to(ctx.dtype), own_scale.to(scale.dtype), own_shift.to(scale.dtype), None, None, None, None


def _moments(wide: Tensor, weight: float) -> tuple[float, Tensor, Tensor]:
    """Weighted number of rows, their mean, and weighted sum of squares around it, `(width,)` each."""
    if weight == 0:
        # Whatever the row holds, even NaN, is not looked at.
        return 0.0, wide.new_zeros(wide.shape[1]), wide.new_zeros(wide.shape[1])
    mean = wide.mean(0)
    return weight * len(wide), mean, weight * (wide - mean).square().sum(0)


def _merged(count: float, mean: Tensor, squares: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the rows of all processes: `()`, `(width,)` and `(width,)`.

    Source: Chan, Golub & LeVeque, 1983, equation 2.1, for any number of parts.
    """
    own = torch.cat([mean.new_tensor([count]), mean, squares])
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, own, group=group)
    gathered = torch.stack(parts)  # (processes, 1 + 2 * width)
    counts, means, all_squares = gathered.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    merged = (counts * means).sum(0) / total.clamp_min(1.0)
    return total, merged, (all_squares + counts * (means - merged).square()).sum(0)


def _num_processes() -> int:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()


def _wide(values: Tensor) -> Tensor:
    """The values in float64, where the device has it: what is gathered must not lose a digit on the way."""
    return values.float() if values.device.type == "mps" else values.double()


__all__ = ["SynchronisedBatchNorms"]
