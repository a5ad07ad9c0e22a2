"""`HighMMTProcessor`: raw samples of any task to what `HighMMTModel` takes, and predictions back."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.dynamic_module_utils import custom_object_save
from transformers.processing_utils import ProcessorMixin
from transformers.utils.hub import cached_file

from ..configuration.configuration_highmmt import TaskConfig
from ..configuration.files import write_text
from .collation import HighMMTBatch, pad_elements
from .descriptions import MODEL_OPTIONS, RESERVED_NAMES, check_one_tokenizer, read_modalities, read_task
from .plain_data import code_digest, plain_copy, readable_json
from .rows import Columns, Source
from .samples import arrange_samples, chosen_columns
from .sequences import TextSerializer
from .serializers import ElementShape, Serializer, Statistics
from .targets import Target, best_matches, name_matches
from .word_vectors import (
    VECTORS_FILE,
    WordVectors,
    WordVectorSerializer,
    load_word_vectors,
    named_files,
    save_word_vectors,
)

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

MAX_NUMBERS_PER_BATCH = 2**23


class HighMMTProcessor(ProcessorMixin):
    """Turns raw samples of several tasks into model inputs, with statistics of the training splits.

    Args:
        modalities: name to `{"kind": ..., options of the kind, "num_frequency_bands", "max_frequency", "ordered"}`.
        tasks: name to `{"modalities": {modality: {"column": str}}, "target": {"column", "problem_type", "classes",
            "names", "num_steps", "projection_dim"}}`. Beside `column` (or `columns`: for tables several raw columns of
            one value each, for graphs those of nodes and edges), a task may set options of the modality's kind for
            itself.
        statistics: what `fit` learned, `"task/modality"` and `"task/labels"` to plain data; None before.
        tokenizer: for all text modalities; None to train one with `fit_tokenizer`.
        word_vectors: `"task/modality"` to the words that `fit` kept, for modalities of the kind `word_vectors`.

    Raises:
        ValueError: an unknown kind, option, modality or field; the message names it and lists those that exist.
    """

    def __init__(
        self,
        modalities: dict[str, dict[str, Any]],
        tasks: dict[str, dict[str, Any]],
        statistics: dict[str, Statistics] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        word_vectors: dict[str, WordVectors] | None = None,
    ) -> None:
        self.chat_template = None
        self.word_vectors = dict(word_vectors or {})
        self.tokenizer = tokenizer
        self.modalities: dict[str, dict[str, Any]] = read_modalities(plain_copy("modalities", modalities))
        self.tasks: dict[str, dict[str, Any]] = plain_copy("tasks", tasks)
        self.statistics: dict[str, Statistics] = plain_copy("statistics", statistics or {})
        if tokenizer is not None:
            self.check_argument_for_proper_class("tokenizer", tokenizer)
        self._serializers: dict[tuple[str, str], Serializer] = {}
        self._targets: dict[str, Target] = {}
        for task, description in self.tasks.items():
            serializers, self._targets[task] = read_task(task, description, self.modalities)
            self._serializers.update({(task, modality): item for modality, item in serializers.items()})
        check_one_tokenizer(self._serializers)

    # Learning from the training splits

    def fit(self, task: str, dataset: datasets.Dataset, skip_bad_rows: int = 0) -> dict[int, str]:
        """Learn the statistics of a task's modalities and target from its raw training split.

        Needed once for every task. Where a text modality belongs to this task alone and there is no tokenizer yet,
        it is trained here; for texts of several tasks call `fit_tokenizer` first.

        Args:
            task: name of the task.
            dataset: its training split, and nothing of the others.
            skip_bad_rows: how many rows may be left out because they cannot be read or encoded.

        Returns:
            The rows that were left out, with the reason.

        Raises:
            ValueError: an unknown task, a missing column, or values that do not fit the modality's kind.
        """
        from .raw_splits import learn_split, require_columns

        self._require_task(task)
        require_columns(dataset, self._columns_with_target(task), task)
        if not len(dataset):
            raise ValueError(f"Task {task!r}: the training split is empty.")
        texts = [name for name in self._names(task) if isinstance(self._serializers[task, name], TextSerializer)]
        if texts and self.tokenizer is None:
            self.fit_tokenizer({task: dataset})
        for name in self._names(task):
            serializer = self._serializers[task, name]
            if isinstance(serializer, WordVectorSerializer):
                table = dataset.select_columns(self._raw_columns(task)).with_format("arrow")[:]
                texts = self._column(task, name, table)
                self.word_vectors[f"{task}/{name}"] = serializer.read_vectors(texts, self._source(task, name))
        return learn_split(self, task, dataset, skip_bad_rows)

    def fit_tokenizer(self, splits: Mapping[str, datasets.Dataset]) -> None:
        """Train (or load, with the option `pretrained`) the tokenizer that all text modalities share.

        It replaces any other.

        Args:
            splits: task to its raw training split, for every task with text (others are ignored).

        Raises:
            ValueError: no task has text, or a task with text is missing.
        """
        from .raw_splits import require_columns

        pairs = [pair for pair, serializer in self._serializers.items() if isinstance(serializer, TextSerializer)]
        if not pairs:
            raise ValueError("No task has a modality of kind 'text'; there is nothing to train a tokenizer on.")
        texts: list[str] = []
        for task, modality in pairs:
            if task not in splits:
                raise ValueError(
                    f"Task {task!r}: its text takes part in the tokenizer that all tasks share. Call fit_tokenizer "
                    f"with the training splits of {', '.join(dict.fromkeys(name for name, _ in pairs))}."
                )
            raw = list(dict.fromkeys(self._raw_columns(task)))
            require_columns(splits[task], raw, task)
            table = splits[task].select_columns(raw).with_format("arrow")[:]
            entries = TextSerializer.read(self._column(task, modality, table), self._source(task, modality))
            texts += [entry for entry in entries if entry is not None]
        self.tokenizer = self._text_serializer().make_tokenizer(texts)

    # Encoding

    def __call__(
        self,
        task: str,
        batch: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        label: Any = None,
        return_tensors: Literal["pt", "np"] = "pt",
        **samples: Any,
    ) -> HighMMTBatch:
        """One raw sample, or a list of them for each modality, as a batch for `model(**batch)`.

        Args:
            task: name of the task.
            batch: a row or a slice of a data set, or a list of rows, in place of the arguments for each modality; the
                target's column, where it is there, gives the labels, and other columns are left out.
            label: raw label of the sample, or list of labels; without it the batch has no labels.
            return_tensors: `"pt"` or `"np"`.
            samples: one argument for each of the task's modalities (or its raw column); None where it is absent.

        Returns:
            `{"inputs": {task: {modality: tensor}}, "attention_mask": {task: {modality: mask}}, "labels"}`; a mask is
            left out where every element is real.

        Raises:
            ValueError: a modality is not given, an argument is not one of the task's, or values do not fit.
        """
        self._require_fitted()
        self._require_task(task)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors={return_tensors!r} is not one of 'pt', 'np'.")
        target = self._targets[task]
        entries = self.tasks[task]["modalities"]
        if batch is not None:
            if samples:
                raise ValueError(f"Task {task!r}: give a batch or {next(iter(samples))!r}, not both.")
            samples = chosen_columns(task, batch, [*entries, *self._columns_with_target(task)])
        if label is None and target.column in samples and target.column not in (*entries, *self._raw_columns(task)):
            label = samples.pop(target.column)
        ndims = {name: self.serializer(task, name).sample_ndim(self._fitted(task, name)) for name in entries}
        object_ndims = {
            name: partial(self.serializer(task, name).object_ndim, self._fitted(task, name)) for name in entries
        }
        joins = {name: partial(self.serializer(task, name).join, self._fitted(task, name)) for name in entries}
        columns, single = arrange_samples(task, entries, ndims, object_ndims, joins, samples)
        inputs: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for modality, values in columns.items():
            source, statistics = self._source(task, modality), self._fitted(task, modality)
            elements = self.serializer(task, modality).encode(values, source, statistics)
            shape = self.shape(task, modality)
            inputs[modality], mask = pad_elements(elements, shape, self.serializer(task, modality).pad_id)
            if mask is not None:
                masks[modality] = mask
        data: dict[str, Any] = {"inputs": {task: inputs}, "attention_mask": {task: masks}}
        if label is not None:
            labels: Any = [label] if single else label
            count = len(next(iter(columns.values())))
            if np.isscalar(labels) or getattr(labels, "ndim", 1) == 0 or len(labels) != count:
                raise ValueError(f"Task {task!r}: {count} samples need as many labels, got {label!r}.")
            encoded = target.encode(labels, self._label_source(task), self.statistics[f"{task}/labels"])
            data["labels"] = {task: torch.from_numpy(encoded)}
        return HighMMTBatch(data if return_tensors == "pt" else _as_numpy(data))

    def encode(
        self,
        task: str,
        dataset: datasets.Dataset,
        with_labels: bool = True,
        num_proc: int | None = None,
        skip_bad_rows: int = 0,
    ) -> datasets.Dataset:
        """A raw split in the form that `collate` reads, Arrow-backed and cached by `datasets`.

        Args:
            task: name of the task.
            dataset: any raw split of it.
            with_labels: False where the split has no target.
            num_proc: processes that encode side by side; None for this one.
            skip_bad_rows: how many rows may be left out because they cannot be read; `unreadable_rows` tells which.

        Returns:
            A dataset of as many rows with one column per modality, flat lists of float32 (int32 for token ids) that
            run row-major over axes and channels, `labels` (int64, or flat lists of int64 or float32) and `row`, the
            row's index in `dataset`.

        Raises:
            ValueError: a missing column or a row that cannot be encoded; the message names task, column and row.
        """
        from datasets import Features

        from .raw_splits import encode_split, require_columns

        self._require_fitted()
        self._require_task(task)
        require_columns(dataset, self._columns_with_target(task) if with_labels else self._raw_columns(task), task)
        if not len(dataset):
            features = self._encoded_features(task, with_labels)
            return type(dataset).from_dict({name: [] for name in features}, features=Features(features))
        return encode_split(self, task, dataset, with_labels, num_proc, skip_bad_rows)

    def unreadable_rows(self, task: str, dataset: datasets.Dataset, encoded: datasets.Dataset) -> dict[int, str]:
        """Row to the reason why it cannot be read, for the rows that `encode` left out.

        Args:
            task: name of the task.
            dataset: a raw split of it.
            encoded: what `encode` made of it.
        """
        from .raw_splits import unreadable_rows

        return unreadable_rows(self, task, dataset, encoded, "labels" in encoded.column_names)

    def collate(
        self, task: str, rows: pa.Table | Sequence[Mapping[str, Any]], modalities: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Encoded rows as one batch of padded tensors; `partial(processor.collate, task)` suits a `DataLoader`.

        Args:
            task: name of the task.
            rows: rows of what `encode` returned, as an Arrow table or, slower, as a list.
            modalities: which of the task's modalities; None for all.

        Returns:
            `{"inputs": {task: {modality: (batch, *axes, channels)}}, "attention_mask": {task: {modality: (batch,
            *axes) bool}}, "labels": {task: tensor}, "row": {task: (batch,) int64}}`. A mask is True where an element
            is real, and left out where all are; labels and row are left out where the table has none.

        Raises:
            ValueError: a column is missing, or the rows were encoded by another processor.
        """
        from .arrow import elements_from_arrow, labels_from_arrow

        self._require_task(task)
        table: Any = rows if hasattr(rows, "column_names") else self._as_table(task, rows)
        inputs: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for modality in self._names(task) if modalities is None else modalities:
            owner = f"Task {task!r}, modality {modality!r}"
            if modality not in table.column_names or modality not in self._names(task):
                known = ", ".join(name for name in table.column_names if name in self._names(task))
                raise ValueError(f"{owner}: not among the encoded columns of this task, {known}.")
            shape = self.shape(task, modality)
            elements = elements_from_arrow(table[modality], shape, owner)
            inputs[modality], mask = pad_elements(elements, shape, self.serializer(task, modality).pad_id)
            if mask is not None:
                masks[modality] = mask
        batch: dict[str, Any] = {"inputs": {task: inputs}, "attention_mask": {task: masks}}
        if "labels" in table.column_names:
            label_shape = self._targets[task].label_shape(self._fitted(task, "labels"))
            batch["labels"] = {task: torch.from_numpy(labels_from_arrow(table["labels"], label_shape))}
        if "row" in table.column_names:
            row = table["row"].to_numpy().astype(np.int64)
            batch["row"] = {task: torch.from_numpy(row)}
        return batch

    # What follows for the model

    def shape(self, task: str, modality: str) -> ElementShape:
        """Axes and channels of one encoded row of a modality of a task."""
        return self.serializer(task, modality).shape(self._fitted(task, modality))

    def serializer(self, task: str, modality: str) -> Serializer:
        """What turns a modality of a task into elements; text has the tokenizer, or the vectors of its words."""
        serializer = self._serializers[task, modality]
        if isinstance(serializer, TextSerializer):
            return dataclasses.replace(serializer, tokenizer=self.tokenizer)
        if isinstance(serializer, WordVectorSerializer):
            return dataclasses.replace(serializer, given=self.word_vectors.get(f"{task}/{modality}"))
        return serializer

    def num_labels(self, task: str) -> int:
        """Number of classes or of predicted quantities of a task; for a retrieval the width of the shared space."""
        self._require_task(task)
        return self._targets[task].num_labels(self._fitted(task, "labels"))

    def modality_configs(self) -> dict[str, dict[str, Any]]:
        """Name to the fields of `ModalityConfig`, for `HighMMTConfig(modalities=...)`.

        Modalities that no task uses are left out.

        Raises:
            ValueError: a task is not fitted yet, or two tasks disagree on the channels or axes of a modality.
        """
        self._require_fitted()
        configs: dict[str, dict[str, Any]] = {}
        for modality, options in self.modalities.items():
            tasks = [task for task in self.tasks if modality in self._names(task)]
            found = {task: self._modality_config(task, modality) for task in tasks}
            for task in tasks[1:]:
                for key in ("num_channels", "num_axes", "max_length", "vocab_size"):
                    if found[task].get(key) != found[tasks[0]].get(key):
                        raise ValueError(
                            f"Modality {modality!r}: {key} is {found[tasks[0]].get(key)} in task {tasks[0]!r} and "
                            f"{found[task].get(key)} in task {task!r}. Give it options that agree (num_channels=... "
                            f"widens the narrower one with zeros), or two names."
                        )
            if tasks:
                positions = {key: options[key] for key in MODEL_OPTIONS if key in options}
                configs[modality] = {**found[tasks[0]], **positions}
        return configs

    def task_configs(self) -> dict[str, dict[str, Any]]:
        """Name to the fields of `TaskConfig` without weights, for `HighMMTConfig(tasks=...)`.

        Raises:
            ValueError: a task is not fitted yet.
        """
        self._require_fitted()
        configs = {}
        for task, target in self._targets.items():
            statistics = self.statistics[f"{task}/labels"]
            names = target.label_names(statistics)
            config = TaskConfig(
                self._names(task),
                target.problem_type,
                target.num_labels(statistics),
                dict(enumerate(names)) if names is not None else None,
                num_steps=statistics.get("num_steps"),
            )
            configs[task] = dataclasses.asdict(config)
            for weight in ("loss_weight", "evaluation_weight"):
                del configs[task][weight]
        return configs

    # Predictions

    def decode(self, task: str, logits: Tensor) -> list[dict[str, Any]]:
        """Predictions in words, one dict for each row of `logits`, as the model gives them.

        Returns:
            Classification: `{"label", "score", "probabilities": {label: p}}`; several labels: `{"labels": [those above
            0.5], "probabilities"}`; regression: `{name: value}` in the target's own unit. For a sequence each of these
            is a list over its steps. Retrieval of the modalities a and b: `{"b_matches": [rows of the batch whose b
            suits this row's a, best first, at most 10], "b_scores": [their probabilities among the batch's rows],
            "a_matches", "a_scores"}`; the lists are empty where the row lacks what is searched by.
        """
        self._require_task(task)
        if self._targets[task].problem_type == "retrieval":
            first, second = self._names(task)
            logits = torch.as_tensor(logits)
            if logits.ndim != 2 or len(logits) != logits.shape[1]:
                raise ValueError(f"Task {task!r}: logits of shape {tuple(logits.shape)}, expected (batch, batch).")
            pairs = zip(best_matches(logits), best_matches(logits.T), strict=True)
            return [{**name_matches(second, forth), **name_matches(first, back)} for forth, back in pairs]
        return self._targets[task].decode(logits, self._fitted(task, "labels"))

    def target_scale(self, task: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a regression target in the training split, (num_labels,) float64 each.

        Raises:
            ValueError: the task is no regression.
        """
        self._require_task(task)
        if self._targets[task].problem_type != "regression":
            raise ValueError(f"Task {task!r}: its target is {self._targets[task].problem_type}, which has no scale.")
        statistics = self._fitted(task, "labels")
        return (
            torch.tensor(statistics["mean"], dtype=torch.float64),
            torch.tensor(statistics["deviation"], dtype=torch.float64),
        )

    def rescale_target(self, task: str, values: Tensor) -> Tensor:
        """Standardised regression targets or predictions, (..., num_labels), in the target's own unit."""
        mean, deviation = self.target_scale(task)
        return values * deviation.to(values) + mean.to(values)

    # Saving and loading

    def __repr__(self) -> str:
        tasks = ", ".join(f"{task}: {' + '.join(self._names(task))}" for task in self.tasks)
        fitted = sum(f"{task}/labels" in self.statistics for task in self.tasks)
        return f"{type(self).__name__}({tasks}; fitted on {fitted} of {len(self.tasks)} tasks)"

    @property
    def model_input_names(self) -> list[str]:
        """Arguments of the model that a batch holds."""
        return ["inputs", "attention_mask"]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tokenizer and vectors of words as plain data."""
        name = type(self).__name__
        # Code that came with a folder goes where this is saved.
        code = {"AutoProcessor": f"{type(self).__module__.rpartition('.')[2]}.{name}"}
        return {
            "processor_class": name,
            **({} if self._auto_class is None else {"auto_map": code}),
            "modalities": named_files(self.modalities),
            "tasks": {
                task: {**copy.deepcopy(description), "modalities": named_files(description["modalities"])}
                for task, description in self.tasks.items()
            },
            "statistics": copy.deepcopy(self.statistics),
            "has_tokenizer": self.tokenizer is not None,
            **({"has_word_vectors": True} if self.word_vectors else {}),
        }

    def to_json_string(self) -> str:
        """`to_dict` as JSON, in its own order (modalities are ordered), lists on one line, floats exact."""
        return readable_json(self.to_dict()) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write `to_json_string`, whole or not at all."""
        write_text(Path(json_file_path), self.to_json_string())

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write `processor_config.json`, and the files of tokenizer and vectors of words where there are some.

        Each is written whole or not at all.

        Args:
            save_directory: folder, made if need be.
            push_to_hub: True also uploads to the repository `repo_id` (default: the folder's name).
            kwargs: passed to `push_to_hub`.

        Returns:
            The path of the processor's file.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer-") as temporary:
                self.tokenizer._set_processor_class(type(self).__name__)
                self.tokenizer.save_pretrained(temporary)
                for file in sorted(Path(temporary).iterdir()):
                    os.replace(file, folder / file.name)
        if self.word_vectors:
            save_word_vectors(self.word_vectors, folder)
        if self._auto_class is not None:
            custom_object_save(self, folder)
        self.to_json_file(folder / "processor_config.json")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return [str(folder / "processor_config.json")]

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """The tokenizer and the vectors of words, where the saved processor has them."""
        found: list[Any] = []
        if (processor_dict or {}).get("has_tokenizer"):
            found += super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)
        if (processor_dict or {}).get("has_word_vectors"):
            file = cached_file(pretrained_model_name_or_path, VECTORS_FILE, **kwargs)
            if file is None:  # where the caller asked for no error of transformers' own
                raise FileNotFoundError(
                    f"{pretrained_model_name_or_path} has no {VECTORS_FILE}; save the processor again."
                )
            found.append(load_word_vectors(Path(file)))
        return found

    @classmethod
    def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The processor from its saved dict, and from its tokenizer and its vectors of words (`args`)."""
        return_unused = kwargs.pop("return_unused_kwargs", False)
        values = {**processor_dict, **kwargs}
        names = ("modalities", "tasks", "statistics", "tokenizer", "word_vectors")
        chosen = {name: values.pop(name) for name in names if name in values}
        if not {"modalities", "tasks"} <= set(chosen):
            raise ValueError("This processor_config.json is not a HighMMTProcessor's: it has no modalities or tasks.")
        for item in args:
            chosen.setdefault("word_vectors" if isinstance(item, dict) else "tokenizer", item)
        processor = cls(**chosen)
        unused = {name: value for name, value in values.items() if name in kwargs}
        return (processor, unused) if return_unused else processor

    # Pieces

    def _text_serializer(self) -> TextSerializer:
        return next(item for item in self._serializers.values() if isinstance(item, TextSerializer))

    def _names(self, task: str) -> list[str]:
        """The task's modalities, in its order."""
        return list(self.tasks[task]["modalities"])

    def _source(self, task: str, modality: str, first_row: int = 0) -> Source:
        entry = self.tasks[task]["modalities"][modality]
        return Source(task, entry.get("column") or "+".join(entry["columns"]), modality, first_row)

    def _fitted(self, task: str, modality: str) -> Statistics:
        """The statistics of a pair; whether numbers are missing is known for all tasks of the modality together."""
        key = f"{task}/{modality}"
        if key not in self.statistics:
            raise ValueError(
                f"Task {task!r}: nothing is known of {modality!r} yet; call processor.fit({task!r}, training split)."
            )
        statistics = self.statistics[key]
        if "missing" not in statistics:
            return statistics
        others = [self.statistics.get(f"{name}/{modality}", {}) for name in self.tasks]
        return {**statistics, "missing": any(other.get("missing", False) for other in others)}

    def _require_task(self, task: str) -> None:
        if task not in self.tasks:
            raise ValueError(f"Unknown task {task!r}; the processor's tasks are {', '.join(self.tasks)}.")

    def _require_fitted(self) -> None:
        missing = [task for task in self.tasks if f"{task}/labels" not in self.statistics]
        if missing:
            raise ValueError(
                f"The processor is not fitted on task {missing[0]!r} yet; first call processor.fit(task, training "
                f"split) for {', '.join(missing)}."
            )

    def _label_source(self, task: str, first_row: int = 0) -> Source:
        return Source(task, self._targets[task].column or "(no column)", None, first_row)

    def _raw_columns(self, task: str) -> list[str]:
        entries = self.tasks[task]["modalities"].values()
        return [column for entry in entries for column in entry.get("columns", [entry.get("column")])]

    def _columns_with_target(self, task: str) -> list[str]:
        target = self._targets[task].column
        return self._raw_columns(task) + ([target] if target is not None else [])

    def _as_table(self, task: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Encoded rows, one by one, as `encode` has them."""
        import pyarrow as pa
        from datasets import Features

        if not rows:
            raise ValueError(f"Task {task!r}: there are no rows to collate.")
        features = self._encoded_features(task, with_labels="labels" in rows[0])
        schema = Features({name: kind for name, kind in features.items() if name in rows[0]}).arrow_schema
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)

    def _encoded_features(self, task: str, with_labels: bool) -> dict[str, Any]:
        """Columns of what `encode` returns."""
        from datasets import List, Value

        features: dict[str, Any] = {"row": Value("int64")}
        for modality in self._names(task):
            ids = self.shape(task, modality).num_channels is None
            features[modality] = List(Value("int32" if ids else "float32"))
        if with_labels:
            target = self._targets[task]
            number = Value("int64" if target.is_class or target.problem_type == "retrieval" else "float32")
            features["labels"] = List(number) if target.label_shape(self._fitted(task, "labels")) else number
        return features

    def _column(self, task: str, modality: str, table: pa.Table) -> Any:
        """A modality's raw values: one column, or several side by side."""
        entry = self.tasks[task]["modalities"][modality]
        if "columns" not in entry:
            return table[entry["column"]]
        return Columns(list(entry["columns"]), [table[column] for column in entry["columns"]])

    def _rows_per_batch(self, task: str) -> int:
        """Rows that are encoded at a time: 1000, fewer where rows are large."""
        numbers = 1
        for modality in self._names(task):
            shape = self.shape(task, modality)
            length = max(shape.axes[0] or 1, self._fitted(task, modality).get("longest", 1))
            numbers += int(length * np.prod(shape.tail, dtype=np.int64))
        return max(1, min(1000, MAX_NUMBERS_PER_BATCH // numbers))

    def _fingerprint(self, what: str, task: str, dataset: datasets.Dataset, *more: Any) -> str:
        """Name of a cached result: data, settings, tokenizer and the code of this room."""
        settings: Any = self.to_dict()
        if what == "fit":  # depends on this task alone, whatever else is fitted
            settings = [{name: self.modalities[name] for name in self._names(task)}, self.tasks[task]]
        parts = [what, task, dataset._fingerprint, json.dumps([settings, *more]), code_digest()]
        if self.tokenizer is not None:
            backend = getattr(self.tokenizer, "backend_tokenizer", None)
            parts.append(backend.to_str() if backend is not None else repr(self.tokenizer))
        parts += [item.digest for pair, item in self.word_vectors.items() if pair.startswith(f"{task}/")]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def _modality_config(self, task: str, modality: str) -> dict[str, Any]:
        serializer, statistics = self.serializer(task, modality), self._fitted(task, modality)
        shape = serializer.shape(statistics)
        config: dict[str, Any] = {
            "num_channels": shape.num_channels,
            "num_axes": len(shape.axes),
            "ordered": serializer.ordered,
        }
        if (embedding := serializer.embedding(statistics)) is not None:
            config["vocab_size"], config["num_channels"] = embedding
        if serializer.position_length is not None:
            config["max_length"] = serializer.position_length
        return config


def _as_numpy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _as_numpy(value) for key, value in data.items()}
    return data.numpy()


__all__ = ["MODEL_OPTIONS", "RESERVED_NAMES", "HighMMTProcessor"]
