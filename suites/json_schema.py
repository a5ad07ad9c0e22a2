"""The form of a suite file as a JSON schema, for editors that check and complete YAML while it is written.

Made from the same tables that `check_suite` reads. `check_suite` sees more: whether names of modalities are declared,
whether a metric suits its task, and what the data is like.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from transformers import PreTrainedConfig

from ..configuration import HighMMTConfig
from ..configuration.configuration_highmmt import ModalityConfig
from ..processing.kinds import ALIASES, SERIALIZERS, option_names
from ..processing.processing_highmmt import MODEL_OPTIONS
from .builders import builder_class, builder_names, builder_options
from .schema import HETEROGENEITY_KEYS, METRICS, NOT_SIZES, PROBLEM_TYPES, SUITE_KEYS, TASK_KEYS, TRAINING_KEYS
from .splits import SPLITS

_NAMES = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}
_TEXT = {"type": "string"}
_WORD = {"type": "string", "minLength": 1}
_WHOLE = {"type": "integer", "minimum": 1}
_WEIGHT = {"type": "number", "minimum": 0}
_PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", dict: "object"}
_TRAINING_TYPES: dict[str, dict[str, Any]] = {
    "optimizer": {"enum": ["adam", "adamw"]},
    "lr_scheduler": {"enum": ["constant", "linear", "cosine"]},
    "mixed_precision": {"enum": ["no", "bf16", "fp16"]},
    "max_grad_norm": {"type": ["number", "null"]},
    "patience": {"type": ["integer", "null"], "minimum": 1},
    "eval_batch_size": _WHOLE,
}


_HETEROGENEITY_TYPES: dict[str, dict[str, Any]] = {
    "method": {"enum": ["transfer", "random", "feature"]},
    "loss_scale": {"enum": ["null", "none", "metric"]},
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "learning_rate": {"type": "number", "exclusiveMinimum": 0},
    "weight_decay": _WEIGHT,
    "seed": {"type": "integer", "minimum": 0},
}


def suite_json_schema() -> dict[str, Any]:
    """The schema (draft 7, which editors' YAML plug-ins know) as plain data."""
    tasks = {"type": "object", "minProperties": 1, "propertyNames": _NAMES, "additionalProperties": _task()}
    modalities = {"type": "object", "propertyNames": _NAMES, "additionalProperties": _modality()}
    content = {
        "name": {"type": "string", **_NAMES},
        "description": _TEXT,
        "model": _object(_model()),
        "training": _object({key: _training(key) for key in TRAINING_KEYS}),
        "heterogeneity": _object({key: _HETEROGENEITY_TYPES.get(key, _WHOLE) for key in HETEROGENEITY_KEYS}),
        "modalities": modalities,
        "tasks": tasks,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Suite of HighMMT",
        **_object({key: content[key] for key in SUITE_KEYS}, required=["name", "modalities", "tasks"]),
    }


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _model() -> dict[str, Any]:
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    hints = HighMMTConfig.__annotations__
    names = [field.name for field in dataclasses.fields(HighMMTConfig) if field.name not in inherited | NOT_SIZES]
    return {name: _of_type(hints[name]) for name in names}


def _training(key: str) -> dict[str, Any]:
    return _TRAINING_TYPES.get(key) or (_WHOLE if key.startswith("num_") else _WEIGHT)


def _modality() -> dict[str, Any]:
    """One description for each kind, chosen by `kind`."""
    positions = typing.get_type_hints(ModalityConfig)
    shared = {name: _of_type(positions[name]) for name in MODEL_OPTIONS}
    kinds = []
    for kind in SERIALIZERS:
        named = {"enum": [kind, *(alias for alias, meant in ALIASES.items() if meant == kind)]}
        properties = {"kind": named, **_options(kind), **shared}
        kinds.append({"if": {"properties": {"kind": named}, "required": ["kind"]}, "then": _object(properties)})
    names = [*SERIALIZERS, *ALIASES]
    chosen = {"type": "object", "properties": {"kind": {"enum": names}}, "required": ["kind"]}
    return {**chosen, "allOf": kinds}


def _options(kind: str) -> dict[str, Any]:
    hints = typing.get_type_hints(SERIALIZERS[kind])
    return {name: _of_type(hints[name]) for name in option_names(kind)}


def _task() -> dict[str, Any]:
    every: dict[str, Any] = {}
    for kind in SERIALIZERS:
        every |= {name: every[name] if name in every else schema for name, schema in _options(kind).items()}
    names = {"type": "array", "items": _WORD, "minItems": 1}
    # Two kinds may give one option different values, so only its name is checked here.
    entry = _object({"column": _WORD, "columns": names, **dict.fromkeys(every, {})})
    labels = {"type": "array", "minItems": 1, "items": {"type": ["string", "integer"]}}
    target = {
        "column": _WORD,
        "problem_type": {"enum": list(PROBLEM_TYPES)},
        "classes": labels,
        "names": labels,
        "num_steps": _WHOLE,
        "projection_dim": {"type": "integer", "minimum": 2},
    }
    split = {"anyOf": [_WORD, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]}
    content = {
        "source": _source(),
        "splits": _object(
            {**dict.fromkeys(SPLITS, split), "train": _WORD, "seed": {"type": "integer"}, "group_by": _WORD}
        ),
        "modalities": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": _NAMES,
            "additionalProperties": {"anyOf": [_WORD, {"type": "null"}, entry]},
        },
        "target": _object(target, required=["problem_type"]),
        "metric": {"enum": list(METRICS)},
        "batch_size": _WHOLE,
        "loss_weight": _WEIGHT,
        "evaluation_weight": _WEIGHT,
        "reference": {
            "anyOf": [{"type": "null"}, _object({"value": {"type": "number"}, "source": _TEXT}, required=["value"])]
        },
    }
    return _object({key: content.get(key, _TEXT) for key in TASK_KEYS}, required=["source", "modalities", "target"])


def _source() -> dict[str, Any]:
    """A builder with its options, a folder of `save_to_disk`, or what `datasets.load_dataset` takes."""
    builders = []
    for name in builder_names():
        hints = typing.get_type_hints(builder_class(name).BUILDER_CONFIG_CLASS)
        options = {option: _of_type(hints[option]) for option in builder_options(name)}
        builders.append(_object({"builder": {"const": name}, "data_dir": _WORD, **options}, required=["builder"]))
    paths = {"anyOf": [_WORD, {"type": "array", "items": _WORD, "minItems": 1}]}
    loaded = {
        "type": "object",
        "required": ["path"],
        "properties": {
            **dict.fromkeys(("path", "name", "data_dir", "revision"), _WORD),
            "data_files": {"anyOf": [*paths["anyOf"], {"type": "object", "additionalProperties": paths}]},
            **dict.fromkeys(("split", "streaming", "token", "builder", "saved"), False),
        },
    }
    return {"anyOf": [loaded, _object({"saved": _WORD}, required=["saved"]), *builders]}


def _of_type(hint: Any) -> dict[str, Any]:
    """The schema of a Python type, as configurations and serializers declare them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of_type(argument) for argument in arguments]}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if isinstance(origin, type) and issubclass(origin, dict):
        return {"type": "object"}
    if origin is not None and arguments:  # lists and sequences
        return {"type": "array", "items": _of_type(arguments[0])}
    return {}


__all__ = ["suite_json_schema"]
