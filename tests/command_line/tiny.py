"""A suite of three tiny tasks with learnable answers, as files in a folder, and one command run in this process."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml

from highmmt.cli import main

ROWS = {"train": 48, "validation": 20, "test": 16}

SUITE: dict[str, Any] = {
    "name": "tiny",
    "description": "Three tiny tasks.",
    "model": {
        "num_latents": 3,
        "d_latents": 8,
        "num_cross_attention_heads": 1,
        "num_self_attention_heads": 1,
        "num_crossmodal_attention_heads": 1,
        "cross_attention_head_dim": 8,
        "self_attention_head_dim": 8,
    },
    "training": {
        "num_pretraining_epochs": 3,
        "num_finetuning_epochs": 2,
        "num_unimodal_groups": 2,
        "num_crossmodal_groups": 2,
        "learning_rate": 0.01,
    },
    "modalities": {
        "image": {"kind": "image", "patch_size": 3, "num_frequency_bands": 2, "max_frequency": 4},
        "table": {"kind": "table", "num_frequency_bands": 2, "max_frequency": 4},
        "series": {"kind": "time_series", "num_frequency_bands": 2, "max_frequency": 8},
        "remark": {"kind": "text", "num_channels": 4, "vocab_size": 64, "max_length": 8},
        "spectrum": {"kind": "spectrum", "num_frequency_bands": 2, "max_frequency": 8},
    },
    "tasks": {
        "signs": {
            "area": "vision",
            "licence": "CC0-1.0",
            "source": {"path": "parquet", "data_files": {split: f"signs-{split}.parquet" for split in ROWS}},
            "modalities": {"image": {"column": "image"}, "table": {"columns": ["age", "weight"]}},
            "target": {
                "column": "label",
                "problem_type": "single_label_classification",
                "classes": ["stop", "go"],
            },
            "metric": "accuracy",
            "batch_size": 16,
            "reference": {"value": 0.9, "source": "a guess"},
        },
        "walk": {
            "area": "wearables",
            "licence": "CC BY 4.0",
            "source": {"path": "parquet", "data_files": {split: f"walk-{split}.parquet" for split in ROWS}},
            "modalities": {"series": {"column": "series"}, "remark": {"column": "remark"}},
            "target": {"column": "place", "problem_type": "regression", "names": ["x", "y"]},
            "metric": "r2",
            "batch_size": 16,
        },
        "tones": {
            "area": "sound",
            "licence": "CC0-1.0",
            "source": {"path": "parquet", "data_files": {split: f"tones-{split}.parquet" for split in ROWS}},
            "modalities": {"spectrum": {"column": "spectrum"}},
            "target": {"column": "label", "problem_type": "single_label_classification", "classes": ["a", "b", "c"]},
            "metric": "macro_f1",
            "batch_size": 16,
        },
    },
}


def task_rows(task: str, count: int, seed: int) -> dict[str, list[Any]]:
    """Raw rows of a task; the answers follow from the inputs."""
    random = np.random.default_rng([seed, *map(ord, task)])
    if task == "signs":
        label = np.arange(count) % 2
        image = random.normal(size=(count, 6, 6)) + 2 * label[:, None, None]
        age = [None if row % 7 == 3 else float(row % 9 + 20 * label[row]) for row in range(count)]
        weight = (60 + random.normal(size=count)).tolist()
        return {"image": image.tolist(), "age": age, "weight": weight, "label": label.tolist()}
    if task == "walk":
        place = random.normal(size=(count, 2))
        series = [np.repeat(place[row : row + 1], 2 + row % 3, axis=0).tolist() for row in range(count)]
        remark = [f"went {'east' if x > 0 else 'west'} on day {row % 5}" for row, (x, _) in enumerate(place)]
        return {"series": series, "remark": remark, "place": place.tolist()}
    label = np.arange(count) % 3
    spectrum = random.normal(size=(count, 8)) + 3 * np.eye(8)[label]
    return {"spectrum": spectrum.tolist(), "label": label.tolist()}


def write_rows(folder: Path) -> None:
    """The Parquet files of the suite."""
    for task in SUITE["tasks"]:
        for seed, (split, count) in enumerate(ROWS.items()):
            rows = datasets.Dataset.from_dict(task_rows(task, count, seed))
            rows.to_parquet(folder / f"{task}-{split}.parquet")


def write_suite(folder: Path, changes: dict[str, Any] | None = None, name: str = "tiny.yaml") -> Path:
    """The suite's file beside its rows.

    Args:
        folder: where the rows are.
        changes: path of a key, joined by dots, to its new value; None removes the key.
        name: of the file.
    """
    values = copy.deepcopy(SUITE)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        part = values
        for key in parents:
            part = part[key]
        if value is None:
            del part[last]
        else:
            part[last] = value
    path = folder / name
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def write_suite_with_rows(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Suite and rows in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder)
    return write_suite(folder, changes)


def highmmt(*arguments: object) -> int:
    """Exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["highmmt", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]
