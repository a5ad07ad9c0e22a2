"""Pickles of arrays are read as data: what NumPy writes comes back, and nothing of a hostile file is run."""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle  # noqa: TID251 - hostile pickles are what this file tests
import re
import struct
import tracemalloc
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from highmmt.suites.multibench.restricted_pickle import read_pickled_arrays

PROTOCOLS = (2, 3, 4, 5)


def saved(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def same(left: Any, right: Any) -> bool:
    if isinstance(right, np.ndarray):
        return (isinstance(left, np.ndarray) and left.dtype == right.dtype and left.shape == right.shape) and (
            left.tolist() == right.tolist() or bool(np.array_equal(left, right, equal_nan=True))
        )
    if isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in right)
    if isinstance(right, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


EVERYTHING = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float64, columns first": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4, 2))),
    "other byte order": np.arange(5, dtype=">i4"),
    "a slice": np.arange(24).reshape(4, 6)[::2, 1::2],
    "longer than what is copied": np.arange(2**15, dtype=np.float64),
    "empty": np.zeros((0, 5), dtype=np.int16),
    "no axis": np.array(3.5),
    "truths": np.array([True, False]),
    "texts": np.array(["a", "bcd"]),
    "byte strings": np.array([b"a", b"bcd"]),
    "objects": np.array(["-3g5yACwYnA[10]", b"x", 2, None, 1.5], dtype=object),
    "numbers of NumPy": [np.float32(0.25), np.int64(-7), np.bool_(True)],
    "plain": (None, True, False, 0, 255, 65_535, -1, 2**70, 2.5, "text", b"bytes", [[], {}, ()], {"a": {3: 4}}),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_numpy_writes_comes_back(tmp_path: Path, protocol: int) -> None:
    assert same(read_pickled_arrays(saved(tmp_path / "all.pkl", EVERYTHING, protocol)), EVERYTHING)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("old", "new"), [("numpy._core", "numpy.core"), ("numpy.core", "numpy._core")])
def test_the_names_of_both_numpys_are_known(tmp_path: Path, protocol: int, old: str, new: str) -> None:
    content = pickle.dumps(EVERYTHING["float32"], protocol)
    for module in ("multiarray", "numeric"):
        before, after = f"{old}.{module}".encode(), f"{new}.{module}".encode()
        # Texts of protocol 4 and 5 have their length before them.
        content = content.replace(bytes([len(before)]) + before, bytes([len(after)]) + after).replace(before, after)
    content = re.sub(rb"\x95.{8}", b"", content, count=1, flags=re.DOTALL)  # the frame's length is another now
    (tmp_path / "array.pkl").write_bytes(content)
    assert same(read_pickled_arrays(tmp_path / "array.pkl"), EVERYTHING["float32"])


@given(
    value=arrays.arrays(
        dtype=st.one_of(arrays.floating_dtypes(), arrays.integer_dtypes(), arrays.boolean_dtypes()),
        shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    protocol=st.sampled_from(PROTOCOLS),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_array_comes_back_bit_for_bit(tmp_path: Path, value: np.ndarray, protocol: int) -> None:
    found = read_pickled_arrays(saved(tmp_path / "one.pkl", [value, value], protocol))
    for array in found:  # the second one is a reference to the first
        assert array.dtype == value.dtype and array.shape == value.shape and array.tobytes() == value.tobytes()


def test_numbers_stay_in_the_file_until_they_are_needed(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.pkl", {"numbers": np.ones((500, 10_000))})
    tracemalloc.start()
    found = read_pickled_arrays(path)["numbers"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[499].sum() == 10_000 and not found.flags.writeable
    assert peak < 2**20 < path.stat().st_size


# --- Hostile files ---------------------------------------------------------------------------------------------------

EXTENSION = 241


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stacked(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: str | bytes) -> bytes:
    inside = b"".join(text(value) if isinstance(value, str) else value for value in arguments)
    return function + b"(" + inside + b"tR"


def literal(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


MKDIR = name("os", "mkdir")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
NDARRAY = name("numpy", "ndarray")
DTYPE = (
    call(name("numpy", "dtype"), "f8", b"\x89", b"\x88")
    + b"(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
ARRAY = call(RECONSTRUCT, NDARRAY, b"K\x00\x85", literal(b"b"))


def hostile(canary: str) -> dict[str, tuple[bytes, str]]:
    """Programs that make a folder when Python's own unpickler reads them, and the name that the refusal must give."""
    run = call(MKDIR, canary)
    return {
        "os.mkdir": (run, "os.mkdir"),
        "os.makedirs": (call(name("os", "makedirs"), canary), "os.makedirs"),
        "os.system": (call(name("os", "system"), f"mkdir {canary}"), "os.system"),
        "posix.system": (call(name("posix", "system"), f"mkdir {canary}"), "posix.system"),
        "os.symlink": (call(name("os", "symlink"), os.path.dirname(__file__), canary), "os.symlink"),
        "eval": (call(name("builtins", "eval"), f"__import__('os').mkdir('{canary}')"), "builtins.eval"),
        "exec": (call(name("builtins", "exec"), f"import os; os.mkdir('{canary}')"), "builtins.exec"),
        "exec of Python 2": (
            call(name("__builtin__", "exec"), f"import os; os.mkdir('{canary}')"),
            "__builtin__.exec",
        ),
        "getattr": (
            call(call(name("builtins", "getattr"), call(name("builtins", "__import__"), "os"), "mkdir"), canary),
            "builtins.getattr",
        ),
        "import_module": (call(name("importlib", "import_module"), "os") + b"0" + run, "importlib.import_module"),
        "subprocess.call": (
            call(name("subprocess", "call"), b"](" + text("mkdir") + text(canary) + b"e"),
            "subprocess.call",
        ),
        "subprocess.run": (
            call(name("subprocess", "run"), b"](" + text("mkdir") + text(canary) + b"e"),
            "subprocess.run",
        ),
        "shutil.copytree": (
            call(name("shutil", "copytree"), os.path.dirname(__file__), canary),
            "shutil.copytree",
        ),
        "Path.mkdir": (call(stacked("pathlib", "Path.mkdir"), call(name("pathlib", "Path"), canary)), "pathlib.Path"),
        "timeit": (call(name("timeit", "timeit"), f"import os; os.mkdir('{canary}')"), "timeit.timeit"),
        "functools.partial": (
            call(call(name("functools", "partial"), MKDIR), canary),
            "functools.partial",
        ),
        "builtins.map": (
            call(name("builtins", "list"), call(name("builtins", "map"), MKDIR, b"](" + text(canary) + b"e")),
            "builtins.list",
        ),
        "collections.defaultdict": (
            call(
                name("operator", "getitem"),
                call(name("collections", "defaultdict"), call(name("functools", "partial"), MKDIR, canary)),
                "any",
            ),
            "operator.getitem",
        ),
        "a pickle within": (call(name("pickle", "loads"), literal(run + b".")), "pickle.loads"),
        "a pickle within, by its other name": (call(name("_pickle", "loads"), literal(run + b".")), "_pickle.loads"),
        "marshal": (
            call(name("marshal", "loads"), literal(b"N")) + b"0" + run,
            "marshal.loads",
        ),
        "copyreg": (
            call(name("copyreg", "_reconstructor"), name("builtins", "object"), name("builtins", "object"), b"N")
            + b"0"
            + run,
            "copyreg._reconstructor",
        ),
        "STACK_GLOBAL": (call(stacked("os", "mkdir"), canary), "os.mkdir"),
        "STACK_GLOBAL from the memo": (
            text("mkdir") + b"\x94" + text("os") + b"\x94h\x01h\x00\x93(" + text(canary) + b"tR",
            "os.mkdir",
        ),
        "INST": (b"(" + text(canary) + b"ios\nmkdir\n", "os.mkdir"),
        "OBJ": (b"(" + MKDIR + text(canary) + b"o", "os.mkdir"),
        "NEWOBJ": (
            name("builtins", "tuple") + name("builtins", "map") + MKDIR + b"](" + text(canary) + b"e\x86\x81\x85\x81",
            "builtins.tuple",
        ),
        "NEWOBJ_EX": (
            name("builtins", "tuple")
            + name("builtins", "map")
            + MKDIR
            + b"]("
            + text(canary)
            + b"e\x86}\x92\x85}\x92",
            "builtins.tuple",
        ),
        "EXT1": (call(b"\x82" + bytes([EXTENSION]), canary), f"extension {EXTENSION}"),
        "EXT2": (call(b"\x83" + bytes([EXTENSION, 0]), canary), f"extension {EXTENSION}"),
        "EXT4": (call(b"\x84" + bytes([EXTENSION, 0, 0, 0]), canary), f"extension {EXTENSION}"),
        "a dotted name of NumPy": (
            call(stacked("numpy", "lib._npyio_impl.os.mkdir"), canary),
            "numpy.lib._npyio_impl.os.mkdir",
        ),
        "numpy's own eval": (
            call(name("numpy.f2py.crackfortran", "myeval"), f"__import__('os').mkdir('{canary}')", b"}", b"}"),
            "numpy.f2py.crackfortran.myeval",
        ),
        "numpy.load": (run + b"0" + call(name("numpy", "load"), canary), "os.mkdir"),
        "numpy's runstring": (
            call(name("numpy.testing._private.utils", "runstring"), f"import os; os.mkdir('{canary}')", b"}"),
            "numpy.testing._private.utils.runstring",
        ),
        "an array of an object": (
            ARRAY + b"(K\x01K\x01\x85" + DTYPE + b"\x89" + run + b"tb",
            "os.mkdir",
        ),
        "an array of a class of its own": (
            run + b"0" + call(RECONSTRUCT, MKDIR, b"K\x00\x85", literal(b"b")),
            "os.mkdir",
        ),
        "encode with another codec": (
            call(name("_codecs", "encode"), "x", "rot13") + b"0" + run,
            "calls _codecs.encode with something else",
        ),
        "as a key": (b"}" + run + b"K\x01s", "os.mkdir"),
        "behind a real array": (ARRAY + b"0" + run, "instruction b'0'"),
    }


@pytest.fixture
def extension() -> Iterator[None]:
    copyreg.add_extension("os", "mkdir", EXTENSION)
    yield
    copyreg.remove_extension("os", "mkdir", EXTENSION)


KINDS = list(hostile("x"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", [b"\x80\x02", b"\x80\x04"], ids=["protocol 2", "protocol 4"])
def test_a_pickle_that_runs_code_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, extension: None, kind: str, header: bytes
) -> None:
    program, named = hostile(str(tmp_path / "canary"))[kind]
    path = tmp_path / "im.pkl"
    path.write_bytes(header + program + b".")
    with pytest.raises(ValueError, match=re.escape(named)) as caught:
        read_pickled_arrays(path)
    assert str(path) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["im.pkl"]


def test_there_are_forty_of_them_and_each_runs_code_where_nothing_stops_it(tmp_path: Path, extension: None) -> None:
    assert len(KINDS) >= 40
    for number, kind in enumerate(KINDS):
        canary = tmp_path / str(number)
        for header in (b"\x80\x02", b"\x80\x04"):  # Python 2's names are known up to protocol 2, dotted ones from 4
            with contextlib.suppress(Exception):
                pickle.loads(header + hostile(str(canary))[kind][0] + b".")
        assert canary.is_dir(), kind


class Hidden:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_hidden_among_real_arrays_is_found(tmp_path: Path, protocol: int) -> None:
    evil = Hidden(tmp_path / "canary")
    for number, value in enumerate(
        ({"train": {"vision": np.ones(3), "id": [evil]}}, np.array([evil, None], dtype=object), [np.ones(2), (evil,)])
    ):
        with pytest.raises(ValueError, match=r"posix\.mkdir"):
            read_pickled_arrays(saved(tmp_path / f"{number}.pkl", value, protocol))
    assert not (tmp_path / "canary").exists()


# What is harmless but neither array nor plain data is refused by name as well.
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (OrderedDict(a=1), None),
        (defaultdict(int), "collections.defaultdict"),
        ({1, 2}, None),
        ({(1, 2)}, "a key that is a tuple"),
        (slice(1), "builtins.slice"),
        (np.ma.array([1.0], mask=[True]), "numpy.ma"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "V12"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "M8"),
        (np.array([1j]), "c16"),
        (np.array([[1, 2], None], dtype=object), "a list among them"),
        (np.float64, "numpy.float64"),
        (np.dtype("f4"), "neither array nor plain data"),
        (2 + 3j, "builtins.complex"),
        (range(3), "builtins.range"),
        (Path("x"), "pathlib"),
    ],
    ids=str,
)
def test_other_things_are_refused_by_name(tmp_path: Path, value: Any, named: str | None) -> None:
    path = saved(tmp_path / "other.pkl", value)
    if named is None:
        assert read_pickled_arrays(path) == value
        return
    with pytest.raises(ValueError, match=re.escape(named)):
        read_pickled_arrays(path)


BENT = {
    "an array without content": (ARRAY, "neither array nor plain data"),
    "a bare name": (NDARRAY, "numpy.ndarray, which is neither"),
    "an array that is called": (call(NDARRAY, b"K\x63\x85"), "calls numpy.ndarray"),
    "more numbers than bytes": (
        ARRAY + b"(K\x01K\x63\x85" + DTYPE + b"\x89" + literal(b"x" * 8) + b"tb",
        "with 8 bytes for it",
    ),
    "a dtype without byte order": (
        ARRAY
        + b"(K\x01K\x01\x85"
        + call(name("numpy", "dtype"), "f8", b"\x89", b"\x88")
        + b"\x89"
        + literal(b"x" * 8)
        + b"tb",
        "dtype is",
    ),
    "an array of a huge shape": (
        ARRAY + b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85" + DTYPE + b"\x89" + literal(b"") + b"tb",
        "with 0 bytes for it",
    ),
    "a negative size": (ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89" + literal(b"") + b"tb", "sizes"),
    "a dtype of a name": (call(name("numpy", "dtype"), NDARRAY, b"\x89", b"\x88"), "the dtype numpy.ndarray"),
    "a dtype of a record": (call(name("numpy", "dtype"), "i4,f8", b"\x89", b"\x88"), "the dtype 'i4,f8'"),
    "another codec": (call(name("_codecs", "encode"), "abc", "rot13"), "something else than a text and 'latin1'"),
    "a mapping of pairs": (call(name("collections", "OrderedDict"), b"]"), "calls collections.OrderedDict"),
    "the state of a list": (b"]}b", "the state of a list"),
    "a key that is a tuple": (b"}" + b")" + b"\x85" * 100_000 + b"K\x01s", "a key that is a tuple"),
    "bytes without an end": (b"\x8e" + b"\xff" * 7 + b"\x00", "cut short"),
    "bytes of many that are no array": (b"]" + literal(b"x" * 2**17) + b"a", "a memoryview, which is neither"),
    "a buffer outside": (b"\x97", "instruction b'\\x97'"),
    "a persistent id": (text("storage") + b"Q", "a persistent id"),
    "nothing": (b"", "empty stack|does not end"),
}


@pytest.mark.parametrize("kind", BENT)
def test_a_bent_pickle_is_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    program, reason = BENT[kind]
    path = tmp_path / "bent.pkl"
    path.write_bytes(b"\x80\x04" + program + b".")
    with pytest.raises(ValueError, match=reason if kind == "nothing" else re.escape(reason)) as caught:
        read_pickled_arrays(path)
    assert len(str(caught.value)) < 1000


@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, places: list[tuple[int, int]]) -> None:
    small = {key: EVERYTHING[key] for key in EVERYTHING if key != "longer than what is copied"}
    content = bytearray(pickle.dumps(small, 5))
    for place, value in places:
        content[place % len(content)] = value
    (tmp_path / "damaged.pkl").write_bytes(content)
    with contextlib.suppress(ValueError):
        read_pickled_arrays(tmp_path / "damaged.pkl")


def test_no_file_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_pickled_arrays(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match="not a file"):
        read_pickled_arrays(tmp_path)
    (tmp_path / "empty.pkl").touch()
    with pytest.raises(ValueError, match="the file is empty"):
        read_pickled_arrays(tmp_path / "empty.pkl")
