"""From heterogeneity to parameter groups: which modality-task pairs and which interactions share parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

from ..configuration import ParameterGroups
from .distances import HeterogeneityMatrix

Linkage = Literal["average", "complete", "single", "weighted"]
AutomaticMethod = Literal["auto", "share_all", "share_none"]
Floats = NDArray[np.float64]

# Kaufman and Rousseeuw's reading of a mean silhouette: up to here "no substantial structure has been found".
SILHOUETTE_THRESHOLD = 0.25
# Mean silhouettes that differ by no more than this are taken as equal, and the smaller number of groups is better.
SILHOUETTE_TIE = 0.02


def cluster_nodes(
    values: ArrayLike, nodes: Sequence[str], num_groups: int, linkage: Linkage = "average"
) -> dict[str, int]:
    """The group of each node after agglomerative clustering down to `num_groups` groups.

    Neither the order of the nodes nor the unit of the distances matters: equal distances are merged in the order of
    the nodes' names, and distances that differ by less than 1e-10 of the largest count as equal.

    Args:
        values: distances, `(n, n)`, symmetric, all known.
        nodes: names of the rows.
        num_groups: 1 to n; exactly so many groups come back.
        linkage: how the distance of two groups follows from their nodes' distances.

    Returns:
        Node to group in the order of `nodes`; groups are numbered from 0 by first appearance.

    Raises:
        ValueError: an impossible number of groups, an unknown linkage, or distances that are missing or impossible.

    Source: Liang et al., TMLR 05/2023, section 2.1 and appendix A.3.
    """
    tree = _Tree(values, nodes, linkage)
    return tree.groups(_whole_between("num_groups", num_groups, min(1, tree.num_nodes), tree.num_nodes))


def dendrogram_cut(
    values: ArrayLike, nodes: Sequence[str], num_groups: int, linkage: Linkage = "average"
) -> tuple[Floats, float]:
    """What a dendrogram of `cluster_nodes` needs: the tree and the height to cut it at.

    Args:
        values, nodes, num_groups, linkage: as in `cluster_nodes`; at least two nodes.

    Returns:
        Linkage matrix `(n - 1, 4)` as scipy defines it, leaves in the order of `nodes`, heights in the unit of
        `values`; and the height halfway between the last merge inside a group and the first between groups. Where
        these two are equal, no height separates exactly `num_groups` groups.

    Raises:
        ValueError: as in `cluster_nodes`, or fewer than two nodes.
    """
    tree = _Tree(values, nodes, linkage)
    if tree.num_nodes < 2:
        raise ValueError(f"A dendrogram needs at least two nodes, got {tree.num_nodes}.")
    _whole_between("num_groups", num_groups, 1, tree.num_nodes)
    heights = np.concatenate([[0.0], tree.heights, [1.1 * tree.heights[-1]]])
    merges = tree.num_nodes - num_groups
    return tree.linkage_matrix(), float((heights[merges] + heights[merges + 1]) / 2)


def silhouette_curve(
    values: ArrayLike, linkage: Linkage = "average", nodes: Sequence[str] | None = None
) -> dict[int, float]:
    """Mean silhouette of the clustering into 2, 3, ..., n - 1 groups; empty for fewer than three nodes.

    Between -1 and 1; high where nodes are close to their own group and far from the next. A group of one counts as 0.

    Args:
        values: distances, `(n, n)`, symmetric, all known.
        linkage: as in `cluster_nodes`.
        nodes: names of the rows, by which equal distances are ordered; in the order of the rows without.

    Raises:
        ValueError: as in `cluster_nodes`.
    """
    distances = np.asarray(values, dtype=float)
    names = [f"{index:09d}" for index in range(len(distances))] if nodes is None else nodes
    return _Tree(distances, names, linkage).silhouettes()


def cluster_parameter_groups(
    unimodal: HeterogeneityMatrix,
    interaction: HeterogeneityMatrix | None,
    *,
    num_unimodal_groups: int | None = None,
    num_crossmodal_groups: int | None = None,
    k: int | None = None,
    max_parameters: int | None = None,
    parameters_per_unimodal_group: int | None = None,
    parameters_per_crossmodal_group: int | None = None,
    method: AutomaticMethod = "auto",
    linkage: Linkage = "average",
) -> ParameterGroups:
    """The parameter groups of both matrices, by one of four ways to say how many.

    - *Two counts*, `num_unimodal_groups` and `num_crossmodal_groups`. Where only one is given, `method` decides the
      other.
    - *Joint k* = |U| + |C|: starting from one group for every node, the merge of the smallest height in either tree
      comes next. Heights are compared as they are, in the unit of the matrices (with `loss_scale="null"` the share of
      what there is to learn that sharing costs), not relative to each matrix: a matrix whose entries are all small
      is one whose nodes may share. The two matrices must therefore be measured with the same `loss_scale`.
    - *Parameter budget*: the merge that costs least height for each parameter it saves comes next, until all groups
      together have at most `max_parameters`.
    - *Automatic*, where no number is given: the smallest number whose mean silhouette (`silhouette_curve`) is within
      `SILHOUETTE_TIE` of the highest, and one group where the highest is below `SILHOUETTE_THRESHOLD` or fewer than
      three nodes leave nothing to compare. `method="share_all"` and `"share_none"` give one group, or a group for each
      node, instead.

    Args:
        unimodal, interaction: matrices, completed; None or no nodes where the suite has no interactions.
        num_unimodal_groups, num_crossmodal_groups, k: numbers of groups.
        max_parameters: largest number of parameters of all unimodal and crossmodal groups together (without heads).
        parameters_per_unimodal_group, parameters_per_crossmodal_group: parameters of one group of each kind.
        method: what decides a number that is not given.
        linkage: as in `cluster_nodes`.

    Returns:
        Every node's group, numbered by first appearance in the order of the matrices' nodes.

    Raises:
        ValueError: numbers that contradict each other or cannot be had, or matrices that do not belong together.

    Source: Liang et al., TMLR 05/2023, section 2.1 (k as the parameter budget), appendix A.3.
    """
    if method not in get_args(AutomaticMethod):
        raise ValueError(f"method={method!r} is not one of {', '.join(get_args(AutomaticMethod))}.")
    _check_kinds(unimodal, interaction)
    trees = [_Tree(unimodal.values, unimodal.nodes, linkage)]
    if interaction is not None:
        trees.append(_Tree(interaction.values, interaction.nodes, linkage))
    counts = (num_unimodal_groups, num_crossmodal_groups)
    ways = {"group counts": counts != (None, None), "k": k is not None, "max_parameters": max_parameters is not None}
    used = [way for way, given in ways.items() if given]
    if len(used) > 1:
        raise ValueError(f"The number of groups is given twice, by {' and by '.join(used)}; give one of them.")
    if k is None and max_parameters is None:
        chosen = [_single_count(*entry, method) for entry in zip(_COUNT_NAMES, trees, counts, strict=False)]
        if len(trees) == 1 and num_crossmodal_groups:
            raise ValueError(f"num_crossmodal_groups={num_crossmodal_groups}, but there is no interaction matrix.")
    else:
        _check_same_unit(unimodal, interaction)
        chosen = _joint_counts(
            trees, k, max_parameters, (parameters_per_unimodal_group, parameters_per_crossmodal_group)
        )
    groups = [tree.groups(count) for tree, count in zip(trees, chosen, strict=True)]
    return ParameterGroups(groups[0], groups[1] if len(groups) > 1 else {})


def random_parameter_groups(
    unimodal_nodes: Sequence[str],
    crossmodal_nodes: Sequence[str],
    num_unimodal_groups: int,
    num_crossmodal_groups: int,
    seed: int = 0,
) -> ParameterGroups:
    """Groups that ignore heterogeneity, the baseline; no group is empty.

    Args:
        unimodal_nodes, crossmodal_nodes: names of the nodes.
        num_unimodal_groups, num_crossmodal_groups: numbers of groups, at most one for each node (0 without nodes).
        seed: of the draw.

    Raises:
        ValueError: more groups than nodes, or none for nodes that exist.

    Source: Liang et al., TMLR 05/2023, table 5 ("random difference").
    """
    generator = np.random.default_rng(seed)
    maps = []
    for name, nodes, count in (
        (_COUNT_NAMES[0], unimodal_nodes, num_unimodal_groups),
        (_COUNT_NAMES[1], crossmodal_nodes, num_crossmodal_groups),
    ):
        _whole_between(name, count, min(1, len(nodes)), len(nodes))
        drawn = np.concatenate([np.arange(count), generator.integers(0, max(count, 1), len(nodes) - count)])
        maps.append(_numbered(list(nodes), generator.permutation(drawn).tolist()))
    return ParameterGroups(*maps)


_COUNT_NAMES = ("num_unimodal_groups", "num_crossmodal_groups")


class _Tree:
    """The merges of one matrix, from one group for every node to one for all."""

    def __init__(self, values: ArrayLike, nodes: Sequence[str], linkage: str) -> None:
        self.nodes = [str(node) for node in nodes]
        self.num_nodes = len(self.nodes)
        if linkage not in get_args(Linkage):
            raise ValueError(
                f"linkage={linkage!r} is not one of {', '.join(get_args(Linkage))}; these work on distances alone."
            )
        self.distances = _checked_distances(values, self.nodes)
        self.scale = float(self.distances.max(initial=0.0)) or 1.0
        # Sorted and rounded, so that ties do not hang on the order of the nodes or on the unit.
        self.order = np.argsort(np.array(self.nodes, dtype=object), kind="stable") if self.nodes else np.arange(0)
        if self.num_nodes > 1:
            shares = np.round(self.distances[np.ix_(self.order, self.order)] / self.scale, 10)
            self.merges = hierarchy.linkage(squareform(shares, checks=False), linkage)
        else:
            self.merges = np.empty((0, 4))

    @property
    def heights(self) -> Floats:
        """Height of each merge in the unit of the distances, `(n - 1,)`, rising."""
        return self.merges[:, 2] * self.scale

    def linkage_matrix(self) -> Floats:
        """scipy's linkage matrix with leaves numbered as `nodes` are."""
        matrix = self.merges.copy()
        leaves = np.concatenate([self.order, np.arange(self.num_nodes, 2 * self.num_nodes - 1)])
        matrix[:, :2] = np.sort(leaves[matrix[:, :2].astype(int)], axis=1)
        matrix[:, 2] = self.heights
        return matrix

    def groups(self, num_groups: int) -> dict[str, int]:
        """The first n - num_groups merges, so that ties do not change the number of groups."""
        labels = list(range(self.num_nodes))
        members = {index: [int(leaf)] for index, leaf in enumerate(self.order)}
        for step in range(self.num_nodes - num_groups):
            merged = members[int(self.merges[step, 0])] + members[int(self.merges[step, 1])]
            members[self.num_nodes + step] = merged
            for node in merged:
                labels[node] = self.num_nodes + step
        return _numbered(self.nodes, labels)

    def silhouettes(self) -> dict[int, float]:
        """See `silhouette_curve`."""
        curve = {}
        for num_groups in range(2, self.num_nodes):
            labels = list(self.groups(num_groups).values())
            curve[num_groups] = float(silhouette_score(self.distances / self.scale, labels, metric="precomputed"))
        return curve


def _single_count(name: str, tree: _Tree, count: int | None, method: AutomaticMethod) -> int:
    smallest = min(1, tree.num_nodes)
    if count is not None:
        return _whole_between(name, count, smallest, tree.num_nodes)
    if method == "share_none":
        return tree.num_nodes
    curve = tree.silhouettes() if method == "auto" else {}
    if not curve:
        return smallest
    best = max(curve.values())
    if best < SILHOUETTE_THRESHOLD:
        return smallest
    # Rounded, so that the order of the nodes does not matter.
    return min(number for number, value in curve.items() if round(best - value, 9) <= SILHOUETTE_TIE)


def _joint_counts(
    trees: Sequence[_Tree], k: int | None, max_parameters: int | None, parameters: tuple[int | None, int | None]
) -> list[int]:
    """Groups of each tree when merges are taken from both, the cheapest first."""
    counts = [tree.num_nodes for tree in trees]
    least = [min(1, count) for count in counts]
    weights = [1] * len(trees)
    if max_parameters is None:
        target = _whole_between("k", k, sum(least), sum(counts))
    else:
        weights = []
        for name, size, tree in zip(("unimodal", "crossmodal"), parameters, trees, strict=False):
            if tree.num_nodes and (size is None or size < 1):
                raise ValueError(f"max_parameters needs parameters_per_{name}_group, got {size!r}.")
            weights.append(size or 0)
        target = max_parameters
        smallest = sum(weight * count for weight, count in zip(weights, least, strict=True))
        if target < smallest:
            raise ValueError(
                f"max_parameters={target} is not enough for one group of each kind, which have {smallest} parameters."
            )
    while sum(weight * count for weight, count in zip(weights, counts, strict=True)) > target:
        costs = {
            index: tree.heights[tree.num_nodes - counts[index]] / weights[index]
            for index, tree in enumerate(trees)
            if counts[index] > 1
        }
        counts[min(costs, key=lambda index: (costs[index], index))] -= 1
    return counts


def _numbered(nodes: Sequence[str], labels: Sequence[int]) -> dict[str, int]:
    """Labels renumbered from 0 in the order of their first appearance."""
    numbers: dict[int, int] = {}
    return {node: numbers.setdefault(label, len(numbers)) for node, label in zip(nodes, labels, strict=True)}


def _whole_between(name: str, number: object, low: int, high: int) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not low <= number <= high:
        raise ValueError(f"{name}={number!r} must be a whole number from {low} to {high}, the number of nodes.")
    return int(number)


def _checked_distances(values: ArrayLike, nodes: Sequence[str]) -> Floats:
    distances = np.array(values, dtype=float)
    size = len(nodes)
    if size == 0 and distances.size == 0:
        return np.zeros((0, 0))
    if distances.shape != (size, size):
        raise ValueError(f"Distances of {size} nodes must have the shape ({size}, {size}), got {distances.shape}.")
    if len(set(nodes)) != size:
        raise ValueError(f"Node {next(node for node in nodes if list(nodes).count(node) > 1)!r} is listed twice.")
    np.fill_diagonal(distances, 0.0)
    largest = np.nanmax(np.abs(distances), initial=0.0, where=np.isfinite(distances))
    alike = np.isclose(distances, distances.T, rtol=1e-6, atol=1e-9 * largest)
    for claim, bad in (
        ("known and finite (complete the matrix first)", ~np.isfinite(distances)),
        ("not negative", distances < 0),
        ("symmetric", ~alike),
    ):
        if bad.any():
            i, j = (int(index) for index in np.argwhere(bad)[0])
            raise ValueError(f"Distances must be {claim}; {nodes[i]} and {nodes[j]} have {distances[i, j]}.")
    return np.asarray((distances + distances.T) / 2)


def _check_kinds(unimodal: HeterogeneityMatrix, interaction: HeterogeneityMatrix | None) -> None:
    if unimodal.kind != "unimodal":
        raise ValueError(f"The first matrix must be of kind 'unimodal', got {unimodal.kind!r}.")
    if interaction is None:
        return
    if interaction.kind != "interaction":
        raise ValueError(f"The second matrix must be of kind 'interaction', got {interaction.kind!r}.")
    if unimodal.suite_fingerprint != interaction.suite_fingerprint:
        raise ValueError(
            f"The two matrices belong to different suites, {unimodal.suite!r} ({unimodal.suite_fingerprint[:12]}) and "
            f"{interaction.suite!r} ({interaction.suite_fingerprint[:12]}); measure both on one."
        )


def _check_same_unit(unimodal: HeterogeneityMatrix, interaction: HeterogeneityMatrix | None) -> None:
    if interaction is None or not interaction.nodes:
        return
    methods = [matrix.settings.get("method", "transfer") for matrix in (unimodal, interaction)]
    for name, (one, other) in (
        ("loss_scale", (unimodal.loss_scale, interaction.loss_scale)),
        ("the method", methods),
    ):
        if one != other:
            raise ValueError(
                f"k and max_parameters compare both matrices, but {name} is {one!r} in one and {other!r} in the "
                "other. Measure both alike, or give the two numbers of groups."
            )


__all__ = [
    "SILHOUETTE_THRESHOLD",
    "SILHOUETTE_TIE",
    "AutomaticMethod",
    "Linkage",
    "cluster_nodes",
    "cluster_parameter_groups",
    "dendrogram_cut",
    "random_parameter_groups",
    "silhouette_curve",
]
