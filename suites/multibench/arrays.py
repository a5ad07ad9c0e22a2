"""Arrays and pictures of files, checked as they are read.

These functions are not in the modules of the builders, because `datasets` puts functions of its own in the place of
`numpy.load`, `PIL.Image.open` and their like there, which map no file into memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

_MAX_PIXELS = 4096 * 4096


def read_npy(path: Path) -> np.ndarray:
    """The numbers in a `.npy` file, mapped into memory; files that hold Python objects are refused.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as .npy: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim < 1 or not len(found):
        raise ValueError(f"{path} holds no array with rows.")
    return found


def check_array(value: Any, owner: str, ndim: int, kinds: str = "fiub", tail: tuple[int, ...] = ()) -> np.ndarray:
    """An array of a file, once it is known to be what a builder reads.

    Args:
        value: what the file holds.
        owner: what errors call it, such as `im.pk: 'ep_tdata'`.
        ndim: number of axes.
        kinds: letters of NumPy's kinds of dtypes that are read.
        tail: sizes of the last axes.

    Raises:
        ValueError: no array, or another one; the message says what was found and expected.
    """
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{owner} is a {type(value).__name__}, expected an array.")
    if value.ndim != ndim or value.dtype.kind not in kinds or value.shape[ndim - len(tail) :] != tail:
        wanted = " x ".join(["any"] * (ndim - len(tail)) + [str(size) for size in tail])
        raise ValueError(f"{owner} has shape {value.shape} and dtype {value.dtype}, expected numbers, {wanted}.")
    return value


def check_rows(owner: str, arrays: dict[str, np.ndarray]) -> int:
    """The number of rows that several arrays have.

    Raises:
        ValueError: they differ, or there are none.
    """
    counts = {name: len(values) for name, values in arrays.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise ValueError(f"{owner}: numbers of rows are {counts}, expected one number above 0.")
    return next(iter(counts.values()))


def read_picture(path: Path, height: int, width: int) -> Image.Image:
    """A picture as RGB, resized.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, or one of more than 16 million pixels.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, though a list names it.")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are more than {_MAX_PIXELS:,}")
            return picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}.") from error
