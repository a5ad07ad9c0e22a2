"""Transfers and distances: equations 4 and 5, their errors, the file, and the published facts about figure 5."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from highmmt.heterogeneity.distances import (
    HeterogeneityMatrix,
    heterogeneity_distance,
    modality_transfer,
    scale_losses,
    singular_value_shares,
    triangle_inequality_rate,
)

# Liang et al., TMLR 05/2023, figure 5 (lower triangles, row by row).
UNIMODAL = (
    "0.4  20 20  4.1 5 .2  0 .2 20 4.1  0 0 20 4.1 0  2.5 .3 20 6 .3 0  0 .2 20 4.2 0 0 .4  "
    ".2 .3 20 4.4 0 0 .5 .1  0 .8 20 4.6 0 0 0 0 0"
)
INTERACTION = "23  .8 22  .4 24 .2  .4 24 .2 .3  .4 22 0 0 0  .4 22 0 0 .1 0  .5 22 0 0 .2 0 .9"


def from_triangle(numbers: str) -> np.ndarray:
    entries = np.array(numbers.split(), dtype=float)
    size = round((1 + np.sqrt(1 + 8 * len(entries))) / 2)
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size, -1)] = entries
    return matrix + matrix.T


def finite_losses(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(float, shape, elements=st.floats(0, 10, width=32))


def matrix(**changes: object) -> HeterogeneityMatrix:
    parts: dict[str, object] = {
        "kind": "unimodal",
        "nodes": ["a/x", "a/y", "b/x"],
        "transfer": [[0, 0.1, 0.2], [0.3, 0, None], [-0.2, None, 0]],
        "values": [[0, 0.4, 0.2], [0.4, 0, 0.7], [0.2, 0.7, 0]],
        "standard_errors": [[0, 0.1, None], [0.1, 0, 0.5], [None, 0.5, 0]],
        "measured": [[False, True, True], [True, False, False], [True, False, False]],
        "losses": {"scratch": {"a/x": [0.5, float("nan")]}},
        "num_seeds": 2,
        "settings": {"num_steps": 60},
        "suite": "starter",
        "suite_fingerprint": "abc",
    }
    return HeterogeneityMatrix(**{**parts, **changes})  # type: ignore[arg-type]


def test_a_transfer_is_the_loss_it_adds_to_the_target() -> None:
    transfer = modality_transfer([[1.0, 2.5], [3.0, 1.0]], [0.5, 1.0])
    np.testing.assert_allclose(transfer, [[0.5, 1.5], [2.5, 0.0]])
    assert modality_transfer(0.75, 0.5) == 0.25


def test_equal_losses_are_a_transfer_and_a_distance_of_exactly_zero() -> None:
    estimate = heterogeneity_distance(np.full((3, 2, 2), 0.7), np.full((3, 2), 0.7))
    assert not estimate.transfer.any() and not estimate.values.any() and not estimate.standard_errors.any()


def test_the_distance_adds_the_positive_parts_of_both_directions() -> None:
    transfer_losses = [[[0, 1.5, 0.5], [2.25, 0, 1.0], [1.0, 1.0, 0]]]
    estimate = heterogeneity_distance(transfer_losses, [[2.0, 1.0, 1.0]])
    # a -> b 0.5, b -> a 0.25; a -> c -0.5, c -> a -1: both directions help; b -> c 0, c -> b 0.
    np.testing.assert_allclose(estimate.values, [[0, 0.75, 0], [0.75, 0, 0], [0, 0, 0]])
    assert np.isnan(estimate.standard_errors[0, 1])  # one seed says nothing about its error


@given(transfers=finite_losses(3, 4, 4), scratch=finite_losses(3, 4))
def test_distances_are_symmetric_non_negative_and_zero_on_the_diagonal(
    transfers: np.ndarray, scratch: np.ndarray
) -> None:
    estimate = heterogeneity_distance(transfers, scratch)
    assert (estimate.values >= 0).all()
    assert (estimate.standard_errors >= 0).all()
    assert not np.diagonal(estimate.values).any()
    np.testing.assert_array_equal(estimate.values, estimate.values.T)
    np.testing.assert_array_equal(estimate.standard_errors, estimate.standard_errors.T)
    np.testing.assert_array_equal(estimate.measured, ~np.eye(4, dtype=bool))


@given(transfers=finite_losses(2, 4, 4), scratch=finite_losses(2, 4), order=st.permutations(range(4)))
def test_permuting_the_nodes_permutes_the_matrix(transfers: np.ndarray, scratch: np.ndarray, order: list[int]) -> None:
    plain = heterogeneity_distance(transfers, scratch)
    shuffled = heterogeneity_distance(transfers[:, order][:, :, order], scratch[:, order])
    np.testing.assert_array_equal(shuffled.values, plain.values[np.ix_(order, order)])
    np.testing.assert_array_equal(shuffled.transfer, plain.transfer[np.ix_(order, order)])
    np.testing.assert_array_equal(shuffled.standard_errors, plain.standard_errors[np.ix_(order, order)])


def test_errors_of_clear_transfers_add_in_squares_and_those_of_helpful_ones_vanish() -> None:
    # Transfers over seeds: a -> b 10, 12 (error 1); b -> a 20, 26 (error 3); a -> c and c -> a far below zero.
    transfers = np.zeros((2, 3, 3))
    transfers[:, 0, 1], transfers[:, 1, 0] = (10, 12), (20, 26)
    transfers[:, 0, 2] = transfers[:, 2, 0] = (-50, -52)
    estimate = heterogeneity_distance(transfers + 100, np.full((2, 3), 100.0))
    assert estimate.transfer_standard_errors[0, 1] == pytest.approx(1)
    assert estimate.values[0, 1] == pytest.approx(34)
    assert estimate.standard_errors[0, 1] == pytest.approx(np.sqrt(10), rel=1e-4)
    assert estimate.standard_errors[0, 2] == pytest.approx(0, abs=1e-6)


def test_a_transfer_of_zero_keeps_the_error_of_its_positive_part() -> None:
    transfers = np.zeros((2, 2, 2))
    transfers[:, 0, 1] = transfers[:, 1, 0] = (-1, 1)  # mean 0, standard error 1
    estimate = heterogeneity_distance(transfers, np.zeros((2, 2)))
    # The positive part of a standard normal has the variance 1/2 - 1/(2 pi).
    assert estimate.standard_errors[0, 1] == pytest.approx(np.sqrt(2 * (0.5 - 1 / (2 * np.pi))))


def test_runs_that_are_missing_or_diverged_are_left_out_and_named_by_the_mask() -> None:
    transfers = np.ones((2, 3, 3))
    transfers[0, 0, 1] = np.inf  # one seed diverged, the other counts
    transfers[:, 1, 2] = np.nan  # never run
    estimate = heterogeneity_distance(transfers, np.zeros((2, 3)))
    assert estimate.values[0, 1] == 2 and np.isnan(estimate.standard_errors[0, 1])
    assert np.isnan(estimate.values[1, 2]) and np.isnan(estimate.values[2, 1])
    assert estimate.transfer[2, 1] == 1
    assert estimate.measured.tolist() == [[False, True, True], [True, False, False], [True, False, False]]


@pytest.mark.parametrize(
    ("transfers", "scratch", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), r"\(num_seeds, n, n\), got \(2, 3\)"),
        (np.zeros((2, 3, 3)), np.zeros((3, 3)), r"\(2, 3\) \(num_seeds, n\)"),
    ],
)
def test_losses_of_the_wrong_shape_are_refused(transfers: np.ndarray, scratch: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heterogeneity_distance(transfers, scratch)


def test_the_null_scale_gives_shares_of_what_there_is_to_learn() -> None:
    scaled = scale_losses([[[1.0, 3.0]], [[2.0, 6.0]]], null_losses=[2.0, 6.0])
    np.testing.assert_allclose(scaled, [[[0.5, 0.5]], [[1.0, 1.0]]])


@given(losses=finite_losses(2, 3), null=arrays(float, 3, elements=st.floats(0.5, 8)), unit=st.floats(0.1, 50))
def test_the_null_scale_does_not_see_the_unit_of_a_loss(losses: np.ndarray, null: np.ndarray, unit: float) -> None:
    np.testing.assert_allclose(
        scale_losses(losses * unit, null_losses=null * unit), scale_losses(losses, null_losses=null), rtol=1e-9
    )


def test_the_scale_none_changes_nothing_and_metric_gives_percentage_points_lost() -> None:
    np.testing.assert_array_equal(scale_losses([1.0, 2.0], "none"), [1, 2])
    scratch = scale_losses([0.9, 3.0], "metric", null_losses=[np.nan, 4.0], higher_is_better=[True, False])
    after = scale_losses([0.7, 3.5], "metric", null_losses=[np.nan, 4.0], higher_is_better=[True, False])
    np.testing.assert_allclose(modality_transfer(after, scratch), [20, 12.5])


@pytest.mark.parametrize("null", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_with_nothing_to_learn_is_named(null: float) -> None:
    with pytest.raises(ValueError, match="liver/table.*constant"):
        scale_losses([1.0, 2.0], null_losses=[1.0, null], nodes=["digits/image", "liver/table"])


def test_scales_that_lack_what_they_need_are_refused() -> None:
    with pytest.raises(ValueError, match="loss_scale='share' is not one of null, none, metric"):
        scale_losses([1.0], "share")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="higher_is_better"):
        scale_losses([1.0], "metric")
    with pytest.raises(ValueError, match="target 0"):
        scale_losses([1.0])
    with pytest.raises(ValueError, match="one value for each of the 1 targets"):
        scale_losses([1.0], null_losses=[1.0, 2.0])


def test_the_published_matrices_are_of_low_rank() -> None:
    # The paper says "at least 97 %"; to four places these follow from the printed entries.
    assert singular_value_shares(from_triangle(UNIMODAL))[2] == pytest.approx(0.9992, abs=5e-5)
    assert singular_value_shares(from_triangle(INTERACTION))[2] == pytest.approx(0.9998, abs=5e-5)
    assert singular_value_shares(np.zeros((3, 3))).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("numbers", "c", "percent", "published"),
    [(UNIMODAL, 1, 86.8, 87), (INTERACTION, 1, 86.3, 86), (UNIMODAL, 5, 95.6, 96), (INTERACTION, 5, 96.1, 95)],
)
def test_the_published_matrices_obey_the_triangle_inequality_as_often_as_stated(
    numbers: str, c: float, percent: float, published: float
) -> None:
    rate = 100 * triangle_inequality_rate(from_triangle(numbers), c)
    assert rate == pytest.approx(percent, abs=0.05)
    assert rate == pytest.approx(published, abs=1.2)  # the paper counted unrounded entries


@given(points=arrays(float, (5, 2), elements=st.floats(-10, 10, width=32)))
def test_distances_between_points_obey_the_triangle_inequality_always(points: np.ndarray) -> None:
    assert triangle_inequality_rate(np.linalg.norm(points[:, None] - points[None], axis=-1)) == 1


def test_a_matrix_read_from_its_file_equals_the_one_written(tmp_path: Path) -> None:
    written = matrix()
    written.to_json_file(tmp_path / "heterogeneity" / "unimodal.json")
    read = HeterogeneityMatrix.from_json_file(tmp_path / "heterogeneity" / "unimodal.json")
    assert read == written
    assert read != replace(written, suite="other")
    assert read.num_measured == 2
    assert [path.name for path in (tmp_path / "heterogeneity").iterdir()] == ["unimodal.json"]


def test_the_file_has_the_documented_parts_and_null_for_the_unknown(tmp_path: Path) -> None:
    matrix().to_json_file(tmp_path / "unimodal.json")
    data = json.loads((tmp_path / "unimodal.json").read_text(encoding="utf-8"))
    assert set(data) == {
        *("kind", "nodes", "transfer", "values", "standard_errors", "measured", "losses"),
        *("loss_scale", "seeds", "settings", "suite", "suite_fingerprint", "excluded", "diverged", "version"),
    }
    assert data["seeds"] == 2
    assert data["transfer"][1][2] is None
    assert data["standard_errors"][0][2] is None
    assert data["losses"] == {"scratch": {"a/x": [0.5, None]}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "unimodal.json"
    matrix().to_json_file(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        matrix(settings={"model": object()}).to_json_file(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind='other'"),
        ({"nodes": ["a/x", "a/x", "b/x"]}, "'a/x' is listed twice"),
        ({"nodes": ["a/x", "a/y"]}, r"\(3, 3\), but 2 nodes need \(2, 2\)"),
        ({"values": [[0, 1, 2], [1, 0, 3], [2, 4, 0]]}, "symmetric; a/y and b/x have 3.0 and 4.0"),
        ({"values": [[0, -1, 2], [-1, 0, 3], [2, 3, 0]]}, "non-negative; a/x and a/y"),
        ({"values": [[1, 1, 2], [1, 0, 3], [2, 3, 0]]}, "itself must be 0"),
        ({"values": [[0, None, 2], [None, 0, 3], [2, 3, 0]]}, "known where measured; a/x and a/y"),
        ({"values": "abc"}, "values is not a table of numbers"),
        ({"measured": [[0, 1, 1], [0, 0, 0], [1, 0, 0]]}, "measured must be symmetric"),
        ({"measured": [[1, 1, 1], [1, 0, 0], [1, 0, 0]]}, "false on the diagonal"),
        ({"loss_scale": "share"}, "loss_scale='share'"),
        ({"seeds": 0}, "num_seeds=0"),
        ({"colour": 1}, "no part 'colour'"),
    ],
)
def test_a_file_that_holds_no_such_matrix_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "interaction.json"
    path.write_text(json.dumps({**matrix().to_dict(), **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"interaction\.json: .*{message}"):
        HeterogeneityMatrix.from_json_file(path)


def test_files_that_are_missing_cut_off_or_incomplete_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "unimodal.json"
    with pytest.raises(FileNotFoundError, match=r"unimodal\.json"):
        HeterogeneityMatrix.from_json_file(path)
    for text, message in (
        ('{"kind":', "unimodal.json"),
        ("[]", "mapping"),
        ('{"kind": "unimodal"}', "without 'nodes'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            HeterogeneityMatrix.from_json_file(path)


def test_reordering_keeps_every_entry_with_its_nodes() -> None:
    plain, turned = matrix(), matrix().in_order(["b/x", "a/x"])
    assert turned.values[0, 1] == plain.values[2, 0]
    assert turned.transfer[1, 0] == plain.transfer[0, 2]
    assert turned.suite == "starter"
    with pytest.raises(ValueError, match="no node 'c/z'"):
        plain.in_order(["c/z"])


def test_a_matrix_without_nodes_can_be_kept(tmp_path: Path) -> None:
    empty = matrix(kind="interaction", nodes=[], transfer=[], values=[], standard_errors=[], measured=[])
    empty.to_json_file(tmp_path / "interaction.json")
    assert HeterogeneityMatrix.from_json_file(tmp_path / "interaction.json").num_measured == 0
