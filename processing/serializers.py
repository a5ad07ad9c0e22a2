"""What the serializers share: each turns one kind of raw data into the elements that a model reads."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .rows import Rows, Source, Values, read_rows, shape_text
from .scaling import SCALES, apply_scaling, fit_scaling

Statistics = dict[str, Any]


@dataclass(frozen=True)
class Elements:
    """Encoded rows, end to end.

    Args:
        values: (sum of lengths, *further axes, channels) float32, or (sum of lengths,) int32 for token ids.
        lengths: (rows,) int64, size of each row's first axis; 0 where the modality is absent in that row.
    """

    values: np.ndarray
    lengths: np.ndarray

    def split(self) -> list[np.ndarray]:
        """One array for each row."""
        return np.split(self.values, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


@dataclass(frozen=True)
class ElementShape:
    """Shape of one encoded row.

    Args:
        axes: sizes of the axes before the channels; None for a first axis that varies in the training split.
        num_channels: width of one element; None for token ids, which have no channel axis.
        varies: True where the first axis of other rows may be longer or shorter than in the training split.
    """

    axes: tuple[int | None, ...]
    num_channels: int | None
    varies: bool = False

    @property
    def tail(self) -> tuple[int, ...]:
        """Sizes after the first axis, channels included."""
        further = tuple(size for size in self.axes[1:] if size is not None)
        return further if self.num_channels is None else (*further, self.num_channels)


@dataclass(frozen=True)
class Serializer(ABC):
    """What all kinds share. Fields are the options a suite or a user may set.

    A serializer holds options only. What it learns from the training split is plain data (`fit`), kept by the
    processor and handed back to `encode` and `shape`.

    Args:
        max_length: size of the first axis that spans the positions -1 to 1; time series and text are cut there.
    """

    kind: ClassVar[str]
    ordered: ClassVar[bool] = True

    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None:
            check_whole("max_length", self.max_length, 1)

    @property
    def position_length(self) -> int | None:
        """`max_length` in elements, for `ModalityConfig.max_length`."""
        return self.max_length

    @abstractmethod
    def fit(self, values: Values, source: Source) -> Statistics:
        """JSON-able statistics of a training column.

        Raises:
            ValueError: the values are not of this kind, or there are none; the message names task, column and row.
        """

    @abstractmethod
    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """Rows as elements; the same row gives the same bits alone and in any batch.

        Raises:
            ValueError: a row cannot be encoded; the message names task, column and row.
        """

    @abstractmethod
    def shape(self, statistics: Statistics) -> ElementShape:
        """Shape of what `encode` returns for one row."""

    def embedding(self, statistics: Statistics) -> tuple[int, int] | None:
        """Number of token ids and width of the vectors that the model learns for them; None for no ids."""
        return None

    @property
    def pad_id(self) -> int:
        """What padding holds: 0, or the padding token."""
        return 0

    @abstractmethod
    def sample_ndim(self, statistics: Statistics) -> int:
        """Axes of one raw sample, which tells a sample from a batch of them."""

    def join(self, statistics: Statistics, parts: list[Any]) -> Any:
        """Values of several raw columns as one sample or a list of them: side by side, one from each.

        Args:
            statistics: what `fit` returned.
            parts: for each column its value, or a list with one value for each sample.
        """
        if all(part is None or np.ndim(part) == 0 for part in parts):
            return parts
        return [list(row) for row in zip(*parts, strict=True)]

    def object_ndim(self, statistics: Statistics, value: Any, nested: bool) -> int:
        """Axes that a text, bytes, a mapping or a picture counts as, where it is told whether it is a sample.

        Args:
            statistics: what `fit` returned.
            value: no number, list or array.
            nested: True where it is an entry of a list.
        """
        return 0


@dataclass(frozen=True)
class NumericSerializer(Serializer):
    """Options of kinds that hold numbers.

    Args:
        num_channels: zero channels are appended up to this width, so that tasks of different widths can share a
            modality. None: as wide as the data.
    """

    num_channels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_channels is not None:
            check_whole("num_channels", self.num_channels, 1)

    def _width(self, channels: int) -> int:
        return channels if self.num_channels is None else self.num_channels

    def _check_fit(self, statistics: Statistics, source: Source) -> Statistics:
        """The statistics, once they are known to agree with `num_channels` and `max_length`."""
        channels = dataclasses.replace(self, num_channels=None).shape(statistics).num_channels or 0
        if self.num_channels is not None and channels > self.num_channels:
            raise source.error(f"elements have {channels} channels, num_channels={self.num_channels} is too narrow.")
        length = self.shape(statistics).axes[0]
        if length is not None and self.position_length is not None and length > self.position_length:
            raise source.error(f"has {length} elements on its first axis, more than max_length={self.max_length}.")
        return statistics

    def _elements(self, values: np.ndarray, lengths: np.ndarray) -> Elements:
        """float32 elements, widened to `num_channels`."""
        missing = self._width(values.shape[-1]) - values.shape[-1]
        if missing:
            values = np.concatenate([values, np.zeros((*values.shape[:-1], missing))], axis=-1)
        return Elements(np.ascontiguousarray(values, dtype=np.float32), lengths)


@dataclass(frozen=True)
class ScaledSerializer(NumericSerializer):
    """Options of kinds whose columns or channels are scaled one by one.

    Args:
        scale: `"robust"` (median; interquartile range over 1.349, the deviation where that is 0), `"standard"` (mean,
            deviation) or `"none"`; None for the kind's default, robust for tables and spectra, standard for time
            series and sets. Columns of zeros and ones keep their values; a column that is constant in the training
            split becomes 0.
        quantile: True maps each column through 101 quantiles of the training split to normal scores, within 2.58
            either way: for heavy tails. Takes the place of `scale`.
        clip: largest magnitude after scaling; None keeps all.
    """

    default_scale: ClassVar[str] = "robust"

    scale: Literal["robust", "standard", "none"] | None = None
    quantile: bool = False
    clip: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scale", self.scale, (None, *SCALES))
        check_choice("quantile", self.quantile, (True, False))
        if self.clip is not None and not (is_number(self.clip) and 0 < self.clip < math.inf):
            raise ValueError(f"clip={self.clip!r} must be a positive number or null.")
        if self.quantile and self.scale is not None:
            raise ValueError(f"quantile=true takes the place of scale={self.scale!r}; leave one of them out.")

    def _fit_scaling(self, values: np.ndarray) -> Statistics:
        return fit_scaling(values, "quantile" if self.quantile else self.scale or self.default_scale)

    def _scaled(self, values: np.ndarray, statistics: Statistics) -> np.ndarray:
        return apply_scaling(values, statistics, self.clip)


@dataclass(frozen=True)
class FlaggedSerializer(ScaledSerializer):
    """Options of kinds whose elements are vectors that may hold missing numbers.

    Args:
        flag_missing: True adds one flag channel per channel, 1 where the number is missing (its value is then 0).
            `"auto"` does so where the training split of any task of the modality has missing numbers. Missing
            numbers without flags are refused.
    """

    flag_missing: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("flag_missing", self.flag_missing, (True, False, "auto"))

    def sample_ndim(self, statistics: Statistics) -> int:
        """One axis for plain sequences of numbers, two for sequences of vectors."""
        return 1 + len(statistics["tail"])

    def _flagged(self, statistics: Statistics) -> bool:
        return statistics["missing"] if self.flag_missing == "auto" else bool(self.flag_missing)

    def _read(self, values: Values, source: Source, statistics: Statistics | None) -> tuple[Rows, np.ndarray]:
        """The rows and their numbers as (elements, channels) float64, NaN where missing."""
        rows = read_rows(values, source, None if statistics is None else statistics["tail"])
        rows = self._stepped(rows, statistics)
        if len(rows.tail) > 1:
            found = shape_text((int(rows.lengths[rows.row_of(0)]), *rows.tail))
            raise source.error(f"found shape {found}, expected one or two axes.", rows.row_of(0))
        matrix = rows.as_float().reshape(len(rows.values), -1 if rows.values.size else math.prod(rows.tail))
        rows, matrix = self._placed(rows, matrix)
        if statistics is not None and not self._flagged(statistics) and np.isnan(matrix).any():
            row = rows.row_of(int(np.isnan(matrix).any(axis=1).argmax()))
            raise source.error("found missing values and there are no flags for them; set flag_missing=true.", row)
        return rows, matrix

    def _stepped(self, rows: Rows, statistics: Statistics | None) -> Rows:
        """The rows as elements x channels, where they come in another form."""
        return rows

    def _placed(self, rows: Rows, matrix: np.ndarray) -> tuple[Rows, np.ndarray]:
        """The rows with their elements where they belong on the first axis."""
        return rows, matrix

    def _fit_rows(self, values: Values, source: Source) -> tuple[Rows, np.ndarray, Statistics]:
        rows, matrix = self._read(values, source, None)
        if not matrix.size:
            raise source.error("the training split holds no values.")
        missing = bool(np.isnan(matrix).any())
        if missing and self.flag_missing is False:
            row = rows.row_of(int(np.isnan(matrix).any(axis=1).argmax()))
            raise source.error("found missing values while flag_missing=false; set it to true or 'auto'.", row)
        return rows, matrix, {"tail": list(rows.tail), "num_columns": matrix.shape[1], "missing": missing}


def group_steps(values: np.ndarray, lengths: np.ndarray, size: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """`size` consecutive elements of each row put into one; the last one of a row is filled up with `fill`.

    Args:
        values: (sum of lengths, channels).
        lengths: (rows,) elements of each row.

    Returns:
        (sum of new lengths, size * channels) and the new lengths.
    """
    if size == 1:
        return values, lengths
    groups = -(-lengths // size)
    padded = groups * size
    starts = np.cumsum(padded) - padded
    offsets = np.cumsum(lengths) - lengths
    places = np.arange(len(values)) + np.repeat(starts - offsets, lengths)
    grouped = np.full((int(padded.sum()), values.shape[1]), fill, dtype=values.dtype)
    grouped[places] = values
    return grouped.reshape(int(groups.sum()), size * values.shape[1]), groups


def is_number(value: Any) -> bool:
    """True for int and float, not for bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_whole(name: str, value: Any, smallest: int) -> None:
    """Refuse an option that is not a whole number of at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {smallest}.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse an option that is not one of `choices`."""
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ValueError(f"{name}={value!r} is not one of {', '.join(repr(choice) for choice in choices)}.")


def check_folder(value: Any) -> None:
    """Refuse a `folder` that is no text."""
    if not (value is None or isinstance(value, str)):
        raise ValueError(f"folder={value!r} must be the path of a folder.")


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Both numbers of a pair, or one number for both.

    Raises:
        ValueError: something else.
    """
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    if not (pair or isinstance(value, int)):
        raise ValueError(f"{name}={value!r} must be a whole number or a pair of them.")
    sizes = tuple(value) if pair else (value, value)
    for size in sizes:
        check_whole(name, size, 1)
    return sizes[0], sizes[1]
