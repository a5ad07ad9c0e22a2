"""Plain data: exact copies, readable JSON, and the digest that names cached encodings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def plain_copy(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy as JSON has it (tuples become lists), so that what is saved equals what is loaded.

    Raises:
        ValueError: something that JSON cannot hold, such as NaN or an array; the message begins with `name`.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be a mapping, got {type(values).__name__}.")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold plain data (numbers, texts, lists, mappings): {error}") from error
    return copied


def readable_json(value: Any, indent: str = "") -> str:
    """JSON with one mapping entry to a line and lists on one line; floats read back exactly."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    lines = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {readable_json(item, inner)}" for key, item in value.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def code_digest() -> str:
    """Digest of this room's source, so that cached encodings never outlive the code that made them."""
    digest = hashlib.sha256()
    for file in sorted(files(__package__).iterdir(), key=lambda item: item.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()
