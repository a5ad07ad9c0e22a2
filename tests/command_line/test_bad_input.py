"""What a user can get wrong: one line on stderr that names it, exit code 2, nothing half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def refused(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run a command that must fail, and look for parts of its one-line message."""

    def check(arguments: list[object], *parts: str) -> None:
        capsys.readouterr()
        assert tiny.highmmt(*arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        lines = [line for line in said.err.splitlines() if line[:2] not in ("1/", "2/", "3/", "4/")]
        assert len(lines) == 1, said.err
        assert lines[0].startswith("Error: ")
        for part in parts:
            assert part in lines[0]

    return check


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["rnu"], ["No such command 'rnu'", "See: highmmt --help"]),
        (["run", "starter"], ["Missing option '--output-dir'", "highmmt run --help"]),
        (["run", "starter", "-o", "x", "--quik"], ["No such option: --quik", "--quick"]),
        (["run", "starter", "-o", "x", "--seeds", "0"], ["'--seeds'", "1", "highmmt run --help"]),
        (["train", "starter", "-o", "x", "--recipe", "boil"], ["'boil'", "finetune"]),
        (["run", "startr", "-o", "x"], ["no suite 'startr'", "did you mean 'starter'"]),
        (["run", "here/mine.yaml", "-o", "x"], ["here/mine.yaml: no such file", "starter"]),
        (["run", "starter", "-o", "x", "--tasks", "digit"], ["no task 'digit'", "did you mean 'digits'"]),
        (["run", "starter", "-o", "x", "--tasks", ","], ["select at least one task of digits"]),
        (["run", "starter", "-o", "x", "--tasks", "digits,digits"], ["selected twice"]),
        (["inspect", "starter", "--task", "digit"], ["no task 'digit'"]),
        (["evaluate", "nowhere", "starter"], ["nowhere: there is no such model folder"]),
        (["predict", "nowhere", "--task", "a", "--input", "b.csv"], ["nowhere: there is no such model folder"]),
        (["report", "nowhere"], ["nowhere: there is no such run folder"]),
        (["cluster", "nowhere"], ["nowhere: there is no such run folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unknown_names_and_options(
    refused: Callable[..., None],
    arguments: list[object],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(arguments, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"tasks.signs.modalities.picture": {"column": "image"}}, ["tasks.signs", "unknown modality 'picture'"]),
        (
            {"tasks.signs.modalities.image.column": "picture"},
            ["signs-", "no column 'picture'", "image"],
        ),
        ({"tasks.tones.target.column": "lable"}, ["tasks.tones.target", "no column 'lable'", "'label'"]),
        ({"training.learning_rate": "2e-3"}, ["'tiny', training", "learning_rate='2e-3'"]),
        ({"training.num_unimodal_groups": 6}, ["num_unimodal_groups is 6", "5 modality-task pairs", "leave"]),
        ({"training.num_crossmodal_groups": 3}, ["num_crossmodal_groups is 3", "2 interactions"]),
        ({"tasks.walk.metric": "accuracy"}, ["tasks.walk.metric", "regression"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_suite_that_cannot_be_run(
    refused: Callable[..., None], tiny: ModuleType, suite_file: Path, tmp_path: Path, changes: Any, parts: list[str]
) -> None:
    rows = shutil.copytree(suite_file.parent, tmp_path / "rows")
    wrong = tiny.write_suite(rows, changes)
    refused(["run", wrong, "--quick", "-o", tmp_path / "out"], *parts)
    assert not (tmp_path / "out").exists() or {path.name for path in (tmp_path / "out").iterdir()} == {
        "run.json",
        "suite.yaml",
    }


def _change(path: Path, column: str, change: Callable[[list[Any]], None]) -> None:
    values = pq.read_table(path).to_pydict()
    change(values[column])
    datasets.Dataset.from_dict(values).to_parquet(path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN_DATA: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "missing column": (
        "signs-test.parquet",
        lambda path: pq.write_table(pq.read_table(path).drop_columns(["image"]), path),
        ["tasks.signs", "signs-test.parquet", "no column 'image'"],
    ),
    "wrong shape": (
        "signs-validation.parquet",
        lambda path: _change(path, "image", lambda values: values[4].pop()),
        ["'signs'", "'image'", "row 4"],
    ),
    "missing target": (
        "tones-train.parquet",
        lambda path: _change(path, "label", lambda values: values.__setitem__(5, None)),
        ["'tones'", "'label'", "row 5", "missing"],
    ),
    "NaN target": (
        "walk-train.parquet",
        lambda path: _change(path, "place", lambda values: values[7].__setitem__(1, float("nan"))),
        ["'walk'", "'place'", "row 7", "NaN"],
    ),
    "NaN in an image": (
        "signs-train.parquet",
        lambda path: _change(path, "image", lambda values: values[3][2].__setitem__(1, float("nan"))),
        ["'signs'", "'image'", "row 3"],
    ),
    "unknown class": (
        "tones-validation.parquet",
        lambda path: _change(path, "label", lambda values: values.__setitem__(2, 9)),
        ["'tones'", "'label'", "row 2", "9"],
    ),
    "empty split": (
        "walk-test.parquet",
        lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path),
        ["tasks.walk", "walk-test.parquet"],
    ),
    "truncated": ("tones-train.parquet", _truncate, ["tasks.tones", "tones-train.parquet", "cannot be read"]),
    "no Parquet": (
        "tones-train.parquet",
        lambda path: path.write_text("not Parquet", encoding="utf-8"),
        ["tasks.tones", "tones-train.parquet", "cannot be read"],
    ),
    "no file": ("walk-train.parquet", Path.unlink, ["tasks.walk", "walk-train.parquet does not exist"]),
}


@pytest.mark.parametrize("what", BROKEN_DATA)
def test_broken_data_is_named_and_the_same_command_works_once_it_is_mended(
    refused: Callable[..., None], suite_file: Path, tmp_path: Path, what: str
) -> None:
    file, damage, parts = BROKEN_DATA[what]
    rows = Path(shutil.copytree(suite_file.parent, tmp_path / "rows"))
    damage(rows / file)
    command = ["heterogeneity", rows / suite_file.name, "--quick", "-o", tmp_path / "out"]
    refused(command, *parts)
    found = {path.name for path in (tmp_path / "out").rglob("*")}
    assert found <= {"run.json", "suite.yaml"}
    # With other data the folder is still nobody's: what fails next is the other file, not the folder.
    shutil.copy(suite_file.parent / file, rows / file)
    _truncate(rows / "signs-train.parquet")
    refused(command, "signs-train.parquet", "cannot be read")


def test_an_output_folder_that_is_no_place_for_this_run(
    refused: Callable[..., None], tiny: ModuleType, suite_file: Path, run_copy: Path, tmp_path: Path
) -> None:
    run = ["run", suite_file, "--quick", "-o"]
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    refused([*run, file], str(file), "is a file")
    refused([*run, file / "below"], str(file), "Not a directory")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    refused([*run, tmp_path / "full"], "full is not empty and holds no run")
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    refused(["run", suite_file, "-o", run_copy], "other settings", "pretraining.num_epochs: ", " there, 3 now")
    refused([*run, run_copy, "--seeds", "2"], "other settings", "num_seeds: 1 there, 2 now")
    refused([*run, run_copy, "--tasks", "signs"], "holds a run of suite 'tiny' with other data, tasks or options")
    refused(["heterogeneity", suite_file, "--quick", "--steps", "9", "-o", run_copy], "num_steps: ", " there, 9 now")
    refused(["train", suite_file, "--quick", "-o", run_copy], "`highmmt run` compares", "--output-dir")
    refused(["cluster", run_copy, "--k", "3"], "parameter_groups.json", "--output")
    assert before == {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "file",
    [
        "run.json",
        "heterogeneity/unimodal.json",
        "parameter_groups.json",
        "methods/random-seed0.json",
        "methods/share_none-tones-seed0.json",
    ],
)
def test_a_broken_file_of_a_run_is_named_and_made_again_once_it_is_deleted(
    refused: Callable[..., None], tiny: ModuleType, suite_file: Path, run_copy: Path, finished_run: Path, file: str
) -> None:
    for damage in (_truncate, lambda path: path.write_text("{}", encoding="utf-8")):
        damage(run_copy / file)
        refused(["run", suite_file, "--quick", "-o", run_copy], file)


def test_metrics_that_are_broken_are_written_again(
    refused: Callable[..., None], tiny: ModuleType, suite_file: Path, run_copy: Path, finished_run: Path
) -> None:
    _truncate(run_copy / "metrics.json")
    refused(["report", run_copy], "metrics.json")
    assert tiny.highmmt("run", suite_file, "--quick", "-o", run_copy) == 0
    assert (run_copy / "metrics.json").read_bytes() == (finished_run / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", _truncate),
        ("config.json", _truncate),
        ("config.json", lambda path: path.write_text("[]", encoding="utf-8")),
        ("config.json", lambda path: path.write_text(path.read_text().replace('"d_latents": 8', '"d_latents": 9'))),
        (
            "config.json",
            lambda path: path.write_text(path.read_text().replace('"sum"', '"no"').replace('"walk', '"w')),
        ),
        ("processor_config.json", _truncate),
        ("tokenizer.json", _truncate),
        ("model.safetensors", Path.unlink),
    ],
)
def test_a_broken_model_folder(
    refused: Callable[..., None], suite_file: Path, run_copy: Path, file: str, damage: Callable[[Path], Any]
) -> None:
    folder = run_copy / "finetuned"
    damage(folder / file)
    refused(["evaluate", folder, suite_file], str(folder))


def test_models_and_commands_that_do_not_fit(
    refused: Callable[..., None], tiny: ModuleType, suite_file: Path, finished_run: Path, tmp_path: Path
) -> None:
    model = finished_run / "finetuned"
    refused(["evaluate", model, "starter", "--tasks", "digits"], "no task 'digits'", "signs, walk, tones")
    refused(["report", tmp_path], str(tmp_path), "nothing of a run")
    refused(["cluster", tmp_path], "unimodal.json", "measure the suite first")
    refused(["cluster", finished_run, "--k", "99", "--output", tmp_path / "groups.json"], "k=99", "2 to 7")
    out = tmp_path / "out"
    finetune = ["train", suite_file, "--quick", "-o", out, "--recipe", "finetune"]
    refused(finetune, "no model to clone", "--recipe pretrain")
    shutil.copytree(model, out / "pretrained")
    refused(finetune, "parameter_groups.json: no parameter groups", "highmmt cluster")
    refused([*finetune, "--groups", finished_run / "parameter_groups.json"], "is not empty and holds no run")


def test_files_that_cannot_be_predicted(
    refused: Callable[..., None], finished_run: Path, suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predict = ["predict", finished_run / "finetuned", "--task"]
    rows = Path(shutil.copy(suite_file.parent / "tones-test.parquet", "rows.parquet"))
    original = rows.read_bytes()
    refused([*predict, "tone", "--input", rows], "no task 'tone'", "did you mean 'tones'")
    refused([*predict, "signs", "--input", rows], "'signs'", "no column 'image'", "spectrum, label")
    refused([*predict, "tones", "--input", "none.csv"], "none.csv: no such file")
    refused([*predict, "tones", "--input", tmp_path], str(tmp_path), "folder")
    refused([*predict, "tones", "--input", rows, "--output", rows], "is the input")
    refused([*predict, "tones", "--input", rows, "--output", "out.xlsx"], "out.xlsx", ".parquet, .csv, .jsonl")
    refused([*predict, "tones", "--input", rows, "--output", tmp_path], str(tmp_path), ".parquet")
    Path("notes.txt").write_text("spectrum\n", encoding="utf-8")
    refused([*predict, "tones", "--input", "notes.txt"], "notes.txt", ".parquet, .csv, .json, .jsonl")
    Path("empty.csv").touch()
    refused([*predict, "tones", "--input", "empty.csv"], "empty.csv is empty")
    Path("broken.jsonl").write_text('{"spectrum": [1, 2\n', encoding="utf-8")
    refused([*predict, "tones", "--input", "broken.jsonl"], "broken.jsonl cannot be read as jsonl")
    Path("texts.csv").write_text("spectrum\nloud\n", encoding="utf-8")
    refused([*predict, "tones", "--input", "texts.csv"], "'tones'", "'spectrum'", "row 0")
    pq.write_table(pa.table({"spectrum": pa.array([], pa.list_(pa.float64()))}), "none.parquet")
    refused([*predict, "tones", "--input", "none.parquet"], "none.parquet cannot be read as parquet: it has no rows")
    table = pq.read_table(rows).to_pydict()
    table["spectrum"][6] = table["spectrum"][6][:-1]
    datasets.Dataset.from_dict(table).to_parquet("short.parquet")
    refused([*predict, "tones", "--input", "short.parquet"], "'spectrum'", "row 6")
    assert rows.read_bytes() == original
    _truncate(rows)
    refused([*predict, "tones", "--input", rows], "rows.parquet cannot be read as parquet")
    assert not list(tmp_path.glob("*predictions*"))


def test_places_where_one_may_not_write(
    refused: Callable[..., None], suite_file: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user, root for instance, may write everywhere")
    monkeypatch.chdir(locked)
    refused(["run", suite_file, "--quick", "-o", "out"], "out: Permission denied", "where you may write")
    rows = suite_file.parent / "tones-test.parquet"
    refused(["predict", finished_run / "finetuned", "--task", "tones", "--input", rows], str(locked))
