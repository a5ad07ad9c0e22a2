"""The embedded suite: its facts, its files, its notice."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import pytest

from highmmt.configuration import HighMMTConfig
from highmmt.suites import Suite, load_suite

ROWS = {
    "digits": (1000, 400, 600),
    "parkinson": (151, 38, 63),
    "liver": (769, 187, 320),
    "motion": (684, 260, 258),
    "birds": (1140, 276, 471),
    "push": (1040, 200, 360),
    "vowels": (216, 54, 370),
}


@pytest.fixture(scope="module")
def starter() -> Suite:
    return load_suite("starter")


@pytest.fixture(scope="module")
def loaded(starter: Suite) -> dict[str, datasets.DatasetDict]:
    return {task: starter.load(task) for task in starter.tasks}


@pytest.fixture
def data_folder(starter: Suite) -> Path:
    return starter.path.parent / "starter"


def test_it_has_seven_tasks_eighteen_pairs_and_seventeen_interactions(starter: Suite) -> None:
    assert list(starter.tasks) == list(ROWS)
    assert len(starter.modality_task_pairs()) == 18
    assert len(starter.interactions()) == 17


def test_the_splits_have_the_published_sizes(loaded: dict[str, datasets.DatasetDict]) -> None:
    sizes = {
        task: tuple(len(rows[split]) for split in ("train", "validation", "test")) for task, rows in loaded.items()
    }
    assert sizes == ROWS


def test_a_model_can_be_configured_from_its_processor(starter: Suite) -> None:
    processor = starter.build_processor()
    config = HighMMTConfig(modalities=processor.modality_configs(), tasks=processor.task_configs())
    assert config.modality_task_pairs() == starter.modality_task_pairs()
    assert config.interactions() == starter.interactions()
    for name, modality in config.modalities.items():
        assert modality.num_frequency_bands * modality.max_frequency > 0, name
    for name, task in starter.tasks.items():
        assert list(config.tasks[name].id2label.values()) == task.target.get("classes", task.target.get("names"))


@pytest.mark.parametrize("task", list(ROWS))
def test_every_task_says_where_it_comes_from_and_what_to_compare_with(starter: Suite, task: str) -> None:
    spec = starter.tasks[task]
    assert spec.area and spec.description and spec.licence and spec.citation
    assert 0.7 < spec.reference["value"] < 1 and spec.reference["source"]
    expected = {"parkinson": "auroc", "liver": "auroc", "push": "r2"}
    assert spec.metric == expected.get(task, "accuracy")


def test_every_file_has_the_hash_of_the_list_and_an_entry_in_the_notice(data_folder: Path) -> None:
    listed = dict(line.split()[::-1] for line in (data_folder / "SHA256SUMS").read_text().splitlines())
    files = {file.name: file for file in data_folder.glob("*.parquet")}
    assert set(listed) == set(files) and len(files) == 21
    notice = (data_folder / "NOTICE.md").read_text(encoding="utf-8")
    for name, file in files.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == listed[name], name
        assert f"`{name}`" in notice
    assert {file.suffix for file in data_folder.iterdir()} == {".parquet", ".md", ".txt", ""}


def test_the_notice_has_a_section_with_source_and_licence_for_each_task(starter: Suite, data_folder: Path) -> None:
    notice = (data_folder / "NOTICE.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", notice, flags=re.MULTILINE | re.DOTALL))
    assert list(sections) == list(starter.tasks)
    for task, section in sections.items():
        assert "- Source: " in section and "- Licence: " in section, task
    assert (data_folder / "LGPL-2.0.txt").is_file() and "LGPL-2.0.txt" in sections["liver"]
    assert "David M. Burns" in sections["motion"]


def inputs_of(starter: Suite, task: str, rows: datasets.Dataset) -> list[str]:
    columns = [options["column"] for options in starter.tasks[task].modalities.values()]
    table = rows.select_columns(columns).with_format("arrow")[:]
    return [hashlib.sha256(json.dumps(row).encode()).hexdigest() for row in table.to_pylist()]


@pytest.mark.parametrize("task", list(ROWS))
def test_no_sample_of_one_split_is_in_another(
    starter: Suite, loaded: dict[str, datasets.DatasetDict], task: str
) -> None:
    parts = {split: set(inputs_of(starter, task, rows)) for split, rows in loaded[task].items()}
    shared = {pair: len(parts[pair[0]] & parts[pair[1]]) for pair in combinations(parts, 2)}
    # Six samples of digits stand in the source twice; the notice says so.
    known = {("train", "validation"): 0, ("train", "test"): 5, ("validation", "test"): 0}
    assert shared == (known if task == "digits" else dict.fromkeys(known, 0))


def test_people_and_remarks_stay_in_one_split(loaded: dict[str, datasets.DatasetDict]) -> None:
    people = {split: set(rows["subject"]) for split, rows in loaded["motion"].items()}
    assert people == {"train": {1, 2, 3, 4, 5, 6}, "validation": {7, 8}, "test": {9, 10}}
    remarks = [set(rows["text"]) for rows in loaded["birds"].values()]
    assert not (remarks[0] & remarks[1] or remarks[0] & remarks[2] or remarks[1] & remarks[2])


def test_remarks_are_masked(loaded: dict[str, datasets.DatasetDict]) -> None:
    remarks = [remark for rows in loaded["birds"].values() for remark in rows["text"]]
    assert not any(re.search(r"\d{4}", remark) for remark in remarks)
    assert any("_" in remark for remark in remarks) and any("#" in remark for remark in remarks)


def test_labels_are_class_numbers_and_every_class_can_be_learned(
    starter: Suite, loaded: dict[str, datasets.DatasetDict]
) -> None:
    for task, rows in loaded.items():
        if classes := starter.tasks[task].target.get("classes"):
            assert set(rows["train"]["label"]) == set(range(len(classes))), task
    assert np.array(loaded["push"]["train"]["target"]).shape == (1040, 2)


def test_the_camera_of_push_is_on_at_first_and_off_at_the_end(loaded: dict[str, datasets.DatasetDict]) -> None:
    on = np.array(loaded["push"]["test"].with_format("numpy")["image"]).any(axis=(2, 3))
    assert on[:, 0].all() and not on[:, -5:].any()
    assert 0.6 < 1 - on[:, 1:-5].mean() < 0.8


def test_a_saved_copy_does_not_depend_on_where_the_package_is(starter: Suite, tmp_path: Path) -> None:
    copy = starter.save(tmp_path / "suite.yaml")
    text = copy.read_text(encoding="utf-8")
    assert "package://starter/digits-train.parquet" in text
    assert str(starter.path.parent) not in text
    assert load_suite(copy) == starter
    assert load_suite(copy).fingerprint == starter.fingerprint
    assert len(load_suite(copy).load("vowels")["test"]) == 370


def test_the_cache_of_the_user_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the environment variable of that name sets when `datasets` is first imported.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = load_suite("starter").load("vowels")
    assert all(Path(entry["filename"]).is_relative_to(tmp_path / "cache") for entry in rows["test"].cache_files)
    assert rows["test"].cache_files
