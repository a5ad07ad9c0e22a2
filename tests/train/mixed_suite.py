"""Four tasks of the newer problem types: a retrieval, sequences of numbers and of classes, and plain classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset

from highmmt.suites import Suite

ROWS = {"train": 64, "validation": 24, "test": 20}
NUM_STEPS = 4
MODEL = {
    "num_latents": 3,
    "d_latents": 8,
    "num_crossmodal_attention_heads": 2,
    "num_self_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "self_attention_head_dim": 4,
}


def find(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    """Table and spectrum of a pair show the same three hidden numbers; every eighth row is the next one's item."""
    views = np.random.default_rng(0).normal(size=(2, 3, 4))
    item = np.arange(count)
    item[::8] += 1
    hidden = rng.normal(size=(count, 3))[item]
    table, spectrum = (hidden @ view + 0.02 * rng.normal(size=(count, 4)) for view in views)
    heard: list[Any] = spectrum.tolist()
    heard[3] = None
    return {"table": table.tolist(), "spectrum": heard, "item": [f"item {number}" for number in item]}


def walk(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    """Where a walker is at each step; rows of 1 to 4 steps, of some of which nothing is known."""
    place = rng.normal(size=(count, NUM_STEPS, 2)) * 3 + 10
    lengths = 1 + np.arange(count) % NUM_STEPS
    target: list[Any] = [place[row, :length].tolist() for row, length in enumerate(lengths)]
    target[1][1] = None
    target[2] = None
    return {"table": place.reshape(count, -1)[:, :4].tolist(), "place": target}


def phase(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    """Whether each of three steps goes up or down."""
    spectrum = rng.normal(size=(count, 4))
    steps: list[Any] = [["up" if step > 0 else "down" for step in row[:3]] for row in spectrum]
    steps[0][2] = None
    steps[1] = steps[1][:1]
    return {"spectrum": spectrum.tolist(), "steps": steps}


def kind(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    label = np.arange(count) % 2
    table, spectrum = (rng.normal(size=(count, 4)) + 2 * label[:, None] for _ in range(2))
    return {"table": table.tolist(), "spectrum": spectrum.tolist(), "label": label.tolist()}


TARGETS: dict[str, dict[str, Any]] = {
    "find": {"problem_type": "retrieval", "column": "item", "projection_dim": 8},
    "walk": {"problem_type": "regression", "column": "place", "names": ["x", "y"]},
    "phase": {"problem_type": "single_label_classification", "column": "steps", "classes": ["up", "down"]},
    "kind": {"problem_type": "single_label_classification", "column": "label", "classes": ["low", "high"]},
}
METRICS = {"find": "recall_at_5", "walk": "rmse", "phase": "accuracy", "kind": "accuracy"}
MODALITIES = {
    "find": ["table", "spectrum"],
    "walk": ["table"],
    "phase": ["spectrum"],
    "kind": ["spectrum", "table"],
}


def suite_values() -> dict[str, Any]:
    """The suite as its file holds it."""
    return {
        "name": "mixed",
        "model": dict(MODEL),
        "training": {
            "num_pretraining_epochs": 2,
            "num_finetuning_epochs": 1,
            "num_unimodal_groups": 2,
            "num_crossmodal_groups": 1,
            "learning_rate": 0.01,
        },
        "modalities": {
            "table": {"kind": "table", "num_frequency_bands": 1},
            "spectrum": {"kind": "spectrum", "num_frequency_bands": 1},
        },
        "tasks": {
            task: {
                "source": {"path": "parquet", "data_files": {split: f"{task}-{split}.parquet" for split in ROWS}},
                "modalities": {name: {"column": name} for name in MODALITIES[task]},
                "target": dict(target),
                "metric": METRICS[task],
                "batch_size": 16,
            }
            for task, target in TARGETS.items()
        },
    }


def write_rows(folder: Path) -> None:
    """The Parquet files of the suite."""
    datasets.disable_progress_bars()
    for task, build in (("find", find), ("walk", walk), ("phase", phase), ("kind", kind)):
        for seed, (split, count) in enumerate(ROWS.items()):
            rows = build(np.random.default_rng([seed, len(task)]), count)
            Dataset.from_dict(rows).to_parquet(folder / f"{task}-{split}.parquet")


def mixed_suite(folder: Path) -> Suite:
    """The suite over rows that are written into the folder."""
    write_rows(folder)
    return Suite.from_dict(suite_values(), folder)
