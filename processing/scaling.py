"""Scaling of numeric columns with statistics of the training split."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

# The interquartile range of a normal distribution, in standard deviations: robust and standard scaling then agree
# on normal data.
NORMAL_IQR = 1.3489795003921634
NUM_QUANTILES = 101
# The outermost of the 101 quantiles stand for the outer half percents, so that no score is infinite.
NORMAL_SCORES = np.array([NormalDist().inv_cdf(min(max(step / 100, 0.005), 0.995)) for step in range(NUM_QUANTILES)])
CHUNK = 2**20  # numbers that are turned into float64 at a time
SCALES = ("robust", "standard", "none")


def fit_scaling(values: np.ndarray, method: str) -> dict[str, Any]:
    """Statistics of each column, for `apply_scaling`.

    Args:
        values: (rows, columns) float64, NaN where missing.
        method: `"robust"` (median; interquartile range over 1.349, or the standard deviation where that range is 0),
            `"standard"` (mean, standard deviation), `"none"`, or `"quantile"` (101 quantiles).

    Returns:
        `{"center": [...], "scale": [...]}` or `{"quantiles": [[...]]}`, one entry per column. A scale of 0 marks a
        column that is constant or wholly missing in training. Columns that hold both 0 and 1 and nothing else are
        flags and keep their values (center 0, scale 1), except with `"quantile"`.
    """
    if method == "quantile":
        return {"quantiles": [_quantiles(column) for column in values.T]}
    pairs = [_center_and_scale(column, method) for column in values.T]
    return {"center": [center for center, _ in pairs], "scale": [scale for _, scale in pairs]}


def apply_scaling(values: np.ndarray, statistics: dict[str, Any], clip: float | None) -> np.ndarray:
    """Columns scaled with `fit_scaling`'s statistics; a new array, without NaN.

    Args:
        values: (rows, columns) float64, NaN where missing.
        statistics: what `fit_scaling` returned.
        clip: largest magnitude that is kept; larger ones are set to it. None: what float32 can hold.

    Returns:
        (rows, columns) float64; 0 where missing and in columns without spread in training. Every number depends on
        its own value only, not on the rows beside it.
    """
    if "quantiles" in statistics:
        scaled = np.empty_like(values)
        for index, quantiles in enumerate(statistics["quantiles"]):
            scaled[:, index] = _normal_scores(values[:, index], np.array(quantiles))
    else:
        center, scale = np.array(statistics["center"]), np.array(statistics["scale"])
        varies = scale > 0
        with np.errstate(over="ignore"):
            scaled = (values - center) / np.where(varies, scale, 1.0)
        scaled[:, ~varies] = 0.0
    scaled[np.isnan(values)] = 0.0
    bound = float(np.finfo(np.float32).max) if clip is None else clip
    return np.clip(scaled, -bound, bound, out=scaled)


def mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over all numbers, (0, 0) for none; large arrays and large numbers are no problem."""
    flat = values.reshape(-1)
    if not flat.size:
        return 0.0, 0.0
    starts = range(0, flat.size, CHUNK)
    largest = max(float(np.abs(flat[start : start + CHUNK].astype(np.float64)).max()) for start in starts)
    unit = largest if largest > 1e100 else 1.0
    mean = sum(float((flat[start : start + CHUNK] / unit).sum()) for start in starts) / flat.size
    squares = sum(float(((flat[start : start + CHUNK] / unit - mean) ** 2).sum()) for start in starts)
    return mean * unit, math.sqrt(squares / flat.size) * unit


def _center_and_scale(column: np.ndarray, method: str) -> tuple[float, float]:
    known = column[~np.isnan(column)]
    if method == "none":
        return 0.0, 1.0
    if not len(known) or known.min() == known.max():
        return (float(known[0]) if len(known) else 0.0), 0.0
    if ((known == 0) | (known == 1)).all():
        return 0.0, 1.0
    mean, deviation = mean_and_deviation(known)
    if method == "standard":
        return mean, deviation
    low, median, high = (float(value) for value in np.percentile(known, [25, 50, 75]))
    spread = high / NORMAL_IQR - low / NORMAL_IQR
    # A spread at the level of rounding is no spread.
    if spread <= 1e-12 * abs(median):
        spread = deviation
    return median, spread


def _quantiles(column: np.ndarray) -> list[float]:
    known = column[~np.isnan(column)]
    if not len(known):
        return [0.0] * NUM_QUANTILES
    quantiles = np.percentile(known, np.linspace(0, 100, NUM_QUANTILES))
    return [float(value) for value in np.maximum.accumulate(quantiles)]


def _normal_scores(column: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Normal scores by linear interpolation between quantiles; a value with many quantiles gets their middle."""
    if quantiles[0] == quantiles[-1]:
        return np.zeros_like(column)
    last = len(quantiles) - 1
    column = np.clip(column, quantiles[0], quantiles[-1])  # NaN stays; the caller replaces it
    left = np.searchsorted(quantiles, column, side="left")
    right = np.searchsorted(quantiles, column, side="right")
    on_knot = right > left
    low, high = np.clip(left - 1, 0, last), np.clip(left, 0, last)
    width = np.where(on_knot | (high == low), 1.0, quantiles[high] - quantiles[low])
    share = (column - quantiles[low]) / width
    between = NORMAL_SCORES[low] + share * (NORMAL_SCORES[high] - NORMAL_SCORES[low])
    middle = (NORMAL_SCORES[np.clip(left, 0, last)] + NORMAL_SCORES[np.clip(right - 1, 0, last)]) / 2
    return np.where(on_knot, middle, between)
