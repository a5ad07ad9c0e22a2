"""`highmmt suite init`: what columns are taken for, and that the file it writes is a suite that loads and fits."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from highmmt.suites import Suite, load_suite
from highmmt.suites.first_version import first_version

ROWS = 40
RANDOM = np.random.default_rng(0)


def sound(seconds: float = 0.5, rate: int = 8000) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(RANDOM.integers(-9999, 9999, int(seconds * rate)).astype("<i2").tobytes())
    return stream.getvalue()


def picture(height: int = 28, width: int = 28) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def animation(frames: int) -> bytes:
    stream = io.BytesIO()
    first, *others = [Image.fromarray(RANDOM.integers(0, 255, (14, 14)).astype(np.uint8)) for _ in range(frames)]
    first.save(stream, "GIF", save_all=True, append_images=others)
    return stream.getvalue()


# Column to values, and what the modality must be.
COLUMNS: dict[str, tuple[list[Any], dict[str, Any] | None]] = {
    "pulse": (
        [[[70.0 + step, 1.0] for step in range(5 + row % 30)] for row in range(ROWS)],
        {"kind": "time_series", "max_frequency": 34, "num_frequency_bands": 6},
    ),
    "steps": ([[1.0] * (3 + row % 2) for row in range(ROWS)], {"kind": "time_series", "max_frequency": 4}),
    "coefficients": ([[float(row)] * 76 for row in range(ROWS)], {"kind": "spectrum", "max_frequency": 76}),
    "tabular": ([[float(row), 1.0] for row in range(ROWS)], {"kind": "table", "max_frequency": 2}),
    "scan": (RANDOM.normal(size=(ROWS, 28, 28)).tolist(), {"kind": "image", "patch_size": 4, "max_frequency": 7}),
    "photo": (RANDOM.normal(size=(ROWS, 14, 21, 3)).tolist(), {"kind": "image", "patch_size": 2, "max_frequency": 11}),
    "film": (RANDOM.normal(size=(ROWS, 6, 14, 14)).tolist(), {"kind": "image", "num_axes": 3, "patch_size": 2}),
    "file": ([{"bytes": picture(), "path": None} for _ in range(ROWS)], {"kind": "image", "patch_size": 4}),
    "movie": (RANDOM.normal(size=(ROWS, 5, 14, 14, 3)).tolist(), {"kind": "video", "patch_size": 2}),
    "frames": (
        [[{"bytes": picture(), "path": None}] * (2 + row % 3) for row in range(ROWS)],
        {"kind": "video", "patch_size": 4},
    ),
    "animation": ([{"bytes": animation(2 + row % 3), "path": None} for row in range(ROWS)], {"kind": "video"}),
    "molecule": (
        [{"nodes": [[1.0, 0.0]] * (2 + row % 3), "edges": [[0, 1]]} for row in range(ROWS)],
        {"kind": "graph"},
    ),
    "remark": (["was seen again" if row % 3 else "went home" for row in range(ROWS)], {"kind": "text"}),
    "sound": (
        [{"bytes": sound(0.25 + 0.01 * row), "path": None} for row in range(ROWS)],
        {"kind": "audio", "sample_rate_hz": 8000, "max_length": 64, "max_frequency": 64},
    ),
    "photos": (
        [{"bytes": picture(20 + row % 9, 30), "path": None} for row in range(ROWS)],
        {"kind": "image", "size": [23, 30], "patch_size": 3},
    ),
    "name": ([f"N. {chr(65 + row)}" for row in range(ROWS)], None),
    "row_id": (list(range(100, 100 + ROWS)), None),
    "patient": ([row // 4 for row in range(ROWS)], None),
    "nothing": ([None] * ROWS, None),
    "words": ([["a", "b"]] * ROWS, None),
    "scans": ([["a.png", "b.png"]] * ROWS, None),  # not there
    "pages": ([[{"bytes": b"PK......", "path": None}]] * ROWS, None),
    "archive": ([{"bytes": b"PK......", "path": None}] * ROWS, None),
    "pair": ([{"left": 1, "right": 2}] * ROWS, None),
}


def parquet(folder: Path, columns: dict[str, list[Any]], name: str = "rows") -> Path:
    path = folder / f"{name}.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    return path


def written(folder: Path, source: Path | str, target: str | None = None) -> Suite:
    path = folder / "my_suite.yaml"
    path.write_text(first_version(source, path, target), encoding="utf-8")
    return load_suite(path)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_taken_for_what_its_values_are(tmp_path: Path, name: str) -> None:
    values, expected = COLUMNS[name]
    labels = ["ill" if row % 2 else "well" for row in range(ROWS)]
    path = parquet(tmp_path, {"age": [1.0 * row for row in range(ROWS)], name: values, "label": labels})
    suite = written(tmp_path, path)
    if expected is None:
        assert list(suite.modalities) == ["table"]
        assert f"# not used: {name}, " in (tmp_path / "my_suite.yaml").read_text(encoding="utf-8")
    else:
        assert list(suite.modalities) == [name, "table"]
        assert suite.modalities[name] == {**suite.modalities[name], **expected}
    assert suite.tasks["my"].modalities["table"] == {"columns": ["age"]}
    suite.build_processor()


def test_paths_of_files_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for row in range(ROWS):
        (tmp_path / "data" / f"{row}.png").write_bytes(picture())
        (tmp_path / "data" / f"{row}.wav").write_bytes(sound())
    names = {"photo": [f"{row}.png" for row in range(ROWS)], "call": [f"{row}.wav" for row in range(ROWS)]}
    lists = {"film": [[f"{row}.png", f"{ROWS - 1 - row}.png"] for row in range(ROWS)]}
    labels = ["ill" if row % 2 else "well" for row in range(ROWS)]
    path = parquet(tmp_path / "data", {**names, **lists, "label": labels})
    monkeypatch.chdir(tmp_path / "data")
    suite = written(tmp_path, path)
    kinds = {name: options["kind"] for name, options in suite.modalities.items()}
    assert kinds == {"photo": "image", "call": "audio", "film": "video"}
    processor = suite.build_processor()
    assert processor.encode("my", suite.load("my")["test"]).num_rows
    assert processor.shape("my", "film").axes == (2, 7, 7)


def test_nodes_and_edges_become_one_graph(tmp_path: Path) -> None:
    edges = [[[0, 1], [1, 0]][: 1 + row % 2] for row in range(ROWS)]
    for nodes in (
        [[[1.0, float(row)], [0.0, 1.0]] for row in range(ROWS)],
        [[1.0, float(row)] for row in range(ROWS)],
    ):
        suite = written(tmp_path, parquet(tmp_path, {"nodes": nodes, "edges": edges, "label": [0, 1] * (ROWS // 2)}))
        assert suite.modalities == {"graph": {"kind": "graph"}}
        assert suite.tasks["my"].modalities == {"graph": {"columns": ["nodes", "edges"]}}
        suite.build_processor()


@pytest.mark.parametrize(
    ("values", "expected", "metric"),
    [
        (["b", "a"] * 20, {"problem_type": "single_label_classification", "classes": ["a", "b"]}, "accuracy"),
        ([0, 1, 2, 1] * 10, {"problem_type": "single_label_classification"}, "accuracy"),
        ([True, False] * 20, {"problem_type": "single_label_classification"}, "accuracy"),
        ([5, 9] * 20, {"problem_type": "regression"}, "r2"),
        ([0.5, 1.5] * 20, {"problem_type": "regression"}, "r2"),
        ([[0, 1, 1], [1, 0, 0]] * 20, {"problem_type": "multi_label_classification"}, "macro_f1"),
        ([[0.5, 1.0], [1.0, 2.0]] * 20, {"problem_type": "regression"}, "r2"),
        (["no", "yes"] * 20, {"problem_type": "single_label_classification", "classes": ["no", "yes"]}, "accuracy"),
    ],
)
def test_the_problem_follows_from_the_target(
    tmp_path: Path, values: list[Any], expected: dict[str, Any], metric: str
) -> None:
    suite = written(tmp_path, parquet(tmp_path, {"age": [1.0 * row for row in range(ROWS)], "told": values}), "told")
    assert suite.tasks["my"].target == {"column": "told", **expected}
    assert suite.tasks["my"].metric == metric
    suite.build_processor()


def test_the_target_is_the_one_called_so_or_the_only_one_with_classes(tmp_path: Path) -> None:
    numbers = [1.0 * row for row in range(ROWS)]
    few = ["a", "b"] * 20
    assert written(tmp_path, parquet(tmp_path, {"x": numbers, "kind": few})).tasks["my"].target["column"] == "kind"
    both = {"x": numbers, "kind": few, "Outcome": numbers}
    assert written(tmp_path, parquet(tmp_path, both)).tasks["my"].target["column"] == "Outcome"
    assert written(tmp_path, parquet(tmp_path, both), "kind").tasks["my"].target["column"] == "kind"
    with pytest.raises(ValueError, match=r"Name it with --target. Columns: x \(numbers\), a \(2 different texts\)"):
        written(tmp_path, parquet(tmp_path, {"x": numbers, "a": few, "b": few}))
    with pytest.raises(ValueError, match="There is no column 'knd'; did you mean 'kind'"):
        written(tmp_path, parquet(tmp_path, both), "knd")
    with pytest.raises(ValueError, match=r"no column to predict 'kind' from; found name \(40 different short texts"):
        written(tmp_path, parquet(tmp_path, {"kind": few, "name": COLUMNS["name"][0]}))


def table(count: int = ROWS) -> datasets.Dataset:
    columns = {"age": [1.0 * row for row in range(count)], "patient": [row // 4 for row in range(count)]}
    return datasets.Dataset.from_dict({**columns, "label": [row % 2 for row in range(count)]})


def test_one_file_is_divided_and_rows_of_one_patient_stay_together(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "rows.parquet")
    suite = written(tmp_path, tmp_path / "rows.parquet")
    assert suite.tasks["my"].splits == {
        "train": "train", "validation": 0.15, "test": 0.15, "seed": 0, "group_by": "patient"
    }  # fmt: skip
    assert "data_files: rows.parquet" in (tmp_path / "my_suite.yaml").read_text(encoding="utf-8")
    assert sum(map(len, suite.load("my").values())) == ROWS


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_each_format_is_known_by_its_ending(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    getattr(table(), {"csv": "to_csv", "parquet": "to_parquet"}.get(suffix, "to_json"))(path)
    assert len(written(tmp_path, path).load("my")["train"]) == 32  # eight of ten patients


def test_a_folder_with_a_file_for_each_split_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("my-train", 24), ("my_valid", 8), ("test", 12)):
        table(count).to_parquet(folder / f"{name}.parquet")
    loaded = written(tmp_path, folder).load("my")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 24, "validation": 8, "test": 12}


def test_a_saved_data_set_and_folders_of_pictures_or_sounds_are_sources(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table(32), "dev": table(8)}).save_to_disk(tmp_path / "saved")
    suite = written(tmp_path, tmp_path / "saved")
    assert suite.tasks["my"].splits["validation"] == "dev" and suite.tasks["my"].splits["test"] == 0.15
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for number in range(6):
                (tmp_path / "pictures" / split / name / f"{number}.png").write_bytes(picture())
    for name in ("one", "two"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for number in range(8):
            (tmp_path / "sounds" / name / f"{number}.wav").write_bytes(sound())
    suite = written(tmp_path, tmp_path / "sounds")
    assert suite.tasks["my"].source == {"builder": "sound_folder", "data_dir": str(tmp_path / "sounds")}
    assert suite.modalities["audio"]["max_length"] == 50
    assert suite.build_processor().num_labels("my") == 2
    suite = written(tmp_path, tmp_path / "pictures")
    assert {split: len(rows) for split, rows in suite.load("my").items()} == {"train": 10, "validation": 2, "test": 12}
    assert suite.build_processor().num_labels("my") == 2


def test_data_that_is_not_there_or_no_data_is_named(tmp_path: Path) -> None:
    for source, error, message in (
        (tmp_path / "none.parquet", FileNotFoundError, "no such file or folder"),
        (tmp_path, ValueError, "a folder without data"),
        (Path(__file__), ValueError, "data can be in .parquet, .csv, .json, .jsonl, or in a folder"),
    ):
        with pytest.raises(error, match=message):
            first_version(source, tmp_path / "my.yaml")


def test_few_different_texts_are_categories_of_the_table(tmp_path: Path) -> None:
    columns = {"age": [1.0 * row for row in range(ROWS)], "colour": ["red", "blue"] * 20, "label": [0, 1] * 20}
    suite = written(tmp_path, parquet(tmp_path, columns))
    assert suite.tasks["my"].modalities["table"] == {"columns": ["age", "colour"]}
    text = (tmp_path / "my_suite.yaml").read_text(encoding="utf-8")
    assert "# 1 columns of numbers, 1 of categories" in text
    assert suite.build_processor().shape("my", "table").num_channels == 5  # value, missing, unknown, two colours


def test_sounds_that_are_not_wav_have_no_length_yet(tmp_path: Path) -> None:
    columns = {"speech": [{"bytes": b"fLaC....", "path": None}] * ROWS, "label": [0, 1] * 20}
    text = first_version(parquet(tmp_path, columns), tmp_path / "my.yaml")
    assert "speech: {kind: audio, num_frequency_bands: 6, max_frequency: 1000} # sounds" in text


def test_names_that_no_modality_may_have_are_changed(tmp_path: Path) -> None:
    columns = {"row": COLUMNS["pulse"][0], "Herz (bpm)": COLUMNS["pulse"][0], "label": [0, 1] * 20}
    suite = written(tmp_path, parquet(tmp_path, columns))
    assert list(suite.modalities) == ["row_", "Herz__bpm_"]
    assert suite.tasks["my"].modalities["Herz__bpm_"] == {"column": "Herz (bpm)"}
    suite.build_processor()
