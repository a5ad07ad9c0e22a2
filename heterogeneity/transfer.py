"""Measuring heterogeneity: train on one node, fine-tune on another, compare with training from scratch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..modeling_highmmt import HighMMTModel, task_loss
from ..processing import HighMMTProcessor
from ..suites import Suite
from ..train import StaggeredSchedule, build_config, build_model, progress_bar
from ..train.trainer import EncodedTasks
from .completion import complete_matrix
from .distances import DistanceEstimate, HeterogeneityMatrix, LossScale, heterogeneity_distance, scale_losses

Kind = Literal["unimodal", "interaction"]
LOSS_SCALES: tuple[LossScale, ...] = ("null", "none")


@dataclass(frozen=True)
class HeterogeneitySettings:
    """How heterogeneity is measured; the same for every run, so that runs can be compared.

    Args:
        num_steps: optimizer steps of every run, from scratch or after a transfer.
        num_evaluations: times the validation loss is taken, evenly spread; the best one counts.
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

    num_steps: int = 60
    num_evaluations: int = 4
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    share: float = 0.5
    num_seeds: int = 1
    rank: int = 3
    loss_scale: LossScale = "null"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_evaluations", "batch_size", "num_seeds", "rank"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number, 1 or more.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share!r} must be above 0 and at most 1.")
        if self.loss_scale not in LOSS_SCALES:
            raise ValueError(f"loss_scale={self.loss_scale!r} is not one of {', '.join(LOSS_SCALES)}.")
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError("learning_rate must be positive and weight_decay must not be negative.")

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
        if path.exists():
            self._read(owner)
        else:
            self._append(owner)

    def _read(self, owner: dict[str, Any]) -> None:
        text = self.path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if not text.endswith("\n"):
            # The process died within a line: that run is not finished.
            lines = lines[:-1]
        if not lines or json.loads(lines[0]) != owner:
            raise ValueError(
                f"{self.path} holds runs of another suite or other settings. Use another output folder, or delete it."
            )
        for line in lines[1:]:
            run = json.loads(line)
            self.losses[run["run"]] = run["loss"]
        if not text.endswith("\n"):
            self.path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def add(self, run: str, loss: float) -> None:
        """Remember the loss of a finished run."""
        self.losses[run] = loss
        self._append({"run": run, "loss": loss})

    def _append(self, values: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


class TransferMeasurement:
    """All runs of one heterogeneity matrix, each made once.

    A node is a modality-task pair (`kind="unimodal"`: encoder and linear head) or an interaction
    (`"interaction"`: encoder, crossmodal transformer and head on both ordered pairs).

    Args:
        suite, processor, data: what to measure on; `data` is task and split to encoded rows.
        kind: which matrix.
        settings: the same for every run.
        folder: where finished runs and trained sources are kept.

    Source: Liang et al., TMLR 05/2023, equations 1 to 4 (unimodal) and 6 to 8 (interaction).
    """

    def __init__(
        self,
        suite: Suite,
        processor: HighMMTProcessor,
        data: EncodedTasks,
        kind: Kind,
        settings: HeterogeneitySettings,
        folder: Path,
    ) -> None:
        self.suite, self.processor, self.data = suite, processor, data
        self.kind, self.settings, self.folder = kind, settings, folder
        self.nodes = suite.modality_task_pairs() if kind == "unimodal" else suite.interactions()
        owner = {"suite": suite.fingerprint, "kind": kind, "settings": settings.to_dict()}
        self.log = RunLog(folder / f"{kind}-runs.jsonl", owner)
        self._validation: dict[str, dict[str, Any]] = {}
        self.on_run: Callable[[], Any] = lambda: None

    def scratch_loss(self, node: str, seed: int) -> float:
        """L*_n: best validation loss of a model trained on the node alone (equations 1 and 8)."""
        run = f"{node}#{seed}"
        if run not in self.log.losses:
            self.log.add(run, self._train_source(node, seed))
            self.on_run()
        return self.log.losses[run]

    def transfer_loss(self, source: str, target: str, seed: int) -> float:
        """L*_{m->n}: the same on the target, its shared parameters those that were trained on the source (eq. 3, 7)."""
        run = f"{source}->{target}#{seed}"
        if run not in self.log.losses:
            if not self._source_path(source, seed).exists():
                self._train_source(source, seed)
            loss, _ = self._train(target, seed, load_file(self._source_path(source, seed)))
            self.log.add(run, loss)
            self.on_run()
        return self.log.losses[run]

    def null_loss(self, node: str) -> float:
        """Validation loss of the best constant prediction: class shares or mean of the training labels.

        Raises:
            ValueError: the constant is never wrong, so there is nothing to learn; the message names the task.
        """
        task = node.split("/", 1)[0]
        labels = [self._labels(task, split) for split in ("train", "validation")]
        description = self.processor.task_configs()[task]
        if description["problem_type"] == "single_label_classification":
            counts = torch.bincount(labels[0], minlength=description["num_labels"]).float()
            logits = (counts.clamp_min(0.5) / counts.clamp_min(0.5).sum()).log()
        elif description["problem_type"] == "regression":
            logits = labels[0].mean(0)
        else:
            logits = torch.logit(labels[0].mean(0).clamp(1e-3, 1 - 1e-3))
        config = build_config(self.suite, self.processor, [task]).tasks[task]
        loss = float(task_loss(task, config, logits.expand(len(labels[1]), -1), labels[1]))
        if not loss > 0:
            raise ValueError(f"Task {task!r}: its validation target is constant; heterogeneity has no unit there.")
        return loss

    def remove_sources(self) -> None:
        """Delete the trained sources, which are not needed once all runs are done."""
        shutil.rmtree(self.folder / f"{self.kind}-sources", ignore_errors=True)

    def _train_source(self, node: str, seed: int) -> float:
        loss, state = self._train(node, seed, None)
        # The head of a source never transfers.
        shared = {name: value.contiguous() for name, value in state.items() if not name.startswith("heads.")}
        self._source_path(node, seed).parent.mkdir(parents=True, exist_ok=True)
        save_file(shared, self._source_path(node, seed))
        return loss

    def _source_path(self, node: str, seed: int) -> Path:
        return self.folder / f"{self.kind}-sources" / f"{node.replace('/', '.')}-seed{seed}.safetensors"

    def _labels(self, task: str, split: str) -> Tensor:
        rows = self.data[task][split].with_format("arrow")[:]
        return self.processor.collate(task, rows, modalities=[])["labels"][task]

    def _modalities(self, node: str) -> list[str]:
        return node.split("/", 1)[1].split("+")

    def _model(self, node: str, seed: int) -> HighMMTModel:
        task = node.split("/", 1)[0]
        config = build_config(self.suite, self.processor)
        # Every node's model has the same standard width, whatever modality it reads, so that parameters fit.
        tasks = {task: {**asdict(config.tasks[task]), "modalities": self._modalities(node)}}
        values = {**config.to_dict(), "tasks": tasks, "parameter_groups": None}
        return build_model(type(config)(**values), seed)

    def _train(self, node: str, seed: int, start: dict[str, Tensor] | None) -> tuple[float, dict[str, Tensor]]:
        settings = self.settings
        task = node.split("/", 1)[0]
        model = self._model(node, seed)
        if start is not None:
            # Vectors of token ids stay new where the source has no text of its own.
            own = {name: value for name, value in start.items() if not name.startswith("token_embeddings.")}
            model.load_state_dict(own, strict=False)
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        rows = self.data[task]["train"].with_format("arrow")
        schedule = StaggeredSchedule({task: len(rows)}, {task: settings.batch_size}, seed=seed)
        evaluate_at = set(np.linspace(0, settings.num_steps, settings.num_evaluations + 1).round().astype(int)[1:])
        best, best_state, step, epoch = float("inf"), dict(model.state_dict()), 0, 0
        model.train()
        while step < settings.num_steps:
            for batches in schedule.epoch(epoch):
                batch = self.processor.collate(task, rows[batches[task]], modalities=self._modalities(node))
                batch.pop("row", None)
                loss = model(**batch).losses[task]
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step += 1
                if step in evaluate_at:
                    value = self._validation_loss(model, node)
                    if value < best:
                        best = value
                        best_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                if step == settings.num_steps:
                    break
            epoch += 1
        if not np.isfinite(best):
            raise FloatingPointError(
                f"{node}: the validation loss is not finite after {settings.num_steps} steps. Lower learning_rate "
                f"({settings.learning_rate:g})."
            )
        return best, best_state

    @torch.no_grad()
    def _validation_loss(self, model: HighMMTModel, node: str) -> float:
        task = node.split("/", 1)[0]
        if node not in self._validation:
            rows = self.data[task]["validation"].with_format("arrow")[:]
            self._validation[node] = self.processor.collate(task, rows, modalities=self._modalities(node))
            self._validation[node].pop("row", None)
        model.eval()
        loss = float(model(**self._validation[node]).losses[task])
        model.train()
        return loss


def measure_heterogeneity(
    suite: Suite,
    processor: HighMMTProcessor,
    data: dict[str, dict[str, Dataset]],
    kind: Kind,
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

        completed = complete_matrix(measure, count, budget, rank=settings.rank, seed=settings.seed)
    measured = distances()
    measurement.remove_sources()
    errors = np.where(completed.measured, measured.standard_errors, completed.standard_errors)
    return HeterogeneityMatrix(
        kind=kind,
        nodes=list(nodes),
        transfer=measured.transfer,
        values=completed.values,
        standard_errors=errors,
        measured=completed.measured,
        losses={
            "scratch": {node: scratch[:, index].tolist() for index, node in enumerate(nodes)},
            "null": {node: float(null[index]) for index, node in enumerate(nodes)},
        },
        loss_scale=settings.loss_scale,
        num_seeds=settings.num_seeds,
        settings=settings.to_dict(),
        suite=suite.name,
        suite_fingerprint=suite.fingerprint,
    )
