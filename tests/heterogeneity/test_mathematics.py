"""What must hold for any losses, from runs to groups: order, unit and noise."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from highmmt.heterogeneity import (
    cluster_nodes,
    co_membership,
    complete_matrix,
    estimate_missing,
    heterogeneity_distance,
)

SIZE = 6
NODES = [f"task/{letter}" for letter in "dbface"]


def losses(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(float, shape, elements=st.floats(0, 8, width=32))


def grouped(groups: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(node for node in groups if groups[node] == group) for group in groups.values()}


@given(transfers=losses(3, 4, 4), scratch=losses(3, 4), unit=st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]))
def test_distances_and_their_errors_are_in_the_unit_of_the_losses(
    transfers: np.ndarray, scratch: np.ndarray, unit: float
) -> None:
    plain, scaled = (
        heterogeneity_distance(transfers, scratch),
        heterogeneity_distance(unit * transfers, unit * scratch),
    )
    np.testing.assert_array_equal(scaled.values, unit * plain.values)
    np.testing.assert_allclose(scaled.transfer_standard_errors, unit * plain.transfer_standard_errors, rtol=1e-9)
    np.testing.assert_allclose(scaled.standard_errors, unit * plain.standard_errors, rtol=1e-6, atol=1e-7 * unit)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(SIZE)), count=st.integers(1, SIZE))
def test_from_losses_to_groups_the_order_of_the_nodes_does_not_matter(seed: int, order: list[int], count: int) -> None:
    generator = np.random.default_rng(seed)
    scratch, transfers = generator.random((2, SIZE)), generator.random((2, SIZE, SIZE)) + 0.3
    missing = generator.random((SIZE, SIZE)) < 0.3
    transfers[:, missing | missing.T] = np.nan

    def groups(order: list[int]) -> dict[str, int]:
        estimate = heterogeneity_distance(transfers[:, order][:, :, order], scratch[:, order])
        values, _ = estimate_missing(estimate.values)
        return cluster_nodes(values, [NODES[node] for node in order], count)

    assert grouped(groups(order)) == grouped(groups(list(range(SIZE))))


@settings(max_examples=25)
@given(
    values=arrays(float, (SIZE, SIZE), elements=st.floats(0, 9, width=32)),
    errors=arrays(float, (SIZE, SIZE), elements=st.floats(0, 3, width=32)),
    budget=st.integers(0, 15),
)
def test_completion_keeps_measured_entries_and_their_errors(
    values: np.ndarray, errors: np.ndarray, budget: int
) -> None:
    done = complete_matrix(lambda i, j: (values[i, j], errors[i, j]), SIZE, budget)
    for i, j in np.argwhere(np.triu(done.measured)):
        assert (done.values[i, j], done.standard_errors[i, j]) == (values[i, j], errors[i, j])
        assert (done.values[j, i], done.standard_errors[j, i]) == (values[i, j], errors[i, j])
    assert done.num_measured == budget


@settings(max_examples=25)
@given(
    upper=arrays(float, (3, SIZE, SIZE), elements=st.sampled_from([0.0, 1.0]) | st.floats(0, 9, width=32)),
    count=st.integers(1, SIZE),
    unit=st.sampled_from([0.125, 4.0]),
)
def test_shares_of_common_groups_are_shares(upper: np.ndarray, count: int, unit: float) -> None:
    values = np.triu(upper, 1) + np.swapaxes(np.triu(upper, 1), 1, 2)
    shares, alone = co_membership(values, NODES, count)
    assert ((shares >= 0) & (shares <= 1)).all() and (np.diagonal(shares) == 1).all()
    assert ((alone >= 0) & (alone <= 1)).all()
    # Who shares a group with no one is alone.
    others = shares.sum(axis=1) - 1
    assert (alone[others == 0] == 1).all() and (others[alone == 1] == 0).all()
    np.testing.assert_array_equal(shares, shares.T)
    np.testing.assert_array_equal(shares, co_membership(unit * values, NODES, count)[0])
    if count in (1, SIZE):
        np.testing.assert_array_equal(shares, np.ones((SIZE, SIZE)) if count == 1 else np.eye(SIZE))
