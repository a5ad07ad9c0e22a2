"""Which rows train, which choose, which judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SPLITS = ("train", "validation", "test")


def split_rows(
    num_rows: int, fractions: Mapping[str, float], seed: int = 0, groups: Sequence[object] | None = None
) -> dict[str, np.ndarray]:
    """Row indices of the training split and of each split that takes a fraction of it.

    Every row is in exactly one split. The same arguments give the same split on every machine. Rows of one group
    stay together: groups are visited in random order, and one joins a split as long as that brings the split's size
    closer to its fraction.

    Args:
        num_rows: number of rows to divide.
        fractions: share of the rows for `"validation"` and/or `"test"`, each between 0 and 1; train keeps the rest.
        seed: which of the random splits.
        groups: for each row the value (text or number) that must not be divided among splits.

    Returns:
        Name of the split to increasing row indices, int64. A split may be empty where there are too few rows.
    """
    generator = np.random.default_rng(seed)
    units: list[list[int]] | None = None
    if groups is not None:
        rows_of: dict[object, list[int]] = {}
        for row, group in enumerate(groups):
            rows_of.setdefault(group, []).append(row)
        units = list(rows_of.values())
    order = generator.permutation(num_rows if units is None else len(units)).tolist()
    rows: dict[str, np.ndarray] = {}
    for name, fraction in fractions.items():
        wanted = round(fraction * num_rows)
        if units is None:
            rows[name], order = np.sort(np.array(order[:wanted], dtype=np.int64)), order[wanted:]
            continue
        chosen, rest, taken = [], [], 0
        for unit in order:
            size = len(units[unit])
            if abs(taken + size - wanted) < abs(taken - wanted):
                chosen.append(unit)
                taken += size
            else:
                rest.append(unit)
        rows[name], order = _rows_of_units(units, chosen), rest
    rows["train"] = np.sort(np.array(order, dtype=np.int64)) if units is None else _rows_of_units(units, order)
    return rows


def _rows_of_units(units: Sequence[Sequence[int]], chosen: Sequence[int]) -> np.ndarray:
    return np.array(sorted(row for unit in chosen for row in units[unit]), dtype=np.int64)


__all__ = ["SPLITS", "split_rows"]
