"""What all commands share: how they speak, how they name a full disk, and how a suite is found."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Files and pipes have no width; tables there are as wide as they need.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)

DATA, TRAINING, MEASURING, RESULT = "What to work on", "How to train", "How to measure", "Where results go"
GROUPING = "Which groups"
SuiteArgument = Annotated[
    str, typer.Argument(help="Suite of this package (starter, multibench-large, ...) or path of a suite's YAML file.")
]
ModelArgument = Annotated[Path, typer.Argument(help="Model folder, such as runs/starter/finetuned.")]
RunArgument = Annotated[Path, typer.Argument(help="Run folder: the --output-dir of an earlier command.")]
OutputDir = Annotated[
    Path,
    typer.Option(
        "--output-dir", "-o", help="Folder of the run, made if need be.", rich_help_panel=RESULT, show_default=False
    ),
]
Tasks = Annotated[
    str | None, typer.Option(help="Only these tasks, separated by commas: digits,motion.", rich_help_panel=DATA)
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with data that the suite does not carry, such as the files of MultiBench.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        "--report-to",
        help="Trackers that are told of every epoch: tensorboard (in OUTPUT_DIR/tensorboard), wandb, mlflow; several "
        "with commas, or the option repeated.",
        rich_help_panel=RESULT,
        show_default=False,
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Few steps and pairs, to see every stage within a minute; scores mean little.")
]


def say(markup: str) -> None:
    """Write a line to stderr."""
    # A console of its own: one that Ctrl-C stopped within a line would say that line again.
    Console(stderr=True).print(markup, highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """Print a line as it stands."""
    out.print(escape(text), highlight=False, soft_wrap=True)


@contextmanager
def writes_to(folder: Path, again: str = "repeat the command") -> Iterator[None]:
    """Turn a full disk, which libraries report in several ways and without a place, into one error that names it.

    Args:
        folder: where the command writes.
        again: what to do once there is room.
    """
    try:
        yield
    except _errors_of_writing() as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, _full_disk(folder, again)) from error


def _errors_of_writing() -> tuple[type[Exception], ...]:
    return OSError, ValueError, *library_errors()


def _full_disk(folder: Path, again: str) -> str:
    from datasets.config import HF_DATASETS_CACHE

    def free(place: Path) -> int:
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    place = min((folder.absolute(), Path(HF_DATASETS_CACHE).absolute()), key=free)
    where = str(folder) if place == folder.absolute() else f"{place}, the cache of `datasets` (HF_DATASETS_CACHE)"
    return (
        f"No space left on the disk of {where}: {free(place) / 2**20:.1f} MB. Nothing is half-written; make room and "
        f"{again}."
    )


def prepare_libraries() -> None:
    """Register the Auto classes, and keep the libraries' own progress bars off: ours say what happens."""
    import datasets
    import transformers

    from .auto import register

    register()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def load_named_suite(name: str, tasks: str | None = None, data_dir: Path | None = None) -> Any:
    """A suite by name or path, with these of its tasks, once the libraries are told to be quiet."""
    prepare_libraries()
    from .suites import load_suite

    suite = load_suite(name, data_dir)
    if tasks is None:
        return suite
    from .analysis import select_tasks

    return select_tasks(suite, [task.strip() for task in tasks.split(",") if task.strip()])


def given(changes: dict[str, Any]) -> dict[str, Any]:
    """Options that were set."""
    return {name: value for name, value in changes.items() if value is not None}


def table_of(title: str | None, *texts: str, **columns: Any) -> Table:
    """An empty table: columns of text, then columns by name with their alignment."""
    table = Table(title=title and escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in texts:
        table.add_column(column, overflow="fold")
    for column, justify in columns.items():
        table.add_column(column, justify=justify)
    return table


def worker_errors() -> tuple[type[Exception], ...]:
    """Errors of processes that the user did not start."""
    from .train.loading import WorkerDiedError

    return (WorkerDiedError,)


def library_errors() -> tuple[type[Exception], ...]:
    """Errors about what a user gave, or about the disk, that are neither `ValueError` nor `OSError`."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return StrictDataclassError, SafetensorError
