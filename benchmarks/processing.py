"""Raw samples to padded batches: samples per second for every kind, with two workers, against the plain loop.

The plain loop is what one writes first: a `DataLoader` whose workers decode and serialize one row at a time, in every
epoch again. Ours encodes the split once, in as many processes, and collates Arrow rows in this process. Both give the
same numbers, which is checked first. Then: how long fitting and encoding takes in a second run, which finds both in
the cache of `datasets`, against the first.

    python benchmarks/processing.py [--rows 4000] [--workers 2] [--kinds image audio ...]
"""

from __future__ import annotations

import functools
import io
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import scipy.io.wavfile
import torch
from datasets import Dataset, load_dataset
from measuring import Spread, interleave, parser, ratio, save, show, start
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from highmmt.processing import HighMMTProcessor

BATCH_SIZE = 40
WORDS = [f"word{index}" for index in range(500)]
OPTIONS: dict[str, dict[str, Any]] = {
    "image": {"patch_size": 4},
    "video": {"patch_size": 8, "patch_frames": 2},
    "audio": {
        "sample_rate_hz": 8000,
        "window_seconds": 0.032,
        "hop_seconds": 0.004,
        "num_mels": 112,
        "max_length": 112,
        "fill": "silence",
        "patch_size": 16,
    },
    "spectrum": {"clip": None},
    "table": {"clip": None},
    "time_series": {"clip": None},
    "set": {"clip": None},
    "graph": {"clip": None},
    "text": {},
    "word_vectors": {},  # and the file of `vectors_file`
}
Statistics = dict[str, Any]


@functools.cache
def vectors_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is there as long as this process."""
    return tempfile.TemporaryDirectory()


@functools.cache
def vectors_file() -> Path:
    """Every word with 300 numbers, as the files of GloVe have them."""
    numbers = np.random.default_rng(0).normal(size=(len(WORDS), 300))
    lines = [
        f"{word} {' '.join(f'{number:.4f}' for number in row)}\n" for word, row in zip(WORDS, numbers, strict=True)
    ]
    path = Path(vectors_folder().name) / "words.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def png(pixels: np.ndarray) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def wav(waveform: np.ndarray) -> bytes:
    """A recording at 8 kHz as the bytes of a file."""
    stream = io.BytesIO()
    scipy.io.wavfile.write(stream, 8000, (waveform * 3000).astype(np.int16))
    return stream.getvalue()


def sample(kind: str, rng: np.random.Generator) -> Any:
    """A raw row, of the size that the paper's datasets have."""
    if kind == "image":
        return png(rng.integers(0, 256, (28, 28)).astype(np.uint8))
    if kind == "video":
        return [png(frame) for frame in rng.integers(0, 256, (8, 32, 32)).astype(np.uint8)]
    if kind == "audio":
        return wav(rng.normal(size=rng.integers(2000, 5000)))
    if kind == "spectrum":
        return rng.normal(size=76).tolist()
    if kind == "table":
        numbers = {f"number{index}": None if rng.random() < 0.1 else rng.normal() for index in range(10)}
        return {**numbers, "ward": str(rng.integers(5)), "unit": str(rng.integers(8))}
    if kind in ("time_series", "set"):
        values = rng.normal(size=(rng.integers(8, 24), 12))
        values[rng.random(values.shape) < 0.1] = np.nan
        return values.tolist()
    if kind == "graph":
        nodes = int(rng.integers(10, 25))
        return {"nodes": rng.normal(size=(nodes, 8)).tolist(), "edges": rng.integers(0, nodes, (30, 2)).tolist()}
    return " ".join(rng.choice(WORDS, int(rng.integers(10, 30))))


# The plain loop: one row at a time, with the statistics that ours fitted


def plain_patches(values: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """(rows, columns, numbers) of patches."""
    rows, columns = values.shape[0] // tall, values.shape[1] // wide
    out = np.zeros((rows, columns, tall * wide), np.float32)
    for row in range(rows):
        for column in range(columns):
            patch = values[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            out[row, column] = patch.reshape(-1)
    return out


def plain_image(row: bytes, known: Statistics) -> np.ndarray:
    """Decode, standardise, cut into patches."""
    pixels = np.asarray(Image.open(io.BytesIO(row)), dtype=np.float32)
    return plain_patches((pixels - known["mean"]) / known["deviation"], 4, 4)


def plain_video(row: list[bytes], known: Statistics) -> np.ndarray:
    """The same for every frame; two frames to a patch."""
    frames = []
    for item in row:
        pixels = np.asarray(Image.open(io.BytesIO(item)), dtype=np.float32)
        frames.append(plain_patches((pixels - known["mean"]) / known["deviation"], 8, 8))
    return np.stack([np.concatenate(frames[index : index + 2], axis=-1) for index in range(0, len(frames), 2)])


def plain_audio(row: bytes, known: Statistics) -> np.ndarray:
    """transformers' spectrogram of one recording, filled up with silence."""
    _, samples = scipy.io.wavfile.read(io.BytesIO(row))
    window, hop, frames = 256, 32, 112
    waveform = (samples / 32768)[: window + (frames - 1) * hop]
    count = max(0, math.ceil((len(waveform) - window) / hop)) + 1
    waveform = np.pad(waveform, (0, window + (count - 1) * hop - len(waveform)))
    mel = spectrogram(
        waveform,
        window_function(window, "hann"),
        window,
        hop,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=mel_filter_bank(257, 112, 0.0, 4000.0, 8000),
        mel_floor=1e-10,
        log_mel="log10",
    ).T
    mel = np.pad(mel, ((0, frames - len(mel)), (0, 0)), constant_values=-10.0)
    return plain_patches((mel - known["mean"]) / known["deviation"], 16, 16)


def plain_vector(row: Any, known: Statistics) -> np.ndarray:
    """Numbers scaled, missing ones 0, with flags where the training split has missing ones."""
    values = np.asarray(row, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    center, scale = np.array(known["center"]), np.array(known["scale"])
    if len(center) != values.shape[1]:  # a spectrum, each number with a scale of its own
        center, scale = center[:, None], scale[:, None]
    missing = np.isnan(values)
    scaled = np.where(missing, 0.0, (values - center) / scale)
    parts = [scaled, missing.astype(np.float64)] if known["missing"] else [scaled]
    return np.concatenate(parts, axis=1).astype(np.float32)


def plain_table(row: dict[str, Any], known: Statistics) -> np.ndarray:
    """Value, missing flag, unknown category, categories."""
    width = 3 + max(len(items) for items in known["categories"].values())
    out = np.zeros((len(row), width), np.float32)
    for index, value in enumerate(row.values()):
        if value is None:
            out[index, 1] = 1.0
        elif str(index) in known["categories"]:
            items = known["categories"][str(index)]
            out[index, 3 + items.index(value) if value in items else 2] = 1.0
        else:
            out[index, 0] = (value - known["center"][index]) / known["scale"][index]
    return out


def plain_graph(row: dict[str, Any], known: Statistics) -> np.ndarray:
    """Scaled nodes, log degrees, eight steps of random walks."""
    nodes = plain_vector(row["nodes"], known)
    step = np.zeros((len(nodes), len(nodes)))
    for first, second in row["edges"]:
        step[first, second] += 1
        if first != second:
            step[second, first] += 1
    degrees = step.sum(axis=1)
    step /= np.maximum(degrees, 1)[:, None]
    channels, walk = [np.log1p(degrees)], np.eye(len(nodes))
    for _ in range(8):
        walk = walk @ step
        channels.append(walk.diagonal())
    return np.concatenate([nodes, np.stack(channels, axis=1)], axis=1).astype(np.float32)


@functools.cache
def plain_dictionary() -> dict[str, np.ndarray]:
    """Every word of the file and its numbers."""
    lines = (line.split() for line in vectors_file().read_text(encoding="utf-8").splitlines())
    return {word: np.array(numbers, dtype=np.float32) for word, *numbers in lines}


def plain_words(row: str, known: Statistics) -> np.ndarray:
    """The numbers of each word, then a flag for words that are not in the file."""
    words = plain_dictionary()
    found = [words.get(word) for word in row.lower().split()]
    nothing = np.zeros(known["width"], np.float32)
    return np.stack([np.append(nothing, 1) if item is None else np.append(item, 0) for item in found]).astype(
        np.float32
    )


PLAIN: dict[str, Callable[[Any, Statistics], np.ndarray]] = {
    "image": plain_image,
    "video": plain_video,
    "audio": plain_audio,
    "spectrum": plain_vector,
    "table": plain_table,
    "time_series": plain_vector,
    "set": plain_vector,
    "graph": plain_graph,
    "word_vectors": plain_words,
}


class PlainRows(torch.utils.data.Dataset[Tensor]):
    """Rows that are serialized when they are asked for."""

    def __init__(self, rows: Dataset, kind: str, processor: HighMMTProcessor) -> None:
        self.rows = rows
        if kind == "text":
            tokenizer = processor.tokenizer
            self.serialize: Callable[[Any], Any] = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            self.serialize = partial(PLAIN[kind], known=processor.statistics[f"one/{kind}"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return torch.as_tensor(self.serialize(self.rows[index]["sample"]))


def plain_epoch(rows: PlainRows, workers: int) -> list[Tensor]:
    """One epoch of the plain loop: padded batches."""
    pad = partial(pad_sequence, batch_first=True)
    return list(DataLoader(rows, batch_size=BATCH_SIZE, collate_fn=pad, num_workers=workers))


def our_epoch(processor: HighMMTProcessor, kind: str, encoded: Dataset) -> list[Tensor]:
    """One epoch of ours, once the rows are encoded."""
    table = encoded.with_format("arrow")
    starts = range(0, len(encoded), BATCH_SIZE)
    return [processor.collate("one", table[i : i + BATCH_SIZE])["inputs"]["one"][kind] for i in starts]


def new_processor(kind: str) -> HighMMTProcessor:
    """A processor for one task with one modality."""
    more = {"vectors": str(vectors_file())} if kind == "word_vectors" else {}
    return HighMMTProcessor(
        {kind: {"kind": kind, **OPTIONS[kind], **more}},
        {"one": {"modalities": {kind: {"column": "sample"}}, "target": {"column": "label"}}},
    )


def write_rows(kind: str, num_rows: int, folder: Path) -> Path:
    """Samples of a kind as a Parquet file."""
    rng = np.random.default_rng(0)
    rows = {"sample": [sample(kind, rng) for _ in range(num_rows)], "label": [0, 1] * (num_rows // 2)}
    Dataset.from_dict(rows).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def load_rows(path: Path, cache: str) -> Dataset:
    """The rows of a Parquet file."""
    return load_dataset("parquet", data_files=str(path), cache_dir=cache, split="train")


def measure(kind: str, num_rows: int, workers: int, repeats: int) -> dict[str, Any]:
    """Seconds of an epoch, the plain way and ours: the first one, which encodes, and all later ones.

    Raises:
        SystemExit: the two do not give the same numbers.
    """
    rng = np.random.default_rng(0)
    rows = Dataset.from_dict(
        {"sample": [sample(kind, rng) for _ in range(num_rows)], "label": [0, 1] * (num_rows // 2)}
    )
    processor = new_processor(kind)
    processor.fit("one", rows)
    plain = PlainRows(rows, kind, processor)
    encoded = processor.encode("one", rows)
    for ours, theirs in zip(our_epoch(processor, kind, encoded), plain_epoch(plain, 0), strict=True):
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs.to(ours.dtype), atol=1e-3):
            raise SystemExit(f"{kind}: ours and the plain loop disagree. Nothing was timed.")

    def first_epoch(processes: int | None) -> list[Tensor]:
        return our_epoch(processor, kind, processor.encode("one", rows, num_proc=processes))

    contenders = {
        "plain": partial(plain_epoch, plain, workers),
        "first": partial(first_epoch, workers),
        "first, one process": partial(first_epoch, None),
        "later": partial(our_epoch, processor, kind, encoded),
    }
    seconds = interleave(contenders, repeats, kind, warm_up=1)
    return {
        "seconds": seconds,
        "samples_per_second": {name: num_rows / Spread.of(values).median for name, values in seconds.items()},
        "faster_by": {name: vars(ratio(seconds["plain"], seconds[name])) for name in seconds if name != "plain"},
    }


def second_run(kind: str, num_rows: int) -> dict[str, float]:
    """Seconds of loading, fitting and encoding a Parquet file, for the first time and again."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(kind, num_rows, Path(folder))
        for run in ("first", "second"):
            started = time.perf_counter()
            loaded = load_rows(path, folder)
            processor = new_processor(kind)
            processor.fit("one", loaded)
            processor.encode("one", loaded)
            seconds[run] = time.perf_counter() - started
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--rows", type=int, default=4000, help="rows of each kind (default: 4000)")
    options.add_argument("--workers", type=int, default=2, help="processes that encode, and of the DataLoader (2)")
    options.add_argument("--kinds", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), help="default: all")
    args = options.parse_args(arguments)
    start(args)
    datasets.disable_progress_bars()
    num_rows = 44 if args.smoke else 2 * max(args.rows // 2, 1)
    results: dict[str, Any] = {"rows": num_rows, "workers": args.workers, "kinds": {}, "second_run": {}}
    for kind in args.kinds:
        datasets.enable_caching()
        results["second_run"][kind] = second_run(kind, num_rows)
        datasets.disable_caching()  # a first epoch is one that finds nothing
        results["kinds"][kind] = measure(kind, num_rows, args.workers, args.repeats)
    datasets.enable_caching()
    table = []
    for kind, values in results["kinds"].items():
        rate = f"{values['samples_per_second']['plain']:,.0f}"
        faster = [Spread(**spread).text() for spread in values["faster_by"].values()]
        again = results["second_run"][kind]
        table.append([kind, rate, *faster, f"{again['second'] / again['first']:.0%}"])
    columns = ["kind", "plain, samples/s", "first epoch", "first, one process", "later epochs", "second run takes"]
    show(f"Raw rows to batches, {args.workers} workers: how many times as fast as the plain loop", columns, table)
    save(args, results)


if __name__ == "__main__":
    main()
