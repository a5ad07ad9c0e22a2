"""Builders that a suite names as a task's source, where the data is in files that no reader of `datasets` knows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lines import did_you_mean, one_line

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetDict

# Name to module and class; a module is loaded when its builder is asked for.
_OURS = {
    "mimic": ("multibench.mimic", "Mimic"),
    "avmnist": ("multibench.avmnist", "Avmnist"),
    "mosei": ("multibench.affect", "Mosei"),
    "urfunny": ("multibench.affect", "UrFunny"),
    "enrico": ("multibench.enrico", "Enrico"),
    "mujoco_push": ("multibench.mujoco_push", "MujocoPush"),
    "vision_touch": ("multibench.vision_touch", "VisionTouch"),
    "cifar_esc": ("multibench.cifar_esc", "CifarEsc"),
    "sound_folder": ("sound_folder", "SoundFolder"),
}
_registered: dict[str, type[DatasetBuilder]] = {}


def register_builder(name: str, builder: type[DatasetBuilder]) -> None:
    """Let suites name a builder of one's own as a source: `source: {builder: name, data_dir: ...}`.

    Options of its configuration class may stand beside `builder` in the suite. If it has a class method `local_files`,
    that names the files under `data_dir` which it reads; otherwise all of them count.

    Raises:
        ValueError: the name is taken.
    """
    if name in builder_names() and _registered.get(name) is not builder:
        raise ValueError(f"There is a builder {name!r} already; builders: {', '.join(builder_names())}.")
    _registered[name] = builder


def builder_names() -> list[str]:
    """Names that a source's `builder` may have."""
    return [*_OURS, *_registered]


def builder_class(name: str) -> type[DatasetBuilder]:
    """The builder of that name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name in _registered:
        return _registered[name]
    if name not in _OURS:
        raise ValueError(f"unknown builder {name!r}{did_you_mean(name, builder_names(), 'Builders')}")
    module, kind = _OURS[name]
    return getattr(import_module(f".{module}", __package__), kind)


def builder_options(name: str) -> list[str]:
    """What may stand beside `builder` and `data_dir` in a source."""
    config = builder_class(name).BUILDER_CONFIG_CLASS
    return [field.name for field in dataclasses.fields(config) if field.name not in _NOT_OPTIONS]


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse values that the builder does not take; their names are known to be right.

    Raises:
        ValueError: from the builder's own configuration.
    """
    builder_class(name).BUILDER_CONFIG_CLASS(**options)


def builder_files(name: str, data_dir: Path) -> list[Path]:
    """Every file that a builder reads, in a fixed order.

    Raises:
        FileNotFoundError: a file is missing.
    """
    local_files: Callable[[Path], list[Path]] | None = getattr(builder_class(name), "local_files", None)
    if local_files is not None:
        return local_files(data_dir)
    return sorted(path for path in data_dir.rglob("*") if path.is_file())


def build_rows(source: Mapping[str, Any], where: str) -> DatasetDict:
    """The rows of a builder, made once and then taken from the cache of `datasets` until a file changes.

    Args:
        source: `builder`, `data_dir` and the builder's options.
        where: start of every error.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files are not what they should be.
    """
    import datasets

    options = {key: value for key, value in source.items() if key not in ("builder", "data_dir")}
    files = builder_files(source["builder"], Path(source["data_dir"]))
    state = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    try:
        builder = builder_class(source["builder"])(data_dir=source["data_dir"], hash=key, **options)
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        kind = FileNotFoundError if isinstance(cause, FileNotFoundError) else ValueError
        raise kind(f"{where}: {one_line(cause)}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {one_line(error)}") from error
    return builder.as_dataset()


_NOT_OPTIONS = ("name", "version", "data_dir", "data_files", "description")

__all__ = ["build_rows", "builder_class", "builder_files", "builder_names", "builder_options", "register_builder"]
