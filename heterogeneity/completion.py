"""A heterogeneity matrix from part of its entries: which pairs to measure, and what the others are likely to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strategy = Literal["adaptive", "random"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# All rules work on distances divided by the root mean square of the measured ones, so these are shares of it.
_NOISE_FLOOR = 0.05  # two distances closer than this tell nothing apart
_RELATIVE_NOISE = 0.05  # a large distance is less certain than a small one, by this share of its value
_NUM_ROUNDS = 25  # of the alternating rules
_DEAD_AFTER = 3  # failed measurements, without a successful one, after which a node is asked last
_MAX_BATCH = 4_000_000  # numbers held at once by the triangle rule while rules are compared


@dataclass
class CompletedMatrix:
    """A distance matrix, part measured, part imputed.

    Args:
        values: `(num_nodes, num_nodes)`, symmetric, non-negative, zero diagonal; measured entries as measured.
        standard_errors: of `values`; for measured entries what the measurement gave (0 where it gave none), for
            imputed entries the disagreement of the rules and their error on left-out entries, infinite where nothing
            was measured at all.
        measured: which entries were measured, symmetric, False on the diagonal.
        failed: which entries were asked for without a finite result; they are imputed like the rest.
    """

    values: Floats
    standard_errors: Floats
    measured: Bools
    failed: Bools

    @property
    def num_measured(self) -> int:
        """Number of unordered pairs that were measured."""
        return int(np.triu(self.measured, 1).sum())


def complete_matrix(
    measure: Callable[[int, int], float | tuple[float, float]],
    num_nodes: int,
    budget: int,
    rank: int = 3,
    seed: int = 0,
    strategy: Strategy = "adaptive",
) -> CompletedMatrix:
    """All distances between `num_nodes` nodes, of which at most `budget` are measured.

    Args:
        measure: called as `measure(i, j)` with i < j, at most once for each unordered pair; returns the distance, or
            the distance and its standard error. A result that is not finite (a run that diverged) counts against
            the budget, is not asked for again, and is imputed.
        num_nodes: number of rows.
        budget: largest number of calls; more than there are pairs measures all of them.
        rank: of the low-rank rules.
        seed: decides between pairs that are equally worth measuring (and the draw of `"random"`), nothing else.
        strategy: `"adaptive"` measures one node against all, then always the most uncertain pair; `"random"` draws.

    Returns:
        Values, standard errors and what was measured.

    Raises:
        ValueError: a negative distance; the message names the pair. Or impossible arguments.

    Source: Liang et al., TMLR 05/2023, section 2.1 and appendix A.2. Different from there, pairs are chosen, not
    drawn, and the low-rank approximation is one of several rules (see `estimate_missing`).
    """
    sampler = PairSampler(num_nodes, budget, rank=rank, seed=seed, strategy=strategy)
    while pairs := sampler.next_pairs(1):
        for i, j in pairs:
            result = measure(i, j)
            value, error = result if isinstance(result, tuple) else (result, 0.0)
            sampler.record(i, j, value, error)
    return sampler.complete()


class PairSampler:
    """Says which pairs to measure next; for callers that measure several at once.

    ```
    sampler = PairSampler(num_nodes=10, budget=24)
    while pairs := sampler.next_pairs(4):
        for (i, j), distance in zip(pairs, run_jobs(pairs)):
            sampler.record(i, j, distance)
    completed = sampler.complete()
    ```

    The pairs depend on the arguments, on what was recorded and on what is still pending, not on the order of records.
    So a sweep that is started again asks for the same pairs, whose results can come from a cache; with the same number
    of pairs per call, one process and many ask for the same ones.

    Args:
        num_nodes, budget, rank, seed, strategy: as in `complete_matrix`.

    Raises:
        ValueError: an argument that makes no sense.
    """

    def __init__(
        self, num_nodes: int, budget: int, *, rank: int = 3, seed: int = 0, strategy: Strategy = "adaptive"
    ) -> None:
        for name, number, low in (("num_nodes", num_nodes, 1), ("budget", budget, 0), ("rank", rank, 1)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < low:
                raise ValueError(f"{name}={number!r} must be a whole number of {low} or more.")
        if strategy not in get_args(Strategy):
            raise ValueError(f"strategy={strategy!r} is not one of {', '.join(get_args(Strategy))}.")
        self.num_nodes, self.rank, self.strategy = int(num_nodes), int(rank), strategy
        self.budget = min(int(budget), num_nodes * (num_nodes - 1) // 2)
        shape = (self.num_nodes, self.num_nodes)
        self._values = np.full(shape, np.nan)
        self._errors = np.zeros(shape)
        self._asked = np.zeros(shape, dtype=bool)
        self._recorded = np.zeros(shape, dtype=bool)
        generator = np.random.default_rng(seed)
        self._landmarks = generator.permutation(self.num_nodes)
        ties = np.triu(generator.random(shape), 1)
        self._ties = ties + ties.T
        self._weights: Floats | None = None
        self._weights_at = 0

    @property
    def num_remaining(self) -> int:
        """Pairs that the budget still allows to ask for."""
        return max(self.budget - _num_pairs(self._asked), 0)

    def next_pairs(self, num_pairs: int = 1) -> list[tuple[int, int]]:
        """Up to `num_pairs` pairs (i, j), i < j, to measure next; empty once the budget is spent.

        Each pair is given once. Within one call, and for pairs that are still pending, the imputed value stands in for
        the measurement, so that the pairs of a batch do not all ask the same question.
        """
        left = [(int(i), int(j)) for i, j in np.argwhere(np.triu(~self._asked, 1))]
        if min(num_pairs, self.num_remaining) >= len(left):  # nothing to choose
            self._asked |= ~np.eye(self.num_nodes, dtype=bool)
            return left
        pairs = []
        guesses = self._values
        if self.strategy == "adaptive" and _num_pairs(self._asked & ~self._recorded):
            guesses = self._with_guesses(guesses, self._asked & ~self._recorded)
        for _ in range(min(num_pairs, self.num_remaining)):
            i, j = self._best_pair(guesses)
            self._asked[i, j] = self._asked[j, i] = True
            pairs.append((i, j))
            if self.strategy == "adaptive" and len(pairs) < num_pairs:
                guesses = self._with_guesses(guesses, _only(i, j, self.num_nodes))
        return pairs

    def record(self, i: int, j: int, value: float, standard_error: float = 0.0) -> None:
        """Take in the distance of a pair, in either order; not finite means that its runs failed.

        Raises:
            ValueError: a negative distance or standard error, a pair recorded twice, or no such pair.
        """
        i, j = (int(i), int(j)) if i < j else (int(j), int(i))
        if not 0 <= i < j < self.num_nodes:
            raise ValueError(f"({i}, {j}) is not a pair of two of {self.num_nodes} nodes.")
        if self._recorded[i, j]:
            raise ValueError(f"The pair ({i}, {j}) was recorded before.")
        value, standard_error = float(value), float(standard_error)
        if value < 0:
            raise ValueError(f"The pair ({i}, {j}) has the distance {value}; distances must not be negative.")
        if standard_error < 0:
            raise ValueError(f"The pair ({i}, {j}) has the standard error {standard_error}; it must not be negative.")
        for a, b in ((i, j), (j, i)):
            self._asked[a, b] = self._recorded[a, b] = True
            self._values[a, b] = value if math.isfinite(value) else np.nan
            self._errors[a, b] = standard_error

    def complete(self) -> CompletedMatrix:
        """The matrix as far as it is known now, the rest imputed."""
        values, errors = estimate_missing(self._values, rank=self.rank)
        measured = np.isfinite(self._values)
        return CompletedMatrix(
            values=values,
            standard_errors=np.where(measured, self._errors, errors),
            measured=measured,
            failed=self._recorded & ~measured,
        )

    def _best_pair(self, guesses: Floats) -> tuple[int, int]:
        open_pairs = ~self._asked & ~np.eye(self.num_nodes, dtype=bool)
        if self.strategy == "random":
            return _largest(np.where(open_pairs, self._ties, -np.inf))
        known = np.isfinite(guesses)
        failures = (self._recorded & ~np.isfinite(self._values)).sum(axis=1)
        dead = (failures >= _DEAD_AFTER) & ~known.any(axis=1)
        worth = open_pairs & ~dead[:, None] & ~dead[None, :]
        if not worth.any():
            return _largest(np.where(open_pairs, self._ties, -np.inf))
        landmark = next(node for node in self._landmarks if not dead[node])
        if worth[landmark].any():
            # The first row gives every node at least one distance and shows the outliers.
            return _ordered(landmark, int(np.argmax(np.where(worth[landmark], self._ties[landmark], -np.inf))))
        uncertainty = self._uncertainty(guesses)
        level = max(float(uncertainty[worth].max()), 1e-12)
        return _largest(np.where(worth, uncertainty + 1e-6 * level * self._ties, -np.inf))

    def _uncertainty(self, guesses: Floats) -> Floats:
        """How much is to be learned from each pair, `(n, n)`, in shares of the measured distances."""
        known = np.isfinite(guesses)
        if not known.any():
            return np.ones_like(guesses)
        scaled, _ = _scaled(guesses)
        estimates, spread = _estimates(scaled[None], known[None], self.rank)
        # Comparing the rules costs one fit for every known pair; their order changes slowly.
        num_known = _num_pairs(known)
        if self._weights is None or num_known >= self._weights_at + max(4, num_known // 8):
            self._weights, _ = _rule_weights(scaled, known, self.rank)
            self._weights_at = num_known
        value, variance = _combined(estimates[0], self._weights)
        variance += self._weights[0] * spread[0] ** 2 + (_RELATIVE_NOISE * value) ** 2
        # What is known of a node through few partners is less certain than the rules' agreement says.
        partners = np.maximum(known.sum(axis=1), 0.5)
        return np.sqrt(variance * (1 / partners[:, None] + 1 / partners[None, :]))

    def _with_guesses(self, guesses: Floats, where: Bools) -> Floats:
        values, _ = _impute(guesses, self.rank, self._weights)
        return np.where(where, values, guesses)


def estimate_missing(values: ArrayLike, rank: int = 3) -> tuple[Floats, Floats]:
    """The unknown entries of a distance matrix, by several rules that are weighted by how well they do on known ones.

    The rules: *substitution* (a node with a similar profile of distances stands in), *triangle* (the middle between
    the bounds |d(i,a) - d(a,j)| and d(i,a) + d(a,j), precise where one leg is short), *low rank* with the diagonal at
    zero and with a free diagonal, *additive* (each node has a level), *embedding* (points in `rank` dimensions).
    Each rule predicts every known entry from the others; its weight falls with the fourth power of its typical error.

    Args:
        values: `(n, n)`, symmetric, NaN where unknown; the diagonal is taken as 0.
        rank: of the low-rank rules and the embedding, at most n - 1 is used.

    Returns:
        All values (known ones unchanged) and the standard errors of the imputed ones (0 for known ones; infinite
        where nothing is known), both `(n, n)`, symmetric.

    Raises:
        ValueError: not a square, symmetric table of non-negative numbers.

    Source: Liang et al., TMLR 05/2023, appendix A.2 for the low rank, equation 22 for the triangle inequality.
    """
    array = np.array(values, dtype=float)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"Distances must have the shape (n, n), got {array.shape}.")
    if not np.allclose(array, array.T, rtol=1e-9, atol=0.0, equal_nan=True):
        raise ValueError("Distances must be symmetric, and known or unknown in both directions alike.")
    np.fill_diagonal(array, np.nan)
    if np.any(array < 0) or np.isinf(array).any():
        raise ValueError("Distances must be finite and not negative; use NaN for unknown entries.")
    completed, errors = _impute(array, rank, None)
    return completed, np.where(np.isfinite(array) | np.eye(len(array), dtype=bool), 0.0, errors)


def _impute(values: Floats, rank: int, weights: Floats | None) -> tuple[Floats, Floats]:
    """All values and the errors of the imputed ones; the rules are compared anew where no weights are given."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values), np.full_like(values, np.inf)
    scaled, scale = _scaled(values)
    residual = 0.0
    if weights is None:
        weights, residual = _rule_weights(scaled, known, rank)
    estimates, _ = _estimates(scaled[None], known[None], rank)
    imputed, variance = _combined(estimates[0], weights)
    errors = np.sqrt(variance + residual**2)
    imputed = (imputed + imputed.T) / 2
    return np.where(known, values, scale * imputed), scale * (errors + errors.T) / 2


def _combined(estimates: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted mean and variance over the rules, `(n, n)` each."""
    mean = np.tensordot(weights, estimates, axes=1)
    return mean, np.tensordot(weights, (estimates - mean) ** 2, axes=1)


def _rule_weights(scaled: Floats, known: Bools, rank: int) -> tuple[Floats, float]:
    """Weight of each rule `(rules,)` and the typical error of the best, from entries that are left out in turn.

    The typical error is the squared mean root of the absolute errors: the pairs that were measured because they were
    surprising must not decide alone.
    """
    rows, columns = np.nonzero(np.triu(known, 1))
    num_known, num_nodes = len(rows), len(scaled)
    errors = []
    step = max(1, _MAX_BATCH // num_nodes**3)
    for start in range(0, num_known, step):
        i, j = rows[start : start + step], columns[start : start + step]
        member = np.arange(len(i))
        left = np.repeat(known[None], len(i), axis=0)
        left[member, i, j] = left[member, j, i] = False
        estimates, _ = _estimates(np.where(left, scaled, 0.0), left, rank)
        errors.append(np.abs(estimates[member, :, i, j] - scaled[i, j, None]))
    typical = np.sqrt(np.concatenate(errors)).mean(axis=0) ** 2
    weights = (typical + 0.01) ** -4.0
    weights /= weights.sum()
    return weights, float(weights @ typical)


def _estimates(scaled: Floats, known: Bools, rank: int) -> tuple[Floats, Floats]:
    """Every rule's matrix `(batch, rules, n, n)`, known entries in place; the triangle rule's spread `(batch, n, n)`.

    `scaled` holds 0 where nothing is known. The triangle rule comes first.
    """
    num_nodes = scaled.shape[-1]
    rank = max(min(rank, num_nodes - 1), 1)
    between = 1.0 - np.eye(num_nodes)
    triangle, spread = _triangle(scaled, known)
    additive = _additive(scaled, known) * between
    substitution = _substitution(scaled, known) * between
    rules = [
        triangle * between,
        additive,
        substitution,
        _low_rank(scaled, known | np.eye(num_nodes, dtype=bool), substitution, rank),
        _low_rank(scaled, known, additive, rank) * between,
        _embedding(scaled, known, substitution, rank),
    ]
    estimates = np.stack(rules, axis=1)
    return np.where(known[:, None], scaled[:, None], estimates), spread


def _mean_known(scaled: Floats, known: Bools) -> Floats:
    return (scaled * known).sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)


def _triangle(scaled: Floats, known: Bools) -> tuple[Floats, Floats]:
    """Middle of the triangle bounds over all two-step paths, weighted by their precision; then over paths of those."""
    diagonal = np.arange(scaled.shape[-1])
    value = np.where(known, scaled, 0.0)
    variance = np.where(known, 0.0, np.inf)
    for _ in range(2):
        first, second = value[:, :, :, None], value[:, None, :, :]  # (batch, i, a, j)
        uncertain = np.minimum(first, second) ** 2 + variance[:, :, :, None] + variance[:, None, :, :]
        uncertain += _NOISE_FLOOR**2
        uncertain[:, diagonal, diagonal, :] = np.inf
        uncertain[:, :, diagonal, diagonal] = np.inf
        middle, precision = np.maximum(first, second), 1.0 / uncertain
        total = precision.sum(axis=2)
        reached = total > 0
        total = np.where(reached, total, 1.0)
        mean = (precision * middle).sum(axis=2) / total
        disagreement = (precision * (middle - mean[:, :, None, :]) ** 2).sum(axis=2) / total
        value = np.where(known, scaled, mean)
        variance = np.where(known, 0.0, np.where(reached, 1.0 / total + disagreement, np.inf))
    lost = np.isinf(variance)
    value = np.where(lost, _mean_known(scaled, known)[:, None, None], value)
    return value, np.sqrt(np.where(lost, 9.0, variance))


def _additive(scaled: Floats, known: Bools) -> Floats:
    """d(i, j) = mean + u_i + u_j, least squares with a small ridge."""
    num_nodes = scaled.shape[-1]
    mean = _mean_known(scaled, known)[:, None, None]
    residuals = ((scaled - mean) * known).sum(axis=2)
    system = known + (known.sum(axis=2) + 0.3)[:, :, None] * np.eye(num_nodes)
    level = np.linalg.solve(system, residuals[..., None])
    return np.maximum(mean + level + np.swapaxes(level, 1, 2), 0.0)


def _substitution(scaled: Floats, known: Bools) -> Floats:
    """d(i, j) from d(a, j) and d(i, b) of nodes a, b whose known distances resemble those of i, j."""
    num_nodes = scaled.shape[-1]
    eye = np.eye(num_nodes)
    seen = known + eye  # a node's distance to itself is known
    flipped = np.swapaxes(seen, 1, 2)
    squares = scaled**2
    shared = seen @ flipped
    difference = squares @ flipped + seen @ np.swapaxes(squares, 1, 2) - 2 * scaled @ np.swapaxes(scaled, 1, 2)
    difference = np.maximum(difference, 0.0) / np.maximum(shared, 1.0)
    difference += 0.25 / (shared + 0.05) ** 2 + (_NOISE_FLOOR / 2) ** 2
    weights = difference**-3.0 * (1.0 - eye)
    numerator, denominator = weights @ scaled, weights @ known
    numerator = numerator + np.swapaxes(numerator, 1, 2)
    denominator = denominator + np.swapaxes(denominator, 1, 2)
    mean = _mean_known(scaled, known)[:, None, None]
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), mean)


def _low_rank(scaled: Floats, fixed: Bools, start: Floats, rank: int) -> Floats:
    """Entries outside `fixed` replaced, again and again, by the best symmetric approximation of the given rank."""
    filled = np.where(fixed, scaled, start)
    limit = 2.0 * np.abs(scaled).max(axis=(1, 2), keepdims=True)
    for _ in range(_NUM_ROUNDS):
        eigenvalues, vectors = np.linalg.eigh(filled)
        kept = eigenvalues * _largest_shares(np.abs(eigenvalues), rank)
        approximation = (vectors * kept[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        filled = np.where(fixed, scaled, np.clip(approximation, -limit, limit))
    return np.maximum(filled, 0.0)


def _largest_shares(sizes: Floats, count: int) -> Floats:
    """1 for the `count` largest of each row, 0 for the rest; equal ones share, so that no order of nodes decides."""
    last = np.sort(sizes, axis=-1)[:, -count, None]
    above, below = sizes > last * (1 + 1e-6), sizes < last * (1 - 1e-6)
    tied = ~above & ~below
    share = (count - above.sum(axis=-1, keepdims=True)) / np.maximum(tied.sum(axis=-1, keepdims=True), 1)
    return np.where(above, 1.0, np.where(tied, share, 0.0))


def _embedding(scaled: Floats, known: Bools, start: Floats, dimensions: int) -> Floats:
    """Distances between points in `dimensions` dimensions that fit the known distances (stress majorization)."""
    num_nodes = scaled.shape[-1]
    eye = np.eye(num_nodes)
    centring = eye - 1.0 / num_nodes
    target = np.where(known, scaled, start)
    eigenvalues, vectors = np.linalg.eigh(-0.5 * centring @ target**2 @ centring)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    points = vectors * np.sqrt(eigenvalues * _largest_shares(eigenvalues, dimensions))[:, None, :]
    weights = np.where(known, 1.0, 0.02) * (1.0 - eye)
    inverse = np.linalg.pinv(weights.sum(axis=2)[:, :, None] * eye - weights, hermitian=True)
    for _ in range(_NUM_ROUNDS):
        distances = _pairwise(points)
        ratios = weights * target / np.where(distances > 1e-6, distances, 1.0) * (distances > 1e-6)
        points = inverse @ ((ratios.sum(axis=2)[:, :, None] * eye - ratios) @ points)
    return _pairwise(points)


def _pairwise(points: Floats) -> Floats:
    products = points @ np.swapaxes(points, 1, 2)
    squares = np.diagonal(products, axis1=1, axis2=2)
    return np.sqrt(np.maximum(squares[:, :, None] + squares[:, None, :] - 2 * products, 0.0))


def _scaled(values: Floats) -> tuple[Floats, float]:
    """Known values divided by their root mean square, 0 where unknown; and that root mean square."""
    known = np.isfinite(values)
    largest = float(values[known].max(initial=0.0))
    if largest <= 0:
        return np.zeros_like(values), 1.0
    shares = np.where(known, values, 0.0) / largest  # first by the largest: squares of tiny numbers vanish
    level = math.sqrt(float((shares**2).sum()) / known.sum())
    return shares / level, largest * level


def _num_pairs(mask: Bools) -> int:
    return int(np.triu(mask, 1).sum())


def _only(i: int, j: int, num_nodes: int) -> Bools:
    mask = np.zeros((num_nodes, num_nodes), dtype=bool)
    mask[i, j] = mask[j, i] = True
    return mask


def _ordered(i: int, j: int) -> tuple[int, int]:
    return (int(i), int(j)) if i < j else (int(j), int(i))


def _largest(scores: Floats) -> tuple[int, int]:
    upper = np.where(np.triu(np.ones_like(scores, dtype=bool), 1), scores, -np.inf)
    i, j = np.unravel_index(int(np.argmax(upper)), upper.shape)
    return int(i), int(j)


__all__ = ["CompletedMatrix", "PairSampler", "Strategy", "complete_matrix", "estimate_missing"]
