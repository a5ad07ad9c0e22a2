"""Completion: what must hold for any matrix, and how close it comes on the published ones and others like them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import adjusted_rand_score

from highmmt.heterogeneity.clustering import cluster_nodes
from highmmt.heterogeneity.completion import CompletedMatrix, PairSampler, complete_matrix, estimate_missing

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


def symmetric(matrix: np.ndarray) -> np.ndarray:
    upper = np.triu(matrix, 1)
    return upper + upper.T


def perturbed(numbers: str, seed: int) -> np.ndarray:
    """A published matrix with noise on every entry, in another order and another unit."""
    generator = np.random.default_rng([5, seed])
    matrix = from_triangle(numbers)
    size = len(matrix)
    matrix = matrix * np.exp(0.1 * symmetric(generator.normal(size=(size, size))))
    matrix = matrix + np.abs(0.2 * symmetric(generator.normal(size=(size, size))))
    order = generator.permutation(size)
    return matrix[np.ix_(order, order)] * generator.choice([0.01, 1.0, 30.0])


def relative_error(completed: CompletedMatrix, matrix: np.ndarray) -> float:
    return float(np.linalg.norm(completed.values - matrix) / np.linalg.norm(matrix))


def complete(matrix: np.ndarray, budget: int, **options: object) -> CompletedMatrix:
    return complete_matrix(matrix.item, len(matrix), budget, **options)  # type: ignore[arg-type]


@st.composite
def distance_matrices(draw: st.DrawFn) -> np.ndarray:
    size = draw(st.integers(1, 7))
    entries = arrays(float, (size, size), elements=st.floats(0, 1e6) | st.sampled_from([0.0, 1e-300, 1.0]))
    return symmetric(draw(entries))


@settings(max_examples=40)
@given(matrix=distance_matrices(), budget=st.integers(0, 25), strategy=st.sampled_from(["adaptive", "random"]))
def test_whatever_is_measured_the_result_is_a_distance_matrix_that_keeps_it(
    matrix: np.ndarray, budget: int, strategy: str
) -> None:
    asked = []

    def measure(i: int, j: int) -> float:
        asked.append((i, j))
        return float(matrix[i, j])

    done = complete_matrix(measure, len(matrix), budget, strategy=strategy)  # type: ignore[arg-type]
    assert all(i < j for i, j in asked)
    assert len(set(asked)) == len(asked) == min(budget, len(matrix) * (len(matrix) - 1) // 2) == done.num_measured
    np.testing.assert_array_equal(done.values[done.measured], matrix[done.measured])
    np.testing.assert_array_equal(done.values, done.values.T)
    np.testing.assert_array_equal(done.measured, done.measured.T)
    np.testing.assert_array_equal(done.standard_errors, done.standard_errors.T)
    assert np.isfinite(done.values).all() and (done.values >= 0).all()
    assert not np.diagonal(done.values).any() and not np.diagonal(done.measured).any()
    assert (done.standard_errors >= 0).all() and not done.standard_errors[done.measured].any()
    assert not np.isnan(done.standard_errors).any()
    if asked:
        assert np.isfinite(done.standard_errors).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0.3, 1), order=st.permutations(range(6)))
def test_permuting_the_nodes_permutes_what_is_imputed(seed: int, share: float, order: list[int]) -> None:
    generator = np.random.default_rng(seed)
    known = symmetric((generator.random((6, 6)) < share).astype(float)) > 0
    values = np.where(known, symmetric(generator.gamma(1.0, 2.0, (6, 6))), np.nan)
    plain, plain_errors = estimate_missing(values)
    turned, turned_errors = estimate_missing(values[np.ix_(order, order)])
    np.testing.assert_allclose(turned, plain[np.ix_(order, order)], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(turned_errors, plain_errors[np.ix_(order, order)], rtol=1e-3, atol=1e-3)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from([1e-200, 1e-9, 3.0, 1e9, 1e200]))
def test_the_unit_of_the_distances_does_not_matter(seed: int, unit: float) -> None:
    generator = np.random.default_rng(seed)
    values = symmetric(generator.gamma(1.0, 2.0, (6, 6)))
    values[symmetric(generator.random((6, 6))) > 0.5] = np.nan
    plain, errors = estimate_missing(values)
    scaled, scaled_errors = estimate_missing(values * unit)
    np.testing.assert_allclose(scaled / unit, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scaled_errors / unit, errors, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_matrix_and_another_seed_other_pairs() -> None:
    matrix = from_triangle(UNIMODAL)
    first, again, other = (complete(matrix, 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.standard_errors, again.standard_errors)
    assert (first.measured != other.measured).any()


@pytest.mark.parametrize(("numbers", "budget"), [(UNIMODAL, 24), (INTERACTION, 18)])
def test_half_of_a_published_matrix_tells_the_rest_and_its_outlier(numbers: str, budget: int) -> None:
    matrix = from_triangle(numbers)
    nodes = [f"{node:02d}" for node in range(len(matrix))]
    errors, agreement = [], []
    for seed in range(20):
        done = complete(matrix, budget, seed=seed)
        errors.append(relative_error(done, matrix))
        truth, found = (list(cluster_nodes(values, nodes, 2).values()) for values in (matrix, done.values))
        agreement.append(adjusted_rand_score(truth, found))
    # Reached here: medians 0.029 and 0.017, agreement 1 throughout; the bound leaves room for other linear algebra.
    assert np.median(errors) <= 0.06
    assert np.median(agreement) == 1


@pytest.mark.parametrize(("numbers", "budget"), [(UNIMODAL, 24), (INTERACTION, 18)])
def test_noise_order_and_unit_of_a_published_matrix_do_not_spoil_it(numbers: str, budget: int) -> None:
    matrices = [perturbed(numbers, seed) for seed in range(8)]
    chosen = [relative_error(complete(matrix, budget), matrix) for matrix in matrices]
    drawn = [relative_error(complete(matrix, budget, strategy="random"), matrix) for matrix in matrices]
    assert np.median(chosen) <= 0.08
    assert np.median(drawn) > 1.5 * np.median(chosen)


def test_the_rank_bites() -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(9, 3))
    matrix = np.linalg.norm(points[:, None] - points[None], axis=-1)
    errors = {rank: relative_error(complete(matrix, 27, rank=rank), matrix) for rank in (1, 3)}
    assert errors[3] < errors[1]


def test_imputed_entries_lie_within_two_standard_errors_about_as_often_as_they_should() -> None:
    within = []
    for seed in range(8):
        matrix = perturbed(UNIMODAL, seed)
        done = complete(matrix, 24)
        imputed = ~done.measured & ~np.eye(len(matrix), dtype=bool)
        within.extend(np.abs(done.values - matrix)[imputed] <= 2 * done.standard_errors[imputed])
    assert 0.85 <= np.mean(within)


def test_a_node_that_differs_from_all_is_measured_against_all() -> None:
    matrix = np.zeros((10, 10))
    matrix[4] = matrix[:, 4] = 10.0
    matrix[4, 4] = 0.0
    matrix[4, 7] = matrix[7, 4] = 2.0  # with an exception that no rule can know
    for seed in range(5):
        assert complete(matrix, 24, seed=seed).measured[4, 7]


def test_a_run_that_failed_is_not_repeated_but_imputed() -> None:
    matrix = from_triangle(INTERACTION)
    asked = []

    def measure(i: int, j: int) -> float:
        asked.append((i, j))
        return {2: float("nan"), 3: float("inf")}.get(len(asked), float(matrix[i, j]))

    done = complete_matrix(measure, 8, 18)
    assert len(set(asked)) == len(asked) == 18
    assert done.num_measured == 16
    assert sorted(zip(*np.nonzero(np.triu(done.failed)), strict=True)) == sorted(asked[1:3])
    assert np.isfinite(done.values).all()
    assert (done.standard_errors[done.failed] > 0).all()


def test_a_node_whose_every_run_fails_does_not_use_up_the_budget() -> None:
    matrix = from_triangle(UNIMODAL)
    for broken in (0, 2, 9):
        failures = []

        def measure(i: int, j: int, broken: int = broken, failures: list[int] = failures) -> float:
            if broken in (i, j):
                failures.append(1)
                return float("nan")
            return float(matrix[i, j])

        done = complete_matrix(measure, 10, 24)
        assert len(failures) <= 4
        assert np.isfinite(done.values).all()


def test_nothing_measured_is_said_to_be_unknown() -> None:
    for done in (complete(np.zeros((3, 3)), 0), complete_matrix(lambda i, j: float("nan"), 3, 3)):
        assert not done.measured.any()
        assert np.isinf(done.standard_errors[~np.eye(3, dtype=bool)]).all()
    assert complete(np.zeros((1, 1)), 5).values.tolist() == [[0.0]]
    assert complete_matrix(lambda i, j: 2.0, 2, 1).values.tolist() == [[0.0, 2.0], [2.0, 0.0]]


def test_the_standard_errors_of_measurements_are_kept() -> None:
    done = complete_matrix(lambda i, j: (1.0, 0.25), 4, 4)
    assert (done.standard_errors[done.measured] == 0.25).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_nodes": 0}, "num_nodes=0"),
        ({"budget": -1}, "budget=-1"),
        ({"budget": 2.5}, "budget=2.5"),
        ({"rank": 0}, "rank=0"),
        ({"strategy": "greedy"}, "strategy='greedy' is not one of adaptive, random"),
    ],
)
def test_arguments_without_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete_matrix(lambda i, j: 1.0, **{"num_nodes": 4, "budget": 3, **arguments})  # type: ignore[arg-type]


def test_a_negative_distance_is_refused_by_its_pair() -> None:
    with pytest.raises(ValueError, match=r"pair \(0, 1\).*-0\.5.*negative"):
        complete_matrix(lambda i, j: -0.5 if (i, j) == (0, 1) else 1.0, 3, 3)
    with pytest.raises(ValueError, match=r"pair \(0, 1\).*standard error -1"):
        complete_matrix(lambda i, j: (1.0, -1.0), 2, 1)


def test_what_cannot_be_recorded_is_refused() -> None:
    sampler = PairSampler(4, 6)
    with pytest.raises(ValueError, match="not a pair"):
        sampler.record(2, 2, 1.0)
    with pytest.raises(ValueError, match="not a pair"):
        sampler.record(0, 4, 1.0)
    sampler.record(2, 1, 1.0)
    with pytest.raises(ValueError, match=r"\(1, 2\) was recorded before"):
        sampler.record(1, 2, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3)), r"\(n, n\)"),
        ([[0, 1], [2, 0]], "symmetric"),
        ([[0, np.nan], [2, 0]], "symmetric"),
        ([[0, -1], [-1, 0]], "not negative"),
        ([[0, np.inf], [np.inf, 0]], "finite"),
    ],
)
def test_tables_that_hold_no_distances_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_missing(values)


def measured_in_batches(matrix: np.ndarray, budget: int, size: int, turned: bool = False) -> PairSampler:
    sampler = PairSampler(len(matrix), budget)
    while pairs := sampler.next_pairs(size):
        assert len(pairs) <= size
        for i, j in reversed(pairs) if turned else pairs:
            sampler.record(i, j, matrix[i, j])
    return sampler


def test_batches_do_not_depend_on_which_job_finishes_first() -> None:
    matrix = perturbed(UNIMODAL, 0)
    plain, turned = (measured_in_batches(matrix, 24, 4, turned).complete() for turned in (False, True))
    np.testing.assert_array_equal(plain.measured, turned.measured)
    np.testing.assert_array_equal(plain.values, turned.values)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_batches_stay_within_the_budget_and_are_nearly_as_good(size: int) -> None:
    matrices = [perturbed(UNIMODAL, seed) for seed in range(5)]
    samplers = [measured_in_batches(matrix, 24, size) for matrix in matrices]
    assert all(sampler.num_remaining == 0 and sampler.complete().num_measured == 24 for sampler in samplers)
    errors = [relative_error(s.complete(), matrix) for s, matrix in zip(samplers, matrices, strict=True)]
    assert np.median(errors) <= 0.1


def test_where_all_pairs_are_wanted_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PairSampler, "_best_pair", None)
    sampler = PairSampler(10, 45)
    assert sampler.next_pairs(45) == [(i, j) for i in range(10) for j in range(i + 1, 10)]
    assert sampler.next_pairs(1) == []


def test_pairs_are_given_once_while_their_jobs_run() -> None:
    matrix = from_triangle(UNIMODAL)
    sampler = PairSampler(10, 20)
    pending = sampler.next_pairs(3)
    given_out = list(pending)
    while more := sampler.next_pairs(1):
        given_out += more
        pending += more
        i, j = pending.pop(0)
        sampler.record(i, j, matrix[i, j])
    assert len(set(given_out)) == len(given_out) == 20


def test_a_sweep_that_is_started_again_asks_for_the_same_pairs() -> None:
    matrix = perturbed(INTERACTION, 3)

    def pairs_of(number: int) -> list[tuple[int, int]]:
        sampler, pairs = PairSampler(8, 18), []
        for _ in range(number):
            for i, j in sampler.next_pairs(2):
                pairs.append((i, j))
                sampler.record(i, j, matrix[i, j])
        return pairs

    assert pairs_of(9)[:10] == pairs_of(5)


def drawn_matrix(kind: str, size: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng([size, seed])
    if kind == "families":
        family = generator.integers(0, 3, size)
        matrix = np.array([[0.3, 5, 9], [5, 0.1, 6], [9, 6, 0.5]])[np.ix_(family, family)]
    elif kind == "points":
        points = generator.normal(size=(size, 3)) * (3, 2, 1)
        matrix = np.maximum(np.linalg.norm(points[:, None] - points[None], axis=-1) - 0.5, 0)
    else:
        level = generator.gamma(0.7, 3.0, size=size)
        matrix = level[:, None] + level[None]
    return symmetric(matrix * np.exp(0.1 * generator.normal(size=(size, size))))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.4, 0.55, 0.7])
@pytest.mark.parametrize("kind", ["families", "points", "levels"])
def test_chosen_pairs_beat_drawn_ones_on_other_matrices(kind: str, share: float) -> None:
    errors = []
    for size in (8, 12, 16):  # with fewer nodes there is little to choose from
        for seed in range(12):
            matrix, budget = drawn_matrix(kind, size, seed), round(share * size * (size - 1) / 2)
            strategies = ("adaptive", "random")
            errors.append(
                [relative_error(complete(matrix, budget, seed=seed, strategy=s), matrix) for s in strategies]
            )
    chosen, drawn = np.mean(errors, axis=0)
    assert chosen < drawn
