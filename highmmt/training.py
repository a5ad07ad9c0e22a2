"""What `highmmt train` does: one recipe on a suite, stopped and continued at will."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.table import Table

from .analysis import StudySettings, load_model_folder, model_card, open_run_folder, versions
from .configuration import ParameterGroups
from .configuration.files import read_json, write_json
from .modeling_highmmt import HighMMTModel
from .processing import HighMMTProcessor
from .processing.rows import RowError
from .suites import Suite
from .train import (
    METRICS,
    Metric,
    Report,
    Resumable,
    TrainingResult,
    TrainingSettings,
    bad_rows,
    encode_suite,
    few_shot,
    finetune,
    own_bests,
    pretrain,
    result_table,
    save_model_folder,
    single_task,
    transfer,
    with_retrieval,
)
from .train.loading import EncodedTasks
from .train.processes import on_main_process, process_state
from .train.settings import FREE, differences
from .train.tracking import LOG_FILE, forget_runs, require_trackers

logger = logging.getLogger(__name__)

RECIPES = ("pretrain", "finetune", "transfer", "few_shot", "single_task", "retrieval")
CHECKPOINTS = "checkpoints"
# What a model folder says about the run that made it; the same, to the last byte, for the same run.
METRICS_FILE = "metrics.json"


@dataclass
class RecipeOptions:
    """What a recipe is told beside the training settings.

    Args:
        recipe: one of `RECIPES`.
        quick: few epochs.
        groups: of `finetune`: file of parameter groups; None for the run folder's own.
        target: of `transfer` and `few_shot`: the task that it is about.
        share: of `few_shot`: share of the target's training rows.
        target_weight: of `few_shot`: factor of the target's loss.
        changes: training settings that replace the suite's.
        resume: go on from the newest checkpoint, if there is one.
        allow_inexact: go on also from a checkpoint that has lost a file, or with other processes.
        report_to: trackers, by their names.

    Raises:
        ValueError: an unknown recipe, a target that is missing or not for this recipe, or a tracker that is unknown or
            not installed.
    """

    recipe: str = "pretrain"
    quick: bool = False
    groups: Path | None = None
    target: str | None = None
    share: float = 0.1
    target_weight: float = 4.0
    changes: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    allow_inexact: bool = False
    report_to: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.report_to = require_trackers(self.report_to)
        for name in ("share", "target_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name}={value!r} must be a number.")
        if self.recipe not in RECIPES:
            raise ValueError(f"There is no recipe {self.recipe!r}; use one of {', '.join(RECIPES)}.")
        if (self.target is not None) != (self.recipe in ("transfer", "few_shot")):
            if self.target is None:
                raise ValueError(f"The recipe {self.recipe} needs a task that it is about: --target TASK.")
            raise ValueError(f"--target is for the recipes transfer and few_shot, not for {self.recipe}.")


Trained = tuple[HighMMTModel, list[TrainingResult], dict[str, float]]


@dataclass
class Outcome:
    """What a recipe has made, to be shown.

    Attributes:
        scores: task to the name of its metric and its value on test data.
        tables: the course of each training: losses, and metrics on validation data.
    """

    scores: dict[str, tuple[str, float]] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)


@dataclass
class _Job:
    """One model to be made.

    Attributes:
        name: of its folder in the run folder, and of its checkpoints' folder.
        stage: what the model card calls it.
        phases: settings of its training.
        inputs: what else the result depends on.
        train: makes it, given processor, data, and where its checkpoints are.
    """

    name: str
    stage: str
    phases: list[TrainingSettings]
    inputs: dict[str, Any]
    train: Callable[[HighMMTProcessor, EncodedTasks, Resumable], Trained]


@dataclass
class _Prepared:
    """What all models of a recipe are made from.

    Attributes:
        processor: fitted.
        data: task and split to encoded rows.
        bad_rows: task to the training rows that were left out, with the reason.
    """

    processor: HighMMTProcessor
    data: EncodedTasks
    bad_rows: dict[str, dict[int, str]]


def train_recipe(suite: Suite, folder: Path, options: RecipeOptions) -> Outcome:
    """Train one recipe and save its model folders.

    Models go to `pretrained`, `finetuned`, `retrieval`, or `<recipe>/<task>` in the run folder, each with a
    `metrics.json` about its training; checkpoints to `checkpoints/<the same>`; a line for each epoch, which names the
    model, to `log.jsonl`. A model that is there already and was made by the same run is not made again where
    `options.resume` is set.

    Args:
        suite: what to train on.
        folder: run folder, made if need be.
        options: what to do with it.

    Returns:
        Test scores and tables.

    Raises:
        FileNotFoundError: fine-tuning without a pretrained model or without parameter groups.
        ValueError: the folder holds something else, the models of a whole comparison, checkpoints of an unfinished or
            another run, or none that is whole.
        TrainingInterrupted: a signal ended the run, after a checkpoint.
    """
    named = suite
    if options.recipe == "retrieval":
        suite = with_retrieval(suite)
    settings = StudySettings.for_suite(suite, quick=options.quick)
    phases = [dataclasses.replace(phase, **options.changes) for phase in (settings.pretraining, settings.finetuning)]
    jobs = _jobs(suite, folder, options, phases)
    claimed = on_main_process(lambda: open_run_folder(folder, named))
    if "settings" in claimed:
        raise ValueError(
            f"{folder} holds the models that `highmmt run` compares, which stay as they are; choose another "
            "--output-dir."
        )
    to_do = [job.name for job in jobs if on_main_process(partial(_claim, suite, folder, job, options))]
    prepared: _Prepared | None = None
    outcome = Outcome()
    for job in jobs:
        if job.name in to_do:
            if prepared is None:
                prepared = _prepare(suite, folder, options, phases[0].skip_bad_rows)
            _make(suite, folder, job, options, prepared)
        found = read_json(folder / job.name / METRICS_FILE)
        outcome.scores.update({task: (suite.task(task).metric, value) for task, value in found["test"].items()})
        outcome.tables += _tables(job.name, found["course"], _metrics(suite))
    return outcome


def _metrics(suite: Suite) -> dict[str, Metric]:
    return {name: METRICS[task.metric] for name, task in suite.tasks.items()}


def _tables(name: str, course: list[dict[str, Any]], metrics: Mapping[str, Metric]) -> list[Table]:
    """A table of each phase of a training, but for those whose tasks were trained on."""
    tables = []
    for number, phase in enumerate(course):
        tasks = set(phase["own_bests"])
        if any(tasks <= set(later["own_bests"]) for later in course[number + 1 :]):
            continue
        title = f"{name}, validation data" if len(course) == 1 else f"{name}, phase {number + 1}, validation data"
        tables.append(result_table(phase["history"], phase["best_epoch"], metrics, title))
    return tables


def _jobs(suite: Suite, folder: Path, options: RecipeOptions, phases: list[TrainingSettings]) -> list[_Job]:
    """The models that a recipe makes."""
    first, second = phases
    target = options.target or ""

    def alone(task: str) -> _Job:
        return _Job(
            f"single_task/{task}",
            "single_task",
            phases,
            {},
            lambda processor, data, resumable: single_task(task, suite, processor, data, phases, "", resumable),
        )

    def in_groups(processor: HighMMTProcessor, data: EncodedTasks, resumable: Resumable) -> Trained:
        shared, _ = load_model_folder(folder / "pretrained")
        model, result, test = finetune(shared, groups, suite, processor, data, second, resumable=resumable)
        return model, [result], test

    def together(processor: HighMMTProcessor, data: EncodedTasks, resumable: Resumable) -> Trained:
        model, result, test = pretrain(suite, processor, data, first, resumable=resumable)
        return model, [result], test

    def from_few(processor: HighMMTProcessor, data: EncodedTasks, resumable: Resumable) -> Trained:
        share, weight = options.share, options.target_weight
        model, result, test = few_shot(target, share, suite, processor, data, first, weight, resumable)
        return model, [result], test

    if options.recipe == "single_task":
        return [alone(task) for task in suite.tasks]
    if options.recipe == "finetune":
        groups, inputs = _inputs_of_finetuning(suite, folder, options.groups or folder / "parameter_groups.json")
        return [_Job("finetuned", "finetuned", [second], inputs, in_groups)]
    if options.recipe == "transfer":
        return [
            _Job(
                f"transfer/{target}",
                "transfer",
                phases,
                {},
                lambda processor, data, resumable: transfer(
                    target, suite, processor, data, (first, second), resumable
                ),
            )
        ]
    if options.recipe == "few_shot":
        chosen = {"share": options.share, "target_weight": options.target_weight}
        return [_Job(f"few_shot/{target}", "few_shot", [first], chosen, from_few)]
    name = {"pretrain": "pretrained"}.get(options.recipe, options.recipe)
    return [_Job(name, name, [first], {}, together)]


def _claim(suite: Suite, folder: Path, job: _Job, options: RecipeOptions) -> bool:
    """Whether a model is to be made, once it is clear that nothing of value stands in its way.

    Raises:
        ValueError: without `resume`, checkpoints of an unfinished run; with it, a run of other settings.
    """
    present = _identity(suite, job)
    note, made_by = folder / CHECKPOINTS / job.name / "run.json", folder / job.name / METRICS_FILE
    started = read_json(note) if note.exists() else None
    finished = read_json(made_by).get("run") if made_by.exists() else None
    if not options.resume:
        if started is not None and started != finished and any(note.parent.rglob("manifest.json")):
            raise ValueError(
                f"{note.parent} holds checkpoints of a run that is not finished. Add --resume to go on from there, or "
                "delete the folder to begin anew."
            )
        shutil.rmtree(note.parent, ignore_errors=True)
        forget_runs(folder / LOG_FILE, job.name)
    else:
        former = started if started is not None else finished
        if former is not None and (changed := differences(former, present)):
            more = [f"and {len(changed) - 3} more"] if len(changed) > 3 else []
            raise ValueError(
                f"{folder / job.name}: its run began with other settings ({', '.join([*changed[:3], *more])}). Repeat "
                "its command, or leave out --resume, or choose another --output-dir."
            )
        if finished == present:
            return False
    write_json(note, present)
    return True


def _identity(suite: Suite, job: _Job) -> dict[str, Any]:
    """All that a model depends on, as plain data."""
    phases = [{name: value for name, value in phase.to_dict().items() if name not in FREE} for phase in job.phases]
    return {"suite": suite.name, "fingerprint": suite.fingerprint, "settings": phases, **job.inputs}


def _make(suite: Suite, folder: Path, job: _Job, options: RecipeOptions, prepared: _Prepared) -> None:
    """Train a model and save its folder."""
    processor, data = prepared.processor, prepared.data
    report = Report(folder, job.name, suite.name, options.report_to)
    resumable = Resumable(folder / CHECKPOINTS / job.name, options.allow_inexact, report)
    model, results, test = job.train(processor, data, resumable)
    course = [{**result.to_dict(), "own_bests": _own_bests(result, suite)} for result in results]
    metrics = {"run": _identity(suite, job), "course": course, "test": test}
    if prepared.bad_rows:
        metrics["bad_rows"] = {task: list(reasons) for task, reasons in prepared.bad_rows.items()}
    card = model_card(suite, model, processor, test, job.stage, seed=job.phases[0].seed)
    text = json.dumps({**metrics, "versions": versions()}, indent=2, allow_nan=False) + "\n"
    save_model_folder(folder / job.name, model, processor, card, {METRICS_FILE: text})


def _own_bests(result: TrainingResult, suite: Suite) -> dict[str, dict[str, Any]]:
    """Task to the epoch and the value of its own best."""
    bests = own_bests(result.to_dict()["history"], _metrics(suite))
    return {task: {"epoch": epoch, "value": value} for task, (epoch, value) in bests.items()}


def _prepare(suite: Suite, folder: Path, options: RecipeOptions, skip_bad_rows: int) -> _Prepared:
    """The processor and encoded rows; says which training rows are left out.

    Raises:
        ValueError: a row cannot be read, beyond those that may be left out.
    """
    try:
        if options.recipe == "finetune":
            processor = load_model_folder(folder / "pretrained")[1]
        else:
            processor = suite.build_processor(skip_bad_rows)
        data = encode_suite(suite, processor, skip_bad_rows)
    except RowError as error:
        if skip_bad_rows:
            raise
        raise ValueError(f"{error} To go on without such training rows: --skip-bad-rows N.") from error
    found = bad_rows(suite, processor, data) if skip_bad_rows else {}
    if process_state().is_main_process:
        for task, reasons in found.items():
            count = len(reasons) + len(data[task]["train"])
            told = "\n".join(reasons.values())
            logger.warning(
                "%s\nTask %r: %d of %d training rows are left out because of that.", told, task, len(reasons), count
            )
    return _Prepared(processor, data, found)


def _inputs_of_finetuning(suite: Suite, folder: Path, map_file: Path) -> tuple[ParameterGroups, dict[str, Any]]:
    """Parameter groups, and what tells one pretrained model and its groups from others.

    Raises:
        FileNotFoundError: no pretrained model, or no parameter groups; the message says how to make them.
    """
    weights = folder / "pretrained" / "model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(
            f"{folder / 'pretrained'} holds no model to clone. First: highmmt train {suite.name} --recipe pretrain "
            f"--output-dir {folder}"
        )
    if not map_file.exists():
        raise FileNotFoundError(
            f"{map_file}: no parameter groups. Name a file with --groups, or make one: highmmt heterogeneity "
            f"{suite.name} --output-dir {folder}, then highmmt cluster {folder}"
        )
    groups = ParameterGroups.from_json_file(map_file)
    return groups, {"pretrained": sha256(weights.read_bytes()).hexdigest(), "groups": groups.to_dict()}
