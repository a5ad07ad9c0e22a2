"""`predict`, `evaluate`, `inspect`, `train`, `heterogeneity`, `cluster` and `report` on the tiny suite."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from highmmt import load_suite
from highmmt.configuration import ParameterGroups
from highmmt.modeling_highmmt import HighMMTModel


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of predictions."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return pandas.read_csv(path, keep_default_na=False).to_dict("records")


def in_python(folder: Path, task: str, table: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """What the Auto classes predict for a table of raw rows."""
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        return processor.decode(task, model(**processor(task=task, **table)).logits[task])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_predictions_are_those_of_the_auto_classes_in_the_order_of_the_rows(
    tiny: ModuleType, finished_run: Path, suite_file: Path, tmp_path: Path, suffix: str
) -> None:
    rows, output = suite_file.parent / "tones-test.parquet", tmp_path / f"out{suffix}"
    model = finished_run / "finetuned"
    assert tiny.highmmt("predict", model, "--task", "tones", "--input", rows, "--output", output) == 0
    table = pq.read_table(rows).drop_columns(["label"]).to_pydict()
    found, expected = read(output), in_python(model, "tones", table)
    assert list(found[0]) == ["row", "label", "score", "probability_a", "probability_b", "probability_c"]
    assert [row["row"] for row in found] == list(range(len(expected)))
    for row, sample in zip(found, expected, strict=True):
        assert row["label"] == sample["label"]
        assert row["score"] == sample["score"] == max(sample["probabilities"].values())
        assert {name: row[f"probability_{name}"] for name in "abc"} == sample["probabilities"]
        assert sum(sample["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_samples_of_several_modalities_give_quantities_in_their_own_units(
    tiny: ModuleType, finished_run: Path, suite_file: Path, tmp_path: Path, suffix: str
) -> None:
    table = pq.read_table(suite_file.parent / "walk-test.parquet").to_pydict()
    rows, output = tmp_path / f"rows{suffix}", tmp_path / "out.csv"
    pandas.DataFrame(table).to_parquet(rows) if suffix == ".parquet" else pandas.DataFrame(table).to_json(
        rows, orient="records", lines=True
    )
    model = finished_run / "finetuned"
    assert tiny.highmmt("predict", model, "--task", "walk", "--input", rows, "--output", output) == 0
    expected = in_python(model, "walk", {"series": table["series"], "remark": table["remark"]})
    found = read(output)
    assert list(found[0]) == ["row", "x", "y"]
    for row, sample in zip(found, expected, strict=True):
        assert (row["x"], row["y"]) == pytest.approx((sample["x"], sample["y"]), rel=1e-6)


def test_a_table_of_numbers_is_predicted_from_csv_whatever_other_columns_hold(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows"
    suite = tiny.write_suite_with_rows(rows, {"tasks.signs.modalities.image": None, "modalities.image": None})
    out = tmp_path / "out"
    assert tiny.highmmt("train", suite, "--tasks", "signs", "--quick", "-o", out) == 0
    table = pandas.read_parquet(rows / "signs-test.parquet").drop(columns="image")
    table["label"] = "nobody knows"
    table.to_csv(tmp_path / "rows.csv")
    monkeypatch.chdir(tmp_path)
    assert tiny.highmmt("predict", out / "pretrained", "--task", "signs", "--input", "rows.csv") == 0
    found = read(tmp_path / "rows.predictions.parquet")
    assert {row["label"] for row in found} <= {"stop", "go"}
    assert len(found) == len(table)


def test_more_rows_than_one_batch_keep_their_order(
    tiny: ModuleType, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, table = finished_run / "finetuned", tiny.task_rows("tones", 11, seed=9)
    pandas.DataFrame(table).to_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr("highmmt.commands.BATCH_SIZE", 4)
    arguments = ["--task", "tones", "--input", tmp_path / "rows.parquet", "--output", tmp_path / "out.jsonl"]
    assert tiny.highmmt("predict", model, *arguments) == 0
    found, expected = read(tmp_path / "out.jsonl"), in_python(model, "tones", {"spectrum": table["spectrum"]})
    assert [row["row"] for row in found] == list(range(11))
    np.testing.assert_allclose(
        [row["probability_b"] for row in found], [row["probabilities"]["b"] for row in expected], rtol=1e-5
    )


def test_several_labels_are_written_in_every_format(tiny: ModuleType, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    target = {"column": "label", "problem_type": "multi_label_classification", "classes": ["high", "long"]}
    changes = {"tasks.tones.target": target, "tasks.tones.metric": "accuracy"}
    suite = tiny.write_suite_with_rows(rows, changes)
    for file in rows.glob("tones-*.parquet"):
        table = pandas.read_parquet(file)
        table["label"] = [[label % 2, label // 2] for label in table["label"]]
        table.to_parquet(file)
    out = tmp_path / "out"
    assert tiny.highmmt("train", suite, "--tasks", "tones", "--quick", "-o", out) == 0
    found = {}
    for suffix in (".parquet", ".csv", ".jsonl"):
        arguments = ["--task", "tones", "--input", rows / "tones-test.parquet", "--output", tmp_path / f"out{suffix}"]
        assert tiny.highmmt("predict", out / "pretrained", *arguments) == 0
        found[suffix] = read(tmp_path / f"out{suffix}")
    assert found[".parquet"] == found[".jsonl"]
    for row, texts in zip(found[".parquet"], found[".csv"], strict=True):
        assert row["labels"] == [name for name in ("high", "long") if row[f"probability_{name}"] > 0.5]
        assert json.loads(texts["labels"]) == row["labels"]


@pytest.mark.parametrize("stage", ["pretrained", "finetuned"])
def test_evaluation_repeats_the_numbers_of_the_run(
    tiny: ModuleType, finished_run: Path, suite_file: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    from highmmt.commands import evaluate_folder

    metrics = json.loads((finished_run / "metrics.json").read_text(encoding="utf-8"))
    best = max(metrics["history"][stage], key=lambda epoch: epoch["score"])
    values = evaluate_folder(finished_run / stage, load_suite(suite_file), "validation")
    for task, found in values.items():
        assert found["rows"] == tiny.ROWS["validation"]
        for name in ("loss", metrics["metric"][task]):
            assert found[name] == best["validation"][task][name]
    values = evaluate_folder(finished_run / stage, load_suite(suite_file), "test")
    if stage == "finetuned":
        scores = {task: found[metrics["metric"][task]] for task, found in values.items()}
        assert scores == metrics["methods"]["highmmt"]["mean"]
    assert tiny.highmmt("evaluate", finished_run / stage, suite_file, "--tasks", "walk,tones") == 0
    said = capsys.readouterr().out
    assert "signs" not in said
    assert re.search(rf"walk +16 +\S+ +r2 +{values['walk']['r2']:.3f}", said)


def test_inspection_says_what_the_data_looks_like(
    tiny: ModuleType,
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tiny.highmmt("inspect", suite_file) == 0
    said = capsys.readouterr().out
    assert "signs (vision): train 48, validation 20, test 16; metric accuracy" in said
    raw = pandas.read_parquet(suite_file.parent / "signs-train.parquet")
    numbers = raw[["age", "weight"]].to_numpy()
    share = np.isnan(numbers).mean()
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    assert re.search(rf"table +table +2 x 2 +{low:.4g} to {high:.4g} +{share:.1%} +0", said)
    assert re.search(r"image +image +2 x 2 x 9 +-\S+ to \S+ +0 +0", said)
    assert re.search(r"remark +text +\S+ x token ids +- +- +0", said)
    assert "target: stop 50%, go 50%" in said
    assert "target: a 33%, b 33%, c 33%" in said
    place = np.stack(pandas.read_parquet(suite_file.parent / "walk-train.parquet")["place"])
    assert f"target: x {place[:, 0].mean():.3g} ± " in said
    assert not list(tmp_path.glob("*.png"))
    assert tiny.highmmt("inspect", suite_file, "--task", "tones") == 0
    said = capsys.readouterr().out
    assert "signs" not in said
    assert "row 0 of train: tiny-tones.png" in said
    assert (tmp_path / "tiny-tones.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_a_row_goes_where_it_is_asked_for(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {}
    for row in ("0", "1"):
        path = tmp_path / "pictures" / f"{row}.png"
        assert tiny.highmmt("inspect", suite_file, "--task", "walk", "--row", row, "--output", path) == 0
        pictures[row] = path.read_bytes()
    assert pictures["0"] != pictures["1"]
    capsys.readouterr()
    for arguments, message in (
        (["--output", "a.png"], "choose it with --task"),
        (["--task", "walk", "--output", "a.jpg"], "the picture is a PNG"),
        (["--task", "walk", "--output", tmp_path], "the picture is a PNG"),
        (["--task", "walk", "--row", "48"], "has no row 48; its rows are 0 to 47"),
    ):
        assert tiny.highmmt("inspect", suite_file, *arguments) == 2
        assert message in capsys.readouterr().err


def test_the_stages_one_by_one(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = ["--quick", "--output-dir", out]
    assert tiny.highmmt("heterogeneity", suite_file, *common, "--share", "1", "--seeds", "2") == 0
    said = capsys.readouterr().out
    assert "Heterogeneity, unimodal" in said
    assert "2 signs/table" in said
    unimodal = json.loads((out / "heterogeneity" / "unimodal.json").read_text(encoding="utf-8"))
    assert (unimodal["seeds"], unimodal["settings"]["share"]) == (2, 1.0)
    assert tiny.highmmt("cluster", out, "--unimodal-groups", "3", "--crossmodal-groups", "1") == 0
    groups = ParameterGroups.from_json_file(out / "parameter_groups.json")
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == (3, 1)
    assert tiny.highmmt("train", suite_file, *common, "--seed", "5", "--epochs", "1") == 0
    assert tiny.highmmt("train", suite_file, *common, "--recipe", "finetune") == 0
    assert HighMMTModel.from_pretrained(out / "finetuned").config.groups() == groups
    assert tiny.highmmt("train", suite_file, *common, "--recipe", "single_task") == 0
    for task in ("signs", "walk", "tones"):
        assert list(HighMMTModel.from_pretrained(out / "single_task" / task).config.tasks) == [task]
    assert "Seed 5;" in (out / "pretrained" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert tiny.highmmt("report", out) == 0
    assert capsys.readouterr().out == f"Report: {out / 'report.html'}\n"
    # A comparison makes all of this itself.
    assert tiny.highmmt("run", suite_file, *common) == 2
    assert "holds results of other commands" in capsys.readouterr().err
    assert not tiny.leftovers(tmp_path)
