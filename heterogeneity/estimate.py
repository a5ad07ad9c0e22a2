"""What a sweep will cost before it starts: its jobs, gone through without training, and the time of a few steps."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..processing import HighMMTProcessor
from ..suites import Suite
from ..train.trainer import EncodedTasks
from .baselines import joint_log, train_jointly
from .distances import MatrixKind
from .measure import joint_tasks, measure_transfers, null_values
from .settings import HeterogeneitySettings
from .transfer import Job, TransferMeasurement, nodes_of

# Stacks of these sizes are timed; the time of others lies on a line through both.
_TIMED_SIZES = (1, 3)
_TIMED_STEPS = 2
_TIMED_ROWS = 64  # of the validation split


@dataclass(frozen=True)
class SweepEstimate:
    """What one matrix will cost: runs in all, how many of them are done, seconds for one process to make the rest."""

    runs: int
    finished: int
    seconds: float
    excluded: dict[str, str]


class Rehearsal(TransferMeasurement):
    """A sweep that trains and writes nothing, but takes down the jobs that a real one would make.

    Finished runs count with their results. The others get a stand-in, so that as many pairs are chosen, though not the
    same ones, and stacks have about the sizes that they will have.

    Attributes:
        jobs: in the order in which they would be made; sources whose weights are gone are trained again.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, writes=False)
        self.jobs: list[Job] = []
        self._generator = np.random.default_rng(self.settings.seed)

    def _run(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs
        missing = [run for job in jobs for run in job.runs if run not in self.log.losses]
        self.log.add(dict(zip(missing, self._generator.random(len(missing)).tolist(), strict=True)), {})

    def _has_source(self, node: str, seed: int) -> bool:
        return Job(node, seed) in self.jobs or super()._has_source(node, seed)


def estimate_sweep(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    kind: MatrixKind,
    settings: HeterogeneitySettings,
    folder: Path,
    *,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> SweepEstimate:
    """Runs that `measure_heterogeneity` would make, and their time from a few timed steps; nothing is written.

    Raises:
        ValueError: as `measure_heterogeneity`.
    """
    rehearsal = Rehearsal(suite, processor, data, kind, settings, folder)
    null, excluded = null_values(rehearsal)
    names = nodes_of(suite, kind)
    excluded |= {node: left_out[task] for node in names if (task := node.split("/", 1)[0]) in left_out}
    runs = settings.num_runs(len(null))
    if settings.method == "feature":
        pairs = Rehearsal(suite, processor, data, "unimodal", settings, folder)
        tasks = joint_tasks(pairs)
        log = joint_log(suite, settings, folder, writes=False, tasks=tasks)
        seconds = 0.0
        if len(log.losses) < runs:
            one = _seconds_of_joint_training(suite.select(tasks), processor, data, settings)
            seconds = (runs - len(log.losses)) * one
        return SweepEstimate(runs, len(log.losses), seconds, excluded)
    if settings.method == "random":
        return SweepEstimate(runs, runs, 0.0, excluded)
    finished = len(rehearsal.log.losses)
    measure_transfers(rehearsal, null, dict(excluded))
    return SweepEstimate(len(rehearsal.log.losses), finished, seconds_of_jobs(rehearsal, rehearsal.jobs), excluded)


def seconds_of_jobs(measurement: TransferMeasurement, jobs: Iterable[Job]) -> float:
    """Time that one process takes for these jobs, from a few steps on each of their targets.

    A stack's time is taken to grow by as much with each further model; it is measured for one and for three.
    """
    total = 0.0
    by_target = sorted(jobs, key=lambda job: job.target)
    for target, group in itertools.groupby(by_target, key=lambda job: job.target):
        sizes = [len(job.runs) for job in group]
        alone = _seconds(measurement, target, _TIMED_SIZES[0])
        more = 0.0
        if max(sizes) > 1:
            several = _seconds(measurement, target, _TIMED_SIZES[1])
            more = max(0.0, several - alone) / (_TIMED_SIZES[1] - _TIMED_SIZES[0])
        total += sum(alone + more * (size - 1) for size in sizes)
    return total


def _seconds(measurement: TransferMeasurement, node: str, size: int) -> float:
    """Time of one job on the node with so many models, its steps and its evaluations."""
    settings = measurement.settings
    started = time.perf_counter()
    stack = measurement._stack(node, settings.seed, [{}] * size)
    marks = [time.perf_counter()]
    building = marks[0] - started
    for rows in itertools.islice(measurement._order(node, settings.seed), _TIMED_STEPS):
        stack.train_step(measurement._batch(node, "train", rows))
        marks.append(time.perf_counter())
    rows = np.arange(len(measurement._row_numbers(node, "validation")))
    part = rows[:_TIMED_ROWS]
    stack.predict(measurement._batch(node, "validation", part))
    evaluation = (time.perf_counter() - marks[-1]) * len(rows) / len(part)
    # The first step also prepares what the others find prepared.
    step = min(np.diff(marks))
    return float(building + settings.num_steps * step + min(settings.num_evaluations, settings.num_steps) * evaluation)


def _seconds_of_joint_training(
    suite: Suite, processor: HighMMTProcessor, data: EncodedTasks, settings: HeterogeneitySettings
) -> float:
    marks = [time.perf_counter()]
    few = dataclasses.replace(settings, num_steps=_TIMED_STEPS)
    train_jointly(suite, processor, data, few, settings.seed, lambda steps: marks.append(time.perf_counter()))
    return float(settings.num_steps * min(np.diff(marks)))


__all__ = ["Rehearsal", "SweepEstimate", "estimate_sweep", "seconds_of_jobs"]
