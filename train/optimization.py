"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import SchedulerType, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

# Those of torch that step from gradients alone, for parameters of any shape.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.SGD,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.RMSprop,
        torch.optim.Adafactor,
    )
}
# All of transformers but the one that follows every loss: its state is no plain data.
SCHEDULES = tuple(kind.value for kind in SchedulerType if kind.value != "greedy")
PLATEAU = "reduce_lr_on_plateau"
_SET_ELSEWHERE = (
    *("params", "lr", "weight_decay", "fused", "foreach", "capturable", "differentiable"),
    *("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"),
)


def optimizer_options(name: str) -> list[str]:
    """Arguments of an optimizer's class that a run may choose."""
    return _options(OPTIMIZERS[name])


def schedule_options(name: str) -> list[str]:
    """Arguments of a learning-rate schedule that a run may choose."""
    function: Any = ReduceLROnPlateau if name == PLATEAU else TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]
    return _options(function)


def _options(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in _SET_ELSEWHERE]


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    learning_rate: float,
    weight_decay: float,
    options: Mapping[str, Any],
    fused: bool = False,
) -> torch.optim.Optimizer:
    """A torch optimizer.

    Args:
        name: one of `OPTIMIZERS`.
        parameters: what it moves, or groups of it with options of their own.
        learning_rate, weight_decay: of all parameters.
        options: further arguments of its class, such as `{"betas": [0.9, 0.98]}`.
        fused: one kernel for the whole step, where optimizer and device have one.

    Raises:
        ValueError: an option that the optimizer does not have, or a value that it refuses.
    """
    kind: Any = OPTIMIZERS[name]
    moved = list(parameters)
    # Lists are what YAML and JSON have; torch wants tuples.
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    values = {"lr": learning_rate, "weight_decay": weight_decay, **values}
    # Those of other optimizers do not take parameters that have a gradient in some steps only.
    if fused and kind in (torch.optim.Adam, torch.optim.AdamW):
        try:
            fused_one: torch.optim.Optimizer = kind(moved, **values, fused=True)
            return fused_one
        except RuntimeError:  # how torch says that the device has no such kernel
            pass
    try:
        optimizer: torch.optim.Optimizer = kind(moved, **values)
        return optimizer
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {name!r} with optimizer_options={dict(options)!r}: {error}") from error


def build_schedule(
    name: str, optimizer: torch.optim.Optimizer, num_warmup_steps: int, num_steps: int, options: Mapping[str, Any]
) -> Any:
    """A learning-rate schedule of transformers.

    Args:
        name: one of `SCHEDULES`. `"constant"` has its warm-up, too, if there is one.
        optimizer: whose learning rate it sets.
        num_warmup_steps: optimizer steps in which the learning rate rises from zero.
        num_steps: optimizer steps of the whole run.
        options: further arguments of the schedule, such as `{"num_cycles": 3}`.

    Raises:
        ValueError: an option that the schedule does not have, or a value that it refuses.
    """
    values = dict(options)
    if name == PLATEAU:
        values.setdefault("mode", "max")  # it sees the validation score, after each epoch
    if name == "warmup_stable_decay":
        values.setdefault("num_decay_steps", max(1, num_steps // 10))
    try:
        return get_scheduler(
            "constant_with_warmup" if name == "constant" else name,
            optimizer,
            num_warmup_steps=num_warmup_steps,
            num_training_steps=num_steps,
            scheduler_specific_kwargs=values,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"lr_scheduler {name!r} with lr_scheduler_options={values!r}: {error}") from error


__all__ = ["OPTIMIZERS", "SCHEDULES", "build_optimizer", "build_schedule", "optimizer_options", "schedule_options"]
