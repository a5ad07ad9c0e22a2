"""AV-MNIST, as the folder `avmnist` of MultiBench holds it: written digits and spectrograms of spoken ones."""

from __future__ import annotations

import datasets
import numpy as np

from .arrays import check_array, check_rows, read_npy
from .base import Examples, MultiBenchBuilder, array, class_label

_IMAGE, _SPECTRUM = 28, 112


class Avmnist(MultiBenchBuilder):
    """Six `.npy` files: columns `image` (28, 28), `audio` (112, 112) and `label`.

    The last twelfth of the training files (5,000 rows of 60,000) is the validation split. Values are those of the
    files.

    Faithful to the public code: values are divided by 255, also where a copy is in 0 to 1 already.
    """

    key = "avmnist"

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features(
            {
                "image": array(_IMAGE, _IMAGE),
                "audio": array(_SPECTRUM, _SPECTRUM),
                "label": class_label(*map(str, range(10))),
            }
        )

    def examples(self, split: str) -> Examples:
        """Rows of a split; the files are mapped, one row is read at a time."""
        part = "test" if split == "test" else "train"
        images, sounds, labels = (
            self._array(name) for name in (f"image/{part}_data.npy", f"audio/{part}_data.npy", f"{part}_labels.npy")
        )
        folder = self.files["train_labels.npy"][0].parent
        if images.ndim < 2 or images[0].size != _IMAGE**2:
            raise ValueError(
                f"{folder}: {part} images have shape {images.shape}, expected 28 x 28 = 784 numbers each."
            )
        check_array(sounds[:1], f"{folder}/audio/{part}_data.npy", 3, "fiu", (_SPECTRUM, _SPECTRUM))
        check_array(labels[:1], f"{folder}/{part}_labels.npy", 1, "fiu")
        count = check_rows(str(folder), {"image": images, "audio": sounds, "labels": labels})
        first_validation = count - count // 12
        rows = {"train": range(first_validation), "validation": range(first_validation, count), "test": range(count)}
        unit = 255.0 if self.faithful else 1.0
        for index in rows[split]:
            label = int(labels[index])
            if not 0 <= label < 10 or label != labels[index]:
                raise ValueError(f"{folder}/{part}_labels.npy: row {index} is {labels[index]}, expected 0 to 9.")
            yield (
                index,
                {
                    "image": images[index].reshape(_IMAGE, _IMAGE).astype(np.float32) / np.float32(unit),
                    "audio": sounds[index].astype(np.float32) / np.float32(unit),
                    "label": label,
                },
            )

    def _array(self, name: str) -> np.ndarray:
        (path,) = self.files[name]
        return read_npy(path)
