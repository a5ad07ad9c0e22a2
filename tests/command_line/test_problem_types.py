"""A suite with a retrieval, sequences of targets and classes, from `run` to `predict`."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoProcessor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mixed(root: Path) -> ModuleType:
    path = root / "tests" / "train" / "mixed_suite.py"
    spec = importlib.util.spec_from_file_location("mixed_suite", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mixed_file(mixed: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    mixed.write_rows(folder)
    path = folder / "mixed.yaml"
    path.write_text(yaml.safe_dump(mixed.suite_values(), sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def mixed_run(tiny: ModuleType, mixed_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run; read only."""
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    assert tiny.highmmt("run", mixed_file, "--quick", "--output-dir", folder) == 0
    return folder


def predicted(tiny: ModuleType, run: Path, rows: Path, task: str, output: Path) -> list[dict[str, Any]]:
    assert tiny.highmmt("predict", run / "finetuned", "--task", task, "--input", rows, "--output", output) == 0
    return pq.read_table(output).to_pylist()


def test_a_run_goes_all_the_way(mixed_run: Path) -> None:
    metrics = json.loads((mixed_run / "metrics.json").read_text(encoding="utf-8"))
    expected = {"find": "recall_at_5", "walk": "rmse", "phase": "accuracy", "kind": "accuracy"}
    assert metrics["metric"] == expected
    for method in metrics["methods"].values():
        assert method["mean"].keys() == expected.keys()
        assert all(math.isfinite(value) for value in method["mean"].values())
    groups = json.loads((mixed_run / "parameter_groups.json").read_text(encoding="utf-8"))
    assert {"find/table", "find/spectrum"} <= groups["unimodal"].keys()
    assert list(groups["crossmodal"]) == ["kind/spectrum+table"]
    page = (mixed_run / "report.html").read_text(encoding="utf-8")
    assert "recall_at_5" in page
    card = ModelCard.load(mixed_run / "finetuned" / "README.md")
    results = {result.task_name: result for result in card.data.eval_results}
    assert (results["find"].task_type, results["find"].metric_type) == ("feature-extraction", "recall")
    assert results["find"].metric_args == {"k": 5}
    assert "# Raw samples of 'find' to search among, a dict of lists, table, spectrum" in card.text


def test_the_code_of_the_model_card_searches_among_its_samples(mixed_run: Path, mixed_file: Path) -> None:
    code = re.search(r"```python\n(.*?)```", ModelCard.load(mixed_run / "finetuned" / "README.md").text, re.DOTALL)
    assert code is not None
    samples = pq.read_table(mixed_file.parent / "find-test.parquet").drop_columns(["item"]).to_pydict()
    text = code.group(1).replace("path/to/this/folder", str(mixed_run / "finetuned"))
    *statements, last = text.strip().splitlines()
    namespace: dict[str, Any] = {"samples": samples}
    exec("\n".join(statements), namespace)
    found = eval(last, namespace)
    assert [len(row["spectrum_matches"]) for row in found[:4]] == [10] * 4
    assert found[3]["table_matches"] == []  # it has no spectrum to search by


def test_evaluation_repeats_the_numbers_of_the_run(
    tiny: ModuleType, mixed_run: Path, mixed_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from highmmt import load_suite
    from highmmt.commands import evaluate_folder

    metrics = json.loads((mixed_run / "metrics.json").read_text(encoding="utf-8"))
    (epoch,) = metrics["history"]["finetuned"]
    values = evaluate_folder(mixed_run / "finetuned", load_suite(mixed_file), "validation")
    for task, name in metrics["metric"].items():
        assert values[task]["loss"] == epoch["validation"][task]["loss"]
        assert values[task][name] == epoch["validation"][task][name]
    assert tiny.highmmt("evaluate", mixed_run / "finetuned", mixed_file) == 0
    score = metrics["methods"]["highmmt"]["mean"]["find"]
    assert re.search(rf"find +20 +\S+ +recall_at_5 +{score:.3f}", capsys.readouterr().out)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_matches_within_a_file_are_written_in_every_format(
    tiny: ModuleType, mixed_run: Path, mixed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    rows = mixed_file.parent / "find-test.parquet"
    samples = pq.read_table(rows).drop_columns(["item"]).to_pydict()
    model = AutoModel.from_pretrained(mixed_run / "finetuned").eval()
    processor = AutoProcessor.from_pretrained(mixed_run / "finetuned")
    with torch.no_grad():
        expected = processor.decode("find", model(**processor(task="find", **samples)).logits["find"])
    # All rows are searched, however few of them the model reads at a time.
    monkeypatch.setattr("highmmt.commands.BATCH_SIZE", 7)
    output = tmp_path / f"out{suffix}"
    command = ["predict", mixed_run / "finetuned", "--task", "find", "--input", rows, "--output", output]
    assert tiny.highmmt(*command) == 0
    if suffix == ".parquet":
        found = pq.read_table(output).to_pylist()
    elif suffix == ".jsonl":
        found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    else:
        import pandas

        table = pandas.read_csv(output).to_dict("records")
        found = [{key: json.loads(value) if key != "row" else value for key, value in row.items()} for row in table]
    names = ["row", "spectrum_matches", "spectrum_scores", "table_matches", "table_scores"]
    assert list(found[0]) == names
    assert [row["row"] for row in found] == list(range(20))
    for row, sample in zip(found, expected, strict=True):
        for key in names[1:]:
            assert row[key] == pytest.approx(sample[key], rel=1e-4)
    # Row 3 has no spectrum: nothing finds it by one, and it finds nothing by one.
    assert found[3]["table_matches"] == [] and len(found[3]["spectrum_matches"]) == 10
    assert all(3 not in row["spectrum_matches"] for row in found)
    assert any(3 in row["table_matches"] for row in found)


def test_predictions_of_sequences_are_lists_in_the_table(
    tiny: ModuleType, mixed_run: Path, mixed_file: Path, tmp_path: Path
) -> None:
    places = predicted(tiny, mixed_run, mixed_file.parent / "walk-test.parquet", "walk", tmp_path / "walk.parquet")
    assert list(places[0]) == ["row", "x", "y"]
    assert {len(row["x"]) for row in places} == {len(row["y"]) for row in places} == {4}
    steps = predicted(tiny, mixed_run, mixed_file.parent / "phase-test.parquet", "phase", tmp_path / "phase.parquet")
    assert list(steps[0]) == ["row", "label", "score", "probability_up", "probability_down"]
    for row in steps:
        chances = list(zip(row["probability_up"], row["probability_down"], strict=True))
        assert row["label"] == ["up" if up >= down else "down" for up, down in chances]
        assert [up + down for up, down in chances] == pytest.approx([1] * 3)


def test_inspection_says_what_the_targets_are(
    tiny: ModuleType, mixed_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("inspect", mixed_file) == 0
    said = capsys.readouterr().out
    # 64 rows, of which every eighth has the item of the next.
    assert "target: table by spectrum and back, 56 items in 64 rows" in said
    assert re.search(r"target: 4 steps \(\d\d% with a target\): x \S+ ± \S+, y ", said)
    assert re.search(r"target: 3 steps \(\d\d% with a target\): up \d\d%, down \d\d%", said)
