"""Reading a pickle as data, without running anything that it says.

A pickle is a program. `PickleReader` reads that program with the few instructions that plain data needs and a fixed
table of names: a name is looked up in the table and never imported, and what the table's names may do is said by the
classes that derive from it. Nothing here derives from Python's own unpickler: even with a table of names, that one
makes a memo as large as a nine-byte file asks for, and a deeply nested key overflows its stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class PickledName:
    """A name of the table, standing on the stack until an instruction uses it."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """Module and name, as tables have them."""
        return self.module, self.name

    def __str__(self) -> str:
        return shown(f"{self.module}.{self.name}")


class PickleReader:
    """Reads a pickle as data: a stack, a memo, and instructions for plain containers, texts and numbers.

    A derived class adds names, and with `call`, `new`, `build` and `persistent` what they may be used for.

    Args:
        program: the pickle.

    Attributes:
        needed_by: what errors call the files that this class reads, such as `"plain data"`.
        names: the table of names, (module, name).
        max_instructions: after how many the program is given up.
        instructions: code to what it does; a derived class may add some.
    """

    needed_by: ClassVar[str] = "plain data"
    names: ClassVar[Collection[tuple[str, str]]] = ()
    max_instructions: ClassVar[int] = 300_000
    instructions: ClassVar[Mapping[bytes, Callable[[Any], None]]]

    def __init__(self, program: bytes | memoryview) -> None:
        self.stack: list[Any] = []
        self._program = memoryview(program)
        self._position = 0
        self._below: list[list[Any]] = []  # the stacks under each open mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle describes.

        Raises:
            ValueError: a name that the table does not have, an instruction that no such file needs, or nonsense.
        """
        for _ in range(self.max_instructions):
            start, code = self._position, bytes(self.take(1))
            if code == b".":
                if self._below or len(self.stack) != 1 or self._position != len(self._program):
                    raise ValueError("its pickle does not end with one object.")
                return self.stack[0]
            step = self.instructions.get(code)
            if step is None:
                raise self._refused(code, start)
            step(self)
        raise ValueError(f"its pickle has more than {self.max_instructions:,} instructions.")

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call gives; no call is allowed here.

        Raises:
            ValueError: this function cannot be called with these arguments.
        """
        raise ValueError(f"its pickle calls {self.told(function)}, which is not allowed.")

    def new(self, kind: Any, arguments: Any) -> Any:
        """A new object of a class; none is allowed here.

        Raises:
            ValueError: no such object may be made.
        """
        raise ValueError(f"its pickle makes an object of {self.told(kind)}, which is not allowed.")

    def build(self, target: Any, state: Any) -> Any:
        """What an object becomes by its state; none has one here.

        Raises:
            ValueError: this object's state cannot be set to that.
        """
        raise ValueError(
            f"its pickle sets the state of {self.told(target)} to {self.told(state)}, which is not allowed."
        )

    def persistent(self, identity: Any) -> Any:
        """What a persistent id stands for; there are none here.

        Raises:
            ValueError: it stands for nothing.
        """
        raise ValueError("its pickle has a persistent id, which is not allowed.")

    def told(self, value: object) -> str:
        """A value for a message; never its content, which may be nested without end."""
        return told(value)

    def check_keys(self, items: list[Any]) -> list[Any]:
        """Members of sets and keys of mappings: text only, as hashing anything nested may overflow the stack.

        Raises:
            ValueError: another key.
        """
        for item in items:
            if type(item) is not str:
                raise ValueError(f"its pickle has a key that is {self.told(item)} and no text.")
        return items

    def take(self, count: int) -> memoryview:
        """The next bytes of the program."""
        part = self._program[self._position : self._position + count]
        if len(part) < count:
            raise ValueError("its pickle is cut short.")
        self._position += count
        return part

    def count(self, width: int) -> int:
        """The next whole number of so many bytes, without sign."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """The next bytes up to a line break; names and numbers are short, so no long line is searched."""
        content = bytes(self._program[self._position : self._position + _LONGEST_LINE])
        end = content.find(b"\n")
        if end < 0:
            raise ValueError("its pickle is cut short.")
        self._position += end + 1
        return content[:end].decode("utf-8", "backslashreplace")

    def text(self, width: int) -> None:
        """Push a text whose length stands before it."""
        self.stack.append(str(self.take(self.count(width)), "utf-8"))

    def pop(self) -> Any:
        """The top of the stack, taken off."""
        if not self.stack:
            raise ValueError("its pickle takes from an empty stack.")
        return self.stack.pop()

    def top(self) -> Any:
        """The top of the stack."""
        if not self.stack:
            raise ValueError("its pickle takes from an empty stack.")
        return self.stack[-1]

    def mark(self) -> None:
        """Begin a run of members."""
        self._below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """The members since the last mark, taken off."""
        if not self._below:
            raise ValueError("its pickle closes what it has not opened.")
        items, self.stack = self.stack, self._below.pop()
        return items

    def remember(self, index: int) -> None:
        """Keep the top of the stack in the memo."""
        self._memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push what the memo keeps."""
        if index not in self._memo:
            raise ValueError("its pickle refers to an object that it has not made.")
        self.stack.append(self._memo[index])

    def _refused(self, code: bytes, start: int) -> ValueError:
        if code == b"i":
            return self._unknown_name(self.line(), self.line())
        if code in _EXTENSIONS:
            number = self.count(_EXTENSIONS[code])
            return ValueError(f"its pickle asks for the registered extension {number}, which is not allowed.")
        return ValueError(
            f"its pickle has the instruction {code!r} at byte {start}, which is none that {self.needed_by} needs."
        )

    def _unknown_name(self, module: str, name: str) -> ValueError:
        return ValueError(
            f"its pickle names {shown(f'{module}.{name}')!r}, which is none of the names that {self.needed_by} needs. "
            "Nothing of the file has been run."
        )

    def _tuple(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError(f"its pickle appends to {self.told(target)}.")
        target.extend(items)

    def _add(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            raise ValueError(f"its pickle adds to {self.told(target)}.")
        target.update(self.check_keys(items))

    def _set(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError(f"its pickle sets entries of {self.told(target)}.")
        target.update(zip(self.check_keys(items[::2]), items[1::2], strict=True))

    def _name(self, module: str, name: str) -> None:
        if (module, name) not in self.names:
            raise self._unknown_name(module, name)
        self.stack.append(PickledName(module, name))

    def _name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle has a name that is no text.")
        self._name(module, name)

    def _call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(arguments) is not tuple or not isinstance(function, PickledName):
            raise ValueError(f"its pickle calls {self.told(function)}, which is not allowed.")
        self.stack.append(self.call(function, arguments))

    def _new(self) -> None:
        arguments, kind = self.pop(), self.pop()
        self.stack.append(self.new(kind, arguments))

    def _build(self) -> None:
        state, target = self.pop(), self.top()
        self.stack[-1] = self.build(target, state)


def shown(text: str) -> str:
    """A text of the file for a message: not too long, and without control characters for somebody's terminal."""
    text = text if len(text) <= 120 else text[:117] + "..."
    return text if text.isprintable() else ascii(text)[1:-1]


def told(value: object) -> str:
    """A value for a message; never its content, which may be nested without end."""
    if isinstance(value, PickledName):
        return str(value)
    if type(value) is str:
        return repr(shown(value))
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        return repr(value) if abs(value) < 10**15 else f"a number of {value.bit_length()} bits"
    return f"a {type(value).__name__}"


def _check_protocol(protocol: int) -> None:
    if protocol > 5:
        raise ValueError(f"its pickle is of protocol {protocol}; 5 is the last that is known.")


def _push(reader: PickleReader, value: object) -> None:
    reader.stack.append(value)


def _nothing(_: object) -> None:
    pass


_LONGEST_LINE = 2**16
_EXTENSIONS = {b"\x82": 1, b"\x83": 2, b"\x84": 4}
PickleReader.instructions = {
    # Beginning, frames and marks
    b"\x80": lambda r: _check_protocol(r.count(1)),
    b"\x95": lambda r: _nothing(r.take(8)),
    b"(": PickleReader.mark,
    # Values
    b"N": lambda r: r.stack.append(None),
    b"\x88": lambda r: r.stack.append(True),
    b"\x89": lambda r: r.stack.append(False),
    b"K": lambda r: r.stack.append(r.count(1)),
    b"M": lambda r: r.stack.append(r.count(2)),
    b"J": lambda r: r.stack.append(struct.unpack("<i", r.take(4))[0]),
    b"\x8a": lambda r: r.stack.append(int.from_bytes(r.take(r.count(1)), "little", signed=True)),
    b"G": lambda r: r.stack.append(struct.unpack(">d", r.take(8))[0]),
    b"X": lambda r: r.text(4),
    b"\x8c": lambda r: r.text(1),
    # Containers
    b")": lambda r: r._tuple(0),
    b"\x85": lambda r: r._tuple(1),
    b"\x86": lambda r: r._tuple(2),
    b"\x87": lambda r: r._tuple(3),
    b"t": lambda r: _push(r, tuple(r.since_mark())),
    b"]": lambda r: r.stack.append([]),
    b"a": lambda r: r._append([r.pop()]),
    b"e": lambda r: r._append(r.since_mark()),
    b"}": lambda r: r.stack.append({}),
    b"s": lambda r: r._set([r.pop(), r.pop()][::-1]),
    b"u": lambda r: r._set(r.since_mark()),
    b"\x8f": lambda r: r.stack.append(set()),
    b"\x90": lambda r: r._add(r.since_mark()),
    # Memo
    b"q": lambda r: r.remember(r.count(1)),
    b"r": lambda r: r.remember(r.count(4)),
    b"\x94": lambda r: r.remember(len(r._memo)),
    b"h": lambda r: r.recall(r.count(1)),
    b"j": lambda r: r.recall(r.count(4)),
    # Names and what they may be used for
    b"c": lambda r: r._name(r.line(), r.line()),
    b"\x93": PickleReader._name_from_stack,
    b"R": PickleReader._call,
    b"\x81": PickleReader._new,
    b"b": PickleReader._build,
    b"Q": lambda r: _push(r, r.persistent(r.pop())),
}

__all__ = ["PickleReader", "PickledName", "shown", "told"]
