"""A picture of one sample: each modality as it was given and as the model reads it."""

from __future__ import annotations

import dataclasses
import io
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset

from ..processing import HighMMTProcessor
from ..processing.audio import AudioSerializer, read_recording
from ..processing.images import Pictures, PictureSerializer
from ..processing.rows import Source
from ..processing.serializers import check_pair

MAX_FRAMES = 6  # of a film; those between are left out
MAX_ROWS = 12  # of a table or a list of tokens
MAX_LINES = 6  # of a series
INK, GRID, PAPER = "#1b2f6b", "#9aa7b5", "#f4f8e9"


def draw_sample(processor: HighMMTProcessor, rows: Dataset, task: str, row: int = 0) -> bytes:
    """PNG of a row of raw data, one line for each modality: on the left as given, on the right its elements.

    Elements on more than one axis are patches and stand where they were; all others are the rows of a heat map, one
    column for each channel, red above 0 and blue below. Token ids are listed with their tokens.

    Args:
        processor: fitted.
        rows: a raw split of the task.
        task: name of the task.
        row: which row.

    Raises:
        IndexError: there is no such row.
        ValueError: the row cannot be encoded.
    """
    if not 0 <= row < len(rows):
        raise IndexError(f"Task {task!r}: there is no row {row}; rows are 0 to {len(rows) - 1}.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    one = rows.select([row])
    raw = one.with_format("arrow")[:]
    batch = processor.collate(task, processor.encode(task, one, with_labels=False).with_format("arrow")[:])
    entries = processor.tasks[task]["modalities"]
    with rc_context({"font.size": 8.0}):
        figure = Figure(figsize=(9.5, 2.6 * len(entries)), layout="constrained")
        axes = figure.subplots(len(entries), 2, squeeze=False)
        for (modality, entry), (before, after) in zip(entries.items(), axes, strict=True):
            names = entry.get("columns", [entry.get("column")])
            values = [raw[name].to_pylist()[0] for name in names]
            elements = batch["inputs"][task][modality][0].numpy()
            mask = batch["attention_mask"][task].get(modality)
            serializer = processor.serializer(task, modality)
            keys = ("nodes", "edges") if serializer.kind == "graph" else names
            value: Any = dict(zip(keys, values, strict=True)) if "columns" in entry else values[0]
            if mask is not None and not mask[0].any():
                for panel in (before, after):
                    _write(panel, "absent")
            else:
                _RAW[serializer.kind](before, value, serializer, Source(task, str(names[0]), modality, row))
                _draw_elements(after, elements, serializer, processor)
            shape = " x ".join(map(str, elements.shape)) + ("" if elements.dtype.kind == "f" else ", token ids")
            before.set_title(f"{modality} ({serializer.kind}), row {row}", loc="left", color=INK)
            after.set_title(f"as the model reads it: {shape}", loc="left", color=INK)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


# As given


def _draw_picture(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    # Frames in files of their own may differ in size, and then stand side by side only once they are resized.
    own_size = serializer if isinstance(value, list) else dataclasses.replace(serializer, size=None)
    pixels = np.asarray(Pictures.read(own_size, [value], source).values[0])
    if pixels.ndim == 2 or (pixels.ndim == 3 and not serializer._stacks):
        _show(panel, pixels)
    else:
        frames = pixels if pixels.ndim == 4 or serializer.num_colors in (None, 1) else pixels[None]
        chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)
        gap = np.full((frames.shape[1], max(1, frames.shape[2] // 16), *frames.shape[3:]), frames.max())
        strip = [part for index in chosen for part in (frames[index], gap)][:-1]
        _show(panel, np.concatenate(strip, axis=1))
        panel.set_xlabel(f"frames {', '.join(map(str, chosen))} of {len(frames)}")


def _draw_recording(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    waveform, rate = read_recording(value, source, 0, serializer.rate_hz, serializer.folder)
    panel.plot(np.arange(len(waveform)) / rate, waveform, color=INK, linewidth=0.5)
    panel.set_xlabel(f"seconds, {rate} Hz")


def _draw_series(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    numbers = np.asarray(value, dtype=np.float64)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    shown = min(numbers.shape[1], MAX_LINES)
    panel.plot(numbers[:, :shown], linewidth=1.0, marker="." if len(numbers) < 40 else "")
    panel.set_xlabel(
        ("number" if serializer.kind == "spectrum" else "step")
        + (f"; first {shown} of {numbers.shape[1]} channels" if shown < numbers.shape[1] else "")
    )


def _draw_set(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    numbers = np.asarray(value, dtype=np.float64)
    if not numbers.size:
        _write(panel, "empty")
        return
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    lines = [" ".join(f"{number:>7.4g}" for number in element[:8]) for element in numbers]
    _list(panel, lines, "channels side by side" + (", the first 8" if numbers.shape[1] > 8 else ""))


def _draw_row(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    _list(panel, [f"{name}: {item:.4g}" if isinstance(item, float) else f"{name}: {item}" for name, item in pairs])


def _draw_text(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    _write(panel, "\n".join(textwrap.wrap(str(value), 60)[:12]))


def _draw_graph(panel: Any, value: Any, serializer: Any, source: Source) -> None:
    count = len(value["nodes"])
    angles = 2 * np.pi * np.arange(count) / max(count, 1)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for edge in value["edges"] or []:
        ends = places[np.asarray(edge, dtype=np.int64)]
        panel.plot(ends[:, 0], ends[:, 1], color=GRID, linewidth=1.0, zorder=1)
    panel.scatter(places[:, 0], places[:, 1], s=60, color=INK, zorder=2)
    if count <= 40:
        for index, (x, y) in enumerate(places):
            panel.annotate(str(index), (1.22 * x, 1.22 * y), ha="center", va="center", color=INK)
    panel.set(aspect="equal", xticks=[], yticks=[], xlim=(-1.4, 1.4), ylim=(-1.4, 1.4))


_RAW: dict[str, Callable[[Any, Any, Any, Source], None]] = {
    "image": _draw_picture,
    "video": _draw_picture,
    "audio": _draw_recording,
    "spectrum": _draw_series,
    "table": _draw_row,
    "time_series": _draw_series,
    "set": _draw_set,
    "graph": _draw_graph,
    "text": _draw_text,
    "word_vectors": _draw_text,
}


# As elements


def _draw_elements(panel: Any, elements: np.ndarray, serializer: Any, processor: HighMMTProcessor) -> None:
    if elements.dtype.kind != "f":
        tokenizer = processor.tokenizer if serializer.kind == "text" else None
        words = [str(item) if tokenizer is None else tokenizer.convert_ids_to_tokens(int(item)) for item in elements]
        _list(panel, [f"{item:>5}  {word}" for item, word in zip(elements, words, strict=True)])
    elif isinstance(serializer, PictureSerializer) and elements.ndim >= 3:
        _draw_patches(panel, elements, serializer)
    elif isinstance(serializer, AudioSerializer):
        deep, wide = check_pair("patch_size", serializer.patch_size or (1, serializer.num_mels))
        grid = elements if elements.ndim == 3 else elements[:, None]
        _show(panel, _mosaic(grid, deep, wide).T[::-1])
        panel.set_xlabel("time; mel bands from low to high")
    else:
        flat = elements.reshape(-1, elements.shape[-1]) if elements.ndim < 3 else elements[..., 0]
        limit = float(np.abs(flat).max()) or 1.0
        image = panel.imshow(flat, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        panel.figure.colorbar(image, ax=panel, shrink=0.8)
        panel.set(xlabel="channel", ylabel="element")
        for axis, size in ((panel.xaxis, flat.shape[1]), (panel.yaxis, flat.shape[0])):
            axis.set_major_locator(_whole_numbers(size))


def _draw_patches(panel: Any, elements: np.ndarray, serializer: Any) -> None:
    tall, wide = check_pair("patch_size", serializer.patch_size)
    stacks = elements if elements.ndim == 4 else elements[None]
    chosen = np.linspace(0, len(stacks) - 1, min(len(stacks), MAX_FRAMES)).round().astype(int)
    size = tall * wide
    parts = []
    for index in chosen:
        patches = stacks[index]
        colors = 3 if patches.shape[-1] >= 3 * size and serializer.num_colors == 3 else 1
        grey = patches[..., : size * colors].reshape(*patches.shape[:2], size, colors).mean(axis=-1)
        parts.append(_mosaic(grey, tall, wide))
    gap = np.full((parts[0].shape[0], 3), np.nan)
    _show(panel, np.concatenate([part for item in parts for part in (item, gap)][:-1], axis=1))
    if len(stacks) > 1:
        panel.set_xlabel(f"patches of time {', '.join(map(str, chosen))} of {len(stacks)}, the first frame of each")


def _mosaic(grid: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """(rows, columns, numbers) of patches as one picture, with gaps of NaN between them."""
    rows, columns = grid.shape[:2]
    gap = 1 if min(tall, wide) > 1 else 0
    out = np.full((rows * (tall + gap) - gap, columns * (wide + gap) - gap), np.nan)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (tall + gap), column * (wide + gap)
            out[top : top + tall, left : left + wide] = grid[row, column, : tall * wide].reshape(tall, wide)
    return out


# Pieces


def _show(panel: Any, pixels: np.ndarray) -> None:
    """A grey or colour picture without axes."""
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.dtype != np.uint8:
        pixels = (pixels - pixels.min()) / (float(np.ptp(pixels)) or 1.0)
    panel.imshow(pixels, cmap="gray", interpolation="nearest")
    panel.set(xticks=[], yticks=[], facecolor=PAPER)


def _write(panel: Any, text: str) -> None:
    panel.text(0.02, 0.96, text, transform=panel.transAxes, va="top", family="monospace", parse_math=False)
    panel.set(xticks=[], yticks=[])


def _list(panel: Any, lines: list[str], note: str = "") -> None:
    shown = [line if len(line) <= 64 else f"{line[:61]}..." for line in lines[:MAX_ROWS]]
    more = [f"... {len(lines) - MAX_ROWS} more"] if len(lines) > MAX_ROWS else []
    _write(panel, "\n".join([*shown, *more]))
    panel.set_xlabel(note)


def _whole_numbers(size: int) -> Any:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    return FixedLocator(range(size)) if size <= 8 else MaxNLocator(6, integer=True)


__all__ = ["draw_sample"]
