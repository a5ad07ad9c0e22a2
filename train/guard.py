"""Steps that are not finite: how they are told, whom they are blamed on, and how they leave no trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling_highmmt import HighMMTOutput


class BatchNormMemory:
    """The running statistics of a model's batch norms, which a forward pass changes and a skipped step must not."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._kept: list[Tensor] = []

    def remember(self) -> None:
        """Keep the statistics as they are now."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Put back what was kept."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)


def blank_inputs(batch: Any) -> Any:
    """A batch of the same shape whose floating tensors are all zero.

    A process whose data is not finite passes this through, because the others wait for it within the forward pass.
    """
    if isinstance(batch, Mapping):
        return {key: blank_inputs(value) for key, value in batch.items()}
    return torch.zeros_like(batch) if batch.is_floating_point() else batch


def samples_to_blame(output: HighMMTOutput, tasks: Iterable[str]) -> dict[str, list[int]]:
    """Places in the batch of samples that made a loss of these tasks not finite; all where they cannot be told.

    What a sample's encoder gives depends on that sample alone; only where all of it is finite are the logits asked,
    which a batch norm mixes.
    """
    blamed = {}
    for task in tasks:
        states = (output.unimodal_states or {}).get(task, {}).values()
        logits = (output.logits or {})[task]
        candidates = [*states, logits]
        wrong = [~torch.isfinite(values.detach()).flatten(1).all(dim=1) for values in candidates]
        own = torch.stack(wrong[:-1]).any(dim=0) if len(wrong) > 1 else wrong[-1]
        chosen = own if bool(own.any()) else wrong[-1]
        everyone = torch.ones_like(chosen)
        blamed[task] = (chosen if bool(chosen.any()) else everyone).nonzero().flatten().tolist()
    return blamed


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Norm of all gradients together, `()`."""
    return torch.nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])


__all__ = ["BatchNormMemory", "blank_inputs", "gradient_norm", "samples_to_blame"]
