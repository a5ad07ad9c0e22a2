"""What a training run tells about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class SkippedStep:
    """A step that changed nothing, because a loss or a gradient was not finite.

    Attributes:
        epoch, step: both counted from 0.
        samples: task to the names of its samples in the step, those to blame alone where they can be told; all tasks
            of the step where the gradient alone was not finite.
    """

    epoch: int
    step: int
    samples: dict[str, list[str]]


@dataclass
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: counted from 0.
        steps: of the sampler.
        train_loss: task to its unweighted loss, the mean over its batches; tasks without a batch are left out.
        weighted_loss: the same as it went into the sum that is minimised.
        validation: task to `{"loss": mean loss, metric name: value}`.
        score: weighted sum of the metrics, errors counted negative.
        learning_rate: at the end of the epoch.
        skipped: steps that were left out because they were not finite.
    """

    epoch: int
    steps: int
    train_loss: dict[str, float]
    weighted_loss: dict[str, float]
    validation: dict[str, dict[str, float]]
    score: float
    learning_rate: float
    skipped: list[SkippedStep] = field(default_factory=list)


@dataclass
class TrainingResult:
    """The course of a run; the model holds the weights of `best_epoch` afterwards.

    Attributes:
        best_epoch: epoch of the highest validation score, counted from 0; -1 before the first.
        best_score: sum over tasks of evaluation weight times metric, errors counted negative.
        history: one record for each epoch.
        gradient_steps: task to the number of optimizer steps it took part in.
        samples: SHA-256 (hex) of the names of all samples in the order they were trained on.
        bad_rows: task to the number of its rows that were left out in training because they could not be read.
    """

    best_epoch: int = -1
    best_score: float = -math.inf
    history: list[EpochRecord] = field(default_factory=list)
    gradient_steps: dict[str, int] = field(default_factory=dict)
    samples: str = ""
    bad_rows: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data; the score is None where there is none yet."""
        return {**asdict(self), "best_score": self.best_score if self.best_epoch >= 0 else None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingResult:
        """A result from what `to_dict` gave."""
        history = [
            EpochRecord(**{**record, "skipped": [SkippedStep(**step) for step in record["skipped"]]})
            for record in values["history"]
        ]
        score = -math.inf if values["best_score"] is None else values["best_score"]
        return cls(
            values["best_epoch"],
            score,
            history,
            dict(values["gradient_steps"]),
            values["samples"],
            dict(values["bad_rows"]),
        )


__all__ = ["EpochRecord", "SkippedStep", "TrainingResult"]
