"""The paper's recipes as functions: what is trained on what, and in which phases."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..configuration import HighMMTConfig, ParameterGroups
from ..configuration.files import whole_folder
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from ..processing.rows import RowError
from ..suites import Suite
from ..suites.builders import builder_options
from .checkpoints import CheckpointFolder
from .loading import EncodedTasks
from .processes import process_state
from .records import TrainingResult
from .settings import TrainingSettings
from .tracking import Report
from .trainer import MultitaskTrainer

SPLITS = ("train", "validation", "test")


def encode_suite(suite: Suite, processor: HighMMTProcessor, skip_bad_rows: int = 0) -> dict[str, dict[str, Dataset]]:
    """Task and split to encoded rows, Arrow-backed.

    Args:
        suite, processor: of the same tasks.
        skip_bad_rows: how many training rows of all tasks together may be left out because they cannot be read; rows
            to evaluate on never are. `bad_rows` tells which were.

    Raises:
        ValueError: a row cannot be read; the message names task, row and data file.
    """
    encoded: dict[str, dict[str, Dataset]] = {}
    left = skip_bad_rows
    for task in suite.tasks:
        rows, encoded[task] = suite.load(task), {}
        for split in SPLITS:
            limit = left if split == "train" else 0
            try:
                with suite.naming_files(task, split):
                    encoded[task][split] = processor.encode(task, rows[split], skip_bad_rows=limit)
            except RowError as error:
                if split == "train":
                    raise
                raise ValueError(f"{error} Rows of the {split} split are never left out.") from error
        left -= len(rows["train"]) - len(encoded[task]["train"])
    return encoded


def bad_rows(suite: Suite, processor: HighMMTProcessor, data: EncodedTasks) -> dict[str, dict[int, str]]:
    """Task to the training rows that `encode_suite` left out, with the reason; tasks without one are left out."""
    found = {}
    for task in suite.tasks:
        reasons = processor.unreadable_rows(task, suite.load(task)["train"], data[task]["train"])
        if reasons:
            found[task] = {row: suite.with_file(reason, task, "train", row) for row, reason in reasons.items()}
    return found


def build_config(
    suite: Suite, processor: HighMMTProcessor, tasks: Iterable[str] | None = None, **overrides: Any
) -> HighMMTConfig:
    """Configuration of a model for a suite's tasks (all, or the given ones), sizes from the suite.

    Args:
        suite: weights of the tasks and sizes of the model.
        processor: fitted; knows channels, axes and classes.
        tasks: names of the tasks the model shall have.
        overrides: settings of `HighMMTConfig` that replace the suite's.
    """
    names = list(tasks) if tasks is not None else list(suite.tasks)
    described = processor.task_configs()
    task_configs = {}
    for name in names:
        spec = suite.task(name)
        weights = {"loss_weight": spec.loss_weight, "evaluation_weight": spec.evaluation_weight}
        task_configs[name] = {**described[name], **weights}
    used = {modality for task in task_configs.values() for modality in task["modalities"]}
    modalities = {name: values for name, values in processor.modality_configs().items() if name in used}
    return HighMMTConfig(modalities=modalities, tasks=task_configs, **{**suite.model, **overrides})


def build_model(config: HighMMTConfig, seed: int) -> HighMMTModel:
    """A new model whose initial weights depend on the configuration and the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HighMMTModel(config)


def metric_names(suite: Suite) -> dict[str, str]:
    """Task to the name of its metric."""
    return {name: task.metric for name, task in suite.tasks.items()}


@dataclasses.dataclass
class Resumable:
    """Where the checkpoints of a recipe are, and whether a run may go on from what is left of a broken one.

    Args:
        folder: of the recipe's checkpoints; every phase of it has a folder of its own there.
        allow_inexact, report: as `MultitaskTrainer.train` takes them.
    """

    folder: Path
    allow_inexact: bool = False
    report: Report | None = None

    def phase(self, name: str) -> Resumable:
        """The same for a part of the recipe."""
        report = self.report.phase(name) if self.report is not None else None
        return Resumable(self.folder / name, self.allow_inexact, report)


def train_model(
    model: HighMMTModel,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: TrainingSettings,
    description: str,
    resumable: Resumable | None = None,
    tasks: Iterable[str] | None = None,
) -> tuple[TrainingResult, dict[str, float]]:
    """Train a model on tasks it has; its metrics on their test splits follow.

    Batch sizes are the suite's, except for tasks that `settings.batch_sizes` names.

    Args:
        model: trained in place.
        suite, processor, data: of its tasks.
        settings: how to train.
        description: shown beside the progress bar.
        resumable: where its checkpoints are; a run that is in there goes on. None writes none.
        tasks: some of the model's tasks; None for all.

    Returns:
        The course of the run, and task to the metric on test data.

    Raises:
        ValueError: `settings.batch_sizes` names a task that the suite does not have.
    """
    for task in settings.batch_sizes:
        suite.task(task)
    chosen = list(model.config.tasks) if tasks is None else list(tasks)
    own_data = {task: data[task] for task in chosen}
    sizes = {task: suite.task(task).batch_size for task in chosen}
    settings = dataclasses.replace(settings, batch_sizes={**sizes, **settings.batch_sizes})
    trainer = MultitaskTrainer(model, processor, own_data, metric_names(suite), settings, description)
    trainer.files = {task: suite.data_files(task, "train") for task in chosen}
    if resumable is None:
        result = trainer.train()
    else:
        checkpoints = CheckpointFolder(resumable.folder, settings.keep)
        result = trainer.train(checkpoints, allow_inexact=resumable.allow_inexact, report=resumable.report)
    test = trainer.evaluate("test")
    return result, {task: test[task][suite.task(task).metric] for task in chosen}


def pretrain(
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: TrainingSettings,
    description: str = "Pretraining, all shared",
    resumable: Resumable | None = None,
) -> tuple[HighMMTModel, TrainingResult, dict[str, float]]:
    """Homogeneous pretraining: one fully shared model on all tasks (section 2.2, appendix B.5)."""
    model = build_model(build_config(suite, processor), settings.seed)
    result, test = train_model(model, suite, processor, data, settings, description, resumable)
    return model, result, test


def finetune(
    pretrained: HighMMTModel,
    groups: ParameterGroups,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: TrainingSettings,
    description: str = "Fine-tuning in groups",
    resumable: Resumable | None = None,
) -> tuple[HighMMTModel, TrainingResult, dict[str, float]]:
    """Heterogeneity-aware fine-tuning: the shared parameters cloned into groups, then trained on (appendix B.6)."""
    model = pretrained.split_parameter_groups(groups)
    result, test = train_model(model, suite, processor, data, settings, description, resumable)
    return model, result, test


def single_task(
    task: str,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    phases: Iterable[TrainingSettings],
    description: str = "",
    resumable: Resumable | None = None,
) -> tuple[HighMMTModel, list[TrainingResult], dict[str, float]]:
    """Share none: a model of one task alone, trained through the same phases as the shared one."""
    model: HighMMTModel | None = None
    results: list[TrainingResult] = []
    test: dict[str, float] = {}
    for number, settings in enumerate(phases, start=1):
        if model is None:
            model = build_model(build_config(suite, processor, [task]), settings.seed)
        part = resumable.phase(f"phase-{number}") if resumable is not None else None
        result, test = train_model(model, suite, processor, data, settings, description or f"Alone: {task}", part)
        results.append(result)
    if model is None:
        raise ValueError(f"Task {task!r}: single_task needs at least one phase of training.")
    return model, results, test


def transfer(
    target: str,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    phases: tuple[TrainingSettings, TrainingSettings],
    resumable: Resumable | None = None,
) -> tuple[HighMMTModel, list[TrainingResult], dict[str, float]]:
    """Transfer: pretrain on all other tasks, the target's modalities and head declared, then train the target alone.

    Args:
        target: task that the pretraining does not see.
        suite, processor, data: of all tasks.
        phases: settings of the pretraining and of the training on the target.
        resumable: where the checkpoints of both phases are.

    Returns:
        The model, the course of both phases, and the target's metric on test data.

    Raises:
        ValueError: an unknown target, or a suite without another task.

    Source: Liang et al., TMLR 05/2023, appendix B.7.
    """
    sources = _others(suite, target)
    model = build_model(build_config(suite, processor), phases[0].seed)
    results: list[TrainingResult] = []
    test: dict[str, float] = {}
    for name, settings, tasks in zip(("sources", "target"), phases, (sources, [target]), strict=True):
        part = resumable.phase(name) if resumable is not None else None
        label = f"Transfer to {target}: {', '.join(tasks)}"
        result, test = train_model(model, suite, processor, data, settings, label, part, tasks)
        results.append(result)
    return model, results, test


def few_shot(
    target: str,
    share: float,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: TrainingSettings,
    target_weight: float = 4.0,
    resumable: Resumable | None = None,
) -> tuple[HighMMTModel, TrainingResult, dict[str, float]]:
    """Few-shot learning: all tasks together, with a share of the target's training rows and more weight on its loss.

    The checkpoint that is kept is the best on the target alone.

    Args:
        target: task of which there are few labels.
        share: of its training rows, above 0 and up to 1; at least 2 rows. Rows are drawn by the seed; a smaller
            share is a part of a larger one.
        suite, processor, data: of all tasks.
        settings: how to train.
        target_weight: factor of the target's loss beside its weight in the suite (the paper names none).
        resumable: where the checkpoints are.

    Returns:
        The model, the course of the run, and the target's metric on test data.

    Raises:
        ValueError: an unknown target, a suite without another task, or an impossible share or weight.

    Source: Liang et al., TMLR 05/2023, appendix B.8.
    """
    others = _others(suite, target)
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} must be above 0 and at most 1.")
    if not (math.isfinite(target_weight) and target_weight > 0):
        raise ValueError(f"target_weight={target_weight!r} must be a positive number.")
    weights: dict[str, dict[str, Any]] = {task: {"evaluation_weight": 0.0} for task in others}
    weights[target] = {"evaluation_weight": 1.0, "loss_weight": target_weight * suite.task(target).loss_weight}
    tasks = {name: dataclasses.replace(task, **weights[name]) for name, task in suite.tasks.items()}
    weighted = dataclasses.replace(suite, tasks=tasks)
    train = data[target]["train"]
    count = min(len(train), max(2, round(share * len(train))))
    drawn = np.random.default_rng([settings.seed, zlib.crc32(target.encode())]).permutation(len(train))[:count]
    few = {**data, target: {**data[target], "train": train.select(np.sort(drawn))}}
    model = build_model(build_config(weighted, processor), settings.seed)
    label = f"Few-shot, {count} rows of {target}"
    result, test = train_model(model, weighted, processor, few, settings, label, resumable)
    return model, result, {target: test[target]}


def with_retrieval(suite: Suite) -> Suite:
    """The suite with retrieval next to fusion, for training both in one model.

    A suite that has a retrieval task stays as it is. Otherwise each task of two modalities or more gets a companion
    `<task>-retrieval`, in which its first two modalities are to find each other, every row an item of its own. Of
    pairs that match or not (CIFAR-ESC), it has the matching ones alone, and rows of one concept are one item.

    Raises:
        ValueError: a suite of retrievals alone, or one without a task of two modalities; or a companion's name is
            taken.

    Source: Liang et al., TMLR 05/2023, section 3.2 and appendix D.3.
    """
    kinds = {name: task.target["problem_type"] == "retrieval" for name, task in suite.tasks.items()}
    if all(kinds.values()):
        raise ValueError(f"Suite {suite.name!r} has retrievals alone; retrieval next to fusion needs another task.")
    if any(kinds.values()):
        return suite
    tasks = {}
    for name, task in suite.tasks.items():
        tasks[name] = task
        if len(task.modalities) > 1:
            companion = f"{name}-retrieval"
            if companion in suite.tasks:
                raise ValueError(
                    f"Suite {suite.name!r}: task {companion!r} has the name that the retrieval would get."
                )
            pair = dict(list(task.modalities.items())[:2])
            source, target = dict(task.source), {"problem_type": "retrieval"}
            if "builder" in source and "pairs" in builder_options(source["builder"]):
                source["pairs"], target["column"] = False, "concept"
            tasks[companion] = dataclasses.replace(
                task, source=source, modalities=pair, target=target, metric="recall_at_10", reference=None
            )
    if len(tasks) == len(suite.tasks):
        raise ValueError(f"Suite {suite.name!r} has no task of two modalities that could find each other.")
    return dataclasses.replace(suite, tasks=tasks)


def _others(suite: Suite, target: str) -> list[str]:
    suite.task(target)
    others = [task for task in suite.tasks if task != target]
    if not others:
        raise ValueError(f"Suite {suite.name!r} has {target!r} alone; there is no other task to learn from.")
    return others


def save_model_folder(
    folder: Path, model: HighMMTModel, processor: HighMMTProcessor, card: str, extra: Mapping[str, str] | None = None
) -> Path:
    """Model, processor and card as one Hugging Face model folder, written whole or not at all.

    Where several processes train, the main one writes and the others wait for it.

    Args:
        folder: replaced if it exists.
        model, processor: what `AutoModel` and `AutoProcessor` load again.
        card: text of `README.md`.
        extra: name to text of further files.
    """
    state = process_state()
    if state.is_main_process:
        with whole_folder(folder) as temporary:
            model.save_pretrained(temporary)
            processor.save_pretrained(temporary)
            for name, text in {"README.md": card, **(extra or {})}.items():
                (temporary / name).write_text(text, encoding="utf-8")
    state.wait_for_everyone()
    return folder
