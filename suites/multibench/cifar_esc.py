"""CIFAR-ESC: pictures of CIFAR and sounds of ESC-50 that share 17 classes, as pairs that match or not."""

from __future__ import annotations

import _codecs
import random
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .base import Examples, MultiBenchBuilder, MultiBenchConfig, array, class_label

_NUM_CLASSES = 17
_SIDE, _SPECTRUM = 32, 112
_PATCH, _STRIDE = 16, 4  # of the public code's windows over spectrograms
_SPLITS = {"train": 0, "validation": 1, "test": 2}


@dataclass
class CifarEscConfig(MultiBenchConfig):
    """Options of CIFAR-ESC.

    Args:
        pairs: True for pairs that match or not, two rows for each picture; False for matching pairs alone, one row for
            each picture, for a retrieval.
    """

    pairs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pairs, bool):
            raise ValueError(f"pairs={self.pairs!r} must be true or false.")


class CifarEsc(MultiBenchBuilder):
    """`cifaronly.pt` and `esconly.pt`: columns `image` (32, 32, 3), `audio` (112, 112), `concept`, the class of the
    picture, and, of pairs, `match`.

    Each picture is paired with a sound of its class and, for pairs, with one of another class, drawn with seed 10.

    Faithful to the public code: pictures have rows and columns swapped and are divided by 255, and spectrograms are
    (400, 400), the 25 x 25 overlapping windows of 16 x 16 that begin every 4 numbers, side by side.
    """

    BUILDER_CONFIG_CLASS = CifarEscConfig
    key = "cifar_esc"

    def features(self) -> datasets.Features:
        """Columns and their types."""
        side = ((_SPECTRUM - _PATCH) // _STRIDE + 1) * _PATCH if self.faithful else _SPECTRUM
        columns: dict[str, Any] = {
            "image": array(_SIDE, _SIDE, 3),
            "audio": array(side, side),
            "concept": datasets.Value("int64"),
        }
        if self.config.pairs:
            columns["match"] = class_label("other", "match")
        return datasets.Features(columns)

    def examples(self, split: str) -> Examples:
        """Pairs of a split."""
        images, sounds = self._items["cifaronly.pt"][split], self._items["esconly.pt"][split]
        by_class: dict[int, list[np.ndarray]] = {}
        for sound, label in sounds:
            by_class.setdefault(label, []).append(sound)
        if len(by_class) < 2:
            raise ValueError(f"esconly.pt, {split}: sounds of {len(by_class)} classes; pairs need at least two.")
        # The public code draws for one split after the other; a seed for each keeps them independent.
        chance = random.Random(10 + _SPLITS[split])
        index = 0
        for image, label in sorted(images, key=lambda item: item[1]):
            if label not in by_class:
                raise ValueError(f"esconly.pt, {split}: there is no sound of class {label}, which a picture has.")
            shown = self._picture(image)
            pairs = [(label, 1)]
            if self.config.pairs:
                pairs.append((chance.choice([other for other in sorted(by_class) if other != label]), 0))
            for heard, match in pairs:
                row = {"image": shown, "audio": self._spectrogram(chance.choice(by_class[heard])), "concept": label}
                yield index, {**row, "match": match} if self.config.pairs else row
                index += 1

    def _picture(self, image: np.ndarray) -> np.ndarray:
        channels_first = image.reshape(3, _SIDE, _SIDE).astype(np.float32)
        if self.faithful:
            return channels_first.transpose(2, 1, 0) / np.float32(255)
        return channels_first.transpose(1, 2, 0)

    def _spectrogram(self, sound: np.ndarray) -> np.ndarray:
        sound = sound.astype(np.float32)
        if not self.faithful:
            return sound
        windows = np.lib.stride_tricks.sliding_window_view(sound, (_PATCH, _PATCH))[::_STRIDE, ::_STRIDE]
        count = len(windows)
        return windows.transpose(0, 2, 1, 3).reshape(count * _PATCH, count * _PATCH)

    @cached_property
    def _items(self) -> dict[str, dict[str, list[tuple[np.ndarray, int]]]]:
        return {name: self._read(self.files[name][0]) for name in ("cifaronly.pt", "esconly.pt")}

    def _read(self, path: Path) -> dict[str, list[tuple[np.ndarray, int]]]:
        found = read_saved_arrays(path)
        if not isinstance(found, (list, tuple)) or len(found) != 3:
            raise ValueError(f"{path}: expected three lists, train, validation and test.")
        parts = {}
        for split, place in _SPLITS.items():
            parts[split] = [_item(item, f"{path}, {split}, item {row}") for row, item in enumerate(found[place])]
        return parts


def _item(item: Any, where: str) -> tuple[np.ndarray, int]:
    """Numbers and class of one item."""
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise ValueError(f"{where}: expected a list of an array and a class.")
    values, label = np.asarray(item[0]), np.asarray(item[1])
    picture = values.size == 3 * _SIDE**2
    if values.dtype.kind not in "fiu" or not (picture or values.shape == (_SPECTRUM, _SPECTRUM)):
        raise ValueError(f"{where}: found {values.dtype} {values.shape}, expected a picture or a spectrogram.")
    if label.size != 1 or not 0 <= label < _NUM_CLASSES:
        raise ValueError(f"{where}: the class is {item[1]!r}, expected 0 to {_NUM_CLASSES - 1}.")
    return values, int(label)


def read_saved_arrays(path: Path) -> Any:
    """What `torch.save` wrote: tensors, NumPy arrays and plain containers, and nothing else.

    Raises:
        ValueError: the file cannot be read, or asks for anything else; nothing of it has been run.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_array_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch refuses with errors of several kinds, one of them of a module that is banned
        # Its message is long and advises to load the file with fewer checks.
        named = re.search(r"GLOBAL ([\w.]+) was", str(error))
        reason = f"it names {named[1]}, which neither arrays nor tensors need" if named else type(error).__name__
        raise ValueError(f"{path} is refused, and nothing of it has been run: {reason}.") from error


def _array_globals() -> list[Any]:
    """The names that NumPy writes for arrays and numbers, in the spellings of NumPy 1 and 2."""
    makers: tuple[Any, ...] = (np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0])
    named = [(maker, f"numpy.{core}.multiarray.{maker.__name__}") for maker in makers for core in ("core", "_core")]
    dtypes = [type(np.dtype(code)) for code in ("?", "u1", "u2", "i1", "i2", "i4", "i8", "f2", "f4", "f8")]
    return [*named, np.ndarray, np.dtype, *dtypes, _codecs.encode]
