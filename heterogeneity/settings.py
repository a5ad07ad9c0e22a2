"""How heterogeneity is measured, and the file that remembers which of its runs are done."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..configuration.files import write_text
from ..suites import Suite
from .distances import LossScale

Method = Literal["transfer", "random", "feature"]

# Goes up whenever the same settings would give other numbers, so that old runs are not mixed with new ones.
MEASURING_VERSION = 2


@dataclass(frozen=True)
class HeterogeneitySettings:
    """How heterogeneity is measured; the same for every run, so that runs can be compared.

    Args:
        num_steps: optimizer steps of every run, from scratch or after a transfer.
        num_evaluations: times the validation loss is taken, evenly spread; the best one counts. More than there are
            steps means after every step.
        batch_size: rows of one step.
        learning_rate, weight_decay: of AdamW.
        share: share of the unordered pairs of nodes that is measured; the rest is imputed.
        num_seeds: runs of every entry.
        rank: rank of the imputation (paper: 3).
        loss_scale: `"null"` divides losses by that of the best constant prediction; `"none"` is the paper as written;
            `"metric"` takes the task's metric in place of its loss, in percentage points (see `scale_losses`).
        seed: of the first run; further runs count up.
        method: `"transfer"` is the paper's heterogeneity. Its table 5 compares with two others, which measure every
            pair: `"random"` draws distances, `"feature"` compares mean features (see `feature_distances`).

    Raises:
        ValueError: a setting that no measurement can have; the message names it.
    """

    num_steps: int = 48
    num_evaluations: int = 3
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    share: float = 0.35
    num_seeds: int = 1
    rank: int = 3
    loss_scale: LossScale = "null"
    seed: int = 0
    method: Method = "transfer"

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_evaluations", "batch_size", "num_seeds", "rank"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number, 1 or more.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r} must be a whole number, 0 or more.")
        for name in ("learning_rate", "weight_decay", "share"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name}={value!r} must be a finite number.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share!r} must be above 0 and at most 1.")
        for name, choices in (("loss_scale", get_args(LossScale)), ("method", get_args(Method))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be positive.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay!r} must not be negative.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return asdict(self)

    def num_pairs(self, num_nodes: int) -> int:
        """How many of the unordered pairs of so many nodes are measured."""
        pairs = num_nodes * (num_nodes - 1) // 2
        return min(pairs, max(1, round(self.share * pairs))) if pairs else 0

    def num_runs(self, num_nodes: int) -> int:
        """How many models are trained for a matrix of so many nodes."""
        if self.method == "transfer":
            return self.num_seeds * (num_nodes + 2 * self.num_pairs(num_nodes))
        return self.num_seeds if self.method == "feature" and num_nodes else 0


def run_owner(suite: Suite, kind: str, settings: HeterogeneitySettings) -> dict[str, Any]:
    """What runs belong to: those of another suite, kind, setting or version are not theirs."""
    return {
        "version": MEASURING_VERSION,
        "suite": suite.fingerprint,
        "kind": kind,
        "settings": settings.to_dict(),
    }


class RunLog:
    """Results of finished runs, one JSON line each, written as they finish; a later call finds them again.

    Args:
        path: the file; its first line says what the runs belong to.
        owner: suite, kind, settings and version of the runs, see `run_owner`.
        writes: whether this process keeps the file; the others only know its content.

    Attributes:
        losses: run to its result, NaN where the run diverged.
        errors: run that diverged to the reason.

    Raises:
        ValueError: the file's runs belong to something else.
    """

    def __init__(self, path: Path, owner: dict[str, Any], *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.losses: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # A last line without its end belongs to a run that died while it was written: it is not finished.
        lines = text.splitlines()[: text.count("\n")]
        if lines:
            self._read(lines, owner)
        else:
            lines = [json.dumps(owner)]
        whole = "".join(f"{line}\n" for line in lines)
        if writes and whole != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, whole)

    def _read(self, lines: list[str], owner: dict[str, Any]) -> None:
        try:
            first, *runs = (json.loads(line) for line in lines)
            errors = {run["run"]: str(run["error"]) for run in runs if "error" in run}
            losses = {run["run"]: math.nan if "error" in run else float(run["loss"]) for run in runs}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error!r}). Delete it to have its runs made again.") from error
        if first != owner:
            raise ValueError(
                f"{self.path} holds runs of another suite, other settings or another version of the measurement. Use "
                "another output folder, or delete it."
            )
        self.losses, self.errors = losses, errors

    def add(self, results: Mapping[str, float], errors: Mapping[str, str]) -> None:
        """Remember runs that finished together: their results, and for those that diverged why."""
        lines = []
        for run, loss in results.items():
            self.losses[run] = loss
            if run in errors:
                self.errors[run] = errors[run]
            outcome = {"error": errors[run]} if run in errors else {"loss": loss}
            lines.append(json.dumps({"run": run, **outcome}) + "\n")
        if self.writes:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(lines))
                stream.flush()
                os.fsync(stream.fileno())


__all__ = ["MEASURING_VERSION", "HeterogeneitySettings", "Method", "RunLog", "run_owner"]
