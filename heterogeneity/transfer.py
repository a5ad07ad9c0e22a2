"""The runs behind a heterogeneity matrix: models trained on one node, and models that go on from there on another."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..configuration import HighMMTConfig, TaskConfig
from ..configuration.files import write_bytes
from ..modeling_highmmt import HighMMTModel, labelled, task_loss
from ..processing import HighMMTProcessor, to_device
from ..suites import Suite
from ..train import METRICS, StaggeredSchedule, build_config, build_model
from ..train.evaluation import metric_value
from ..train.loading import EncodedTasks, iterate_batches
from ..train.processes import process_state
from .distances import MatrixKind
from .settings import HeterogeneitySettings, RunLog, run_owner
from .stacked import StackedModels

VALIDATION_BATCH_SIZE = 256
_FEWEST_VALIDATION_ROWS = 64
# More models at once gain nothing: their tensors no longer fit into a cache.
MAX_STACKED = 20
# What a run more in a stack costs, measured in runs by themselves; it decides how work is shared out, no result.
_COST_OF_ANOTHER = 0.4


@dataclass(frozen=True)
class Job:
    """Runs that share a target and a seed, and so one pass over its data.

    Attributes:
        target, seed: what they train on, in which order.
        sources: one run for each, starting from what was learned there; none: one run from scratch.
    """

    target: str
    seed: int
    sources: tuple[str, ...] = ()

    @property
    def runs(self) -> list[str]:
        """Names of the runs in the log."""
        starts = [f"{source}->" for source in self.sources] or [""]
        return [f"{start}{self.target}#{self.seed}" for start in starts]


@dataclass
class Outcome:
    """What a job gives: each run's result, or why it diverged, from scratch what was learned, and how long it took."""

    losses: list[float]
    errors: list[str | None]
    state: dict[str, Tensor] | None = None
    seconds: float = math.nan


class TransferMeasurement:
    """All runs of one heterogeneity matrix, each made once.

    A node is a modality-task pair (`kind="unimodal"`: encoder and linear head) or an interaction
    (`"interaction"`: encoder, crossmodal transformer and head on both ordered pairs). Its rows are those of the task
    that have all of the node's modalities. A pair of a retrieval is trained to find its partner modality, which has an
    encoder of its own that is always new; what transfers is the pair's encoder.

    Runs with the same target and seed are trained side by side (`StackedModels`). Where several processes were
    launched, each makes some of the jobs; all know all results, and the main one alone writes. They must see the same
    folder.

    Args:
        suite, processor, data: what to measure on; `data` is task and split to encoded rows. A task of which it has no
            rows takes no part.
        kind: which matrix.
        settings: the same for every run.
        folder: where finished runs and trained sources are kept.
        advance: called with the number of optimizer steps that were made, counting each model's; not for a source that
            is trained again, but for runs that fall away because their source diverged.
        writes: False leaves the folder as it is.

    Raises:
        ValueError: runs of another suite, other settings or another version are in the folder.

    Source: Liang et al., TMLR 05/2023, equations 1 to 3 (unimodal) and 6 to 8 (interaction).
    """

    def __init__(
        self,
        suite: Suite,
        processor: HighMMTProcessor,
        data: EncodedTasks,
        kind: MatrixKind,
        settings: HeterogeneitySettings,
        folder: Path,
        advance: Callable[[int], Any] = lambda steps: None,
        *,
        writes: bool = True,
    ) -> None:
        self.process = process_state()
        self.device = self.process.device
        owner = run_owner(suite, kind, settings)
        suite = measurable_part(suite, data)
        self.suite, self.processor = suite, processor
        self.kind, self.settings, self.folder = kind, settings, folder
        self.nodes = nodes_of(suite, kind)
        self.advance = advance
        with self.process.main_process_first():
            path = folder / f"{kind}-runs.jsonl"
            self.log = RunLog(path, owner, writes=writes and self.process.is_main_process)
        self._columns = {
            (task, split): data[task][split].with_format("arrow") for task in suite.tasks for split in data[task]
        }
        self._rows: dict[tuple[str, str], np.ndarray] = {}
        # Of a model of each node, as last trained here; the same on every process.
        self._seconds: dict[str, float] = {}

    def train_from_scratch(self, nodes: Iterable[str], seeds: Iterable[int]) -> None:
        """Train a model on each node alone, with every seed: L*_n (equation 1; of interactions equation 8).

        The weights that were best are kept: θ_n, from which transfers start (equation 2; of interactions equation 6).
        """
        jobs = [Job(node, seed) for seed in seeds for node in nodes]
        self._run([job for job in jobs if job.runs[0] not in self.log.losses])

    def transfer(self, directions: Iterable[tuple[str, str]], seeds: Iterable[int]) -> None:
        """Train on each (source, target) from what was learned on the source: L*_{m->n}.

        Equation 3, θ <- θ_m with the θ_m of equation 2; of interactions equation 7, with the θ_m of equation 6.

        The same on the target as from scratch, its shared parameters first trained on the source. From a source that
        diverged nothing is trained.
        """
        sources: dict[tuple[str, int], list[str]] = {}
        missing: dict[Job, None] = {}
        for seed, (source, target) in itertools.product(seeds, directions):
            scratch = Job(source, seed)
            if Job(target, seed, (source,)).runs[0] in self.log.losses:
                continue
            if scratch.runs[0] in self.log.errors:
                self.advance(self.settings.num_steps)
                continue
            sources.setdefault((target, seed), []).append(source)
            if not self._has_source(source, seed):
                missing[scratch] = None
        self._run(list(missing))
        jobs = []
        for (target, seed), all_sources in sources.items():
            parts = -(-len(all_sources) // MAX_STACKED)
            jobs += [Job(target, seed, tuple(all_sources[part::parts])) for part in range(parts)]
        self._run(jobs)

    def scratch_loss(self, node: str, seed: int) -> float:
        """Result of a finished run from scratch; NaN where it diverged."""
        return self.log.losses[f"{node}#{seed}"]

    def transfer_loss(self, source: str, target: str, seed: int) -> float:
        """Result of a finished transfer; NaN where it or its source diverged."""
        return self.log.losses.get(f"{source}->{target}#{seed}", math.nan)

    def null_loss(self, node: str) -> float:
        """Validation loss of the best constant prediction: class shares or mean of the training labels.

        Every step of a sequence has a constant of its own. A retrieval's is the same similarity for all candidates,
        which costs the log of their number.

        Raises:
            ValueError: there is nothing to learn, as all training labels are the same or the constant is never wrong;
                the message names the node.
        """
        task = node.split("/", 1)[0]
        train, validation = (self._labels(node, split) for split in ("train", "validation"))
        description = self._description(task)
        if description.problem_type == "retrieval":
            chunks = [validation[rows] for rows in iterate_batches(len(validation), VALIDATION_BATCH_SIZE)]
            losses = [task_loss(task, description, torch.zeros(len(ids), len(ids)), ids) for ids in chunks]
            loss = _mean_of_labelled(losses, chunks)
        else:
            constant = _constant_logits(description, train)
            loss = float(task_loss(task, description, constant.expand(len(validation), *constant.shape), validation))
        for split, labels in (("train", train), ("validation", validation)):
            if _is_constant(labels) or not loss > 0:
                raise ValueError(
                    f"{node}: the target of the {split} rows that have this input is constant, so heterogeneity has "
                    f"no unit. Leave task {task!r} out, or choose other splits."
                )
        return loss

    def null_metric(self, node: str) -> float:
        """The task's metric of the best constant prediction on the validation split; 0 for a retrieval.

        Raises:
            ValueError: as `null_loss`, or the labels there do not determine the metric.
        """
        self.null_loss(node)
        task = node.split("/", 1)[0]
        description = self._description(task)
        if description.problem_type == "retrieval":
            return 0.0
        train, validation = (self._labels(node, split) for split in ("train", "validation"))
        constant = _constant_logits(description, train)
        value = self._metric(task, description, constant.expand(len(validation), *constant.shape), validation)
        if not math.isfinite(value):
            raise ValueError(f"{node}: the labels of the validation split do not determine the metric ({value}).")
        return value

    def remove_sources(self) -> None:
        """Delete the trained sources, which are not needed once all runs are done."""
        if self.log.writes:
            shutil.rmtree(self.folder / f"{self.kind}-sources", ignore_errors=True)

    def _run(self, jobs: Sequence[Job]) -> None:
        """Make all jobs, shared out among the processes."""
        rank = self.process.process_index
        for shares in self._rounds(jobs):
            own = [self._make(job) for job in shares[rank]]
            # As an entry of its own: lists that are gathered become one.
            for place, (share, outcomes) in enumerate(zip(shares, gather_object([own]), strict=True)):
                for job, outcome in zip(share, outcomes, strict=True):
                    if place != rank and self._is_new(job):
                        self.advance(len(job.runs) * self.settings.num_steps)
                    self._seconds[job.target] = outcome.seconds / _runs_in_time(job)
                    self._keep(job, outcome)
        self.process.wait_for_everyone()

    def _rounds(self, jobs: Sequence[Job]) -> Iterator[list[list[Job]]]:
        # A process by itself has nobody to wait for it; its order is the same every time.
        seconds = self._seconds if self.process.num_processes > 1 else {}
        cost = {job: seconds.get(job.target, 1.0) * _runs_in_time(job) for job in jobs}
        sizes = self._num_values(jobs)
        ordered = sorted(jobs, key=lambda job: (cost[job], sizes[job.target]), reverse=True)
        return share_out({job: cost[job] for job in ordered}, self.process.num_processes)

    def _make(self, job: Job) -> Outcome:
        starts = [safetensors.torch.load_file(self._source_path(source, job.seed)) for source in job.sources]
        advance = self.advance
        if not self._is_new(job):
            self.advance = _ignored
        started = time.perf_counter()
        try:
            outcome = self._train(job.target, job.seed, starts or [{}], keep=not job.sources)
        finally:
            self.advance = advance
        outcome.seconds = time.perf_counter() - started
        for index, source in enumerate(job.sources):
            if (error := outcome.errors[index]) is not None:
                outcome.errors[index] = f"After training on {source}: {error}"
        return outcome

    def _keep(self, job: Job, outcome: Outcome) -> None:
        if outcome.state is not None and self.log.writes:
            # The head of a source never transfers, nor does the encoder of a retrieval's partner modality.
            own = ("heads.", "unimodal_groups.1.")
            shared = {
                name: value.cpu().contiguous() for name, value in outcome.state.items() if not name.startswith(own)
            }
            write_bytes(self._source_path(job.target, job.seed), safetensors.torch.save(shared))
        new = [index for index, run in enumerate(job.runs) if run not in self.log.losses]
        if new:
            errors = {job.runs[index]: error for index in new if (error := outcome.errors[index]) is not None}
            self.log.add({job.runs[index]: outcome.losses[index] for index in new}, errors)

    def _is_new(self, job: Job) -> bool:
        """Whether the job gives results; a source whose weights are gone is trained again for these alone."""
        return any(run not in self.log.losses for run in job.runs)

    def _source_path(self, node: str, seed: int) -> Path:
        return self.folder / f"{self.kind}-sources" / f"{node.replace('/', '.')}-seed{seed}.safetensors"

    def _has_source(self, node: str, seed: int) -> bool:
        return self._source_path(node, seed).exists()

    def _description(self, task: str) -> TaskConfig:
        return build_config(self.suite, self.processor, [task]).tasks[task]

    def _labels(self, node: str, split: str) -> Tensor:
        task = node.split("/", 1)[0]
        table = self._columns[task, split].select_columns(["labels"])[self._row_numbers(node, split)]
        return self.processor.collate(task, table, modalities=[])["labels"][task]

    def _row_numbers(self, node: str, split: str) -> np.ndarray:
        """Rows of a split that have all inputs of the node; the model reads no sample without any."""
        if (node, split) not in self._rows:
            names = self._inputs(node)
            table: pa.Table = self._columns[node.split("/", 1)[0], split].select_columns(names)[:]
            lengths = [pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy() for name in names]
            self._rows[node, split] = np.flatnonzero(np.min(lengths, axis=0) > 0)
        if not len(self._rows[node, split]):
            raise ValueError(
                f"{node}: no row of the {split} split has this input; leave the modality or the task out."
            )
        return self._rows[node, split]

    def _batch(self, node: str, split: str, rows: np.ndarray) -> dict[str, Any]:
        task = node.split("/", 1)[0]
        table = self._columns[task, split][self._row_numbers(node, split)[rows]]
        batch = self.processor.collate(task, table, modalities=self._inputs(node))
        batch.pop("row", None)
        return to_device(batch, self.device)

    def _inputs(self, node: str) -> list[str]:
        """The modalities that the node's model reads: the node's, and for a retrieval its partner as well."""
        task, names = node.split("/", 1)
        spec = self.suite.task(task)
        return list(spec.modalities) if spec.target["problem_type"] == "retrieval" else names.split("+")

    def _model(self, node: str, seed: int) -> HighMMTModel:
        task = node.split("/", 1)[0]
        config = build_config(self.suite, self.processor)
        # Every node's model has the same standard width, whatever modality it reads, so that parameters fit.
        inputs = self._inputs(node)
        tasks = {task: {**asdict(config.tasks[task]), "modalities": inputs}}
        groups = None
        if config.tasks[task].problem_type == "retrieval":
            # The node's encoder is group 0, as in every other model.
            groups = {"unimodal": {f"{task}/{name}": int(f"{task}/{name}" != node) for name in inputs}}
        values = {**config.to_dict(), "tasks": tasks, "parameter_groups": groups}
        model = build_model(HighMMTConfig(**values), seed)
        model.to(self.device)
        return model

    def _num_values(self, jobs: Iterable[Job]) -> dict[str, int]:
        """How many numbers the inputs of each target's training rows have together."""
        counts = {}
        for node in {job.target for job in jobs}:
            names = self._inputs(node)
            table: pa.Table = self._columns[node.split("/", 1)[0], "train"].select_columns(names)[:]
            counts[node] = sum(pc.sum(pc.list_value_length(table[name])).as_py() or 0 for name in names)
        return counts

    def _order(self, node: str, seed: int) -> Iterator[np.ndarray]:
        """The rows of one step after the other, without end; the same for every run on the node."""
        task = node.split("/", 1)[0]
        rows = {task: len(self._row_numbers(node, "train"))}
        schedule = StaggeredSchedule(rows, {task: self.settings.batch_size}, seed=seed)
        return (batches[task] for epoch in itertools.count() for batches in schedule.epoch(epoch))

    def _stack(self, node: str, seed: int, starts: Sequence[dict[str, Tensor]]) -> StackedModels:
        task = node.split("/", 1)[0]
        # A source trains vectors of its own token ids only, so those of other texts are still as new.
        model = self._model(node, seed)
        return StackedModels(model, task, starts, self.settings.learning_rate, self.settings.weight_decay)

    def _train(self, node: str, seed: int, starts: Sequence[dict[str, Tensor]], *, keep: bool) -> Outcome:
        """Best validation result of a run from each start.

        Args:
            node, seed: what to train on, in which order and with which new weights.
            starts: the weights that are not new.
            keep: also give the weights that were best; for a single start.
        """
        settings, task = self.settings, node.split("/", 1)[0]
        stack = self._stack(node, seed, starts)
        direction = METRICS[self.suite.task(task).metric].direction if settings.loss_scale == "metric" else -1
        outcome = Outcome([math.nan] * len(starts), [None] * len(starts))
        evaluate_at = set(np.linspace(0, settings.num_steps, settings.num_evaluations + 1).round().astype(int)[1:])
        torch.manual_seed(seed)
        steps_made = 0
        for step, rows in enumerate(itertools.islice(self._order(node, seed), settings.num_steps), start=1):
            losses = stack.train_step(self._batch(node, "train", rows))
            self._note_divergence(outcome, losses.tolist(), f"{node}: the training loss of step {step}")
            steps_made += len(starts)
            self.advance(len(starts))
            if step in evaluate_at:
                values = self._validate(stack, node, task)
                self._note_divergence(outcome, values, f"{node}: the validation result after step {step}")
                for index, value in enumerate(values):
                    best = outcome.losses[index]
                    if outcome.errors[index] is None and (math.isnan(best) or direction * (value - best) > 0):
                        outcome.losses[index] = value
                        if keep:
                            outcome.state = stack.state(index)
            if None not in outcome.errors:
                break
        self.advance(len(starts) * settings.num_steps - steps_made)
        for index, error in enumerate(outcome.errors):
            if error is not None:
                outcome.losses[index], outcome.state = math.nan, None
        return outcome

    def _note_divergence(self, outcome: Outcome, values: Sequence[float], what: str) -> None:
        for index, value in enumerate(values):
            if outcome.errors[index] is None and not math.isfinite(value):
                outcome.errors[index] = (
                    f"{what} is {value}. Lower learning_rate ({self.settings.learning_rate:g}) or look for extreme "
                    "values with `highmmt inspect`."
                )

    def _validate(self, stack: StackedModels, node: str, task: str) -> list[float]:
        """Loss of every model on all validation rows, or with `loss_scale="metric"` the task's metric."""
        description = stack.model.config.tasks[task]
        losses, predictions, labels = [], [], []
        size = VALIDATION_BATCH_SIZE
        if description.problem_type != "retrieval":
            # Fewer rows for more models, so that what lies between two operations stays in the cache.
            size = max(_FEWEST_VALIDATION_ROWS, size // stack.num_models)
        for rows in iterate_batches(len(self._row_numbers(node, "validation")), size):
            batch = self._batch(node, "validation", rows)
            logits, states = stack.predict(batch)
            labels.append(batch["labels"][task])
            losses.append(stack.losses(logits, labels[-1]).cpu())
            predictions.append(states if description.problem_type == "retrieval" else logits)
        if self.settings.loss_scale != "metric":
            return [_mean_of_labelled([batch[index] for batch in losses], labels) for index in range(len(losses[0]))]
        together, target = torch.cat(predictions, dim=1).float().cpu(), torch.cat(labels).cpu()
        return [
            self._metric(task, description, own, target) if bool(torch.isfinite(own).all()) else math.nan
            for own in together
        ]

    def _metric(self, task: str, description: TaskConfig, predictions: Tensor, labels: Tensor) -> float:
        metric = METRICS[self.suite.task(task).metric]
        return metric_value(metric, task, description, self.processor, predictions, labels)


def nodes_of(suite: Suite, kind: MatrixKind) -> list[str]:
    """The nodes of a suite's matrix, whether they can be measured or not."""
    return suite.modality_task_pairs() if kind == "unimodal" else suite.interactions()


def measurable_part(suite: Suite, data: EncodedTasks) -> Suite:
    """The suite without the tasks of which there are no rows.

    Raises:
        ValueError: there are no rows of any task.
    """
    tasks = [task for task in suite.tasks if task in data]
    return suite if len(tasks) == len(suite.tasks) else suite.select(tasks)


def share_out(costs: Mapping[Job, float], num_processes: int) -> Iterator[list[list[Job]]]:
    """What each process makes in each round, after which results are written.

    One process makes the longest job that is left, the others as many as take no longer, so that none waits for long.

    Args:
        costs: how long each job will take, in any unit, the longest first.
        num_processes: how many there are.
    """
    left = list(costs)
    while left:
        longest = left.pop(0)
        shares = [[longest]]
        for _ in range(num_processes - 1):
            share: list[Job] = []
            spare = costs[longest]
            for job in left:
                if costs[job] <= spare:
                    share.append(job)
                    spare -= costs[job]
            left = [job for job in left if job not in share]
            shares.append(share)
        yield shares


def _runs_in_time(job: Job) -> float:
    """How many times as long as a run by itself the job takes, about."""
    return 1 + _COST_OF_ANOTHER * (len(job.runs) - 1)


def _ignored(steps: int) -> None:
    """In place of a progress bar."""


def _mean_of_labelled(losses: list[Tensor], labels: list[Tensor]) -> float:
    """Mean loss over all labels of several batches, of which each loss is the mean of one."""
    counts = [int(labelled(batch).sum()) for batch in labels]
    return sum(float(loss) * count for loss, count in zip(losses, counts, strict=True)) / max(1, sum(counts))


def _constant_logits(task: TaskConfig, labels: Tensor) -> Tensor:
    """The best prediction that depends on no input, the shape of one row's logits.

    Args:
        task: no retrieval.
        labels: of the training rows, `(rows, ...)`; missing ones take no part.
    """
    if task.problem_type == "single_label_classification":
        classes = torch.arange(task.num_labels)
        counts = (labels[..., None] == classes).sum(0).double().clamp_min(0.5)
        return (counts / counts.sum(-1, keepdim=True)).log()
    # Where a step has no label at all, any constant will do.
    mean = labels.double().nanmean(0).nan_to_num(0.0)
    return mean if task.problem_type == "regression" else torch.logit(mean.clamp(1e-3, 1 - 1e-3))


def _is_constant(labels: Tensor) -> bool:
    """Whether all rows that have a label have the same, at each step and for each quantity."""
    values = torch.where(labelled(labels), labels.double(), math.nan)
    high, low = (values.nan_to_num(limit) for limit in (-math.inf, math.inf))
    return bool((high.amax(0) <= low.amin(0)).all())


__all__ = ["Job", "Outcome", "TransferMeasurement", "measurable_part", "nodes_of", "share_out"]
