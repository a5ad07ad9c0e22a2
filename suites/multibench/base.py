"""What the builders of the MultiBench data sets share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets

from ..splits import SPLITS
from .files import FILES

Examples = Iterator[tuple[int, dict[str, Any]]]


@dataclass
class MultiBenchConfig(datasets.BuilderConfig):
    """Options of all builders.

    Args:
        faithful_to_public_code: True repeats what the authors' public code does where that is a quirk; the list is in
            docs/multibench.md.
    """

    faithful_to_public_code: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.faithful_to_public_code, bool):
            raise ValueError(f"faithful_to_public_code={self.faithful_to_public_code!r} must be true or false.")


class MultiBenchBuilder(datasets.GeneratorBasedBuilder):
    """A data set of MultiBench, read from the files as they are on disk into Arrow, in its own splits.

    `data_dir` is the folder with the data sets of MultiBench, or that of this one.
    """

    BUILDER_CONFIG_CLASS = MultiBenchConfig
    VERSION = datasets.Version("1.0.0")
    # Rows in memory before they are written; a row has up to 0.2 MB.
    DEFAULT_WRITER_BATCH_SIZE = 64

    key: ClassVar[str]

    @classmethod
    def local_files(cls, data_dir: Path) -> list[Path]:
        """Every file that is read, in a fixed order.

        Raises:
            FileNotFoundError: a file is missing; the message says where the owners say to get it.
        """
        found = FILES[cls.key].require(data_dir, cls.key)
        return [path for paths in found.values() for path in paths]

    @property
    def faithful(self) -> bool:
        """Whether quirks of the public code are wanted."""
        return bool(self.config.faithful_to_public_code)

    @property
    def files(self) -> dict[str, list[Path]]:
        """Pattern to the files found for it."""
        return FILES[self.key].require(Path(self.config.data_dir), self.key)

    @abstractmethod
    def features(self) -> datasets.Features:
        """Columns and their types."""

    @abstractmethod
    def examples(self, split: str) -> Examples:
        """Index and content of every row of a split.

        Raises:
            ValueError: the files are not what they should be; the message names file and key.
        """

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.features())

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_examples(self, split: str) -> Examples:
        yield from self.examples(split)


def class_label(*names: str) -> datasets.ClassLabel:
    """A feature for one of some classes."""
    return datasets.ClassLabel(names=list(names))


def array(*shape: int | None, dtype: str = "float32") -> Any:
    """A feature for arrays of one shape; the first size may be None, where it differs between rows."""
    kinds = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D}
    return kinds[len(shape)](shape=shape, dtype=dtype)
