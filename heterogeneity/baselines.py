"""The measures of heterogeneity that the paper compares with: random distances, and differences of mean features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from ..configuration.files import write_bytes
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor, to_device
from ..suites import Suite
from ..train import StaggeredSchedule, build_config, build_model
from ..train.loading import EncodedTasks, iterate_batches, merge_batches
from ..train.processes import process_state
from .distances import DistanceEstimate, MatrixKind
from .settings import HeterogeneitySettings, RunLog, run_owner
from .stacked import MAX_GRAD_NORM

_ROWS = 256  # of one pass through the validation split
Floats = NDArray[np.float64]


def random_distances(num_nodes: int, settings: HeterogeneitySettings) -> DistanceEstimate:
    """Distances that know nothing of the nodes: uniform between 0 and 1, for every seed anew.

    Source: Liang et al., TMLR 05/2023, table 5, "random difference".
    """
    drawn = []
    for seed in range(settings.seed, settings.seed + settings.num_seeds):
        upper = np.triu(np.random.default_rng(seed).random((num_nodes, num_nodes)), 1)
        drawn.append(upper + upper.T)
    return _estimate(np.array(drawn))


def feature_distances(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    kind: MatrixKind,
    nodes: Sequence[str],
    settings: HeterogeneitySettings,
    folder: Path,
    advance: Callable[[int], Any] = lambda steps: None,
    *,
    tasks: Sequence[str] | None = None,
) -> DistanceEstimate:
    """Squared distance of mean features, `||mean U(X1) - mean U(X2)||^2`, of one model trained on all tasks at once.

    The features of a modality-task pair are its latents, those of an interaction the vectors of its two ordered pairs,
    added, as their order means nothing. The mean is over the validation rows that have the inputs. Every process makes
    the same; the main one alone writes. Without nodes nothing is trained.

    Args:
        suite, processor, data: what to train on.
        kind, nodes: what to compare.
        settings: steps, batch size, learning rate, weight decay and seeds; a step has a batch of every task.
        advance: called with the number of steps made.
        tasks: what the joint model is trained on; None for all of the suite.

    Raises:
        FloatingPointError: the loss of a task is not finite; the message names it.

    Source: Liang et al., TMLR 05/2023, section 3.2, baseline (6), after Sun et al., 2016; the paper numbers no
    equation and does not say that means are compared, which is ours: the rows of two tasks have no common order.
    """
    if not nodes:
        return _estimate(np.zeros((settings.num_seeds, 0, 0)))
    part = suite if tasks is None or len(tasks) == len(suite.tasks) else suite.select(tasks)
    with process_state().main_process_first():
        log = joint_log(suite, settings, folder, writes=process_state().is_main_process, tasks=tasks)
    distances = []
    for seed in range(settings.seed, settings.seed + settings.num_seeds):
        model = _joint_model(part, processor, data, settings, seed, folder, log, advance)
        features = np.array([_mean_features(model, processor, data, kind, node) for node in nodes])
        distances.append(((features[:, None] - features[None]) ** 2).sum(-1))
    return _estimate(np.array(distances))


def _estimate(distances: Floats) -> DistanceEstimate:
    """Mean over seeds and its standard error, of `(num_seeds, n, n)`; nothing was transferred."""
    num_seeds, size = distances.shape[:2]
    errors = np.full((size, size), np.nan)
    if num_seeds > 1:
        errors = distances.std(axis=0, ddof=1) / np.sqrt(num_seeds)
    np.fill_diagonal(errors, 0.0)
    unknown = np.full((size, size), np.nan)
    measured = ~np.eye(size, dtype=bool)
    return DistanceEstimate(unknown, unknown.copy(), distances.mean(axis=0), errors, measured)


def joint_log(
    suite: Suite, settings: HeterogeneitySettings, folder: Path, *, writes: bool, tasks: Sequence[str] | None = None
) -> RunLog:
    """Which joint models of a suite are trained, one run for each seed; its result is the last training loss.

    Args:
        suite, settings, folder: whose models they are, and where.
        writes: as `RunLog` takes it.
        tasks: what they are trained on; None for all of the suite.

    Raises:
        ValueError: the folder holds those of another suite, other tasks, other settings or another version.
    """
    owner = run_owner(suite, "joint", settings)
    if tasks is not None and len(tasks) < len(suite.tasks):
        owner["tasks"] = list(tasks)
    return RunLog(folder / "joint-runs.jsonl", owner, writes=writes)


def _joint_model(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: HeterogeneitySettings,
    seed: int,
    folder: Path,
    log: RunLog,
    advance: Callable[[int], Any],
) -> HighMMTModel:
    """The joint model of a seed: the one in the folder, or else trained and kept there."""
    path, run = folder / "joint-models" / f"seed{seed}.safetensors", f"joint#{seed}"
    if run in log.losses and path.exists():
        model = build_model(build_config(suite, processor), seed)
        model.load_state_dict(safetensors.torch.load_file(path))
        model.to(process_state().device)
        advance(settings.num_steps)
        return model.eval()
    model, loss = train_jointly(suite, processor, data, settings, seed, advance)
    if log.writes:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        write_bytes(path, safetensors.torch.save(state))
    if run not in log.losses:
        log.add({run: loss}, {})
    return model


def train_jointly(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: HeterogeneitySettings,
    seed: int,
    advance: Callable[[int], Any],
) -> tuple[HighMMTModel, float]:
    """One model with shared parameters, trained on a batch of every task in each step; and its last loss.

    Raises:
        FloatingPointError: the loss of a step is not finite.
    """
    device = process_state().device
    model = build_model(build_config(suite, processor), seed)
    model.to(device)
    columns = {task: data[task]["train"].with_format("arrow") for task in suite.tasks}
    orders = {task: _order(task, len(rows), settings.batch_size, seed) for task, rows in columns.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    torch.manual_seed(seed)
    model.train()
    for step in range(1, settings.num_steps + 1):
        parts = [processor.collate(task, columns[task][next(order)]) for task, order in orders.items()]
        batch = merge_batches(parts)
        batch.pop("row", None)
        output = model(**to_device(batch, device))
        loss = output.loss
        if not bool(torch.isfinite(loss)):
            bad = [task for task, own in output.losses.items() if not bool(torch.isfinite(own))]
            raise FloatingPointError(
                f"The joint model's training loss of step {step} is {loss.item()}, by the task{'s' * (len(bad) > 1)} "
                f"{', '.join(bad)}. Lower learning_rate ({settings.learning_rate:g}), look for extreme values with "
                "`highmmt inspect`, or choose the other tasks with --tasks."
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        advance(1)
    return model.eval(), loss.item()


def _order(task: str, num_rows: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """The rows of one step after the other, without end."""
    schedule = StaggeredSchedule({task: num_rows}, {task: batch_size}, seed=seed)
    for epoch in itertools.count():
        yield from (batches[task] for batches in schedule.epoch(epoch))


@torch.no_grad()
def _mean_features(
    model: HighMMTModel, processor: HighMMTProcessor, data: EncodedTasks, kind: MatrixKind, node: str
) -> Floats:
    """Mean features of a node over the validation rows that have all its inputs, `(features,)`."""
    task, names = node.split("/", 1)
    rows = data[task]["validation"].with_format("arrow")
    present = names.split("+") if kind == "interaction" else [names]
    order = list(model.config.tasks[task].modalities)
    sums, count = [], 0
    for numbers in iterate_batches(len(rows), _ROWS):
        batch = processor.collate(task, rows[numbers])
        batch.pop("row", None)
        batch.pop("labels", None)
        output = model(**to_device(batch, model.device))
        masks = batch.get("attention_mask", {}).get(task, {})
        has = torch.ones(len(numbers), dtype=torch.bool)
        for name in present:
            if name in masks:
                has &= masks[name].flatten(1).any(1)
        if kind == "unimodal":
            features = output.unimodal_states[task][names].flatten(1)
        else:
            ordered = [(first, second) for first in order for second in order if first != second]
            vectors = output.multimodal_states[task].unflatten(1, (len(ordered), -1))
            first, second = present
            features = vectors[:, ordered.index((first, second))] + vectors[:, ordered.index((second, first))]
        sums.append(features.cpu()[has].double().sum(0))
        count += int(has.sum())
    mean: Floats = (torch.stack(sums).sum(0) / max(1, count)).numpy()
    return mean


__all__ = ["feature_distances", "joint_log", "random_distances", "train_jointly"]
