"""MIMIC, as `im.pk` of MultiBench holds it: 5 values on admission, 24 hours of 12 vital signs, ICD-9 and mortality."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np

from .arrays import check_array, check_rows
from .base import Examples, MultiBenchBuilder, MultiBenchConfig, array, class_label
from .restricted_pickle import read_pickled_arrays

_KEYS = {"adm_features_all": 2, "ep_tdata": 3, "adm_labels_all": 2, "y_icd9": 2}
# The names are those of the benchmark that the columns come from; MultiBench itself does not name them.
_MORTALITY = ("survived", "within_1_day", "within_2_days", "within_3_days", "within_30_days", "within_1_year")


@dataclass
class MimicConfig(MultiBenchConfig):
    """Options of MIMIC.

    Args:
        icd9_group: which of the 20 groups of ICD-9 codes is predicted; the paper's is 7.
    """

    icd9_group: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.icd9_group) is not int or not 0 <= self.icd9_group < 20:
            raise ValueError(f"icd9_group={self.icd9_group!r} must be a whole number from 0 to 19.")


class Mimic(MultiBenchBuilder):
    """`im.pk`: columns `static` (5,), `time_series` (24, 12), `icd9` and `mortality`.

    Infinite and missing numbers are missing. The rows are split as in the public code: shuffled with seed 10, a tenth
    for validation, a tenth for test.

    Faithful to the public code: infinite and missing numbers are 0, and both arrays are standardised with means and
    deviations of all rows, those of the test split included.
    """

    BUILDER_CONFIG_CLASS = MimicConfig
    key = "mimic"

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features(
            {
                "static": datasets.List(datasets.Value("float32"), length=self._arrays["adm_features_all"].shape[1]),
                "time_series": array(*self._arrays["ep_tdata"].shape[1:]),
                "icd9": class_label("absent", "present"),
                "mortality": class_label(*_MORTALITY),
            }
        )

    def examples(self, split: str) -> Examples:
        """Rows of a split."""
        static, series = self._prepared("adm_features_all"), self._prepared("ep_tdata")
        for index in public_split(len(static))[split]:
            deaths = np.flatnonzero(self._arrays["adm_labels_all"][index, 1:6] > 0)
            yield (
                index,
                {
                    "static": static[index],
                    "time_series": series[index],
                    "icd9": int(self._arrays["y_icd9"][index, self.config.icd9_group] > 0),
                    # The first of the flags 1 to 5 that is set; column 0 is never consulted.
                    "mortality": int(deaths[0]) + 1 if len(deaths) else 0,
                },
            )

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        (path,) = self.files["im.pk"]
        found = read_pickled_arrays(path)
        if not isinstance(found, dict) or any(key not in found for key in _KEYS):
            held = ", ".join(map(str, found)) if isinstance(found, dict) else f"a {type(found).__name__}"
            raise ValueError(f"{path} holds {held}; expected a dictionary with {', '.join(_KEYS)}.")
        arrays = {key: check_array(found[key], f"{path}: {key!r}", ndim) for key, ndim in _KEYS.items()}
        check_rows(str(path), arrays)
        for key, least in (("adm_labels_all", 6), ("y_icd9", self.config.icd9_group + 1)):
            if arrays[key].shape[1] < least:
                raise ValueError(f"{path}: {key!r} has {arrays[key].shape[1]} columns, expected at least {least}.")
        return arrays

    def _prepared(self, key: str) -> np.ndarray:
        values: np.ndarray[Any, Any] = self._arrays[key].astype(np.float64)
        values[~np.isfinite(values)] = 0.0 if self.faithful else np.nan
        if self.faithful:
            axes = tuple(range(values.ndim - 1))
            deviation = values.std(axis=axes)
            # Without the guard a constant column would become NaN.
            values = (values - values.mean(axis=axes)) / np.where(deviation > 0, deviation, 1.0)
        return values.astype(np.float32)


def public_split(count: int) -> dict[str, list[int]]:
    """Split to its rows; that of the public code."""
    order = list(range(count))
    random.Random(10).shuffle(order)
    return {"validation": order[: count // 10], "test": order[count // 10 : count // 5], "train": order[count // 5 :]}
