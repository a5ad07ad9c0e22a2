"""Serializers of pictures: images, depth maps, stacks of frames and videos, in any form they come in."""

from __future__ import annotations

import math
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from .rows import Rows, Source, Values, as_array, entries_of, is_arrow, read_rows, shape_text, some_rows
from .scaling import mean_and_deviation
from .serializers import (
    Elements,
    ElementShape,
    NumericSerializer,
    Statistics,
    check_choice,
    check_folder,
    check_pair,
    check_whole,
    group_steps,
)

# Weights of red, green and blue in the brightness of a pixel: ITU-R BT.601, as Pillow has them.
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class PictureSerializer(NumericSerializer):
    """What images and videos share: a grid of patches; one element is one patch.

    A picture is an array (height, width) or (height, width, colours), a PIL image, an encoded file (PNG, JPEG, ...) as
    bytes, its path, or an entry of `datasets.Image`. Pictures are turned the way their EXIF data says, extended with 0
    at the bottom and the right to a multiple of the patch, then scaled. All kinds of whole numbers and floats will do,
    16-bit depth maps too; those of a task are of one kind.

    Args:
        patch_size: height and width of a patch, or one number for both.
        scale: `"standardize"` (mean 0, deviation 1 over all pixels of the training split) or `"unit"` (0 to 1 over
            the range of the training split).
        num_colors: 1 turns colours into brightness, 3 turns grey into three equal colours and drops the transparency
            of a fourth. None takes pictures as they are.
        blank: `"flag"` adds a channel that is 1 in every patch of a frame without any pixel other than 0 (camera off);
            the frame's other channels are then 0, and it takes no part in the statistics.
        size: height and width that every picture is resized to (bilinear, antialiased), or one number for both. None
            keeps them as they are; those of a task must then have one size.
        folder: where relative paths start; None for the working directory.
    """

    patch_size: int | Sequence[int] = 4
    scale: Literal["standardize", "unit"] = "standardize"
    num_colors: int | None = None
    blank: Literal["flag"] | None = None
    size: int | Sequence[int] | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pair("patch_size", self.patch_size)
        check_choice("scale", self.scale, ("standardize", "unit"))
        check_choice("blank", self.blank, (None, "flag"))
        if self.num_colors is not None:
            check_whole("num_colors", self.num_colors, 1)
        if self.size is not None:
            check_pair("size", self.size)
        check_folder(self.folder)

    @property
    @abstractmethod
    def _stacks(self) -> bool:
        """True where a row may hold several frames."""

    def _check_axes(self, ndim: int, source: Source, rows: Rows) -> None:
        """Refuse rows that are no pictures, by their number of axes."""

    def _group_frames(self, values: np.ndarray, lengths: np.ndarray, fill: float) -> tuple[np.ndarray, np.ndarray]:
        """Frames, (frames, numbers), that go into one patch side by side; see `group_steps`."""
        return values, lengths

    def fit(self, values: Values, source: Source) -> Statistics:
        """Size of the pictures, and mean, deviation, smallest and largest pixel. See `Serializer.fit`."""
        values, source = some_rows(values, source, self._count)
        pictures = Pictures.read(self, values, source)
        rows = read_rows(pictures.values, source, None)
        if not len(rows.values):
            raise source.error("the training split holds no image.")
        ndim = 1 + len(rows.tail)
        self._check_axes(ndim, source, rows)
        stacked = self._stacks and (ndim == 4 or (ndim == 3 and self.num_colors in (None, 1)))
        sizes = rows.lengths[rows.lengths > 0]
        raw = list(rows.tail) if stacked else [int(sizes[0]), *rows.tail]
        if len(raw) not in (2, 3):
            raise source.error(
                f"found {ndim} axes, which num_axes={3 if self._stacks else 2} cannot hold.", rows.row_of(0)
            )
        statistics: Statistics = {
            "size": [raw[0], raw[1], raw[2] if len(raw) == 3 else 1],
            "ndim": ndim,
            "raw_ndim": pictures.ndim or ndim,
            "single": pictures.single,
            "stacked": stacked,
            "length": (int(sizes[0]) if (sizes == sizes[0]).all() else None) if stacked else 1,
            "longest": int(sizes.max()) if stacked else 1,
            "bits": pictures.bits,
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

        Channels run over the frames of a patch, within each over its pixels row by row, each pixel's colours together;
        then come the blank flags of the frames.
        """
        raw = statistics["size"][: statistics["ndim"] - statistics["stacked"]]
        pictures = Pictures.read(self, values, source, statistics.get("bits"))
        rows = read_rows(pictures.values, source, raw if statistics["stacked"] else raw[1:])
        frames, lengths = self._frames(rows, statistics)
        frames, lengths = self._cut(frames, lengths)
        blank = _blank(frames) if self.blank == "flag" else None
        patches = self._patches(self._scaled(frames, statistics))  # (frames, rows, columns, channels)
        grid, numbers = patches.shape[1:3], patches.shape[3]
        flat = patches.reshape(len(patches), math.prod(grid) * numbers)
        if blank is not None:
            flat = np.where(blank[:, None], np.float32(0), flat)
        flat, grouped = self._group_frames(flat, lengths, 0.0)
        group = flat.shape[1] // (math.prod(grid) * numbers)
        patches = flat.reshape(len(flat), group, *grid, numbers).transpose(0, 2, 3, 1, 4)
        patches = patches.reshape(len(flat), *grid, group * numbers)
        if blank is not None:
            flags, _ = self._group_frames(blank[:, None].astype(np.float32), lengths, 1.0)
            flags = np.broadcast_to(flags[:, None, None, :], (*patches.shape[:3], group))
            patches = np.concatenate([patches, flags], axis=-1)
        if not self._stacks:
            grouped, patches = grouped * grid[0], patches.reshape(len(flat) * grid[0], *patches.shape[2:])
        return self._elements(patches, grouped)

    def sample_ndim(self, statistics: Statistics) -> int:
        """Axes of one raw picture or stack, as in the training split."""
        return int(statistics["raw_ndim"] if "raw_ndim" in statistics else statistics["ndim"])

    def object_ndim(self, statistics: Statistics, value: Any, nested: bool) -> int:
        """A file or a PIL image is one sample; in a list it is one frame, where samples are lists of them."""
        stack_of_them = statistics["stacked"] and not statistics.get("single", False)
        return self.sample_ndim(statistics) - (nested and stack_of_them)

    def _count(self, values: Values, source: Source) -> int:
        """Numbers in a column of pictures."""
        return int(read_rows(Pictures.read(self, values, source).values, source).values.size)

    def _cut(self, frames: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return frames, lengths

    def _scaled(self, frames: np.ndarray, statistics: Statistics) -> np.ndarray:
        """(frames, height, width, colours) float32, extended to whole patches."""
        low = statistics["mean"] if self.scale == "standardize" else statistics["low"]
        width = statistics["deviation"] if self.scale == "standardize" else statistics["high"] - statistics["low"]
        tall, wide = check_pair("patch_size", self.patch_size)
        height, columns = -frames.shape[1] % tall, -frames.shape[2] % wide
        if height or columns:
            frames = np.pad(frames, ((0, 0), (0, height), (0, columns), (0, 0)))
        with np.errstate(over="ignore"):
            scaled = (frames - low) / (width if width > 0 else 1.0)
        bound = float(np.finfo(np.float32).max)
        return np.clip(scaled, *((0.0, 1.0) if self.scale == "unit" else (-bound, bound))).astype(np.float32)

    def _patches(self, frames: np.ndarray) -> np.ndarray:
        """(frames, rows of patches, columns of patches, numbers of a patch)."""
        tall, wide = check_pair("patch_size", self.patch_size)
        count, height, width, colors = frames.shape
        grid = (height // tall, width // wide)
        patches = frames.reshape(count, grid[0], tall, grid[1], wide, colors).transpose(0, 1, 3, 2, 4, 5)
        return patches.reshape(count, *grid, tall * wide * colors)

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

    def _grid(self, statistics: Statistics) -> tuple[tuple[int, int], int]:
        """Rows and columns of patches, and the numbers of one frame in a patch."""
        tall, wide = check_pair("patch_size", self.patch_size)
        height, width, colors = statistics["size"]
        return (-(-height // tall), -(-width // wide)), tall * wide * colors + (self.blank == "flag")


@dataclass(frozen=True)
class ImageSerializer(PictureSerializer):
    """Images and depth maps, one in a row, as a grid of patches: 28 x 28 and `patch_size=4` give (7, 7, 16).

    With three axes rows may also be stacks of pictures, (frames, height, width) or (frames, height, width, colours),
    whose number of frames may vary. Of a file with several frames the first one is read.

    Args:
        num_axes: 2 (rows x columns of patches) or 3 (frames x rows x columns; a single image is one frame).
        num_colors: 3 also tells a colour image (height, width, 3) from a stack where there are three axes.
    """

    kind: ClassVar[str] = "image"

    num_axes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("num_axes", self.num_axes, (2, 3))

    @property
    def _stacks(self) -> bool:
        return self.num_axes == 3

    def shape(self, statistics: Statistics) -> ElementShape:
        """(rows, columns) of patches, or (frames, rows, columns)."""
        grid, channels = self._grid(statistics)
        axes = grid if self.num_axes == 2 else (statistics["length"], *grid)
        return ElementShape(axes, self._width(channels), varies=statistics["stacked"])


@dataclass(frozen=True)
class VideoSerializer(PictureSerializer):
    """Videos as patches in space and time: (frames, rows, columns) of patches, each some frames deep.

    Rows are arrays (frames, height, width) or (frames, height, width, colours), lists of pictures, or one file with
    several frames (GIF, animated PNG or WebP, TIFF). Videos of one task may differ in their number of frames. For
    features of frames, (frames, channels), there is `time_series`.

    Args:
        patch_frames: consecutive frames that go into one patch; the last one is filled up with 0 (mean 0 or unit 0
            after scaling), and with 1 in the flags of `blank`.
        max_length: counted in frames; longer videos keep their first `max_length` frames.
    """

    kind: ClassVar[str] = "video"

    patch_frames: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("patch_frames", self.patch_frames, 1)

    @property
    def _stacks(self) -> bool:
        return True

    @property
    def position_length(self) -> int | None:
        """`max_length` in patches."""
        return None if self.max_length is None else -(-self.max_length // self.patch_frames)

    def _check_axes(self, ndim: int, source: Source, rows: Rows) -> None:
        if ndim == 2:
            row = rows.row_of(0)
            found = shape_text((int(rows.lengths[row]), *rows.tail))
            raise source.error(
                f"found shape {found}, expected frames x height x width; features of frames: use kind time_series.",
                row,
            )

    def _group_frames(self, values: np.ndarray, lengths: np.ndarray, fill: float) -> tuple[np.ndarray, np.ndarray]:
        return group_steps(values, lengths, self.patch_frames, fill)

    def _cut(self, frames: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.max_length is None or lengths.max(initial=0) <= self.max_length:
            return frames, lengths
        place = np.arange(len(frames)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return frames[place < self.max_length], np.minimum(lengths, self.max_length)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(frames, rows, columns) of patches of `patch_frames * pixels * colours` channels and as many blank flags."""
        grid, channels = self._grid(statistics)
        length = statistics["length"]
        if length is not None:
            length = -(-min(length, self.max_length or length) // self.patch_frames)
        return ElementShape((length, *grid), self._width(channels * self.patch_frames), varies=statistics["stacked"])


@dataclass(frozen=True)
class Pictures:
    """A column of pictures, read.

    Args:
        values: what `read_rows` takes: arrays, (height, width[, colours]) or stacks of such, None where absent.
        ndim: axes of a raw row that came as an array; None where all are files or PIL images.
        single: True where every row is one file or PIL image.
        bits: of a pixel of the files and PIL images, 8, 16 (or more) or, of floats, 32; None where there are none.
    """

    values: Any
    ndim: int | None
    single: bool
    bits: int | None = None

    @classmethod
    def read(cls, options: PictureSerializer, values: Values, source: Source, bits: int | None = None) -> Pictures:
        """Decode, recolour and resize a column as the options say.

        Args:
            options: the serializer.
            values, source: the column.
            bits: of a pixel of the training split's pictures; None where that is not known.

        Raises:
            ValueError: an entry is no picture, or one of other bits; the message names the row.
        """
        if is_arrow(values):
            from .arrow import objects_of_column

            values = objects_of_column(values)
        plain = is_arrow(values) or isinstance(values, np.ndarray)
        if plain and options.size is None and options.num_colors is None:
            return cls(values, None, False)
        values = entries_of(values)
        single = bool(len(values))
        ndim: int | None = None
        decoded: list[Any] = []
        for row, value in enumerate(values):
            if value is None:
                decoded.append(None)
                continue
            if not is_picture(value):
                single = False
            pixels, found, depths = _pixels(options, value, source, row)
            ndim = ndim or found
            for depth in depths:
                bits = bits or depth
                if depth != bits:
                    raise source.error(
                        f"found pixels of {depth} bits, expected {bits} as in the others; pictures of another depth "
                        "are on another scale.",
                        row,
                    )
            decoded.append(pixels)
        return cls(decoded, ndim, single, bits)


def is_picture(value: Any) -> bool:
    """True for a PIL image and for what `decode_picture` opens."""
    return hasattr(value, "convert") or isinstance(value, (str, bytes, os.PathLike, Mapping))


def decode_picture(
    value: Any, source: Source, row: int, folder: str | None = None, frames: bool = False
) -> np.ndarray:
    """Pixels of a PIL image, an encoded file (bytes or path) or an entry of `datasets.Image`.

    Args:
        value: the picture.
        source, row: where it comes from.
        folder: where relative paths start.
        frames: True reads every frame of the file, False the first.

    Returns:
        (height, width) or (height, width, colours), with `frames` (frames, height, width[, colours]). Palettes and
        colour spaces other than RGB become RGB, black and white 0 and 255; 16-bit and float pictures keep their
        values.

    Raises:
        ValueError: it cannot be read; the message names the row.
    """
    if hasattr(value, "convert"):
        found = [value]
    else:
        found = _open(value, source, row, folder, frames)
    arrays = []
    for image in found:
        if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        elif image.mode == "1":
            image = image.convert("L")
        arrays.append(np.asarray(image))
    return np.stack(arrays) if frames else arrays[0]


def _open(value: Any, source: Source, row: int, folder: str | None, frames: bool) -> list[Any]:
    try:
        from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("Reading image files needs Pillow: pip install pillow") from error

    content = file_content(value, source, row, folder, "image")
    try:
        with Image.open(content) as image:
            pages = ImageSequence.Iterator(image) if frames else [image]
            return [ImageOps.exif_transpose(page).copy() for page in pages]
    except UnidentifiedImageError as error:  # its own message has an address in memory
        raise source.error("the image cannot be read: it is cut, or in no format that Pillow knows.", row) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = re.sub(r" ?<_io\.BytesIO object at \w+>", "", str(error))  # an address says nothing
        raise source.error(f"the image cannot be read: {reason}.", row) from error


def file_content(value: Any, source: Source, row: int, folder: str | None, what: str) -> Any:
    """A file's path or its bytes as a stream, from bytes, a path or `{"bytes", "path"}`.

    Raises:
        ValueError: something else, or a file that is not there; the message names the row.
    """
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & set(value):
            raise source.error(f"found a structure of {', '.join(map(str, value))}, expected an {what}.", row)
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return BytesIO(value)
    if not isinstance(value, (str, os.PathLike)):
        raise source.error(f"found {type(value).__name__}, expected an {what}.", row)
    path = Path(folder or "") / value
    if not path.is_file():
        raise source.error(f"there is no {what} file {path}.", row)
    return path


def recolored(pixels: np.ndarray, num_colors: int, stacked: bool) -> np.ndarray:
    """Pictures with 1 or 3 colours from such with 1 to 4, (..., height, width[, colours]); others unchanged.

    Args:
        pixels: grey pictures have no colour axis, or one of size 1.
        num_colors: how many colours to have.
        stacked: True where an axis of frames comes first.
    """
    has_colors = pixels.ndim == 3 + stacked
    found = pixels.shape[-1] if has_colors else 1
    if found == num_colors:
        return pixels
    if num_colors == 3 and found in (1, 2):
        grey = pixels[..., 0] if has_colors else pixels
        return np.stack([grey, grey, grey], axis=-1)
    if num_colors == 3 and found == 4:
        return pixels[..., :3]
    if num_colors == 1 and found == 2:
        return pixels[..., 0]
    if num_colors == 1 and found in (3, 4):
        return (pixels[..., :3] @ LUMA).astype(np.float32)
    return pixels


def resized(pixels: np.ndarray, size: tuple[int, int], stacked: bool) -> np.ndarray:
    """Pictures of another height and width, (..., height, width[, colours]), bilinear and antialiased.

    Eight-bit pictures stay eight-bit; all others become float32.
    """
    if pixels.shape[stacked : stacked + 2] == size:
        return pixels
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Resizing images needs Pillow: pip install pillow") from error

    if stacked:
        return np.stack([resized(frame, size, False) for frame in pixels])
    if pixels.ndim == 3:
        return np.stack([resized(pixels[..., color], size, False) for color in range(pixels.shape[2])], axis=-1)
    plane = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _pixels(options: PictureSerializer, value: Any, source: Source, row: int) -> tuple[Any, int | None, list[int]]:
    """A row as an array, the axes that it came with, None where it was a file or PIL image, and the bits of these."""
    ndim = None
    bits: list[int] = []
    if is_picture(value):
        pixels = decode_picture(value, source, row, options.folder, options._stacks)
        stacked, bits = options._stacks, [_bits(pixels)]
    elif isinstance(value, (list, tuple)) and value and all(is_picture(item) for item in value):
        if not options._stacks:
            raise source.error(f"found a list of {len(value)} pictures, expected one; stacks need num_axes=3.", row)
        parts = [decode_picture(item, source, row, options.folder) for item in value]
        bits = [_bits(part) for part in parts]
        parts = [_adapted(options, part, False, source, row) for part in parts]
        if len({part.shape for part in parts}) > 1:
            raise source.error("the frames differ in size or colours; give size and num_colors.", row)
        pixels, stacked = np.stack(parts), True
    else:
        pixels = as_array(value, source, row)
        ndim = pixels.ndim
        stacked = options._stacks and (ndim == 4 or (ndim == 3 and options.num_colors in (None, 1)))
    return _adapted(options, pixels, stacked, source, row), ndim, bits


def _bits(pixels: np.ndarray) -> int:
    """Of a pixel as Pillow decodes it: 8, 16 for larger whole numbers, 32 for floats."""
    return 32 if pixels.dtype.kind == "f" else 8 if pixels.dtype.itemsize == 1 else 16


def _adapted(options: PictureSerializer, pixels: np.ndarray, stacked: bool, source: Source, row: int) -> np.ndarray:
    if pixels.ndim not in (2 + stacked, 3 + stacked):
        return pixels  # `read_rows` says what is wrong with it
    if options.num_colors is not None:
        pixels = recolored(pixels, options.num_colors, stacked)
    if options.size is not None and pixels.size:
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise source.error("found infinite or missing pixels (NaN), which cannot be resized.", row)
        pixels = resized(pixels, check_pair("size", options.size), stacked)
    return pixels


def _blank(frames: np.ndarray) -> np.ndarray:
    """(frames,) bool: no pixel differs from 0."""
    return np.asarray(~frames.any(axis=(1, 2, 3)))
