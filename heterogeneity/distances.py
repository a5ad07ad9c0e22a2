"""Heterogeneity from losses: transfers, distances with their errors, and the file that keeps both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from ..configuration.files import write_json

MatrixKind = Literal["unimodal", "interaction"]
LossScale = Literal["null", "none", "metric"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ARRAYS = ("transfer", "values", "standard_errors")
_RENAMED = {"num_seeds": "seeds"}


@dataclass
class DistanceEstimate:
    """Transfers and distances of one set of nodes, each with the error that its seeds leave.

    Args:
        transfer: mean T(source -> target) over seeds, `(n, n)`, rows are sources; NaN where no seed finished.
        transfer_standard_errors: standard error of each mean, `(n, n)`; NaN where fewer than two seeds finished.
        values: distances, `(n, n)`, symmetric, non-negative, zero diagonal; NaN where not measured.
        standard_errors: standard error of each distance, `(n, n)`; NaN where unknown, 0 on the diagonal.
        measured: which distances rest on both directions, `(n, n)`; False on the diagonal, which is 0 by definition.
    """

    transfer: Floats
    transfer_standard_errors: Floats
    values: Floats
    standard_errors: Floats
    measured: Bools


def modality_transfer(loss_transfer: ArrayLike, loss_scratch: ArrayLike) -> Floats:
    """How much harder a target becomes when its model starts from another one: T(source -> target).

    Args:
        loss_transfer: best validation loss after transfer, `(..., sources, targets)` or any shape of `loss_scratch`.
        loss_scratch: best validation loss from random initialisation, `(..., targets)`.

    Returns:
        `loss_transfer - loss_scratch`, in the unit of the losses. Positive: transfer hurts. Not symmetric.

    Source: Liang et al., TMLR 05/2023, equation 4 (and 15).
    """
    transferred = np.asarray(loss_transfer, dtype=float)
    scratch = np.asarray(loss_scratch, dtype=float)
    if transferred.ndim == scratch.ndim + 1:
        scratch = scratch[..., None, :]
    return np.asarray(transferred - scratch)


def heterogeneity_distance(transfer_losses: ArrayLike, scratch_losses: ArrayLike) -> DistanceEstimate:
    """Distances d(a; b) = max(T(a -> b), 0) + max(T(b -> a), 0) over a whole matrix, from the losses of every seed.

    The positive part is taken of the mean over seeds (the mean of positive parts would grow with the noise). Its
    standard error is that of a normal variable cut off at 0, so it fades out smoothly where transfer helps; the two
    directions, which share no target, are added as independent.

    Args:
        transfer_losses: `(num_seeds, n, n)`, rows are sources; NaN (or infinite: a run that diverged) is left out.
            The diagonal is not read: a model of X is its own transfer to X.
        scratch_losses: `(num_seeds, n)`, in the same unit.

    Returns:
        Means, distances, standard errors and which distances were measured.

    Raises:
        ValueError: the two shapes do not belong together.

    Source: Liang et al., TMLR 05/2023, equations 4 and 5 (interactions: 6 to 8).
    """
    transferred = np.asarray(transfer_losses, dtype=float)
    scratch = np.asarray(scratch_losses, dtype=float)
    if transferred.ndim != 3 or transferred.shape[1] != transferred.shape[2]:
        raise ValueError(f"Transfer losses must have the shape (num_seeds, n, n), got {transferred.shape}.")
    if scratch.shape != transferred.shape[:2]:
        raise ValueError(
            f"Scratch losses must have the shape {transferred.shape[:2]} (num_seeds, n) to go with the transfer "
            f"losses, got {scratch.shape}."
        )
    with np.errstate(invalid="ignore"):
        per_seed = modality_transfer(transferred, scratch)
    diagonal = np.arange(transferred.shape[1])
    per_seed[:, diagonal, diagonal] = 0.0
    finished = np.isfinite(per_seed)
    counts = finished.sum(axis=0)
    filled = np.where(finished, per_seed, 0.0)
    mean = np.where(counts > 0, filled.sum(axis=0) / np.maximum(counts, 1), np.nan)
    squares = np.where(finished, (per_seed - mean) ** 2, 0.0).sum(axis=0)
    errors = np.where(counts > 1, np.sqrt(squares / np.maximum(counts - 1, 1) / np.maximum(counts, 1)), np.nan)
    errors[diagonal, diagonal] = 0.0
    mean[diagonal, diagonal] = 0.0
    positive, variance = np.maximum(mean, 0.0), _rectified_variance(mean, errors)
    values = positive + positive.T
    measured = np.isfinite(values)
    measured[diagonal, diagonal] = False
    return DistanceEstimate(mean, errors, values, np.sqrt(variance + variance.T), measured)


def _rectified_variance(mean: Floats, error: Floats) -> Floats:
    """Variance of max(x, 0) for x ~ N(mean, error^2), elementwise; NaN where either is NaN."""
    safe = np.where(error > 0, error, 1.0)
    ratio = mean / safe
    below, density = norm.cdf(ratio), norm.pdf(ratio)
    first = mean * below + safe * density
    second = (mean**2 + safe**2) * below + mean * safe * density
    variance = np.maximum(second - first**2, 0.0)
    return np.where(np.isnan(mean) | np.isnan(error), np.nan, np.where(error > 0, variance, 0.0))


def scale_losses(
    losses: ArrayLike,
    loss_scale: LossScale = "null",
    *,
    null_losses: ArrayLike | None = None,
    higher_is_better: Sequence[bool] | None = None,
    nodes: Sequence[str] | None = None,
) -> Floats:
    """Losses of different tasks brought into one unit, so that their transfers can be compared.

    Args:
        losses: `(..., targets)`; for `"metric"` the metric's values instead (accuracy as a share from 0 to 1).
        loss_scale: `"null"` divides by the loss of the target's best constant prediction (label prior or mean), so a
            transfer is a share of what there is to learn. `"none"` is the paper's equation as written. `"metric"`
            gives percentage points lost: `-100 * metric`, and for errors (RMSE, MSE) `100 * error / null error`.
        null_losses: `(targets,)`, loss (for `"metric"`: error) of the best constant prediction.
        higher_is_better: for `"metric"`, one claim for each target.
        nodes: names of the targets, for messages.

    Returns:
        Scaled losses, the shape of `losses`; lower is better in each.

    Raises:
        ValueError: an unknown scale, or a target whose null loss is missing, not finite or not positive.
    """
    if loss_scale not in get_args(LossScale):
        raise ValueError(f"loss_scale={loss_scale!r} is not one of {', '.join(get_args(LossScale))}.")
    array = np.asarray(losses, dtype=float)
    if loss_scale == "none":
        return array.copy()
    num_targets = array.shape[-1]
    names = [str(node) for node in nodes] if nodes is not None else [f"target {k}" for k in range(num_targets)]
    if loss_scale == "null":
        return array / _null_losses(null_losses, names, range(num_targets))
    if higher_is_better is None or len(higher_is_better) != num_targets:
        raise ValueError("loss_scale='metric' needs higher_is_better with one claim for each target.")
    errors = [k for k in range(num_targets) if not higher_is_better[k]]
    factors = np.full(num_targets, -100.0)
    if errors:
        factors[errors] = 100.0 / _null_losses(null_losses, names, errors)[errors]
    return array * factors


def _null_losses(null_losses: ArrayLike | None, names: Sequence[str], needed: Sequence[int]) -> Floats:
    null = np.full(len(names), np.nan) if null_losses is None else np.asarray(null_losses, dtype=float)
    if null.shape != (len(names),):
        raise ValueError(f"null_losses must have one value for each of the {len(names)} targets, got {null.shape}.")
    for k in needed:
        if not (math.isfinite(null[k]) and null[k] > 0):
            raise ValueError(
                f"{names[k]}: the best constant prediction has the loss {null[k]}, which nothing can be divided by. "
                "The target is constant or missing in the validation split: leave the task out, or use "
                "loss_scale='none'."
            )
    return null


def singular_value_shares(values: ArrayLike) -> Floats:
    """Share of the sum of squared singular values that the largest 1, 2, ..., n of them hold, `(n,)`.

    Source: Liang et al., TMLR 05/2023, figure 7 ("the top 3 explain at least 97 % of the variance").
    """
    squares = np.linalg.svd(np.asarray(values, dtype=float), compute_uv=False) ** 2
    total = squares.sum()
    return np.cumsum(squares) / total if total > 0 else np.ones(len(squares))


def triangle_inequality_rate(values: ArrayLike, c: float = 1.0) -> float:
    """Share of all n^3 ordered triples (i, j, k), repeated indices included, with d(i,k) <= c (d(i,j) + d(j,k)).

    Source: Liang et al., TMLR 05/2023, equation 22; the paper's percentages come from this count.
    """
    distances = np.asarray(values, dtype=float)
    bounds = c * (distances[:, :, None] + distances[None, :, :])
    slack = 1e-12 * (np.abs(distances).max(initial=0.0))
    return float((distances[:, None, :] <= bounds + slack).mean())


@dataclass(eq=False)
class HeterogeneityMatrix:
    """One heterogeneity matrix with all that is needed to trust it.

    Args:
        kind: `"unimodal"` (nodes are modality-task pairs) or `"interaction"`.
        nodes: names in the order of rows and columns, `"task/modality"` or `"task/a+b"`.
        transfer: T(source -> target), `(n, n)`, rows are sources; NaN where not measured.
        values: distances, `(n, n)`, symmetric, non-negative, zero diagonal; NaN where neither measured nor completed.
        standard_errors: of the distances, `(n, n)`, symmetric; NaN where unknown.
        measured: which distances were measured, `(n, n)`, symmetric; the rest is completed. False on the diagonal.
        losses: scratch, transfer and null losses as they were measured, plain data.
        loss_scale: unit of `transfer` and `values`, see `scale_losses`.
        num_seeds: runs behind each measured entry (`"seeds"` in the file).
        settings: training settings of the runs, plain data.
        suite, suite_fingerprint: which data the matrix belongs to.
        excluded: nodes of the suite that could not be measured and are not among `nodes`, each with the reason.
        diverged: runs that diverged, by name, each with the reason; what they would have told is imputed.
        version: of the measurement (`MEASURING_VERSION`); other versions give other numbers.

    Raises:
        ValueError: shapes, symmetry or signs that no such matrix has; the message names kind and entry.

    Source: Liang et al., TMLR 05/2023, section 2.1 (M_U and M_C).
    """

    kind: MatrixKind
    nodes: list[str]
    transfer: Floats
    values: Floats
    standard_errors: Floats
    measured: Bools
    losses: dict[str, Any] = field(default_factory=dict)
    loss_scale: LossScale = "null"
    num_seeds: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    suite: str = ""
    suite_fingerprint: str = ""
    excluded: dict[str, str] = field(default_factory=dict)
    diverged: dict[str, str] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(MatrixKind):
            raise ValueError(f"Heterogeneity matrix: kind={self.kind!r} is not one of unimodal, interaction.")
        self.nodes = [str(node) for node in self.nodes]
        for name in _ARRAYS:
            setattr(self, name, self._square(name, float))
        self.measured = self._square("measured", bool)
        self._check()

    def _square(self, name: str, dtype: type) -> NDArray[Any]:
        size = len(self.nodes)
        try:
            array: NDArray[Any] = np.array(getattr(self, name), dtype=dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.kind} matrix: {name} is not a table of numbers ({error}).") from error
        if size == 0 and array.size == 0:
            return array.reshape(0, 0)
        if array.shape != (size, size):
            raise ValueError(
                f"{self.kind} matrix: {name} has the shape {array.shape}, but {size} nodes need ({size}, {size})."
            )
        return array

    def _check(self) -> None:
        if len(set(self.nodes)) != len(self.nodes):
            twice = next(node for node in self.nodes if self.nodes.count(node) > 1)
            raise ValueError(f"{self.kind} matrix: node {twice!r} is listed twice.")
        if self.loss_scale not in get_args(LossScale):
            raise ValueError(f"{self.kind} matrix: loss_scale={self.loss_scale!r} is not one of null, none, metric.")
        if isinstance(self.num_seeds, bool) or not isinstance(self.num_seeds, int) or self.num_seeds < 1:
            raise ValueError(f"{self.kind} matrix: num_seeds={self.num_seeds!r} must be a whole number of 1 or more.")
        if np.any(np.diagonal(self.values) != 0):
            raise ValueError(f"{self.kind} matrix: the distance of a node to itself must be 0.")
        if np.any(np.diagonal(self.measured)):
            raise ValueError(
                f"{self.kind} matrix: 'measured' must be false on the diagonal, which is 0 by definition."
            )
        scale = np.nanmax(np.abs(self.values), initial=0.0)
        tolerances = {"values": 1e-9 * scale, "standard_errors": 1e-9 * scale, "measured": 0.0}
        for name, tolerance in tolerances.items():
            array = getattr(self, name).astype(float)
            self._refuse(~np.isclose(array, array.T, rtol=1e-9, atol=tolerance, equal_nan=True), name, "symmetric")
        self._refuse(self.values < 0, "values", "non-negative")
        self._refuse(np.isinf(self.values), "values", "finite")
        self._refuse(self.standard_errors < 0, "standard_errors", "non-negative")
        self._refuse(self.measured & np.isnan(self.values), "values", "known where measured")

    def _refuse(self, bad: Bools, name: str, claim: str) -> None:
        if bad.any():
            i, j = (int(index) for index in np.argwhere(bad)[0])
            raise ValueError(
                f"{self.kind} matrix: {name} must be {claim}; {self.nodes[i]} and {self.nodes[j]} have "
                f"{getattr(self, name)[i, j]} and {getattr(self, name)[j, i]}."
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeterogeneityMatrix) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    @property
    def num_measured(self) -> int:
        """Number of unordered pairs that were measured."""
        return int(np.triu(self.measured, 1).sum())

    def in_order(self, nodes: Sequence[str]) -> HeterogeneityMatrix:
        """The same matrix with rows and columns of the given nodes, in their order (a subset is allowed).

        Raises:
            ValueError: a node that this matrix does not have.
        """
        missing = [node for node in nodes if node not in self.nodes]
        if missing:
            raise ValueError(f"{self.kind} matrix has no node {missing[0]!r}; its nodes are {', '.join(self.nodes)}.")
        order = [self.nodes.index(node) for node in nodes]
        entries = {name: getattr(self, name)[np.ix_(order, order)] for name in (*_ARRAYS, "measured")}
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in entries}
        return HeterogeneityMatrix(**{**kept, **entries, "nodes": list(nodes)})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, `null` where a number is unknown; the form of the file."""
        return {_RENAMED.get(f.name, f.name): _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeterogeneityMatrix:
        """The matrix in plain data.

        Raises:
            ValueError: a part is missing, unknown or impossible.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"A heterogeneity matrix must be a mapping, got {type(data).__name__}.")
        names = {_RENAMED.get(f.name, f.name): f.name for f in fields(cls)}
        required = ("kind", "nodes", *_ARRAYS, "measured")
        missing = [name for name in required if name not in data]
        if missing:
            raise ValueError(f"A heterogeneity matrix without {missing[0]!r}; it needs {', '.join(required)}.")
        unknown = sorted(set(data) - set(names))
        if unknown:
            raise ValueError(f"A heterogeneity matrix has no part {unknown[0]!r}; its parts are {', '.join(names)}.")
        return cls(**{names[name]: value for name, value in data.items()})

    def to_json_file(self, path: str | Path) -> None:
        """Write the matrix, whole or not at all (a temporary file beside `path`, then a rename)."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def from_json_file(cls, path: str | Path) -> HeterogeneityMatrix:
        """The matrix in a JSON file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not JSON, or not a heterogeneity matrix; the message names the file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no heterogeneity matrix here; measure the suite first.")
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: lists for arrays, None for numbers that are not finite."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = [
    "DistanceEstimate",
    "HeterogeneityMatrix",
    "LossScale",
    "MatrixKind",
    "heterogeneity_distance",
    "modality_transfer",
    "scale_losses",
    "singular_value_shares",
    "triangle_inequality_rate",
]
