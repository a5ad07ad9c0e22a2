"""Stopping a run at the end of a step, so that nothing of it is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A launcher repeats a signal at once; nobody presses Ctrl-C again as quickly and means another.
_REPEATED_WITHIN_SECONDS = 1.0


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a run, after its step was finished and a checkpoint written.

    Attributes:
        exit_code: what the process should end with, 128 and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequests:
    """Within this block the first Ctrl-C or SIGTERM is noted, and the second ends the process at once.

    A terminal sends Ctrl-C to a launcher and to the processes it has launched alike, and torchrun (`accelerate launch`
    too) then sends it to them once more. So what a launched process, which `LOCAL_RANK` tells, gets within a second
    after the first does not count; who wants it to end at once presses again after that second. A process that was
    started directly ends with the second signal however soon it comes.

    In threads other than the main one, where Python takes no signals, nothing changes.

    Args:
        active: False leaves the signals as they are.

    Attributes:
        signal_number: the signal that was noted, 0 for none.
    """

    def __init__(self, active: bool = True) -> None:
        self.signal_number = 0
        self._active = active
        self._former: dict[int, Any] = {}
        self._process = os.getpid()
        self._first = 0.0
        self._launched = "LOCAL_RANK" in os.environ

    def __enter__(self) -> StopRequests:
        if self._active and threading.current_thread() is threading.main_thread():
            # A signal that is ignored, as Ctrl-C is by a command in the background, stays ignored.
            heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that was forked has the handler, too; its parent tells it when to end
        now = time.monotonic()
        if self._first:
            if not self._launched or now - self._first > _REPEATED_WITHIN_SECONDS:
                os._exit(128 + number)
            return
        self._first, self.signal_number = now, number
        # Not by a logger, which the signal may have interrupted.
        os.write(2, b"\nStopping after this step, with a checkpoint. Once more stops at once.\n")


__all__ = ["StopRequests", "TrainingInterrupted"]
