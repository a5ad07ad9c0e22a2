"""What is told of a run while it goes on and when it is over: lines of JSON, trackers, stderr, a table."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..configuration.files import write_text
from .metrics import Metric
from .processes import on_main_process
from .records import EpochRecord
from .settings import TrainingSettings
from .state import generator_states, restore_generators

TRACKERS = ("tensorboard", "wandb", "mlflow")
LOG_FILE = "log.jsonl"


@dataclasses.dataclass(frozen=True)
class Report:
    """Where it is told how a run goes.

    Args:
        folder: its `log.jsonl` gets a line for each epoch, its `tensorboard` what TensorBoard writes.
        run: name of the run in there and in trackers; empty where the folder is of one run alone.
        project: what trackers call all of these runs together.
        trackers: `"tensorboard"`, `"wandb"`, `"mlflow"`.
        every_epoch: where stderr is no terminal, say a line after every epoch; False for one at the end of the run.
    """

    folder: Path
    run: str = ""
    project: str = "highmmt"
    trackers: Sequence[str] = ()
    every_epoch: bool = True

    def phase(self, name: str) -> Report:
        """The same for a part of a recipe."""
        return dataclasses.replace(self, run=f"{self.run}/{name}" if self.run else name)


class Telling:
    """Within this block a run is told of, by its main process alone; without a report nothing is.

    What the trackers do takes nothing from the generators of the run.

    Args:
        report: where to.
        accelerator: of the run.
        metrics: task to its metric.
        settings: of the run.
        description: before the lines on stderr.
        history: epochs that are over; trackers, which begin anew when a run goes on, are told of these, too.

    Raises:
        ValueError: as `require_trackers`.
        OSError: the log cannot be written.
    """

    def __init__(
        self,
        report: Report | None,
        accelerator: Accelerator,
        metrics: Mapping[str, Metric],
        settings: TrainingSettings,
        description: str,
        history: Sequence[EpochRecord],
    ) -> None:
        self.report, self.accelerator, self.metrics = report, accelerator, metrics
        self.settings, self.description = settings, description
        self.history = [dataclasses.asdict(record) for record in history]
        self._log: EpochLog | None = None
        self._trackers: Trackers | None = None

    def __enter__(self) -> Telling:
        report = self.report
        if report is not None:
            path = report.folder / LOG_FILE
            self._log = on_main_process(lambda: EpochLog(path, self.history, report.run))
            with _generators_kept(self.accelerator, bool(report.trackers)):
                folder = report.folder / "tensorboard" / report.run
                self._trackers = Trackers(
                    self.accelerator, report.trackers, folder, report.project, self.settings.to_dict(), report.run
                )
                for record in self.history:
                    self._trackers.log(record)
        return self

    def __exit__(self, *error: object) -> None:
        if self._trackers is not None:
            with _generators_kept(self.accelerator, bool(self.accelerator.trackers)):
                self._trackers.close()

    def epoch(self, record: EpochRecord, last: bool) -> None:
        """Tell of an epoch that is over.

        Args:
            record: of the epoch.
            last: whether the run is over with it.
        """
        report, log, trackers = self.report, self._log, self._trackers
        if report is None or log is None or trackers is None:
            return
        values = dataclasses.asdict(record)
        on_main_process(lambda: log.append(values))
        with _generators_kept(self.accelerator, bool(self.accelerator.trackers)):
            trackers.log(values)
        if self.accelerator.is_main_process and (report.every_epoch or last):
            say_in_a_pipe(epoch_line(values, self.metrics, self.settings.num_epochs, self.description))


@contextmanager
def _generators_kept(accelerator: Accelerator, needed: bool) -> Iterator[None]:
    """All generators as they were, whatever the block draws."""
    states = generator_states(accelerator.device) if needed else None
    try:
        yield
    finally:
        if states is not None:
            restore_generators(states, accelerator.device)


class EpochLog:
    """A file with one line of JSON for each epoch, in order.

    A run that goes on where an earlier one stopped finds its own lines there; those of epochs that will be repeated,
    and a line that was cut, go. Several runs may share a file, one after the other.

    Args:
        path: of the file, `log.jsonl` by custom.
        history: a record of every epoch that is over, `{"epoch": 0, ...}`; a line is made of each that has none.
        run: name of the run, which its lines begin with; empty for a file of one run alone.
    """

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]] = (), run: str = "") -> None:
        self.path, self.run = Path(path), run
        found: dict[int, str] = {}
        lines: list[str] = []
        for line in _lines(self.path):
            epoch, owner = _epoch_and_run(line)
            if epoch is not None and owner == run:
                found[epoch] = line
            elif epoch is not None:
                lines.append(line)
        lines += [found.get(record["epoch"]) or self._line(record) for record in history]
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the line of an epoch; it is on the disk when this returns."""
        # One write, so that a reader sees a line whole or not at all.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{self._line(record)}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _line(self, record: Mapping[str, Any]) -> str:
        return json.dumps(_finite({"run": self.run, **record} if self.run else record), allow_nan=False)


def forget_runs(path: Path, name: str) -> None:
    """Take the lines of a run and of its phases, which are about to be written anew, out of a log."""
    lines = _lines(path)
    kept = [line for line in lines if not f"{_epoch_and_run(line)[1]}/".startswith(f"{name}/")]
    if len(kept) < len(lines):
        write_text(path, "".join(f"{line}\n" for line in kept))


def require_trackers(names: Iterable[str]) -> list[str]:
    """The names, once it is clear that there are such trackers and that they are installed.

    Args:
        names: one in each, or several with commas between them.

    Raises:
        ValueError: an unknown name; the message lists those that exist. Or one that is not installed; the message
            says how to install it.
    """
    given = [names] if isinstance(names, str) else names
    names = list(dict.fromkeys(part.strip() for name in given for part in str(name).split(",") if part.strip()))
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"There is no tracker {name!r}; use one of {', '.join(TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f'The tracker {name!r} is not installed: pip install "highmmt[{name}]"')
    return names


class Trackers:
    """Experiment trackers, by way of Accelerate; the main process alone tells them anything.

    Args:
        accelerator: of the run. Trackers that it was made with are started, too; where it has started some already,
            these are used and no others.
        names: `"tensorboard"`, `"wandb"`, `"mlflow"`.
        folder: where TensorBoard writes.
        project: name of the run or of the project, as the tracker has it.
        settings: plain data that the trackers keep with the run.
        run: name of the run within the project, for trackers that have both.

    Raises:
        ValueError: as `require_trackers`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        names: Iterable[str],
        folder: Path,
        project: str,
        settings: Mapping[str, Any],
        run: str = "",
    ) -> None:
        self.accelerator = accelerator
        self.started = not accelerator.trackers
        added = filter_trackers(require_trackers(names), folder)
        if self.started and (added or accelerator.log_with):
            accelerator.log_with = [
                *accelerator.log_with,
                *(name for name in added if name not in accelerator.log_with),
            ]
            if accelerator.project_configuration.logging_dir is None:
                accelerator.project_configuration.logging_dir = str(folder)
            # TensorBoard leaves out what an earlier part of the same run has written from this epoch on.
            options: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": 0}}
            if run:
                options.update(wandb={"name": run}, mlflow={"run_name": run})
            accelerator.init_trackers(project, config=flat_values(settings), init_kwargs=options)

    def log(self, record: Mapping[str, Any]) -> None:
        """Tell the numbers of an epoch's record, `{"train_loss": {"a": 1.0}}` as `train_loss/a`."""
        numbers = {name: value for name, value in flat_values(record).items() if isinstance(value, (int, float))}
        step = numbers.pop("epoch")
        if self.accelerator.trackers:
            self.accelerator.log(numbers, step=int(step))

    def close(self) -> None:
        """Write what is not written yet; another run of this process may then start its own."""
        if self.started:
            # `end_training` would take the processes apart as well.
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers, self.accelerator.log_with = [], []


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested plain data as one dict of numbers and texts, keys joined by `/`; a list becomes a text."""
    flat: dict[str, int | float | str | bool] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flat_values(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat


def own_bests(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> dict[str, tuple[int, float]]:
    """Task to the epoch and the value at which its own metric was best on validation data; the first of equal ones.

    Args:
        history: records of epochs, at least one, with `epoch` and `validation` (task to metrics).
        metrics: task to its metric; tasks that were not trained are left out.
    """
    bests = {}
    for task, metric in metrics.items():
        if task not in history[0]["validation"]:
            continue
        values = [(record["epoch"], record["validation"][task][metric.name]) for record in history]
        bests[task] = max(values, key=lambda item: metric.direction * item[1])
    return bests


def epoch_line(record: Mapping[str, Any], metrics: Mapping[str, Metric], num_epochs: int, description: str) -> str:
    """An epoch in one line of text: score, losses and metrics."""
    tasks = [
        f"{task} loss {record['train_loss'].get(task, math.nan):.4g} {metric.name} "
        f"{record['validation'][task][metric.name]:.4g}"
        for task, metric in metrics.items()
    ]
    return f"{description}: epoch {record['epoch'] + 1}/{num_epochs}, score {record['score']:.4g}; {'; '.join(tasks)}"


def say_in_a_pipe(line: str) -> None:
    """Write a line to stderr where that is no terminal; a terminal shows a progress bar."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def result_table(
    history: Sequence[Mapping[str, Any]], best_epoch: int, metrics: Mapping[str, Metric], title: str
) -> Table:
    """The end of a run as a table: each task in the best epoch of all together, and at its own best.

    Args:
        history: records of epochs, with `epoch`, `train_loss` and `validation`.
        best_epoch: the one whose weights are kept, counted from 0 (in the table, epochs are counted from 1).
        metrics: task to its metric.
        title: above the table.
    """
    caption = f"kept: epoch {best_epoch + 1} of {len(history)}"
    look = {"box": box.SIMPLE_HEAD, "pad_edge": False, "title_justify": "left", "caption_justify": "left"}
    table = Table(title=escape(title), caption=caption, **look)  # type: ignore[arg-type]
    table.add_column("task", overflow="fold")
    for column in ("metric", "kept", "own best", "in epoch", "train loss", "validation loss"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    kept = next(record for record in history if record["epoch"] == best_epoch)
    for task, (epoch, value) in own_bests(history, metrics).items():
        name, validation = metrics[task].name, kept["validation"][task]
        loss = kept["train_loss"].get(task, math.nan)
        numbers = [f"{validation[name]:.4g}", f"{value:.4g}", str(epoch + 1), f"{loss:.4g}"]
        table.add_row(task, name, *numbers, f"{validation['loss']:.4g}")
    return table


def _finite(value: Any) -> Any:
    """Plain data that JSON can hold: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _epoch_and_run(line: str) -> tuple[int | None, str]:
    """The epoch and the run a line is of; no epoch where it was cut or is no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None, ""
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        return None, ""
    return record["epoch"], str(record.get("run", ""))
