"""The kinds of raw data, by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from .audio import AudioSerializer
from .graphs import GraphSerializer
from .images import ImageSerializer, VideoSerializer
from .sequences import SetSerializer, SpectrumSerializer, TextSerializer, TimeSeriesSerializer
from .serializers import Serializer
from .tables import TableSerializer

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
    )
}


def option_names(kind: str) -> list[str]:
    """The options of a kind, in alphabetical order."""
    return sorted(field.name for field in dataclasses.fields(SERIALIZERS[kind]) if field.name != "tokenizer")


def build_serializer(kind: Any, options: dict[str, Any], owner: str) -> Serializer:
    """The serializer of a kind with its options checked.

    Args:
        kind: one of `SERIALIZERS`.
        options: option name to value.
        owner: what errors begin with, such as `Modality 'image'`.

    Raises:
        ValueError: an unknown kind, an unknown option or an impossible value.
    """
    if not isinstance(kind, str) or kind not in SERIALIZERS:
        raise ValueError(f"{owner}: unknown kind {kind!r}; kinds are {', '.join(SERIALIZERS)}.")
    allowed = option_names(kind)
    for name in options:
        if name not in allowed:
            raise ValueError(f"{owner}: kind {kind!r} has no option {name!r}; its options are {', '.join(allowed)}.")
    try:
        return SERIALIZERS[kind](**options)
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from error
