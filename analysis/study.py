"""The paper's workflow on one suite, from measuring heterogeneity to the comparison of what it brought."""

from __future__ import annotations

import dataclasses
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration import ParameterGroups
from ..configuration.files import read_json, write_json
from ..heterogeneity import (
    HeterogeneityMatrix,
    HeterogeneitySettings,
    cluster_parameter_groups,
    measure_heterogeneity,
    random_parameter_groups,
)
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from ..suites import Suite, load_suite
from ..train import (
    METRICS,
    TrainingSettings,
    encode_suite,
    finetune,
    pretrain,
    save_model_folder,
    single_task,
)
from .model_card import model_card
from .report import write_report

logger = logging.getLogger(__name__)

METHODS = {
    "share_none": "Share none (one model per task)",
    "share_all": "Share all",
    "random": "Random groups",
    "highmmt": "HighMMT",
}


@dataclass
class StudySettings:
    """How a suite is studied; kept in the run folder, and a folder is only continued with the same settings.

    Args:
        pretraining: of the shared model, and first phase of every model trained alone.
        finetuning: of all variants, and second phase of every model trained alone.
        heterogeneity: of both matrices.
        num_unimodal_groups, num_crossmodal_groups: numbers of groups; None chooses them from the matrices.
        num_seeds: repetitions of all training, counted up from the seeds of the phases.

    Raises:
        ValueError: fewer than one seed.
    """

    pretraining: TrainingSettings = field(default_factory=TrainingSettings)
    finetuning: TrainingSettings = field(default_factory=TrainingSettings)
    heterogeneity: HeterogeneitySettings = field(default_factory=HeterogeneitySettings)
    num_unimodal_groups: int | None = None
    num_crossmodal_groups: int | None = None
    num_seeds: int = 1

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds={self.num_seeds!r} must be a whole number, 1 or more.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def for_suite(cls, suite: Suite, *, quick: bool = False, num_seeds: int = 1) -> StudySettings:
        """The suite's own settings; `quick` cuts epochs, steps and pairs so that every stage runs within a minute."""
        training = dict(suite.training)
        epochs = {
            "pretraining": training.pop("num_pretraining_epochs", 40),
            "finetuning": training.pop("num_finetuning_epochs", 20),
        }
        counts = {name: training.pop(name, None) for name in ("num_unimodal_groups", "num_crossmodal_groups")}
        heterogeneity = {name: training[name] for name in ("learning_rate", "weight_decay") if name in training}
        steps: dict[str, Any] = {}
        if quick:
            epochs = {"pretraining": 2, "finetuning": 1}
            steps = {"num_steps": 8, "num_evaluations": 1, "share": 0.15}
        return cls(
            pretraining=TrainingSettings.from_dict({"num_epochs": epochs["pretraining"], **training}),
            finetuning=TrainingSettings.from_dict({"num_epochs": epochs["finetuning"], **training}),
            heterogeneity=HeterogeneitySettings(**heterogeneity, **steps),
            num_seeds=num_seeds,
            **counts,
        )


class Study:
    """One run folder and the stages that fill it; every stage skips what an earlier call has finished.

    Args:
        suite: what to study.
        folder: where everything is kept.
        settings: how.

    Raises:
        ValueError: the folder holds a run of another suite or of other settings.
    """

    def __init__(self, suite: Suite, folder: Path, settings: StudySettings) -> None:
        self.suite, self.folder, self.settings = suite, folder, settings
        self._open_folder()
        self._processor: HighMMTProcessor | None = None
        self._data: dict[str, Any] | None = None

    def run(self, on_stage: Callable[[str], Any] = lambda name: None) -> Path:
        """All stages in order.

        Args:
            on_stage: called with the name of each stage as it starts.

        Returns:
            The path of `report.html`.
        """
        for name, stage in (
            ("heterogeneity", self.measure),
            ("groups", self.group),
            ("training", self.train),
            ("report", self.report),
        ):
            on_stage(name)
            stage()
        return self.folder / "report.html"

    def measure(self) -> dict[str, HeterogeneityMatrix]:
        """Both heterogeneity matrices (section 2.1)."""
        matrices = {}
        for kind in ("unimodal", "interaction"):
            path = self.folder / "heterogeneity" / f"{kind}.json"
            if not path.exists():
                started = time.monotonic()
                matrix = measure_heterogeneity(
                    self.suite, self.processor, self.data, kind, self.settings.heterogeneity, path.parent / "runs"
                )
                matrix.to_json_file(path)
                self._add_time(f"heterogeneity, {kind}", time.monotonic() - started)
            matrices[kind] = HeterogeneityMatrix.from_json_file(path)
        return matrices

    def group(self) -> ParameterGroups:
        """The parameter groups, clustered from the matrices (appendix A.3)."""
        path = self.folder / "parameter_groups.json"
        if not path.exists():
            matrices = self.measure()
            groups = cluster_parameter_groups(
                matrices["unimodal"],
                matrices["interaction"],
                num_unimodal_groups=self.settings.num_unimodal_groups,
                num_crossmodal_groups=self.settings.num_crossmodal_groups,
            )
            write_json(path, groups.to_dict())
        return ParameterGroups.from_json_file(path)

    def train(self) -> dict[str, Any]:
        """Share none, share all, random groups and HighMMT, for every seed; scores on test data."""
        for number in range(self.settings.num_seeds):
            self._train_seed(number)
        return self._collect()

    def report(self) -> Path:
        """`metrics.json` and `report.html` from what is there."""
        self._collect()
        return write_report(self.folder)

    @property
    def processor(self) -> HighMMTProcessor:
        """The processor, fitted on the training splits."""
        if self._processor is None:
            self._processor = self.suite.build_processor()
        return self._processor

    @property
    def data(self) -> dict[str, Any]:
        """Task and split to encoded rows."""
        if self._data is None:
            self._data = encode_suite(self.suite, self.processor)
        return self._data

    def _open_folder(self) -> None:
        path = self.folder / "run.json"
        description = {
            "suite": self.suite.name,
            "fingerprint": self.suite.fingerprint,
            "settings": self.settings.to_dict(),
        }
        if path.exists():
            former = read_json(path)
            if former.get("fingerprint") != description["fingerprint"]:
                raise ValueError(
                    f"{self.folder} holds a run of suite {former.get('suite')!r} with other data or options. "
                    "Choose another --output-dir."
                )
            if former.get("settings") != write_and_read(description["settings"]):
                changed = _differences(former.get("settings", {}), write_and_read(description["settings"]))
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(changed)}). "
                    "Repeat its command, or choose another --output-dir."
                )
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file; choose a folder for --output-dir.")
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no run; choose another --output-dir.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.suite.save(self.folder / "suite.yaml")
        write_json(path, description)

    def _phase(self, name: str, number: int) -> TrainingSettings:
        settings = getattr(self.settings, name)
        return dataclasses.replace(settings, seed=settings.seed + number)

    def _label(self, text: str, number: int) -> str:
        return text if self.settings.num_seeds == 1 else f"{text}, seed {number + 1} of {self.settings.num_seeds}"

    def _train_seed(self, number: int) -> None:
        groups = self.group()
        nodes = list(groups.unimodal), list(groups.crossmodal)
        variants = {
            "share_all": ParameterGroups.share_all(*nodes),
            "random": random_parameter_groups(
                *nodes, groups.num_unimodal_groups, groups.num_crossmodal_groups, seed=number
            ),
            "highmmt": groups,
        }
        pretrained_folder = self.folder / ("pretrained" if number == 0 else f"seeds/{number}/pretrained")
        if not (self._record("pretrained", number).exists() and pretrained_folder.exists()):
            started = time.monotonic()
            model, result, test = pretrain(
                self.suite,
                self.processor,
                self.data,
                self._phase("pretraining", number),
                self._label("Pretraining", number),
            )
            self._save_model(pretrained_folder, model, test, "pretrained")
            self._save_record("pretrained", number, model, test, result.to_dict(), time.monotonic() - started)
        for method, variant in variants.items():
            finetuned_folder = self.folder / "finetuned" if method == "highmmt" and number == 0 else None
            done = finetuned_folder is None or finetuned_folder.exists()
            if self._record(method, number).exists() and done:
                continue
            started = time.monotonic()
            model, result, test = finetune(
                HighMMTModel.from_pretrained(pretrained_folder),
                variant,
                self.suite,
                self.processor,
                self.data,
                self._phase("finetuning", number),
                self._label(f"Fine-tuning: {METHODS[method]}", number),
            )
            if finetuned_folder is not None:
                self._save_model(finetuned_folder, model, test, "finetuned")
            self._save_record(method, number, model, test, result.to_dict(), time.monotonic() - started)
        self._train_alone(number)

    def _train_alone(self, number: int) -> None:
        phases = [self._phase("pretraining", number), self._phase("finetuning", number)]
        for task in self.suite.tasks:
            name = f"share_none-{task}"
            if self._record(name, number).exists():
                continue
            started = time.monotonic()
            model, results, test = single_task(
                task, self.suite, self.processor, self.data, phases, self._label(f"Share none: {task}", number)
            )
            courses = [result.to_dict() for result in results]
            self._save_record(name, number, model, test, courses, time.monotonic() - started)

    def _record(self, method: str, number: int) -> Path:
        return self.folder / "methods" / f"{method}-seed{number}.json"

    def _save_record(
        self, method: str, number: int, model: HighMMTModel, test: dict[str, float], course: Any, seconds: float
    ) -> None:
        write_json(
            self._record(method, number),
            {"test": test, "components": model.num_parameters_by_component(), "course": course, "seconds": seconds},
        )

    def _save_model(self, folder: Path, model: HighMMTModel, test: dict[str, float], stage: str) -> None:
        card = model_card(self.suite, model, test, stage)
        save_model_folder(folder, model, self.processor, card)

    def _add_time(self, stage: str, seconds: float) -> None:
        path = self.folder / "methods" / "heterogeneity-seconds.json"
        times = read_json(path) if path.exists() else {}
        write_json(path, {**times, stage: seconds})

    def _collect(self) -> dict[str, Any]:
        """`metrics.json` from the records of all methods and seeds that are there."""
        suite, methods = self.suite, {}
        for method, label in METHODS.items():
            found = [self._seed_result(method, number) for number in range(self.settings.num_seeds)]
            if any(result is None for result in found):
                continue
            methods[method] = _summary(label, [result for result in found if result is not None], list(suite.tasks))
        history = {}
        for stage, method in (("pretrained", "pretrained"), ("finetuned", "highmmt")):
            if self._record(method, 0).exists():
                history[stage] = read_json(self._record(method, 0))["course"]["history"]
        metrics = {
            "suite": suite.name,
            "suite_fingerprint": suite.fingerprint,
            "settings": self.settings.to_dict(),
            "seeds": list(range(self.settings.num_seeds)),
            "metric": {name: task.metric for name, task in suite.tasks.items()},
            "higher_is_better": {name: METRICS[task.metric].higher_is_better for name, task in suite.tasks.items()},
            "reference": {name: task.reference for name, task in suite.tasks.items() if task.reference},
            "methods": methods,
            "history": history,
            "timings": self._timings(),
            "versions": versions(),
        }
        write_json(self.folder / "metrics.json", metrics)
        return metrics

    def _seed_result(self, method: str, number: int) -> dict[str, Any] | None:
        if method != "share_none":
            path = self._record(method, number)
            return read_json(path) if path.exists() else None
        paths = [self._record(f"share_none-{task}", number) for task in self.suite.tasks]
        if not all(path.exists() for path in paths):
            return None
        records = [read_json(path) for path in paths]
        components = {part: sum(record["components"][part] for record in records) for part in records[0]["components"]}
        test = {task: score for record in records for task, score in record["test"].items()}
        return {"test": test, "components": components}

    def _timings(self) -> dict[str, float]:
        path = self.folder / "methods" / "heterogeneity-seconds.json"
        timings = dict(read_json(path)) if path.exists() else {}
        for record in sorted((self.folder / "methods").glob("*-seed*.json")):
            method = record.stem.rsplit("-seed", 1)[0].split("-", 1)[0]
            timings[method] = timings.get(method, 0.0) + read_json(record)["seconds"]
        return timings


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


def write_and_read(values: Any) -> Any:
    """Values as they come back from JSON, for comparing with what was stored."""
    import json

    return json.loads(json.dumps(values))


def _differences(former: Any, present: Any, prefix: str = "") -> list[str]:
    if not (isinstance(former, dict) and isinstance(present, dict)):
        return [f"{prefix}: {former!r} there, {present!r} now"] if former != present else []
    changed = []
    for key in dict.fromkeys([*former, *present]):
        changed += _differences(former.get(key), present.get(key), f"{prefix}.{key}" if prefix else key)
    return changed


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
    on_stage: Callable[[str], Any] = lambda name: None,
) -> dict[str, Any]:
    """The whole workflow on a suite: heterogeneity, groups, pretraining, fine-tuning, comparison, report.

    Args:
        suite: name, path or the suite itself.
        output_dir: the run folder; what is finished in it is not repeated.
        quick: every stage with few steps, within a minute.
        num_seeds: repetitions of all training.
        on_stage: called with the name of each stage as it starts.

    Returns:
        The content of `metrics.json`.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    study = Study(loaded, Path(output_dir), StudySettings.for_suite(loaded, quick=quick, num_seeds=num_seeds))
    study.run(on_stage)
    return read_json(Path(output_dir) / "metrics.json")
