"""Pickled NumPy arrays and plain containers, read as data: what a file names beyond these is refused and never run.

The pickles of MultiBench (`im.pk`, `mosei_senti_data.pkl`, `humor.pkl`) are dictionaries of arrays. The few names that
NumPy writes for an array are known here, in the spellings of NumPy 1 and 2; all others are refused by name.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ...configuration.pickle_reader import PickledName, PickleReader, told

# What a pickled dtype may be: booleans, numbers, texts and byte strings of fixed width, and lists of objects.
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d{1,6}|O8?")
_BYTE_ORDERS = ("<", ">", "|", "=")
# A copy for every longer one would double the memory that a file takes.
_COPIED_BYTES = 2**16
_MAX_AXES = 8
_PLAIN = (type(None), bool, int, float, str, bytes, np.generic)


class _Dtype:
    """A dtype that the pickle describes; its byte order arrives after its size."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.value: np.dtype[Any] | None = np.dtype("O") if code.startswith("O") else None


class _Array:
    """An array between its making and its content; the memo may know it by then."""

    def __init__(self) -> None:
        self.places: list[int] = []


# Functions of NumPy 1 and NumPy 2, and what this module calls them.
_FUNCTIONS = {
    ("numpy.core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy.core.numeric", "_frombuffer"): "_frombuffer",
    ("numpy._core.numeric", "_frombuffer"): "_frombuffer",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",  # without arguments: protocol 2 writes no bytes so
    ("collections", "OrderedDict"): "OrderedDict",
}
_NDARRAY = ("numpy", "ndarray")


class _ArrayReader(PickleReader):
    """Reads a pickle of arrays."""

    needed_by = "a pickle of arrays"
    names = frozenset({*_FUNCTIONS, _NDARRAY})
    max_instructions = 20_000_000  # one text or number takes two or three

    def call(self, function: PickledName, arguments: tuple[Any, ...]) -> Any:
        """An array, a scalar or what they are made of."""
        kind = _FUNCTIONS.get(function.key)
        if kind == "_reconstruct":
            return self._empty_array(arguments)
        if kind == "_frombuffer":
            return self._array_of_buffer(arguments)
        if kind == "scalar":
            return self._scalar(arguments)
        if kind == "dtype":
            return self._dtype(arguments)
        if kind == "encode":
            return self._encoded(arguments)
        if kind in ("bytes", "OrderedDict") and not arguments:
            return b"" if kind == "bytes" else {}
        return super().call(function, arguments)

    def build(self, target: Any, state: Any) -> Any:
        """An array with its content, or a dtype with its byte order."""
        if type(target) is _Dtype and target.value is None and type(state) is tuple and len(state) in (8, 9):
            # version, byte order, sub-arrays, names and fields of records, then size, alignment and flags
            if not _is_one_of(state[1], _BYTE_ORDERS) or any(part is not None for part in (*state[2:5], *state[8:])):
                raise ValueError("its pickle has a dtype of several parts or with metadata; only plain ones are read.")
            target.value = np.dtype(target.code).newbyteorder(state[1])
            return target
        if type(target) is _Dtype and target.code.startswith("O") and type(state) is tuple:
            return target
        if type(target) is _Array and type(state) is tuple and len(state) == 5:
            _, shape, dtype, column_major, content = state
            array = self._array(content, dtype, shape, "F" if column_major is True else "C")
            for place in target.places:
                self._memo[place] = array
            return array
        return super().build(target, state)

    def remember(self, index: int) -> None:
        """Keep the top of the stack in the memo; an array without content says where it is kept."""
        super().remember(index)
        if type(self.top()) is _Array:
            self.top().places.append(index)

    def check_keys(self, items: list[Any]) -> list[Any]:
        """Keys that are text or whole numbers."""
        for item in items:
            if type(item) not in (str, int):
                raise ValueError(f"its pickle has a key that is {self.told(item)}, neither text nor number.")
        return items

    def literal(self, width: int) -> None:
        """Push bytes whose length stands before them; long ones as they lie in the file."""
        part = self.take(self.count(width))
        self.stack.append(bytes(part) if len(part) <= _COPIED_BYTES else part)

    def _empty_array(self, arguments: tuple[Any, ...]) -> _Array:
        kind = arguments[0] if arguments else None
        if not isinstance(kind, PickledName) or kind.key != _NDARRAY:
            raise ValueError(f"its pickle makes an array of the kind {self.told(kind)}; only numpy.ndarray is read.")
        return _Array()

    def _array_of_buffer(self, arguments: tuple[Any, ...]) -> np.ndarray:
        if len(arguments) != 4 or not _is_one_of(arguments[3], ("C", "F")):
            raise ValueError("its pickle makes an array of a buffer in a way that NumPy does not.")
        content, dtype, shape, order = arguments
        return self._array(content, dtype, shape, order)

    def _array(self, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """The array that content, dtype, shape and order describe, where they agree; numbers are not copied."""
        if type(dtype) is not _Dtype or dtype.value is None:
            raise ValueError(f"its pickle has an array whose dtype is {self.told(dtype)}.")
        sizes_known = type(shape) is tuple and all(type(size) is int and 0 <= size < 2**48 for size in shape)
        if not sizes_known or len(shape) > _MAX_AXES:
            raise ValueError("its pickle has an array whose shape is no short list of sizes.")
        count = math.prod(shape)
        if dtype.value == np.dtype("O"):
            if type(content) is not list or len(content) != count:
                raise ValueError(f"its pickle has an array of objects that are not the {count} of its shape.")
            for item in content:
                if not isinstance(item, _PLAIN):
                    raise ValueError(f"its pickle has an array of objects with {self.told(item)} among them.")
            array = np.empty(count, dtype=object)
            array[:] = content
            return array.reshape(shape, order=order)
        if type(content) not in (bytes, memoryview) or len(content) != count * dtype.value.itemsize:
            size = len(content) if type(content) in (bytes, memoryview) else self.told(content)
            raise ValueError(f"its pickle has an array of shape {shape} and {dtype.value}, with {size} bytes for it.")
        return np.frombuffer(content, dtype=dtype.value, count=count).reshape(shape, order=order)

    def _scalar(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 2 or type(arguments[0]) is not _Dtype or arguments[0].code.startswith("O"):
            raise ValueError("its pickle has a number that is not one of NumPy's.")
        return self._array(arguments[1], arguments[0], (1,), "C")[0]

    def _dtype(self, arguments: tuple[Any, ...]) -> _Dtype:
        code = arguments[0] if len(arguments) == 3 else None
        if type(code) is not str or not _DTYPE.fullmatch(code):
            raise ValueError(f"its pickle has the dtype {self.told(code)}; booleans, numbers and texts are read.")
        return _Dtype(code)

    def _encoded(self, arguments: tuple[Any, ...]) -> bytes:
        """Bytes, which protocols up to 2 write as a text of as many characters."""
        if len(arguments) != 2 or type(arguments[0]) is not str or not _is_one_of(arguments[1], ("latin1",)):
            raise ValueError("its pickle calls _codecs.encode with something else than a text and 'latin1'.")
        return arguments[0].encode("latin1")


def _is_one_of(value: object, choices: tuple[str, ...]) -> bool:
    """Whether a value is one of some texts; an array, asked so, would compare its members."""
    return type(value) is str and value in choices


def read_pickled_arrays(path: str | Path) -> Any:
    """What a pickle of NumPy arrays and plain containers holds, without running anything that it says.

    Dictionaries, lists, tuples, texts, bytes, numbers, None, NumPy numbers, and arrays of booleans, numbers, texts or
    of Python's own texts and numbers. Arrays of numbers are read-only views of the file, which is mapped into memory:
    pages are read as they are needed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such pickle; what it names beyond arrays and containers is in the message. Nothing
            of the file has been run.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a file.")
    with path.open("rb") as stream:
        if not path.stat().st_size:
            raise ValueError(f"{path}: the file is empty.")
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        found = _ArrayReader(content).run()
        _require_plain(found)
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def _require_plain(found: object) -> None:
    """Refuse what stands for something that the pickle has begun and not finished, such as a bare name."""
    seen: set[int] = set()
    waiting = [found]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (dict, list, tuple, set)):
            if id(item) not in seen:
                seen.add(id(item))
                waiting += item.values() if isinstance(item, dict) else item
        elif not isinstance(item, (*_PLAIN, np.ndarray)):
            raise ValueError(f"its pickle holds {told(item)}, which is neither array nor plain data.")


_ArrayReader.instructions = {
    **PickleReader.instructions,
    b"C": lambda r: r.literal(1),
    b"B": lambda r: r.literal(4),
    b"\x8e": lambda r: r.literal(8),
    b"\x96": lambda r: r.literal(8),
    b"\x8d": lambda r: r.text(8),
}

__all__ = ["read_pickled_arrays"]
