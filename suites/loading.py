"""Raw rows of one task, from files, a saved folder or the Hub, by way of `datasets`."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .builders import build_rows, builder_files
from .lines import did_you_mean, one_line
from .splits import SPLITS, split_rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

PACKAGE = "package://"  # how a saved suite names the files that come with this package

_PACKAGE_FOLDER = Path(__file__).resolve().parent
_QUIET_BELOW_BYTES = 64 * 2**20  # no progress bars for what loads in a moment
_NOT_DATA = ("cache-", "tmp")  # what `datasets` leaves in a saved folder


class EmptySplitError(ValueError):
    """A split of a task has no rows.

    Args:
        split: train, validation or test.
        message: what is wrong, with suite, task and file.
    """

    def __init__(self, split: str, message: str) -> None:
        super().__init__(message)
        self.split = split


def resolve_path(path: str, base: Path | None) -> str:
    """A data path made absolute: `package://` names this package's files, relative ones start at `base`.

    URLs (`https://`, `hf://`) stay as they are. Without `base`, relative paths start at the working directory.
    """
    if path.startswith(PACKAGE):
        return str(_PACKAGE_FOLDER / path[len(PACKAGE) :])
    if "://" in path:
        return path
    local = Path(path).expanduser()
    return str(local if local.is_absolute() else (base or Path.cwd()).resolve() / local)


def portable_path(path: str) -> str:
    """A resolved path as a saved suite holds it: files of this package as `package://...`, others unchanged."""
    local = Path(path)
    if "://" not in path and local.is_relative_to(_PACKAGE_FOLDER):
        return PACKAGE + local.relative_to(_PACKAGE_FOLDER).as_posix()
    return path


def map_source_paths(source: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A copy of a task's source with `change` applied to each of its local paths."""
    changed = dict(source)
    files = source.get("data_files")
    if isinstance(files, str):
        changed["data_files"] = change(files)
    elif isinstance(files, Mapping):
        changed["data_files"] = {
            split: change(entry) if isinstance(entry, str) else [change(one) for one in entry]
            for split, entry in files.items()
        }
    elif files is not None:
        changed["data_files"] = [change(one) for one in files]
    for key in ("saved", "data_dir"):
        if key in source and (key == "saved" or _is_packaged(source)):
            changed[key] = change(source[key])
    if _is_folder(source.get("path")):
        changed["path"] = change(source["path"])
    return changed


def map_option_paths(modalities: Mapping[str, Any], change: Callable[[str], Any]) -> dict[str, Any]:
    """A copy of modalities with `change` applied to each path among their options: files of words, tokenizers."""
    changed = {name: dict(options) for name, options in modalities.items()}
    for options in changed.values():
        for key in ("vectors", "pretrained"):
            if isinstance(options.get(key), str) and (key == "vectors" or _is_folder(options[key])):
                options[key] = change(options[key])
    return changed


def _is_packaged(source: Mapping[str, Any]) -> bool:
    """Whether the source is read by a format's own reader (parquet, csv, ...), so that its paths are ours."""
    return "/" not in str(source.get("path", ""))


def _is_folder(path: object) -> bool:
    return isinstance(path, str) and (path.startswith((".", "/", "~", PACKAGE)))


def _data_files(source: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(split, key of the source, path) of every file that the source names itself; those of the Hub are left out."""
    files = source.get("data_files")
    if files is None or not _is_packaged(source):
        return []
    if not isinstance(files, Mapping):
        return [("train", "data_files", path) for path in ([files] if isinstance(files, str) else files)]
    return [
        (split, f"data_files.{split}", path)
        for split, entry in files.items()
        for path in ([entry] if isinstance(entry, str) else entry)
    ]


def _matches(path: str) -> list[Path]:
    """The local files that a path or pattern names, in alphabetical order; a file of that very name comes first."""
    if "://" in path:
        return []
    if Path(path).exists():
        return [Path(path)]
    return sorted(Path(match) for match in glob.glob(path, recursive=True)) if glob.has_magic(path) else []


def local_files(source: Mapping[str, Any], where: str) -> list[Path]:
    """Every local file a source reads, in a fixed order.

    Raises:
        FileNotFoundError: a file or folder that the source names is not there.
    """
    if "builder" in source:
        return _files_of_builder(source, where)
    found: list[Path] = []
    for _, key, path in _data_files(source):
        matches = _matches(path)
        if not matches and "://" not in path:
            raise FileNotFoundError(f"{where}: the data file {path} does not exist (source.{key}).")
        found += matches
    folders = [source[key] for key in ("saved", "data_dir") if key in source and "://" not in str(source[key])]
    if "data_dir" in source and not _is_packaged(source):
        folders.remove(source["data_dir"])
    if _is_folder(source.get("path")):
        folders.append(source["path"])
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"{where}: the data folder {folder} does not exist.")
        found += sorted(
            file for file in folder.rglob("*") if file.is_file() and not file.name.startswith((*_NOT_DATA, "."))
        )
    return found


def row_folders(source: Mapping[str, Any], splits: Mapping[str, Any]) -> dict[str, list[Path]]:
    """For each of our splits the folders that its data files lie in, where relative paths of its rows start.

    Args:
        source: as for `load_splits`.
        splits: for each of our splits the name of the source's split, or a fraction of the training split.
    """
    for key in ("saved", "data_dir"):
        if key in source and (key == "saved" or _is_packaged(source)):
            return {split: [Path(source[key])] for split in SPLITS}
    if _is_folder(source.get("path")):
        return {split: [Path(source["path"])] for split in SPLITS}
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        name = splits[split] if isinstance(splits[split], str) else splits["train"]
        files = [
            file for split_of_file, _, path in _data_files(source) if split_of_file == name for file in _matches(path)
        ]
        found[split] = list(dict.fromkeys(file.parent for file in files))
    return found


def split_files(source: Mapping[str, Any], splits: Mapping[str, Any], split: str, row: int | None) -> list[Path]:
    """The local files that the rows of one of our splits are in; the one alone that holds a row, where it is known.

    Args:
        source, splits: as for `load_splits`.
        split: one of ours.
        row: its number in the split; None for all files.
    """
    if "builder" in source or "://" in str(source.get("path", "")):
        return []
    if "saved" in source or "data_dir" in source or _is_folder(source.get("path")):
        return [Path(source["saved"] if "saved" in source else source.get("data_dir", source["path"]))]
    whole = isinstance(splits[split], str)
    name = splits[split] if whole else splits["train"]
    files = [file for owner, _, path in _data_files(source) if owner == name for file in _matches(path)]
    if row is None or not whole or source.get("path") != "parquet":
        return files
    import pyarrow.parquet

    if any(not isinstance(splits[other], str) for other in SPLITS) and split == "train":
        return files  # some of its rows went to other splits
    for file in files:
        row -= pyarrow.parquet.read_metadata(file).num_rows
        if row < 0:
            return [file]
    return files


def _files_of_builder(source: Mapping[str, Any], where: str) -> list[Path]:
    if "data_dir" not in source:
        raise ValueError(
            f"{where}: the builder {source['builder']!r} reads files of yours; say where they are with --data-dir, "
            "load_suite(..., data_dir=...) or data_dir in the source."
        )
    if not Path(source["data_dir"]).is_dir():
        raise FileNotFoundError(f"{where}: the data folder {source['data_dir']} does not exist.")
    try:
        return builder_files(source["builder"], Path(source["data_dir"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error


def content_hashes(source: Mapping[str, Any], where: str) -> list[list[Any]]:
    """`[name, size, sha256]` of each local file of a source, in a fixed order."""
    return [[file.name, file.stat().st_size, file_sha256(file)] for file in local_files(source, where)]


def file_sha256(file: Path) -> str:
    """SHA-256 (hex) of a file; read once by a process, as long as size and time of change stay."""
    state = file.stat()
    return _sha256_of_file(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=10_000)
def _sha256_of_file(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(content: object) -> str:
    """SHA-256 (hex) of plain data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def parquet_columns(source: Mapping[str, Any], splits: Mapping[str, Any], where: str) -> dict[Path, list[str]]:
    """Columns of each local Parquet file of the splits in use, from the ends of the files.

    `datasets` fills a column that only some of the files have with None, so that must be looked at before.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not Parquet, or has no rows; the message names it.
    """
    local_files(source, where)
    if source.get("path") != "parquet":
        return {}
    import pyarrow.parquet

    columns = {}
    used = {splits[split]: split for split in SPLITS}
    files = [(used[split], file) for split, _, path in _data_files(source) if split in used for file in _matches(path)]
    for split, file in files:
        try:
            metadata = pyarrow.parquet.read_metadata(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: the data file {file} cannot be read: {one_line(error)}") from error
        if not metadata.num_rows:
            raise EmptySplitError(split, f"{where}: the {split} split has no rows in {file}.")
        columns[file] = metadata.schema.to_arrow_schema().names
    return columns


def load_splits(source: Mapping[str, Any], splits: Mapping[str, Any], where: str) -> DatasetDict:
    """The rows of one task as a `DatasetDict` with the splits train, validation and test.

    Args:
        source: what `datasets.load_dataset` takes, `{"saved": folder}` or `{"builder": name, "data_dir": folder}`;
            paths are absolute.
        splits: for each of our splits the name of the source's split, or a fraction of the training split.
        where: start of every error, it names suite and task.

    Raises:
        FileNotFoundError: a data file, folder or Hub dataset is not there.
        ValueError: data that cannot be read, a split that is not there, or one without rows.
    """
    import datasets

    return datasets.DatasetDict(_three_splits(read_source(source, where, splits), splits, where))


def read_source(
    source: Mapping[str, Any], where: str, splits: Mapping[str, Any] = MappingProxyType({})
) -> DatasetDict:
    """All rows of a source, in the splits it has itself; one without splits is all train.

    Args:
        source: as for `load_splits`.
        where: start of every error.
        splits: what the source's splits are wanted for, for errors.

    Raises:
        FileNotFoundError: a data file, folder or Hub dataset is not there.
        ValueError: data that cannot be read.
    """
    import datasets

    files = local_files(source, where)
    if "saved" not in source:
        for file in files:
            if file.stat().st_size == 0:
                raise ValueError(f"{where}: the data file {file} cannot be read: it is empty.")
    small = bool(files) and sum(file.stat().st_size for file in files) < _QUIET_BELOW_BYTES
    with without_progress_bars() if small else contextlib.nullcontext():
        loaded = _load(source, files, splits, where)
    if isinstance(loaded, datasets.Dataset):
        loaded = datasets.DatasetDict({"train": loaded})
    if not isinstance(loaded, datasets.DatasetDict):
        raise ValueError(f"{where}: the source gives no table of rows but {type(loaded).__name__}.")
    return loaded


def _load(source: Mapping[str, Any], files: list[Path], splits: Mapping[str, Any], where: str) -> Any:
    """What `datasets` makes of the source, its errors turned into one line that names the file."""
    import datasets

    # `datasets` takes every path for a pattern; one that names a file is meant as it stands.
    literal = map_source_paths(source, lambda path: glob.escape(path) if Path(path).is_file() else path)
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is raised below, once
    if "builder" in source:
        try:
            return build_rows(source, where)
        finally:
            datasets.logging.set_verbosity(verbosity)
    try:
        if "saved" in source:
            return datasets.load_from_disk(source["saved"])
        return datasets.load_dataset(**literal)
    except (datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DataFilesNotFoundError) as error:
        raise FileNotFoundError(f"{where}: {_reason(error)}") from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError, KeyError) as error:
        if empty := re.search(r'Instruction "([^"]+)" corresponds to no data', str(error)):
            split = next((split for split in SPLITS if splits.get(split) == empty[1]), empty[1])
            message = f"{where}: the {split} split (split {empty[1]!r} of the source) has no rows."
            raise EmptySplitError(split, message) from error
        broken = _unreadable_file(source, files)
        if broken is not None:
            raise ValueError(f"{where}: the data file {broken[0]} cannot be read: {broken[1]}") from error
        named = f" from {', '.join(str(file) for file in files[:4])}" if files else ""
        hint = " Take builder: sound_folder, which reads such folders." if source.get("path") == "audiofolder" else ""
        raise ValueError(f"{where}: the data cannot be loaded{named}: {_reason(error)}{hint}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def _reason(error: BaseException) -> str:
    """The message of the first cause: `datasets` wraps what went wrong in words that do not say it."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    message = one_line(error) or type(error).__name__
    return f"{type(error).__name__}: {message}" if isinstance(error, KeyError) else message


def _unreadable_file(source: Mapping[str, Any], files: list[Path]) -> tuple[Path, str] | None:
    """The first local Parquet file that cannot be read, with the reason; None where all can be."""
    import pyarrow.parquet

    for file in files if source.get("path") == "parquet" else []:
        try:
            pyarrow.parquet.read_table(file)
        except (OSError, ValueError) as error:
            return file, one_line(error)
    return None


def _three_splits(loaded: DatasetDict, splits: Mapping[str, Any], where: str) -> dict[str, Dataset]:
    named = {split: splits[split] for split in SPLITS if isinstance(splits[split], str)}
    for split, name in named.items():
        if name not in loaded:
            raise ValueError(
                f"{where}: the source has no split {name!r} (needed for {split}); it has {', '.join(loaded)}. Set "
                f"splits: {{{split}: <one of them>}}" + ("." if split == "train" else " or a fraction such as 0.2.")
            )
    rows = {split: loaded[name] for split, name in named.items()}
    fractions = {split: splits[split] for split in SPLITS if split not in named}
    if fractions:
        whole, groups = rows["train"], None
        if (column := splits.get("group_by")) is not None:
            check_column(whole.column_names, column, "the train split", f"{where}.splits.group_by")
            groups = list(whole[column])
            if None in groups:
                raise ValueError(f"{where}: row {groups.index(None)} has no value in the group_by column {column!r}.")
            if isinstance(groups[0] if groups else 0, (list, dict)):
                raise ValueError(f"{where}: the group_by column {column!r} must hold text or numbers, not lists.")
        for split, indices in split_rows(len(whole), fractions, splits.get("seed", 0), groups).items():
            rows[split] = whole.select(indices)
    for split in SPLITS:
        if not len(rows[split]):
            source_name = f" (split {named[split]!r} of the source)" if split in named else " (too few rows to divide)"
            raise EmptySplitError(split, f"{where}: the {split} split{source_name} has no rows.")
    return {split: rows[split] for split in SPLITS}


def check_column(columns: list[str], wanted: str, what: str, where: str) -> None:
    """Refuse a column that the data lacks.

    Args:
        columns: the columns that the data has.
        wanted: the one that must be among them.
        what: what the data is called in the error, such as `"the train split"`.
        where: start of the error.

    Raises:
        ValueError: with the columns that exist.
    """
    if wanted not in columns:
        raise ValueError(f"{where}: {what} has no column {wanted!r}{did_you_mean(wanted, columns, 'Columns')}")


def without_decoding(rows: DatasetDict) -> DatasetDict:
    """The rows with sounds and films as `{"bytes", "path"}`: `datasets` would decode them with torchcodec."""
    import datasets

    for split, part in rows.items():
        for column, feature in part.features.items():
            if isinstance(feature, (datasets.Audio, datasets.Video)) and feature.decode:
                rows[split] = rows[split].cast_column(column, type(feature)(decode=False))
    return rows


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Nothing of `datasets` shows its progress within."""
    import datasets

    # A set environment variable has priority, and `datasets` warns when it is told otherwise.
    if datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


__all__ = [
    "PACKAGE",
    "EmptySplitError",
    "check_column",
    "content_hashes",
    "file_sha256",
    "load_splits",
    "local_files",
    "map_option_paths",
    "map_source_paths",
    "parquet_columns",
    "portable_path",
    "read_source",
    "resolve_path",
    "row_folders",
    "sha256_of",
    "split_files",
    "without_decoding",
    "without_progress_bars",
]
