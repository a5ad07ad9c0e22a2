"""Measuring heterogeneity: train on one node, fine-tune on another, compare with training from scratch."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
from torch import Tensor

from ..configuration import HighMMTConfig, TaskConfig
from ..configuration.files import write_bytes, write_text
from ..modeling_highmmt import HighMMTModel, labelled, task_loss
from ..processing import HighMMTProcessor, to_device
from ..suites import Suite
from ..train import StaggeredSchedule, build_config, build_model, progress_bar
from ..train.trainer import EncodedTasks, iterate_batches, process_state
from .completion import complete_matrix
from .distances import (
    DistanceEstimate,
    HeterogeneityMatrix,
    LossScale,
    MatrixKind,
    heterogeneity_distance,
    scale_losses,
)

LOSS_SCALES: tuple[LossScale, ...] = ("null", "none")
VALIDATION_BATCH_SIZE = 256


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
        loss_scale: `"null"` divides losses by that of the best constant prediction; `"none"` is the paper as written.
        seed: of the first run; further runs count up.

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
        if self.loss_scale not in LOSS_SCALES:
            raise ValueError(f"loss_scale={self.loss_scale!r} is not one of {', '.join(LOSS_SCALES)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be positive.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay!r} must not be negative.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return asdict(self)


class RunLog:
    """Losses of finished runs, one JSON line each, written as they finish; a later call finds them again.

    Args:
        path: the file; its first line says what the runs belong to.
        owner: suite, kind and settings of the runs.

    Raises:
        ValueError: the file's runs belong to something else.
    """

    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        self.path = path
        self.losses: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # A last line without its end belongs to a run that died while it was written: it is not finished.
        lines = text.splitlines()[: text.count("\n")]
        if lines:
            self._read(lines, owner)
        else:
            lines = [json.dumps(owner)]
        whole = "".join(f"{line}\n" for line in lines)
        if whole != text:
            write_text(path, whole)

    def _read(self, lines: list[str], owner: dict[str, Any]) -> None:
        try:
            first, *runs = (json.loads(line) for line in lines)
            losses = {run["run"]: float(run["loss"]) for run in runs}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error!r}). Delete it to have its runs made again.") from error
        if first != owner:
            raise ValueError(
                f"{self.path} holds runs of another suite or other settings. Use another output folder, or delete it."
            )
        self.losses = losses

    def add(self, run: str, loss: float) -> None:
        """Remember the loss of a finished run."""
        self.losses[run] = loss
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"run": run, "loss": loss}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


class TransferMeasurement:
    """All runs of one heterogeneity matrix, each made once.

    A node is a modality-task pair (`kind="unimodal"`: encoder and linear head) or an interaction
    (`"interaction"`: encoder, crossmodal transformer and head on both ordered pairs). Its rows are those of the task
    that have all of the node's modalities. A pair of a retrieval is trained to find its partner modality, which has an
    encoder of its own that is always new; what transfers is the pair's encoder.

    Args:
        suite, processor, data: what to measure on; `data` is task and split to encoded rows.
        kind: which matrix.
        settings: the same for every run.
        folder: where finished runs and trained sources are kept.

    Raises:
        ValueError: runs of another suite or other settings are in the folder, or several processes were launched.

    Source: Liang et al., TMLR 05/2023, equations 1 to 4 (unimodal) and 6 to 8 (interaction).
    """

    def __init__(
        self,
        suite: Suite,
        processor: HighMMTProcessor,
        data: EncodedTasks,
        kind: MatrixKind,
        settings: HeterogeneitySettings,
        folder: Path,
    ) -> None:
        state = process_state()
        if state.num_processes > 1:
            raise ValueError(
                f"Heterogeneity is measured by one process, but {state.num_processes} were launched, which would all "
                "make the same runs. Measure without `accelerate launch`, then train with it."
            )
        self.device = state.device
        self.suite, self.processor = suite, processor
        self.kind, self.settings, self.folder = kind, settings, folder
        self.nodes = suite.modality_task_pairs() if kind == "unimodal" else suite.interactions()
        owner = {"suite": suite.fingerprint, "kind": kind, "settings": settings.to_dict()}
        self.log = RunLog(folder / f"{kind}-runs.jsonl", owner)
        self._columns = {
            (task, split): data[task][split].with_format("arrow") for task in suite.tasks for split in data[task]
        }
        self._rows: dict[tuple[str, str], np.ndarray] = {}
        self.on_run: Callable[[], Any] = lambda: None

    def scratch_loss(self, node: str, seed: int) -> float:
        """L*_n: best validation loss of a model trained on the node alone (equations 1 and 8)."""
        run = f"{node}#{seed}"
        if run not in self.log.losses:
            self.log.add(run, self._train_source(node, seed))
            self.on_run()
        return self.log.losses[run]

    def transfer_loss(self, source: str, target: str, seed: int) -> float:
        """L*_{m->n}: the same on the target, its shared parameters first trained on the source (eq. 3, 7)."""
        run = f"{source}->{target}#{seed}"
        if run not in self.log.losses:
            if not self._source_path(source, seed).exists():
                self._train_source(source, seed)
            start = safetensors.torch.load_file(self._source_path(source, seed))
            try:
                loss, _ = self._train(target, seed, start)
            except FloatingPointError as error:
                raise FloatingPointError(f"After training on {source}: {error}") from error
            self.log.add(run, loss)
            self.on_run()
        return self.log.losses[run]

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
        description = build_config(self.suite, self.processor, [task]).tasks[task]
        if description.problem_type == "retrieval":
            chunks = [validation[rows] for rows in iterate_batches(len(validation), VALIDATION_BATCH_SIZE)]
            losses = [task_loss(task, description, torch.zeros(len(ids), len(ids)), ids) for ids in chunks]
            loss = _mean_of_labelled(losses, chunks)
        else:
            constant = _constant_logits(description, train)
            loss = float(task_loss(task, description, constant.expand(len(validation), *constant.shape), validation))
        if not loss > 0 or _is_constant(train):
            raise ValueError(
                f"{node}: the target of the rows that have this input is constant, so heterogeneity has no unit. "
                f"Leave task {task!r} out, or choose other splits."
            )
        return loss

    def remove_sources(self) -> None:
        """Delete the trained sources, which are not needed once all runs are done."""
        shutil.rmtree(self.folder / f"{self.kind}-sources", ignore_errors=True)

    def _train_source(self, node: str, seed: int) -> float:
        loss, state = self._train(node, seed, None)
        # The head of a source never transfers, nor does the encoder of a retrieval's partner modality.
        own = ("heads.", "unimodal_groups.1.")
        shared = {name: value.cpu().contiguous() for name, value in state.items() if not name.startswith(own)}
        write_bytes(self._source_path(node, seed), safetensors.torch.save(shared))
        return loss

    def _source_path(self, node: str, seed: int) -> Path:
        return self.folder / f"{self.kind}-sources" / f"{node.replace('/', '.')}-seed{seed}.safetensors"

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

    def _train(self, node: str, seed: int, start: dict[str, Tensor] | None) -> tuple[float, dict[str, Tensor]]:
        """Best validation loss and the weights that had it, from new weights or from those of a source."""
        settings = self.settings
        task = node.split("/", 1)[0]
        model = self._model(node, seed)
        if start is not None:
            # A source trains vectors of its own token ids only, so those of other texts are still as new.
            model.load_state_dict({**model.state_dict(), **start})
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        rows = {task: len(self._row_numbers(node, "train"))}
        schedule = StaggeredSchedule(rows, {task: settings.batch_size}, seed=seed)
        evaluate_at = set(np.linspace(0, settings.num_steps, settings.num_evaluations + 1).round().astype(int)[1:])
        best, best_state = math.inf, {}
        order = (batches[task] for epoch in itertools.count() for batches in schedule.epoch(epoch))
        for step, batch_rows in enumerate(itertools.islice(order, settings.num_steps), start=1):
            model.train()
            loss = model(**self._batch(node, "train", batch_rows)).losses[task]
            self._require_finite(loss.item(), f"{node}: the training loss of step {step}")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step in evaluate_at:
                value = self._validation_loss(model, node)
                self._require_finite(value, f"{node}: the validation loss after step {step}")
                if value < best:
                    best = value
                    best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return best, best_state

    def _require_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"{what} is {loss}. Lower learning_rate ({self.settings.learning_rate:g}) or look for extreme "
                "values with `highmmt inspect`."
            )

    @torch.no_grad()
    def _validation_loss(self, model: HighMMTModel, node: str) -> float:
        task = node.split("/", 1)[0]
        model.eval()
        losses, labels = [], []
        for rows in iterate_batches(len(self._row_numbers(node, "validation")), VALIDATION_BATCH_SIZE):
            batch = self._batch(node, "validation", rows)
            losses.append(model(**batch).losses[task])
            labels.append(batch["labels"][task])
        return _mean_of_labelled(losses, labels)


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


def measure_heterogeneity(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    kind: MatrixKind,
    settings: HeterogeneitySettings,
    folder: Path,
) -> HeterogeneityMatrix:
    """One heterogeneity matrix of a suite: measured on a share of the pairs, imputed on the rest.

    Args:
        suite, processor, data: what to measure on.
        kind: `"unimodal"` (nodes are modality-task pairs) or `"interaction"`.
        settings: how.
        folder: finished runs are kept in it and not repeated.

    Raises:
        ValueError: runs of another suite or other settings are in the folder, or a task has nothing to learn.

    Source: Liang et al., TMLR 05/2023, equations 1 to 8, and appendix A.2 for the imputation.
    """
    measurement = TransferMeasurement(suite, processor, data, kind, settings, folder)
    nodes, seeds = measurement.nodes, range(settings.seed, settings.seed + settings.num_seeds)
    count = len(nodes)
    null = np.array([measurement.null_loss(node) for node in nodes])
    scratch = np.zeros((settings.num_seeds, count))
    transfer = np.full((settings.num_seeds, count, count), np.nan)
    pairs = count * (count - 1) // 2
    budget = min(pairs, max(1, round(settings.share * pairs))) if pairs else 0
    total = settings.num_seeds * (count + 2 * budget)
    with progress_bar(f"Heterogeneity, {kind}", total) as advance:
        advance(min(total, len(measurement.log.losses)))
        measurement.on_run = advance
        for number, seed in enumerate(seeds):
            scratch[number] = [measurement.scratch_loss(node, seed) for node in nodes]

        def measure(first: int, second: int) -> float:
            for number, seed in enumerate(seeds):
                for source, target in ((first, second), (second, first)):
                    transfer[number, source, target] = measurement.transfer_loss(nodes[source], nodes[target], seed)
            return float(distances().values[first, second])

        def distances() -> DistanceEstimate:
            return heterogeneity_distance(
                scale_losses(transfer, settings.loss_scale, null_losses=null, nodes=nodes),
                scale_losses(scratch, settings.loss_scale, null_losses=null, nodes=nodes),
            )

        # A suite of tasks with one modality each has no interactions.
        completed = complete_matrix(measure, max(count, 1), budget, rank=settings.rank, seed=settings.seed)
    measured = distances()
    measurement.remove_sources()
    known = completed.measured[:count, :count]
    errors = np.where(known, measured.standard_errors, completed.standard_errors[:count, :count])
    return HeterogeneityMatrix(
        kind=kind,
        nodes=list(nodes),
        transfer=measured.transfer,
        values=completed.values[:count, :count],
        standard_errors=errors,
        measured=known,
        losses={
            "scratch": {node: scratch[:, index].tolist() for index, node in enumerate(nodes)},
            "transfer": {
                f"{nodes[source]}->{nodes[target]}": transfer[:, source, target].tolist()
                for source, target in np.argwhere(np.isfinite(transfer).all(axis=0))
            },
            "null": {node: float(null[index]) for index, node in enumerate(nodes)},
        },
        loss_scale=settings.loss_scale,
        num_seeds=settings.num_seeds,
        settings=settings.to_dict(),
        suite=suite.name,
        suite_fingerprint=suite.fingerprint,
    )
