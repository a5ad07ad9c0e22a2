"""A suite: named tasks over datasets, with what each is read from, judged by and compared with."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..configuration.files import write_text
from .lines import Document, did_you_mean, read_yaml
from .loading import (
    check_column,
    content_hashes,
    file_sha256,
    load_splits,
    map_option_paths,
    map_source_paths,
    parquet_columns,
    portable_path,
    resolve_path,
    row_folders,
    sha256_of,
    split_files,
    without_decoding,
)
from .splits import SPLITS

if TYPE_CHECKING:
    from datasets import DatasetDict

    from ..processing.processing_highmmt import HighMMTProcessor

_FOLDER = Path(__file__).resolve().parent
_WORDS = ("area", "description", "licence", "citation", "reference")  # for readers: no number depends on them


@dataclass(frozen=True)
class TaskSpec:
    """One task of a suite, checked and with its defaults filled in.

    Args:
        source: what `datasets.load_dataset` takes, `{"saved": folder}`, or `{"builder": name}` with its options; local
            paths are absolute.
        modalities: modality to its options in this task, at least `{"column": name}` or, for tables and graphs,
            `{"columns": names}`; the order is the model's order.
        target: `problem_type`, `column` (a retrieval may have none) and, where given, `classes` (in the order of their
            numbers) or `names`, `num_steps`, `projection_dim`.
        splits: for train, validation and test the name of a split of the source or a fraction of train; with
            fractions also `seed` and, where given, `group_by`.
        metric: `accuracy`, `macro_f1`, `auroc`, `r2`, `rmse`, `mse`, `mae`, `recall_at_1`, `recall_at_5` or
            `recall_at_10`.
        batch_size: samples of this task in one optimizer step.
        loss_weight: factor of this task's loss in the summed loss.
        evaluation_weight: factor of this task's metric where checkpoints are compared.
        reference: a score of others on the test split to compare with, `{"value", "source"}`, or None.
        area, description, licence, citation: words about the data.
    """

    source: dict[str, Any]
    modalities: dict[str, dict[str, Any]]
    target: dict[str, Any]
    splits: dict[str, Any] = field(default_factory=lambda: {split: split for split in SPLITS})
    metric: str = "accuracy"
    batch_size: int = 32
    loss_weight: float = 1.0
    evaluation_weight: float = 1.0
    reference: dict[str, Any] | None = None
    area: str = ""
    description: str = ""
    licence: str = ""
    citation: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The task as a suite file holds it; files of this package are named `package://...`."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["source"] = map_source_paths(self.source, portable_path)
        return _copied({key: value for key, value in values.items() if value not in (None, "")})


@dataclass(frozen=True)
class Suite:
    """Named tasks over datasets; `load_suite` makes one from a file.

    Args:
        name: name of the suite.
        modalities: modality to its `kind` and the options of all tasks that have it.
        tasks: name to `TaskSpec`, in the order of the file.
        description: one sentence about the suite.
        model: sizes of the model, settings of `HighMMTConfig`; its defaults hold for the rest.
        training: settings of the recipes, such as `num_pretraining_epochs` and `learning_rate`.
        heterogeneity: settings of the measurement, such as `share` and `num_seeds`.
        path: the file it was read from, None where it was made from a dict.
    """

    name: str
    modalities: dict[str, dict[str, Any]]
    tasks: dict[str, TaskSpec]
    description: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    heterogeneity: dict[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    document: Document | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: str | Path | None = None) -> Suite:
        """The suite in plain data, the form of a suite file.

        Args:
            values: content of a suite file.
            base: folder that relative data paths start at; the working directory if None.

        Raises:
            ValueError: a key or value that is not part of a suite; the message names it.
        """
        name = values.get("name", "without a name") if isinstance(values, Mapping) else "without a name"
        document = Document(dict(values), f"Suite {name!r}")
        return cls._from_document(document, Path(base) if base is not None else Path.cwd(), None)

    @classmethod
    def _from_document(cls, document: Document, base: Path, path: Path | None) -> Suite:
        # Only here, because it loads the serializers, and with them torch: `available_suites` answers at once.
        from .schema import check_suite

        checked = _copied(check_suite(document))
        tasks = {}

        def resolved(data_path: str) -> str:
            return resolve_path(data_path, base)

        checked["modalities"] = map_option_paths(checked["modalities"], resolved)
        for name, task in checked["tasks"].items():
            task["source"] = map_source_paths(task["source"], resolved)
            task["modalities"] = map_option_paths(task["modalities"], resolved)
            tasks[name] = TaskSpec(**task)
        return cls(**{**checked, "tasks": tasks}, path=path, document=document)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that results can depend on: content of the suite, size and hash of local data files.

        The same for a copy of suite and data in another folder, and after a change of a description, a licence, an
        area, a citation or a reference score. Data of the Hub counts by its name and revision.

        Raises:
            FileNotFoundError: a data file is not there.
        """
        content = self.to_dict()
        del content["description"]
        content["modalities"] = map_option_paths(self.modalities, self._named)
        for name, task in self.tasks.items():
            entry = {key: value for key, value in content["tasks"][name].items() if key not in _WORDS}
            entry["source"] = map_source_paths(task.source, lambda path: path if "://" in path else Path(path).name)
            if "builder" in task.source:
                entry["source"].pop("data_dir", None)
            entry["modalities"] = map_option_paths(task.modalities, self._named)
            entry["files"] = content_hashes(task.source, self._where(name))
            entry["modality_order"] = list(task.modalities)
            content["tasks"][name] = entry
        content["order"] = [list(self.modalities), list(self.tasks)]
        return sha256_of(content)

    def modality_task_pairs(self) -> list[str]:
        """Nodes of the unimodal matrix, `"task/modality"`, in the order of the tasks and their modalities."""
        return [f"{name}/{modality}" for name, task in self.tasks.items() for modality in task.modalities]

    def interactions(self) -> list[str]:
        """Nodes of the interaction matrix, `"task/a+b"`, one for each unordered pair of modalities of a task.

        A retrieval has none: its modalities are compared, not fused.
        """
        return [
            f"{name}/{first}+{second}"
            for name, task in self.tasks.items()
            if task.target["problem_type"] != "retrieval"
            for position, first in enumerate(task.modalities)
            for second in list(task.modalities)[position + 1 :]
        ]

    def task(self, name: str) -> TaskSpec:
        """The task of that name.

        Raises:
            ValueError: there is none; the message lists the tasks.
        """
        if name not in self.tasks:
            raise ValueError(f"Suite {self.name!r} has no task {name!r}{did_you_mean(name, self.tasks, 'Tasks')}")
        return self.tasks[name]

    def select(self, tasks: Iterable[str]) -> Suite:
        """The suite with these tasks only, in the order given, and the modalities they have.

        Raises:
            ValueError: an unknown task, one named twice, or none at all.
        """
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        if not names:
            raise ValueError(f"Suite {self.name!r}: select at least one task of {', '.join(self.tasks)}.")
        if len(set(names)) < len(names):
            raise ValueError(f"Suite {self.name!r}: a task is selected twice in {', '.join(map(str, names))}.")
        chosen = {name: self.task(name) for name in names}
        used = {modality for task in chosen.values() for modality in task.modalities}
        modalities = {name: options for name, options in self.modalities.items() if name in used}
        return dataclasses.replace(self, modalities=modalities, tasks=chosen)

    def with_data_dir(self, data_dir: str | Path) -> Suite:
        """The suite with a folder for those of its tasks that read files of yours and name no folder themselves.

        Args:
            data_dir: folder with the data sets, as `highmmt suite prepare` lists them.

        Raises:
            ValueError: no task needs one.
        """
        folder = str(Path(data_dir).expanduser().resolve())
        tasks = {
            name: dataclasses.replace(task, source={**task.source, "data_dir": folder})
            for name, task in self.tasks.items()
            if "builder" in task.source and "data_dir" not in task.source
        }
        if not tasks:
            raise ValueError(f"Suite {self.name!r}: no task reads from a data folder that is still to be named.")
        return dataclasses.replace(self, tasks={**self.tasks, **tasks})

    def faithful_to_public_code(self) -> Suite:
        """The suite with the quirks of the authors' public code in all tasks whose builder knows some.

        Raises:
            ValueError: no task has such a builder.
        """
        from .builders import builder_options

        option = "faithful_to_public_code"
        tasks = {
            name: dataclasses.replace(task, source={**task.source, option: True})
            for name, task in self.tasks.items()
            if "builder" in task.source and option in builder_options(task.source["builder"])
        }
        if not tasks:
            raise ValueError(f"Suite {self.name!r}: no task reads data with a quirk of the authors' public code.")
        return dataclasses.replace(self, tasks={**self.tasks, **tasks})

    def load(self, task: str) -> DatasetDict:
        """The raw rows of a task: a `DatasetDict` with the splits train, validation and test.

        All columns of the data are there, those that no modality reads as well. Sounds and films are files, which
        `datasets` does not decode. Paths of files within the rows are absolute; relative ones start at the data file
        that holds them, or below it at the modality's `folder`. Data files are read through the cache of `datasets`
        (`HF_DATASETS_CACHE`); local data needs no network.

        Raises:
            FileNotFoundError: a data file is not there.
            EmptySplitError: a split has no rows; it is a `ValueError`, too.
            ValueError: an unknown task, data that cannot be read, a column that is not in the data, or relative paths
                in rows of several folders.
        """
        from .row_paths import path_columns, with_whole_paths

        spec = self.task(task)
        for file, names in parquet_columns(spec.source, spec.splits, self._where(task)).items():
            self._check_columns(task, names, f"the file {file}")
        rows = without_decoding(load_splits(spec.source, spec.splits, self._where(task)))
        for split in SPLITS:
            self._check_columns(task, rows[split].column_names, f"the {split} split")
        try:
            columns = path_columns(self.modalities, spec.modalities)
        except ValueError as error:
            raise ValueError(f"{self._where(task, 'modalities')}: {error}") from error
        for split, folders in row_folders(spec.source, spec.splits).items():
            rows[split] = with_whole_paths(rows[split], columns, folders, self._where(task))
        return rows

    def build_processor(self, skip_bad_rows: int = 0) -> HighMMTProcessor:
        """A processor for all tasks of the suite, fitted on each task's training rows.

        Args:
            skip_bad_rows: how many training rows of all tasks together may be left out because they cannot be read.

        Raises:
            FileNotFoundError: a data file is not there.
            ValueError: an option that the modality's kind does not have, or rows it cannot read; the message names
                task, row and data file.
        """
        from ..processing.processing_highmmt import HighMMTProcessor

        processor = HighMMTProcessor(
            modalities=_copied(self.modalities),
            tasks={
                name: {"modalities": _copied(task.modalities), "target": _copied(task.target)}
                for name, task in self.tasks.items()
            },
        )
        rows = {name: self.load(name)["train"] for name in self.tasks}
        texts = {name for name, kind in self.modalities.items() if kind["kind"] == "text"}
        if texts:
            processor.fit_tokenizer(
                {name: rows[name] for name, task in self.tasks.items() if texts & set(task.modalities)}
            )
        bad: dict[str, dict[int, str]] = {}
        for name in self.tasks:
            left = skip_bad_rows - sum(map(len, bad.values()))
            with self.naming_files(name, "train"):
                bad[name] = processor.fit(name, rows[name], left)
        with_text = [name for name, task in self.tasks.items() if texts & set(task.modalities)]
        if any(bad[name] for name in with_text):
            # The words of rows that are left out are not to be known either.
            kept = {name: [row for row in range(len(rows[name])) if row not in bad[name]] for name in with_text}
            processor.fit_tokenizer({name: rows[name].select(numbers) for name, numbers in kept.items()})
            for name in with_text:
                processor.fit(name, rows[name], len(bad[name]))
        return processor

    def data_files(self, task: str, split: str, row: int | None = None) -> list[str]:
        """The local files that the rows of a split are in; the one alone that holds a row, where that is known."""
        spec = self.task(task)
        return [str(file) for file in split_files(spec.source, spec.splits, split, row)]

    def with_file(self, reason: str, task: str, split: str, row: int) -> str:
        """What is wrong with a row, and which data file it is in."""
        files = self.data_files(task, split, row)
        return f"{reason.rstrip('.')}. The row is in {', '.join(files[:3])}." if files else reason

    @contextlib.contextmanager
    def naming_files(self, task: str, split: str) -> Iterator[None]:
        """Errors about a row within this block also name the data file that the row is in."""
        from ..processing.rows import RowError

        try:
            yield
        except RowError as error:
            named = RowError(self.with_file(str(error), task, split, error.row))
            named.row = error.row
            raise named from error

    def to_dict(self) -> dict[str, Any]:
        """The suite as plain data that loads again from any folder; `Suite.from_dict(suite.to_dict()) == suite`.

        Data paths are absolute, except for files that come with this package: `package://starter/...`.
        """
        return {
            "name": self.name,
            "description": self.description,
            "model": _copied(self.model),
            "training": _copied(self.training),
            # Left out where it says nothing, so that suites without it keep their fingerprints.
            **({"heterogeneity": _copied(self.heterogeneity)} if self.heterogeneity else {}),
            "modalities": _copied(self.modalities),
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
        }

    def save(self, path: str | Path) -> Path:
        """Write the suite as YAML, whole or not at all; `load_suite(path)` gives an equal suite.

        Returns:
            The path of the file.
        """
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=119)
        return write_text(Path(path), text)

    def _named(self, path: str) -> list[str]:
        """A file or folder that an option names, by its name and, of a file, its hash."""
        if not Path(path).exists():
            raise FileNotFoundError(f"Suite {self.name!r}, modalities: the file {path} does not exist.")
        return [Path(path).name, *([file_sha256(Path(path))] if Path(path).is_file() else [])]

    def _where(self, task: str, *keys: str) -> str:
        path = ("tasks", task, *keys)
        return self.document.where(path) if self.document else f"Suite {self.name!r}, {'.'.join(path)}"

    def _check_columns(self, task: str, columns: list[str], what: str) -> None:
        spec = self.tasks[task]
        wanted: list[tuple[tuple[str, ...], str]] = []
        if "column" in spec.target:
            wanted.append((("target",), spec.target["column"]))
        for modality, options in spec.modalities.items():
            read = options.get("columns") or [options["column"]]
            wanted += [(("modalities", modality), column) for column in read]
        for keys, column in wanted:
            check_column(columns, column, what, self._where(task, *keys))


def available_suites() -> list[str]:
    """Names of the suites that come with this package, the ones `load_suite` takes without a path."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_suite(name_or_path: str | Path, data_dir: str | Path | None = None) -> Suite:
    """The suite of that name, or the one in a YAML file or in a folder that holds `suite.yaml`.

    A name of `available_suites()` comes first; write `./starter` for a folder of that name.

    Args:
        name_or_path: the name or the path.
        data_dir: folder with data that the suite does not carry, see `Suite.with_data_dir`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such suite (the message lists them), a file that is no suite (with file, line and key), or a
            `data_dir` that no task needs.
    """
    name = os.fspath(name_or_path)
    if name in available_suites():
        path = _FOLDER / f"{name}.yaml"
    else:
        path = Path(name).expanduser()
        if path.is_dir() and (path / "suite.yaml").is_file():
            path = path / "suite.yaml"
        elif path.is_dir():
            raise FileNotFoundError(f"{path}: a folder without suite.yaml. Name the YAML file of the suite.")
        elif not path.exists():
            if path.suffix in (".yaml", ".yml") or path.parent != Path():
                known = ", ".join(available_suites())
                raise FileNotFoundError(f"{path}: no such file. Suites of this package: {known}.")
            hint = did_you_mean(name, available_suites(), "Suites of this package")
            raise ValueError(f"There is no suite {name!r}{hint} Or give the path of a YAML file.")
    path = path.resolve()
    suite = Suite._from_document(read_yaml(path), path.parent, path)
    return suite if data_dir is None else suite.with_data_dir(data_dir)


def _copied(value: Any) -> Any:
    """A deep copy of plain data; YAML aliases would otherwise make two tasks share one dict."""
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, (list, tuple)) else value


__all__ = ["Suite", "TaskSpec", "available_suites", "load_suite"]
