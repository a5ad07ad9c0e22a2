"""The parameter groups of a run folder: how many, which, how sure; and the files that keep them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration import ParameterGroups, interaction_name
from ..configuration.files import read_json, write_json
from ..heterogeneity import (
    MEASURING_VERSION,
    GroupStability,
    HeterogeneityMatrix,
    cluster_parameter_groups,
    group_stability,
)
from ..heterogeneity.clustering import Linkage
from ..heterogeneity.distances import MatrixKind
from ..processing import HighMMTProcessor
from ..suites import Suite
from ..train import build_config, build_model
from ..train.settings import differences
from .run_folder import read_record

KINDS: tuple[MatrixKind, ...] = ("unimodal", "interaction")


def check_matrices(matrices: Mapping[MatrixKind, HeterogeneityMatrix], folder: Path) -> None:
    """Refuse matrices that are not two parts of one measurement of the run folder's suite.

    Args:
        matrices: of both kinds, from `folder`.
        folder: run folder; its `run.json`, where there is one, says which suite it belongs to.

    Raises:
        ValueError: a version of the measurement that is not today's, settings or suites that differ; the message names
            the file.
    """
    paths = {kind: folder / "heterogeneity" / f"{kind}.json" for kind in KINDS}
    for kind, matrix in matrices.items():
        if matrix.version != MEASURING_VERSION:
            raise ValueError(
                f"{paths[kind]} was measured by version {matrix.version} of the measurement, now it is "
                f"{MEASURING_VERSION}; delete the file and measure again."
            )
    unimodal, interaction = (matrices[kind] for kind in KINDS)
    if changed := differences(unimodal.settings, interaction.settings):
        more = [f"and {len(changed) - 3} more"] if len(changed) > 3 else []
        raise ValueError(
            f"{paths['unimodal']} (there) and {paths['interaction']} (now) were measured with different settings "
            f"({', '.join([*changed[:3], *more])}). Delete one of them and measure it again like the other."
        )
    note = folder / "run.json"
    fingerprint = read_record(note, ("fingerprint",))["fingerprint"] if note.exists() else unimodal.suite_fingerprint
    for kind, matrix in matrices.items():
        if matrix.suite_fingerprint != fingerprint:
            raise ValueError(
                f"{paths[kind]} was measured on another suite or other data than "
                f"{note if note.exists() else paths['unimodal']} names; delete the file and measure again."
            )


@dataclass(frozen=True)
class GroupSizes:
    """Parameters of one unimodal group and of one crossmodal group of a suite's model, heads not counted."""

    unimodal: int
    crossmodal: int

    @classmethod
    def of(cls, suite: Suite, processor: HighMMTProcessor) -> GroupSizes:
        """Counted in the model itself, before it is cloned into groups."""
        parts = build_model(build_config(suite, processor), seed=0).num_parameters_by_component()
        return cls(parts["unimodal"], parts["crossmodal"])


def choose_groups(
    matrices: Mapping[MatrixKind, HeterogeneityMatrix],
    sizes: Callable[[], GroupSizes],
    *,
    num_unimodal_groups: int | None = None,
    num_crossmodal_groups: int | None = None,
    k: int | None = None,
    max_parameters: int | None = None,
    linkage: Linkage = "average",
) -> ParameterGroups:
    """Parameter groups by clustering both matrices; a node that could not be measured has a group of its own.

    Args:
        matrices: completed.
        sizes: called only for `max_parameters`, which holds for all groups, those of nodes left out included.
        num_unimodal_groups, num_crossmodal_groups, k, max_parameters, linkage: as `cluster_parameter_groups` takes
            them.

    Raises:
        ValueError: numbers that contradict each other or cannot be had.
    """
    parts: dict[str, Any] = {}
    if max_parameters is not None:
        found = sizes()
        left_out = [len(matrices[kind].excluded) for kind in KINDS]
        kept = max_parameters - left_out[0] * found.unimodal - left_out[1] * found.crossmodal
        if kept <= 0 < sum(left_out):
            raise ValueError(
                f"max_parameters={max_parameters} is not enough for the nodes that could not be measured, which have "
                f"groups of their own with {max_parameters - kept} parameters."
            )
        max_parameters = kept
        parts = {
            "parameters_per_unimodal_group": found.unimodal,
            "parameters_per_crossmodal_group": found.crossmodal,
        }
    groups = cluster_parameter_groups(
        matrices["unimodal"],
        matrices["interaction"],
        num_unimodal_groups=num_unimodal_groups,
        num_crossmodal_groups=num_crossmodal_groups,
        k=k,
        max_parameters=max_parameters,
        linkage=linkage,
        **parts,
    )
    return with_excluded(groups, matrices.values())


def with_excluded(groups: ParameterGroups, matrices: Iterable[HeterogeneityMatrix]) -> ParameterGroups:
    """The groups, and one more for each node that could not be measured: what nothing is known of shares nothing."""
    maps = {"unimodal": dict(groups.unimodal), "interaction": dict(groups.crossmodal)}
    for matrix in matrices:
        members = maps[matrix.kind]
        for node in matrix.excluded:
            members[node] = max(members.values(), default=-1) + 1
    return ParameterGroups(maps["unimodal"], maps["interaction"])


def groups_by_hand(path: Path, unimodal_nodes: Iterable[str], crossmodal_nodes: Iterable[str]) -> ParameterGroups:
    """The groups in a file that somebody wrote, in the order of the nodes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a node is missing, unknown or named twice, or a number is left out; file and node are named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of parameter groups.")
    groups = ParameterGroups.from_json_file(path)
    try:
        return groups.matched_to(unimodal_nodes, crossmodal_nodes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def group_numbers(groups: ParameterGroups, kind: MatrixKind, nodes: Iterable[str]) -> list[int] | None:
    """Group of each node of a matrix, in its order; None where one has none. `a+b` and `b+a` are one interaction."""
    members = groups.unimodal if kind == "unimodal" else groups.crossmodal
    numbers = []
    for node in nodes:
        task, _, pair = node.partition("/")
        first, _, second = pair.partition("+")
        number = members.get(node, members.get(interaction_name(task, second, first)))
        if number is None:
            return None
        numbers.append(number)
    return numbers


def stability_file(groups_file: Path) -> Path:
    """Where the stability of the groups in a file is kept: `parameter_groups.stability.json`."""
    return groups_file.with_name(f"{groups_file.stem}.stability.json")


def save_stability(
    groups_file: Path, groups: ParameterGroups, matrices: Mapping[MatrixKind, HeterogeneityMatrix], linkage: Linkage
) -> dict[MatrixKind, GroupStability]:
    """How sure the groups of each matrix are, also written beside the groups' file where it is not there already."""
    found: dict[MatrixKind, GroupStability] = {}
    for kind in KINDS:
        numbers = group_numbers(groups, kind, matrices[kind].nodes)
        if numbers:
            found[kind] = group_stability(matrices[kind], numbers, linkage=linkage)
    write_changed(stability_file(groups_file), {kind: stability.to_dict() for kind, stability in found.items()})
    return found


def read_stability(path: Path) -> dict[MatrixKind, GroupStability]:
    """What `save_stability` has written.

    Raises:
        ValueError: the file is broken; the message names it.
    """
    values = read_json(path)
    try:
        unknown = sorted(set(values) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown part {unknown[0]!r}")
        return {kind: GroupStability.from_dict(values[kind]) for kind in KINDS if kind in values}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error} Delete the file to have it made again.") from error


def write_changed(path: Path, values: Any) -> None:
    """Write plain data as JSON, unless the file holds just that: what does not change keeps its date."""
    try:
        same = json.dumps(read_json(path)) == json.dumps(values)
    except (OSError, ValueError):
        same = False
    if not same:
        write_json(path, values)


__all__ = [
    "KINDS",
    "GroupSizes",
    "check_matrices",
    "choose_groups",
    "group_numbers",
    "groups_by_hand",
    "read_stability",
    "save_stability",
    "stability_file",
    "with_excluded",
    "write_changed",
]
