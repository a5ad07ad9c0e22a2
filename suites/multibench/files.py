"""Which files a MultiBench data set consists of, where they are looked for, and where their owners say to get them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_README = "the README of MultiBench (github.com/pliang279/MultiBench)"


@dataclass(frozen=True)
class DataFiles:
    """The files of one data set.

    Args:
        folders: folders within the data folder that are looked in, in this order; `.` is the data folder itself.
        patterns: names within one of these folders, `*` for any text. Each must be there.
        source: where the owners say to get them.
    """

    folders: tuple[str, ...]
    patterns: tuple[str, ...]
    source: str

    def folder(self, data_dir: Path) -> Path:
        """The folder of the data set: of those looked in, the first that has the most of the files."""
        found = [(data_dir / name, self._count(data_dir / name)) for name in self.folders]
        return max(found, key=lambda entry: entry[1])[0]

    def find(self, data_dir: Path) -> dict[str, list[Path]]:
        """Pattern to the files found for it, sorted by name; an empty list where there is none."""
        folder = self.folder(data_dir)
        return {pattern: sorted(path for path in folder.glob(pattern) if path.is_file()) for pattern in self.patterns}

    def require(self, data_dir: Path, title: str) -> dict[str, list[Path]]:
        """`find`, with every file there.

        Args:
            data_dir: the user's data folder.
            title: what errors call the data set.

        Raises:
            FileNotFoundError: files are missing; the message names them, where they were looked for and where to get
                them.
        """
        found = self.find(data_dir)
        missing = [pattern for pattern, paths in found.items() if not paths]
        if missing:
            raise FileNotFoundError(
                f"{title}: {', '.join(missing)} not found in {data_dir} (looked in {', '.join(self.folders)}). "
                f"Get it from: {self.source}."
            )
        return found

    def _count(self, folder: Path) -> int:
        return sum(any(path.is_file() for path in folder.glob(pattern)) for pattern in self.patterns)


FILES = {
    "mimic": DataFiles(
        ("mimic", "."),
        ("im.pk",),
        "PhysioNet (credentials for MIMIC-III, physionet.org), then a mail to the maintainers of MultiBench, who are "
        f"named in {_README}",
    ),
    "avmnist": DataFiles(
        ("avmnist", "."),
        (
            "image/train_data.npy",
            "image/test_data.npy",
            "audio/train_data.npy",
            "audio/test_data.npy",
            "train_labels.npy",
            "test_labels.npy",
        ),
        f"avmnist.tar.gz, on the Google Drive that {_README} links",
    ),
    "mosei": DataFiles(
        ("mosei", "affect", "."),
        ("mosei_senti_data.pkl",),
        f"the folder 'mosei' on the Google Drive that {_README} links",
    ),
    "urfunny": DataFiles(
        ("urfunny", "humor", "affect", "."),
        ("humor.pkl",),
        f"the folder 'humor' on the Google Drive that {_README} links",
    ),
    "enrico": DataFiles(
        ("enrico/dataset", "enrico", "dataset", "."),
        ("design_topics.csv", "screenshots/*.jpg", "wireframes/*.png"),
        "design_topics.csv from github.com/luileito/enrico, screenshots and wireframes as zip files from Aalto "
        "University (datasets/enrico/download_data.sh of MultiBench names them)",
    ),
    "mujoco_push": DataFiles(
        ("gentle_push", "mujoco_push", "push", "."),
        ("*gentle_push_1000.hdf5", "*gentle_push_10.hdf5", "*gentle_push_300.hdf5"),
        f"the Google Drive that {_README} links (a prefix before 'gentle_push' may stay)",
    ),
    "vision_touch": DataFiles(
        ("triangle_real_data", "vision_touch/triangle_real_data", "vision_touch", "."),
        ("*_1000.h5",),
        "triangle_real_data.zip from Stanford (datasets/robotics/download_data.sh of MultiBench)",
    ),
    "cifar_esc": DataFiles(
        ("esc50-cifar", "cifar_esc", "."),
        ("cifaronly.pt", "esconly.pt"),
        "nowhere: the authors made it from CIFAR-10, CIFAR-100 and ESC-50 and published neither the files nor the map "
        "of their 17 shared classes (paper, C.1); ask them, or make files of this form",
    ),
}

__all__ = ["FILES", "DataFiles"]
