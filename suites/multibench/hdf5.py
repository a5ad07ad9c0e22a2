"""HDF5 files, read as plain arrays: links out of the file and data stored elsewhere are refused, sizes are bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MAX_STEPS = 10_000_000
_MAX_NUMBERS_PER_STEP = 2**20


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading.

    Raises:
        ValueError: h5py is not installed, or the file is not HDF5; the message names it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f'{path}: reading HDF5 needs h5py: pip install "highmmt[multibench]"') from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}") from error
    with file:
        yield file


def child(group: Any, name: str, where: str) -> Any:
    """A member of a group, which must lie in the same file.

    Raises:
        ValueError: there is none, or a link stands in its place.
    """
    import h5py

    link = group.get(name, getlink=True)
    if link is None:
        raise ValueError(f"{where}: there is no {name!r}; it holds {', '.join(list(group)[:20]) or 'nothing'}.")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{where}: {name!r} is a link to another place, which is not followed.")
    return group[name]


def numbers(group: Any, name: str, tail: tuple[int | None, ...], where: str, steps: int | None = None) -> Any:
    """A dataset of numbers, of which nothing has been read yet.

    Args:
        group: what holds it.
        name: its name there.
        tail: sizes of the axes after the first; None where any will do.
        where: start of errors.
        steps: size of the first axis; None where any will do.

    Raises:
        ValueError: no such dataset, one whose data lies elsewhere, or one of another shape.
    """
    import h5py

    found = child(group, name, where)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{where}: {name!r} is no array.")
    if found.is_virtual or found.external:
        raise ValueError(f"{where}: the numbers of {name!r} lie in other files, which are not read.")
    shape = tuple(int(size) for size in found.shape or ())
    fits = len(shape) == 1 + len(tail) and all(
        wanted in (None, size) for size, wanted in zip(shape[1:], tail, strict=True)
    )
    if found.dtype.kind not in "fiub" or not fits or (steps is not None and shape[:1] != (steps,)):
        expected = " x ".join("any" if size is None else str(size) for size in (steps, *tail))
        raise ValueError(f"{where}: {name!r} has shape {shape} and dtype {found.dtype}, expected numbers, {expected}.")
    if shape[:1] > (_MAX_STEPS,) or math.prod(shape[1:]) > _MAX_NUMBERS_PER_STEP:
        raise ValueError(f"{where}: {name!r} of shape {shape} is larger than any such data.")
    return found
