"""Checkpoints of a training run: folders that are written whole, and verified file by file before they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..configuration.files import sync_folder, write_synced

logger = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"epoch-(\d{5})-step-(\d{8})")
_TEMPORARY = ".tmp"
_MANIFEST_KEYS = {"format", "files"}


@dataclass(frozen=True, order=True)
class Position:
    """Where in a run a checkpoint was taken: `step` steps of epoch `epoch` are done, both counted from 0."""

    epoch: int
    step: int

    def __str__(self) -> str:
        return f"epoch-{self.epoch:05d}-step-{self.step:08d}"


@dataclass
class Checkpoint:
    """The files of one checkpoint, in memory.

    Attributes:
        folder: where it was read from.
        position: where in the run it was taken.
        contents: name to plain data (of `.json`) or to named tensors (of `.safetensors`).
        lost: file to what is wrong with it; empty unless an inexact checkpoint was asked for.
    """

    folder: Path
    position: Position
    contents: dict[str, Any]
    lost: dict[str, str] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of one training run, newest last; all but the newest few are removed.

    A checkpoint is a folder `epoch-00002-step-00000120` of safetensors and JSON files. It is filled under a temporary
    name, every file is brought to the disk, and only then it gets its name, so that a crash at any moment leaves
    either all of it or none. `manifest.json` holds size and SHA-256 of every other file.

    Args:
        folder: made with the first checkpoint.
        keep: how many checkpoints stay.

    Raises:
        ValueError: `keep` is no whole number above 0.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep={keep!r} must be a whole number, 1 or more.")
        self.folder = Path(folder)
        self.keep = keep

    def positions(self) -> list[Position]:
        """Where the checkpoints were taken, oldest first, whole or not."""
        if not self.folder.is_dir():
            return []
        matches = [_NAME.fullmatch(entry.name) for entry in self.folder.iterdir()]
        return sorted(Position(int(match[1]), int(match[2])) for match in matches if match)

    def clear(self) -> None:
        """Remove all checkpoints, and the folder if nothing else is in it."""
        for position in self.positions():
            self._remove(position)
        self._remove_temporary()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def save(self, position: Position, contents: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then remove those that are too many.

        Args:
            position: where in the run it is taken; a checkpoint of the same position is replaced.
            contents: name to plain data (`.json`) or named tensors on the CPU (`.safetensors`).

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: the disk is full, or the folder may not be written; the checkpoints that were there still are.
        """
        files = {name: _to_bytes(name, content) for name, content in contents.items()}
        entries = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()}
        files[MANIFEST] = _manifest_bytes(entries)
        target = self.folder / str(position)
        temporary = self.folder / f".{position}{_TEMPORARY}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_temporary()
            temporary.mkdir()
            for name, data in files.items():
                write_synced(temporary / name, data)
            sync_folder(temporary)
            if target.exists():
                self._remove(position)
            os.replace(temporary, target)
            sync_folder(self.folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                message = f"the checkpoint could not be written ({reason}); older ones are as they were"
                raise OSError(error.errno or errno.EIO, message, str(target)) from error
            raise
        positions = self.positions()
        # What is newer is broken, or the run would not have gone back behind it.
        newer = [other for other in positions if other > position]
        for other in [*newer, *positions[: -self.keep - len(newer)]]:
            self._remove(other)
        return target

    def newest(self, allow_inexact: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole; broken newer ones are named in a warning.

        Args:
            allow_inexact: where none is whole, take the newest with what is left of it.

        Returns:
            None where there is no checkpoint at all.

        Raises:
            ValueError: all checkpoints are broken; the message names each with its first broken file.
        """
        broken: dict[Position, Checkpoint] = {}
        for position in reversed(self.positions()):
            checkpoint = self._read(position)
            if not checkpoint.lost:
                for newer in broken.values():
                    logger.warning("%s. Going on from the older %s.", _damage(newer), checkpoint.folder.name)
                return checkpoint
            broken[position] = checkpoint
        if not broken:
            return None
        if allow_inexact:
            return next(iter(broken.values()))
        raise ValueError(
            f"No checkpoint in {self.folder} is whole: {'; '.join(map(_damage, broken.values()))}. Restore the files, "
            "go on with what is left of the newest (--allow-inexact), or delete the folder to begin anew."
        )

    def _read(self, position: Position) -> Checkpoint:
        """One checkpoint with all that is right in it; `lost` names the rest."""
        checkpoint = Checkpoint(self.folder / str(position), position, {})
        lost = checkpoint.lost
        try:
            entries = _read_manifest((checkpoint.folder / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            lost[MANIFEST] = _reason(error)
            entries = None
        present = {entry.name for entry in checkpoint.folder.iterdir()} - {MANIFEST}
        for name in sorted({*present, *(entries or {})}):
            try:
                data = (checkpoint.folder / name).read_bytes()
                if entries is not None:
                    _compare(data, entries.get(name))
                checkpoint.contents[name] = _from_bytes(name, data)
            except (OSError, ValueError) as error:
                lost[name] = _reason(error)
        return checkpoint

    def _remove(self, position: Position) -> None:
        """Take a checkpoint's name away before its files, so that a crash leaves no half of one."""
        folder = self.folder / str(position)
        doomed = self.folder / f".{position}.old{_TEMPORARY}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _remove_temporary(self) -> None:
        """What a run that was killed has left."""
        for entry in self.folder.glob(f".epoch-*{_TEMPORARY}"):
            shutil.rmtree(entry, ignore_errors=True)


def _damage(checkpoint: Checkpoint) -> str:
    name, reason = next(iter(checkpoint.lost.items()))
    more = f" (and {len(checkpoint.lost) - 1} more)" if len(checkpoint.lost) > 1 else ""
    return f"{checkpoint.folder / name}: {reason}{more}"


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _to_bytes(name: str, content: Any) -> bytes:
    if name.endswith(".json"):
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    # The library refuses tensors that share memory, and ties do not matter for values.
    tensors: dict[str, Tensor] = {key: value.detach().cpu().clone() for key, value in content.items()}
    return safetensors.torch.save(tensors)


def _from_bytes(name: str, data: bytes) -> Any:
    """Plain data or tensors.

    Raises:
        ValueError: the bytes are neither.
    """
    try:
        return json.loads(data) if name.endswith(".json") else safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from error


def _manifest_bytes(entries: Mapping[str, Any]) -> bytes:
    return (json.dumps({"format": FORMAT, "files": dict(entries)}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(data: bytes) -> dict[str, dict[str, Any]]:
    """File to its size and hash.

    Raises:
        ValueError: the bytes are not exactly those of a manifest.
    """
    manifest = json.loads(data)
    if not isinstance(manifest, dict) or set(manifest) != _MANIFEST_KEYS or not isinstance(manifest["files"], dict):
        raise ValueError("is no manifest of a checkpoint")
    if manifest["format"] != FORMAT:
        raise ValueError(f"has format {manifest['format']!r}, this version reads {FORMAT}")
    # Bytes that say the same in another way were changed by somebody.
    if _manifest_bytes(manifest["files"]) != data:
        raise ValueError("was changed")
    return dict(manifest["files"])


def _compare(data: bytes, entry: Mapping[str, Any] | None) -> None:
    """Refuse data that is not what the manifest says.

    Raises:
        ValueError: with what differs.
    """
    if entry is None:
        raise ValueError("is not in the manifest")
    if len(data) != entry.get("size"):
        raise ValueError(f"has {len(data)} bytes, the manifest says {entry.get('size')}")
    if _sha256(data) != entry.get("sha256"):
        raise ValueError("has another SHA-256 than the manifest says")


__all__ = ["Checkpoint", "CheckpointFolder", "Position"]
