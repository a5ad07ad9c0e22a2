"""Heterogeneity matrices of a suite: which runs are needed, and what follows from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..processing import HighMMTProcessor
from ..suites import Suite
from ..train import METRICS, progress_bar
from ..train.loading import EncodedTasks
from .baselines import feature_distances, random_distances
from .completion import CompletedMatrix, PairSampler
from .distances import DistanceEstimate, HeterogeneityMatrix, MatrixKind, heterogeneity_distance, scale_losses
from .settings import MEASURING_VERSION, HeterogeneitySettings, RunLog, run_owner
from .transfer import TransferMeasurement, nodes_of

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]


def measure_heterogeneity(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    kind: MatrixKind,
    settings: HeterogeneitySettings,
    folder: Path,
    advance: Callable[[int], Any] | None = None,
    *,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> HeterogeneityMatrix:
    """One heterogeneity matrix of a suite: measured on a share of the pairs, imputed on the rest.

    A node that cannot be measured (no rows, a constant target, a model that diverges with every seed) is left out and
    named under `excluded`; a transfer that diverges is named under `diverged`, and its pair imputed. Where no
    interaction can be measured, the matrix has no nodes.

    Args:
        suite, processor, data: what to measure on.
        kind: `"unimodal"` (nodes are modality-task pairs) or `"interaction"`.
        settings: how.
        folder: finished runs are kept in it and not repeated.
        advance: called with the number of optimizer steps that were made now, or that turn out not to be needed.
            With those of `finished_steps` they add up to `settings.num_runs` of all the suite's nodes. None shows a
            progress bar.
        left_out: task of the suite that `processor` and `data` lack, to the reason.

    Raises:
        ValueError: runs of another suite, other settings or another version are in the folder, or no modality-task
            pair can be measured; the message says why not.
        FloatingPointError: the models of all modality-task pairs diverge.

    Source: Liang et al., TMLR 05/2023, equations 1 to 8, and appendix A.2 for the imputation.
    """
    names = nodes_of(suite, kind)
    planned = settings.num_runs(len(names))
    with ExitStack() as stack:
        if advance is None:
            bar = progress_bar(f"Heterogeneity, {kind}", planned * settings.num_steps)
            advance = stack.enter_context(bar)
            advance(finished_steps(suite, kind, settings, folder))
        measurement = TransferMeasurement(suite, processor, data, kind, settings, folder, advance)
        null, excluded = null_values(measurement)
        nodes = list(null)
        advance((planned - settings.num_runs(len(nodes))) * settings.num_steps)
        if settings.method == "transfer":
            found = measure_transfers(measurement, null, excluded)
        elif settings.method == "random":
            found = random_distances(len(nodes), settings), _Losses(nodes)
        else:
            pairs = TransferMeasurement(suite, processor, data, "unimodal", settings, folder, writes=False)
            tasks = joint_tasks(pairs)
            values = feature_distances(suite, processor, data, kind, nodes, settings, folder, advance, tasks=tasks)
            found = values, _Losses(nodes)
    estimate, losses = found
    why = {**{node: left_out[task] for node in names if (task := node.split("/", 1)[0]) in left_out}, **excluded}
    excluded = {node: why[node] for node in names if node in why}
    for node, reason in excluded.items():
        logger.warning(
            "Heterogeneity is measured without %s", reason if reason.startswith(node) else f"{node}: {reason}"
        )
    return HeterogeneityMatrix(
        kind=kind,
        nodes=losses.nodes,
        transfer=estimate.transfer,
        values=estimate.values,
        standard_errors=estimate.standard_errors,
        measured=estimate.measured,
        losses=losses.to_dict(null, suite),
        loss_scale=settings.loss_scale,
        num_seeds=settings.num_seeds,
        settings=settings.to_dict(),
        suite=suite.name,
        suite_fingerprint=suite.fingerprint,
        excluded=excluded,
        diverged=dict(measurement.log.errors),
        version=MEASURING_VERSION,
    )


def finished_steps(suite: Suite, kind: MatrixKind, settings: HeterogeneitySettings, folder: Path) -> int:
    """How many optimizer steps of a matrix were made by an earlier call, so that `measure_heterogeneity` skips them.

    Raises:
        ValueError: the folder holds runs of another suite, other settings or another version.
    """
    if settings.method != "transfer":  # a joint model that is read counts when it is
        return 0
    log = RunLog(folder / f"{kind}-runs.jsonl", run_owner(suite, kind, settings), writes=False)
    return len(log.losses) * settings.num_steps


def joint_tasks(measurement: TransferMeasurement) -> list[str]:
    """The tasks that a joint model is trained on: those of which a modality-task pair can be measured.

    Args:
        measurement: of modality-task pairs, whichever matrix the model is for, as it serves both.

    Raises:
        ValueError: none can be.
    """
    known, _ = null_values(measurement)
    return list(dict.fromkeys(node.split("/", 1)[0] for node in known))


@dataclass
class _Losses:
    """What the runs gave, `(num_seeds, n)` and `(num_seeds, n, n)`; None where there were none."""

    nodes: list[str]
    scratch: Floats | None = None
    transfer: Floats | None = None

    def to_dict(self, null: dict[str, float], suite: Suite) -> dict[str, Any]:
        """Plain data, as the file has it."""
        if self.scratch is None or self.transfer is None:
            return {}
        return {
            "scratch": {node: self.scratch[:, index].tolist() for index, node in enumerate(self.nodes)},
            "transfer": {
                f"{self.nodes[source]}->{self.nodes[target]}": self.transfer[:, source, target].tolist()
                for source, target in np.argwhere(np.isfinite(self.transfer).any(axis=0))
            },
            "null": {node: null[node] for node in self.nodes},
            "higher_is_better": dict(zip(self.nodes, _higher_is_better(suite, self.nodes), strict=True)),
        }


def null_values(measurement: TransferMeasurement) -> tuple[dict[str, float], dict[str, str]]:
    """Every node's loss (or metric) of the best constant prediction, and the nodes that have none, with the reason.

    Raises:
        ValueError: no modality-task pair can be measured. A suite of which no interaction can be has none.
    """
    known, excluded = {}, {}
    metric = measurement.settings.loss_scale == "metric"
    for node in measurement.nodes:
        try:
            known[node] = (measurement.null_metric if metric else measurement.null_loss)(node)
        except ValueError as error:
            excluded[node] = str(error)
    if excluded and not known and measurement.kind == "unimodal":
        raise ValueError(f"No node can be measured. {' '.join(excluded.values())}")
    return known, excluded


def measure_transfers(
    measurement: TransferMeasurement, null: dict[str, float], excluded: dict[str, str]
) -> tuple[DistanceEstimate, _Losses]:
    """Scratch runs of all nodes, then transfers between as many pairs as the settings say; adds to `excluded`.

    Raises:
        FloatingPointError: the models of all modality-task pairs diverge.
    """
    settings = measurement.settings
    seeds = range(settings.seed, settings.seed + settings.num_seeds)
    measurement.train_from_scratch(list(null), seeds)
    for node in null:
        if all(math.isnan(measurement.scratch_loss(node, seed)) for seed in seeds):
            excluded[node] = measurement.log.errors[f"{node}#{seeds[0]}"]
    nodes = [node for node in null if node not in excluded]
    if null and not nodes and measurement.kind == "unimodal":
        raise FloatingPointError(f"The models of all nodes diverge. {' '.join(excluded[node] for node in null)}")
    fewer = settings.num_pairs(len(null)) - settings.num_pairs(len(nodes))
    measurement.advance(2 * fewer * settings.num_seeds * settings.num_steps)
    scratch = np.array([[measurement.scratch_loss(node, seed) for node in nodes] for seed in seeds], dtype=float)
    transfer = np.full((settings.num_seeds, len(nodes), len(nodes)), np.nan)

    def distances() -> DistanceEstimate:
        return heterogeneity_distance(
            _in_one_unit(transfer, measurement, nodes, null), _in_one_unit(scratch, measurement, nodes, null)
        )

    # A suite of tasks with one modality each has no interactions.
    budget = settings.num_pairs(len(nodes))
    sampler = PairSampler(max(len(nodes), 1), budget, rank=settings.rank, seed=settings.seed)
    while pairs := sampler.next_pairs(_round_size(sampler)):
        directions = [direction for i, j in pairs for direction in ((i, j), (j, i))]
        measurement.transfer([(nodes[source], nodes[target]) for source, target in directions], seeds)
        for (source, target), number in ((d, n) for d in directions for n in range(len(seeds))):
            transfer[number, source, target] = measurement.transfer_loss(nodes[source], nodes[target], seeds[number])
        values = distances().values
        for i, j in pairs:
            sampler.record(i, j, values[i, j])
    measured = distances()
    measurement.remove_sources()
    return _completed(measured, sampler.complete(), len(nodes)), _Losses(nodes, scratch, transfer)


def _round_size(sampler: PairSampler) -> int:
    """Pairs to measure before the next are chosen: the more there are, the more runs share a target.

    First a whole row; then half of what is left, but at least a row again. Where all are measured, all at once.
    """
    remaining, nodes = sampler.num_remaining, sampler.num_nodes
    if sampler.budget == nodes * (nodes - 1) // 2:
        return remaining
    return nodes - 1 if remaining == sampler.budget else max(nodes - 1, -(-remaining // 2))


def _in_one_unit(
    losses: Floats, measurement: TransferMeasurement, nodes: Sequence[str], null: dict[str, float]
) -> Floats:
    return scale_losses(
        losses,
        measurement.settings.loss_scale,
        null_losses=np.array([null[node] for node in nodes]),
        higher_is_better=_higher_is_better(measurement.suite, nodes),
        nodes=nodes,
    )


def _higher_is_better(suite: Suite, nodes: Sequence[str]) -> list[bool]:
    """Of each node's task, whether a higher metric is better."""
    return [METRICS[suite.task(node.split("/", 1)[0]).metric].higher_is_better for node in nodes]


def _completed(measured: DistanceEstimate, completed: CompletedMatrix, count: int) -> DistanceEstimate:
    known = completed.measured[:count, :count]
    errors = np.where(known, measured.standard_errors, completed.standard_errors[:count, :count])
    values = completed.values[:count, :count]
    return DistanceEstimate(measured.transfer, measured.transfer_standard_errors, values, errors, known)


__all__ = ["finished_steps", "joint_tasks", "measure_heterogeneity", "measure_transfers", "null_values"]
