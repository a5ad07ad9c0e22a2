"""Predictions, losses and metrics of a split, each row counted once however many processes there are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor

from ..configuration import TaskConfig
from ..modeling_highmmt import HighMMTModel, complete_pairs, labelled, task_loss
from ..processing import HighMMTProcessor, to_device
from .loading import Batch, EncodedTasks, iterate_batches
from .mapped_files import MappedFiles
from .metrics import Metric, gather_rows
from .settings import TrainingSettings


class Evaluator:
    """Judges a model on the splits of its tasks; the processes of a run share the rows.

    Args:
        model: in evaluation mode while it predicts.
        processor: collates rows and knows the targets' units.
        data: task and split to encoded rows.
        metrics: task to its metric.
        settings: sizes of batches, and the learning rate that an error names.
        accelerator: device, precision and processes.
    """

    def __init__(
        self,
        model: HighMMTModel,
        processor: HighMMTProcessor,
        data: EncodedTasks,
        metrics: Mapping[str, Metric],
        settings: TrainingSettings,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.processor, self.data = model, processor, data
        self.metrics, self.settings, self.accelerator = metrics, settings, accelerator
        self._rows = {
            (task, split): dataset.with_format("arrow")
            for task, splits in data.items()
            for split, dataset in splits.items()
        }
        self._mapped = {
            key: MappedFiles(file["filename"] for file in dataset.cache_files) for key, dataset in self._rows.items()
        }

    def evaluate(self, split: str) -> dict[str, dict[str, float]]:
        """Loss and metric of every task on a split, the same on every process.

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
        count, state = self.num_rows(task, split), self.accelerator
        # Each process takes as many rows, the last of them the last row again if need be, which counts once.
        share = -(-count // state.num_processes)
        own = np.arange(state.process_index * share, (state.process_index + 1) * share).clip(max=count - 1)
        predictions, labels = [], []
        for batch_rows in iterate_batches(share, self.settings.eval_batch_size):
            batch = to_device(collate(self.processor, task, self._rows[task, split], own[batch_rows]), state.device)
            target = batch.pop("labels")[task]
            with state.autocast():
                output = self.model(**batch)
            prediction = (output.multimodal_states if retrieval else output.logits)[task].float()
            if retrieval:
                target = target.masked_fill(~complete_pairs(prediction), -100)
            predictions.append(prediction)
            labels.append(target)
            self._mapped[task, split].release()
        numbers = torch.from_numpy(own).to(state.device)
        first, second = (gather_rows(torch.cat(parts), numbers).cpu() for parts in (predictions, labels))
        return first, second

    def num_rows(self, task: str, split: str) -> int:
        """Rows of a split.

        Raises:
            ValueError: there are none.
        """
        if split not in self.data[task] or not len(self.data[task][split]):
            raise ValueError(f"Task {task!r} has no rows in the {split} split; it has {', '.join(self.data[task])}.")
        return len(self.data[task][split])

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


def collate(processor: HighMMTProcessor, task: str, rows: Dataset, numbers: np.ndarray) -> Batch:
    """Some encoded rows (in Arrow format) of a task as one batch of the model, on the CPU."""
    batch = processor.collate(task, rows[numbers])
    batch.pop("row", None)
    return batch


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
