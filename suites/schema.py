"""What a suite file may say: every key checked once, with errors that give the file, the line and the way out."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..configuration import HighMMTConfig, ModalityConfig
from ..processing.kinds import (
    ALIASES,
    MANY_COLUMNS,
    SERIALIZERS,
    build_serializer,
    check_columns,
    option_names,
    under_own_name,
)
from ..processing.processing_highmmt import MODEL_OPTIONS, RESERVED_NAMES
from .builders import builder_names, builder_options, check_options
from .lines import Document, KeyPath, did_you_mean
from .splits import SPLITS

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression", "retrieval")
METRICS = {
    "accuracy": ("single_label_classification", "multi_label_classification"),
    "macro_f1": ("single_label_classification", "multi_label_classification"),
    "auroc": ("single_label_classification", "multi_label_classification"),
    "r2": ("regression",),
    "rmse": ("regression",),
    "mse": ("regression",),
    "mae": ("regression",),
    "recall_at_1": ("retrieval",),
    "recall_at_5": ("retrieval",),
    "recall_at_10": ("retrieval",),
}
DEFAULT_METRIC = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "macro_f1",
    "regression": "r2",
    "retrieval": "recall_at_1",
}

SUITE_KEYS = ("name", "description", "model", "training", "heterogeneity", "modalities", "tasks")
# What a suite may say of training; values are checked by `highmmt.train` and, for groups, by `highmmt.analysis`, which
# this room does not know.
TRAINING_KEYS = (
    "num_pretraining_epochs",
    "num_finetuning_epochs",
    "num_unimodal_groups",
    "num_crossmodal_groups",
    "k",
    "max_parameters",
    "linkage",
    "learning_rate",
    "finetuning_learning_rate",
    "weight_decay",
    "optimizer",
    "lr_scheduler",
    "warmup_ratio",
    "max_grad_norm",
    "eval_batch_size",
    "patience",
    "mixed_precision",
)
# How its heterogeneity is measured; values are checked by `highmmt.heterogeneity`.
HETEROGENEITY_KEYS = (
    "method",
    "share",
    "num_seeds",
    "num_steps",
    "num_evaluations",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "rank",
    "loss_scale",
    "seed",
)
TASK_KEYS = (
    "source",
    "splits",
    "modalities",
    "target",
    "metric",
    "batch_size",
    "loss_weight",
    "evaluation_weight",
    "reference",
    "area",
    "description",
    "licence",
    "citation",
)
_SOURCE_KEYS = ("path", "saved", "name", "data_files", "data_dir", "revision")
_REFUSED_SOURCE_KEYS = {
    "split": "name the splits under 'splits' of the task",
    "streaming": "a suite reads its rows in random order, so streaming is not supported",
    "token": "log in with `hf auth login`; a suite file is no place for a secret",
}
# Settings of `HighMMTConfig` that follow from the suite or from what is later done to its model.
NOT_SIZES = {"modalities", "tasks", "parameter_groups", "group_modalities", "group_adapter_rank"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def check_suite(document: Document) -> dict[str, Any]:
    """The content of a suite file with defaults filled in and short forms written out.

    Paths are left as they stand.

    Raises:
        ValueError: an unknown or missing key, or a value that cannot be meant.
    """
    data = document.data
    document.check_keys((), data, SUITE_KEYS, required=("name", "modalities", "tasks"))
    _check_name(document, ("name",), data["name"], "the suite's name")
    modalities = _modalities(document, data["modalities"])
    document.check_mapping(("tasks",), data["tasks"])
    if not data["tasks"]:
        raise document.error(("tasks",), "a suite needs at least one task.")
    tasks = {}
    for name, task in data["tasks"].items():
        _check_name(document, ("tasks", name), name, "a task's name")
        tasks[name] = _task(document, ("tasks", name), task, modalities)
    used = {modality for task in tasks.values() for modality in task["modalities"]}
    for name in modalities:
        if name not in used:
            raise document.error(("modalities", name), f"no task uses the modality {name!r}; remove it.")
    description = _text(document, ("description",), data.get("description", ""))
    return {
        "name": data["name"],
        "description": description,
        "modalities": modalities,
        "tasks": tasks,
        "model": _model(document, data.get("model", {})),
        "training": _training(document, data.get("training", {})),
        "heterogeneity": _heterogeneity(document, data.get("heterogeneity", {})),
    }


def _model(document: Document, values: Any) -> dict[str, Any]:
    """Sizes of the model, as `HighMMTConfig` takes them."""
    own = {field.name for field in fields(HighMMTConfig)} - {field.name for field in fields(PreTrainedConfig)}
    if values == {}:
        return {}
    document.check_keys(("model",), values, sorted(own - NOT_SIZES))
    try:
        HighMMTConfig(**values)
    except (ValueError, StrictDataclassError) as error:
        cause = error.__cause__ or error
        named = [key for key in values if key in str(error)][:1]
        raise document.error(("model", *named), str(cause)) from error
    return dict(values)


def _training(document: Document, values: Any) -> dict[str, Any]:
    if values == {}:
        return {}
    document.check_keys(("training",), values, TRAINING_KEYS)
    for key in (name for name in TRAINING_KEYS if name.startswith("num_")):
        if key in values and (isinstance(values[key], bool) or not isinstance(values[key], int) or values[key] < 1):
            raise document.error(("training", key), f"{key} must be a whole number, 1 or more, not {values[key]!r}.")
    return dict(values)


def _heterogeneity(document: Document, values: Any) -> dict[str, Any]:
    if values == {}:
        return {}
    document.check_keys(("heterogeneity",), values, HETEROGENEITY_KEYS)
    if "loss_scale" in values and values["loss_scale"] is None:
        raise document.error(("heterogeneity", "loss_scale"), 'YAML reads a bare null as nothing; write "null".')
    return dict(values)


def _modalities(document: Document, values: Any) -> dict[str, dict[str, Any]]:
    document.check_mapping(("modalities",), values)
    checked = {}
    for name, options in values.items():
        path = ("modalities", name)
        _check_name(document, path, name, "a modality's name")
        if name in RESERVED_NAMES:
            raise document.error(path, f"{name!r} has another meaning in calls of the processor; choose another name.")
        document.check_mapping(path, options)
        if "kind" not in options:
            raise document.error(path, f"the key 'kind' is missing; kinds: {', '.join(SERIALIZERS)}.")
        _check_choice(document, (*path, "kind"), options["kind"], (*SERIALIZERS, *ALIASES))
        checked[name] = under_own_name(options, name)
        kind = checked[name]["kind"]
        document.check_keys(path, options, ("kind", *option_names(kind), *MODEL_OPTIONS))
        positions = {key: options[key] for key in MODEL_OPTIONS if key in options}
        try:
            ModalityConfig(num_channels=1, **positions).check(name)
        except ValueError as error:
            raise document.error(path, str(error)) from error
        _check_options(document, path, kind, _kind_options(options))
    return checked


def _kind_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A modality's options without its kind and those of the positions."""
    return {key: value for key, value in options.items() if key != "kind" and key not in MODEL_OPTIONS}


def _check_options(document: Document, path: KeyPath, kind: str, options: Mapping[str, Any]) -> None:
    """Refuse option values that no serializer of the kind takes; the option names are known to be right."""
    try:
        build_serializer(kind, dict(options), kind)
    except (ValueError, TypeError) as error:
        named = [key for key in options if f"{key}=" in str(error)][:1]
        raise document.error((*path, *named), str(error)) from error


def _task(document: Document, path: KeyPath, task: Any, modalities: Mapping[str, Any]) -> dict[str, Any]:
    document.check_keys(path, task, TASK_KEYS, required=("source", "modalities", "target"))
    target = _target(document, (*path, "target"), task["target"])
    problem_type = target["problem_type"]
    metric = task.get("metric", DEFAULT_METRIC[problem_type])
    _check_choice(document, (*path, "metric"), metric, METRICS)
    if problem_type not in METRICS[metric]:
        fitting = ", ".join(name for name, types in METRICS.items() if problem_type in types)
        raise document.error(
            (*path, "metric"), f"{metric!r} does not measure {problem_type}; one that does: {fitting}."
        )
    checked = {
        "source": _source(document, (*path, "source"), task["source"]),
        "splits": _splits(document, (*path, "splits"), task.get("splits")),
        "modalities": _task_modalities(document, (*path, "modalities"), task["modalities"], modalities),
        "target": target,
        "metric": metric,
        "batch_size": _whole(document, (*path, "batch_size"), task.get("batch_size", 32), 1),
        "loss_weight": _weight(document, (*path, "loss_weight"), task.get("loss_weight", 1.0)),
        "evaluation_weight": _weight(document, (*path, "evaluation_weight"), task.get("evaluation_weight", 1.0)),
        "reference": _reference(document, (*path, "reference"), task.get("reference")),
    }
    if problem_type == "retrieval" and len(checked["modalities"]) != 2:
        raise document.error(
            (*path, "modalities"),
            f"a retrieval finds one modality by another, so it has exactly two, not {len(checked['modalities'])}.",
        )
    for key in ("area", "description", "licence", "citation"):
        checked[key] = _text(document, (*path, key), task.get(key, ""))
    return checked


def _task_modalities(
    document: Document, path: KeyPath, values: Any, modalities: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    document.check_mapping(path, values)
    if not values:
        raise document.error(path, "a task needs at least one modality.")
    checked = {}
    for name, options in values.items():
        here = (*path, name)
        if name not in modalities:
            raise document.error(here, f"unknown modality {name!r}{did_you_mean(name, modalities, 'Modalities')}")
        if isinstance(options, str) or options is None:
            options = {"column": options or name}
        kind = modalities[name]["kind"]
        several = ("columns",) if kind in MANY_COLUMNS else ()
        document.check_keys(here, options, ("column", *several, *option_names(kind)))
        if "columns" in options:
            if "column" in options:
                raise document.error(here, "takes 'column' or 'columns', not both.")
            try:
                check_columns(kind, options["columns"])
            except ValueError as error:
                raise document.error((*here, "columns"), str(error)) from error
        else:
            options = {"column": name, **options}
            if not isinstance(options["column"], str) or not options["column"]:
                raise document.error((*here, "column"), f"must be a column's name, got {options['column']!r}.")
        own = {key: value for key, value in options.items() if key not in ("column", "columns")}
        _check_options(document, here, kind, {**_kind_options(modalities[name]), **own})
        checked[name] = dict(options)
    return checked


def _target(document: Document, path: KeyPath, target: Any) -> dict[str, Any]:
    keys = ("column", "problem_type", "classes", "names", "num_steps", "projection_dim")
    document.check_keys(path, target, keys, required=("problem_type",))
    _check_choice(document, (*path, "problem_type"), target["problem_type"], PROBLEM_TYPES)
    retrieval = target["problem_type"] == "retrieval"
    if not retrieval:
        document.check_keys(path, target, keys, required=("column",))
    checked: dict[str, Any] = {"problem_type": target["problem_type"]}
    if (column := target.get("column")) is not None or not retrieval:
        if not isinstance(column, str) or not column:
            raise document.error((*path, "column"), f"must be a column's name, got {column!r}.")
        checked = {"column": column, **checked}
    for key, fits, smallest in (("num_steps", not retrieval, 1), ("projection_dim", retrieval, 2)):
        if target.get(key) is not None:
            if not fits:
                raise document.error((*path, key), f"{key!r} is not for {target['problem_type']}; remove it.")
            checked[key] = _whole(document, (*path, key), target[key], smallest)
    for key in ("classes", "names"):
        values = target.get(key)
        if values is None:
            continue
        if retrieval:
            raise document.error((*path, key), f"{key!r} is not for a retrieval, which predicts no labels; remove it.")
        if not isinstance(values, list) or not values:
            raise document.error((*path, key), f"must be a list of names, got {values!r}.")
        for position, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                hint = " (YAML reads a bare yes, no, on or off as true or false)" if isinstance(value, bool) else ""
                raise document.error((*path, key, position), f"{value!r} is not text; put it in quotes{hint}.")
        names = [str(value) for value in values]
        if len(set(names)) != len(names):
            raise document.error((*path, key), f"a name stands there twice: {', '.join(names)}.")
        checked[key] = names
    if "classes" in checked and target["problem_type"] == "regression":
        raise document.error(
            (*path, "classes"), "a regression has no classes; use 'names' for the numbers it predicts."
        )
    if "names" in checked and target["problem_type"] != "regression":
        raise document.error((*path, "names"), "'names' is for regression; name the classes with 'classes'.")
    if len(checked.get("classes", "ab")) < 2 and target["problem_type"] == "single_label_classification":
        raise document.error((*path, "classes"), "a classification needs at least two classes.")
    return checked


def _source(document: Document, path: KeyPath, source: Any) -> dict[str, Any]:
    document.check_mapping(path, source)
    if "builder" in source:
        return _builder_source(document, path, source)
    for key in source:
        if key in _REFUSED_SOURCE_KEYS:
            raise document.error((*path, key), f"{key!r} cannot be set here: {_REFUSED_SOURCE_KEYS[key]}.")
        # Other keys belong to the format's reader (sep, field, names, ...); a near miss of one of ours is a typo.
        near = difflib.get_close_matches(key, _SOURCE_KEYS, n=1, cutoff=0.85)
        if key not in (*_SOURCE_KEYS, "names") and near:
            raise document.error((*path, key), f"unknown key {key!r}; did you mean {near[0]!r}?")
    if "saved" in source:
        document.check_keys(path, source, ("saved",))
    elif "path" not in source:
        raise document.error(
            path,
            "needs 'path' (parquet, csv, json or a dataset of the Hub), 'saved' (a folder of save_to_disk) or "
            f"'builder' ({', '.join(builder_names())}).",
        )
    for key in ("path", "saved", "name", "data_dir", "revision"):
        if key in source and (not isinstance(source[key], str) or not source[key]):
            raise document.error((*path, key), f"must be text, got {source[key]!r}.")
    if "data_files" in source:
        _check_data_files(document, (*path, "data_files"), source["data_files"])
    elif source.get("path") in ("parquet", "csv", "json", "arrow", "text") and "data_dir" not in source:
        raise document.error(
            path, f"path: {source['path']} needs 'data_files' (for instance {{train: rows.parquet}})."
        )
    return dict(source)


def _builder_source(document: Document, path: KeyPath, source: Mapping[str, Any]) -> dict[str, Any]:
    """A source that is a registered builder with its options."""
    _check_choice(document, (*path, "builder"), source["builder"], builder_names())
    document.check_keys(path, source, ("builder", "data_dir", *builder_options(source["builder"])))
    if "data_dir" in source and (not isinstance(source["data_dir"], str) or not source["data_dir"]):
        raise document.error((*path, "data_dir"), f"must be text, got {source['data_dir']!r}.")
    options = {key: value for key, value in source.items() if key not in ("builder", "data_dir")}
    try:
        check_options(source["builder"], options)
    except (ValueError, TypeError) as error:
        named = [key for key in options if f"{key}=" in str(error)][:1]
        raise document.error((*path, *named), str(error)) from error
    return dict(source)


def _check_data_files(document: Document, path: KeyPath, files: Any) -> None:
    if isinstance(files, Mapping):
        document.check_mapping(path, files)
        entries = {(*path, split): entry for split, entry in files.items()}
    else:
        entries = {path: files}
    for here, entry in entries.items():
        names = entry if isinstance(entry, list) else [entry]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise document.error(here, f"must be a path or a list of paths, got {entry!r}.")


def _splits(document: Document, path: KeyPath, splits: Any) -> dict[str, Any]:
    """Names and fractions, with the source's own names where nothing is said."""
    splits = {} if splits is None else splits
    document.check_keys(path, splits, (*SPLITS, "seed", "group_by"))
    checked = {split: splits.get(split, split) for split in SPLITS}
    if not isinstance(checked["train"], str) or not checked["train"]:
        raise document.error(
            (*path, "train"), f"must be the name of a split, got {checked['train']!r}; it keeps the rest."
        )
    for split in ("validation", "test"):
        value = checked[split]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (isinstance(value, str) and value) and not (number and 0 < value < 1):
            raise document.error(
                (*path, split), f"must be the name of a split or a fraction between 0 and 1, got {value!r}."
            )
    fractions = [checked[split] for split in SPLITS if not isinstance(checked[split], str)]
    if sum(fractions) >= 1:
        raise document.error(path, f"the fractions {fractions} leave nothing to train on.")
    named = [checked[split] for split in SPLITS if isinstance(checked[split], str)]
    if len(set(named)) < len(named):
        raise document.error(path, f"two splits read the same rows: {', '.join(named)}. Use fractions to divide one.")
    for key in ("seed", "group_by"):
        if key in splits and not fractions:
            raise document.error((*path, key), f"{key!r} needs a fraction: the splits are all named.")
    if fractions:
        checked["seed"] = _whole(document, (*path, "seed"), splits.get("seed", 0), 0)
        if (group := splits.get("group_by")) is not None:
            checked["group_by"] = group
            if not isinstance(group, str) or not group:
                raise document.error((*path, "group_by"), f"must be a column's name, got {group!r}.")
    return checked


def _reference(document: Document, path: KeyPath, reference: Any) -> dict[str, Any] | None:
    if reference is None:
        return None
    document.check_keys(path, reference, ("value", "source"), required=("value",))
    value = reference["value"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise document.error((*path, "value"), f"must be a number, got {value!r}.")
    return {"value": float(value), "source": _text(document, (*path, "source"), reference.get("source", ""))}


def _check_name(document: Document, path: KeyPath, name: Any, what: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise document.error(path, f"{what} may hold letters, digits, '_' and '-', got {name!r}.")


def _check_choice(document: Document, path: KeyPath, value: Any, choices: Any) -> None:
    if value not in tuple(choices):
        raise document.error(path, f"unknown value {value!r}{did_you_mean(value, choices, 'Choices')}")


def _whole(document: Document, path: KeyPath, value: Any, smallest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value < 2**31:
        raise document.error(path, f"must be a whole number, {smallest} or more, got {value!r}.")
    return value


def _weight(document: Document, path: KeyPath, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise document.error(path, f"must be a number, 0 or more, got {value!r}.")
    return float(value)


def _text(document: Document, path: KeyPath, value: Any) -> str:
    if not isinstance(value, str):
        raise document.error(path, f"must be text, got {value!r}.")
    return " ".join(value.split())


__all__ = ["DEFAULT_METRIC", "METRICS", "PROBLEM_TYPES", "check_suite"]
