"""Several models of one configuration, trained side by side on the same batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ..modeling_highmmt import HighMMTModel, task_loss

MAX_GRAD_NORM = 1.0


class StackedModels:
    """Models whose parameters lie in tensors `(models, ...)`, so that every operation is done for all at once.

    Each is trained as it would be alone: by the same loss, with a gradient norm and an AdamW state of its own, and
    with the dropout masks that it would draw alone after the same `torch.manual_seed`. The results are those of
    separate models up to rounding. One that diverges leaves the others as they are.

    Args:
        model: gives configuration, device and the weights that a start does not name; is not changed.
        task: the task that is trained.
        starts: for each model the weights that are not those of `model`, by name.
        learning_rate, weight_decay: of AdamW.
    """

    def __init__(
        self,
        model: HighMMTModel,
        task: str,
        starts: Sequence[Mapping[str, Tensor]],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self.model, self.task, self.num_models = model, task, len(starts)
        # Questions about values cannot be asked of all models at once; what is not finite shows in the loss.
        model.checks_values = False

        def stacked(name: str, value: Tensor) -> Tensor:
            return torch.stack([start.get(name, value).detach().to(value.device) for start in starts])

        self.parameters = {name: stacked(name, value).requires_grad_() for name, value in model.named_parameters()}
        self.buffers = {name: stacked(name, value) for name, value in model.named_buffers()}
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )

    def train_step(self, batch: Mapping[str, Any]) -> Tensor:
        """One optimizer step of every model; their losses before it, `(models,)`, not finite for one that diverged."""
        self.model.train()
        logits, _ = self._forward(batch)
        losses = self.losses(logits, batch["labels"][self.task])
        self._optimizer.zero_grad()
        losses.sum().backward()
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(grad.reshape(len(grad), -1), dim=1) for grad in gradients])
        # As `clip_grad_norm_` does it for one model.
        factors = (MAX_GRAD_NORM / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        for grad in gradients:
            grad.mul_(factors.view(-1, *[1] * (grad.dim() - 1)))
        self._optimizer.step()
        return losses.detach()

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Every model's logits and multimodal states of a batch, in evaluation mode, `(models, batch, ...)` each."""
        self.model.eval()
        return self._forward(batch)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of every model, `(models,)`."""
        description = self.model.config.tasks[self.task]
        losses: Tensor = vmap(lambda own: task_loss(self.task, description, own, labels))(logits)
        return losses

    def state(self, index: int) -> dict[str, Tensor]:
        """A copy of one model's weights and buffers, by name."""
        values = {**self.parameters, **self.buffers}
        return {name: value[index].detach().clone() for name, value in values.items()}

    def _forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        given = {name: values for name, values in batch.items() if name != "labels"}

        def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            output = functional_call(self.model, (parameters, buffers), kwargs=given)
            return output.logits[self.task], output.multimodal_states[self.task]

        if self.num_models == 1:  # by itself a model is a fifth faster without vmap
            parts = self.parameters, self.buffers
            logits, states = forward(*({name: value.squeeze(0) for name, value in part.items()} for part in parts))
            return logits[None], states[None]
        # "same": the masks are drawn once, as each model alone would draw them.
        result: tuple[Tensor, Tensor] = vmap(forward, randomness="same")(self.parameters, self.buffers)
        return result


__all__ = ["StackedModels"]
