"""What a training run is told, checked before it starts and saved beside its result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .optimization import OPTIMIZERS, SCHEDULES, optimizer_options, schedule_options
from .sampling import SAMPLERS
from .weighting import WEIGHTINGS

PRECISIONS = ("no", "bf16", "fp16")
_COUNTS = (
    "num_epochs",
    "batch_size",
    "eval_batch_size",
    "gradient_accumulation_steps",
    "max_non_finite_steps",
    "keep",
)
# What may be another when a run goes on: no number depends on it.
FREE = ("save_steps", "keep", "num_workers")


@dataclass
class TrainingSettings:
    """Settings of one training run.

    Args:
        num_epochs: passes over the largest task; smaller tasks take part as the schedule says.
        learning_rate, weight_decay: of the optimizer (defaults: the paper's large setting, table 10).
        optimizer: of torch, by its name in small letters: `"adam"` (the paper; weight decay is added to the gradient),
            `"adamw"` (decoupled), `"sgd"`, `"nadam"`, `"radam"`, `"adamax"`, `"adagrad"`, `"adadelta"`, `"rmsprop"`,
            `"adafactor"`.
        optimizer_options: further arguments of its class, such as `{"betas": [0.9, 0.98]}`.
        fused_optimizer: do the optimizer's step in one kernel where torch has one; numbers differ by rounding.
        lr_scheduler: one of transformers' schedules: `"constant"` (the paper), `"linear"` or `"cosine"` decay to zero,
            and the others; `"reduce_lr_on_plateau"` looks at the validation score.
        lr_scheduler_options: further arguments of the schedule, such as `{"num_cycles": 3}`.
        warmup_ratio: share of all steps in which the learning rate rises from zero.
        max_grad_norm: gradients are scaled down to this norm; None leaves them.
        gradient_accumulation_steps: batches whose gradients are averaged before the optimizer steps.
        sampling: order of the tasks: `"staggered"` (the paper), `"uniform"`, `"proportional"` or `"temperature"`.
        temperature: of `sampling="temperature"`: 1 is proportional, a large one almost uniform.
        loss_weighting: `"fixed"` (by the tasks' `loss_weight`) or `"uncertainty"` (learned, beginning there).
        batch_sizes: rows of one task in one step (of all processes together); tasks not named use `batch_size`.
        batch_size: rows of a task that is not named in `batch_sizes`; the recipes name all, from the suite.
        eval_batch_size: rows of one evaluation batch.
        patience: stop after this many epochs without a better validation score; None runs all.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"` (needs a GPU), through Accelerate.
        num_workers: processes that read rows ahead; 0 reads them when they are needed. The same run with any number.
        skip_bad_rows: training rows that may be left out because they cannot be read, by `encode_suite` or, where a
            transform fails, in training; 0 stops at the first.
        torch_compile: compile the model for training.
        max_non_finite_steps: a step whose loss or gradient is not finite is left out; so many in a row end the run.
        save_steps: steps between two checkpoints within an epoch; None for one at the end of each epoch alone.
        keep: how many checkpoints stay.
        seed: of data order, dropout and new parameters.

    Raises:
        ValueError: a setting that no run can have; the message names it.
    """

    num_epochs: int = 40
    learning_rate: float = 8e-4
    weight_decay: float = 1e-3
    optimizer: str = "adam"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    fused_optimizer: bool = True
    lr_scheduler: str = "constant"
    lr_scheduler_options: dict[str, Any] = field(default_factory=dict)
    warmup_ratio: float = 0.0
    max_grad_norm: float | None = 1.0
    gradient_accumulation_steps: int = 1
    sampling: str = "staggered"
    temperature: float = 2.0
    loss_weighting: str = "fixed"
    batch_sizes: dict[str, int] = field(default_factory=dict)
    batch_size: int = 32
    eval_batch_size: int = 256
    patience: int | None = None
    mixed_precision: str = "no"
    num_workers: int = 0
    skip_bad_rows: int = 0
    torch_compile: bool = False
    max_non_finite_steps: int = 10
    save_steps: int | None = None
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check_whole(name, getattr(self, name), 1)
        for name in ("patience", "save_steps"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)
        for name in ("seed", "num_workers", "skip_bad_rows"):
            _check_whole(name, getattr(self, name), 0)
        if self.seed >= 2**32:
            raise ValueError(f"seed={self.seed} must be below 2**32, which is all that NumPy takes.")
        for name in ("fused_optimizer", "torch_compile"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false.")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("lr_scheduler", SCHEDULES),
            ("mixed_precision", PRECISIONS),
            ("sampling", SAMPLERS),
            ("loss_weighting", WEIGHTINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}.")
        for name in ("batch_sizes", "optimizer_options", "lr_scheduler_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name}={getattr(self, name)!r} must map names to values.")
        for task, size in self.batch_sizes.items():
            _check_whole(f"batch_sizes[{task!r}]", size, 1)
        _check_names("optimizer_options", self.optimizer_options, self.optimizer, optimizer_options(self.optimizer))
        known = schedule_options(self.lr_scheduler)
        _check_names("lr_scheduler_options", self.lr_scheduler_options, self.lr_scheduler, known)
        for name in ("learning_rate", "weight_decay"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a finite number, 0 or more.")
        if not _is_number(self.warmup_ratio) or not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio!r} must be at least 0 and below 1.")
        if self.max_grad_norm is not None and not (_is_number(self.max_grad_norm) and self.max_grad_norm > 0):
            raise ValueError(f"max_grad_norm={self.max_grad_norm!r} must be a positive number, or left out.")
        if not (_is_number(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature!r} must be a positive number.")

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


def differences(former: Any, present: Any, prefix: str = "") -> list[str]:
    """What differs between two settings as plain data, one `"name: x there, y now"` each."""
    if _are_mappings(former) and _are_mappings(present) and len(former) == len(present):
        pairs = enumerate(zip(former, present, strict=True))
        return [change for number, pair in pairs for change in differences(*pair, f"{prefix}[{number}]")]
    if not (isinstance(former, dict) and isinstance(present, dict)):
        return [f"{prefix}: {former!r} there, {present!r} now"] if former != present else []
    changed = []
    for key in dict.fromkeys([*former, *present]):
        changed += differences(former.get(key), present.get(key), f"{prefix}.{key}" if prefix else key)
    return changed


def _are_mappings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def settings_that_differ(former: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """The same of two `TrainingSettings.to_dict()`, without what may be another when a run goes on (`FREE`)."""
    there, now = ({key: value for key, value in values.items() if key not in FREE} for values in (former, present))
    return differences(there, now)


def _check_names(setting: str, options: Mapping[str, Any], owner: str, known: list[str]) -> None:
    for name in options:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"{setting}: {owner!r} has no option {name!r}; its options are {listed}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r} must be a whole number, {low} or more.")
