"""ENRICO: screenshots of Android apps and their wireframes, by design topic."""

from __future__ import annotations

import csv
import random
from functools import cached_property

import datasets

from .arrays import read_picture
from .base import Examples, MultiBenchBuilder, class_label

TOPICS = (
    "bare calculator camera chat editor form gallery list login maps mediaplayer menu modal news other profile search "
    "settings terms tutorial"
).split()
_HEIGHT, _WIDTH = 256, 128
_WITHOUT_WIREFRAME = ("50105", "50109")


class Enrico(MultiBenchBuilder):
    """`design_topics.csv`, `screenshots/<id>.jpg` and `wireframes/<id>.png`: columns `image`, `set` (the wireframe;
    256 x 128, RGB), `screen_id` and `label`, one of 20 topics.

    The two screens without a wireframe are left out; the others are shuffled with seed 42 and cut at 65 and 80 %: 947,
    219 and 292 rows, as in the public code.

    Faithful to the public code: its loaders of the test split read the training split, so the test rows are those.
    """

    key = "enrico"

    def features(self) -> datasets.Features:
        """Columns and their types."""
        return datasets.Features(
            {
                "image": datasets.Image(),
                "set": datasets.Image(),
                "screen_id": datasets.Value("string"),
                "label": class_label(*TOPICS),
            }
        )

    def examples(self, split: str) -> Examples:
        """Rows of a split; pictures are resized as they are read."""
        parts = public_split(len(self._screens))
        folder = self.files["design_topics.csv"][0].parent
        for index in parts["train" if self.faithful and split == "test" else split]:
            screen, topic = self._screens[index]
            yield (
                index,
                {
                    "image": read_picture(folder / "screenshots" / f"{screen}.jpg", _HEIGHT, _WIDTH),
                    "set": read_picture(folder / "wireframes" / f"{screen}.png", _HEIGHT, _WIDTH),
                    "screen_id": screen,
                    "label": topic,
                },
            )

    @cached_property
    def _screens(self) -> list[tuple[str, str]]:
        """Id and topic of every screen, in the order of the file."""
        (path,) = self.files["design_topics.csv"]
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames is None or not {"screen_id", "topic"} <= set(reader.fieldnames):
                raise ValueError(f"{path}: expected the columns screen_id and topic, found {reader.fieldnames}.")
            rows = [(row["screen_id"] or "", row["topic"] or "") for row in reader]
        for line, (screen, topic) in enumerate(rows, 2):
            # An id becomes part of a path.
            if not (screen.isascii() and screen.isdigit()):
                raise ValueError(f"{path}, line {line}: the screen id {screen!r} is no number.")
            if topic not in TOPICS:
                raise ValueError(f"{path}, line {line}: unknown topic {topic!r}; topics are {', '.join(TOPICS)}.")
        return [row for row in rows if row[0] not in _WITHOUT_WIREFRAME]


def public_split(count: int) -> dict[str, list[int]]:
    """Split to its screens, by their places in the list; that of the public code."""
    order = list(range(count))
    random.Random(42).shuffle(order)
    first, second = int(count * 0.65), int(count * (0.65 + 0.15))
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}
