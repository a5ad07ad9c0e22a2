"""The example of docs/examples: PNG and WAV files in Parquet."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from datasets import Dataset
from PIL import Image

from highmmt.modeling_highmmt import HighMMTModel
from highmmt.suites import load_suite
from highmmt.train.recipes import build_config
from highmmt.training import RecipeOptions, train_recipe

SPLITS = ("train", "validation", "test")


def digits(count: int, seed: int) -> Dataset:
    """Pictures and recordings as the bytes of files, in the form that `datasets` has them."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"image": [], "audio": [], "label": list(range(count)), "speaker": ["a"] * count}
    for _ in range(count):
        picture, sound = io.BytesIO(), io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (28, 28)).astype(np.uint8)).save(picture, "PNG")
        samples = rng.normal(scale=3000, size=rng.integers(1300, 6000)).astype(np.int16)
        scipy.io.wavfile.write(sound, 8000, samples)
        rows["image"].append({"bytes": picture.getvalue(), "path": None})
        rows["audio"].append({"bytes": sound.getvalue(), "path": "digit.wav"})
    return Dataset.from_dict(rows)


@pytest.fixture
def example(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(root / "docs" / "examples" / "avmnist.yaml", tmp_path))


def test_the_example_gives_7_x_7_patches_of_16_pixels_and_256_mel_numbers(example: Path) -> None:
    for seed, split in enumerate(SPLITS):
        digits(10, seed).to_parquet(example.parent / f"{split}.parquet")
    suite = load_suite(example)
    processor = suite.build_processor()
    assert processor.shape("avmnist", "image").axes == processor.shape("avmnist", "audio").axes == (7, 7)
    assert processor.shape("avmnist", "image").num_channels == 16
    assert processor.shape("avmnist", "audio").num_channels == 256
    # Rows as they lie in the file; reading them through `datasets.Audio` would need a decoder of its own.
    batch = processor("avmnist", suite.load("avmnist")["test"][:4])
    assert {name: tuple(item.shape) for name, item in batch["inputs"]["avmnist"].items()} == {
        "image": (4, 7, 7, 16),
        "audio": (4, 7, 7, 256),
    }
    assert batch["labels"]["avmnist"].tolist() == [0, 1, 2, 3]
    assert batch["attention_mask"] == {"avmnist": {}}
    config = build_config(suite, processor)
    assert (config.num_latents, config.d_latents) == (20, 64)
    with torch.no_grad():
        assert torch.isfinite(HighMMTModel(config).eval()(**batch).loss)


def test_the_page_shows_the_example_as_it_is(root: Path, example: Path) -> None:
    assert example.read_text(encoding="utf-8") in (root / "docs" / "processing.md").read_text(encoding="utf-8")


@pytest.mark.paper
def test_real_digits_are_told_apart_at_least_as_well_as_by_the_public_code(example: Path, reference_dir: Path) -> None:
    for split in SPLITS:
        shutil.copy(reference_dir / "data" / "avmnist" / f"{split}.parquet", example.parent)
    suite = load_suite(example)
    accuracy = [
        train_recipe(suite, example.parent / f"run{seed}", RecipeOptions("pretrain", changes={"seed": seed})).scores[
            "avmnist"
        ][1]
        for seed in range(3)
    ]
    assert np.mean(accuracy) >= 0.932, accuracy
