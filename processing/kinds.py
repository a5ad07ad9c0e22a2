"""The kinds of raw data, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .audio import AudioSerializer
from .graphs import GraphSerializer
from .images import ImageSerializer, VideoSerializer
from .sequences import SetSerializer, SpectrumSerializer, TextSerializer, TimeSeriesSerializer
from .serializers import Serializer
from .tables import TableSerializer
from .word_vectors import WordVectorSerializer

SERIALIZERS: dict[str, type[Serializer]] = {
    serializer.kind: serializer
    for serializer in (
        ImageSerializer,
        VideoSerializer,
        AudioSerializer,
        SpectrumSerializer,
        TableSerializer,
        TimeSeriesSerializer,
        SetSerializer,
        GraphSerializer,
        TextSerializer,
        WordVectorSerializer,
    )
}
# What else a kind may be called. Only its own name is kept, so that it does not matter to anything that is saved.
ALIASES = {
    "depth": "image",
    "speech": "audio",
    "sensor": "time_series",
    "force": "time_series",
    "proprioception": "time_series",
    "control": "time_series",
}
# What is set under these names, unless the modality says otherwise: a plain vector of a sensor is one step.
ALIAS_OPTIONS = {name: {"vector": True} for name in ("sensor", "force", "proprioception", "control")}

NOT_OPTIONS = ("tokenizer", "given")  # fields that the processor fills in
MANY_COLUMNS = ("table", "graph")  # kinds that a task may also read from several raw columns


def kind_of(name: Any, owner: str) -> str:
    """The kind's own name.

    Args:
        name: one of `SERIALIZERS` or `ALIASES`.
        owner: what errors begin with, such as `Modality 'image'`.

    Raises:
        ValueError: an unknown kind; the message lists those that exist.
    """
    kind = ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(kind, str) or kind not in SERIALIZERS:
        raise ValueError(f"{owner}: unknown kind {name!r}; kinds are {', '.join([*SERIALIZERS, *ALIASES])}.")
    return kind


def under_own_name(options: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """A modality's description with its kind's own name, and the options that the other name stands for.

    Raises:
        ValueError: an unknown kind; the message lists those that exist.
    """
    kind = kind_of(options["kind"], owner)
    return {**ALIAS_OPTIONS.get(options["kind"], {}), **options, "kind": kind}


def check_columns(kind: str, columns: Any) -> None:
    """Refuse what a kind cannot read as several raw columns.

    Args:
        kind: one of `SERIALIZERS`.
        columns: what a task gives as `columns`.

    Raises:
        ValueError: another kind than those of `MANY_COLUMNS`, no list of names, or for a graph not two of them.
    """
    if kind not in MANY_COLUMNS:
        raise ValueError(f"the kind {kind!r} reads one 'column'; 'columns' are for {' and '.join(MANY_COLUMNS)}.")
    if not isinstance(columns, list) or not columns or not all(isinstance(one, str) and one for one in columns):
        raise ValueError(f"must be a list of columns' names, got {columns!r}.")
    if kind == "graph" and len(columns) != 2:
        raise ValueError(f"columns of a graph are two, that of the nodes and that of the edges, got {columns!r}.")


def option_names(kind: str) -> list[str]:
    """The options of a kind, in alphabetical order."""
    return sorted(field.name for field in dataclasses.fields(SERIALIZERS[kind]) if field.name not in NOT_OPTIONS)


def build_serializer(kind: Any, options: dict[str, Any], owner: str) -> Serializer:
    """The serializer of a kind with its options checked.

    Args:
        kind: one of `SERIALIZERS` or `ALIASES`.
        options: option name to value.
        owner: what errors begin with, such as `Modality 'image'`.

    Raises:
        ValueError: an unknown kind, an unknown option or an impossible value.
    """
    kind = kind_of(kind, owner)
    allowed = option_names(kind)
    for name in options:
        if name not in allowed:
            raise ValueError(f"{owner}: kind {kind!r} has no option {name!r}; its options are {', '.join(allowed)}.")
    try:
        return SERIALIZERS[kind](**options)
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from error
