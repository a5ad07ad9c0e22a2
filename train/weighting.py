"""How the losses of several tasks become one: by fixed weights, or by weights that are learned."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from ..configuration import TaskConfig

WEIGHTINGS = ("fixed", "uncertainty")


class FixedWeights(nn.Module):
    """Each task's loss times a number.

    Args:
        weights: task to the factor of its loss.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted losses, task to `()`; their sum is what is minimised.

        Args:
            losses: unweighted losses of the tasks in this step, task to `()`.
        """
        return {task: self.weights[task] * loss for task, loss in losses.items()}

    def factors(self) -> dict[str, float]:
        """Task to the factor of its loss."""
        return dict(self.weights)

    def average_gradients(self) -> None:
        """Nothing: there is nothing to learn."""


class UncertaintyWeights(nn.Module):
    """Weights learned with the model: a task whose loss stays large counts less.

    With s = log σ² of a task, its part of the sum is exp(-s) L / 2 + s / 2 for a regression (Gaussian likelihood) and
    exp(-s) L + s / 2 for classes, labels and retrievals (a softmax scaled by 1 / σ²). Learning begins at the fixed
    weights: s is such that the factor of L is the task's `loss_weight`. For a loss that stays the same, both forms end
    at the factor 1 / (2 L).

    The parameters are in `log_variances`, one number by the name of each task, and train in the model's optimizer. A
    task that a step lacks leaves its own without gradient.

    Args:
        tasks: the model's tasks.

    Raises:
        ValueError: a task whose loss weight is not positive, which nothing can be learned from.

    Source: Kendall, Gal & Cipolla, CVPR 2018, equations 7 (regressions) and 10 (with a classification).
    """

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        super().__init__()
        self.scales: dict[str, float] = {}
        self.log_variances = nn.ParameterDict()
        for name, task in tasks.items():
            if task.loss_weight <= 0:
                raise ValueError(
                    f"Task {name!r}: loss_weight={task.loss_weight:g} is no weight to begin learning at; use a "
                    "positive one, or fixed weights."
                )
            self.scales[name] = 0.5 if task.problem_type == "regression" else 1.0
            start = math.log(self.scales[name] / task.loss_weight)
            self.log_variances[name] = nn.Parameter(torch.tensor(start, dtype=torch.float32))

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weighted losses, task to `()`; their sum is what is minimised. They can be negative.

        Args:
            losses: unweighted losses of the tasks in this step, task to `()`.
        """
        weighted = {}
        for task, loss in losses.items():
            s = self.log_variances[task]
            weighted[task] = self.scales[task] * torch.exp(-s) * loss + s / 2
        return weighted

    @torch.no_grad()
    def factors(self) -> dict[str, float]:
        """Task to the present factor of its loss."""
        return {task: float(self.scales[task] * torch.exp(-s)) for task, s in self.log_variances.items()}

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Give every process the mean of the processes' gradients; call it between backward and the optimizer's step.

        Every process must have had the same tasks in the step. So few numbers need no wrapper of their own.
        """
        learned = [s for s in self.log_variances.values() if s.grad is not None]
        if learned:
            means = reduce(torch.stack([s.grad for s in learned if s.grad is not None]), reduction="mean")
            for s, mean in zip(learned, means, strict=True):
                s.grad = mean.clone()


def make_weighting(name: str, tasks: Mapping[str, TaskConfig]) -> FixedWeights | UncertaintyWeights:
    """The weighting of that name for a model's tasks.

    Args:
        name: `"fixed"` (by `loss_weight`) or `"uncertainty"` (learned, beginning there).
        tasks: the model's tasks.

    Raises:
        ValueError: there is none of that name, or a task's loss weight cannot be learned.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"There is no weighting {name!r}; use one of {', '.join(WEIGHTINGS)}.")
    if name == "fixed":
        return FixedWeights({task: config.loss_weight for task, config in tasks.items()})
    return UncertaintyWeights(tasks)
