"""Vision & Touch: what a robot that puts a peg into a hole sees and feels, and whether it touches something next."""

from __future__ import annotations

import random
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..splits import split_rows
from .base import Examples, MultiBenchBuilder, array
from .hdf5 import numbers, open_hdf5

STEPS = 50  # of each file
_SIDE = 128
_READINGS = 32  # of the 50 of a step, the last ones
_TAILS: dict[str, tuple[int | None, ...]] = {
    "ee_forces_continuous": (None, 6),
    "proprio": (None,),
    "action": (4,),
    "contact": (None,),
}
# Depth is in metres; the public encoders take what lies outside for noise.
_NEAREST, _FARTHEST = 1e-7, 2.0


class VisionTouch(MultiBenchBuilder):
    """`triangle_real_data/*_1000.h5`: columns `image` (128, 128, 3), `depth` (128, 128), `force` (6, 32), `proprio`
    (8), `action` (4), `contact` (0 or 1), `pose` (4) and `run`.

    A row is a step: what is sensed there, the action that follows, and contact and pose of the step after. Of the 50
    steps of a file, 48 are rows. The public split cannot be made again (it follows the order of somebody's file
    system); here a fifth of the runs is for validation and a fifth for test, chosen with seed 0, and no run is in two
    splits. Depth outside of 1e-7 to 2 m is 0.

    Faithful to the public code: a 49th row of each file repeats one of the others, drawn at random, depth is as it is
    stored, and the test rows are those for validation.
    """

    key = "vision_touch"

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features(
            {
                "image": array(_SIDE, _SIDE, 3, dtype="uint8"),
                "depth": array(_SIDE, _SIDE),
                "force": array(6, _READINGS),
                "proprio": array(1, 8),
                "action": array(1, 4),
                "contact": datasets.Value("int8"),
                "pose": datasets.List(datasets.Value("float32"), length=4),
                "run": datasets.Value("string"),
            }
        )

    def examples(self, split: str) -> Examples:
        """Steps of a split; one is read at a time."""
        index = 0
        chance = random.Random(42)
        for path, run in self._split_files["validation" if self.faithful and split == "test" else split]:
            with open_hdf5(path) as file:
                where = str(path)
                parts = {key: numbers(file, key, tail, where, STEPS) for key, tail in _TAILS.items()}
                parts["image"] = numbers(file, "image", (None, None, None), where, STEPS)
                depth_axes = (_SIDE, _SIDE, 1)[: len(file["depth_data"].shape) - 1] if "depth_data" in file else ()
                parts["depth_data"] = numbers(file, "depth_data", depth_axes, where, STEPS)
                if parts["proprio"].shape[1] < 8 or parts["ee_forces_continuous"].shape[1] < _READINGS:
                    raise ValueError(
                        f"{where}: expected at least 8 values of proprio and {_READINGS} readings of "
                        f"ee_forces_continuous in each step, found {parts['proprio'].shape[1]} and "
                        f"{parts['ee_forces_continuous'].shape[1]}."
                    )
                steps = [*range(STEPS - 2), *([chance.randrange(STEPS - 2)] if self.faithful else [])]
                for step in steps:
                    yield index, {**self._step(parts, step, where), "run": run}
                    index += 1

    def _step(self, parts: dict[str, Any], step: int, where: str) -> dict[str, Any]:
        image = parts["image"][step]
        if image.shape[0] == 3:
            image = image.transpose(2, 1, 0)
        if image.shape != (_SIDE, _SIDE, 3):
            raise ValueError(f"{where}: image of step {step} has shape {image.shape}, expected 128 x 128 x 3.")
        depth = parts["depth_data"][step].reshape(_SIDE, _SIDE).astype(np.float32)
        if not self.faithful:
            depth = np.where((depth > _NEAREST) & (depth < _FARTHEST), depth, np.float32(0))
        return {
            "image": image.astype(np.uint8),
            "depth": depth,
            "force": np.tanh(parts["ee_forces_continuous"][step][-_READINGS:].astype(np.float32)).T,
            "proprio": parts["proprio"][step][None, :8].astype(np.float32),
            "action": parts["action"][step + 1][None].astype(np.float32),
            "contact": int(parts["contact"][step + 1].sum() > 0),
            "pose": parts["proprio"][step + 1][:4].astype(np.float32),
        }

    @cached_property
    def _split_files(self) -> dict[str, list[tuple[Path, str]]]:
        """Split to its files, each with the name of its run."""
        files = []
        for path in self.files["*_1000.h5"]:
            named = re.fullmatch(r"(.+)_(\d+)_1000\.h5", path.name)
            if named is None:
                raise ValueError(f"{path}: expected a name such as <run>_<number>_1000.h5.")
            files.append((path, named[1]))
        runs = [run for _, run in files]
        if len(set(runs)) < 3:
            raise ValueError(f"{files[0][0].parent}: files of {len(set(runs))} runs cannot be split; 3 are the least.")
        parts = split_rows(len(files), {"validation": 0.2, "test": 0.2}, 0, runs)
        return {split: [files[index] for index in indices] for split, indices in parts.items()}
