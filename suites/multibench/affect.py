"""CMU-MOSEI and UR-FUNNY, as MultiBench pickles them: vision, audio and words of spoken utterances, step by step."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import datasets
import numpy as np

from .arrays import check_array, check_rows
from .base import Examples, MultiBenchBuilder, array, class_label
from .restricted_pickle import read_pickled_arrays

# Names of the splits in the files.
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_MODALITIES = ("vision", "audio", "text")
_PADDED = 50  # steps of the public code's batches
# What the public code's `nan_to_num` makes of infinite numbers.
_LARGEST = np.finfo(np.float32).max


class _AffectBuilder(MultiBenchBuilder):
    """One pickled dictionary of splits, each with `vision`, `audio`, `text` (rows, steps, channels) and `labels`."""

    file: ClassVar[str]
    channels: ClassVar[dict[str, int]]

    @cached_property
    def _splits(self) -> dict[str, dict[str, np.ndarray]]:
        (path,) = self.files[self.file]
        found = read_pickled_arrays(path)
        checked = {}
        for name in _SPLITS.values():
            part = found.get(name) if isinstance(found, dict) else None
            if not isinstance(part, dict) or any(key not in part for key in (*_MODALITIES, "labels")):
                raise ValueError(f"{path}: expected {name!r} to hold {', '.join(_MODALITIES)} and labels.")
            arrays = {
                key: check_array(part[key], f"{path}: {name}/{key}", 3, "f", (self.channels[key],))
                for key in _MODALITIES
            }
            labels = np.asarray(part["labels"])
            if labels.dtype.kind not in "fiub" or labels.size != len(labels):
                raise ValueError(f"{path}: {name}/labels has shape {labels.shape}, expected one number for each row.")
            checked[name] = {**arrays, "labels": labels.reshape(len(labels))}
            check_rows(f"{path}: {name}", checked[name])
        return checked

    def _sequences(self) -> dict[str, Any]:
        return {key: array(None, self.channels[key]) for key in _MODALITIES}

    def _raw(self, split: str, index: int) -> dict[str, np.ndarray]:
        part = self._splits[_SPLITS[split]]
        return {key: part[key][index].astype(np.float32) for key in _MODALITIES}


class Mosei(_AffectBuilder):
    """`mosei_senti_data.pkl`: columns `vision` (steps, 35), `audio` (steps, 74), `text` (steps, 300), `sentiment`
    from -3 to 3, and `label`, whether it is negative or not (0 is not).

    Rows without words are dropped, and the steps before the first word, which pad the stored sequences at the front,
    are cut from all modalities. Numbers that are not finite (audio holds -inf) become 0.

    Faithful to the public code: each modality of each row is standardised over its own steps, NaN becomes 0 and
    infinite becomes 3.4e38, and all is padded with zeros at the end to 50 steps.
    """

    key = "mosei"
    file = "mosei_senti_data.pkl"
    channels: ClassVar[dict[str, int]] = {"vision": 35, "audio": 74, "text": 300}

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features(
            {
                **self._sequences(),
                "sentiment": datasets.Value("float32"),
                "label": class_label("negative", "not negative"),
            }
        )

    def examples(self, split: str) -> Examples:
        """Rows of a split."""
        labels = self._splits[_SPLITS[split]]["labels"]
        for index, score in enumerate(labels.tolist()):
            steps = self._raw(split, index)
            # The public code drops by the sum, which a text with words might have as well.
            if steps["text"].sum() == 0 if self.faithful else not steps["text"].any():
                continue
            steps = trimmed(steps)
            prepare = _standardized_and_padded if self.faithful else finite
            yield (
                index,
                {
                    **{key: prepare(values) for key, values in steps.items()},
                    "sentiment": score,
                    "label": int(score >= 0),
                },
            )


class UrFunny(_AffectBuilder):
    """`humor.pkl`: columns `vision` (steps, 371), `audio` (steps, 81), `text` (steps, 300) and `label`, funny or not.

    The steps before the first word, which pad at the front, are cut: from all modalities where they have the same
    number of steps, from each by itself where they do not. Numbers that are not finite become 0.

    Faithful to the public code: sequences as they are stored, and each training row five times (as in its script for
    four tasks).
    """

    key = "urfunny"
    file = "humor.pkl"
    channels: ClassVar[dict[str, int]] = {"vision": 371, "audio": 81, "text": 300}

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features({**self._sequences(), "label": class_label("not funny", "funny")})

    def examples(self, split: str) -> Examples:
        """Rows of a split."""
        labels = self._splits[_SPLITS[split]]["labels"]
        repeats = 5 if self.faithful and split == "train" else 1
        for repeat in range(repeats):
            for index, label in enumerate(labels.tolist()):
                steps = self._raw(split, index)
                if not self.faithful:
                    steps = {key: finite(values) for key, values in trimmed(steps).items()}
                yield repeat * len(labels) + index, {**steps, "label": int(label >= 1)}


def trimmed(steps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sequences without the zero steps at their front.

    Sequences of one length are aligned and begin together, where the text does; others begin each where it does
    itself. A sequence of zeros alone is left as it is.
    """
    if len({len(values) for values in steps.values()}) == 1:
        start = _first_step(steps["text"])
        return {key: values[start:] for key, values in steps.items()}
    return {key: values[_first_step(values) :] for key, values in steps.items()}


def finite(values: np.ndarray) -> np.ndarray:
    """The values with 0 in place of what is not finite."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _first_step(values: np.ndarray) -> int:
    return int(values.any(axis=1).argmax())


def _standardized_and_padded(values: np.ndarray) -> np.ndarray:
    """(50, channels): each channel standardised over the steps of the row, then zeros at the end."""
    with np.errstate(all="ignore"):
        if len(values) > 1:
            scaled = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
        else:
            scaled = np.full_like(values, np.nan)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST).astype(np.float32)
    return np.pad(scaled, ((0, max(0, _PADDED - len(scaled))), (0, 0)))
