"""Clustering into parameter groups: order and unit do not matter, counts are kept, published splits come out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.cluster.hierarchy import dendrogram, fcluster
from sklearn.metrics import adjusted_rand_score

from highmmt.configuration import ParameterGroups
from highmmt.heterogeneity.clustering import (
    SILHOUETTE_TIE,
    cluster_nodes,
    cluster_parameter_groups,
    dendrogram_cut,
    random_parameter_groups,
    silhouette_curve,
)
from highmmt.heterogeneity.distances import HeterogeneityMatrix

# Liang et al., TMLR 05/2023, figure 5 (lower triangles, row by row).
UNIMODAL = (
    "0.4  20 20  4.1 5 .2  0 .2 20 4.1  0 0 20 4.1 0  2.5 .3 20 6 .3 0  0 .2 20 4.2 0 0 .4  "
    ".2 .3 20 4.4 0 0 .5 .1  0 .8 20 4.6 0 0 0 0 0"
)
INTERACTION = "23  .8 22  .4 24 .2  .4 24 .2 .3  .4 22 0 0 0  .4 22 0 0 .1 0  .5 22 0 0 .2 0 .9"
PAIRS = [
    *("mimic/table", "mimic/time_series", "avmnist/image", "avmnist/audio", "urfunny/video", "urfunny/audio"),
    *("urfunny/text", "mosei/video", "mosei/audio", "mosei/text"),
]
INTERACTIONS = [
    *("mimic/table+time_series", "avmnist/image+audio", "mosei/video+audio", "mosei/video+text"),
    *("urfunny/audio+text", "mosei/audio+text", "urfunny/video+audio", "urfunny/video+text"),
]
LINKAGES = ["average", "complete", "single", "weighted"]


def from_triangle(numbers: str) -> np.ndarray:
    entries = np.array(numbers.split(), dtype=float)
    size = round((1 + np.sqrt(1 + 8 * len(entries))) / 2)
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size, -1)] = entries
    return matrix + matrix.T


def matrix(kind: str, nodes: list[str], values: np.ndarray, **changes: object) -> HeterogeneityMatrix:
    return HeterogeneityMatrix(
        kind=kind,  # type: ignore[arg-type]
        nodes=nodes,
        transfer=np.full(values.shape, np.nan),
        values=values,
        standard_errors=np.full(values.shape, np.nan),
        measured=~np.eye(len(values), dtype=bool),
        **changes,  # type: ignore[arg-type]
    )


def published() -> tuple[HeterogeneityMatrix, HeterogeneityMatrix]:
    return (
        matrix("unimodal", PAIRS, from_triangle(UNIMODAL)),
        matrix("interaction", INTERACTIONS, from_triangle(INTERACTION)),
    )


@st.composite
def distance_matrices(draw: st.DrawFn) -> np.ndarray:
    size = draw(st.integers(2, 8))
    # Few distinct values: ties are where order could leak in.
    entries = st.sampled_from([0.0, 0.1, 0.2, 0.7, 4.1, 20.0]) | st.floats(0, 30, width=32)
    upper = np.triu(draw(arrays(float, (size, size), elements=entries)), 1)
    return upper + upper.T


def grouped(groups: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(node for node in groups if groups[node] == group) for group in groups.values()}


@settings(max_examples=60)
@given(values=distance_matrices(), data=st.data())
def test_neither_order_nor_unit_of_the_distances_changes_the_groups(values: np.ndarray, data: st.DataObject) -> None:
    size = len(values)
    nodes = [f"task/{letter}" for letter in "hcbdagfe"[:size]]
    count = data.draw(st.integers(1, size))
    linkage = data.draw(st.sampled_from(LINKAGES))
    order = data.draw(st.permutations(range(size)))
    unit = data.draw(st.sampled_from([1e-6, 0.3, 7.0, 1e5]))
    plain = cluster_nodes(values, nodes, count, linkage)
    turned = cluster_nodes(unit * values[np.ix_(order, order)], [nodes[k] for k in order], count, linkage)
    assert grouped(plain) == grouped(turned)
    for groups in (plain, turned):
        assert len(set(groups.values())) == count
        first_seen = list(dict.fromkeys(groups.values()))
        assert first_seen == list(range(count))


@settings(max_examples=40)
@given(values=distance_matrices())
def test_more_groups_split_groups_and_never_mix_them(values: np.ndarray) -> None:
    nodes = [str(node) for node in range(len(values))]
    for count in range(1, len(values)):
        coarse, fine = grouped(cluster_nodes(values, nodes, count)), grouped(cluster_nodes(values, nodes, count + 1))
        assert all(any(part <= whole for whole in coarse) for part in fine)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_families_are_found_by_every_linkage(linkage: str) -> None:
    family = np.array([0, 1, 2, 0, 1, 2, 2, 0])
    generator = np.random.default_rng(0)
    values = np.where(family[:, None] == family[None], 0.1, 1.0) * generator.uniform(0.8, 1.2, (8, 8))
    values = np.triu(values, 1) + np.triu(values, 1).T
    nodes = [str(node) for node in range(8)]
    found = cluster_nodes(values, nodes, 3, linkage)  # type: ignore[arg-type]
    assert adjusted_rand_score(family, list(found.values())) == 1
    curve = silhouette_curve(values, linkage)  # type: ignore[arg-type]
    assert max(curve, key=curve.__getitem__) == 3


def test_linkages_differ_where_they_should() -> None:
    # A chain: single linkage follows it, complete linkage halves it.
    points = np.array([0.0, 1.0, 2.1, 3.3, 4.6, 6.0])
    values = np.abs(points[:, None] - points[None])
    nodes = list("abcdef")
    assert grouped(cluster_nodes(values, nodes, 2, "single")) == {frozenset("abcde"), frozenset("f")}
    assert grouped(cluster_nodes(values, nodes, 2, "complete")) == {frozenset("abcd"), frozenset("ef")}


def test_the_published_matrices_split_off_av_mnist() -> None:
    unimodal, interaction = published()
    for count in (2, 3):
        assert frozenset({"avmnist/image", "avmnist/audio"}) in grouped(cluster_nodes(unimodal.values, PAIRS, count))
        assert frozenset({"avmnist/image+audio"}) in grouped(cluster_nodes(interaction.values, INTERACTIONS, count))


def test_a_joint_k_of_six_gives_three_and_three_on_the_published_matrices() -> None:
    groups = cluster_parameter_groups(*published(), k=6)
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == (3, 3)


@pytest.mark.parametrize("k", range(2, 19))
def test_a_joint_k_is_kept_and_takes_the_cheapest_merges(k: int) -> None:
    unimodal, interaction = published()
    groups = cluster_parameter_groups(unimodal, interaction, k=k)
    assert groups.num_unimodal_groups + groups.num_crossmodal_groups == k
    heights = [dendrogram_cut(m.values, m.nodes, 1)[0][:, 2] for m in (unimodal, interaction)]
    done = [heights[0][: 10 - groups.num_unimodal_groups], heights[1][: 8 - groups.num_crossmodal_groups]]
    left = [heights[0][10 - groups.num_unimodal_groups :], heights[1][8 - groups.num_crossmodal_groups :]]
    assert np.concatenate(done).max(initial=0) <= np.concatenate(left).min(initial=np.inf)


def test_counts_by_hand_are_kept_and_a_missing_one_is_found() -> None:
    unimodal, interaction = published()
    groups = cluster_parameter_groups(unimodal, interaction, num_unimodal_groups=4, num_crossmodal_groups=3)
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == (4, 3)
    assert list(groups.unimodal) == PAIRS and list(groups.crossmodal) == INTERACTIONS
    assert cluster_parameter_groups(unimodal, interaction, num_unimodal_groups=4).num_crossmodal_groups == 2


def test_of_numbers_with_nearly_the_same_silhouette_the_smallest_is_taken() -> None:
    # Two clear pairs of pairs: whether two or four groups are better hangs on how far the pairs are from each other.
    def chosen(gap: float) -> tuple[int, dict[int, float]]:
        points = np.array([0, 1, gap, gap + 1, 50, 51, 50 + gap, 51 + gap])
        values = np.abs(points[:, None] - points[None])
        groups = cluster_parameter_groups(matrix("unimodal", [f"a/{name}" for name in "abcdefgh"], values), None)
        return groups.num_unimodal_groups, silhouette_curve(values)

    taken = {}
    for gap in np.arange(3, 30, 0.5):
        number, curve = chosen(gap)
        taken[number] = taken.get(number, 0) + (curve[number] < max(curve.values()))
        assert curve[number] >= max(curve.values()) - SILHOUETTE_TIE - 1e-9
        assert all(curve[fewer] < max(curve.values()) - SILHOUETTE_TIE for fewer in range(2, number))
    assert set(taken) == {2, 4} and taken[2] > 0 and taken[4] == 0


def test_automatic_groups_follow_the_silhouette() -> None:
    unimodal, interaction = published()
    curve = silhouette_curve(unimodal.values)
    assert list(curve) == list(range(2, 10)) and max(curve, key=curve.__getitem__) == 2
    groups = cluster_parameter_groups(unimodal, interaction)
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == (2, 2)


def test_nodes_without_structure_share_one_group() -> None:
    generator = np.random.default_rng(0)
    noise = np.triu(generator.uniform(0.9, 1.1, (8, 8)), 1)
    nodes = [f"t{node}/x" for node in range(8)]
    assert cluster_parameter_groups(matrix("unimodal", nodes, noise + noise.T), None).num_unimodal_groups == 1
    assert cluster_parameter_groups(matrix("unimodal", nodes, np.zeros((8, 8))), None).num_unimodal_groups == 1


def test_the_extremes_are_share_all_and_share_none() -> None:
    unimodal, interaction = published()
    everything = cluster_parameter_groups(unimodal, interaction, method="share_all")
    assert everything == ParameterGroups.share_all(PAIRS, INTERACTIONS)
    assert everything == cluster_parameter_groups(unimodal, interaction, k=2)
    nothing = cluster_parameter_groups(unimodal, interaction, method="share_none")
    assert nothing == ParameterGroups.share_none(PAIRS, INTERACTIONS)
    assert nothing == cluster_parameter_groups(unimodal, interaction, k=18)


@pytest.mark.parametrize("budget", [30, 47, 100, 150, 10_000])
def test_a_parameter_budget_is_kept_and_used(budget: int) -> None:
    groups = cluster_parameter_groups(
        *published(), max_parameters=budget, parameters_per_unimodal_group=10, parameters_per_crossmodal_group=20
    )
    used = 10 * groups.num_unimodal_groups + 20 * groups.num_crossmodal_groups
    assert used <= budget
    assert used + 20 > budget or used == 10 * 10 + 20 * 8


def test_a_parameter_budget_merges_where_most_parameters_are_saved() -> None:
    nodes = ["a/x", "b/x"]
    near, far = np.array([[0, 1.0], [1.0, 0]]), np.array([[0, 1.5], [1.5, 0]])
    unimodal = matrix("unimodal", nodes, near)
    interaction = matrix("interaction", ["a/x+y", "b/x+y"], far)
    costs = {"parameters_per_unimodal_group": 1, "parameters_per_crossmodal_group": 10}
    assert cluster_parameter_groups(unimodal, interaction, k=3).num_crossmodal_groups == 2
    assert cluster_parameter_groups(unimodal, interaction, max_parameters=21, **costs).num_crossmodal_groups == 1


def test_a_suite_without_interactions_has_no_crossmodal_groups() -> None:
    unimodal, _ = published()
    empty = matrix("interaction", [], np.zeros((0, 0)))
    for interaction in (None, empty):
        for options in ({"k": 3}, {"num_unimodal_groups": 3}):
            groups = cluster_parameter_groups(unimodal, interaction, **options)
            assert groups.num_unimodal_groups == 3 and groups.crossmodal == {}
        budget = cluster_parameter_groups(unimodal, interaction, max_parameters=40, parameters_per_unimodal_group=10)
        assert budget.num_unimodal_groups == 4


def test_one_node_is_one_group() -> None:
    one = matrix("unimodal", ["a/x"], np.zeros((1, 1)))
    assert cluster_parameter_groups(one, None).unimodal == {"a/x": 0}
    assert cluster_parameter_groups(one, None, k=1).unimodal == {"a/x": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "k=1 must be a whole number from 2 to 18"),
        ({"k": 19}, "k=19"),
        ({"num_unimodal_groups": 0}, "num_unimodal_groups=0 must be a whole number from 1 to 10"),
        ({"num_crossmodal_groups": 9}, "num_crossmodal_groups=9 must be a whole number from 1 to 8"),
        ({"num_unimodal_groups": 2.0}, "num_unimodal_groups=2.0"),
        ({"k": 4, "num_unimodal_groups": 2}, "twice, by group counts and by k"),
        ({"k": 4, "max_parameters": 2}, "twice, by k and by max_parameters"),
        ({"max_parameters": 100}, "needs parameters_per_unimodal_group"),
        (
            {"max_parameters": 5, "parameters_per_unimodal_group": 3, "parameters_per_crossmodal_group": 4},
            "max_parameters=5 is not enough.* 7 parameters",
        ),
        ({"linkage": "ward"}, "linkage='ward' is not one of average"),
        ({"method": "elbow"}, "method='elbow' is not one of auto"),
    ],
)
def test_numbers_of_groups_that_cannot_be_had_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_parameter_groups(*published(), **options)  # type: ignore[arg-type]


def test_matrices_that_do_not_belong_together_are_refused() -> None:
    unimodal, interaction = published()
    with pytest.raises(ValueError, match="kind 'unimodal', got 'interaction'"):
        cluster_parameter_groups(interaction, unimodal)
    with pytest.raises(ValueError, match="kind 'interaction', got 'unimodal'"):
        cluster_parameter_groups(unimodal, unimodal)
    other = matrix("interaction", INTERACTIONS, interaction.values, suite="other", suite_fingerprint="ff")
    with pytest.raises(ValueError, match="different suites.*'other'"):
        cluster_parameter_groups(unimodal, other)
    unscaled = matrix("interaction", INTERACTIONS, interaction.values, loss_scale="none")
    with pytest.raises(ValueError, match="'null' in one and 'none' in the other"):
        cluster_parameter_groups(unimodal, unscaled, k=6)
    by_features = matrix("interaction", INTERACTIONS, interaction.values, settings={"method": "feature"})
    with pytest.raises(ValueError, match="the method is 'transfer' in one and 'feature' in the other"):
        cluster_parameter_groups(unimodal, by_features, max_parameters=100)
    with pytest.raises(ValueError, match="no interaction matrix"):
        cluster_parameter_groups(unimodal, None, num_crossmodal_groups=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, np.nan], [np.nan, 0]], "complete the matrix first.*; a/x and a/y have nan"),
        ([[0, -1], [-1, 0]], "not negative; a/x and a/y have -1"),
        ([[0, 1], [2, 0]], "symmetric; a/x and a/y"),
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0]], r"2 nodes must have the shape \(2, 2\)"),
    ],
)
def test_tables_that_hold_no_distances_are_refused(values: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_nodes(values, ["a/x", "a/y"], 1)
    with pytest.raises(ValueError, match="'a/x' is listed twice"):
        cluster_nodes(np.zeros((2, 2)), ["a/x", "a/x"], 1)


@given(sizes=st.tuples(st.integers(1, 9), st.integers(0, 9)), data=st.data(), seed=st.integers(0, 1000))
def test_random_groups_are_never_empty(sizes: tuple[int, int], data: st.DataObject, seed: int) -> None:
    counts = [data.draw(st.integers(min(1, size), size)) for size in sizes]
    nodes = [[f"t/{kind}{node}" for node in range(size)] for kind, size in zip("uc", sizes, strict=True)]
    groups = random_parameter_groups(*nodes, *counts, seed)
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == tuple(counts)
    assert [list(groups.unimodal), list(groups.crossmodal)] == nodes
    assert groups == random_parameter_groups(*nodes, *counts, seed)


def test_random_groups_change_with_the_seed_and_their_number_is_checked() -> None:
    drawn = {tuple(random_parameter_groups(PAIRS, [], 3, 0, seed).unimodal.values()) for seed in range(10)}
    assert len(drawn) > 5
    with pytest.raises(ValueError, match="num_unimodal_groups=11"):
        random_parameter_groups(PAIRS, [], 11, 0)
    with pytest.raises(ValueError, match="num_crossmodal_groups=1"):
        random_parameter_groups(PAIRS, [], 2, 1)


@settings(max_examples=40)
@given(values=distance_matrices(), data=st.data())
def test_the_dendrogram_shows_the_groups(values: np.ndarray, data: st.DataObject) -> None:
    nodes = [f"task/{letter}" for letter in "hcbdagfe"[: len(values)]]
    count = data.draw(st.integers(1, len(values)))
    tree, height = dendrogram_cut(values, nodes, count)
    leaves = dendrogram(tree, labels=nodes, no_plot=True)["ivl"]
    assert sorted(leaves) == sorted(nodes)
    heights = np.concatenate([[0.0], tree[:, 2], [np.inf]])
    inside, outside = heights[len(nodes) - count], heights[len(nodes) - count + 1]
    assert inside <= height <= outside
    if inside < height < outside:
        flat = fcluster(tree, height, "distance")
        assert adjusted_rand_score(flat, list(cluster_nodes(values, nodes, count).values())) == 1


def test_a_dendrogram_needs_two_nodes() -> None:
    with pytest.raises(ValueError, match="at least two nodes"):
        dendrogram_cut([[0.0]], ["a/x"], 1)
    assert silhouette_curve(np.zeros((2, 2))) == {}
