"""YAML files read together with the line of every key, so that an error can point at it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

_MOST_NAMES = 40  # longer lists of names are cut in errors
_MOST_NODES = 200_000  # aliases of aliases can make a short file endless


@dataclass(frozen=True)
class Document:
    """A mapping read from YAML (or given as a dict), which knows where its keys stand.

    Args:
        data: the content, plain dicts, lists and values.
        name: what errors call it: the file, or a description where there is none.
        lines: line (from 1) of each key, by its path, for instance `("tasks", "digits", "metric")`.
    """

    data: dict[str, Any]
    name: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """The place of a key, `"file.yaml, line 12, tasks.digits.metric"`; its parent's line if it has none."""
        line = next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)
        parts = [self.name] + ([f"line {line}"] if line else []) + ([".".join(map(str, path))] if path else [])
        return ", ".join(parts)

    def error(self, path: KeyPath, message: str) -> ValueError:
        """A one-line error about the key at `path`; the caller raises it."""
        return ValueError(f"{self.where(path)}: {one_line(message)}")

    def check_keys(self, path: KeyPath, value: Any, allowed: Iterable[str], required: Iterable[str] = ()) -> None:
        """Refuse a value that is no mapping, has a key outside `allowed` or lacks one of `required`.

        Raises:
            ValueError: with the place of the key and the nearest allowed one.
        """
        allowed = list(allowed)
        self.check_mapping(path, value)
        for key in value:
            if key not in allowed:
                raise self.error((*path, key), f"unknown key {key!r}{did_you_mean(key, allowed, 'Keys')}")
        for key in required:
            if key not in value:
                raise self.error(path, f"the key {key!r} is missing.")

    def check_mapping(self, path: KeyPath, value: Any) -> None:
        """Refuse a value that is not a mapping with text keys.

        Raises:
            ValueError: with the place of the value.
        """
        if not isinstance(value, Mapping):
            raise self.error(path, f"must be a mapping (key: value), got {value!r}.")
        for key in value:
            if not isinstance(key, str):
                raise self.error((*path, key), f"key {key!r} is not text; put it in quotes.")


def one_line(message: object, limit: int = 400) -> str:
    """A message without line breaks or runs of blanks, cut to `limit` characters."""
    text = " ".join(str(message).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(word: object, known: Iterable[str], what: str) -> str:
    """The end of an error about an unknown word: `"; did you mean 'metric'? Keys: source, metric."`."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    shown = [*known[:_MOST_NAMES], *([f"and {len(known) - _MOST_NAMES} more"] if len(known) > _MOST_NAMES else [])]
    start = f"; did you mean {near[0]!r}? " if near else ". "
    return f"{start}{what}: {', '.join(shown) or 'none'}."


def read_yaml(path: str | Path) -> Document:
    """The mapping in a YAML file, with the line of each key.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not text, not YAML, not a mapping, or names a key twice; the message gives the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file (UTF-8), so it cannot be YAML: {one_line(error)}") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file.") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        data = None
        if node is not None:
            _collect_lines(node, (), lines, path, ())
            data = loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{path}{line}: not readable as YAML: {_problem(error)}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if data is None:
        raise ValueError(f"{path}: the file is empty.")
    document = Document(data, str(path), lines)
    document.check_mapping((), data)
    return document


def _problem(error: Exception) -> str:
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    return one_line(", ".join(part for part in parts if part) or error)


def _collect_lines(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], file: Path, parents: tuple[int, ...]
) -> None:
    """Fill `lines` from the marks of a composed tree; refuse repeated keys and trees without an end."""
    if id(node) in parents or len(lines) > _MOST_NODES:
        raise ValueError(f"{file}, line {node.start_mark.line + 1}: aliases that repeat themselves are not supported.")
    parents = (*parents, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key_node.tag != "tag:yaml.org,2002:merge":
                if key in seen:
                    raise ValueError(f"{file}, line {line}: the key {key!r} stands here and on line {seen[key]}.")
                seen[key] = line
                here = (*path, key)
                lines[here] = line
                _collect_lines(value_node, here, lines, file, parents)
    elif isinstance(node, yaml.SequenceNode):
        for position, child in enumerate(node.value):
            here = (*path, position)
            lines[here] = child.start_mark.line + 1
            _collect_lines(child, here, lines, file, parents)


__all__ = ["Document", "did_you_mean", "one_line", "read_yaml"]
