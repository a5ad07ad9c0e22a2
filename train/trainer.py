"""One loop for several tasks at once, built on Accelerate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from datasets import Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import get_scheduler

from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from .metrics import Metric, get_metric
from .schedule import StaggeredSchedule
from .settings import TrainingSettings

logger = get_logger(__name__)

Batch = dict[str, dict[str, Any]]
# Task -> split ("train", "validation", "test") -> rows encoded by the processor.
EncodedTasks = Mapping[str, Mapping[str, Dataset]]


@dataclass
class EpochRecord:
    """What one epoch did: losses are unweighted means over the epoch's batches, metrics are of the validation split."""

    epoch: int
    steps: int
    train_loss: dict[str, float]
    validation: dict[str, dict[str, float]]
    score: float


@dataclass
class TrainingResult:
    """The course of a run; the model holds the weights of `best_epoch` afterwards.

    Attributes:
        best_epoch: epoch of the highest validation score, counted from 0.
        best_score: sum over tasks of evaluation weight times metric, errors counted negative.
        history: one record for each epoch.
        gradient_steps: task to the number of optimizer steps it took part in.
    """

    best_epoch: int
    best_score: float
    history: list[EpochRecord] = field(default_factory=list)
    gradient_steps: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)


class MultitaskTrainer:
    """Trains one model on all its tasks and keeps the weights that are best on validation data.

    Args:
        model: has a head for every task of `data`.
        processor: fitted; collates rows and knows the targets' units.
        data: task and split to encoded rows (`processor.encode`).
        metrics: task to the name of its metric.
        settings: how to train.
        description: shown beside the progress bar.
        accelerator: made from the settings where none is given.

    Raises:
        ValueError: a task without head, without rows, or with a metric that does not suit it.

    Source: Liang et al., TMLR 05/2023, appendix B.5 to B.6.
    """

    def __init__(
        self,
        model: HighMMTModel,
        processor: HighMMTProcessor,
        data: EncodedTasks,
        metrics: Mapping[str, str],
        settings: TrainingSettings,
        description: str = "Training",
        accelerator: Accelerator | None = None,
    ) -> None:
        self.settings = settings
        self.processor = processor
        self.data = {task: dict(splits) for task, splits in data.items()}
        self.description = description
        self.metrics: dict[str, Metric] = {}
        for task in self.data:
            if task not in model.config.tasks:
                raise ValueError(f"Task {task!r}: the model has no such task; it has {', '.join(model.config.tasks)}.")
            self.metrics[task] = get_metric(metrics[task], task, model.config.tasks[task].problem_type)
        self.accelerator = accelerator or Accelerator(mixed_precision=settings.mixed_precision)
        self.model = model
        self._columns = {
            (task, split): dataset.with_format("arrow")
            for task, splits in self.data.items()
            for split, dataset in splits.items()
        }

    def train(self) -> TrainingResult:
        """Train all epochs, then load the best epoch's weights back into the model.

        Raises:
            FloatingPointError: the loss of a task is not finite; the message names task and epoch.
        """
        settings = self.settings
        set_seed(settings.seed)
        rows = {task: len(splits["train"]) for task, splits in self.data.items()}
        schedule = StaggeredSchedule(
            rows, {task: settings.batch_size_of(task) for task in self.data}, seed=settings.seed
        )
        total = len(schedule) * settings.num_epochs
        model, optimizer, lr_scheduler = self._prepare(total)
        result = TrainingResult(best_epoch=-1, best_score=-math.inf)
        result.gradient_steps = dict.fromkeys(self.data, 0)
        best: dict[str, Tensor] = {}
        with self._progress(total) as advance:
            for epoch in range(settings.num_epochs):
                model.train()
                losses: dict[str, list[Tensor]] = {task: [] for task in self.data}
                for batches in schedule.epoch(epoch):
                    step_losses = self._step(model, optimizer, lr_scheduler, batches)
                    for task, loss in step_losses.items():
                        losses[task].append(loss)
                        result.gradient_steps[task] += 1
                    advance(1)
                record = self._finish_epoch(epoch, len(schedule), losses)
                result.history.append(record)
                if record.score > result.best_score:
                    result.best_epoch, result.best_score = epoch, record.score
                    state = self.accelerator.unwrap_model(model).state_dict()
                    best = {name: value.detach().clone() for name, value in state.items()}
                elif settings.patience is not None and epoch - result.best_epoch >= settings.patience:
                    break
        self.model.load_state_dict(best)
        return result

    def evaluate(self, split: str = "validation") -> dict[str, dict[str, float]]:
        """Loss and metric of every task on a split.

        Returns:
            Task to `{"loss": mean loss, metric name: value}`.
        """
        return {task: self._evaluate_task(task, split) for task in self.data}

    @torch.no_grad()
    def predict(self, task: str, split: str) -> tuple[Tensor, Tensor]:
        """Logits and labels of every row of a split, in row order, `(rows, num_labels)` and the labels' shape."""
        self.model.eval()
        logits, labels = [], []
        rows = len(self.data[task][split])
        for start in range(0, rows, self.settings.eval_batch_size):
            batch = self._batch(task, split, np.arange(start, min(start + self.settings.eval_batch_size, rows)))
            target = batch.pop("labels")[task]
            with self.accelerator.autocast():
                output = self.model(**batch)
            logits.append(output.logits[task].float().cpu())
            labels.append(target.cpu())
        return torch.cat(logits), torch.cat(labels)

    def score(self, evaluation: Mapping[str, Mapping[str, float]]) -> float:
        """What checkpoints are compared by: the weighted sum of the tasks' metrics, errors counted negative."""
        tasks = self.model.config.tasks
        return sum(
            tasks[task].evaluation_weight * metric.direction * evaluation[task][metric.name]
            for task, metric in self.metrics.items()
        )

    def _prepare(self, total_steps: int) -> tuple[Any, Any, Any]:
        settings = self.settings
        name = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = name(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        lr_scheduler = get_scheduler(
            settings.lr_scheduler if settings.lr_scheduler != "constant" else "constant_with_warmup",
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * total_steps),
            num_training_steps=total_steps,
        )
        model, optimizer = self.accelerator.prepare(self.model, optimizer)
        return model, optimizer, lr_scheduler

    def _step(self, model: Any, optimizer: Any, lr_scheduler: Any, batches: dict[str, np.ndarray]) -> dict[str, Tensor]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        parts = [self._batch(task, "train", rows[rank::world] if world > 1 else rows) for task, rows in batches.items()]
        with self.accelerator.autocast():
            output = model(**merge_batches(parts))
        self.accelerator.backward(output.loss)
        if self.settings.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        return {task: loss.detach() for task, loss in output.losses.items()}

    def _finish_epoch(self, epoch: int, steps: int, losses: Mapping[str, list[Tensor]]) -> EpochRecord:
        means = {task: float(torch.stack(values).mean()) for task, values in losses.items()}
        for task, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"Task {task!r}: the training loss of epoch {epoch} is {value}. Lower learning_rate "
                    f"({self.settings.learning_rate:g}) or look for extreme values with `highmmt inspect`."
                )
        validation = self.evaluate("validation")
        return EpochRecord(epoch, steps, means, validation, self.score(validation))

    def _evaluate_task(self, task: str, split: str) -> dict[str, float]:
        logits, labels = self.predict(task, split)
        description = self.model.config.tasks[task]
        metric = self.metrics[task]
        if description.problem_type == "regression":
            loss = torch.nn.functional.mse_loss(logits, labels)
            guess = self.processor.rescale_target(task, logits).numpy()
            target = self.processor.rescale_target(task, labels).numpy()
        elif description.problem_type == "multi_label_classification":
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            guess, target = logits.sigmoid().numpy(), labels.numpy()
        else:
            loss = torch.nn.functional.cross_entropy(logits, labels)
            guess, target = logits.double().softmax(-1).numpy(), labels.numpy()
        return {"loss": float(loss), metric.name: metric.function(target, guess)}

    def _batch(self, task: str, split: str, rows: np.ndarray) -> Batch:
        batch = self.processor.collate(task, self._columns[task, split][rows])
        batch.pop("row", None)
        return _to_device(batch, self.accelerator.device)

    def _progress(self, total: int) -> Any:
        return progress_bar(self.description, total, enabled=self.accelerator.is_main_process)


class progress_bar:  # noqa: N801 - used like a function
    """A rich progress bar on stderr; silent where stderr is no terminal. Yields a function that advances it."""

    def __init__(self, description: str, total: int, *, enabled: bool = True) -> None:
        console = Console(stderr=True)
        shown = enabled and console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar: Any = Progress(*columns, console=console) if shown else nullcontext()
        self._task = self._bar.add_task(description, total=total) if shown else None

    def __enter__(self) -> Any:
        self._bar.__enter__()
        return self._advance

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def _advance(self, steps: int = 1) -> None:
        if self._task is not None:
            self._bar.advance(self._task, steps)


def merge_batches(batches: list[Batch]) -> Batch:
    """Batches of different tasks as one batch of the model."""
    merged: Batch = {}
    for batch in batches:
        for part, values in batch.items():
            merged.setdefault(part, {}).update(values)
    return merged


def iterate_batches(num_rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers of consecutive batches."""
    for start in range(0, num_rows, batch_size):
        yield np.arange(start, min(start + batch_size, num_rows))


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _to_device(value, device) for key, value in batch.items()}
    return batch.to(device) if isinstance(batch, Tensor) else batch
