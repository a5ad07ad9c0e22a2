"""Serializer of tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .rows import Rows, Source, Values, read_rows
from .serializers import Elements, ElementShape, ScaledSerializer, Statistics


@dataclass(frozen=True)
class TableSerializer(ScaledSerializer):
    """Rows of a table; one element is one column, with two channels: value and missing flag.

    A missing value (None, NaN) is value 0 with flag 1. Rows are lists of numbers, or, with the task option `columns`,
    one number from each of several raw columns.
    """

    kind: ClassVar[str] = "table"

    def fit(self, values: Values, source: Source) -> Statistics:
        """Scale of each column. See `Serializer.fit`."""
        rows = read_rows(values, source, ())
        if not rows.values.size:
            raise source.error("the training split holds no values.")
        matrix, _ = self._matrix(rows, int(rows.lengths.max()))
        return self._check_fit({"length": matrix.shape[1], **self._fit_scaling(matrix)}, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(columns, 2): value and missing flag. See `Serializer.encode`."""
        matrix, lengths = self._matrix(read_rows(values, source, ()), statistics["length"])
        pairs = np.stack([self._scaled(matrix, statistics), np.isnan(matrix)], axis=-1)
        return self._elements(pairs.reshape(-1, 2), lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(columns,) of 2 channels."""
        return ElementShape((statistics["length"],), self._width(2))

    def sample_ndim(self, statistics: Statistics) -> int:
        """One axis: the columns."""
        return 1

    @staticmethod
    def _matrix(rows: Rows, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(present rows, columns) float64 and each row's number of columns."""
        rows.require_length(length)
        return rows.as_float().reshape(-1, length), rows.lengths
