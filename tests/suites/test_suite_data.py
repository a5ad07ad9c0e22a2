"""Data that is missing, broken or not what the suite says; and how rows are divided."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import wave
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from highmmt.suites import Suite
from highmmt.suites.splits import split_rows


def rows(count: int = 12) -> dict[str, list[Any]]:
    return {
        "age": [float(row) for row in range(count)],
        "person": [f"p{row // 3}" for row in range(count)],
        "ill": [row % 2 for row in range(count)],
    }


def suite(source: dict[str, Any], folder: Path, splits: dict[str, Any] | None = None, **target: Any) -> Suite:
    task = {
        "source": source,
        "splits": splits or {},
        "modalities": {"table": {"columns": ["age"]}},
        "target": {"column": "ill", "problem_type": "single_label_classification", **target},
    }
    return Suite.from_dict(
        {"name": "mine", "modalities": {"table": {"kind": "table"}}, "tasks": {"ward": task}}, folder
    )


def parquet(folder: Path, **files: dict[str, list[Any]]) -> dict[str, Any]:
    for split, values in files.items():
        datasets.Dataset.from_dict(values).to_parquet(folder / f"{split}.parquet")
    return {"path": "parquet", "data_files": {split: f"{split}.parquet" for split in files}}


def refused(wrong: Suite, *messages: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        wrong.load("ward")
    for message in ("tasks.ward", *messages):
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = parquet(tmp_path, train=rows(), validation=rows(), test=rows())
    (tmp_path / "test.parquet").unlink()
    wrong = suite(source, tmp_path)
    refused(wrong, f"{tmp_path / 'test.parquet'} does not exist", "source.data_files.test", error=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        _ = wrong.fingerprint


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for source in ({"saved": "nowhere"}, {"path": "./nowhere"}):
        refused(suite(source, tmp_path), f"{tmp_path / 'nowhere'} does not exist", error=FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"age,ill\n1,2\n", b"PAR1 not really PAR1"])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    source = parquet(tmp_path, train=rows(), validation=rows(), test=rows())
    (tmp_path / "validation.parquet").write_bytes(content)
    refused(suite(source, tmp_path), f"the data file {tmp_path / 'validation.parquet'} cannot be read")


def test_a_parquet_file_cut_short_is_named(tmp_path: Path) -> None:
    source = parquet(tmp_path, train=rows(), validation=rows(), test=rows())
    file = tmp_path / "train.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    refused(suite(source, tmp_path), f"the data file {file} cannot be read")


@pytest.mark.parametrize(
    ("kind", "content"), [("json", '{"age": [1,'), ("json", ""), ("csv", ""), ("csv", "a,b\n1\n2,3,4\n")]
)
def test_broken_text_files_are_named(tmp_path: Path, kind: str, content: str) -> None:
    (tmp_path / f"rows.{kind}").write_text(content, encoding="utf-8")
    source = {"path": kind, "data_files": f"rows.{kind}"}
    refused(suite(source, tmp_path, {"validation": 0.2, "test": 0.2}), f"rows.{kind}")


def test_a_file_without_a_column_that_the_others_have_is_named(tmp_path: Path) -> None:
    fewer = {name: values for name, values in rows().items() if name != "person"}
    loaded = suite(parquet(tmp_path, train=rows(), validation=fewer, test=rows()), tmp_path).load("ward")
    assert loaded["validation"]["person"] == [None] * 12  # no task reads it, and `datasets` says what it does
    fewer = {name: values for name, values in rows().items() if name != "age"}
    wrong = suite(parquet(tmp_path, train=rows(), validation=fewer, test=rows()), tmp_path)
    refused(wrong, f"the file {tmp_path / 'validation.parquet'} has no column 'age'")


def test_a_folder_that_save_to_disk_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    refused(suite({"saved": "saved"}, tmp_path), "saved")


def test_options_that_the_reader_does_not_have_are_refused(tmp_path: Path) -> None:
    source = parquet(tmp_path, train=rows(), validation=rows(), test=rows())
    refused(suite({**source, "separator": ";"}, tmp_path), "separator")


def test_a_data_set_that_is_nowhere_is_refused_without_the_network(tmp_path: Path) -> None:
    source = {"path": "nobody/such-a-data-set"}
    refused(suite(source, tmp_path), "nobody/such-a-data-set", error=(FileNotFoundError, ValueError))  # type: ignore[arg-type]


@pytest.mark.parametrize(("missing", "place"), [("age", "tasks.ward.modalities.table"), ("ill", "tasks.ward.target")])
def test_a_column_that_the_data_lacks_is_named_with_those_it_has(tmp_path: Path, missing: str, place: str) -> None:
    values = {name if name != missing else f"{name}_": column for name, column in rows().items()}
    wrong = suite(parquet(tmp_path, train=values, validation=values, test=values), tmp_path)
    refused(wrong, place, f"no column {missing!r}; did you mean '{missing}_'? Columns: {', '.join(values)}.")


def test_a_column_missing_in_one_split_only_names_the_split(tmp_path: Path) -> None:
    saved = {split: datasets.Dataset.from_dict(rows()) for split in ("train", "validation", "test")}
    saved["test"] = saved["test"].remove_columns("age")
    for split, data in saved.items():
        data.to_json(tmp_path / f"{split}.json")
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved")
    refused(suite({"saved": "saved"}, tmp_path), "the test split has no column 'age'")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_named(tmp_path: Path, split: str) -> None:
    files = {name: rows() for name in ("train", "validation", "test")}
    data = {name: datasets.Dataset.from_dict(values) for name, values in files.items()}
    data[split] = data[split].select([])
    for name, table in data.items():
        table.to_parquet(tmp_path / f"{name}.parquet")
    source = {"path": "parquet", "data_files": {name: f"{name}.parquet" for name in files}}
    refused(suite(source, tmp_path), f"the {split} split", "has no rows")


def test_a_split_that_the_source_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    source = parquet(tmp_path, train=rows(), valid=rows(), test=rows())
    refused(suite(source, tmp_path), "no split 'validation'", "it has train, valid, test")
    assert len(suite(source, tmp_path, {"validation": "valid"}).load("ward")["validation"]) == 12


def test_too_few_rows_to_divide_are_refused(tmp_path: Path) -> None:
    source = parquet(tmp_path, train=rows(3))
    refused(suite(source, tmp_path, {"validation": 0.1, "test": 0.3}), "the validation split", "too few rows")


def test_a_group_column_is_checked(tmp_path: Path) -> None:
    fractions = {"validation": 0.25, "test": 0.25}
    source = parquet(tmp_path, train=rows())
    refused(suite(source, tmp_path, {**fractions, "group_by": "persn"}), "no column 'persn'; did you mean 'person'?")
    holes = rows()
    holes["person"][4] = None
    source = parquet(tmp_path, train=holes)
    refused(suite(source, tmp_path, {**fractions, "group_by": "person"}), "row 4 has no value in the group_by column")


def test_paths_with_characters_of_patterns_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "data [1]*"
    folder.mkdir()
    loaded = suite(parquet(folder, train=rows(), validation=rows(), test=rows()), folder).load("ward")
    assert len(loaded["test"]) == 12


def test_a_moved_data_file_is_found_beside_its_suite(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    source = parquet(first, train=rows(), validation=rows(), test=rows())
    shutil.copytree(first, second)
    assert suite(source, second).tasks["ward"].source["data_files"]["train"] == str(second / "train.parquet")


def test_loading_leaves_the_progress_bars_of_datasets_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(sys.modules["datasets.utils.tqdm"], "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    before = datasets.are_progress_bars_disabled()
    try:
        datasets.enable_progress_bars()
        suite(parquet(tmp_path, train=rows(), validation=rows(), test=rows()), tmp_path).load("ward")
        assert not datasets.are_progress_bars_disabled()
    finally:
        datasets.disable_progress_bars() if before else datasets.enable_progress_bars()
    assert "examples/s" not in capfd.readouterr().err


FRACTIONS = st.fixed_dictionaries({}, optional={"validation": st.floats(0.01, 0.49), "test": st.floats(0.01, 0.49)})


@given(st.integers(0, 200), FRACTIONS, st.integers(0, 5))
def test_fractions_divide_the_rows_without_overlap_or_loss(count: int, fractions: dict[str, float], seed: int) -> None:
    parts = split_rows(count, fractions, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    for name, fraction in fractions.items():
        assert len(parts[name]) == round(fraction * count)
    for part in parts.values():
        assert (np.diff(part) > 0).all()


@given(st.lists(st.one_of(st.integers(0, 12), st.sampled_from("abc")), max_size=80), FRACTIONS, st.integers(0, 5))
def test_groups_stay_together_and_nothing_is_lost(groups: list[Any], fractions: dict[str, float], seed: int) -> None:
    parts = split_rows(len(groups), fractions, seed, groups)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))
    inside = [{groups[row] for row in part} for part in parts.values()]
    assert sum(map(len, inside)) == len(set(groups))
    largest = max((groups.count(group) for group in set(groups)), default=0)
    for name, fraction in fractions.items():
        assert len(parts[name]) <= round(fraction * len(groups)) + largest / 2


@given(st.integers(1, 100), st.integers(0, 3), st.booleans())
def test_the_seed_alone_decides(count: int, seed: int, grouped: bool) -> None:
    groups = [row // 4 for row in range(count)] if grouped else None
    first, second = (split_rows(count, {"validation": 0.2, "test": 0.2}, seed, groups) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_another_seed_divides_otherwise() -> None:
    parts = [split_rows(100, {"test": 0.3}, seed)["test"].tolist() for seed in (0, 1)]
    assert parts[0] != parts[1]
    # The same rows for everybody, whatever the machine: a golden value of numpy's PCG64, seed 0.
    assert split_rows(10, {"test": 0.3}, 0)["test"].tolist() == sorted(np.random.default_rng(0).permutation(10)[:3])


def test_equal_groups_fill_the_fractions_exactly() -> None:
    parts = split_rows(100, {"validation": 0.2, "test": 0.3}, 7, [row // 10 for row in range(100)])
    assert {name: len(part) for name, part in parts.items()} == {"validation": 20, "test": 30, "train": 50}


def test_the_hash_of_a_file_follows_its_content(tmp_path: Path) -> None:
    from highmmt.suites.loading import file_sha256

    path = tmp_path / "rows.bin"
    path.write_bytes(b"abc")
    before = file_sha256(path)
    assert before == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # published for "abc"
    path.write_bytes(b"abd")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert file_sha256(path) != before


def sounds(folder: Path, names: list[str]) -> Path:
    for name in names:
        for number in range(2):
            path = folder / name / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes(np.full(4000, 500 * (1 + number), "<i2").tobytes())
    return folder


def sound_suite(folder: Path, **splits: Any) -> Suite:
    task = {
        "source": {"builder": "sound_folder", "data_dir": "sounds"},
        "splits": splits,
        "modalities": {"audio": "audio"},
        "target": {"column": "label", "problem_type": "single_label_classification"},
    }
    return Suite.from_dict(
        {"name": "mine", "modalities": {"audio": {"kind": "audio"}}, "tasks": {"ward": task}}, folder
    )


def test_folders_of_sounds_are_a_source(tmp_path: Path) -> None:
    splits = {"train": "train", "val": "validation", "Test": "test"}
    sounds(tmp_path / "sounds", [f"{split}/{name}" for split in splits for name in ("owl", "cat")])
    suite = sound_suite(tmp_path)
    loaded = suite.load("ward")
    assert loaded["train"].features["label"].names == ["cat", "owl"]
    assert [loaded[split]["label"][:] for split in splits.values()] == [[0, 0, 1, 1]] * 3
    assert suite.build_processor().encode("ward", loaded["test"]).num_rows == 4


def test_folders_of_sounds_without_splits_are_divided(tmp_path: Path) -> None:
    sounds(tmp_path / "sounds", ["owl", "cat", "dog"])
    loaded = sound_suite(tmp_path, validation=0.2, test=0.4).load("ward")
    assert {split: len(rows) for split, rows in loaded.items()} == {"validation": 1, "test": 2, "train": 3}


def test_a_folder_without_sounds_is_named_and_the_reader_that_needs_more_says_what(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    refused(sound_suite(tmp_path), "sounds: no sounds (.wav, .flac, .ogg, .mp3) in it")
    sounds(tmp_path / "sounds", ["owl", "cat"])
    if importlib.util.find_spec("torchcodec") is None:
        refused(suite({"path": "audiofolder", "data_dir": "sounds"}, tmp_path), "torchcodec", "builder: sound_folder")


def test_a_column_of_sounds_of_datasets_is_files_that_a_processor_takes_row_by_row(tmp_path: Path) -> None:
    folder = sounds(tmp_path / "sounds", ["owl", "cat"])
    files = [{"bytes": path.read_bytes(), "path": None} for path in sorted(folder.rglob("*.wav"))]
    features = datasets.Features(audio=datasets.Audio(), label=datasets.ClassLabel(names=["cat", "owl"]))
    table = features.arrow_schema.empty_table().from_pydict(
        {"audio": files, "label": [0, 0, 1, 1]}, schema=features.arrow_schema
    )
    for split in ("train", "validation", "test"):
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    names = {split: f"{split}.parquet" for split in ("train", "validation", "test")}
    values = sound_suite(tmp_path).to_dict()
    values["tasks"]["ward"]["source"] = {"path": "parquet", "data_files": names}
    suite = Suite.from_dict(values, tmp_path)
    loaded = suite.load("ward")
    assert loaded["test"].features["audio"] == datasets.Audio(decode=False)
    assert loaded["test"][0]["audio"] == files[0]
    processor = suite.build_processor()
    batch = processor("ward", loaded["test"][:2])
    encoded = processor.collate("ward", processor.encode("ward", loaded["test"]).with_format("arrow")[:2])
    assert batch["inputs"]["ward"]["audio"].tolist() == encoded["inputs"]["ward"]["audio"].tolist()


def test_a_processor_is_fitted_on_the_training_rows_alone(tmp_path: Path) -> None:
    fitted = []
    for name, shift in (("a", 0.0), ("b", 1e6)):
        (tmp_path / name).mkdir()
        others = {**rows(), "age": [shift + row for row in range(12)]}
        source = parquet(tmp_path / name, train=rows(), validation=others, test=others)
        mine = suite(source, tmp_path / name)
        assert mine.load("ward")["test"]["age"][0] == shift
        fitted.append(mine.build_processor().statistics)
    assert fitted[0] == fitted[1] and max(fitted[0]["ward/table"]["center"]) < 12


def test_a_data_set_of_the_hub_is_asked_for_by_name_configuration_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(**options: Any) -> datasets.DatasetDict:
        asked.append(options)
        return datasets.DatasetDict({name: datasets.Dataset.from_dict(rows()) for name in ("train", "valid", "held")})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = {"path": "owner/name", "name": "clinic", "revision": "v1.2"}
    mine = suite(source, tmp_path, {"validation": "valid", "test": "held"})
    loaded = mine.load("ward")
    assert asked == [source] and list(loaded) == ["train", "validation", "test"]
    assert mine.build_processor().encode("ward", loaded["test"]).num_rows == 12
    refused(suite(source, tmp_path), "the source has no split 'validation'", "it has train, valid, held")
    again = suite({**source, "revision": "v1.3"}, tmp_path)
    assert again.fingerprint != suite(source, tmp_path).fingerprint
