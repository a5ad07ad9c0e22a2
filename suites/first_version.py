"""The first version of a suite file, from the columns that data turns out to have."""

from __future__ import annotations

import json
import math
import re
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..processing.arrow import is_list, plain_array
from ..processing.processing_highmmt import RESERVED_NAMES
from .lines import did_you_mean
from .loading import read_source, row_folders
from .row_paths import with_whole_paths
from .schema import DEFAULT_METRIC
from .splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_SOUND_FILES = (".wav", ".flac", ".ogg", ".mp3")
_TARGETS = ("label", "labels", "target", "class", "outcome", "y", "diagnosis", "category")
_GROUPS = re.compile(r"(subject|patient|person|speaker|user|participant|hospital|site|session|group)(_?id)?")
_ID = re.compile(r"(.*_)?(id|index|row|number|nr)")
_SOUNDS = (b"RIFF", b"fLaC", b"OggS", b"ID3")
_RATE, _SECONDS_PER_FRAME, _FRAMES = 16_000, 0.01, 1000  # of sounds: the defaults of their kind, and ten seconds
_LOOKED_AT = 1000  # rows
_MAX_CLASSES = 100
_SHARE = 0.15  # of the rows that go to a split which the data does not have
_LONG_TEXT = 3  # words; where all are shorter, texts are names of something


@dataclass
class _Column:
    """What a column is taken for.

    Args:
        kind: kind of a modality, `"number"` for a column of a table, `"class"` for few different texts, or empty.
        options: of the modality.
        why: in words.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    why: str = ""


def first_version(source: str | Path, output: Path, target: str | None = None) -> str:
    """Text of a suite file of one task for some data, with a comment wherever something was guessed.

    Args:
        source: a Parquet, CSV or JSON file; a folder with one for each split, with pictures or sounds in a folder for
            each class, or of `save_to_disk`; or a data set of the Hub, `owner/name`.
        output: where the file shall be; paths in it start there.
        target: column to predict; None takes one that is called so, or the only one with classes.

    Raises:
        FileNotFoundError: there is no such data.
        ValueError: data that cannot be read, no column that can be the target, or none to predict it from.
    """
    described = _describe_source(source, output)
    absolute = _absolute(described, output.parent)
    rows = read_source(absolute, str(source))
    train_name = next((name for name in (*_SPLIT_NAMES["train"], *rows) if name in rows), "")
    train = rows[train_name]
    folders = row_folders(absolute, dict.fromkeys(SPLITS, train_name))["train"]
    train = with_whole_paths(train, dict.fromkeys(_columns_of_paths(train), ""), folders, str(source))
    columns = {name: _look_at(train, name) for name in train.column_names}
    chosen = _choose_target(train, columns, target)
    problem = _target(train, chosen)
    modalities, entries, unused = _modalities(columns, chosen)
    if not modalities:
        raise ValueError(
            f"{source}: no column to predict {chosen!r} from; found "
            f"{', '.join(f'{name} ({column.why})' for name, column in columns.items() if name != chosen) or 'none'}."
        )
    name = re.sub(r"[^A-Za-z0-9_-]", "_", output.stem.removesuffix("_suite")).lstrip("_-") or "mine"
    lines = [
        "# A first version, from the columns of the data. Look at it with: highmmt inspect " + output.name,
        "# All keys: docs/suites.md. What each kind of modality takes: docs/processing.md.",
        f"name: {_shown(name)}",
        'description: ""',
        "",
        "modalities:",
        *(f"  {modality}: {_mapping(options)}{_comment(why)}" for modality, (options, why) in modalities.items()),
        "",
        "tasks:",
        f"  {name}:",
        f"    source: {_mapping(described)}",
        *_split_lines(rows, train_name, columns, chosen),
        "    modalities:",
        *(f"      {modality}: {_mapping(entry)}" for modality, entry in entries.items()),
        f"    target: {_mapping({'column': chosen, **problem})}",
        f"    metric: {DEFAULT_METRIC[problem['problem_type']]}",
        "    batch_size: 32",
        *(f"    # not used: {column}, {why}" for column, why in unused.items()),
    ]
    return "\n".join(lines) + "\n"


def _describe_source(source: str | Path, output: Path) -> dict[str, Any]:
    """The `source` of the suite, with paths from the folder of its file on."""
    path = Path(source).expanduser()
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not path.suffix:
            return {"path": str(source)}
        raise FileNotFoundError(f"{source}: no such file or folder.")
    here = _relative(path, output.parent)
    if path.is_file():
        if path.suffix.lower() not in _FORMATS:
            raise ValueError(f"{source}: data can be in {', '.join(_FORMATS)}, or in a folder.")
        return {"path": _FORMATS[path.suffix.lower()], "data_files": here}
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return {"saved": here}
    for suffix, name in _FORMATS.items():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == suffix)
        splits = {
            split: f"{here}/{file.name}"
            for split, words in _SPLIT_NAMES.items()
            for file in files
            if any(re.search(rf"(^|[^a-z]){word}([^a-z]|$)", file.stem.lower()) for word in words)
        }
        if "train" in splits:
            return {"path": name, "data_files": splits}
        if files:
            return {"path": name, "data_files": f"{here}/*{suffix}"}
    endings = {file.suffix.lower() for file in path.rglob("*")}
    if endings & set(PICTURES):
        return {"path": "imagefolder", "data_dir": here}
    if endings & set(_SOUND_FILES):
        return {"builder": "sound_folder", "data_dir": here}
    raise ValueError(f"{source}: a folder without data; it can hold {', '.join(_FORMATS)}, pictures or sounds.")


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _absolute(source: dict[str, Any], folder: Path) -> dict[str, Any]:
    from .loading import map_source_paths, resolve_path

    return map_source_paths(source, lambda path: resolve_path(path, folder.resolve()))


def _look_at(rows: Dataset, name: str) -> _Column:
    """What a column is taken for, from its type and its first rows."""
    import datasets

    feature = rows.features[name]
    if isinstance(feature, datasets.ClassLabel):
        return _Column("class", why=f"{feature.num_classes} classes")
    # Of this column alone, so that no other is decoded; sounds and pictures as files.
    part = rows.select_columns([name]).select(range(min(len(rows), _LOOKED_AT)))
    if isinstance(feature, (datasets.Audio, datasets.Image)):
        part = part.cast_column(name, type(feature)(decode=False))
    values = [value for value in part[:][name] if value is not None]
    if not values:
        return _Column("", why="empty")
    if isinstance(values[0], str):
        return (
            _encoded([{"bytes": None, "path": value} for value in values]) if _name_files(values) else _texts(values)
        )
    if isinstance(values[0], (bool, int, float)):
        if _GROUPS.fullmatch(name.lower()) or (_ID.fullmatch(name.lower()) and len(set(values)) == len(values)):
            return _Column("", why="numbers that name rows or groups of them")
        return _Column("number", why="numbers")
    if isinstance(values[0], dict):
        return _graphs(values) if {"nodes", "edges"} <= set(values[0]) else _encoded(values)
    if isinstance(values[0], list) and values[0] and isinstance(values[0][0], (str, dict)):
        return _lists_of_files(values)
    return _arrays(values, "tab" in name.lower())


def _encoded(values: list[dict[str, Any]]) -> _Column:
    """Files within a column, or paths of files: pictures and sounds are modalities."""
    if any(set(value) != {"bytes", "path"} for value in values):
        return _Column("", why=f"structures of {', '.join(values[0])}")
    missing = [value["path"] for value in values if value["bytes"] is None and not Path(value["path"]).is_file()]
    if missing:
        return _Column("", why=f"paths of files that are not there, such as {missing[0]}")
    contents = [Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"] for value in values]
    if contents[0].startswith(_SOUNDS):
        return _sounds(contents)
    try:
        pictures = [Image.open(BytesIO(content)) for content in contents]
    except UnidentifiedImageError:
        return _Column("", why="files that are neither pictures nor sounds")
    frames = max(getattr(picture, "n_frames", 1) for picture in pictures)
    return _film(_pictures(pictures), frames) if frames > 1 else _pictures(pictures)


def _name_files(values: list[Any]) -> bool:
    """Whether all texts end like names of pictures or sounds."""
    return all(isinstance(value, str) and value.lower().endswith((*PICTURES, *_SOUND_FILES)) for value in values)


def _columns_of_paths(rows: Dataset) -> list[str]:
    """Columns whose first rows are names of files, or lists of them."""
    found = []
    for name in rows.column_names:
        first = rows.select_columns([name]).with_format("arrow")[:_LOOKED_AT][name].drop_null()
        while is_list(first.type):
            first = plain_array(first).flatten()
        values = first.to_pylist() if str(first.type) in ("string", "large_string") else []
        if values and _name_files(values):
            found.append(name)
    return found


def _lists_of_files(values: list[list[Any]]) -> _Column:
    """Films, where each row is a list of pictures."""
    flat = [item for value in values for item in value if item is not None]
    if not all(isinstance(item, dict) for item in flat):
        if not _name_files(flat):
            return _Column("", why="lists of texts")
        flat = [{"bytes": None, "path": item} for item in flat]
    column = _encoded(flat)
    if column.kind != "image":
        return _Column("", why=f"lists of {column.why or 'structures'}")
    return _film(column, max(map(len, values)))


def _film(picture: _Column, frames: int) -> _Column:
    """Films of such pictures."""
    return _Column("video", {**picture.options, "kind": "video"}, f"up to {frames} frames, {picture.why}")


def _graphs(values: list[dict[str, Any]]) -> _Column:
    nodes = max(len(value["nodes"] or []) for value in values)
    return _Column("graph", {"kind": "graph"}, f"graphs of up to {nodes} nodes")


def _sounds(contents: list[bytes]) -> _Column:
    """Log-mel spectrograms; of WAV files the rate and the longest are known."""
    rates, seconds = set(), [0.0]
    for content in contents:
        try:
            with wave.open(BytesIO(content)) as sound:
                rates.add(sound.getframerate())
                seconds.append(sound.getnframes() / sound.getframerate())
        except (wave.Error, EOFError):
            return _Column("audio", {"kind": "audio", **_positions(_FRAMES)}, "sounds")
    frames = math.ceil(max(seconds) / _SECONDS_PER_FRAME)
    options = {"kind": "audio", "sample_rate_hz": min(*rates, _RATE), "max_length": frames, **_positions(frames)}
    return _Column("audio", options, f"sounds of up to {max(seconds):.1f} s")


def _pictures(pictures: list[Any]) -> _Column:
    sizes = [(picture.height, picture.width) for picture in pictures]
    height, width = (int(np.median(size)) for size in zip(*sizes, strict=True))
    column = _image(height, width, len(pictures[0].getbands()))
    if len(set(sizes)) > 1:
        column.options["size"] = [height, width]
        column.why = f"pictures of several sizes, resized to {height} x {width}"
    return column


def _image(height: int, width: int, colors: int) -> _Column:
    # About seven patches across, as the paper has them.
    patch = max(1, round(min(height, width) / 7))
    options = {"kind": "image", "patch_size": patch, **_positions(math.ceil(max(height, width) / patch))}
    return _Column("image", options, f"{height} x {width}" + (f", {colors} colours" if colors > 1 else ""))


def _texts(values: list[str]) -> _Column:
    distinct = len(set(values))
    words = float(np.mean([len(value.split()) for value in values]))
    longest = max(len(value.split()) for value in values)
    if longest >= _LONG_TEXT and words > 1.5:
        return _Column("text", {"kind": "text", **_positions(longest)}, f"texts of up to {longest} words")
    if distinct <= min(_MAX_CLASSES, max(2, len(values) // 3)):
        return _Column("class", why=f"{distinct} different texts")
    return _Column("", why=f"{distinct} different short texts, such as names or ids")


def _arrays(values: list[Any], called_table: bool) -> _Column:
    shapes = []
    for value in values:
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            return _Column("", why="neither numbers nor texts")
        if array.size:
            shapes.append(array.shape)
    if not shapes or len({shape[1:] for shape in shapes}) > 1:
        return _Column("", why="lists of different shapes" if shapes else "empty lists")
    longest, regular = max(shape[0] for shape in shapes), len(set(shapes)) == 1
    shape = shapes[0]
    if len(shape) == 4 and shape[3] in (1, 3, 4):
        return _film(_image(*shape[1:]), longest)
    if len(shape) == 1 and regular:
        kind = "table" if called_table else "spectrum"
        return _Column(kind, {"kind": kind, **_positions(longest)}, f"{longest} numbers each")
    if len(shape) == 3 and regular and shape[2] in (1, 3, 4):
        return _image(*shape)
    if len(shape) == 3 and len({shape[1:] for shape in shapes}) == 1:
        column = _image(shape[1], shape[2], 1)
        column.options = {"kind": "image", "num_axes": 3, **column.options}
        column.why = f"up to {longest} pictures of {column.why}"
        return column
    if len(shape) == 2 and regular and min(shape) >= 12 and max(shape) <= 4 * min(shape):
        return _image(*shape, 1)
    if len(shape) <= 2:
        channels = f" x {shape[1]}" if len(shape) == 2 else ""
        return _Column(
            "time_series", {"kind": "time_series", **_positions(longest)}, f"up to {longest} steps{channels}"
        )
    return _Column("", why=f"{' x '.join(map(str, shape))} numbers")


def _positions(length: int) -> dict[str, int]:
    """Bands up to about the number of elements, so that neighbours can be told apart."""
    return {
        "num_frequency_bands": min(6, max(1, math.ceil(math.log2(max(length, 2))))),
        "max_frequency": max(length, 2),
    }


def _choose_target(rows: Dataset, columns: dict[str, _Column], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise ValueError(f"There is no column {wanted!r}{did_you_mean(wanted, columns, 'Columns')}")
        return wanted
    named = [name for word in _TARGETS for name in columns if name.lower() == word]
    classes = [
        name for name, column in columns.items() if column.kind == "class" and not _GROUPS.fullmatch(name.lower())
    ]
    if not named and len(classes) != 1:
        listed = ", ".join(f"{name} ({column.why})" for name, column in columns.items())
        raise ValueError(f"Which column is to be predicted? Name it with --target. Columns: {listed}.")
    return named[0] if named else classes[0]


def _target(rows: Dataset, name: str) -> dict[str, Any]:
    """Problem type of the target, and its classes where the data does not name them."""
    import datasets

    if isinstance(rows.features[name], datasets.ClassLabel):
        return {"problem_type": "single_label_classification"}
    values = [value for value in rows[name] if value is not None]
    if not values:
        raise ValueError(f"The column {name!r} is empty, so there is nothing to learn from.")
    if isinstance(values[0], str):
        distinct = sorted(set(values))
        if len(distinct) > _MAX_CLASSES:
            raise ValueError(
                f"The column {name!r} has {len(distinct)} different texts; at most {_MAX_CLASSES} are classes."
            )
        return {"problem_type": "single_label_classification", "classes": distinct}
    if isinstance(values[0], (bool, int)):
        distinct = sorted(set(map(int, values)))
        if distinct == list(range(len(distinct))) and 2 <= len(distinct) <= _MAX_CLASSES:
            return {"problem_type": "single_label_classification"}
        return {"problem_type": "regression"}
    if isinstance(values[0], float):
        return {"problem_type": "regression"}
    flat = np.concatenate([np.asarray(value, dtype=np.float64).reshape(-1) for value in values])
    zeros_and_ones = bool(np.isin(flat, (0, 1)).all()) and np.ndim(values[0]) == 1
    return {"problem_type": "multi_label_classification" if zeros_and_ones else "regression"}


def _modalities(
    columns: dict[str, _Column], target: str
) -> tuple[dict[str, tuple[dict[str, Any], str]], dict[str, dict[str, Any]], dict[str, str]]:
    """Modalities with options and a comment, the columns of each, and columns that are left out with the reason."""
    modalities: dict[str, tuple[dict[str, Any], str]] = {}
    entries: dict[str, dict[str, Any]] = {}
    unused: dict[str, str] = {}
    table: list[str] = []
    for name, column in columns.items():
        if name == target:
            continue
        if name == "edges" and "nodes" in columns and columns["nodes"].kind in ("time_series", "spectrum", "image"):
            continue  # taken with the nodes
        if name == "nodes" and column.kind in ("time_series", "spectrum", "image") and "edges" in columns:
            modality = _free_name("graph", modalities)
            modalities[modality] = ({"kind": "graph"}, f"nodes: {column.why}")
            entries[modality] = {"columns": ["nodes", "edges"]}
        elif column.kind == "number" or (column.kind == "class" and not _GROUPS.fullmatch(name.lower())):
            table.append(name)
        elif column.kind in ("", "class"):
            unused[name] = column.why
        else:
            modality = _free_name(re.sub(r"[^A-Za-z0-9_-]", "_", name).lstrip("_-") or column.kind, modalities)
            modalities[modality], entries[modality] = (column.options, column.why), {"column": name}
    if table:
        modality = _free_name("table", modalities)
        options = {"kind": "table", **_positions(len(table))}
        categories = sum(columns[name].kind == "class" for name in table)
        why = f"{len(table) - categories} columns of numbers, {categories} of categories"
        modalities[modality], entries[modality] = (options, why), {"columns": table}
    return modalities, entries, unused


def _free_name(name: str, taken: dict[str, Any]) -> str:
    while name in taken or name in RESERVED_NAMES:
        name += "_"
    return name


def _split_lines(rows: DatasetDict, train: str, columns: dict[str, _Column], target: str) -> list[str]:
    """The `splits` of the task: the data's own where it has them, fractions of train for the others."""
    splits: dict[str, Any] = {} if train == "train" else {"train": train}
    for split in ("validation", "test"):
        own = next((name for name in _SPLIT_NAMES[split] if name in rows), None)
        if own is None:
            splits[split] = _SHARE
        elif own != split:
            splits[split] = own
    if not any(isinstance(value, float) for value in splits.values()):
        return [f"    splits: {_mapping(splits)}"] if splits else []
    splits["seed"] = 0
    groups = [name for name in columns if name != target and _GROUPS.fullmatch(name.lower())]
    for name in groups:
        values = rows[train][name]
        if None not in values and len(set(values)) < len(values):
            return [f"    splits: {_mapping({**splits, 'group_by': name})} # rows of one {name} stay together"]
    return [f"    splits: {_mapping(splits)} # group_by: a column whose rows must stay together"]


def _mapping(values: dict[str, Any]) -> str:
    """A mapping in YAML's short form."""
    return "{" + ", ".join(f"{_shown(key)}: {_shown(value)}" for key, value in values.items()) + "}"


def _shown(value: Any) -> str:
    """A value in YAML; texts without quotes where they need none."""
    if isinstance(value, dict):
        return _mapping(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, str) and _PLAIN_TEXT(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


_PLAIN_TEXT: Callable[[str], Any] = re.compile(r"[A-Za-z_][\w./-]*( [\w./-]+)*").fullmatch
_NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf")


def _comment(text: str) -> str:
    return f" # {' '.join(text.split())}" if text else ""


__all__ = ["first_version"]
