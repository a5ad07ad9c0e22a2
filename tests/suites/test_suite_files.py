"""Suite files: what they may say, how wrong ones are refused, and how they travel."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import yaml

from highmmt.suites import Suite, available_suites, load_suite


def tiny(path: str = "parquet", suffix: str = "parquet") -> dict[str, Any]:
    """A suite of one task with three modalities, over files that `write_rows` makes."""
    return {
        "name": "tiny",
        "modalities": {
            "vitals": {"kind": "time_series", "max_frequency": 8},
            "table": {"kind": "table"},
            "note": {"kind": "text"},
        },
        "tasks": {
            "ward": {
                "source": {
                    "path": path,
                    "data_files": {split: f"rows/{split}.{suffix}" for split in ("train", "test")},
                },
                "splits": {"validation": 0.25},
                "modalities": {
                    "vitals": "vitals",
                    "table": {"columns": ["age", "weight"]},
                    "note": {"column": "remark"},
                },
                "target": {
                    "column": "outcome",
                    "problem_type": "single_label_classification",
                    "classes": ["well", "ill"],
                },
            }
        },
    }


def rows(count: int, shift: int = 0) -> dict[str, list[Any]]:
    return {
        "vitals": [[[0.5 * step + row, 1.0] for step in range(2 + row % 3)] for row in range(shift, shift + count)],
        "age": [20.0 + row for row in range(shift, shift + count)],
        "weight": [60.0 + row % 7 if row % 4 else None for row in range(shift, shift + count)],
        "remark": [f"seen on day {row % 5}" for row in range(shift, shift + count)],
        "person": [row // 3 for row in range(shift, shift + count)],
        "outcome": ["ill" if row % 3 else "well" for row in range(shift, shift + count)],
    }


def write_rows(folder: Path) -> None:
    (folder / "rows").mkdir(parents=True)
    for split, count, shift in (("train", 24, 0), ("test", 8, 100)):
        data = datasets.Dataset.from_dict(rows(count, shift))
        data.to_parquet(folder / "rows" / f"{split}.parquet")
        data.to_json(folder / "rows" / f"{split}.json")


def write_suite(folder: Path, values: Any, name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path)
    return tmp_path


def changed(path: str, value: Any) -> dict[str, Any]:
    """The tiny suite with the value at a dotted path set; None removes it."""
    values = tiny()
    *parents, last = path.split(".")
    place: Any = values
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return values


def test_a_suite_of_ones_own_gives_rows_and_a_fitted_processor(folder: Path) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    loaded = suite.load("ward")
    assert {split: len(loaded[split]) for split in loaded} == {"train": 18, "validation": 6, "test": 8}
    assert "person" in loaded["train"].column_names
    processor = suite.build_processor()
    encoded = processor.encode("ward", loaded["validation"])
    assert {"vitals", "table", "note", "labels"} <= set(encoded.column_names)
    assert processor.shape("ward", "table").axes == (2,)


def test_another_name_of_a_kind_means_the_kind_and_leaves_no_trace(folder: Path) -> None:
    values = tiny()
    values["modalities"]["vitals"]["vector"] = True
    suite = load_suite(write_suite(folder, values))
    del values["modalities"]["vitals"]["vector"]
    values["modalities"]["vitals"]["kind"] = "sensor"
    renamed = load_suite(write_suite(folder, values, "renamed.yaml"))
    assert renamed == suite and renamed.fingerprint == suite.fingerprint
    assert renamed.modalities["vitals"]["kind"] == "time_series"


def test_defaults_are_filled_in(folder: Path) -> None:
    task = load_suite(write_suite(folder, tiny())).tasks["ward"]
    assert (task.metric, task.batch_size, task.loss_weight, task.evaluation_weight) == ("accuracy", 32, 1.0, 1.0)
    assert task.modalities["vitals"] == {"column": "vitals"}
    assert task.splits == {"train": "train", "validation": 0.25, "test": "test", "seed": 0}


@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_formats_hold_the_same_rows(folder: Path, suffix: str) -> None:
    suite = load_suite(write_suite(folder, tiny(suffix, suffix)))
    assert suite.load("ward")["test"]["outcome"] == rows(8, 100)["outcome"]


def test_a_csv_file_with_a_number_per_column_is_enough_for_a_table(tmp_path: Path) -> None:
    flat = {name: values for name, values in rows(40).items() if name != "vitals"}
    pd.DataFrame(flat).to_csv(tmp_path / "people.csv", index=False)
    values = tiny("csv")
    values["modalities"].pop("vitals")
    task = values["tasks"]["ward"]
    task["modalities"].pop("vitals")
    task["source"] = {"path": "csv", "data_files": "people.csv"}
    task["splits"] = {"validation": 0.2, "test": 0.2, "seed": 3, "group_by": "person"}
    suite = load_suite(write_suite(tmp_path, values))
    people = {split: set(data["person"]) for split, data in suite.load("ward").items()}
    assert not people["train"] & people["test"] and not people["train"] & people["validation"]
    suite.build_processor()


def test_a_saved_folder_is_a_source(tmp_path: Path) -> None:
    saved = {
        split: datasets.Dataset.from_dict(rows(9, shift)) for split, shift in (("train", 0), ("val", 50), ("test", 90))
    }
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "ward")
    values = changed("tasks.ward.source", {"saved": "ward"})
    values["tasks"]["ward"]["splits"] = {"validation": "val"}
    suite = load_suite(write_suite(tmp_path, values))
    before = suite.fingerprint
    loaded = suite.load("ward")
    assert loaded["validation"]["age"][0] == 70.0
    loaded["train"].map(lambda row: {"age": row["age"] + 1})  # leaves a cache in the folder
    assert load_suite(suite.path).fingerprint == before


def test_patterns_name_several_files(folder: Path) -> None:
    values = changed("tasks.ward.source.data_files", {"train": "rows/t*.parquet"})
    values["tasks"]["ward"]["splits"] = {"validation": 0.25, "test": 0.25}
    loaded = load_suite(write_suite(folder, values)).load("ward")
    assert sum(len(data) for data in loaded.values()) == 32


def test_a_suite_in_a_run_folder_is_found(folder: Path) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    suite.save(folder / "runs" / "mine" / "suite.yaml")
    assert load_suite(folder / "runs" / "mine") == suite


def test_a_saved_suite_loads_again_from_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    again = load_suite(suite.save(tmp_path_factory.mktemp("elsewhere") / "copy.yaml"))
    assert again == suite
    assert again.fingerprint == suite.fingerprint
    assert again.load("ward")["test"]["age"] == suite.load("ward")["test"]["age"]
    assert not list(again.path.parent.glob(".*.tmp"))


def test_a_suite_made_from_its_own_dict_equals_it(folder: Path) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    assert Suite.from_dict(suite.to_dict()) == suite
    assert Suite.from_dict(tiny(), base=folder) == suite
    assert Suite.from_dict(tiny(), base=folder).fingerprint == suite.fingerprint


def test_the_dict_of_a_suite_is_a_copy(folder: Path) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    kept = copy.deepcopy(suite.to_dict())
    suite.to_dict()["tasks"]["ward"]["modalities"]["note"]["column"] = "other"
    suite.to_dict()["modalities"]["note"]["kind"] = "set"
    assert suite.to_dict() == kept


def test_the_fingerprint_is_the_same_for_a_copy_of_suite_and_data(tmp_path: Path) -> None:
    prints = []
    for name in ("here", "there"):
        write_rows(tmp_path / name)
        prints.append(load_suite(write_suite(tmp_path / name, tiny())).fingerprint)
    assert prints[0] == prints[1] and len(prints[0]) == 64


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tasks.ward.batch_size", 7),
        ("tasks.ward.metric", "auroc"),
        ("tasks.ward.loss_weight", 0.5),
        ("tasks.ward.splits.validation", 0.5),
        ("tasks.ward.target.classes", ["ill", "well"]),
        ("modalities.vitals.max_frequency", 9),
        ("tasks.ward.modalities.note.column", "outcome"),
    ],
)
def test_what_can_change_a_result_changes_the_fingerprint(folder: Path, path: str, value: Any) -> None:
    before = Suite.from_dict(tiny(), base=folder).fingerprint
    assert Suite.from_dict(changed(path, value), base=folder).fingerprint != before


def test_words_do_not_change_the_fingerprint_but_data_and_order_do(folder: Path) -> None:
    before = Suite.from_dict(tiny(), base=folder).fingerprint
    words = changed("tasks.ward.description", "A ward.")
    words["tasks"]["ward"]["reference"] = {"value": 0.5, "source": "a coin"}
    assert Suite.from_dict(words, base=folder).fingerprint == before
    turned = tiny()
    turned["tasks"]["ward"]["modalities"] = dict(reversed(turned["tasks"]["ward"]["modalities"].items()))
    assert Suite.from_dict(turned, base=folder).fingerprint != before
    datasets.Dataset.from_dict(rows(8, 200)).to_parquet(folder / "rows" / "test.parquet")
    assert Suite.from_dict(tiny(), base=folder).fingerprint != before


def test_a_changed_file_is_read_anew(folder: Path) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    assert len(suite.load("ward")["test"]) == 8
    datasets.Dataset.from_dict(rows(5, 200)).to_parquet(folder / "rows" / "test.parquet")
    assert len(suite.load("ward")["test"]) == 5


SPLIT_ERROR = "must be the name of a split or a fraction between 0 and 1"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metrics", {}, "unknown key 'metrics'"),
        (
            "tasks.ward.metrik",
            "auroc",
            "line {metrik}, tasks.ward.metrik: unknown key 'metrik'; did you mean 'metric'?",
        ),
        ("tasks.ward.source", None, "tasks.ward: the key 'source' is missing"),
        ("tasks", {}, "a suite needs at least one task"),
        ("tasks", ["ward"], "tasks: must be a mapping"),
        ("name", None, "the key 'name' is missing"),
        ("name", "my suite", "the suite's name may hold letters"),
        ("modalities.vitals.kind", "timeseries", "unknown value 'timeseries'; did you mean 'time_series'?"),
        ("modalities.vitals.kind", "forse", "unknown value 'forse'; did you mean 'force'?"),
        ("modalities.vitals.kind", None, "the key 'kind' is missing; kinds: image"),
        ("modalities.vitals.windw", 2, "unknown key 'windw'; did you mean 'window'?"),
        ("modalities.vitals.window", 0, "modalities.vitals.window: time_series: window=0"),
        ("modalities.vitals.max_frequency", -1, "max_frequency=-1"),
        ("modalities.row", {"kind": "table"}, "'row' has another meaning"),
        ("modalities.idle", {"kind": "table"}, "no task uses the modality 'idle'"),
        (
            "tasks.ward.modalities.vital",
            {},
            "unknown modality 'vital'; did you mean 'vitals'? Modalities: vitals, table",
        ),
        ("tasks.ward.modalities", {}, "a task needs at least one modality"),
        ("tasks.ward.modalities.note.colum", "x", "unknown key 'colum'; did you mean 'column'?"),
        ("tasks.ward.modalities.note.columns", ["x"], "unknown key 'columns'"),
        ("tasks.ward.modalities.table.column", "x", "'column' or 'columns', not both"),
        ("tasks.ward.modalities.table.columns", "age", "must be a list of columns' names"),
        ("tasks.ward.target.column", None, "the key 'column' is missing"),
        ("tasks.ward.target.problem_type", "classification", "unknown value 'classification'"),
        ("tasks.ward.target.problem_type", "regression", "a regression has no classes"),
        ("tasks.ward.target.classes", [False, True], "put it in quotes (YAML reads a bare yes, no, on or off"),
        ("tasks.ward.target.classes", ["ill", "ill"], "a name stands there twice"),
        ("tasks.ward.target.classes", ["ill"], "at least two classes"),
        ("tasks.ward.target.names", ["a"], "'names' is for regression"),
        ("tasks.ward.target.num_steps", 0, "tasks.ward.target.num_steps: must be a whole number, 1 or more"),
        ("tasks.ward.target.projection_dim", 8, "'projection_dim' is not for single_label_classification"),
        ("tasks.ward.target", {"problem_type": "retrieval", "num_steps": 3}, "'num_steps' is not for retrieval"),
        ("tasks.ward.target", {"problem_type": "retrieval", "projection_dim": 1}, "2 or more, got 1"),
        ("tasks.ward.target", {"problem_type": "retrieval", "names": ["a"]}, "'names' is not for a retrieval"),
        ("tasks.ward.target", {"problem_type": "retrieval", "column": 3}, "must be a column's name, got 3"),
        ("tasks.ward.target", {"problem_type": "retrieval"}, "has exactly two, not 3"),
        ("tasks.ward.metric", "acuracy", "unknown value 'acuracy'; did you mean 'accuracy'? Choices: accuracy"),
        ("tasks.ward.metric", "r2", "'r2' does not measure single_label_classification"),
        ("tasks.ward.batch_size", 0, "must be a whole number, 1 or more, got 0"),
        ("tasks.ward.batch_size", True, "must be a whole number"),
        ("tasks.ward.loss_weight", -1, "must be a number, 0 or more"),
        ("tasks.ward.evaluation_weight", float("nan"), "must be a number, 0 or more"),
        ("tasks.ward.reference", {"source": "x"}, "the key 'value' is missing"),
        ("tasks.ward.reference", {"value": "high"}, "must be a number, got 'high'"),
        ("tasks.ward.area", 3, "must be text"),
        ("tasks.ward.source.split", "train", "name the splits under 'splits'"),
        ("tasks.ward.source.token", "hf_x", "a suite file is no place for a secret"),
        ("tasks.ward.source.data_file", "x", "unknown key 'data_file'; did you mean 'data_files'?"),
        ("tasks.ward.source.path", None, "needs 'path'"),
        ("tasks.ward.source.data_files", None, "path: parquet needs 'data_files'"),
        ("tasks.ward.source.data_files", {"train": 3}, "must be a path or a list of paths"),
        ("tasks.ward.source.saved", "ward", "unknown key 'path'"),
        ("tasks.ward.splits.validation", 1.5, SPLIT_ERROR),
        ("tasks.ward.splits.validation", True, SPLIT_ERROR),
        ("tasks.ward.splits.train", 0.5, "must be the name of a split, got 0.5; it keeps the rest"),
        ("tasks.ward.splits.validation", "test", "two splits read the same rows"),
        ("tasks.ward.splits", {"validation": 0.6, "test": 0.4}, "leave nothing to train on"),
        ("tasks.ward.splits", {"validation": "test", "test": "other", "seed": 1}, "'seed' needs a fraction"),
        ("tasks.ward.splits.seed", -1, "must be a whole number, 0 or more"),
        ("tasks.ward.splits.group", "person", "unknown key 'group'; did you mean 'group_by'?"),
    ],
)
def test_a_wrong_suite_file_is_refused_with_its_name_and_the_key(
    folder: Path, path: str, value: Any, message: str
) -> None:
    file = write_suite(folder, changed(path, value))
    with pytest.raises(ValueError) as caught:
        load_suite(file)
    lines = {line.strip().split(":")[0]: number for number, line in enumerate(file.read_text().splitlines(), 1)}
    assert message.format(**lines) in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("- a\n- b\n", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("name: [a\ntasks: {", "not readable as YAML"),
        ("name: a\n\tmodalities: {}", "line 2: not readable as YAML"),
        ("name: a\ntasks: {}\nname: b\n", "line 3: the key 'name' stands here and on line 1"),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1: not readable as YAML"),
        ("name: &a\n  b: *a\n", "line 1: aliases that repeat themselves"),
        ("name: a\nmodalities: {}\ntasks: {1: {}}\n", "line 3, tasks.1: key 1 is not text; put it in quotes"),
        ("? [a, b]\n: 1\n", "not readable as YAML"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_suite(write_suite(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ValueError, match="not a text file"):
        load_suite(tmp_path / "x.yaml")


def test_aliases_in_yaml_share_nothing_afterwards(folder: Path) -> None:
    values = tiny()
    values["tasks"]["second"] = values["tasks"]["ward"]  # safe_dump writes an alias
    suite = load_suite(write_suite(folder, values))
    assert suite.tasks["ward"] == suite.tasks["second"]
    assert suite.tasks["ward"].target is not suite.tasks["second"].target


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "startr",
            ValueError,
            "There is no suite 'startr'; did you mean 'starter'? Suites of this package: multibench-large, ",
        ),
        ("nothing.yaml", FileNotFoundError, "nothing.yaml: no such file. Suites of this package: multibench-large, "),
        ("folder/nothing", FileNotFoundError, "no such file"),
        (".", FileNotFoundError, "a folder without suite.yaml"),
    ],
)
def test_an_unknown_suite_is_refused_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        load_suite(name)
    assert message in str(caught.value)
    assert "starter" in available_suites()


@pytest.mark.parametrize("method", ["load", "task"])
def test_an_unknown_task_is_refused_with_the_known_ones(folder: Path, method: str) -> None:
    suite = load_suite(write_suite(folder, tiny()))
    with pytest.raises(ValueError, match="Suite 'tiny' has no task 'wards'; did you mean 'ward'\\? Tasks: ward"):
        getattr(suite, method)("wards")


def test_selecting_keeps_the_given_order_and_drops_unused_modalities() -> None:
    suite = load_suite("starter").select(["vowels", "motion"])
    assert list(suite.tasks) == ["vowels", "motion"]
    assert set(suite.modalities) == {"cepstra", "accelerometer", "gyroscope"}
    assert suite.select("motion").modality_task_pairs() == ["motion/accelerometer", "motion/gyroscope"]
    assert suite.fingerprint != load_suite("starter").fingerprint


@pytest.mark.parametrize(
    ("tasks", "message"),
    [([], "select at least one"), (["motion", "motion"], "selected twice"), (["zoo"], "has no task 'zoo'")],
)
def test_impossible_selections_are_refused(tasks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_suite("starter").select(tasks)
