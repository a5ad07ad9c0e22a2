"""Parameter groups as adapters: groups that share one base and differ by a low-rank update of each linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.modeling_layers import GradientCheckpointingLayer


class LowRankUpdate(nn.Module):
    """What one group adds to the weight of one linear layer of its base: `up @ down`, of rank r and zero at first.

    Source: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, equation 3, with alpha = r.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.empty(linear.out_features, rank))

    def forward(self) -> Tensor:
        """The update, `(out_features, in_features)`."""
        return self.up @ self.down


class GroupAdapter(GradientCheckpointingLayer):
    """The parameters that one group has to itself where groups share a base.

    Latents, norms and biases are the base's; every `nn.Linear` of the base has an update.

    Args:
        base: the module that the groups share, a `UnimodalEncoder` or a `CrossmodalTransformer`; not kept.
        rank: r of every update.
    """

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.updates = nn.ModuleDict(
            {
                # A module's name has no dot; the base's modules have no dash in theirs.
                name.replace(".", "-"): LowRankUpdate(linear, rank)
                for name, linear in base.named_modules()
                if isinstance(linear, nn.Linear)
            }
        )

    def forward(self, base: nn.Module, *inputs: Any) -> Any:
        """What `base` gives for `inputs` with this group's weights in place of its own."""
        weights = {}
        for key, update in self.updates.items():
            name = key.replace("-", ".")
            if hasattr(base.get_submodule(name), "base_layer"):  # wrapped by PEFT
                name += ".base_layer"
            weights[f"{name}.weight"] = base.get_parameter(f"{name}.weight") + update()
        with _without_checkpointing(base):
            return functional_call(base, weights, inputs)


@contextmanager
def _without_checkpointing(base: nn.Module) -> Iterator[None]:
    """Leave checkpointing to the adapter: a layer of the base would be computed again with the base's own weights."""
    layers = [module for module in base.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False  # type: ignore[assignment]  # a flag, not a submodule
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]  # a flag, not a submodule


__all__ = ["GroupAdapter", "LowRankUpdate"]
