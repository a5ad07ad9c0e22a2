"""The paper's workflow on one suite, from measuring heterogeneity to the comparison of what it brought."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ..configuration import ParameterGroups
from ..configuration.files import read_json, write_json
from ..heterogeneity import (
    MEASURING_VERSION,
    HeterogeneityMatrix,
    HeterogeneitySettings,
    finished_steps,
    measure_heterogeneity,
    random_parameter_groups,
)
from ..heterogeneity.clustering import Linkage
from ..heterogeneity.distances import MatrixKind
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from ..suites import Suite, load_suite
from ..train import (
    METRICS,
    Report,
    Resumable,
    TrainingSettings,
    encode_suite,
    finetune,
    own_bests,
    pretrain,
    progress_bar,
    save_model_folder,
    single_task,
)
from ..train.loading import EncodedTasks
from ..train.processes import process_state
from ..train.settings import differences
from ..train.tracking import require_trackers
from .figures import write_figures
from .grouping import KINDS, GroupSizes, choose_groups, save_stability
from .model_card import model_card
from .report import write_report
from .run_folder import load_model_folder, open_run_folder, read_record

logger = logging.getLogger(__name__)

METHODS = {
    "share_none": "Share none (one model per task)",
    "share_all": "Share all",
    "random": "Random groups",
    "highmmt": "HighMMT",
}
GROUP_COUNTS = ("num_unimodal_groups", "num_crossmodal_groups", "k", "max_parameters")
CHECKPOINTS = "checkpoints"
_SECONDS = "seconds.json"
_RECORD = ("test", "components", "course", "seconds")
# What other commands leave in a run folder, and a comparison must make itself.
_RESULTS = ("parameter_groups.json", "pretrained", "finetuned", "single_task", "transfer", "few_shot", "retrieval")


@dataclass
class StudySettings:
    """How a suite is studied; kept in the run folder, and a folder is only continued with the same settings.

    Args:
        pretraining: of the shared model, and first phase of every model trained alone.
        finetuning: of all variants, and second phase of every model trained alone.
        heterogeneity: of both matrices.
        num_unimodal_groups, num_crossmodal_groups: numbers of groups; None chooses them from the matrices.
        k: number of groups of both kinds together, instead of the two.
        max_parameters: largest number of parameters of all groups together (without heads), instead of numbers.
        linkage: of the clustering.
        num_seeds: repetitions of all training, counted up from the seeds of the phases.

    Raises:
        ValueError: fewer than one seed, an unknown linkage, or numbers of groups given twice.
    """

    pretraining: TrainingSettings = field(default_factory=TrainingSettings)
    finetuning: TrainingSettings = field(default_factory=TrainingSettings)
    heterogeneity: HeterogeneitySettings = field(default_factory=HeterogeneitySettings)
    num_unimodal_groups: int | None = None
    num_crossmodal_groups: int | None = None
    k: int | None = None
    max_parameters: int | None = None
    linkage: Linkage = "average"
    num_seeds: int = 1

    def __post_init__(self) -> None:
        if self.linkage not in get_args(Linkage):
            raise ValueError(f"linkage={self.linkage!r} is not one of {', '.join(get_args(Linkage))}.")
        for name in ("k", "max_parameters"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r} must be a whole number, 1 or more.")
        counts = (self.num_unimodal_groups, self.num_crossmodal_groups) != (None, None)
        if counts + (self.k is not None) + (self.max_parameters is not None) > 1:
            raise ValueError("The number of groups is given twice; give group counts, k or max_parameters.")
        if isinstance(self.num_seeds, bool) or not isinstance(self.num_seeds, int) or self.num_seeds < 1:
            raise ValueError(f"num_seeds={self.num_seeds!r} must be a whole number, 1 or more.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def for_suite(
        cls, suite: Suite, *, quick: bool = False, num_seeds: int = 1, measurement_seeds: int | None = None
    ) -> StudySettings:
        """The suite's own settings.

        Args:
            suite: its `training` and `heterogeneity` say what the defaults do not.
            quick: cut epochs, steps, pairs and runs of each, so that every stage takes less than a minute.
            num_seeds: repetitions of all training.
            measurement_seeds: runs of every heterogeneity entry; None for as many as the suite says, or else one.

        Raises:
            ValueError: a value under `training` or `heterogeneity` that no run can have; the message names suite and
                setting.
        """
        training = dict(suite.training)
        epochs = {
            "pretraining": training.pop("num_pretraining_epochs", 40),
            "finetuning": training.pop("num_finetuning_epochs", 20),
        }
        grouping = {name: training.pop(name) for name in (*GROUP_COUNTS, "linkage") if name in training}
        # Fine-tuning starts near a good model; the paper, too, takes smaller steps there (1e-4 after 8e-4).
        slower = training.pop("finetuning_learning_rate", None)
        steps: dict[str, Any] = {}
        if quick:
            epochs = {"pretraining": 1, "finetuning": 1}
            steps = {"num_steps": 2, "num_evaluations": 1, "share": 0.06, "num_seeds": 1}
        if measurement_seeds is not None:
            steps["num_seeds"] = measurement_seeds
        try:
            phases = {
                name: TrainingSettings.from_dict({"num_epochs": count, **training}) for name, count in epochs.items()
            }
            if slower is not None:
                phases["finetuning"] = dataclasses.replace(phases["finetuning"], learning_rate=slower)
            shared: dict[str, Any] = {
                name: training[name] for name in ("learning_rate", "weight_decay") if name in training
            }
            measuring = HeterogeneitySettings(**shared)
            study = cls(phases["pretraining"], phases["finetuning"], measuring, **grouping)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Suite {suite.name!r}, training: {error}") from error
        try:
            chosen: dict[str, Any] = {**shared, **suite.heterogeneity, **steps}
            measuring = HeterogeneitySettings(**chosen)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Suite {suite.name!r}, heterogeneity: {error}") from error
        return dataclasses.replace(study, heterogeneity=measuring, num_seeds=num_seeds)

    def check_group_counts(self, suite: Suite) -> None:
        """Refuse more groups than the suite has members for.

        Raises:
            ValueError: the message names the suite, the setting and how many there are.
        """
        members = {
            "num_unimodal_groups": ("modality-task pairs", len(suite.modality_task_pairs())),
            "num_crossmodal_groups": ("interactions", len(suite.interactions())),
        }
        for name, (noun, number) in members.items():
            count = getattr(self, name)
            if count is not None and not min(1, number) <= count <= number:
                raise ValueError(
                    f"Suite {suite.name!r}: training.{name} is {count}, but the suite has {number} {noun}. "
                    "Give a number up to that, or leave the setting out to have it chosen."
                )
        numbers = [number for _, number in members.values()]
        least, most = sum(min(1, number) for number in numbers), sum(numbers)
        if self.k is not None and not least <= self.k <= most:
            raise ValueError(
                f"Suite {suite.name!r}: training.k is {self.k}, but {numbers[0]} modality-task pairs and {numbers[1]} "
                f"interactions can have {least} to {most} groups."
            )


@dataclass(frozen=True)
class Prepared:
    """A suite's processor and encoded data; `left_out` are the tasks that have none, each with the reason."""

    processor: HighMMTProcessor
    data: EncodedTasks
    left_out: Mapping[str, str] = field(default_factory=dict)


class Study:
    """One run folder and the stages that fill it; every stage skips what an earlier call has finished.

    A training that was stopped goes on from its newest checkpoint, exactly.

    Args:
        suite: what to study.
        folder: where everything is kept.
        settings: how.
        report_to: trackers of the trainings, by their names.

    Raises:
        ValueError: more groups than the suite can have, a tracker that is unknown or not installed, or a folder that
            is not empty and holds no run, a run of another suite or of other settings.
    """

    def __init__(self, suite: Suite, folder: Path, settings: StudySettings, report_to: Iterable[str] = ()) -> None:
        self.suite, self.folder, self.settings = suite, folder, settings
        self.report_to = require_trackers(report_to)
        settings.check_group_counts(suite)
        self._claim_folder()
        self._processor: HighMMTProcessor | None = None
        self._data: EncodedTasks | None = None

    def run(self, on_stage: Callable[[str], Any] = lambda name: None) -> Path:
        """All stages in order.

        Args:
            on_stage: called with the name of each stage as it starts.

        Returns:
            The path of `report.html`.
        """
        for name, stage in (
            ("heterogeneity", self.measure),
            ("groups", self.draw),
            ("training", self.train),
            ("report", self.report),
        ):
            on_stage(name)
            stage()
        return self.folder / "report.html"

    def measure(self) -> dict[MatrixKind, HeterogeneityMatrix]:
        """Both heterogeneity matrices (section 2.1)."""
        return measure_matrices(
            self.suite,
            self.settings.heterogeneity,
            self.folder / "heterogeneity",
            self._prepare,
        )

    def group(self) -> ParameterGroups:
        """The parameter groups, clustered from the matrices (appendix A.3).

        Where there is nothing to compare, a single modality-task pair, all parameters are shared.
        """
        path = self.folder / "parameter_groups.json"
        pairs, interactions = self.suite.modality_task_pairs(), self.suite.interactions()
        if path.exists():
            try:
                return ParameterGroups.from_json_file(path).matched_to(pairs, interactions)
            except ValueError as error:
                raise ValueError(f"{path}: {error} Delete the file to have it made again.") from error
        if len(pairs) < 2:
            logger.warning("Suite %r has one modality-task pair, so there is nothing to group.", self.suite.name)
            groups = ParameterGroups.share_all(pairs, interactions)
        else:
            settings = self.settings
            groups = choose_groups(
                self.measure(),
                lambda: GroupSizes.of(self.suite, self.processor),
                **{name: getattr(settings, name) for name in GROUP_COUNTS},
                linkage=settings.linkage,
            )
        write_json(path, groups.to_dict())
        return groups

    def draw(self) -> None:
        """How sure the groups are, and the figures of matrices and groups."""
        groups, linkage = self.group(), self.settings.linkage
        save_stability(self.folder / "parameter_groups.json", groups, self.measure(), linkage)
        write_figures(self.folder, linkage)

    def train(self) -> dict[str, Any]:
        """Share none, share all, random groups and HighMMT, for every seed; scores on test data.

        Returns:
            The content of `metrics.json`.
        """
        groups = self.group()
        for number in range(self.settings.num_seeds):
            self._pretrain(number)
            for method, variant in self._variants(groups, number).items():
                self._finetune(method, variant, number)
            for task in self.suite.tasks:
                self._train_alone(task, number)
        return self._collect()

    def report(self) -> Path:
        """`metrics.json` and `report.html` from what is there."""
        self._collect()
        return write_report(self.folder)

    @property
    def processor(self) -> HighMMTProcessor:
        """The processor, fitted on the training splits."""
        if self._processor is None:
            self._processor = self.suite.build_processor(self.settings.pretraining.skip_bad_rows)
        return self._processor

    @property
    def data(self) -> EncodedTasks:
        """Task and split to encoded rows."""
        if self._data is None:
            self._data = encode_suite(self.suite, self.processor, self.settings.pretraining.skip_bad_rows)
        return self._data

    def _prepare(self) -> Prepared:
        return Prepared(self.processor, self.data)

    def _claim_folder(self) -> None:
        """Open the folder, and write the settings into its `run.json` or see that they are there already."""
        found, settings = open_run_folder(self.folder, self.suite), self.settings.to_dict()
        if "settings" not in found:
            if others := [name for name in _RESULTS if (self.folder / name).exists()]:
                raise ValueError(
                    f"{self.folder} holds results of other commands ({', '.join(others)}), which a comparison must "
                    "make itself. Choose another --output-dir."
                )
            write_json(self.folder / "run.json", {**found, "settings": settings})
        elif found["settings"] != settings:
            changed = differences(found["settings"], settings)
            more = [f"and {len(changed) - 3} more"] if len(changed) > 3 else []
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join([*changed[:3], *more])}). "
                "Repeat its command, or choose another --output-dir."
            )

    def _variants(self, groups: ParameterGroups, number: int) -> dict[str, ParameterGroups]:
        """Method to the groups that the pretrained model is cloned into."""
        nodes = list(groups.unimodal), list(groups.crossmodal)
        counts = groups.num_unimodal_groups, groups.num_crossmodal_groups
        return {
            "share_all": ParameterGroups.share_all(*nodes),
            "random": random_parameter_groups(*nodes, *counts, seed=number),
            "highmmt": groups,
        }

    def _pretrain(self, number: int) -> None:
        folder = self._pretrained_folder(number)
        if self._record("pretrained", number).exists() and folder.exists():
            return
        started = time.monotonic()
        settings = self._phase("pretraining", number)
        label = self._label("Pretraining", number)
        resumable = self._resumable("pretrained", number)
        model, result, test = pretrain(self.suite, self.processor, self.data, settings, label, resumable)
        self._save_model(folder, model, test, "pretrained", settings.seed)
        self._save_record("pretrained", number, model, test, result.to_dict(), time.monotonic() - started)

    def _finetune(self, method: str, groups: ParameterGroups, number: int) -> None:
        # Of the compared models one is kept: HighMMT's of the first seed.
        folder = self.folder / "finetuned" if method == "highmmt" and number == 0 else None
        if self._record(method, number).exists() and (folder is None or folder.exists()):
            return
        started = time.monotonic()
        settings = self._phase("finetuning", number)
        pretrained, _ = load_model_folder(self._pretrained_folder(number))
        label = self._label(f"Fine-tuning: {METHODS[method]}", number)
        model, result, test = finetune(
            pretrained,
            groups,
            self.suite,
            self.processor,
            self.data,
            settings,
            label,
            self._resumable(method, number),
        )
        if folder is not None:
            self._save_model(folder, model, test, "finetuned", settings.seed)
        self._save_record(method, number, model, test, result.to_dict(), time.monotonic() - started)

    def _train_alone(self, task: str, number: int) -> None:
        name = f"share_none-{task}"
        if self._record(name, number).exists():
            return
        started = time.monotonic()
        phases = [self._phase("pretraining", number), self._phase("finetuning", number)]
        label = self._label(f"Share none: {task}", number)
        resumable = self._resumable(name, number)
        model, results, test = single_task(task, self.suite, self.processor, self.data, phases, label, resumable)
        courses = [result.to_dict() for result in results]
        self._save_record(name, number, model, test, courses, time.monotonic() - started)

    def _phase(self, name: str, number: int) -> TrainingSettings:
        settings = getattr(self.settings, name)
        return dataclasses.replace(settings, seed=settings.seed + number)

    def _label(self, text: str, number: int) -> str:
        return text if self.settings.num_seeds == 1 else f"{text}, seed {number + 1} of {self.settings.num_seeds}"

    def _pretrained_folder(self, number: int) -> Path:
        return self.folder / ("pretrained" if number == 0 else f"seeds/{number}/pretrained")

    def _record(self, method: str, number: int) -> Path:
        return self.folder / "methods" / f"{method}-seed{number}.json"

    def _save_record(
        self, method: str, number: int, model: HighMMTModel, test: dict[str, float], course: Any, seconds: float
    ) -> None:
        values = (test, model.num_parameters_by_component(), course, seconds)
        write_json(self._record(method, number), dict(zip(_RECORD, values, strict=True)))
        shutil.rmtree(self._resumable(method, number).folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: another training has left something
            (self.folder / CHECKPOINTS).rmdir()

    def _resumable(self, method: str, number: int) -> Resumable:
        """Where a training leaves its checkpoints, until its record is written, and tells of itself."""
        name = f"{method}-seed{number}"
        report = Report(self.folder, name, self.suite.name, self.report_to, every_epoch=False)
        return Resumable(self.folder / CHECKPOINTS / name, report=report)

    def _save_model(self, folder: Path, model: HighMMTModel, test: dict[str, float], stage: str, seed: int) -> None:
        report = f"{'../' * len(folder.relative_to(self.folder).parts)}report.html"
        card = model_card(
            self.suite, model, self.processor, test, stage, seed=seed, num_seeds=self.settings.num_seeds, report=report
        )
        save_model_folder(folder, model, self.processor, card)

    def _collect(self) -> dict[str, Any]:
        """`metrics.json` from the records of all methods and seeds that are there."""
        suite, methods = self.suite, {}
        for method, label in METHODS.items():
            found = [self._seed_result(method, number) for number in range(self.settings.num_seeds)]
            results = [result for result in found if result is not None]
            if len(results) == len(found):
                methods[method] = _summary(label, results, list(suite.tasks))
        history, bests = {}, {}
        directions = {name: METRICS[task.metric] for name, task in suite.tasks.items()}
        for stage, method in (("pretrained", "pretrained"), ("finetuned", "highmmt")):
            if self._record(method, 0).exists():
                history[stage] = read_record(self._record(method, 0), _RECORD)["course"]["history"]
                found_bests = own_bests(history[stage], directions).items()
                bests[stage] = {task: {"epoch": epoch, "value": value} for task, (epoch, value) in found_bests}
        metrics = {
            "suite": suite.name,
            "suite_fingerprint": suite.fingerprint,
            "settings": self.settings.to_dict(),
            "seeds": list(range(self.settings.num_seeds)),
            "metric": {name: task.metric for name, task in suite.tasks.items()},
            "higher_is_better": {name: METRICS[task.metric].higher_is_better for name, task in suite.tasks.items()},
            "reference": {name: task.reference for name, task in suite.tasks.items() if task.reference},
            "num_rows": {name: {split: len(rows) for split, rows in suite.load(name).items()} for name in suite.tasks},
            "methods": methods,
            "history": history,
            "own_bests": bests,
            "timings": self._timings(),
            "versions": versions(),
        }
        write_json(self.folder / "metrics.json", metrics)
        return metrics

    def _seed_result(self, method: str, number: int) -> dict[str, Any] | None:
        """Scores and parameter counts of a method with one seed; None where it is not finished."""
        names = [f"share_none-{task}" for task in self.suite.tasks] if method == "share_none" else [method]
        paths = [self._record(name, number) for name in names]
        if not all(path.exists() for path in paths):
            return None
        records = [read_record(path, _RECORD) for path in paths]
        components = {part: sum(record["components"][part] for record in records) for part in records[0]["components"]}
        test = {task: score for record in records for task, score in record["test"].items()}
        return {"test": test, "components": components}

    def _timings(self) -> dict[str, float]:
        """Stage to seconds, those of all seeds together."""
        path = self.folder / "heterogeneity" / _SECONDS
        timings = read_record(path, ()) if path.exists() else {}
        tasks = [f"share_none-{task}" for task in self.suite.tasks]
        for number in range(self.settings.num_seeds):
            for name in ("pretrained", "share_all", "random", "highmmt", *tasks):
                if (record := self._record(name, number)).exists():
                    stage = "share_none" if name in tasks else name
                    timings[stage] = timings.get(stage, 0.0) + read_record(record, _RECORD)["seconds"]
        return timings


def select_tasks(suite: Suite, tasks: Iterable[str]) -> Suite:
    """The suite with these tasks only.

    The suite's numbers of groups are meant for all of its tasks, so a part of them has its own numbers chosen.

    Raises:
        ValueError: an unknown task, one named twice, or none at all.
    """
    chosen = suite.select(tasks)
    if len(chosen.tasks) == len(suite.tasks):
        return chosen
    training = {name: value for name, value in suite.training.items() if name not in GROUP_COUNTS}
    return dataclasses.replace(chosen, training=training)


def measure_or_read(
    suite: Suite,
    kind: MatrixKind,
    settings: HeterogeneitySettings,
    path: Path,
    prepare: Callable[[], Prepared],
    advance: Callable[[int], Any] | None = None,
) -> HeterogeneityMatrix:
    """One heterogeneity matrix: the one in the file, or else measured and written there.

    Args:
        suite, kind, settings: what to measure, and how.
        path: file of the matrix; finished runs are kept in the folder `runs` beside it.
        prepare: called only if something is to be measured.
        advance: as `measure_heterogeneity` takes it.

    Raises:
        ValueError: the file is broken, or was measured with other settings, by another version or on another suite.
    """
    if path.exists():
        try:
            matrix = HeterogeneityMatrix.from_json_file(path)
        except ValueError as error:
            raise ValueError(f"{error} Delete the file to have it measured again.") from error
        if changed := differences(matrix.settings, settings.to_dict()):
            raise ValueError(
                f"{path} was measured with other settings ({', '.join(changed)}); choose another --output-dir, or "
                "delete the file."
            )
        if matrix.suite_fingerprint != suite.fingerprint:
            raise ValueError(f"{path} was measured on another suite or other data; choose another --output-dir.")
        if matrix.version != MEASURING_VERSION:
            raise ValueError(
                f"{path} was measured by version {matrix.version} of the measurement, now it is {MEASURING_VERSION}; "
                "choose another --output-dir, or delete the file."
            )
        return matrix
    ready, runs = prepare(), path.parent / "runs"
    matrix = measure_heterogeneity(
        suite, ready.processor, ready.data, kind, settings, runs, advance, left_out=ready.left_out
    )
    if process_state().is_main_process:
        matrix.to_json_file(path)
    process_state().wait_for_everyone()
    return matrix


def measure_matrices(
    suite: Suite,
    settings: HeterogeneitySettings,
    folder: Path,
    prepare: Callable[[], Prepared],
) -> dict[MatrixKind, HeterogeneityMatrix]:
    """Both heterogeneity matrices, measured or read, with one progress bar for all that is to be measured.

    The seconds that each took are kept beside them, also those of a sweep that is stopped by Ctrl-C or SIGTERM.

    Args:
        suite, settings, prepare: as `measure_or_read` takes them.
        folder: where `unimodal.json` and `interaction.json` are or will be.

    Raises:
        ValueError: as `measure_or_read`.
    """
    nodes = {"unimodal": suite.modality_task_pairs(), "interaction": suite.interactions()}
    missing = [kind for kind in KINDS if not (folder / f"{kind}.json").exists()]
    total = settings.num_steps * sum(settings.num_runs(len(nodes[kind])) for kind in missing)
    matrices = {}
    shown = bool(missing) and process_state().is_main_process
    with progress_bar("Heterogeneity, optimizer steps", total, enabled=shown) as advance:
        # Before anything is made, so that the time that is left does not count these as fast.
        advance(sum(finished_steps(suite, kind, settings, folder / "runs") for kind in missing))
        for kind in KINDS:
            started = time.monotonic()
            try:
                matrices[kind] = measure_or_read(suite, kind, settings, folder / f"{kind}.json", prepare, advance)
            except KeyboardInterrupt:
                if kind in missing and shown and (folder / "runs").exists():
                    add_seconds(folder, kind, time.monotonic() - started)
                raise
            if kind in missing and shown:
                add_seconds(folder, kind, time.monotonic() - started)
    return matrices


def add_seconds(folder: Path, kind: MatrixKind, seconds: float) -> None:
    """Remember how long a call measured a matrix, in `seconds.json` of the matrices' folder; calls add up."""
    path, stage = folder / _SECONDS, f"heterogeneity, {kind}"
    known = read_record(path, ()) if path.exists() else {}
    write_json(path, {**known, stage: known.get(stage, 0.0) + seconds})


def measuring_costs(folder: Path) -> dict[MatrixKind, tuple[int, float | None]]:
    """Runs that each matrix rests on, and the seconds they took, None where that is not known.

    Args:
        folder: of the matrices. With `method="feature"` the joint models serve both, and count for the first.

    Raises:
        ValueError: `seconds.json` is broken; the message names it.
    """
    seconds = read_record(folder / _SECONDS, ()) if (folder / _SECONDS).exists() else {}
    costs: dict[MatrixKind, tuple[int, float | None]] = {}
    for kind in KINDS:
        logs = [folder / "runs" / f"{kind}-runs.jsonl", *([folder / "runs" / "joint-runs.jsonl"] * (kind == KINDS[0]))]
        # The first line says whose runs they are.
        runs = sum(max(0, log.read_text(encoding="utf-8").count("\n") - 1) for log in logs if log.exists())
        costs[kind] = runs, seconds.get(f"heterogeneity, {kind}")
    return costs


def _summary(label: str, seeds: list[dict[str, Any]], tasks: list[str]) -> dict[str, Any]:
    scores = {task: [seed["test"][task] for seed in seeds] for task in tasks}
    averages = [float(np.mean([seed["test"][task] for task in tasks])) for seed in seeds]
    return {
        "label": label,
        "num_parameters": seeds[0]["components"]["total"],
        "components": {part: count for part, count in seeds[0]["components"].items() if part != "total"},
        "scores": scores,
        "mean": {task: float(np.mean(values)) for task, values in scores.items()},
        "std": {task: _deviation(values) for task, values in scores.items()},
        "average": float(np.mean(averages)),
        "average_std": _deviation(averages),
    }


def _deviation(values: list[float]) -> float | None:
    """Sample standard deviation; None for a single value, whose deviation is unknown."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def versions() -> dict[str, str]:
    """Versions of what numbers can depend on."""
    packages = ("highmmt", "torch", "transformers", "accelerate", "datasets", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def run_study(
    suite: str | Path | Suite,
    output_dir: str | Path,
    *,
    quick: bool = False,
    num_seeds: int = 1,
    measurement_seeds: int | None = None,
    on_stage: Callable[[str], Any] = lambda name: None,
    report_to: Iterable[str] = (),
) -> dict[str, Any]:
    """The whole workflow on a suite: heterogeneity, groups, pretraining, fine-tuning, comparison, report.

    Args:
        suite: name, path or the suite itself.
        output_dir: the run folder; what is finished in it is not repeated.
        quick: every stage with few steps, within a minute.
        num_seeds: repetitions of all training.
        measurement_seeds: runs of every heterogeneity entry; None for as many as the suite says, or else one.
        on_stage: called with the name of each stage as it starts.
        report_to: trackers of the trainings, by their names.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: settings that no run can have, a tracker that is unknown or not installed, or a folder that holds
            something else.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    settings = StudySettings.for_suite(loaded, quick=quick, num_seeds=num_seeds, measurement_seeds=measurement_seeds)
    study = Study(loaded, Path(output_dir), settings, report_to)
    study.run(on_stage)
    return dict(read_json(Path(output_dir) / "metrics.json"))
