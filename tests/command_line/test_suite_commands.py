"""`highmmt suite`: twins and the list of data files, and the paper's large suite from files to a report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import datasets
import pytest

from highmmt import load_suite


def test_twins_are_written_and_prepare_finds_them(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("suite", "twins", tmp_path, "--data", "mimic, avmnist") == 0
    assert capsys.readouterr().out == f"mimic: {tmp_path / 'mimic'}\navmnist: {tmp_path / 'avmnist'}\n"
    assert tiny.highmmt("suite", "prepare", "multibench-large", "--data-dir", tmp_path) == 1
    said = capsys.readouterr().out
    assert said.count("1 file ") == 7 and said.count(" missing ") == 2
    assert "Missing for mosei: mosei_senti_data.pkl\n  from the folder 'mosei' on the Google Drive" in said
    assert tiny.highmmt("suite", "twins", tmp_path, "--data", "mosei,urfunny") == 0
    assert tiny.highmmt("suite", "prepare", "multibench-large", "--data-dir", tmp_path) == 0
    assert capsys.readouterr().out.endswith("All files are there.\n")


def test_scale_and_seed_of_twins_matter(tiny: ModuleType, tmp_path: Path) -> None:
    for name, options in (("a", []), ("b", ["--seed", "1"]), ("c", ["--scale", "2"])):
        assert tiny.highmmt("suite", "twins", tmp_path / name, "--data", "mimic", *options) == 0
    a, b, c = ((tmp_path / name / "mimic" / "im.pk").read_bytes() for name in "abc")
    assert a != b and len(c) > len(b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite", "twins", "here", "--data", "mimik"], "There is no data set 'mimik'; did you mean 'mimic'?"),
        (["suite", "prepare", "multibench-huge"], "There is no suite 'multibench-huge'; did you mean"),
        (["suite", "prepare", "multibench-large"], "say where they are with --data-dir DIR"),
        (["suite", "prepere"], "No such command 'prepere'"),
        (["inspect", "multibench-large"], "say where they are with --data-dir"),
        (["inspect", "starter", "--data-dir", "."], "no task reads from a data folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tiny: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("Error: ") and said.count("\n") == 1


def test_inspect_shows_a_suite_whose_data_lies_elsewhere(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.highmmt("suite", "twins", tmp_path, "--data", "mimic")
    capsys.readouterr()
    arguments = ["--task", "mimic", "--data-dir", tmp_path, "--output", tmp_path / "mimic.png"]
    assert tiny.highmmt("inspect", "multibench-large", *arguments) == 0
    said = capsys.readouterr().out
    assert "mimic (health): train 96, validation 12, test 12" in said and "24 x 12 x 2" in said


def test_inspect_says_what_the_page_shows(
    tiny: ModuleType, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "processing.md").read_text(encoding="utf-8")
    shown = re.search(r"^\$ highmmt (inspect starter --task liver)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert tiny.highmmt(*shlex.split(shown[1])) == 0
    printed = capsys.readouterr().out
    assert [line.split() for line in shown[2].splitlines() if line.split()] == [
        line.split() for line in printed.splitlines() if line.split()
    ]


def test_inspect_knows_mappings_graphs_and_recordings(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "person": {"age": 20.0 + row, "ward": "east" if row % 2 else None},
            "net": {"nodes": [[float(row), -1.0], [2.0, None]], "edges": [[0, 1]]},
            "sound": {"array": [0.1 * (row % 3)] * 500, "sampling_rate": 8000},
            "label": row % 2,
        }
        for row in range(20)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "my.yaml").write_text(
        """
name: my
modalities: {person: {kind: table}, net: {kind: graph}, sound: {kind: audio, sample_rate_hz: 8000, num_mels: 8}}
tasks:
  my:
    source: {path: parquet, data_files: rows.parquet}
    splits: {validation: 0.25, test: 0.25}
    modalities: {person: person, net: net, sound: sound}
    target: {column: label, problem_type: single_label_classification}
""",
        encoding="utf-8",
    )
    assert tiny.highmmt("inspect", tmp_path / "my.yaml") == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()}
    train = load_suite(tmp_path / "my.yaml").load("my")["train"]
    ages = [person["age"] for person in train["person"]]
    gone = sum(person["ward"] is None for person in train["person"]) / (2 * len(ages))
    assert " ".join(lines["person"]) == f"person table 2 x 4 {min(ages):g} to {max(ages):g} {gone:.1%} 0"
    assert " ".join(lines["net"]).endswith(f"-1 to {max(ages) - 20:g} 25.0% 0")
    assert re.fullmatch(r"sound audio \d+ x 8 -10 to -?[\d.]+ 0 0", " ".join(lines["sound"]))


@pytest.mark.slow
def test_the_large_suite_runs_from_raw_files_to_a_report_and_predictions(tiny: ModuleType, tmp_path: Path) -> None:
    names = "mimic,avmnist,mosei,urfunny"
    assert tiny.highmmt("suite", "twins", tmp_path / "data", "--data", names) == 0
    run = tmp_path / "run"
    command = ["run", "multibench-large", "--data-dir", tmp_path / "data", "--quick", "--output-dir", run]
    assert tiny.highmmt(*command) == 0
    for name in ("heterogeneity/unimodal.json", "heterogeneity/interaction.json", "parameter_groups.json"):
        assert (run / name).is_file()
    assert (run / "report.html").is_file() and (run / "metrics.json").is_file()
    suite = load_suite(run)
    assert suite.tasks["mosei"].source["data_dir"] == str(tmp_path / "data")
    suite.load("urfunny")["test"].to_parquet(tmp_path / "rows.parquet")
    predict = ["predict", run / "finetuned", "--task", "urfunny", "--input", tmp_path / "rows.parquet"]
    assert tiny.highmmt(*predict, "--output", tmp_path / "said.csv") == 0
    assert (tmp_path / "said.csv").read_text(encoding="utf-8").count("\n") == 25


def test_init_writes_a_suite_and_replaces_none(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.Dataset.from_dict({"age": [1.0] * 20, "kind": ["a", "b"] * 10, "nr": [None] * 20}).to_parquet(
        tmp_path / "rows.parquet"
    )
    file = tmp_path / "my.yaml"
    command = ["suite", "init", file, "--from", tmp_path / "rows.parquet"]
    assert tiny.highmmt(*command) == 0
    assert f"{file}: my/table\nLook at it, then: highmmt inspect {file}\n" in capsys.readouterr().out
    before = file.read_text(encoding="utf-8")
    assert tiny.highmmt(*command, "--target", "age") == 2
    assert "is there already; replace it with --force" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == before
    assert tiny.highmmt(*command, "--target", "nr", "--force") == 2  # it is empty
    assert file.read_text(encoding="utf-8") == before
    assert tiny.highmmt("inspect", file) == 0
    assert tiny.highmmt(*command, "--target", "age", "--force") == 0
    assert file.read_text(encoding="utf-8") != before


def test_the_schema_is_printed_or_written(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("suite", "schema") == 0
    printed = json.loads(capsys.readouterr().out)
    assert tiny.highmmt("suite", "schema", "--output", tmp_path / "suite.schema.json") == 0
    assert json.loads((tmp_path / "suite.schema.json").read_text(encoding="utf-8")) == printed
    assert printed["title"] == "Suite of HighMMT"


@pytest.mark.slow
def test_the_page_goes_from_files_to_predictions(
    tiny: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "suites.md").read_text(encoding="utf-8").split("## Your own data")[1].split("\n## ")[0]
    code = re.search(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    exec(compile(code[1], "docs/suites.md", "exec"), {})
    lines = [line.removeprefix("$ highmmt ") for line in page.splitlines() if line.startswith("$ highmmt ")]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert [" ".join(words[:2]) if words[0] == "suite" else words[0] for words in commands] == [
        "suite init", "inspect", "run", "predict"
    ]  # fmt: skip
    for words in commands:
        assert tiny.highmmt(*words, *(["--quick"] if words[0] == "run" else [])) == 0, words
    said = (tmp_path / "said.csv").read_text(encoding="utf-8").splitlines()
    assert len(said) == 21 and said[0].startswith('"row","label","score"')
    assert len(load_suite(tmp_path / "my_suite.yaml").modalities) == 3
