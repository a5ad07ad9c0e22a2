"""Paths of files within rows start at the data file that holds them, whatever the working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from highmmt.commands import predict_file
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.suites import Suite, load_suite
from highmmt.suites.row_paths import with_whole_paths
from highmmt.train.recipes import build_config

SPLITS = ("train", "validation", "test")


def pictures(folder: Path, count: int = 4) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((4, 4), 10 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def suite(base: Path, data_files: Any, task: dict[str, Any] | None = None, **options: Any) -> Suite:
    modality = {"kind": "image", "patch_size": 2, **options} if "kind" not in options else options
    source = {"path": "csv" if "csv" in str(data_files) else "parquet", "data_files": data_files}
    ward = {
        "source": source,
        "splits": {} if isinstance(data_files, dict) else {"validation": 0.25, "test": 0.25},
        "modalities": task or {"photo": "photo"},
        "target": {"column": "label", "problem_type": "single_label_classification", "classes": ["a", "b"]},
    }
    modalities = {name: modality for name in ward["modalities"]}
    return Suite.from_dict({"name": "mine", "modalities": modalities, "tasks": {"ward": ward}}, base)


def csv(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"photo": names, "label": [0, 1] * (len(names) // 2)}).to_csv(path, index=False)


def test_paths_start_at_the_data_file_or_below_it_at_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = pictures(tmp_path / "data" / "pictures")
    csv(tmp_path / "data" / "long.csv", [f"pictures/{name}" for name in names])
    csv(tmp_path / "data" / "short.csv", names)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    wanted = {str(tmp_path / "data" / "pictures" / name) for name in names}
    for file, options in (
        ("long", {}),
        ("short", {"folder": "pictures"}),
        ("short", {"folder": str(tmp_path / "data/pictures")}),
    ):
        mine = suite(tmp_path, f"data/{file}.csv", **options)
        loaded = mine.load("ward")
        assert {path for split in SPLITS for path in loaded[split]["photo"]} == wanted
        assert mine.build_processor().encode("ward", loaded["test"]).num_rows == 1
        # A saved suite reads the same files from anywhere.
        again = mine.save(tmp_path / "elsewhere" / "suite.yaml")
        assert Suite.from_dict(mine.to_dict(), again.parent).load("ward")["test"]["photo"][0] in wanted


def test_each_split_has_the_folder_of_its_own_file(tmp_path: Path) -> None:
    for split in SPLITS:
        csv(tmp_path / split / "rows.csv", pictures(tmp_path / split))
    loaded = suite(tmp_path, {split: f"{split}/rows.csv" for split in SPLITS}).load("ward")
    assert [loaded[split]["photo"][0] for split in SPLITS] == [str(tmp_path / split / "0.png") for split in SPLITS]


def test_relative_paths_of_files_in_several_folders_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        csv(tmp_path / name / "rows.csv", pictures(tmp_path / name))
    with pytest.raises(ValueError, match=r"tasks\.ward: the column 'photo' holds relative paths.*several folders"):
        suite(tmp_path, "*/rows.csv").load("ward")
    for name in ("a", "b"):
        csv(tmp_path / name / "rows.csv", [str(tmp_path / name / f"{number}.png") for number in range(4)])
    assert sum(map(len, suite(tmp_path, "*/rows.csv").load("ward").values())) == 8


def test_one_column_with_two_folders_is_refused(tmp_path: Path) -> None:
    csv(tmp_path / "rows.csv", pictures(tmp_path))
    task = {"photo": {"column": "photo"}, "again": {"column": "photo", "folder": "b"}}
    with pytest.raises(
        ValueError, match=r"tasks\.ward\.modalities: the column 'photo' is read with the folders '' and 'b'"
    ):
        suite(tmp_path, "rows.csv", task=task).load("ward")


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        ("a.png", "/data/a.png"),
        ("/b/a.png", "/b/a.png"),
        ("hf://datasets/a.png", "hf://datasets/a.png"),
        (["a.png", "b.png"], ["/data/a.png", "/data/b.png"]),
        ({"bytes": None, "path": "a.png"}, {"bytes": None, "path": "/data/a.png"}),
        ({"bytes": b"a", "path": "a.png"}, {"bytes": b"a", "path": "a.png"}),
        ([1.0, 2.0], [1.0, 2.0]),
    ],
)
def test_every_form_of_a_path_and_nothing_else_is_changed(value: Any, whole: Any) -> None:
    rows = datasets.Dataset.from_dict({"photo": [value, None]})
    found = with_whole_paths(rows, {"photo": "", "other": ""}, [Path("/data")], "here")
    assert found[0]["photo"] == whole and found[1]["photo"] is None
    assert found.features == rows.features
    assert with_whole_paths(rows, {"photo": ""}, [], "here") is rows


def test_a_file_of_words_starts_at_the_suite_and_counts_for_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(base: Path, number: int) -> Suite:
        base.mkdir()
        csv(base / "rows.csv", ["a b", "b", "b", "a"])
        (base / "words.txt").write_text(f"a 1 {number}\nb 3 4\n", encoding="utf-8")
        options = {"kind": "word_vectors", "vectors": "words.txt"}
        return suite(base, "rows.csv", **options)

    first, same, other = (words(tmp_path / name, number) for name, number in (("x", 2), ("y", 2), ("z", 5)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert first.fingerprint == same.fingerprint != other.fingerprint
    again = load_suite(first.save(tmp_path / "elsewhere" / "suite.yaml"))
    assert again == first and again.fingerprint == first.fingerprint
    assert set(again.build_processor().word_vectors["ward/photo"].words) == {"a", "b"}
    (tmp_path / "x" / "words.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"'mine', modalities: the file .*x/words\.txt does not exist"):
        load_suite(tmp_path / "elsewhere" / "suite.yaml").fingerprint  # noqa: B018 - it is looked at


def test_predictions_start_at_the_file_of_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv(tmp_path / "train.csv", pictures(tmp_path / "pictures", 8))
    mine = suite(tmp_path, "train.csv", folder="pictures")
    processor = mine.build_processor()
    torch.manual_seed(0)
    model = HighMMTModel(build_config(mine, processor))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "processor_config.json").read_text(encoding="utf-8")
    csv(tmp_path / "new" / "new.csv", pictures(tmp_path / "new" / "pictures", 2))
    monkeypatch.chdir(tmp_path / "new" / "pictures")
    output, count = predict_file(tmp_path / "model", "ward", tmp_path / "new" / "new.csv", tmp_path / "said.csv")
    assert count == 2 and len(pd.read_csv(output)) == 2
    # A folder of pictures, or one of them, needs no file of rows.
    told = pd.read_csv(output)
    (tmp_path / "new" / "pictures" / "notes.txt").touch()
    for source, rows in ((".", [0, 1]), ("1.png", [1])):
        output, count = predict_file(tmp_path / "model", "ward", Path(source), tmp_path / "files.csv")
        found = pd.read_csv(output)
        assert count == len(rows) and found["row"].tolist() == list(range(count))
        assert found["file"].tolist() == [str(tmp_path / "new" / "pictures" / f"{row}.png") for row in rows]
        assert found["score"].tolist() == pytest.approx(told["score"][rows].tolist(), abs=1e-6)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: there is no image file \(\.png, .*\) for task 'ward'"):
        predict_file(tmp_path / "model", "ward", tmp_path / "none", tmp_path / "files.csv")
    (tmp_path / "new" / "pictures" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"'photo', row 1: there is no image file .*/new/pictures/1\.png"):
        predict_file(tmp_path / "model", "ward", tmp_path / "new" / "new.csv", tmp_path / "said.csv")
