"""Files written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name beside it, then rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and bring it to the disk."""
    with open(path, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; a rename survives a power cut only after that."""
    if os.name == "nt":  # folders cannot be opened there, and names are kept without
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, values: Any) -> Path:
    """Write plain data as JSON, whole or not at all; NaN and infinity are refused."""
    return write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Plain data of a JSON file.

    Raises:
        ValueError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}). Delete the file to have it made again.") from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` once the block has filled it without an error.

    After an error `folder` is as it was before, and the temporary folder is gone.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        yield temporary
        # Temporary folders and safetensors files are readable by their owner alone; a model folder is to be shared.
        for place in (temporary, *temporary.rglob("*")):
            os.chmod(place, (0o777 if place.is_dir() else 0o666) & ~_umask())
        if folder.exists():
            # Two renames, so that a reader never sees a folder that is half old and half new.
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".old"))
            try:
                os.replace(folder, old / folder.name)
                os.replace(temporary, folder)
            except BaseException:
                if (old / folder.name).exists():
                    os.replace(old / folder.name, folder)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
