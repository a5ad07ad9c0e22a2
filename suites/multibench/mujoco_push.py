"""MuJoCo Push: where a pushed object is, from a camera, force, contact, position and the commands of a robot arm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .base import Examples, MultiBenchBuilder, array
from .hdf5 import child, numbers, open_hdf5

WINDOW, _STEP = 16, 8
_IMAGE = 32
_FILES = {
    "train": "*gentle_push_1000.hdf5",
    "validation": "*gentle_push_10.hdf5",
    "test": "*gentle_push_300.hdf5",
}
_TAILS: dict[str, tuple[int | None, ...]] = {
    "Cylinder0_pos": (None,),
    "eef_pos": (3,),
    "force": (6,),
    "contact": (),
    "image": (_IMAGE, _IMAGE),
}
# What the public code subtracts and divides by, for all files alike.
_PUBLIC_SCALES = {
    "gripper_pos": (
        (0.46806443, -0.0017836, 0.88028437),
        (0.02410769, 0.02341035, 0.04018243),
    ),
    "gripper_sensors": (
        (0.49182904, 0.045039989, -3.2791464, -0.0033874984, 0.011552566, -0.00084817986, 0.21303751),
        (1.6152629, 1.666905, 1.9186896, 0.14219016, 0.14232528, 0.01675198, 0.40950698),
    ),
    "control": (
        (0.46594709, -0.0025247163, 0.88094306, 0.0001293995, -0.000054364675, -0.00061112235, 0.22041667),
        (0.02239027, 0.02356066, 0.0405312, 0.00054858, 0.0005754, 0.00046352, 0.41451886),
    ),
    "states": (
        (0.4970164, -0.00916641),
        (0.0572766, 0.06118315),
    ),
}


class MujocoPush(MultiBenchBuilder):
    """`gentle_push_{1000,10,300}.hdf5`, one file for each split: columns `gripper_pos` (16, 3), `gripper_sensors`
    (16, 7), `image` (16, 32, 32), `control` (16, 7), the object's `states` (16, 2), x and y of each step, its last
    `state` (2,), and `trajectory`.

    Trajectories, in the order of their numbers, are cut into windows of 16 steps that begin every 8. `gripper_sensors`
    is force (6) and contact, `control` the previous position (3), the change since (3) and contact. All in the units
    of the files: metres and newtons.

    Faithful to the public code: all but the image is standardised with the constants in its source.
    """

    key = "mujoco_push"

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features(
            {
                "gripper_pos": array(WINDOW, 3),
                "gripper_sensors": array(WINDOW, 7),
                "image": array(WINDOW, _IMAGE, _IMAGE),
                "control": array(WINDOW, 7),
                "states": array(WINDOW, 2),
                "state": datasets.List(datasets.Value("float32"), length=2),
                "trajectory": datasets.Value("int64"),
            }
        )

    def examples(self, split: str) -> Examples:
        """Windows of a split; one is read at a time."""
        paths = self.files[_FILES[split]]
        if len(paths) > 1:
            raise ValueError(f"{_FILES[split]} is {' and '.join(map(str, paths))}; keep one of them.")
        index = 0
        with open_hdf5(paths[0]) as file:
            for number in _trajectories(file, paths[0]):
                where = f"{paths[0]}: trajectory{number}"
                group = child(file, f"trajectory{number}", where)
                length = numbers(group, "contact", (), where).shape[0]
                parts = {key: numbers(group, key, tail, where, length) for key, tail in _TAILS.items()}
                for offset in (0, _STEP):
                    for start in range(offset, length - WINDOW + 1, WINDOW):
                        yield index, {**self._window(parts, start), "trajectory": number}
                        index += 1

    def _window(self, parts: dict[str, Any], start: int) -> dict[str, np.ndarray]:
        steps = slice(start, start + WINDOW)
        position, contact = (parts[key][steps].astype(np.float32) for key in ("eef_pos", "contact"))
        before = parts["eef_pos"][max(start - 1, 0) : start + WINDOW - 1].astype(np.float32)
        previous = before if start else np.concatenate([position[:1], before])
        window = {
            "gripper_pos": position,
            "gripper_sensors": np.concatenate([parts["force"][steps], contact[:, None]], axis=1, dtype=np.float32),
            "image": parts["image"][steps].astype(np.float32),
            "control": np.concatenate([previous, position - previous, contact[:, None]], axis=1),
            "states": parts["Cylinder0_pos"][steps, :2].astype(np.float32),
        }
        if self.faithful:
            for name, (center, scale) in _PUBLIC_SCALES.items():
                window[name] = ((window[name] - center) / scale).astype(np.float32)
        for name, values in window.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of steps {start} to {start + WINDOW - 1} is not finite everywhere.")
        return {**window, "state": window["states"][-1]}


def _trajectories(file: Any, path: Path) -> list[int]:
    """Numbers of the trajectories, ascending; every one from 0 on must be there."""
    found = sorted(int(match[1]) for name in file if (match := re.fullmatch(r"trajectory(\d{1,9})", name)))
    if not found or found != list(range(len(found))):
        raise ValueError(f"{path}: expected trajectory0, trajectory1 and so on, found {found[:10] or 'none'}.")
    return found
