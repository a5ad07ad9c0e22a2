"""Serializers: one kind of raw data each, turned into the elements that a model reads."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .rows import Rows, Source, Values, is_arrow, read_rows, shape_text
from .scaling import SCALES, apply_scaling, fit_scaling, mean_and_deviation

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

    @abstractmethod
    def sample_ndim(self, statistics: Statistics) -> int:
        """Axes of one raw sample, which tells a sample from a batch of them."""


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
class ImageSerializer(NumericSerializer):
    """Images, or stacks of frames, as a grid of patches; one element is one patch.

    Rows are (height, width), (height, width, colours) or PIL images, and with three axes also stacks of them, (frames,
    height, width) or (frames, height, width, colours), whose number of frames may vary. All images of a task have one
    size. Images are extended with 0 at the bottom and the right to a multiple of the patch, then scaled.

    Args:
        patch_size: height and width of a patch, or one number for both.
        num_axes: 2 (rows x columns of patches) or 3 (frames x rows x columns; a single image is one frame).
        scale: `"standardize"` (mean 0, deviation 1 over all pixels of the training split) or `"unit"` (0 to 1 over
            the range of the training split).
        num_colors: 3 tells a colour image (height, width, 3) from a stack where there are three axes.
        blank: `"flag"` adds a channel that is 1 in every patch of a frame without any pixel other than 0 (camera off);
            the frame's other channels are then 0, and it takes no part in the statistics.
    """

    kind: ClassVar[str] = "image"

    patch_size: int | Sequence[int] = 4
    num_axes: int = 2
    scale: Literal["standardize", "unit"] = "standardize"
    num_colors: int | None = None
    blank: Literal["flag"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = isinstance(self.patch_size, Sequence) and len(self.patch_size) == 2
        if not (pair or isinstance(self.patch_size, int)):
            raise ValueError(f"patch_size={self.patch_size!r} must be a whole number or a pair of them.")
        for size in self._patch:
            check_whole("patch_size", size, 1)
        check_choice("num_axes", self.num_axes, (2, 3))
        check_choice("scale", self.scale, ("standardize", "unit"))
        check_choice("blank", self.blank, (None, "flag"))
        if self.num_colors is not None:
            check_whole("num_colors", self.num_colors, 1)

    @property
    def _patch(self) -> tuple[int, int]:
        if isinstance(self.patch_size, int):
            return self.patch_size, self.patch_size
        return self.patch_size[0], self.patch_size[1]

    def fit(self, values: Values, source: Source) -> Statistics:
        """Size of the images, and mean, deviation, smallest and largest pixel. See `Serializer.fit`."""
        rows = self._read(values, source, None)
        if not len(rows.values):
            raise source.error("the training split holds no image.")
        ndim = 1 + len(rows.tail)
        stacked = self.num_axes == 3 and (ndim == 4 or (ndim == 3 and self.num_colors in (None, 1)))
        sizes = rows.lengths[rows.lengths > 0]
        raw = list(rows.tail) if stacked else [int(sizes[0]), *rows.tail]
        if len(raw) not in (2, 3):
            raise source.error(f"found {ndim} axes, which num_axes={self.num_axes} cannot hold.", rows.row_of(0))
        statistics: Statistics = {
            "size": [raw[0], raw[1], raw[2] if len(raw) == 3 else 1],
            "ndim": ndim,
            "stacked": stacked,
            "length": (int(sizes[0]) if (sizes == sizes[0]).all() else None) if stacked else 1,
            "longest": int(sizes.max()) if stacked else 1,
        }
        if self.num_colors is not None and statistics["size"][2] != self.num_colors:
            raise source.error(f"found {statistics['size'][2]} colours, expected num_colors={self.num_colors}.")
        frames, _ = self._frames(rows, statistics)
        if self.blank == "flag":
            frames = frames[~_blank(frames)]
        statistics["mean"], statistics["deviation"] = mean_and_deviation(frames)
        statistics["low"], statistics["high"] = (
            (float(frames.min()), float(frames.max())) if frames.size else (0.0, 1.0)
        )
        return self._check_fit(statistics, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """Patches, (rows of patches, columns of patches, channels) or with frames before them. See `Serializer`.

        Channels run over the pixels of a patch row by row, each pixel's colours together, then the blank flag.
        """
        raw = statistics["size"][: statistics["ndim"] - statistics["stacked"]]
        rows = self._read(values, source, raw if statistics["stacked"] else raw[1:])
        frames, lengths = self._frames(rows, statistics)
        blank = _blank(frames) if self.blank == "flag" else None
        low = statistics["mean"] if self.scale == "standardize" else statistics["low"]
        width = statistics["deviation"] if self.scale == "standardize" else statistics["high"] - statistics["low"]
        height_patch, width_patch = self._patch
        height, columns = -frames.shape[1] % height_patch, -frames.shape[2] % width_patch
        if height or columns:
            frames = np.pad(frames, ((0, 0), (0, height), (0, columns), (0, 0)))
        with np.errstate(over="ignore"):
            scaled = (frames - low) / (width if width > 0 else 1.0)
        bound = float(np.finfo(np.float32).max)
        scaled = np.clip(scaled, *((0.0, 1.0) if self.scale == "unit" else (-bound, bound))).astype(np.float32)
        count, tall, wide, colors = scaled.shape
        grid = (tall // height_patch, wide // width_patch)
        patches = scaled.reshape(count, grid[0], height_patch, grid[1], width_patch, colors)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(count, *grid, height_patch * width_patch * colors)
        if blank is not None:
            flags = np.broadcast_to(blank[:, None, None, None], (count, *grid, 1)).astype(np.float32)
            patches = np.concatenate([np.where(flags > 0, np.float32(0), patches), flags], axis=-1)
        if self.num_axes == 2:
            lengths, patches = lengths * grid[0], patches.reshape(count * grid[0], *patches.shape[2:])
        return self._elements(patches, lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(rows, columns) of patches, or (frames, rows, columns)."""
        height, width, colors = statistics["size"]
        grid = (-(-height // self._patch[0]), -(-width // self._patch[1]))
        channels = math.prod(self._patch) * colors + (self.blank == "flag")
        axes = grid if self.num_axes == 2 else (statistics["length"], *grid)
        return ElementShape(axes, self._width(channels), varies=statistics["stacked"])

    def sample_ndim(self, statistics: Statistics) -> int:
        """Axes of one raw image or stack, as in the training split."""
        return statistics["ndim"]

    def _read(self, values: Values, source: Source, tail: Sequence[int] | None) -> Rows:
        if is_arrow(values):
            from .arrow import images_of_column

            values = images_of_column(values, source)
        if not (is_arrow(values) or isinstance(values, np.ndarray)):
            values = [self._pixels(item) for item in values]
        return read_rows(values, source, tail)

    def _pixels(self, image: Any) -> Any:
        """A PIL image as an array; with frames, as a stack of one. Anything else unchanged."""
        if isinstance(image, (list, tuple)) and image and hasattr(image[0], "convert"):
            return [self._pixels(item)[0] if self.num_axes == 3 else self._pixels(item) for item in image]
        if not hasattr(image, "convert"):
            return image
        if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        pixels = np.asarray(image)
        return pixels[None] if self.num_axes == 3 else pixels

    def _frames(self, rows: Rows, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
        """(frames, height, width, colours), finite, and the number of frames of each row."""
        if not statistics["stacked"]:
            rows.require_length(statistics["size"][0])
        rows.require_finite()
        if rows.values.dtype.kind == "f" and np.isnan(rows.values).any():
            row = rows.row_of(int(np.isnan(rows.values).reshape(len(rows.values), -1).any(axis=1).argmax()))
            raise rows.source.error("found missing pixels (NaN); give None for an image that is missing.", row)
        frames = rows.values.reshape(-1, *statistics["size"])
        return frames, rows.lengths if statistics["stacked"] else (rows.lengths > 0).astype(np.int64)


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
        if len(rows.tail) > 1:
            found = shape_text((int(rows.lengths[rows.row_of(0)]), *rows.tail))
            raise source.error(f"found shape {found}, expected one or two axes.", rows.row_of(0))
        matrix = rows.as_float().reshape(len(rows.values), -1 if rows.values.size else math.prod(rows.tail))
        if statistics is not None and not self._flagged(statistics) and np.isnan(matrix).any():
            row = rows.row_of(int(np.isnan(matrix).any(axis=1).argmax()))
            raise source.error("found missing values and there are no flags for them; set flag_missing=true.", row)
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


def _blank(frames: np.ndarray) -> np.ndarray:
    """(frames,) bool: no pixel differs from 0."""
    return np.asarray(~frames.any(axis=(1, 2, 3)))


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
