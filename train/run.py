"""One training run: what is trained, how far it is, and how that goes into a checkpoint and comes back."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ..modeling_highmmt import HighMMTModel
from .batch_norm import SynchronisedBatchNorms
from .checkpoints import Checkpoint, CheckpointFolder, Position
from .guard import BatchNormMemory
from .loading import TrainingBatches
from .optimization import PLATEAU
from .processes import on_main_process
from .records import SkippedStep, TrainingResult
from .settings import TrainingSettings, settings_that_differ
from .state import from_plain, generator_states, optimizer_state, restore_generators, restore_optimizer, to_plain
from .weighting import FixedWeights, UncertaintyWeights

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
WEIGHTS, BEST = "weights.safetensors", "best.safetensors"
OPTIMIZER, WEIGHTING = "optimizer.safetensors", "loss_weights.safetensors"


class Run:
    """The parts of a run and its position.

    Args:
        accelerator: of the run.
        model: what is trained, as it is.
        wrapped: the model as Accelerate has prepared it; this one is called.
        weighting: of the tasks' losses.
        optimizer, lr_scheduler: prepared, at their beginning.
        batches: the steps of its epochs.
        settings: of the run.

    Attributes:
        epoch, step: steps of the epoch that are done, counted from 0.
        done: whether the last epoch is over.
        best: weights with the best score so far; empty before the first evaluation.
        result: the course so far.
        sums, weighted_sums: task to the sum of this epoch's losses on this process, before and after weighting.
        counts: task to the number of these losses.
        skipped: steps of this epoch that were left out.
        skipped_in_a_row: steps left out since the last that counted.
        parameters: those that are trained.
        batch_norms: running statistics before the present step.
        norms: the batch norms, which processes compute as one while it is entered.
        saved: where the newest checkpoint was taken.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: HighMMTModel,
        wrapped: nn.Module,
        weighting: FixedWeights | UncertaintyWeights,
        optimizer: Any,
        lr_scheduler: Any,
        batches: TrainingBatches,
        settings: TrainingSettings,
    ) -> None:
        self.accelerator, self.model, self.wrapped = accelerator, model, wrapped
        self.weighting = weighting
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.batches, self.sampler, self.settings = batches, batches.sampler, settings
        self.batch_norms = BatchNormMemory(model)
        self.norms = SynchronisedBatchNorms(wrapped)
        self.epoch, self.step, self.done = 0, 0, False
        self.best: dict[str, Tensor] = {}
        self.result = TrainingResult(gradient_steps=dict.fromkeys(self.sampler.num_rows, 0))
        self.skipped_in_a_row = 0
        self.saved: Position | None = None
        self._begin_epoch()

    @property
    def position(self) -> Position:
        """Where the run is."""
        return Position(self.epoch, self.step)

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(self.sampler.num_rows, 0.0)
        self.weighted_sums = dict(self.sums)
        self.counts = dict.fromkeys(self.sums, 0)
        self.skipped: list[SkippedStep] = []

    def keep_best(self) -> None:
        """Take the present weights as the best so far."""
        self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def note_samples(self, sample_ids: Mapping[str, list[str]]) -> None:
        """Add the names of a step's samples to the result's digest."""
        step = json.dumps(dict(sample_ids), separators=(",", ":"))
        self.result.samples = hashlib.sha256(f"{self.result.samples}\n{step}".encode()).hexdigest()

    # Into a checkpoint

    def save(self, checkpoints: CheckpointFolder) -> None:
        """Write a checkpoint, unless there is one of this position already; all processes take part.

        Raises:
            OSError: the disk is full, or the folder may not be written; on every process.
        """
        if self.saved == self.position:
            return
        contents = self._contents()
        on_main_process(lambda: checkpoints.save(self.position, contents))
        self.saved = self.position

    def _contents(self) -> dict[str, Any]:
        """File to its content."""
        tensors, plain = optimizer_state(self.optimizer)
        scaler = self.accelerator.scaler
        progress = {
            "epoch": self.epoch,
            "step": self.step,
            "done": self.done,
            "settings": self.settings.to_dict(),
            "num_processes": self.accelerator.num_processes,
            "result": self.result.to_dict(),
            "counts": self.counts,
            "skipped": [vars(step) for step in self.skipped],
            "skipped_in_a_row": self.skipped_in_a_row,
            "optimizer": plain,
            "lr_scheduler": to_plain(self.lr_scheduler.state_dict()),
            "scaler": None if scaler is None else to_plain(scaler.state_dict()),
        }
        own = {
            "generators": generator_states(self.accelerator.device),
            "sums": self.sums,
            "weighted_sums": self.weighted_sums,
            "batches": self.batches.state_dict(),
        }
        contents: dict[str, Any] = {PROGRESS: progress, WEIGHTS: self.model.state_dict(), OPTIMIZER: tensors}
        if self.best:
            contents[BEST] = self.best
        if weights_of_losses := self.weighting.state_dict():
            contents[WEIGHTING] = weights_of_losses
        for number, part in enumerate(gather_object([own])):
            contents[_process_file(number)] = part
        return contents

    # Out of a checkpoint

    def restore(self, checkpoint: Checkpoint, allow_inexact: bool = False) -> None:
        """Go to where a checkpoint was taken; what is lost is named in a warning and begins anew.

        Args:
            checkpoint: of this run.
            allow_inexact: whether there may be fewer or more processes than there were.

        Raises:
            ValueError: the checkpoint is of a run with other settings, data, tasks, model or number of processes.
        """
        contents, losses = checkpoint.contents, [f"{file}: {reason}" for file, reason in checkpoint.lost.items()]
        processes = self.accelerator.num_processes
        self.epoch, self.step = checkpoint.position.epoch, checkpoint.position.step
        if PROGRESS in contents:
            processes = self._restore_progress(contents[PROGRESS], allow_inexact)
        else:
            self._advance_schedule(self.epoch * -(-len(self.sampler) // self.settings.gradient_accumulation_steps))
            losses.append("history and counts begin anew, the learning rate is that of this epoch's beginning")
        if BEST in contents:
            self.best = self._own_weights(contents[BEST])
        elif self.result.best_epoch >= 0:
            losses.append("the best weights so far; the present ones are taken for them")
        source = WEIGHTS if WEIGHTS in contents else BEST
        if source not in contents:
            raise ValueError(f"{checkpoint.folder} has lost all weights; delete the folder above it to begin anew.")
        if source == BEST:
            losses.append("the present weights; the best so far are taken for them")
        self.model.load_state_dict(self._own_weights(contents[source]))
        if self.result.best_epoch >= 0 and not self.best:
            self.keep_best()
        if WEIGHTING in contents:
            self.weighting.load_state_dict(contents[WEIGHTING])
        elif self.weighting.state_dict():
            losses.append("the learned weights of the losses, which begin anew")
        if OPTIMIZER in contents and PROGRESS in contents:
            restore_optimizer(self.optimizer, contents[OPTIMIZER], contents[PROGRESS]["optimizer"])
        else:
            losses.append("the optimizer's moments, which begin at zero")
        own = contents.get(_process_file(self.accelerator.process_index))
        if own is not None and processes == self.accelerator.num_processes:
            restore_generators(own["generators"], self.accelerator.device)
            self.sums, self.weighted_sums = dict(own["sums"]), dict(own["weighted_sums"])
            self.batches.load_state_dict(own["batches"])
        else:
            self.counts = dict.fromkeys(self.counts, 0)
            losses.append("random numbers and this epoch's losses, which begin anew")
        if losses:
            logger.warning("The run goes on from %s, but not exactly. Lost: %s.", checkpoint.folder, "; ".join(losses))
        else:
            self.saved = self.position

    def _restore_progress(self, progress: Mapping[str, Any], allow_inexact: bool) -> int:
        """All plain data; returns the number of processes that there were."""
        changed = settings_that_differ(progress["settings"], self.settings.to_dict())
        if changed:
            raise ValueError(
                f"The checkpoints are of a run with other settings ({', '.join(changed)}). Repeat its command, or "
                "choose another folder."
            )
        processes = int(progress["num_processes"])
        if processes != self.accelerator.num_processes and not allow_inexact:
            raise ValueError(
                f"The checkpoints are of a run by {processes} processes, now there are "
                f"{self.accelerator.num_processes}. Launch as many as before, or go on with other random numbers "
                "(--allow-inexact)."
            )
        self.done = progress["done"]
        self.result = TrainingResult.from_dict(progress["result"])
        self.counts = dict(progress["counts"])
        self.skipped = [SkippedStep(**step) for step in progress["skipped"]]
        self.skipped_in_a_row = progress["skipped_in_a_row"]
        self.lr_scheduler.load_state_dict(from_plain(progress["lr_scheduler"]))
        if self.accelerator.scaler is not None and progress["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(from_plain(progress["scaler"]))
        return processes

    def _advance_schedule(self, steps: int) -> None:
        if self.settings.lr_scheduler == PLATEAU:
            return
        with warnings.catch_warnings():
            # That the optimizer has not stepped yet is what is meant here.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(steps):
                self.lr_scheduler.step()

    def _own_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's weights, once it is clear that they are of this model."""
        own = self.model.state_dict()
        for name in sorted({*own, *tensors}):
            found, expected = (tuple(part[name].shape) if name in part else None for part in (tensors, own))
            if found != expected:
                raise ValueError(
                    f"The checkpoints are of another model: {name} has shape {found} there, {expected} here. Choose "
                    "another folder."
                )
        return {name: value.to(own[name].device) for name, value in tensors.items()}


def _process_file(number: int) -> str:
    return f"process-{number:05d}.json"


__all__ = ["Run"]
