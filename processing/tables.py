"""Serializer of tables: numbers, categories and missing values, one element for each column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from .rows import Columns, Rows, Source, Values, entries_of, is_arrow, read_numbers, read_rows
from .serializers import Elements, ElementShape, ScaledSerializer, Statistics, check_choice, check_whole

LEARNED_WIDTH = 32
Category = str | int | float


@dataclass(frozen=True)
class TableSerializer(ScaledSerializer):
    """Rows of a table; one element is one column.

    Rows are lists, mappings from column to value, or, with the task option `columns`, one value from each of several
    raw columns. Columns of text hold categories, all others numbers. A missing value (None, NaN) is value 0 with flag
    1. Categories are those of the training split; one that is not among them has a code of its own.

    Args:
        categories: `"one_hot"` gives each element the channels value, missing flag, unknown category, then one for
            each category of the column (as many as the column with most of them has); a table of numbers alone has
            the first two. `"learned"` gives token ids, (columns,): the model learns a vector for every category of
            every column, for unknown and for missing. All columns must then hold categories.
        categorical: columns, by name or by position from 0, whose numbers are codes of categories.
        max_categories: in each column so many of the most frequent categories are told apart; all others count as
            unknown.
        num_channels: for learned vectors their width; None for 32.
    """

    kind: ClassVar[str] = "table"

    categories: Literal["one_hot", "learned"] = "one_hot"
    categorical: Sequence[str | int] | None = None
    max_categories: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("categories", self.categories, ("one_hot", "learned"))
        check_whole("max_categories", self.max_categories, 1)
        listed = self.categorical
        if listed is not None and (
            isinstance(listed, str) or not all(isinstance(item, (str, int)) for item in listed)
        ):
            raise ValueError(f"categorical={listed!r} must be a list of columns, by name or position.")

    def fit(self, values: Values, source: Source) -> Statistics:
        """Scale of each column of numbers, and the categories of the others. See `Serializer.fit`."""
        table = _Table.read(values, source, None)
        if not (table.columns and table.count):
            raise source.error("the training split holds no values.")
        declared = self._declared(table, source)
        numbers, categories = np.full((table.count, len(table.columns)), np.nan), {}
        for index in range(len(table.columns)):
            if index in declared or table.holds_text(index):
                counts = Counter(item for item in table.categories(index) if item is not None)
                frequent = sorted(counts, key=lambda item: (-counts[item], str(item)))[: self.max_categories]
                categories[str(index)] = sorted(frequent, key=lambda item: (isinstance(item, str), item))
            else:
                numbers[:, index] = table.numbers(index)
        statistics: Statistics = {"length": len(table.columns), **self._fit_scaling(numbers)}
        if table.names is not None:
            statistics["names"] = table.names
        if categories:
            statistics["categories"] = categories
        if self.categories == "learned":
            for index in range(len(table.columns)):
                if str(index) not in categories:
                    raise table.source(index).error(
                        "holds numbers, while categories='learned' is for categories alone; give the numbers a table "
                        "modality of their own, or name the column under categorical."
                    )
            statistics["vocab_size"] = sum(2 + len(known) for known in categories.values())
        return self._check_fit(statistics, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(columns, channels), or (columns,) int32 ids of learned categories. See `Serializer.encode`."""
        table = _Table.read(values, source, statistics)
        lengths = np.where(table.present, statistics["length"], 0).astype(np.int64)
        categories = {int(index): known for index, known in statistics.get("categories", {}).items()}
        numbers = np.full((table.count, statistics["length"]), np.nan)
        for index in range(statistics["length"]):
            if index not in categories:
                numbers[:, index] = table.numbers(index)
        if self.categories == "learned":
            codes = [table.codes(index, categories[index]) for index in range(statistics["length"])]
            offsets = np.cumsum([0, *(2 + len(categories[index]) for index in range(statistics["length"] - 1))])
            return Elements((np.stack(codes, axis=1) + offsets).reshape(-1).astype(np.int32), lengths)
        elements = np.zeros((table.count, statistics["length"], self._num_channels(statistics)))
        elements[..., 0], elements[..., 1] = self._scaled(numbers, statistics), np.isnan(numbers)
        for index, known in categories.items():
            codes_of_column = table.codes(index, known)  # 0 missing, 1 unknown, 2 the first category
            elements[np.arange(table.count), index, 1 + codes_of_column] = 1
            elements[codes_of_column > 0, index, 1] = 0
        return self._elements(elements.reshape(-1, elements.shape[-1]), lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(columns,) of 2 channels, with one-hot categories of as many more as there are, plus one; or of ids."""
        if self.categories == "learned":
            return ElementShape((statistics["length"],), None)
        return ElementShape((statistics["length"],), self._width(self._num_channels(statistics)))

    def embedding(self, statistics: Statistics) -> tuple[int, int] | None:
        """Number of ids and width of the learned vectors."""
        if self.categories != "learned":
            return None
        return statistics["vocab_size"], self.num_channels or LEARNED_WIDTH

    def sample_ndim(self, statistics: Statistics) -> int:
        """One axis: the columns."""
        return 1

    def object_ndim(self, statistics: Statistics, value: Any, nested: bool) -> int:
        """A mapping is one row, a text one value."""
        return 1 if isinstance(value, Mapping) else 0

    def _declared(self, table: _Table, source: Source) -> set[int]:
        """Positions of the columns that `categorical` names."""
        found = set()
        for item in self.categorical or ():
            names = table.names or []
            if isinstance(item, str) and item in names:
                found.add(names.index(item))
            elif isinstance(item, int) and 0 <= item < len(table.columns):
                found.add(item)
            else:
                known = ", ".join(names) or f"0 to {len(table.columns) - 1}"
                raise source.error(f"categorical names {item!r}, which is no column of this table; it has {known}.")
        return found

    @staticmethod
    def _num_channels(statistics: Statistics) -> int:
        categories = statistics.get("categories", {})
        return 2 + (1 + max(len(known) for known in categories.values()) if categories else 0)


@dataclass(frozen=True)
class _Table:
    """Raw rows, column by column.

    Args:
        columns: the values of each column, one for each row: an array of numbers, an Arrow column or a list.
        names: of the columns; None for rows that are lists.
        present: (rows,) bool, False for absent rows, whose values are None or NaN.
        place: where the rows come from.
    """

    columns: list[Any]
    names: list[str] | None
    present: np.ndarray
    place: Source

    @classmethod
    def read(cls, values: Values, source: Source, statistics: Statistics | None) -> _Table:
        """Rows in any form; with statistics, those of another training split's columns.

        Raises:
            ValueError: rows of different length, or a row that lacks a column; the message names it.
        """
        length = None if statistics is None else statistics["length"]
        if isinstance(values, Columns):
            return cls(values.columns, values.names, np.ones(len(values), bool), source)
        if is_arrow(values):
            from .arrow import objects_of_column

            values = objects_of_column(values)
        if is_arrow(values) or isinstance(values, np.ndarray) or not _holds_objects(values):
            return cls._of_numbers(read_rows(values, source, ()), length, source)
        rows = entries_of(values)
        first = next((entry for entry in rows if entry is not None), None)
        names = None if statistics is None else statistics.get("names")
        if statistics is None and isinstance(first, Mapping):
            names = [str(name) for name in first]
        table = [None if entry is None else _cells(entry, names, source, row) for row, entry in enumerate(rows)]
        for row, cells in enumerate(table):
            length = len(cells) if cells is not None and length is None else length
            if cells is not None and len(cells) != length:
                raise source.error(f"found a row of {len(cells)} columns, expected {length}.", row)
        columns = [[cells and cells[index] for cells in table] for index in range(length or 0)]
        return cls(columns, names, np.array([entry is not None for entry in rows], dtype=bool), source)

    @classmethod
    def _of_numbers(cls, rows: Rows, length: int | None, source: Source) -> _Table:
        length = int(rows.lengths.max(initial=0)) if length is None else length
        rows.require_length(length)
        present = rows.lengths > 0
        matrix = np.full((len(present), length), np.nan)
        matrix[present] = rows.as_float().reshape(-1, length) if length else 0.0
        return cls(list(matrix.T), None, present, source)

    @property
    def count(self) -> int:
        """Present rows."""
        return int(self.present.sum())

    def source(self, index: int) -> Source:
        """Where a column comes from."""
        if self.names is None:
            return self.place
        return replace(self.place, column=self.names[index])

    def holds_text(self, index: int) -> bool:
        """True where the first value that is there is a text."""
        column = self.columns[index]
        if is_arrow(column):
            from .arrow import objects_of_column

            column = objects_of_column(column)
        if is_arrow(column) or isinstance(column, np.ndarray):
            return isinstance(column, np.ndarray) and column.dtype.kind in "UT"
        return isinstance(next((item for item in column if item is not None), None), str)

    def numbers(self, index: int) -> np.ndarray:
        """(present rows,) float64, NaN where missing.

        Raises:
            ValueError: a value that is no number, or infinite; the message names column and row.
        """
        source = self.source(index)
        found = read_numbers(self.columns[index], source)
        if np.isinf(found).any():
            row = int(np.isinf(found).argmax())
            raise source.error("found an infinite value; numbers must be finite, NaN where missing.", row)
        return found[self.present]

    def categories(self, index: int) -> list[Category | None]:
        """(rows,) texts or numbers, None where missing.

        Raises:
            ValueError: a value that is neither; the message names column and row.
        """
        source = self.source(index)
        found: list[Category | None] = []
        for row, item in enumerate(entries_of(self.columns[index])):
            value = item.item() if hasattr(item, "item") else item
            if isinstance(value, (bool, float)) and value == value and value == int(value):
                value = int(value)
            if value is None or value != value:
                found.append(None)
            elif isinstance(value, (str, int, float)):
                found.append(value)
            else:
                kind = type(value).__name__
                raise source.error(f"found {kind} {str(value)[:40]!r}, expected a category.", row)
        return found

    def codes(self, index: int, known: Sequence[Category]) -> np.ndarray:
        """(present rows,) int64: 0 missing, 1 unknown, then the known categories in their order.

        Raises:
            ValueError: numbers where categories are texts, or the other way round; the message names column and row.
        """
        code = {category: 2 + position for position, category in enumerate(known)}
        texts = bool(known) and isinstance(known[0], str)
        codes = np.zeros(len(self.present), np.int64)
        for row, item in enumerate(self.categories(index)):
            if item is None:
                continue
            if known and isinstance(item, str) != texts:
                expected = "text" if texts else "a number"
                raise self.source(index).error(f"found {item!r}, expected {expected}.", row)
            codes[row] = code.get(item, 1)
        return codes[self.present]


def _holds_objects(values: Any) -> bool:
    """True for rows that are mappings or hold texts."""
    return any(
        isinstance(entry, Mapping) or (isinstance(entry, (list, tuple)) and any(isinstance(x, str) for x in entry))
        for entry in values
    )


def _cells(entry: Any, names: Sequence[str] | None, source: Source, row: int) -> list[Any]:
    """The values of one row, in the order of the columns."""
    if isinstance(entry, Mapping):
        if names is None:
            raise source.error("found a mapping, expected a list of values.", row)
        for name in names:
            if name not in entry:
                raise source.error(f"the column {name!r} is missing; None is a missing value.", row)
        return [entry[name] for name in names]
    if hasattr(entry, "tolist"):
        entry = entry.tolist()
    if not isinstance(entry, (list, tuple)):
        raise source.error("found a single number, expected a list of values.", row)
    return list(entry)
