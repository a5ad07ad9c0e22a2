"""One loop for several tasks at once, built on Accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import (
    broadcast,
    broadcast_object_list,
    get_int_from_env,
    parse_flag_from_env,
    set_seed,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import get_scheduler

from ..configuration import TaskConfig
from ..modeling_highmmt import HighMMTModel, complete_pairs, labelled, task_loss
from ..processing import HighMMTProcessor, to_device
from .loading import Batch, EncodedTasks, iterate_batches, merge_batches
from .metrics import Metric, get_metric
from .sampling import StaggeredSchedule
from .settings import TrainingSettings


@dataclass
class EpochRecord:
    """What one epoch did: unweighted losses, means over its batches, and metrics of the validation split."""

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

    Started by `accelerate launch`, the processes share the rows of every batch (a batch norm then sees the rows of its
    own process). Evaluation is not shared: every process goes through all rows, and the main one's numbers count. No
    file is written.

    Args:
        model: has a head for every task of `data`; moved to the accelerator's device.
        processor: fitted; collates rows and knows the targets' units.
        data: task and split to encoded rows (`processor.encode`).
        metrics: task to the name of its metric.
        settings: how to train.
        description: shown beside the progress bar.
        accelerator: made from the settings where none is given.

    Raises:
        ValueError: no task, a task without head or with a metric that does not suit it, or a precision or gradient
            accumulation that is not to be had.

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
        if not self.data:
            raise ValueError("There is no task to train or evaluate: data is empty.")
        for task in self.data:
            if task not in model.config.tasks:
                raise ValueError(f"Task {task!r}: the model has no such task; it has {', '.join(model.config.tasks)}.")
            if task not in metrics:
                raise ValueError(f"Task {task!r}: no metric is named for it; there are some for {', '.join(metrics)}.")
            self.metrics[task] = get_metric(metrics[task], task, model.config.tasks[task].problem_type)
        self.accelerator = accelerator or _new_accelerator(settings.mixed_precision)
        if self.accelerator.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps={self.accelerator.gradient_accumulation_steps}: the trainer steps after "
                "every batch. Leave it at 1 and set the tasks' batch sizes."
            )
        self.model = model
        model.to(self.accelerator.device)
        self._columns = {
            (task, split): dataset.with_format("arrow")
            for task, splits in self.data.items()
            for split, dataset in splits.items()
        }

    def train(self) -> TrainingResult:
        """Train all epochs, then load the best epoch's weights back into the model.

        Raises:
            FloatingPointError: the loss of a task is not finite; the message names task and epoch.
            ValueError: a task without rows to train or validate on, or whose validation rows do not determine its
                metric; the message names it.
        """
        settings = self.settings
        set_seed(settings.seed, device_specific=True)
        rows = {task: self._num_rows(task, "train") for task in self.data}
        for task in self.data:
            self._num_rows(task, "validation")
        schedule = StaggeredSchedule(
            rows, {task: settings.batch_size_of(task) for task in self.data}, seed=settings.seed
        )
        total = len(schedule) * settings.num_epochs
        model, optimizer, lr_scheduler = self._prepare(total)
        result = TrainingResult(best_epoch=-1, best_score=-math.inf)
        result.gradient_steps = dict.fromkeys(self.data, 0)
        best: dict[str, Tensor] = {}
        shown = progress_bar(self.description, total, enabled=self.accelerator.is_main_process)
        with _plain_forward_afterwards(self.model), shown as advance:
            for epoch in range(settings.num_epochs):
                model.train()
                losses: dict[str, list[Tensor]] = {task: [] for task in self.data}
                for batches in schedule.epoch(epoch):
                    for task, loss in self._step(model, optimizer, lr_scheduler, batches, epoch).items():
                        losses[task].append(loss)
                        result.gradient_steps[task] += 1
                    advance(1)
                record = self._finish_epoch(epoch, len(schedule), losses)
                result.history.append(record)
                if record.score > result.best_score:
                    result.best_epoch, result.best_score = epoch, record.score
                    best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
                elif settings.patience is not None and epoch - result.best_epoch >= settings.patience:
                    break
        self.model.load_state_dict(best)
        return result

    def evaluate(self, split: str = "validation") -> dict[str, dict[str, float]]:
        """Loss and metric of every task on a split, by all its rows, on this process alone.

        Returns:
            Task to `{"loss": mean loss, metric name: value}`; regression metrics are in the target's own unit. A
            retrieval searches the whole split; its loss is the mean over chunks of as many rows as a training step has
            (drawn once and for all), so that it can be compared with the training loss.

        Raises:
            FloatingPointError: predictions are not finite; the message names the task.
            ValueError: a task without such rows, or whose labels there do not determine its metric.
        """
        return {task: self._evaluate_task(task, split) for task in self.data}

    @torch.no_grad()
    def predict(self, task: str, split: str) -> tuple[Tensor, Tensor]:
        """Logits and labels of every row of a split, in row order, `(rows, num_labels)` and the labels' shape.

        Of a retrieval the embeddings in place of logits, `(rows, 2 * num_labels)`, and -100 as the label of rows that
        lack a modality.

        Raises:
            ValueError: the task has no such rows.
        """
        self.model.eval()
        retrieval = self.model.config.tasks[task].problem_type == "retrieval"
        predictions, labels = [], []
        for rows in iterate_batches(self._num_rows(task, split), self.settings.eval_batch_size):
            batch = self._batch(task, split, rows)
            target = batch.pop("labels")[task]
            with self.accelerator.autocast():
                output = self.model(**batch)
            prediction = (output.multimodal_states if retrieval else output.logits)[task].float()
            if retrieval:
                target = target.masked_fill(~complete_pairs(prediction), -100)
            predictions.append(prediction.cpu())
            labels.append(target.cpu())
        return torch.cat(predictions), torch.cat(labels)

    def score(self, evaluation: Mapping[str, Mapping[str, float]]) -> float:
        """What checkpoints are compared by: the weighted sum of the tasks' metrics, errors counted negative."""
        tasks = self.model.config.tasks
        return sum(
            tasks[task].evaluation_weight * metric.direction * evaluation[task][metric.name]
            for task, metric in self.metrics.items()
        )

    def _prepare(self, total_steps: int) -> tuple[Any, Any, Any]:
        settings = self.settings
        optimizer_class = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = optimizer_class(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        lr_scheduler = get_scheduler(
            settings.lr_scheduler if settings.lr_scheduler != "constant" else "constant_with_warmup",
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * total_steps),
            num_training_steps=total_steps,
        )
        model, optimizer = self.accelerator.prepare(self.model, optimizer)
        return model, optimizer, lr_scheduler

    def _step(
        self, model: Any, optimizer: Any, lr_scheduler: Any, batches: Mapping[str, np.ndarray], epoch: int
    ) -> dict[str, Tensor]:
        """One optimizer step on one batch of each of several tasks; task to its unweighted loss."""
        parts, shares = [], {}
        for task, rows in batches.items():
            own, shares[task] = self._own_rows(rows)
            parts.append(self._batch(task, "train", own))
        batch = merge_batches(parts)
        with self.accelerator.autocast():
            output = model(**batch)
        losses = {task: shares[task] * loss for task, loss in output.losses.items()}
        for task, loss in losses.items():
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(
                    f"Task {task!r}: the training loss of epoch {epoch} is {loss.item()}. Lower learning_rate "
                    f"({self.settings.learning_rate:g}) or look for extreme values with `highmmt inspect`."
                )
        weights = self.model.config.tasks
        self.accelerator.backward(torch.stack([weights[task].loss_weight * losses[task] for task in losses]).sum())
        if self.settings.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
        # Zeros would still be moved by momentum and weight decay.
        for parameter in self.model.idle_parameters({task: list(batch["inputs"][task]) for task in losses}):
            parameter.grad = None
        optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            lr_scheduler.step()
        optimizer.zero_grad()
        return {task: loss.detach() for task, loss in losses.items()}

    def _own_rows(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """This process's rows of a batch, and the factor that makes its loss a share of the mean over processes."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        own = rows[rank::world]
        # Every process must take part in every step: one without rows of its own passes a row through that counts 0.
        return (own, len(own) * world / len(rows)) if len(own) else (rows[:1], 0.0)

    def _finish_epoch(self, epoch: int, steps: int, losses: Mapping[str, list[Tensor]]) -> EpochRecord:
        means = torch.stack([torch.stack(values).mean() for values in losses.values()])
        means = self.accelerator.reduce(means, reduction="mean")
        train_loss = dict(zip(losses, means.tolist(), strict=True))
        if self.accelerator.num_processes > 1:
            # Each process has its own running statistics of batch norms, and must come to the same decisions.
            for buffer in self.model.buffers():
                buffer.copy_(broadcast(buffer))
        validation = broadcast_object_list([self.evaluate("validation")])[0]
        return EpochRecord(epoch, steps, train_loss, validation, self.score(validation))

    def _evaluate_task(self, task: str, split: str) -> dict[str, float]:
        predictions, labels = self.predict(task, split)
        if not bool(torch.isfinite(predictions).all()):
            raise FloatingPointError(
                f"Task {task!r}: the model's outputs on the {split} split are not finite. If it was just trained, "
                f"lower learning_rate ({self.settings.learning_rate:g})."
            )
        description = self.model.config.tasks[task]
        metric = self.metrics[task]
        if description.problem_type == "retrieval":
            loss = self._retrieval_loss(task, predictions, labels)
        else:
            loss = float(task_loss(task, description, predictions, labels))
        if not bool(_known_rows(description, labels).any()):
            raise ValueError(f"Task {task!r}: no row of the {split} split has a label that could be compared with.")
        value = metric_value(metric, task, description, self.processor, predictions, labels)
        if not math.isfinite(value):
            raise ValueError(
                f"Task {task!r}: the labels of the {split} split do not determine {metric.name} ({value}); there are "
                "too few rows, or all of one class. Choose another metric or other splits."
            )
        return {"loss": loss, metric.name: value}

    @torch.no_grad()
    def _retrieval_loss(self, task: str, embeddings: Tensor, labels: Tensor) -> float:
        """Mean loss of a retrieval over chunks of a training step's rows, each pair counting the same."""
        description, total = self.model.config.tasks[task], 0.0
        # Neighbours in a file are often of the same item, or alike.
        order = np.random.default_rng(0).permutation(len(labels))
        for chunk in iterate_batches(len(labels), self.settings.batch_size_of(task)):
            rows = order[chunk]
            logits = self.model.heads[task](embeddings[rows].to(self.accelerator.device)).cpu()
            total += float(task_loss(task, description, logits, labels[rows])) * int(labelled(labels[rows]).sum())
        return total / max(1, int(labelled(labels).sum()))

    def _num_rows(self, task: str, split: str) -> int:
        if split not in self.data[task] or not len(self.data[task][split]):
            raise ValueError(f"Task {task!r} has no rows in the {split} split; it has {', '.join(self.data[task])}.")
        return len(self.data[task][split])

    def _batch(self, task: str, split: str, rows: np.ndarray) -> Batch:
        batch = self.processor.collate(task, self._columns[task, split][rows])
        batch.pop("row", None)
        return to_device(batch, self.accelerator.device)


def process_state() -> PartialState:
    """Which process of how many this is, and its device.

    Raises:
        ValueError: several processes were launched, but Accelerate takes each for the only one.
    """
    # Whoever asks first decides for all, and only `Accelerator` itself reads the variable.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = get_int_from_env(["WORLD_SIZE"], 1)
    if launched > 1 and state.num_processes == 1:
        raise ValueError(
            f"{launched} processes were launched, but there is no GPU for them, so that each would do all the work. "
            "Set ACCELERATE_USE_CPU=true to have them share it on the CPU."
        )
    return state


def _new_accelerator(mixed_precision: str) -> Accelerator:
    process_state()
    if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
        # Accelerate keeps one state for all, but one run may follow another of a different precision.
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed_precision)
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("mixed_precision='fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
    return accelerator


@contextmanager
def _plain_forward_afterwards(model: HighMMTModel) -> Iterator[None]:
    """Take Accelerate's wrapper for mixed precision off the model again; it would travel with copies of it."""
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)


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
        self._bar = Progress(*columns, console=console) if shown else None
        self._task = self._bar.add_task(description, total=total) if self._bar is not None else None

    def __enter__(self) -> Callable[..., None]:
        if self._bar is not None:
            self._bar.__enter__()
        return self._advance

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def _advance(self, steps: int = 1) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)


def metric_value(
    metric: Metric,
    task: str,
    description: TaskConfig,
    processor: HighMMTProcessor,
    predictions: Tensor,
    labels: Tensor,
) -> float:
    """A metric of all rows that have a label; NaN where the labels do not determine it.

    Args:
        metric: what to compute.
        task, description: of which task.
        processor: knows the units of a regression's target.
        predictions: logits of all rows, of a retrieval the embeddings of both modalities.
        labels: of all rows, as `HighMMTModel.forward` takes them.
    """
    known = _known_rows(description, labels)
    # Steps of a sequence become rows.
    predictions, labels = predictions[known].double(), labels[known]
    guess = predictions
    if description.problem_type == "regression":
        guess, labels = (processor.rescale_target(task, values) for values in (predictions, labels.double()))
    elif description.problem_type == "multi_label_classification":
        guess = predictions.sigmoid()
    elif description.problem_type == "single_label_classification":
        guess = predictions.softmax(-1)
    return metric.function(labels.numpy(), guess.numpy())


def _known_rows(description: TaskConfig, labels: Tensor) -> Tensor:
    """Which rows (or steps) have all their labels."""
    known = labelled(labels)
    return known.all(-1) if labels.is_floating_point() and description.problem_type != "retrieval" else known
