"""Paths of files within rows: a relative one starts at the folder of the data file that holds the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processing.arrow import is_list, plain_array
from ..processing.kinds import option_names
from .loading import without_progress_bars

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def path_columns(
    modalities: Mapping[str, Mapping[str, Any]], entries: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Columns of a task that may name files, with the `folder` that their modality puts before relative paths.

    Args:
        modalities: name to its `kind` and options.
        entries: the task's modalities, each with its `column` and options.

    Raises:
        ValueError: two modalities read one column with different folders.
    """
    found: dict[str, str] = {}
    for name, entry in entries.items():
        if "folder" not in option_names(modalities[name]["kind"]):
            continue
        column, folder = entry["column"], {**modalities[name], **entry}.get("folder") or ""
        if found.setdefault(column, folder) != folder:
            raise ValueError(f"the column {column!r} is read with the folders {found[column]!r} and {folder!r}.")
    return found


def with_whole_paths(rows: Dataset, columns: Mapping[str, str], folders: Sequence[Path], where: str) -> Dataset:
    """The rows, with relative paths of files made absolute.

    Texts, lists of texts, and structures of `bytes` and `path` without bytes are paths; URLs stay as they are.

    Args:
        rows: rows of a task.
        columns: which columns may name files, with the folder below the data file's that they start at.
        folders: where the data files are; none, for data of the Hub, leaves the paths as they are.
        where: start of every error.

    Raises:
        ValueError: a relative path while the data files lie in several folders.
    """
    for column, below in columns.items():
        if not folders or column not in rows.column_names or not _any_relative(rows, column):
            continue
        if len(folders) > 1:
            listed = ", ".join(map(str, folders[:3]))
            raise ValueError(
                f"{where}: the column {column!r} holds relative paths, which start at the data file, and the data "
                f"files lie in several folders ({listed}); give whole paths, or files of one folder."
            )
        whole = partial(_with_whole_paths, column=column, start=str(folders[0] / below))
        with without_progress_bars():
            rows = rows.with_format("arrow").map(whole, batched=True, features=rows.features).with_format(None)
    return rows


def _with_whole_paths(table: pa.Table, column: str, start: str) -> pa.Table:
    import pyarrow as pa

    array = plain_array(table[column])
    values = _changed(array.to_pylist(), lambda path: str(Path(start) / path) if _is_relative(path) else path)
    return table.set_column(table.column_names.index(column), column, pa.array(values, array.type))


def _is_relative(path: str) -> bool:
    return "://" not in path and not Path(path).is_absolute()


def _any_relative(rows: Dataset, column: str) -> bool:
    """Whether a column holds a relative path; looked at some rows at a time, as files may lie in it."""
    parts = rows.select_columns([column]).with_format("arrow").iter(batch_size=1000)
    return any(_is_relative(path) for part in parts for path in _paths(plain_array(part[column])))


def _paths(array: pa.Array) -> list[str]:
    """Every path in an Arrow array of any type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    while is_list(array.type):
        array = plain_array(array.flatten())
    if pa.types.is_struct(array.type) and array.type.get_field_index("path") >= 0:
        if array.type.get_field_index("bytes") >= 0:
            array = array.filter(pc.is_null(pc.struct_field(array, "bytes")))
        array = pc.struct_field(array, "path")
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return []
    return [path for path in array.to_pylist() if path is not None]


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every path in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return {**value, "path": change(value["path"])}
    return value


__all__ = ["path_columns", "with_whole_paths"]
