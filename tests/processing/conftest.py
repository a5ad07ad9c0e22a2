"""Three small tasks: pictures, a clinic with ragged and missing data, and a robot arm that sees pictures too."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from highmmt.processing import HighMMTProcessor

MODALITIES: dict[str, dict[str, Any]] = {
    "image": {"kind": "image", "num_axes": 3, "patch_size": 4, "blank": "flag", "num_frequency_bands": 4},
    "spectrum": {"kind": "spectrum"},
    "table": {"kind": "table", "max_frequency": 8.0},
    "series": {"kind": "time_series"},
    "events": {"kind": "set", "empty": "token"},
    "notes": {"kind": "text", "num_channels": 8},
    "force": {"kind": "time_series", "window": 2},
}
TASKS: dict[str, dict[str, Any]] = {
    "shapes": {
        "modalities": {
            "image": {"column": "picture"},
            "spectrum": {"column": "spectrum"},
            "table": {"column": "table"},
        },
        "target": {"column": "label", "classes": ["round", "square", "star"]},
    },
    "clinic": {
        "modalities": {
            "series": {"column": "series"},
            "events": {"column": "events"},
            "notes": {"column": "notes"},
            "table": {"columns": ["age", "weight"]},
        },
        "target": {"column": "outcome"},
    },
    "arm": {
        "modalities": {"image": {"column": "frames"}, "force": {"column": "force"}},
        "target": {"column": "position", "problem_type": "regression", "names": ["x", "y"]},
    },
}
WORDS = ["pain", "mild", "fever", "stable", "cough", "left", "right", "none"]


def shapes_rows(seed: int, count: int) -> Dataset:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(count, 3)) * [1, 100, 0] + [0, 50, 7]
    table[rng.random((count, 3)) < 0.2] = np.nan
    return Dataset.from_dict(
        {
            "picture": rng.integers(0, 200, (count, 6, 5)).tolist(),
            "spectrum": rng.normal(size=(count, 7)).astype(np.float32).tolist(),
            "table": table.tolist(),
            "label": rng.integers(0, 3, count).tolist(),
        },
        features=Features(
            picture=List(List(Value("uint8"), length=5), length=6),
            spectrum=List(Value("float32"), length=7),
            table=List(Value("float32")),
            label=Value("int32"),
        ),
    )


def clinic_rows(seed: int, count: int) -> Dataset:
    rng = np.random.default_rng(seed)
    series = [rng.normal(size=(int(size), 2)) * [1, 30] for size in rng.integers(1, 6, count)]
    series[1][0, 1] = np.nan
    events = [
        [[float(rng.normal(40, 9)), float(rng.integers(0, 2))] for _ in range(size)]
        for size in rng.integers(0, 4, count)
    ]
    events[0] = []
    return Dataset.from_dict(
        {
            "series": [item.tolist() for item in series],
            "events": events,
            "notes": [" ".join(rng.choice(WORDS, int(size))) for size in rng.integers(1, 6, count)],
            "age": [None if index == 2 else float(rng.integers(20, 90)) for index in range(count)],
            "weight": rng.normal(70, 12, count).tolist(),
            "outcome": [["lived", "died"][index % 2] for index in range(count)],
        }
    )


def arm_rows(seed: int, count: int) -> Dataset:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 200, (count, 3, 6, 5))
    frames[:, 1] = 0
    return Dataset.from_dict(
        {
            "frames": frames.tolist(),
            "force": rng.normal(size=(count, 5, 2)).tolist(),
            "position": (rng.normal(size=(count, 2)) * [3, 0.1] + [10, -1]).tolist(),
        }
    )


BUILDERS = {"shapes": shapes_rows, "clinic": clinic_rows, "arm": arm_rows}


@pytest.fixture(scope="session")
def splits() -> dict[str, dict[str, Dataset]]:
    """Task to its raw training and test split."""
    datasets.disable_progress_bars()
    return {task: {"train": build(0, 40), "test": build(1, 9)} for task, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def processor(splits: dict[str, dict[str, Dataset]]) -> HighMMTProcessor:
    """Fitted on the three training splits; tests do not change it."""
    return fitted(MODALITIES, TASKS, splits)


@pytest.fixture(scope="session")
def fit_processor(splits: dict[str, dict[str, Dataset]]) -> Any:
    """A function that fits a processor with other options: `fit_processor("series", window=2)`."""

    def build(modality: str, **options: Any) -> HighMMTProcessor:
        return fitted({**MODALITIES, modality: {**MODALITIES[modality], **options}}, TASKS, splits)

    return build


def fitted(
    modalities: dict[str, Any], tasks: dict[str, Any], splits: dict[str, dict[str, Dataset]]
) -> HighMMTProcessor:
    processor = HighMMTProcessor(modalities, tasks)
    for task in tasks:
        processor.fit(task, splits[task]["train"])
    return processor
