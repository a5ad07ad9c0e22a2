"""Writing the file formats of MultiBench: pickled arrays, zip files as `torch.save` makes them, HDF5."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def write_pickle(path: Path, value: Any) -> None:
    """Write dictionaries, lists, texts, whole numbers and arrays as Python's pickle (protocol 2) does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_program(value))


def write_torch(path: Path, value: Any) -> None:
    """Write lists and arrays in a zip file as `torch.save` does; arrays stand in its pickle, as NumPy's do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _program(value))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def write_hdf5(path: Path, content: dict[str, Any]) -> None:
    """Write arrays, and dictionaries of them as groups, as HDF5.

    Raises:
        ValueError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f'{path}: writing HDF5 needs h5py: pip install "highmmt[multibench]"') from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            members = value if isinstance(value, dict) else {"": value}
            for key, values in members.items():
                file.create_dataset(f"{name}/{key}".rstrip("/"), data=values, compression="lzf")


def _program(value: Any) -> bytes:
    return b"\x80\x02" + _instructions(value) + b"."


def _instructions(value: Any) -> bytes:
    """What puts a value on the stack of a pickle reader."""
    if isinstance(value, dict):
        return b"}(" + b"".join(_text(key) + _instructions(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_instructions, value)) + b"e"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, np.ndarray):
        return _array(value)
    return b"J" + struct.pack("<i", value)


def _array(values: np.ndarray) -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + _bytes(b"b") + b"tR"
    shape = b"(" + b"".join(_instructions(size) for size in values.shape) + b"t"
    objects = values.dtype == np.dtype("O")
    dtype = b"cnumpy\ndtype\n(" + _text("O8" if objects else values.dtype.str[1:]) + b"\x89\x88tR"
    order = "|" if objects or values.dtype.itemsize == 1 else "<"
    dtype += b"(K\x03" + _text(order) + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    content = _instructions(values.reshape(-1).tolist()) if objects else _bytes(values.tobytes())
    return made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _bytes(value: bytes) -> bytes:
    """Bytes as protocol 2 knows them, as a text of as many characters."""
    return b"c_codecs\nencode\n(" + _text(value.decode("latin1")) + _text("latin1") + b"tR"
