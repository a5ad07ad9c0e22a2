"""One loop for several tasks at once, built on Accelerate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor

from ..modeling_highmmt import HighMMTModel, NonFiniteInputError
from ..processing import HighMMTProcessor, to_device
from .checkpoints import CheckpointFolder
from .evaluation import Evaluator
from .guard import blank_inputs, gradient_norm, samples_to_blame
from .interruption import StopRequests, TrainingInterrupted
from .loading import EncodedTasks, StepBatch, TrainingBatches
from .metrics import Metric, get_metric
from .optimization import PLATEAU, build_optimizer, build_schedule
from .processes import new_accelerator, plain_forward_afterwards
from .progress import progress_bar
from .records import EpochRecord, SkippedStep, TrainingResult
from .run import Run
from .sampling import make_sampler
from .settings import TrainingSettings
from .tracking import Report, Telling
from .weighting import make_weighting

logger = logging.getLogger(__name__)


@dataclass
class _Gathered:
    """What goes into one optimizer step.

    Attributes:
        modalities: task to its modalities.
        samples: task to the names of this process's samples.
        blamed: task to the samples that made a loss not finite.
        losses: task to its losses that were not finite.
        spoilt: whether that happened on any process.
    """

    modalities: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    blamed: dict[str, list[str]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    spoilt: bool = False


class MultitaskTrainer:
    """Trains one model on all its tasks and keeps the weights that are best on validation data.

    Started by `accelerate launch`, the processes share the rows of every batch and of every evaluation.

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
        # Task to the data files of its training rows, for errors; the files of encoded rows where none are named.
        self.files: Mapping[str, Sequence[str]] = {}
        self.metrics: dict[str, Metric] = {}
        if not self.data:
            raise ValueError("There is no task to train or evaluate: data is empty.")
        for task in self.data:
            if task not in model.config.tasks:
                raise ValueError(f"Task {task!r}: the model has no such task; it has {', '.join(model.config.tasks)}.")
            if task not in metrics:
                raise ValueError(f"Task {task!r}: no metric is named for it; there are some for {', '.join(metrics)}.")
            self.metrics[task] = get_metric(metrics[task], task, model.config.tasks[task].problem_type)
        steps = settings.gradient_accumulation_steps
        self.accelerator = accelerator or new_accelerator(settings.mixed_precision, steps)
        if self.accelerator.gradient_accumulation_steps != steps:
            raise ValueError(
                f"gradient_accumulation_steps={self.accelerator.gradient_accumulation_steps} of the launch or the "
                f"accelerator, but the settings say {steps}. Leave it out there and set it in the training settings."
            )
        self.model = model
        model.to(self.accelerator.device)
        self.evaluator = Evaluator(model, processor, self.data, self.metrics, settings, self.accelerator)

    def train(
        self,
        checkpoints: CheckpointFolder | None = None,
        *,
        allow_inexact: bool = False,
        report: Report | None = None,
    ) -> TrainingResult:
        """Train all epochs, then load the best epoch's weights back into the model.

        With a folder for checkpoints, a run that is in it goes on from there and ends as if it had never stopped, to
        the last bit, also where it is over already. One is written after every epoch and every `save_steps` steps;
        Ctrl-C and SIGTERM then end the run after its step, with another.

        Args:
            checkpoints: of this run; empty or absent for a new one. None writes nothing.
            allow_inexact: go on also from a checkpoint that has lost a file, or with other processes; a warning names
                what is lost.
            report: where to tell of it while it goes on; None for nowhere.

        Raises:
            FloatingPointError: too many steps in a row were not finite, or all of a task in an epoch, or a prediction
                on validation data; the message names the task.
            TrainingInterrupted: a signal ended the run.
            ValueError: a task without rows to train or validate on, or whose validation rows do not determine its
                metric; checkpoints of another run, or none of them whole.
            OSError: a checkpoint could not be written; those before it are whole.
        """
        run = self._begin(checkpoints, allow_inexact)
        steps = len(run.sampler)
        shown = progress_bar(
            self.description, steps * self.settings.num_epochs, enabled=self.accelerator.is_main_process
        )
        told = Telling(report, self.accelerator, self.metrics, self.settings, self.description, run.result.history)
        stopped = StopRequests(checkpoints is not None)
        with plain_forward_afterwards(self.model), run.norms, shown as advance, told, stopped as stops:
            advance(run.epoch * steps + run.step)
            while not run.done:
                for gathered in self._gathered_steps(run, stops, advance):
                    self._update(run, gathered)
                    due = self.settings.save_steps is not None and run.step % self.settings.save_steps == 0
                    self._pause(run, checkpoints, stops, due=due and run.step < steps)
                self._finish_epoch(run)
                # Before the checkpoint: what is told of an epoch that is repeated is told once in the end.
                told.epoch(run.result.history[-1], run.done)
                self._agree(False, stops)
                self._pause(run, checkpoints, stops, due=True)
        self.model.load_state_dict(run.best)
        return run.result

    def evaluate(self, split: str = "validation") -> dict[str, dict[str, float]]:
        """Loss and metric of every task on a split; see `Evaluator.evaluate`."""
        return self.evaluator.evaluate(split)

    def predict(self, task: str, split: str) -> tuple[Tensor, Tensor]:
        """Predictions and labels of every row of a split; see `Evaluator.predict`."""
        return self.evaluator.predict(task, split)

    def score(self, evaluation: Mapping[str, Mapping[str, float]]) -> float:
        """What checkpoints are compared by: the weighted sum of the tasks' metrics, errors counted negative."""
        tasks = self.model.config.tasks
        return sum(
            tasks[task].evaluation_weight * metric.direction * evaluation[task][metric.name]
            for task, metric in self.metrics.items()
        )

    def _begin(self, checkpoints: CheckpointFolder | None, allow_inexact: bool) -> Run:
        """A run at its beginning, or where its newest checkpoint was taken."""
        settings = self.settings
        set_seed(settings.seed, device_specific=True)
        rows = {task: self.evaluator.num_rows(task, "train") for task in self.data}
        for task in self.data:
            self.evaluator.num_rows(task, "validation")
        sizes = {task: settings.batch_size_of(task) for task in self.data}
        sampler = make_sampler(settings.sampling, rows, sizes, settings.seed, settings.temperature)
        batches = TrainingBatches(
            self.data,
            self.processor,
            sampler,
            seed=settings.seed,
            num_workers=settings.num_workers,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            skip_bad_rows=settings.skip_bad_rows,
            files=self.files,
        )
        # Another trainer of this process may have set it since.
        self.accelerator.gradient_accumulation_steps = settings.gradient_accumulation_steps
        tasks = {task: self.model.config.tasks[task] for task in self.data}
        weighting = make_weighting(settings.loss_weighting, tasks).to(self.accelerator.device)
        groups: list[dict[str, Any]] = [{"params": [part for part in self.model.parameters() if part.requires_grad]}]
        if learned := list(weighting.parameters()):
            # Decay would pull the weights of the losses to one.
            groups.append({"params": learned, "weight_decay": 0.0})
        optimizer = build_optimizer(
            settings.optimizer,
            groups,
            settings.learning_rate,
            settings.weight_decay,
            settings.optimizer_options,
            settings.fused_optimizer,
        )
        steps = settings.num_epochs * -(-len(sampler) // settings.gradient_accumulation_steps)
        warmup = round(settings.warmup_ratio * steps)
        schedule = build_schedule(settings.lr_scheduler, optimizer, warmup, steps, settings.lr_scheduler_options)
        model, optimizer = self.accelerator.prepare(self.model, optimizer)
        run = Run(self.accelerator, self.model, model, weighting, optimizer, schedule, batches, settings)
        checkpoint = checkpoints.newest(allow_inexact) if checkpoints is not None else None
        if checkpoint is not None:
            run.restore(checkpoint, allow_inexact)
        return run

    def _gathered_steps(self, run: Run, stops: StopRequests, advance: Callable[[int], Any]) -> Iterator[_Gathered]:
        """The optimizer steps of the rest of the epoch; when one is given, its gradients are there."""
        self.model.train()
        forward = torch.compile(run.wrapped) if self.settings.torch_compile else run.wrapped
        steps, count = self.settings.gradient_accumulation_steps, len(run.sampler)
        gathered = _Gathered()
        for batch in run.batches.epoch(run.epoch, run.step):
            if not gathered.samples:
                run.batch_norms.remember()
            # Accelerate counts batches itself, but knows neither where a run was resumed nor where an epoch ends.
            self.accelerator.step = steps - 1 if run.step + 1 == count else run.step % steps
            with self.accelerator.accumulate(run.wrapped):
                self._add_gradients(run, gathered, forward, batch, stops)
            run.step += 1
            advance(1)
            if self.accelerator.sync_gradients:
                yield gathered
                gathered = _Gathered()

    def _add_gradients(
        self, run: Run, gathered: _Gathered, forward: Any, batch: StepBatch, stops: StopRequests
    ) -> None:
        """One forward and one backward pass over one batch of each of several tasks."""
        names = own_names(batch, self.accelerator.process_index, self.accelerator.num_processes)
        run.note_samples(batch.sample_ids)
        for task, modalities in batch.batch["inputs"].items():
            gathered.modalities[task] = list(dict.fromkeys([*gathered.modalities.get(task, []), *modalities]))
            gathered.samples.setdefault(task, []).extend(names[task])
        run.norms.weigh_rows(batch.row_weights)
        inputs = to_device(batch.batch, self.accelerator.device)
        blamed: dict[str, list[int]] = {}
        try:
            with self.accelerator.autocast():
                output = forward(**inputs)
        except NonFiniteInputError as error:
            blamed[error.task] = error.samples
            gathered.losses[error.task] = math.nan
            with self.accelerator.autocast():
                output = forward(**blank_inputs(inputs))
        losses = {task: batch.shares[task] * loss for task, loss in output.losses.items()}
        weighted = run.weighting(losses)
        values = torch.stack([*losses.values(), *weighted.values()]).tolist()
        wrong = {task: value for task, value in zip(losses, values, strict=False) if not math.isfinite(value)}
        if wrong and not blamed:
            blamed = samples_to_blame(output, wrong)
            gathered.losses.update(wrong)
        for task, places in blamed.items():
            gathered.blamed.setdefault(task, []).extend(names[task][place] for place in places if names[task])
        gathered.spoilt |= self._agree(bool(blamed), stops)
        if gathered.spoilt:
            return
        for task, value, weighted_value in zip(losses, values, values[len(losses) :], strict=False):
            run.sums[task] += value
            run.weighted_sums[task] += weighted_value
            run.counts[task] += 1
        self.accelerator.backward(torch.stack(list(weighted.values())).sum())

    def _update(self, run: Run, gathered: _Gathered) -> None:
        """The optimizer step, unless a loss or the gradient is not finite."""
        if gathered.spoilt:
            self._skip(run, gathered)
            return
        if self.settings.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(run.parameters, self.settings.max_grad_norm)
        else:
            norm = gradient_norm(run.parameters)
        # In half precision the scaler looks after gradients that are too large, within the optimizer's step.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            self._skip(run, gathered)
            return
        # Zeros would still be moved by momentum and weight decay.
        for parameter in self.model.idle_parameters(gathered.modalities):
            parameter.grad = None
        if self.accelerator.num_processes > 1:
            run.weighting.average_gradients()
        run.optimizer.step()
        if run.optimizer.step_was_skipped:
            # Its scale is lower now, and stays so.
            self._skip(run, gathered)
            return
        if self.settings.lr_scheduler != PLATEAU:
            run.lr_scheduler.step()
        run.optimizer.zero_grad()
        run.skipped_in_a_row = 0
        for task in gathered.modalities:
            run.result.gradient_steps[task] += 1

    def _skip(self, run: Run, gathered: _Gathered) -> None:
        """Leave no trace of a step but a note of it.

        Raises:
            FloatingPointError: it was one too many in a row.
        """
        run.optimizer.zero_grad()
        run.batch_norms.restore()
        found = gather_object([(gathered.blamed, gathered.losses)])
        losses = {task: value for _, values in found for task, value in values.items()}
        samples: dict[str, list[str]] = {}
        for blamed, _ in found if losses else gather_object([(gathered.samples, {})]):
            for task, names in blamed.items():
                # Of a retrieval every process has the same rows.
                samples[task] = list(dict.fromkeys([*samples.get(task, []), *names]))
        run.skipped.append(SkippedStep(run.epoch, run.step - 1, samples))
        run.skipped_in_a_row += 1
        what = " and ".join(
            [f"Task {task!r}: the training loss of epoch {run.epoch} is {value}" for task, value in losses.items()]
            or [f"Tasks {', '.join(map(repr, samples))}: the gradient of epoch {run.epoch} is not finite"]
        )
        where = f"{what}, step {run.step - 1}, samples {shortened(samples)}"
        if run.skipped_in_a_row >= self.settings.max_non_finite_steps:
            raise FloatingPointError(
                f"{where}; {run.skipped_in_a_row} steps in a row were not finite. Lower learning_rate "
                f"({self.settings.learning_rate:g}) or look for extreme values with `highmmt inspect`."
            )
        if self.accelerator.is_main_process:
            logger.warning("%s. The step was skipped.", where)

    def _agree(self, bad: bool, stops: StopRequests) -> bool:
        """Whether any process says that the step is bad; a signal that any has noted is known to all afterwards."""
        if self.accelerator.num_processes == 1:
            return bad
        flags = torch.tensor([float(bad), float(stops.signal_number)], device=self.accelerator.device)
        most = self.accelerator.gather(flags[None]).amax(dim=0).tolist()
        stops.signal_number = int(most[1])
        return bool(most[0])

    def _pause(self, run: Run, checkpoints: CheckpointFolder | None, stops: StopRequests, due: bool) -> None:
        """A checkpoint, if one is due or a signal ends the run."""
        if checkpoints is None:
            return
        if due or stops.signal_number:
            run.save(checkpoints)
        if stops.signal_number:
            raise TrainingInterrupted(
                f"Stopped in epoch {run.epoch + 1} of {self.settings.num_epochs} after step {run.step}; checkpoint: "
                f"{checkpoints.folder / str(run.position)}.",
                stops.signal_number,
            )

    def _finish_epoch(self, run: Run) -> None:
        """Judge the epoch, keep the best weights, and go to the beginning of the next."""
        train_loss, weighted_loss = self._mean_losses(run)
        validation = broadcast_object_list([self.evaluate("validation")])[0]
        score, result = self.score(validation), run.result
        rate = float(run.optimizer.param_groups[0]["lr"])
        if self.settings.skip_bad_rows:
            # Each process reads rows of its own, other ones in every epoch.
            found = gather_object([{task: list(rows) for task, rows in run.batches.skipped.items()}])
            tasks = [task for task in self.data if any(part.get(task) for part in found)]
            result.bad_rows = {task: len(set().union(*(part.get(task, []) for part in found))) for task in tasks}
        result.history.append(
            EpochRecord(run.epoch, run.step, train_loss, weighted_loss, validation, score, rate, run.skipped)
        )
        patience = self.settings.patience
        if score > result.best_score:
            result.best_epoch, result.best_score = run.epoch, score
            run.keep_best()
        elif patience is not None and run.epoch - result.best_epoch >= patience:
            run.done = True
        if self.settings.lr_scheduler == PLATEAU:
            run.lr_scheduler.step(score)
        run.next_epoch()
        run.done = run.done or run.epoch == self.settings.num_epochs

    def _mean_losses(self, run: Run) -> tuple[dict[str, float], dict[str, float]]:
        """Task to the mean of its losses in this epoch, before and after weighting.

        Raises:
            FloatingPointError: all steps of a task were skipped because of it.
        """
        for task, count in run.counts.items():
            if not count and (found := [step for step in run.skipped if task in step.samples]):
                raise FloatingPointError(
                    f"Task {task!r}: the training loss of epoch {run.epoch} is not finite in any of its steps "
                    f"({len(found)}). Lower learning_rate ({self.settings.learning_rate:g}) or look for extreme "
                    "values with `highmmt inspect`."
                )
        tasks = [task for task, count in run.counts.items() if count]
        means = [[sums[task] / run.counts[task] for task in tasks] for sums in (run.sums, run.weighted_sums)]
        if self.accelerator.num_processes > 1:
            everyone = np.array(gather_object([means]))
            means = everyone.mean(axis=0).tolist()
        return dict(zip(tasks, means[0], strict=True)), dict(zip(tasks, means[1], strict=True))


def own_names(batch: StepBatch, process: int, num_processes: int) -> dict[str, list[str]]:
    """Task to the names of the samples in this process's part of a step; none where it only passes a row through."""
    names = {}
    for task, everyone in batch.sample_ids.items():
        weight = batch.row_weights[task]
        # Less than 1: every process has all rows.
        names[task] = everyone[process::num_processes] if weight == 1 else everyone if weight else []
    return names


def shortened(samples: Mapping[str, list[str]]) -> str:
    """The first few names."""
    names = [name for part in samples.values() for name in part]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


__all__ = ["MultitaskTrainer"]
