"""Ctrl-C and SIGTERM, on their way through Typer to an exit code and a line that says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from typer.core import TyperGroup

INTERRUPTED, TERMINATED = 130, 143


class StoppedError(Exception):
    """A signal has ended a command. Typer would turn the `KeyboardInterrupt` that it was into 130 without a word.

    Args:
        cause: the interrupt; the text is its own, or "Stopped.".

    Attributes:
        exit_code: 130, or what the interrupt says.
        has_checkpoint: whether it says that a run was saved before it ended.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause) or "Stopped.")
        self.exit_code = int(getattr(cause, "exit_code", INTERRUPTED))
        self.has_checkpoint = bool(str(cause))


class InterruptibleGroup(TyperGroup):
    """The commands of a program, whose interrupts arrive at its entry point as `StoppedError`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise StoppedError(error) from error


class Terminated(KeyboardInterrupt):
    """SIGTERM outside a training, which handles it itself: what is half-written is removed, as by Ctrl-C."""

    exit_code = TERMINATED


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Within this block SIGTERM ends the command as Ctrl-C does, but with 143; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
