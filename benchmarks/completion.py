"""How well part of a heterogeneity matrix tells the rest: error against the share of entries that is measured.

Prints the table of docs/heterogeneity.md. Three ways on the same matrices: pairs chosen by the package, the package's
rules on pairs drawn at random, and alternating least squares of rank 3 on random pairs (the paper's proposal).

    python benchmarks/completion.py [--matrices 20] [--shares 0.4 0.5 0.6 0.7] [--only NAME ...] [--picture FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from highmmt.heterogeneity.clustering import cluster_nodes
from highmmt.heterogeneity.completion import complete_matrix

Floats = NDArray[np.float64]

# Liang et al., TMLR 05/2023, figure 5: lower triangles, row by row.
UNIMODAL = (
    "0.4  20 20  4.1 5 .2  0 .2 20 4.1  0 0 20 4.1 0  2.5 .3 20 6 .3 0  0 .2 20 4.2 0 0 .4  "
    ".2 .3 20 4.4 0 0 .5 .1  0 .8 20 4.6 0 0 0 0 0"
)
INTERACTION = "23  .8 22  .4 24 .2  .4 24 .2 .3  .4 22 0 0 0  .4 22 0 0 .1 0  .5 22 0 0 .2 0 .9"


def from_triangle(numbers: str) -> Floats:
    """A symmetric matrix with a zero diagonal from its lower triangle, row by row."""
    entries = np.array(numbers.split(), dtype=float)
    size = round((1 + np.sqrt(1 + 8 * len(entries))) / 2)
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size, -1)] = entries
    return matrix + matrix.T


def noise(generator: np.random.Generator, size: int) -> Floats:
    """Symmetric standard normal noise."""
    upper = np.triu(generator.normal(size=(size, size)), 1)
    return upper + upper.T


def as_distances(matrix: Floats) -> Floats:
    """The symmetric, non-negative part with a zero diagonal."""
    matrix = np.maximum((matrix + matrix.T) / 2, 0.0)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def perturbed(numbers: str) -> Callable[[np.random.Generator, int], Floats]:
    """Figure 5 with 10 % multiplicative and some additive noise, its nodes in another order."""

    def draw(generator: np.random.Generator, size: int) -> Floats:
        matrix = from_triangle(numbers)
        size = len(matrix)
        matrix = matrix * np.exp(0.1 * noise(generator, size)) + np.abs(0.2 * noise(generator, size))
        order = generator.permutation(size)
        return as_distances(matrix)[np.ix_(order, order)]

    return draw


def outliers(generator: np.random.Generator, size: int) -> Floats:
    """One to three nodes far from all others, some of them close to each other."""
    matrix = np.abs(0.4 * noise(generator, size))
    far = generator.choice(size, generator.integers(1, 4), replace=False)
    for node in far:
        level = generator.uniform(4, 25) * np.exp(0.08 * generator.normal(size=size))
        matrix[node] = matrix[:, node] = np.maximum(matrix[node], level)
    for a, b in zip(far[1:], far[:-1], strict=True):
        if generator.random() < 0.5:
            matrix[a, b] = matrix[b, a] = generator.uniform(0, 1)
    return as_distances(matrix)


def blocks(generator: np.random.Generator, size: int) -> Floats:
    """Two to four families, near within, far across."""
    count = generator.integers(2, 5)
    family = generator.integers(0, count, size)
    between = as_distances(generator.uniform(2, 10, (count, count))) + np.diag(generator.uniform(0, 1, count))
    matrix = between[np.ix_(family, family)] * np.exp(0.1 * noise(generator, size))
    return as_distances(matrix + np.abs(0.2 * noise(generator, size)))


def embedding(generator: np.random.Generator, size: int) -> Floats:
    """Points in three dimensions, distances less a margin, positive part."""
    points = generator.normal(size=(size, 3)) * (3, 2, 1)
    matrix = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return as_distances(matrix - generator.uniform(0, 1) + 0.15 * noise(generator, size))


def low_rank(generator: np.random.Generator, size: int) -> Floats:
    """Rank 3 apart from the diagonal."""
    points = generator.gamma(1.0, 1.0, size=(size, 3))
    core = generator.uniform(0, 3, (3, 3))
    return as_distances(points @ (core + core.T) @ points.T * np.exp(0.05 * noise(generator, size)))


def levels(generator: np.random.Generator, size: int) -> Floats:
    """Each node has a level, distances are their sums."""
    level = generator.gamma(0.7, 3.0, size=size)
    return as_distances((level[:, None] + level[None]) * np.exp(0.1 * noise(generator, size)))


def transfers(generator: np.random.Generator, size: int) -> Floats:
    """Positive parts of low-rank transfers in both directions: equation 5 with positive transfer."""
    sources, targets = generator.normal(size=(size, 2)), generator.normal(size=(size, 2))
    transfer = sources @ targets.T + generator.normal(size=(size, 1)) + np.abs(generator.normal(size=size))
    return as_distances(2 * np.maximum(transfer + 0.1 * generator.normal(size=(size, size)), 0.0))


FAMILIES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "figure 5 unimodal": lambda generator, size: from_triangle(UNIMODAL),
    "figure 5 interaction": lambda generator, size: from_triangle(INTERACTION),
    "figure 5 unimodal, perturbed": perturbed(UNIMODAL),
    "figure 5 interaction, perturbed": perturbed(INTERACTION),
    "outliers": outliers,
    "blocks": blocks,
    "embedding": embedding,
    "low rank": low_rank,
    "levels": levels,
    "transfers": transfers,
}


def matrices(family: str, count: int) -> Iterator[tuple[int, Floats]]:
    """`count` matrices of a family, 5 to 20 nodes where its size is free."""
    for seed in range(count):
        generator = np.random.default_rng([2023, seed])
        yield seed, FAMILIES[family](generator, int(generator.integers(5, 21)))


def alternating_least_squares(matrix: Floats, budget: int, seed: int, rank: int = 3, ridge: float = 0.1) -> Floats:
    """The paper's proposal: a rank-3 factorisation of entries drawn at random (the diagonal is known)."""
    size = len(matrix)
    generator = np.random.default_rng(seed)
    rows, columns = np.triu_indices(size, 1)
    drawn = generator.choice(len(rows), budget, replace=False)
    known = np.eye(size, dtype=bool)
    known[rows[drawn], columns[drawn]] = known[columns[drawn], rows[drawn]] = True
    scale = matrix[known].max() or 1.0
    left, right = generator.normal(size=(2, size, rank))
    for _ in range(100):
        for first, second in ((left, right), (right, left)):
            for node in range(size):
                other = second[known[node]]
                system = other.T @ other + ridge * np.eye(rank)
                first[node] = np.linalg.solve(system, other.T @ matrix[node, known[node]] / scale)
    return np.where(known, matrix, as_distances(scale * left @ right.T))


def relative_error(estimate: Floats, matrix: Floats) -> float:
    """Frobenius norm of the error as a share of the matrix's; measured entries count with an error of 0."""
    return float(np.linalg.norm(estimate - matrix) / np.linalg.norm(matrix))


def draw(curves: Mapping[str, Mapping[str, Sequence[float]]], shares: Sequence[float], path: Path) -> None:
    """One panel for each family: median error of every way against the share of the pairs that is measured."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(1.5 + 4 * len(curves), 3.8), layout="constrained", sharey=True, squeeze=False
    )
    for panel, (family, ways) in zip(axes[0], curves.items(), strict=True):
        for (way, errors), marker in zip(ways.items(), "osv", strict=True):
            panel.plot([100 * share for share in shares], errors, marker=marker, label=way)
        panel.set_title(family, fontsize=10)
        panel.set_xlabel("pairs measured (%)")
        panel.grid(alpha=0.3)
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel("relative error, median")
    axes[0][-1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Print error and agreement for every family and share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=20)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.7])
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw error against share for every family")
    arguments = parser.parse_args()
    curves: dict[str, dict[str, list[float]]] = {}
    print("| matrices | share | ours | ours, random pairs | random + ALS | two groups (ARI) | within 2 se |")
    print("|---|---|---|---|---|---|---|")
    started = time.perf_counter()
    for family in arguments.only:
        for share in arguments.shares:
            ours, drawn, plain, agreement, covered = [], [], [], [], []
            for seed, matrix in matrices(family, arguments.matrices):
                size = len(matrix)
                nodes = [f"{node:02d}" for node in range(size)]
                budget = round(share * size * (size - 1) / 2)
                distance = matrix.item
                completed = complete_matrix(distance, size, budget, seed=seed)
                random = complete_matrix(distance, size, budget, seed=seed, strategy="random")
                ours.append(relative_error(completed.values, matrix))
                drawn.append(relative_error(random.values, matrix))
                plain.append(relative_error(alternating_least_squares(matrix, budget, seed), matrix))
                groups = [list(cluster_nodes(m, nodes, 2).values()) for m in (matrix, completed.values)]
                agreement.append(adjusted_rand_score(*groups))
                imputed = ~completed.measured & ~np.eye(size, dtype=bool)
                misses = np.abs(completed.values - matrix)[imputed]
                covered.extend(misses <= 2 * completed.standard_errors[imputed])
            ways = {"pairs chosen": ours, "same rules, random pairs": drawn, "ALS, random pairs": plain}
            medians = {way: float(np.median(errors)) for way, errors in ways.items()}
            for way, median in medians.items():
                curves.setdefault(family, {}).setdefault(way, []).append(median)
            columns = " | ".join(f"{median:.3f}" for median in medians.values())
            print(
                f"| {family} | {share:.0%} | {columns} | {np.median(agreement):.2f} | {np.mean(covered):.0%} |",
                flush=True,
            )
    print(f"\n{arguments.matrices} matrices each, medians; {time.perf_counter() - started:.0f} s")
    if arguments.picture:
        draw(curves, arguments.shares, arguments.picture)


if __name__ == "__main__":
    main()
