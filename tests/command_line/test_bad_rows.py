"""Rows that cannot be decoded: named, or left out of training on demand and counted."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

ROWS = {"train": 24, "validation": 8, "test": 8}
BAD = (5, 17)


def png(random: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (6, 6), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


def write_photos(folder: Path, bad: dict[str, Sequence[int]]) -> Path:
    """A suite of pictures with words, the training rows in two files; some pictures are cut."""
    folder.mkdir()
    random = np.random.default_rng(0)
    files = {"train": ["first.parquet", "second.parquet"], "validation": ["validation.parquet"], "test": ["t.parquet"]}
    for split, count in ROWS.items():
        photos = [png(random) for _ in range(count)]
        notes = ["fine" for _ in range(count)]
        for row in bad.get(split, ()):
            photos[row], notes[row] = photos[row][:40], f"broken{row}"
        rows = datasets.Dataset.from_dict(
            {"photo": photos, "note": notes, "sharp": [float(row) for row in range(count)]}
        )
        parts = np.array_split(np.arange(count), len(files[split]))
        for file, part in zip(files[split], parts, strict=True):
            rows.select(part).to_parquet(folder / file)
    suite: dict[str, Any] = {
        "name": "photos",
        "model": {
            "num_latents": 2,
            "d_latents": 4,
            "num_self_attention_heads": 1,
            "num_crossmodal_attention_heads": 1,
        },
        "modalities": {
            "photo": {"kind": "image", "patch_size": 3, "size": [6, 6], "num_colors": 1},
            "note": {"kind": "text", "vocab_size": 300},
        },
        "tasks": {
            "photos": {
                "source": {"path": "parquet", "data_files": files},
                "modalities": {"photo": "photo", "note": "note"},
                "target": {"column": "sharp", "problem_type": "regression"},
                "metric": "rmse",
                "batch_size": 8,
            }
        },
    }
    path = folder / "photos.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return path


def test_a_picture_that_cannot_be_read_ends_the_training_with_its_task_row_and_file(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_photos(tmp_path / "photos", {"train": BAD})
    assert tiny.highmmt("train", suite, "--epochs", 1, "--output-dir", tmp_path / "run") != 0
    error = " ".join(capsys.readouterr().err.split())
    assert "Task 'photos', modality 'photo', column 'photo', row 5: the image cannot be read" in error
    assert f"The row is in {tmp_path / 'photos' / 'first.parquet'}." in error
    assert "--skip-bad-rows" in error


def test_bad_rows_are_left_out_of_statistics_and_training_and_counted_each_time(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    suite = write_photos(tmp_path / "photos", {"train": BAD})
    metrics = []
    for name in ("first", "again"):  # the second time from the cache
        caplog.clear()
        folder = tmp_path / name
        assert tiny.highmmt("train", suite, "--epochs", 1, "--skip-bad-rows", 2, "--output-dir", folder) == 0
        assert "Task 'photos': 2 of 24 training rows are left out" in caplog.text
        assert "row 17: the image cannot be read" in caplog.text
        assert f"The row is in {tmp_path / 'photos' / 'second.parquet'}." in caplog.text
        metrics.append((folder / "pretrained" / "metrics.json").read_bytes())
    assert metrics[0] == metrics[1]
    assert json.loads(metrics[0])["bad_rows"] == {"photos": list(BAD)}
    processor = json.loads((folder / "pretrained" / "processor_config.json").read_text(encoding="utf-8"))
    kept = [row for row in range(ROWS["train"]) if row not in BAD]
    assert processor["statistics"]["photos/labels"]["mean"] == pytest.approx([np.mean(kept)], abs=1e-12)
    assert "broken" not in (folder / "pretrained" / "tokenizer.json").read_text(encoding="utf-8")


def test_more_bad_rows_than_allowed_end_the_training(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_photos(tmp_path / "photos", {"train": BAD})
    for _ in range(2):  # the second time with what is in the cache
        assert tiny.highmmt("train", suite, "--epochs", 1, "--skip-bad-rows", 1, "--output-dir", tmp_path / "run") != 0
        error = " ".join(capsys.readouterr().err.split())
        assert "row 17: the image cannot be read" in error
        assert "1 row was left out before it, which is the limit." in error


def test_rows_to_evaluate_on_are_never_left_out(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_photos(tmp_path / "photos", {"validation": [3]})
    assert tiny.highmmt("train", suite, "--epochs", 1, "--skip-bad-rows", 9, "--output-dir", tmp_path / "run") != 0
    error = " ".join(capsys.readouterr().err.split())
    assert "row 3: the image cannot be read" in error
    assert f"{tmp_path / 'photos' / 'validation.parquet'}. Rows of the validation split are never left out." in error
