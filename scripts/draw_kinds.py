"""Draw docs/images/kind-*.png: a made-up sample of every kind, as given and as the model reads it.

    python scripts/draw_kinds.py

The same samples give the same pictures, up to the version of matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset

from highmmt.analysis import draw_sample
from highmmt.configuration.files import write_bytes
from highmmt.processing import HighMMTProcessor

RATE = 8000
OPTIONS: dict[str, dict[str, Any]] = {
    "image": {"patch_size": 8, "num_colors": 3},
    "video": {"patch_size": 8, "patch_frames": 2},
    "audio": {"sample_rate_hz": RATE, "num_mels": 48, "patch_size": 8},
    "spectrum": {"patch_size": 4},
    "table": {},
    "time_series": {},
    "set": {},
    "graph": {"walk_length": 4, "neighbours": True},
    "text": {"min_frequency": 1},
    "depth": {"patch_size": 8},
    "force": {},
    "word_vectors": {},
}


def samples(rng: np.random.Generator) -> dict[str, Any]:
    """One sample of each kind."""
    rows, columns = np.mgrid[0:48, 0:64]
    disc = (rows - 24) ** 2 + (columns - 30) ** 2 < 200
    image = np.stack([columns * 4, rows * 5, np.where(disc, 255, 40)], axis=-1)
    film = [((rows[:32, :32] - 16) ** 2 + (columns[:32, :32] - 4 - 4 * frame) ** 2 < 20) * 200 for frame in range(8)]
    time = np.arange(RATE) / RATE
    sweep = 0.6 * np.sin(2 * np.pi * (300 * time + 900 * time**2)) * np.exp(-2 * time)
    steps = np.arange(24)[:, None]
    series = np.sin(steps / [3.0, 5.0]) * [10, 3] + [70, 16] + rng.normal(size=(24, 2))
    series[8:12, 1] = np.nan
    ring = [[index, (index + 1) % 6] for index in range(6)]
    return {
        "image": image.astype(np.uint8).tolist(),
        "video": [frame.tolist() for frame in film],
        "audio": {"array": sweep.tolist(), "sampling_rate": RATE},
        "spectrum": (np.exp(-((np.arange(40) - 12) ** 2) / 20) + rng.random(40) / 10).tolist(),
        "table": {"age": 71.0, "ward": "east", "weight": None, "smoker": 1.0},
        "time_series": series.tolist(),
        "set": np.round(rng.normal(50, 20, (5, 3)), 1).tolist(),
        "graph": {
            "nodes": [[float(index == 0), float(index > 5)] for index in range(8)],
            "edges": [*ring, [2, 6], [6, 7]],
        },
        "text": "Short of breath since the morning, tired, no pain.",
        "word_vectors": "Short of breath since the morning, tired, no pain.",
        "depth": np.where(disc, 900, 1500 + 40 * rows).astype(np.uint16).tolist(),
        "force": (np.cos(steps / [3, 4, 5, 6, 7, 8]) * [5, 2, 9, 0.3, 0.2, 0.1]).tolist(),
    }


def write_words(folder: Path, text: str, rng: np.random.Generator) -> Path:
    """Sixteen made-up numbers for most words of a text, in the form of GloVe."""
    words = text.lower().replace(",", "").rstrip(".").split()[:-1]
    lines = [" ".join([word, *(f"{number:.3f}" for number in rng.normal(size=16))]) for word in words]
    (folder / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder / "words.txt"


def others(kind: str, sample: Any) -> list[Any]:
    """Other rows of the training split, so that there is something to scale by."""
    if kind == "table":
        return [{"age": 35.0, "ward": "west", "weight": 80.0, "smoker": 0.0}]
    if kind in ("spectrum", "set", "time_series", "force"):
        numbers = np.nan_to_num(np.asarray(sample, dtype=np.float64))
        return [(np.roll(numbers, shift, axis=0) * (1 - shift / 50)).tolist() for shift in (10, 3, 6, 14, 20)]
    return [sample]


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "images")
    folder = parser.parse_args().output_dir
    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    made = samples(rng)
    with tempfile.TemporaryDirectory() as words:
        OPTIONS["word_vectors"]["vectors"] = str(write_words(Path(words), made["word_vectors"], rng))
        draw(made, folder)


def draw(made: dict[str, Any], folder: Path) -> None:
    """One picture for each sample."""
    for kind, sample in made.items():
        training = [sample, *others(kind, sample)]
        rows = Dataset.from_dict({"sample": training, "label": [index % 2 for index in range(len(training))]})
        processor = HighMMTProcessor(
            {kind: {"kind": kind, **OPTIONS[kind]}},
            {"one": {"modalities": {kind: {"column": "sample"}}, "target": {"column": "label"}}},
        )
        processor.fit("one", rows)
        write_bytes(folder / f"kind-{kind.replace('_', '-')}.png", draw_sample(processor, rows, "one"))


if __name__ == "__main__":
    main()
