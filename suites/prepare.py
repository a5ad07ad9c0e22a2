"""Which data files of a suite are there, and where its owners say to get what is missing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .loading import file_sha256, local_files
from .multibench.files import FILES
from .suite import Suite

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class FoundFiles:
    """What is there of a task's files.

    Args:
        task: name of the task.
        pattern: name of the file, or a pattern of names.
        count: files found.
        size: bytes of all of them.
        sha256: hash (hex) of the file; of several the hash of their hashes, in the order of their names. Empty for
            none.
        source: where the owners say to get it; empty for files that the suite names by their paths.
    """

    task: str
    pattern: str
    count: int
    size: int
    sha256: str
    source: str

    @property
    def found(self) -> str:
        """In words, how many there are."""
        return "missing" if not self.count else "1 file" if self.count == 1 else f"{self.count} files"

    @property
    def size_text(self) -> str:
        """The size with a unit, 1 kB being 1,000 bytes."""
        if not self.count:
            return ""
        size, unit = float(self.size), 0
        while size >= 1000 and unit < len(_UNITS) - 1:
            size, unit = size / 1000, unit + 1
        return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def prepare_suite(suite: Suite, data_dir: str | Path | None = None) -> list[FoundFiles]:
    """The data files of a suite, task by task. Every file is read once, for its hash.

    Args:
        suite: named or read with `load_suite`.
        data_dir: folder with data that the suite does not carry; not needed where its tasks name their folders.

    Returns:
        One entry for each file or pattern of files. Data of the Hub has none.

    Raises:
        FileNotFoundError: the folder is not there, or a file that a task names by its path.
        ValueError: tasks need a folder and none is given.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"The data folder {folder} does not exist.")
    entries: list[FoundFiles] = []
    for name, task in suite.tasks.items():
        builder = task.source.get("builder")
        if builder not in FILES:
            source = task.source if folder is None or builder is None else {"data_dir": str(folder), **task.source}
            files = local_files(source, f"Suite {suite.name!r}, tasks.{name}")
            entries += [_entry(name, path.name, [path], "") for path in files]
            continue
        place = task.source.get("data_dir", folder)
        if place is None:
            raise ValueError(
                f"Suite {suite.name!r}, tasks.{name}: reads files of yours; say where they are with --data-dir DIR. "
                f"They are {', '.join(FILES[builder].patterns)}, from: {FILES[builder].source}."
            )
        found = FILES[builder].find(Path(place))
        entries += [_entry(name, pattern, paths, FILES[builder].source) for pattern, paths in found.items()]
    return entries


def _entry(task: str, pattern: str, paths: list[Path], source: str) -> FoundFiles:
    hashes = [file_sha256(path) for path in paths]
    together = hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    size = sum(path.stat().st_size for path in paths)
    return FoundFiles(task, pattern, len(paths), size, together if paths else "", source)


__all__ = ["FoundFiles", "prepare_suite"]
