"""The folder of a run: whose it is, and the model folders in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..configuration.files import read_json, write_json
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from ..suites import Suite

MODEL_FILES = ("config.json", "model.safetensors", "processor_config.json")
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


def open_run_folder(folder: Path, suite: Suite) -> dict[str, Any]:
    """Make the folder a run of this suite, or see that it is one already.

    A folder in which no stage has left anything yet, because the first one failed, is taken over.

    Args:
        folder: made if need be, with `run.json` (whose it is) and `suite.yaml`.
        suite: what is run.

    Returns:
        The content of `run.json`: `suite`, `fingerprint`, and `settings` where `Study` has written them.

    Raises:
        ValueError: the path is a file, or the folder holds a run of another suite, or no run but other files.
    """
    note = folder / "run.json"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder for --output-dir.")
    entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")] if folder.exists() else []
    if note.exists() and not set(entries) <= {"run.json", "suite.yaml"}:
        found = read_record(note, ("suite", "fingerprint"))
        if found["fingerprint"] != suite.fingerprint:
            raise ValueError(
                f"{folder} holds a run of suite {found['suite']!r} with other data, tasks or options than suite "
                f"{suite.name!r} has now. Choose another --output-dir."
            )
        if not (folder / "suite.yaml").exists():
            suite.save(folder / "suite.yaml")
        return found
    if entries and not note.exists():
        raise ValueError(f"{folder} is not empty and holds no run; choose another --output-dir.")
    found = {"suite": suite.name, "fingerprint": suite.fingerprint}
    write_json(note, found)
    suite.save(folder / "suite.yaml")
    return found


def read_record(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON file that a run has written, with at least these keys.

    Raises:
        ValueError: the file is broken; the message names it and says that it is made again if deleted.
    """
    record = read_json(path)
    missing = [key for key in keys if key not in record] if isinstance(record, Mapping) else ["mapping"]
    if missing:
        raise ValueError(f"{path}: has no {missing[0]!r}. Delete the file to have it made again.")
    return dict(record)


def load_model_folder(folder: Path) -> tuple[HighMMTModel, HighMMTProcessor]:
    """Model, ready to predict, and processor of a model folder.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a file of a model folder.
        ValueError: a file is broken, or the weights are not those of the configuration; the message names the folder.
    """
    _require_files(folder, MODEL_FILES)
    model = load_model(folder)
    with _loading(folder):
        return model, HighMMTProcessor.from_pretrained(folder)


def load_model(folder: Path) -> HighMMTModel:
    """Model, ready to predict, of a model folder, which needs no processor.

    Raises:
        FileNotFoundError, ValueError: as `load_model_folder`.
    """
    _require_files(folder, MODEL_FILES[:2])
    with _loading(folder):
        loaded: Any = HighMMTModel.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    for what in ("missing", "unexpected"):
        if names := sorted(info[f"{what}_keys"]):
            raise ValueError(
                f"{folder}: config.json and model.safetensors do not belong together; {what} weights: {names[0]} "
                f"({len(names)} in all)."
            )
    model.eval()
    return model


def _require_files(folder: Path, names: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such model folder.")
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no model folder: it has no {name}.")


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Whatever goes wrong with a folder's files as one error that names the folder."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{folder}: this model folder is broken and cannot be loaded ({reason}).") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
