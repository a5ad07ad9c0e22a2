"""How sure parameter groups are: how often two nodes share a group when the measurement is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .clustering import Linkage, cluster_nodes
from .distances import HeterogeneityMatrix, MatrixKind, heterogeneity_distance, scale_losses

Source = Literal["seeds", "standard_errors", "imputation", "none"]
Floats = NDArray[np.float64]

NUM_SAMPLES = 400
_EXPLANATIONS: dict[Source, str] = {
    "seeds": "seeds drawn again with replacement, and imputed distances within their standard errors",
    "standard_errors": "distances drawn again within their standard errors",
    "imputation": "only imputed distances drawn again: with one seed, nothing is known of the noise of measured ones, "
    "and the groups may hang on more than this shows",
    "none": "not known: every distance was measured, with one seed; measure with more (--seeds 3)",
}


@dataclass(frozen=True)
class GroupStability:
    """How often the nodes of one matrix share a group, over bootstrap samples of the matrix.

    Args:
        kind: of the matrix.
        nodes: names in the order of rows and columns.
        groups: group of each node, the groups whose stability this is.
        linkage: of the clustering.
        source: what the samples are made from: every seed's losses, or the standard errors of all distances, or those
            of the imputed ones alone; `"none"` where nothing says how sure the distances are.
        num_samples: number of samples, each clustered into as many groups as there are; 0 for `"none"`.
        together: share of the samples in which two nodes share a group, `(n, n)`, 1 on the diagonal; None for
            `"none"`.
        alone: share of the samples in which a node is a group of its own, `(n,)`; None for `"none"`.

    Raises:
        ValueError: shapes or shares that no stability has.
    """

    kind: MatrixKind
    nodes: list[str]
    groups: list[int]
    linkage: Linkage
    source: Source
    num_samples: int
    together: Floats | None
    alone: Floats | None

    def __post_init__(self) -> None:
        size = len(self.nodes)
        if self.kind not in get_args(MatrixKind) or self.source not in get_args(Source):
            raise ValueError(f"Stability of groups: kind {self.kind!r} or source {self.source!r} is unknown.")
        if self.linkage not in get_args(Linkage):
            raise ValueError(f"Stability of groups: linkage {self.linkage!r} is unknown.")
        if len(self.groups) != size:
            raise ValueError(f"Stability of groups: {size} nodes, but {len(self.groups)} of them have a group.")
        if (self.together is None, self.alone is None) != (self.source == "none",) * 2:
            raise ValueError("Stability of groups: shares must be there, unless the source is 'none'.")
        for name, shares, shape in (("together", self.together, (size, size)), ("alone", self.alone, (size,))):
            if shares is not None and (shares.shape != shape or not ((shares >= 0) & (shares <= 1)).all()):
                raise ValueError(f"Stability of groups: {name!r} must hold shares from 0 to 1 of the shape {shape}.")

    @property
    def is_trivial(self) -> bool:
        """Whether there is one group, or one for each node, which no sample can change."""
        return len(set(self.groups)) in (1, len(self.nodes))

    @property
    def explanation(self) -> str:
        """What the samples are and what they leave out, in words."""
        if self.is_trivial:
            return "not asked: with one group, or one for each node, no sample can change who belongs together"
        return _EXPLANATIONS[self.source]

    @property
    def support(self) -> list[float | None]:
        """How often each node is where the groups put it, from 0 to 1; None where that is not known.

        The mean share of samples that it spends with the other members of its group; for a group of one, the share in
        which it is alone.
        """
        if self.together is None or self.alone is None or self.is_trivial:
            return [None] * len(self.nodes)
        labels = np.array(self.groups)
        found: list[float | None] = []
        for row, group in enumerate(self.groups):
            others = (labels == group) & (np.arange(len(labels)) != row)
            found.append(float(self.together[row][others].mean() if others.any() else self.alone[row]))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the form of the file."""
        return {
            "kind": self.kind,
            "nodes": self.nodes,
            "groups": self.groups,
            "linkage": self.linkage,
            "source": self.source,
            "num_samples": self.num_samples,
            "together": None if self.together is None else self.together.tolist(),
            "alone": None if self.alone is None else self.alone.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GroupStability:
        """The stability in plain data.

        Raises:
            ValueError: a part is missing, or impossible.
        """
        names = list(cls.__dataclass_fields__)
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise ValueError(f"Stability of groups must be a mapping with {', '.join(names)}.")
        arrays = {
            name: None if values[name] is None else np.array(values[name], dtype=float)
            for name in ("together", "alone")
        }
        return cls(**{**values, **arrays})


def group_stability(
    matrix: HeterogeneityMatrix,
    groups: Sequence[int],
    *,
    linkage: Linkage = "average",
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
) -> GroupStability:
    """How often the nodes of a matrix share a group, over bootstrap samples of it.

    A sample draws as many seeds as there are, with replacement, and computes the measured distances from the losses of
    these; an imputed distance, and with `"standard_errors"` every distance, moves by normal noise of the size of its
    standard error, cut off at 0. The number of groups stays the same, so what varies is who belongs together.

    Args:
        matrix: completed.
        groups: group of each node of the matrix.
        linkage: as in `cluster_nodes`.
        num_samples: number of samples.
        seed: of the samples.

    Raises:
        ValueError: `groups` has not one number for each node, or there are no samples to make.

    Source: ours; the paper reports no uncertainty of its groups.
    """
    if len(groups) != len(matrix.nodes):
        raise ValueError(f"groups must have a number for each of the {len(matrix.nodes)} nodes, got {len(groups)}.")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be 1 or more.")
    losses, source = _losses_of_seeds(matrix), _source(matrix)
    found: tuple[Floats | None, Floats | None] = None, None
    if source == "none":
        num_samples = 0
    else:
        generator = np.random.default_rng(seed)
        samples = [_sample(matrix, losses if source == "seeds" else None, generator) for _ in range(num_samples)]
        found = co_membership(samples, matrix.nodes, len(set(groups)), linkage)
    return GroupStability(
        matrix.kind, list(matrix.nodes), [int(group) for group in groups], linkage, source, num_samples, *found
    )


def co_membership(
    samples: Sequence[ArrayLike], nodes: Sequence[str], num_groups: int, linkage: Linkage = "average"
) -> tuple[Floats, Floats]:
    """Share of the samples in which two nodes share a group, `(n, n)`, and in which a node is alone, `(n,)`.

    Args:
        samples: at least one table of distances, `(n, n)` each.
        nodes, linkage: as in `cluster_nodes`.
        num_groups: number of groups in every sample.

    Raises:
        ValueError: as in `cluster_nodes`.
    """
    together, alone = np.zeros((len(nodes), len(nodes))), np.zeros(len(nodes))
    for sample in samples:
        labels = np.array(list(cluster_nodes(sample, nodes, num_groups, linkage).values()))
        same = labels[:, None] == labels[None, :]
        together += same
        alone += same.sum(axis=1) == 1
    return together / len(samples), alone / len(samples)


def _source(matrix: HeterogeneityMatrix) -> Source:
    pairs = np.triu(np.ones_like(matrix.measured), 1)
    known = np.isfinite(matrix.standard_errors) & pairs
    if len(matrix.nodes) < 2:
        return "none"
    if _losses_of_seeds(matrix) is not None:
        return "seeds"
    if known[pairs].all():
        return "standard_errors"
    return "imputation" if (known & ~matrix.measured).any() else "none"


def _losses_of_seeds(matrix: HeterogeneityMatrix) -> tuple[Floats, Floats] | None:
    """Transfer losses `(num_seeds, n, n)` and scratch losses `(num_seeds, n)` in the unit of the matrix.

    None where the matrix has not two seeds, or keeps no losses.
    """
    nodes, kept = matrix.nodes, matrix.losses
    if matrix.num_seeds < 2 or not {"scratch", "transfer", "null"} <= set(kept):
        return None
    higher = kept.get("higher_is_better")
    if matrix.loss_scale == "metric" and higher is None:
        return None  # a file of an earlier version
    transfer = np.full((matrix.num_seeds, len(nodes), len(nodes)), np.nan)
    for source, first in enumerate(nodes):
        for target, second in enumerate(nodes):
            if (run := kept["transfer"].get(f"{first}->{second}")) is not None:
                transfer[:, source, target] = np.array(run, dtype=float)
    scratch = np.array([kept["scratch"][node] for node in nodes], dtype=float).T
    options: dict[str, Any] = {
        "null_losses": [kept["null"][node] for node in nodes],
        "higher_is_better": None if higher is None else [higher[node] for node in nodes],
        "nodes": nodes,
    }
    scaled = [scale_losses(losses, matrix.loss_scale, **options) for losses in (transfer, scratch)]
    return scaled[0], scaled[1]


def _sample(
    matrix: HeterogeneityMatrix, losses: tuple[Floats, Floats] | None, generator: np.random.Generator
) -> Floats:
    size = len(matrix.nodes)
    noise = np.triu(generator.standard_normal((size, size)), 1)
    errors = np.nan_to_num(matrix.standard_errors, nan=0.0)
    sample = np.maximum(matrix.values + errors * (noise + noise.T), 0.0)
    if losses is not None:
        drawn = generator.integers(0, matrix.num_seeds, matrix.num_seeds)
        values = heterogeneity_distance(losses[0][drawn], losses[1][drawn]).values
        # Where all runs that were drawn diverged, the entry says no more than the matrix.
        again = np.where(np.isfinite(values), values, matrix.values)
        sample = np.where(matrix.measured, again, sample)
    np.fill_diagonal(sample, 0.0)
    return sample


__all__ = ["NUM_SAMPLES", "GroupStability", "co_membership", "group_stability"]
