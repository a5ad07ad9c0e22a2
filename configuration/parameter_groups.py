"""Which modality-task pair and which interaction uses which copy of the shared parameters."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

GroupKind = Literal["unimodal", "crossmodal"]


def interaction_name(task: str, first: str, second: str) -> str:
    """Name of the unordered pair of two modalities of one task, `"task/first+second"`."""
    return f"{task}/{first}+{second}"


@dataclass
class ParameterGroups:
    """The cluster map: every node of the two heterogeneity matrices and the group of parameters it uses.

    Args:
        unimodal: modality-task pair `"task/modality"` to the index of its copy of the unimodal encoder.
        crossmodal: interaction `"task/a+b"` to the index of its copy of the crossmodal transformer.

    Groups are numbered from 0 without gaps in each of the two maps.

    Raises:
        ValueError: a group index is not a whole number, or an index is skipped; the message names the map.

    Source: Liang et al., TMLR 05/2023, section 2.2 (U_1, U_2, ... and C_1, C_2, ...).
    """

    unimodal: dict[str, int] = field(default_factory=dict)
    crossmodal: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ("unimodal", "crossmodal"):
            groups = getattr(self, kind)
            if not isinstance(groups, Mapping):
                raise ValueError(f"Parameter groups: {kind!r} must map nodes to group numbers, got {type(groups)}.")
            for node, group in groups.items():
                if isinstance(group, bool) or not isinstance(group, int):
                    raise ValueError(
                        f"Parameter groups: {kind} node {node!r} has group {group!r}, not a whole number."
                    )
            used = sorted(set(groups.values()))
            if used != list(range(len(used))):
                wrong = next(group for number, group in enumerate(used) if group != number)
                node = next(node for node, group in groups.items() if group == wrong)
                raise ValueError(
                    f"Parameter groups: {kind} groups must be numbered 0, 1, 2, ... without gaps; got {used}, and "
                    f"{node!r} has group {wrong}."
                )
            setattr(self, kind, dict(groups))

    @property
    def num_unimodal_groups(self) -> int:
        """|U|, the number of copies of the unimodal encoder (at least one)."""
        return max([0, *self.unimodal.values()]) + 1

    @property
    def num_crossmodal_groups(self) -> int:
        """|C|, the number of copies of the crossmodal transformer; 0 where there is no interaction."""
        return max([-1, *self.crossmodal.values()]) + 1

    @classmethod
    def share_all(cls, unimodal_nodes: Iterable[str], crossmodal_nodes: Iterable[str]) -> "ParameterGroups":
        """One group for all modality-task pairs and one for all interactions."""
        return cls(dict.fromkeys(unimodal_nodes, 0), dict.fromkeys(crossmodal_nodes, 0))

    @classmethod
    def share_none(cls, unimodal_nodes: Iterable[str], crossmodal_nodes: Iterable[str]) -> "ParameterGroups":
        """Every modality-task pair and every interaction in a group of its own."""
        return cls(
            {node: group for group, node in enumerate(unimodal_nodes)},
            {node: group for group, node in enumerate(crossmodal_nodes)},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ParameterGroups":
        """The groups in `{"unimodal": {...}, "crossmodal": {...}}`.

        Raises:
            ValueError: a key other than these two.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"Parameter groups must be a mapping with 'unimodal' and 'crossmodal', got {values!r}.")
        unknown = sorted(set(values) - {"unimodal", "crossmodal"})
        if unknown:
            raise ValueError(
                f"Parameter groups have no part {unknown[0]!r}; the parts are 'unimodal' and 'crossmodal'."
            )
        return cls(unimodal=values.get("unimodal", {}), crossmodal=values.get("crossmodal", {}))

    @classmethod
    def from_json_file(cls, path: str | Path) -> "ParameterGroups":
        """The groups in a JSON file.

        Raises:
            ValueError: the file is not JSON, not a cluster map, or names a node twice; the message names the file.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls.from_dict(json.loads(text, object_pairs_hook=_named_once))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, dict[str, int]]:
        """The groups as plain data, the form `from_dict` takes."""
        return {"unimodal": dict(self.unimodal), "crossmodal": dict(self.crossmodal)}

    def matched_to(self, unimodal_nodes: Iterable[str], crossmodal_nodes: Iterable[str]) -> "ParameterGroups":
        """The same groups in the order and spelling of the given nodes; `a+b` and `b+a` are one interaction.

        Raises:
            ValueError: a node without a group, or a group for a node that does not exist; both are listed. Or an
                interaction that is named in both spellings.
        """
        crossmodal_nodes = list(crossmodal_nodes)
        spelling = {}
        for node in crossmodal_nodes:
            task, pair = node.split("/", 1)
            first, second = pair.split("+", 1)
            spelling[interaction_name(task, second, first)] = node
        for turned, node in spelling.items():
            if turned != node and {turned, node} <= set(self.crossmodal):
                raise ValueError(
                    f"Parameter groups name one interaction twice, as {node!r} and as {turned!r}. Every node must be "
                    "named exactly once."
                )
        crossmodal = {spelling.get(node, node): group for node, group in self.crossmodal.items()}
        return ParameterGroups(
            _in_order("unimodal", self.unimodal, list(unimodal_nodes)),
            _in_order("crossmodal", crossmodal, crossmodal_nodes),
        )


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object, which could silently keep the last of two equal names."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Parameter groups name {twice!r} twice. Every node must be named exactly once.")
    return values


def _in_order(kind: str, groups: Mapping[str, int], nodes: list[str]) -> dict[str, int]:
    missing = [node for node in nodes if node not in groups]
    unknown = [node for node in groups if node not in nodes]
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"no group for {', '.join(missing)}")
        if unknown:
            parts.append(f"unknown {', '.join(unknown)}")
        raise ValueError(f"Parameter groups, {kind}: {'; '.join(parts)}. Every node must be named exactly once.")
    return {node: groups[node] for node in nodes}
