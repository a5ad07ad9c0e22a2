"""A progress bar that is seen in a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class progress_bar:  # noqa: N801 - used like a function
    """A rich progress bar on stderr; silent where stderr is no terminal. Yields a function that advances it."""

    def __init__(self, description: str, total: int, *, enabled: bool = True) -> None:
        console = Console(stderr=True)
        shown = enabled and console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=console) if shown else None
        self._task = self._bar.add_task(description, total=total) if self._bar is not None else None

    def __enter__(self) -> Callable[..., None]:
        if self._bar is not None:
            self._bar.__enter__()
        return self._advance

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def _advance(self, steps: int = 1) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)


__all__ = ["progress_bar"]
