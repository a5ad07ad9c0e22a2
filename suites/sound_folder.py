"""Folders of sounds as rows: one folder for each class, and around them, where there are some, one for each split.

`datasets` has a reader of that name, which needs torchcodec to write down the path of a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


class SoundFolder(datasets.GeneratorBasedBuilder):
    """`DIR/train/<class>/*.wav` and so on, or `DIR/<class>/*.wav`: columns `audio` (a file) and `label`."""

    VERSION = datasets.Version("1.0.0")

    @classmethod
    def local_files(cls, data_dir: Path) -> list[Path]:
        """Every sound in the folder, in a fixed order."""
        return sorted(path for path in data_dir.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())

    def _info(self) -> datasets.DatasetInfo:
        folders = {path.parent.name for path in self.local_files(Path(self.config.data_dir))}
        audio = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        label = datasets.ClassLabel(names=sorted(folders))
        return datasets.DatasetInfo(features=datasets.Features({"audio": audio, "label": label}))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        folder = Path(self.config.data_dir)
        found: dict[str, list[str]] = {}
        for path in self.local_files(folder):
            top = path.relative_to(folder).parts[0].lower()
            split = next((split for split, names in _SPLITS.items() if top in names), "train")
            found.setdefault(split, []).append(str(path))
        if not found:
            raise ValueError(f"{folder}: no sounds ({', '.join(ENDINGS)}) in it.")
        return [datasets.SplitGenerator(name=split, gen_kwargs={"paths": paths}) for split, paths in found.items()]

    def _generate_examples(self, paths: list[str]) -> Any:
        for row, path in enumerate(paths):
            yield row, {"audio": {"bytes": None, "path": path}, "label": Path(path).parent.name}
