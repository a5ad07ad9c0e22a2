"""Descriptions of modalities and tasks, as users and suites write them, checked and turned into serializers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..configuration.configuration_highmmt import ModalityConfig
from .kinds import build_serializer, check_columns, under_own_name
from .sequences import TextSerializer
from .serializers import Serializer
from .targets import Target

MODEL_OPTIONS = ("num_frequency_bands", "max_frequency", "ordered", "element_dropout")
RESERVED_NAMES = ("batch", "label", "labels", "return_tensors", "row", "self", "task")


def read_modalities(modalities: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Descriptions of modalities, checked, each with its kind's own name.

    Raises:
        ValueError: a reserved name, an unknown kind or option, or an impossible value; the message names the modality.
    """
    read = {}
    for name, options in modalities.items():
        owner = f"Modality {name!r}"
        if name in RESERVED_NAMES:
            raise ValueError(f"{owner}: this name is taken; reserved are {', '.join(RESERVED_NAMES)}.")
        if "/" in name:
            raise ValueError(f"{owner}: a name must not hold '/', which parts task and modality in 'task/modality'.")
        if not isinstance(options, dict) or "kind" not in options:
            raise ValueError(f"{owner}: must be a mapping with at least 'kind', got {options!r}.")
        read[name] = under_own_name(options, owner)
        build_serializer(read[name]["kind"], kind_options(options), owner)
        positions = {key: options[key] for key in MODEL_OPTIONS if key in options}
        ModalityConfig(num_channels=1, **positions).check(name)
    return read


def read_task(
    task: str, description: Any, modalities: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, Serializer], Target]:
    """The serializers of a task's modalities, in its order, and its target.

    Args:
        task: name of the task.
        description: `{"modalities": {modality: {"column": ..., options}}, "target": {...}}`.
        modalities: the checked descriptions of all modalities; a task's own options go before theirs.

    Raises:
        ValueError: a missing or unknown field, or an unknown modality; the message names the task.
    """
    owner = f"Task {task!r}"
    if "/" in task:
        raise ValueError(f"{owner}: a name must not hold '/', which parts task and modality in 'task/modality'.")
    if not isinstance(description, dict) or set(description) != {"modalities", "target"}:
        raise ValueError(f"{owner}: must be a mapping with 'modalities' and 'target', got {description!r}.")
    entries = description["modalities"]
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{owner}: 'modalities' must map at least one modality to its column, got {entries!r}.")
    serializers = {}
    for name, entry in entries.items():
        if name not in modalities:
            raise ValueError(f"{owner}: unknown modality {name!r}; declared are {', '.join(modalities)}.")
        place = f"{owner}, modality {name!r}"
        kind = modalities[name]["kind"]
        _check_columns(place, kind, entry)
        own = {key: value for key, value in entry.items() if key not in ("column", "columns")}
        serializers[name] = build_serializer(kind, {**kind_options(modalities[name]), **own}, place)
    target = Target.from_dict(description["target"], owner)
    if target.problem_type == "retrieval" and len(entries) != 2:
        raise ValueError(
            f"{owner}: a retrieval finds one modality by another, so it has exactly two, not {', '.join(entries)}."
        )
    return serializers, target


def check_one_tokenizer(serializers: Mapping[tuple[str, str], Serializer]) -> None:
    """Refuse texts whose options ask for different tokenizers, as a processor has one.

    Args:
        serializers: (task, modality) to its serializer.
    """
    texts = [(pair, item) for pair, item in serializers.items() if isinstance(item, TextSerializer)]
    for pair, item in texts[1:]:
        if item.training_options() != texts[0][1].training_options():
            raise ValueError(
                f"{'/'.join(pair)} and {'/'.join(texts[0][0])} share the processor's tokenizer: algorithm, "
                "vocab_size, min_frequency, lowercase and pretrained must agree."
            )


def kind_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A modality's options without its kind and those of the positions."""
    return {key: value for key, value in options.items() if key != "kind" and key not in MODEL_OPTIONS}


def _check_columns(place: str, kind: str, entry: Any) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: must be a mapping with 'column', got {entry!r}.")
    column, columns = entry.get("column"), entry.get("columns")
    if (column is None) == (columns is None) or not isinstance(column, str | None):
        raise ValueError(
            f"{place}: needs 'column', one raw column, or for tables and graphs 'columns', a list of raw columns; "
            f"got column={column!r}, columns={columns!r}."
        )
    if columns is not None:
        try:
            check_columns(kind, columns)
        except ValueError as error:
            raise ValueError(f"{place}, columns: {error}") from error
