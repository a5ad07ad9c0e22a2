"""What a training run is told, checked before it starts and saved beside its result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

OPTIMIZERS = ("adam", "adamw")
SCHEDULERS = ("constant", "linear", "cosine")
PRECISIONS = ("no", "bf16", "fp16")


@dataclass
class TrainingSettings:
    """Settings of one training run.

    Args:
        num_epochs: passes over the largest task; smaller tasks take part as the schedule says.
        learning_rate, weight_decay: of the optimizer (defaults: the paper's large setting, table 10).
        optimizer: `"adam"` (weight decay added to the gradient, as the paper) or `"adamw"` (decoupled).
        lr_scheduler: `"constant"` (the paper), `"linear"` or `"cosine"` decay to zero, by transformers' schedules.
        warmup_ratio: share of all steps in which the learning rate rises from zero.
        max_grad_norm: gradients are scaled down to this norm; None leaves them.
        batch_sizes: rows of one task in one step (of all processes together); tasks not named use `batch_size`.
        batch_size: rows of a task that is not named in `batch_sizes`; the recipes name all, from the suite.
        eval_batch_size: rows of one evaluation batch.
        patience: stop after this many epochs without a better validation score; None runs all.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"` (needs a GPU), through Accelerate.
        seed: of data order, dropout and new parameters.

    Raises:
        ValueError: a setting that no run can have; the message names it.
    """

    num_epochs: int = 40
    learning_rate: float = 8e-4
    weight_decay: float = 1e-3
    optimizer: str = "adam"
    lr_scheduler: str = "constant"
    warmup_ratio: float = 0.0
    max_grad_norm: float | None = 1.0
    batch_sizes: dict[str, int] = field(default_factory=dict)
    batch_size: int = 32
    eval_batch_size: int = 256
    patience: int | None = None
    mixed_precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "eval_batch_size"):
            _check_whole(name, getattr(self, name), 1)
        _check_whole("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise ValueError(f"seed={self.seed} must be below 2**32, which is all that NumPy takes.")
        if self.patience is not None:
            _check_whole("patience", self.patience, 1)
        if not isinstance(self.batch_sizes, Mapping):
            raise ValueError(f"batch_sizes={self.batch_sizes!r} must map tasks to whole numbers.")
        for task, size in self.batch_sizes.items():
            _check_whole(f"batch_sizes[{task!r}]", size, 1)
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("lr_scheduler", SCHEDULERS),
            ("mixed_precision", PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}.")
        for name in ("learning_rate", "weight_decay"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a finite number, 0 or more.")
        if not _is_number(self.warmup_ratio) or not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio!r} must be at least 0 and below 1.")
        if self.max_grad_norm is not None and not (_is_number(self.max_grad_norm) and self.max_grad_norm > 0):
            raise ValueError(f"max_grad_norm={self.max_grad_norm!r} must be a positive number, or left out.")

    def batch_size_of(self, task: str) -> int:
        """Rows of this task in one step."""
        return self.batch_sizes.get(task, self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """Settings from plain data.

        Raises:
            ValueError: a key that is no setting.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"There is no training setting {key!r}; the settings are {', '.join(known)}.")
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r} must be a whole number, {low} or more.")
