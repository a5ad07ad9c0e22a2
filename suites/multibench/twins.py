"""Synthetic twins of the MultiBench data sets: the same files with the same shapes, few rows, and something to learn.

They hold nothing of the real data. With them every builder, suite and recipe can be tried before the real files are
there.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..lines import did_you_mean
from .twin_files import write_hdf5, write_pickle, write_torch

_AFFECT = {"mosei": {"vision": 35, "audio": 74, "text": 300}, "urfunny": {"vision": 371, "audio": 81, "text": 300}}


def write_twins(folder: Path, names: list[str] | None = None, *, scale: int = 1, seed: int = 0) -> dict[str, Path]:
    """Write twins of data sets.

    Args:
        folder: each data set gets a folder of its own in it.
        names: keys of `FILES`; None for all.
        scale: how many times as many rows; 1 gives about a hundred for each.
        seed: of all numbers; the same seed gives the same files.

    Returns:
        Name to the folder written.

    Raises:
        ValueError: an unknown name, or h5py is missing for one that needs it.
    """
    written = {}
    for name in TWINS if names is None else names:
        if name not in TWINS:
            raise ValueError(f"There is no data set {name!r}{did_you_mean(name, TWINS, 'Data sets')}")
        subfolder, write = TWINS[name]
        written[name] = folder / subfolder
        write(folder / subfolder, np.random.default_rng([seed, list(TWINS).index(name)]), scale)
    return written


def _mimic(folder: Path, random: np.random.Generator, scale: int) -> None:
    count = 120 * scale
    label = random.integers(0, 2, count)
    static = random.normal(size=(count, 5)) * [20, 1, 1, 1, 2] + [60, 0, 0, 0, 1]
    static[:, 1] += 1.5 * label
    series = random.normal(size=(count, 24, 12)) * 5 + 80
    series[:, :, 3] += np.linspace(0, 4, 24) * label[:, None]
    series[random.random(series.shape) < 0.002] = np.nan
    series[0, 0, 0], static[1, 2] = np.inf, -np.inf
    groups = random.integers(0, 2, (count, 20))
    groups[:, 7] = label
    deaths = np.zeros((count, 6), dtype=np.int64)
    rows = np.arange(count)
    cause = (series[:, :, 5].mean(axis=1) > 80).astype(int) * random.integers(1, 6, count)
    deaths[rows[cause > 0], cause[cause > 0]] = 1
    content = {"ep_tdata": series, "adm_features_all": static, "adm_labels_all": deaths, "y_icd9": groups}
    write_pickle(folder / "im.pk", content)


def _avmnist(folder: Path, random: np.random.Generator, scale: int) -> None:
    shapes = random.random((10, 28, 28)) < 0.2
    for part, count in (("train", 120 * scale), ("test", 30 * scale)):
        label = random.permutation(count) % 10
        image = 200.0 * shapes[label] + random.random((count, 28, 28)) * 55
        audio = random.random((count, 112, 112)) * 60
        for row, digit in enumerate(label):
            audio[row, 10 * digit : 10 * digit + 8] += 150
        (folder / "image").mkdir(parents=True, exist_ok=True)
        (folder / "audio").mkdir(exist_ok=True)
        np.save(folder / "image" / f"{part}_data.npy", image.reshape(count, 784).astype(np.float32))
        np.save(folder / "audio" / f"{part}_data.npy", audio.astype(np.uint8))
        np.save(folder / f"{part}_labels.npy", label)


def _affect(name: str, file: str, steps: dict[str, int]) -> Callable[[Path, np.random.Generator, int], None]:
    def write(folder: Path, random: np.random.Generator, scale: int) -> None:
        """One pickle of three splits, sequences padded at the front."""
        directions = {key: random.normal(size=width) for key, width in _AFFECT[name].items()}
        content: dict[str, Any] = {}
        for split, count in (("train", 64 * scale), ("valid", 16 * scale), ("test", 24 * scale)):
            score = np.round(random.uniform(-3, 3, count), 2)
            part: dict[str, Any] = {}
            real = random.integers(5, min(steps.values()) + 1, count)
            for key, width in _AFFECT[name].items():
                values = random.normal(size=(count, steps[key], width)) + 0.5 * score[:, None, None] * directions[key]
                values[np.arange(steps[key])[None, :] < steps[key] - real[:, None]] = 0.0
                part[key] = values.astype(np.float32)
            if name == "mosei":
                part["audio"][0, -1, 0] = -np.inf
                part["text"][1] = 0.0  # a row without words
                part["labels"] = score.reshape(count, 1, 1)
            else:
                part["labels"] = (score > 0).astype(np.int64).reshape(count, 1)
            part["id"] = np.array([f"{split}{row}[0]" for row in range(count)], dtype=object)
            content[split] = part
        write_pickle(folder / file, content)

    return write


def _enrico(folder: Path, random: np.random.Generator, scale: int) -> None:
    from .enrico import TOPICS

    count = 60 * scale
    screens = ["50105", "50109", *(str(10_000 + 37 * row) for row in range(count))]
    topics = [TOPICS[index % 20] for index in range(len(screens))]
    for name in ("screenshots", "wireframes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / "design_topics.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["screen_id", "topic"])
        writer.writerows(zip(screens, topics, strict=True))
    for screen, topic in zip(screens, topics, strict=True):
        place = TOPICS.index(topic)
        left, top = 20 + place % 5 * 100 + int(random.integers(0, 20)), 20 + place // 5 * 220
        for mode, path in (("RGB", f"screenshots/{screen}.jpg"), ("RGBA", f"wireframes/{screen}.png")):
            picture = Image.new(mode, (540, 960), (240, 240, 240) if mode == "RGB" else (255, 255, 255, 255))
            ImageDraw.Draw(picture).rectangle((left, top, left + 80, top + 180), fill=(30, 60 + 9 * place, 200))
            if mode == "RGB" or screen not in ("50105", "50109"):
                picture.save(folder / path)


def _mujoco_push(folder: Path, random: np.random.Generator, scale: int) -> None:
    grid = np.linspace(-0.3, 0.3, 32)
    for size, count in (("1000", 12 * scale), ("10", 3 * scale), ("300", 4 * scale)):
        content = {}
        for number in range(count):
            steps = int(random.integers(40, 56))
            path = np.cumsum(random.normal(scale=0.01, size=(steps, 2)), axis=0) + random.normal(scale=0.05, size=2)
            pushed = np.concatenate([path + [0.5, 0.0], np.full((steps, 1), 0.9)], axis=1)
            contact = (random.random(steps) < 0.2).astype(np.float32)
            force = random.normal(size=(steps, 6)) * 0.3 + contact[:, None] * np.concatenate([path * 20] * 3, axis=1)
            blob = (grid[None, :, None] - path[:, 0, None, None]) ** 2 + (
                grid[None, None, :] - path[:, 1, None, None]
            ) ** 2
            content[f"trajectory{number}"] = {
                "object-state": np.zeros((steps, 10), dtype=np.float32),
                "Cylinder0_pos": pushed.astype(np.float32),
                "eef_pos": (pushed + random.normal(scale=0.01, size=(steps, 3))).astype(np.float32),
                "force": force.astype(np.float32),
                "contact": contact,
                "image": np.exp(-blob / 0.005).astype(np.float32),
            }
        write_hdf5(folder / f"1JTgmq1KPRK9HYi8BgvljKg5MPqT_N4cR-gentle_push_{size}.hdf5", content)


def _vision_touch(folder: Path, random: np.random.Generator, scale: int) -> None:
    for run in range(5 * scale):
        contact = np.repeat(random.random(10) < 0.5, 5)
        before = np.roll(contact, -1)  # what is seen in a step tells of the next one
        image = np.full((50, 128, 128, 3), 90, dtype=np.uint8)
        image[:, 40:90, 40:90, 0] = np.where(before, 220, 120)[:, None, None]
        depth = np.full((50, 128, 128, 1), 0.8, dtype=np.float32)
        depth[:, 40:90, 40:90, 0] = np.where(before, 0.2, 0.5)[:, None, None]
        depth[:, 0, 0, 0] = 65.0
        force = random.normal(size=(50, 50, 6)) * 0.1 + before[:, None, None] * 0.8
        content = {
            "image": image,
            "depth_data": depth,
            "optical_flow": np.zeros((50, 128, 128, 2), dtype=np.float32),
            "ee_forces_continuous": force,
            "proprio": random.normal(size=(50, 8)),
            "action": random.normal(size=(50, 4)),
            "contact": np.repeat(contact[:, None], 50, axis=1),
        }
        write_hdf5(folder / f"20190408_18304{run}_triangle_0_journal_0_{run % 20}_1000.h5", content)


def _cifar_esc(folder: Path, random: np.random.Generator, scale: int) -> None:
    colours = random.integers(40, 200, (17, 3, 1, 1))
    pictures: list[list[Any]] = []
    sounds: list[list[Any]] = []
    for per_class in (3 * scale, 1 * scale, 2 * scale):
        classes = [label for label in range(17) for _ in range(per_class)]
        pictures.append([])
        sounds.append([])
        for label in classes:
            noise = random.integers(-30, 30, (3, 32, 32))
            pictures[-1].append([(colours[label] + noise).astype(np.uint8), label])
            sound = random.normal(size=(112, 112))
            sound[6 * label : 6 * label + 6] += 4
            sounds[-1].append([sound.astype(np.float32), label])
    write_torch(folder / "cifaronly.pt", pictures)
    write_torch(folder / "esconly.pt", sounds)


# Name of a data set to the folder it gets and what writes it.
TWINS: dict[str, tuple[str, Callable[[Path, np.random.Generator, int], None]]] = {
    "mimic": ("mimic", _mimic),
    "avmnist": ("avmnist", _avmnist),
    "mosei": ("mosei", _affect("mosei", "mosei_senti_data.pkl", {"vision": 50, "audio": 50, "text": 50})),
    "urfunny": ("urfunny", _affect("urfunny", "humor.pkl", {"vision": 20, "audio": 20, "text": 50})),
    "enrico": ("enrico", _enrico),
    "mujoco_push": ("gentle_push", _mujoco_push),
    "vision_touch": ("triangle_real_data", _vision_touch),
    "cifar_esc": ("esc50-cifar", _cifar_esc),
}

__all__ = ["TWINS", "write_twins"]
