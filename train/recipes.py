"""The paper's recipes as functions: homogeneous pretraining, fine-tuning in groups, one model for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..configuration import HighMMTConfig, ParameterGroups
from ..configuration.files import whole_folder
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from ..suites import Suite
from .loading import EncodedTasks
from .settings import TrainingSettings
from .trainer import MultitaskTrainer, TrainingResult, process_state

SPLITS = ("train", "validation", "test")


def encode_suite(suite: Suite, processor: HighMMTProcessor) -> dict[str, dict[str, Dataset]]:
    """Task and split to encoded rows, Arrow-backed."""
    encoded = {}
    for task in suite.tasks:
        rows = suite.load(task)
        encoded[task] = {split: processor.encode(task, rows[split]) for split in SPLITS}
    return encoded


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


def train_model(
    model: HighMMTModel,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: TrainingSettings,
    description: str,
) -> tuple[TrainingResult, dict[str, float]]:
    """Train a model on all tasks it has; its metrics on the test split follow.

    Batch sizes are the suite's, except for tasks that `settings.batch_sizes` names.

    Returns:
        The course of the run, and task to the metric on test data.

    Raises:
        ValueError: `settings.batch_sizes` names a task that the suite does not have.
    """
    for task in settings.batch_sizes:
        suite.task(task)
    tasks = list(model.config.tasks)
    own_data = {task: data[task] for task in tasks}
    sizes = {task: suite.task(task).batch_size for task in tasks}
    settings = dataclasses.replace(settings, batch_sizes={**sizes, **settings.batch_sizes})
    trainer = MultitaskTrainer(model, processor, own_data, metric_names(suite), settings, description)
    result = trainer.train()
    test = trainer.evaluate("test")
    return result, {task: test[task][suite.task(task).metric] for task in tasks}


def pretrain(
    suite: Suite, processor: HighMMTProcessor, data: EncodedTasks, settings: TrainingSettings, description: str = ""
) -> tuple[HighMMTModel, TrainingResult, dict[str, float]]:
    """Homogeneous pretraining: one fully shared model on all tasks (section 2.2, appendix B.5)."""
    model = build_model(build_config(suite, processor), settings.seed)
    result, test = train_model(model, suite, processor, data, settings, description or "Pretraining, all shared")
    return model, result, test


def finetune(
    pretrained: HighMMTModel,
    groups: ParameterGroups,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    settings: TrainingSettings,
    description: str = "",
) -> tuple[HighMMTModel, TrainingResult, dict[str, float]]:
    """Heterogeneity-aware fine-tuning: the shared parameters cloned into groups, then trained on (appendix B.6)."""
    model = pretrained.split_parameter_groups(groups)
    result, test = train_model(model, suite, processor, data, settings, description or "Fine-tuning in groups")
    return model, result, test


def single_task(
    task: str,
    suite: Suite,
    processor: HighMMTProcessor,
    data: EncodedTasks,
    phases: Iterable[TrainingSettings],
    description: str = "",
) -> tuple[HighMMTModel, list[TrainingResult], dict[str, float]]:
    """Share none: a model of one task alone, trained through the same phases as the shared one."""
    model: HighMMTModel | None = None
    results: list[TrainingResult] = []
    test: dict[str, float] = {}
    for settings in phases:
        if model is None:
            model = build_model(build_config(suite, processor, [task]), settings.seed)
        result, test = train_model(model, suite, processor, data, settings, description or f"Alone: {task}")
        results.append(result)
    if model is None:
        raise ValueError(f"Task {task!r}: single_task needs at least one phase of training.")
    return model, results, test


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
