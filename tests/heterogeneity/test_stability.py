"""How sure groups are: seeds drawn again, errors, and what is said where there is nothing to draw from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from highmmt.heterogeneity import (
    GroupStability,
    HeterogeneityMatrix,
    co_membership,
    group_stability,
    heterogeneity_distance,
    scale_losses,
)

NODES = ["a/x", "b/x", "c/x"]
BETWEEN = np.array([[0, 1.0, 2.0], [1.0, 0, 1.0], [2.0, 1.0, 0]])
PARTED = np.array([[0, 0.1, 2.0], [0.1, 0, 2.0], [2.0, 2.0, 0]])


def matrix(values: np.ndarray, errors: float = np.nan, measured: bool = True, **changes: Any) -> HeterogeneityMatrix:
    off_diagonal = ~np.eye(len(values), dtype=bool)
    return HeterogeneityMatrix(
        kind="unimodal",
        nodes=NODES[: len(values)],
        transfer=np.full(values.shape, np.nan),
        values=values,
        standard_errors=np.where(off_diagonal, errors, 0.0),
        measured=off_diagonal & measured,
        **changes,
    )


def seeded(transfer: np.ndarray, scratch: np.ndarray, **changes: Any) -> HeterogeneityMatrix:
    """A matrix whose distances follow from the losses that it keeps, as the measurement writes it."""
    null = {"a/x": 2.0, "b/x": 1.0, "c/x": 4.0}
    higher = {"a/x": True, "b/x": False, "c/x": True}
    scale = changes.get("loss_scale", "null")
    options = {"null_losses": list(null.values()), "higher_is_better": list(higher.values())}
    scaled = [scale_losses(losses, scale, **options) for losses in (transfer, scratch)]
    estimate = heterogeneity_distance(*scaled)
    losses = {
        "scratch": {node: scratch[:, k].tolist() for k, node in enumerate(NODES)},
        "transfer": {
            f"{NODES[i]}->{NODES[j]}": [None if np.isnan(loss) else loss for loss in transfer[:, i, j]]
            for i in range(3)
            for j in range(3)
            if i != j
        },
        "null": null,
        "higher_is_better": higher,
    }
    values = estimate.values
    errors = np.nan_to_num(estimate.standard_errors)
    return HeterogeneityMatrix(
        "unimodal", NODES, estimate.transfer, values, errors, estimate.measured, losses, num_seeds=2, **changes
    )


def losses_of_two_seeds() -> tuple[np.ndarray, np.ndarray]:
    """With the first seed b is near a, with the second near c; together a little nearer to a."""
    scratch = np.ones((2, 3))
    transfer = np.ones((2, 3, 3)) * 1.5
    transfer[:, 1] = 1.0  # a start from b harms nobody, so that all depends on the transfers to b
    transfer[:, 0, 1], transfer[:, 2, 1] = [1.1, 1.5], [1.5, 1.2]
    return transfer, scratch


def test_nodes_that_never_meet_and_nodes_that_always_do() -> None:
    together, alone = co_membership([PARTED, 1.1 * PARTED], NODES, 2)
    np.testing.assert_array_equal(together, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(alone, [0, 0, 1])


def test_a_node_between_two_groups_is_seen_to_waver() -> None:
    found = group_stability(matrix(BETWEEN, 0.3), [0, 0, 1])
    assert found.source == "standard_errors" and found.together is not None
    assert 0.3 < found.together[0, 1] < 0.7 and 0.3 < found.together[1, 2] < 0.7
    np.testing.assert_array_equal(found.together, found.together.T)
    # Three nodes in two groups: exactly one pair shares a group in every sample.
    assert np.triu(found.together, 1).sum() == pytest.approx(1)
    assert found.support[0] == found.together[0, 1] and found.support[2] == found.alone[2]
    assert found.to_dict() == group_stability(matrix(BETWEEN, 0.3), [0, 0, 1]).to_dict()
    sure = group_stability(matrix(PARTED, 0.01), [0, 0, 1])
    assert sure.support == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("scale", ["null", "none", "metric"])
def test_seeds_are_drawn_again_as_wholes_in_the_unit_of_the_matrix(scale: str) -> None:
    transfer, scratch = losses_of_two_seeds()
    if scale != "none":  # undone by the scale, so that the distances are those above
        factor = np.array([2.0, 1.0, 4.0]) if scale == "null" else np.array([-1.0, 1.0, -1.0])
        transfer, scratch = transfer * factor, scratch * factor
    found = group_stability(seeded(transfer, scratch, loss_scale=scale), [0, 0, 1])
    assert found.source == "seeds"
    # Both seeds alike, the second, or the first: (1/4, 1/4, 1/2) of the draws; b goes to c with the second alone.
    assert found.together is not None
    assert found.together[0, 1] == pytest.approx(0.75, abs=0.07)
    assert found.together[1, 2] == pytest.approx(0.25, abs=0.07)
    assert found.together[0, 2] == 0


def test_a_run_that_diverged_leaves_the_entry_to_the_other_seeds() -> None:
    transfer, scratch = losses_of_two_seeds()
    transfer[1, 0, 1] = np.nan
    found = group_stability(seeded(transfer, scratch), [0, 0, 1])
    assert found.source == "seeds" and found.together is not None and np.isfinite(found.together).all()


def test_imputed_distances_move_and_measured_ones_of_one_seed_do_not() -> None:
    mixed = matrix(BETWEEN, 0.3)
    mixed.measured[0, 1] = mixed.measured[1, 0] = False
    known = np.where(mixed.measured, np.nan, mixed.standard_errors)
    one_seed = matrix(BETWEEN)
    one_seed.measured[:], one_seed.standard_errors[:] = mixed.measured, known
    found = group_stability(one_seed, [0, 0, 1])
    assert found.source == "imputation" and "one seed" in found.explanation
    assert found.together is not None and 0.3 < found.together[0, 1] < 0.7


def test_without_any_information_nothing_is_claimed() -> None:
    found = group_stability(matrix(BETWEEN), [0, 0, 1])
    assert (found.source, found.num_samples, found.together) == ("none", 0, None)
    assert found.support == [None] * 3 and "--seeds" in found.explanation
    assert group_stability(matrix(np.zeros((1, 1))), [0]).source == "none"


@pytest.mark.parametrize("groups", [[0, 0, 0], [0, 1, 2]])
def test_one_group_and_a_group_for_each_are_not_praised_as_stable(groups: list[int]) -> None:
    found = group_stability(matrix(BETWEEN, 0.3), groups)
    assert found.support == [None] * 3 and "no sample can change" in found.explanation


def test_stability_goes_through_its_file_and_damage_is_refused() -> None:
    for found in (group_stability(matrix(BETWEEN, 0.3), [0, 0, 1]), group_stability(matrix(BETWEEN), [0, 0, 1])):
        assert GroupStability.from_dict(found.to_dict()).to_dict() == found.to_dict()
    plain = group_stability(matrix(BETWEEN, 0.3), [0, 0, 1]).to_dict()
    for change, message in (
        ({"groups": [0, 1]}, "3 nodes, but 2"),
        ({"source": "guess"}, "source 'guess'"),
        ({"linkage": "ward"}, "linkage 'ward'"),
        ({"together": [[1.0]]}, "'together' must hold shares"),
        ({"alone": [0.0, 2.0, 0.0]}, "'alone' must hold shares"),
        ({"alone": None}, "unless the source is 'none'"),
        ({"more": 1}, "a mapping with kind, nodes"),
    ):
        with pytest.raises(ValueError, match=message):
            GroupStability.from_dict({**plain, **change})


def test_samples_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="a number for each of the 3 nodes, got 2"):
        group_stability(matrix(BETWEEN, 0.3), [0, 1])
    with pytest.raises(ValueError, match="num_samples=0"):
        group_stability(matrix(BETWEEN, 0.3), [0, 0, 1], num_samples=0)
