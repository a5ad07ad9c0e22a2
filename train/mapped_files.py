"""Memory into which files are mapped, given back to the system."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_MAPS = Path("/proc/self/maps")
# What smaller files hold does not matter.
_SMALL = 8 * 2**20


class MappedFiles:
    """Files that `datasets` has mapped into this process, whose pages stay resident once they have been read.

    The system could take them back at any time, but they count as memory of the process until it does, and a run that
    reads all of a large file seems to hold it. After `release` its rows are read from the system's cache of the file
    again. Only maps that can only be read are touched, of which a process can have changed nothing. Where the system
    has no `/proc/self/maps` (it is Linux's), nothing happens.

    Args:
        paths: the files; the data sets that mapped them must live as long as this does. Those below 8 MB are left
            alone.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {os.path.realpath(path) for path in paths if os.path.getsize(path) >= _SMALL}
        self.process: int | None = None
        self.ranges: list[tuple[int, int]] = []

    def release(self) -> None:
        """Give the pages back."""
        if self.process != os.getpid():
            # A worker has maps of its own.
            self.process, self.ranges = os.getpid(), _ranges(self.paths)
        for start, length in self.ranges:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _ranges(paths: set[str]) -> list[tuple[int, int]]:
    """Address and length of what can only be read and is a map of one of the files."""
    if not _MAPS.exists() or not paths:
        return []
    found = []
    for line in _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        # address range, permissions, offset, device, inode, path
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[1].startswith("r--") and parts[5] in paths:
            start, end = (int(number, 16) for number in parts[0].split("-"))
            found.append((start, end - start))
    return found


__all__ = ["MappedFiles"]
