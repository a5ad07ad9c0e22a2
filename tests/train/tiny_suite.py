"""Three tasks of a few rows: classes, a regression with ragged and absent inputs, several labels from one modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict

from highmmt.suites import Suite

SPLITS = ("train", "validation", "test")
ROWS = {"shapes": (24, 12, 10), "arm": (13, 9, 8), "tone": (9, 8, 7)}
MODEL = {
    "num_latents": 3,
    "d_latents": 8,
    "num_crossmodal_attention_heads": 2,
    "num_self_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "self_attention_head_dim": 4,
}


def shapes(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    label = np.arange(count) % 3
    spectrum = rng.normal(size=(count, 4))
    spectrum[:, 0] += 2 * label
    table = rng.normal(size=(count, 3)) + label[:, None]
    return {"spectrum": spectrum.tolist(), "table": table.tolist(), "label": label.tolist()}


def arm(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    lengths = rng.integers(1, 6, count)
    lengths[1::5] = 0  # the sensor was off
    series = [rng.normal(size=(int(length), 2)) for length in lengths]
    table = rng.normal(size=(count, 3))
    position = np.stack([10 + 3 * table[:, 0], -1 + 0.1 * table[:, 1]], axis=1)
    return {"series": [item.tolist() for item in series], "table": table.tolist(), "position": position.tolist()}


def tone(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    spectrum = rng.normal(size=(count, 4))
    labels = np.stack([spectrum[:, 0] > 0, np.arange(count) % 2], axis=1)
    return {"spectrum": spectrum.tolist(), "labels": labels.astype(int).tolist()}


def write_rows(folder: Path) -> None:
    for task, build in (("shapes", shapes), ("arm", arm), ("tone", tone)):
        rng = np.random.default_rng(len(task))
        splits = {split: Dataset.from_dict(build(rng, count)) for split, count in zip(SPLITS, ROWS[task], strict=True)}
        if task == "tone":
            DatasetDict(splits).save_to_disk(folder / task)
        else:
            for split, rows in splits.items():
                rows.to_parquet(folder / f"{task}-{split}.parquet")


def parquet(task: str) -> dict[str, Any]:
    return {"path": "parquet", "data_files": {split: f"{task}-{split}.parquet" for split in SPLITS}}


def tiny_suite(folder: Path, **model: Any) -> Suite:
    """A suite over rows that are written into the folder if they are not there."""
    datasets.disable_progress_bars()
    if not (folder / "tone").exists():
        write_rows(folder)
    return Suite.from_dict(
        {
            "name": "tiny",
            "model": {**MODEL, **model},
            "modalities": {
                "spectrum": {"kind": "spectrum", "num_frequency_bands": 1},
                "table": {"kind": "table", "num_frequency_bands": 1},
                "series": {"kind": "time_series", "num_frequency_bands": 1},
            },
            "tasks": {
                "shapes": {
                    "source": parquet("shapes"),
                    "modalities": {"spectrum": "spectrum", "table": "table"},
                    "target": {"column": "label", "problem_type": "single_label_classification"},
                    "metric": "accuracy",
                    "batch_size": 4,
                },
                "arm": {
                    "source": parquet("arm"),
                    "modalities": {"series": "series", "table": "table"},
                    "target": {"column": "position", "problem_type": "regression", "names": ["x", "y"]},
                    "metric": "rmse",
                    "batch_size": 4,
                    "loss_weight": 0.5,
                    "evaluation_weight": 0.25,
                },
                "tone": {
                    "source": {"saved": "tone"},
                    "modalities": {"spectrum": "spectrum"},
                    "target": {"column": "labels", "problem_type": "multi_label_classification"},
                    "metric": "macro_f1",
                    "batch_size": 4,
                },
            },
        },
        folder,
    )
