"""What is told of a run while it goes on and when it is over: lines of JSON, trackers, stderr, a table."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from rich.console import Console
from rich.table import Table

from ..configuration.files import write_text
from .metrics import Metric

TRACKERS = ("tensorboard", "wandb", "mlflow")
LOG_FILE = "log.jsonl"


class EpochLog:
    """A file with one line of JSON for each epoch, in order.

    A run that goes on where an earlier one stopped finds its own lines there; those of epochs that will be repeated,
    and a line that was cut, go.

    Args:
        path: of the file, `log.jsonl` by custom.
        history: a record of every epoch that is over, `{"epoch": 0, ...}`; a line is made of each that has none.
    """

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path = Path(path)
        found: dict[int, str] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                epoch = _epoch_of(line)
                if epoch is not None:
                    found[epoch] = line
        lines = [found.get(record["epoch"]) or _json_line(record) for record in history]
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the line of an epoch; it is on the disk when this returns."""
        # One write, so that a reader sees a line whole or not at all.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{_json_line(record)}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_trackers(names: Iterable[str]) -> list[str]:
    """The names, once it is clear that there are such trackers and that they are installed.

    Raises:
        ValueError: an unknown name; the message lists those that exist.
        ModuleNotFoundError: one that is not installed; the message says how to install it.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"There is no tracker {name!r}; use one of {', '.join(TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f'The tracker {name!r} is not installed: pip install "highmmt[{name}]"')
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

    Raises:
        ValueError, ModuleNotFoundError: as `require_trackers`.
    """

    def __init__(
        self, accelerator: Accelerator, names: Iterable[str], folder: Path, project: str, settings: Mapping[str, Any]
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
            accelerator.init_trackers(project, config=flat_values(settings))

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
        metrics: task to its metric.
    """
    bests = {}
    for task, metric in metrics.items():
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
    table = Table(title=title, caption=f"kept: epoch {best_epoch + 1} of {len(history)}", title_justify="left")
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


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(_finite(record), allow_nan=False)


def _finite(value: Any) -> Any:
    """Plain data that JSON can hold: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _epoch_of(line: str) -> int | None:
    """The epoch a line is of; None where it was cut or is no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    epoch = record.get("epoch") if isinstance(record, dict) else None
    return epoch if isinstance(epoch, int) else None
