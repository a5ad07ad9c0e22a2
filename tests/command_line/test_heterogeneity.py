"""`highmmt heterogeneity`: what it says before it starts, what it measures, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest


def test_a_dry_run_counts_runs_and_writes_nothing(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["heterogeneity", suite_file, "--steps", "3", "--budget", "1", "--seeds", "2", "-o", out]
    assert tiny.highmmt(*command, "--dry-run") == 0
    counts = re.findall(
        r"^(\w+): (\d+) runs, (\d+) of them finished; about \d+ min \d+ s", capsys.readouterr().out, re.M
    )
    assert not out.exists()
    assert tiny.highmmt(*command) == 0
    for kind, runs, finished in counts:
        log = (out / "heterogeneity" / "runs" / f"{kind}-runs.jsonl").read_text(encoding="utf-8").splitlines()
        assert (len(log) - 1, finished) == (int(runs), "0")
        assert json.loads((out / "heterogeneity" / f"{kind}.json").read_text())["excluded"] == {}
    capsys.readouterr()
    assert tiny.highmmt(*command, "--dry-run") == 0
    said = capsys.readouterr().out
    for kind, runs, _ in counts:
        assert f"{kind}: {runs} runs, {runs} of them finished; about 0 min 0 s" in said


@pytest.mark.parametrize(("option", "value"), [("--method", "feature"), ("--loss-scale", "metric")])
def test_options_reach_the_matrix(tiny: ModuleType, suite_file: Path, tmp_path: Path, option: str, value: str) -> None:
    command: list[Any] = ["heterogeneity", suite_file, "--quick", "-o", tmp_path / "out", option, value]
    assert tiny.highmmt(*command) == 0
    matrix = json.loads((tmp_path / "out" / "heterogeneity" / "unimodal.json").read_text(encoding="utf-8"))
    assert matrix["settings"][option[2:].replace("-", "_")] == value


def test_one_node_alone_is_refused_before_anything_starts(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("heterogeneity", suite_file, "--tasks", "tones", "-o", tmp_path / "out") == 2
    assert "tones/spectrum alone; heterogeneity compares at least two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_matrix_of_another_version_is_refused(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: list[Any] = ["heterogeneity", suite_file, "--quick", "-o", tmp_path / "out"]
    assert tiny.highmmt(*command) == 0
    file = tmp_path / "out" / "heterogeneity" / "unimodal.json"
    matrix = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**matrix, "version": matrix["version"] + 1}), encoding="utf-8")
    capsys.readouterr()
    assert tiny.highmmt(*command) == 2
    assert "unimodal.json was measured by version 3 of the measurement, now it is 2" in capsys.readouterr().err


def test_a_node_that_is_left_out_is_named_and_has_a_group_of_its_own(
    tiny: ModuleType,
    suite_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from highmmt.heterogeneity import TransferMeasurement

    null_loss = TransferMeasurement.null_loss

    def constant(self: TransferMeasurement, node: str) -> float:
        if node == "tones/spectrum":
            raise ValueError("tones/spectrum: the target of the train rows is constant")
        return null_loss(self, node)

    monkeypatch.setattr(TransferMeasurement, "null_loss", constant)
    out = tmp_path / "out"
    assert tiny.highmmt("heterogeneity", suite_file, "--quick", "-o", out) == 0
    assert "Left out: tones/spectrum: the target" in capsys.readouterr().err
    assert tiny.highmmt("cluster", out, "--unimodal-groups", "2") == 0
    groups = json.loads((out / "parameter_groups.json").read_text(encoding="utf-8"))["unimodal"]
    assert groups["tones/spectrum"] == 2 and sorted(set(groups.values())) == [0, 1, 2]
    assert [node for node, group in groups.items() if group == 2] == ["tones/spectrum"]


def _write(path: Path, column: str, change: Callable[[list[Any]], Any]) -> None:
    values = pq.read_table(path).to_pydict()
    change(values[column])
    datasets.Dataset.from_dict(values).to_parquet(path)


@pytest.mark.parametrize(
    ("file", "column", "change", "left_out", "reason"),
    [
        (
            "tones-validation.parquet",
            "label",
            lambda values: values.__setitem__(slice(None), [1] * len(values)),
            ["tones/spectrum"],
            "the target of the validation rows that have this input is constant",
        ),
        (
            "walk-train.parquet",
            "place",
            lambda values: values.__setitem__(slice(None), [[1.0, 2.0]] * len(values)),
            ["walk/series", "walk/remark"],
            "the target of the train rows that have this input is constant",
        ),
        (
            "walk-validation.parquet",
            "place",
            lambda values: values[3].__setitem__(1, 1e30),
            ["walk/series", "walk/remark"],
            "the validation result after step 2 is inf",
        ),
    ],
    ids=["one class", "constant target", "diverges"],
)
def test_the_sweep_goes_on_without_what_cannot_be_measured(
    tiny: ModuleType,
    suite_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    column: str,
    change: Callable[[list[Any]], Any],
    left_out: list[str],
    reason: str,
) -> None:
    rows, out = Path(shutil.copytree(suite_file.parent, tmp_path / "rows")), tmp_path / "out"
    _write(rows / file, column, change)
    command = ["heterogeneity", rows / suite_file.name, "--quick", "--budget", "1", "-o", out]
    assert tiny.highmmt(*command) == 0
    said = capsys.readouterr().err
    matrix = json.loads((out / "heterogeneity" / "unimodal.json").read_text(encoding="utf-8"))
    for node in left_out:
        assert f"Left out: {node}: {reason}" in said
    assert "Diverged, imputed" not in said  # what is left out has no entry to impute
    assert list(matrix["excluded"]) == left_out and not set(left_out) & set(matrix["nodes"])
    assert sum(sum(row) for row in matrix["measured"]) == len(matrix["nodes"]) * (len(matrix["nodes"]) - 1)


def test_a_suite_of_which_nothing_can_be_measured_is_refused(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path(shutil.copytree(suite_file.parent, tmp_path / "rows"))
    fast = tiny.write_suite(rows, {"training.learning_rate": 1e30}, "fast.yaml")
    assert tiny.highmmt("heterogeneity", fast, "--quick", "-o", tmp_path / "fast") == 2
    assert "The models of all nodes diverge. signs/image: the training loss of step 2" in capsys.readouterr().err
    for task in ("signs", "walk", "tones"):
        validation = rows / f"{task}-validation.parquet"
        pq.write_table(pq.read_table(validation).slice(0, 0), validation)
    command = ["heterogeneity", rows / suite_file.name, "--quick", "-o", tmp_path / "empty"]
    assert tiny.highmmt(*command) == 2
    said = capsys.readouterr().err
    assert "No node can be measured." in said and "tasks.walk: the validation split has no rows" in said
    assert not list((tmp_path / "empty").rglob("*-runs.jsonl"))


@pytest.mark.parametrize("method", ["transfer", "feature"])
def test_the_sweep_goes_on_without_a_task_that_has_no_validation_rows(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    rows, out = Path(shutil.copytree(suite_file.parent, tmp_path / "rows")), tmp_path / "out"
    validation = rows / "walk-validation.parquet"
    pq.write_table(pq.read_table(validation).slice(0, 0), validation)
    command: list[Any] = ["heterogeneity", rows / suite_file.name, "--quick", "--method", method, "-o", out]
    assert tiny.highmmt(*command, "--dry-run") == 0
    assert "tasks.walk: the validation split has no rows" in capsys.readouterr().out and not out.exists()
    assert tiny.highmmt(*command) == 0
    assert "Left out: walk/remark: " in (said := capsys.readouterr().err) and str(validation) in said
    for kind, left_out in (("unimodal", ["walk/series", "walk/remark"]), ("interaction", ["walk/series+remark"])):
        matrix = json.loads((out / "heterogeneity" / f"{kind}.json").read_text(encoding="utf-8"))
        assert list(matrix["excluded"]) == left_out and not set(left_out) & set(matrix["nodes"])
    assert tiny.highmmt("cluster", out, "--unimodal-groups", "2") == 0
    groups = json.loads((out / "parameter_groups.json").read_text(encoding="utf-8"))
    assert sorted(groups["unimodal"].values()) == [0, 0, 1, 2, 3] and len(groups["crossmodal"]) == 2
    if method == "transfer":  # training cannot do without
        assert tiny.highmmt("run", rows / suite_file.name, "--quick", "-o", tmp_path / "run") == 2
        assert "tasks.walk: the validation split has no rows" in capsys.readouterr().err


def test_a_suite_whose_only_interaction_cannot_be_measured_has_an_empty_matrix_and_goes_on(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "tasks.walk.modalities.remark": None,
        "modalities.remark": None,
        "training.num_crossmodal_groups": None,
    }
    suite, out = tiny.write_suite_with_rows(tmp_path / "rows", changes), tmp_path / "out"
    _write(
        tmp_path / "rows" / "signs-validation.parquet",
        "label",
        lambda labels: labels.__setitem__(slice(None), [1] * 20),
    )
    assert tiny.highmmt("heterogeneity", suite, "--quick", "-o", tmp_path / "measured") == 0
    assert "Left out: signs/image+table: the target of the validation rows" in capsys.readouterr().err
    matrix = json.loads((tmp_path / "measured" / "heterogeneity" / "interaction.json").read_text(encoding="utf-8"))
    assert matrix["nodes"] == [] and list(matrix["excluded"]) == ["signs/image+table"]
    assert tiny.highmmt("cluster", tmp_path / "measured") == 0
    assert tiny.highmmt("run", suite, "--quick", "-o", out) == 0
    groups = json.loads((out / "parameter_groups.json").read_text(encoding="utf-8"))
    assert groups["crossmodal"] == {"signs/image+table": 0} and len(groups["unimodal"]) == 4


def test_what_the_matrices_cost_is_said_and_the_time_of_stopped_calls_counts(
    tiny: ModuleType,
    suite_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from highmmt.heterogeneity import TransferMeasurement

    command: list[Any] = ["heterogeneity", suite_file, "--quick", "--seed", "5", "-o", tmp_path / "out"]
    train, seconds = TransferMeasurement._train, tmp_path / "out" / "heterogeneity" / "seconds.json"

    def stopped(self: TransferMeasurement, *arguments: Any, **options: Any) -> Any:
        if len(self.log.losses) >= 3:
            raise KeyboardInterrupt
        return train(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TransferMeasurement, "_train", stopped)
        assert tiny.highmmt(*command) == 130
    before = json.loads(seconds.read_text(encoding="utf-8"))["heterogeneity, unimodal"]
    capsys.readouterr()
    assert tiny.highmmt(*command) == 0
    said = capsys.readouterr().out
    after = json.loads(seconds.read_text(encoding="utf-8"))
    assert 0 < before < after["heterogeneity, unimodal"]
    shown = {kind: f"{value:.1f}" for kind, value in after.items()}
    assert (
        f"Cost: unimodal 7 runs in {shown['heterogeneity, unimodal']} s; "
        f"interaction 4 runs in {shown['heterogeneity, interaction']} s"
    ) in said
    matrix = json.loads((tmp_path / "out" / "heterogeneity" / "unimodal.json").read_text(encoding="utf-8"))
    assert matrix["settings"]["seed"] == 5
    assert tiny.highmmt(*command) == 0
    assert capsys.readouterr().out == said


def test_a_folder_of_another_suite_seed_or_version_is_refused_and_left_as_it_is(
    tiny: ModuleType, suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command: list[Any] = ["heterogeneity", suite_file, "--quick", "-o", out]
    assert tiny.highmmt(*command) == 0
    for kind in ("unimodal", "interaction"):
        (out / "heterogeneity" / f"{kind}.json").unlink()  # as if the sweep had been stopped
    log = out / "heterogeneity" / "runs" / "unimodal-runs.jsonl"
    finished = log.read_text(encoding="utf-8")
    mixed = "unimodal-runs.jsonl holds runs of another suite, other settings or another version"

    def refused(arguments: list[Any], message: str) -> None:
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for also, expected in (([], message), (["--dry-run"], mixed)):
            capsys.readouterr()
            assert tiny.highmmt(*arguments, *also) == 2
            assert expected in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    other = tmp_path / "other"
    shutil.copytree(suite_file.parent, other)
    _write(other / "tones-train.parquet", "label", lambda labels: labels.reverse())
    refused(["heterogeneity", other / suite_file.name, "--quick", "-o", out], "with other data, tasks or options")
    refused([*command, "--tasks", "signs,walk"], "with other data, tasks or options")
    refused([*command, "--seeds", "2"], mixed)
    first, rest = finished.split("\n", 1)
    for change in ({"version": 1}, {"suite": "of another time"}):
        log.write_text(json.dumps({**json.loads(first), **change}) + "\n" + rest, encoding="utf-8")
        refused(command, mixed)
    owner = json.loads(first)
    owner["settings"]["seed"] = 5
    log.write_text(json.dumps(owner) + "\n" + rest, encoding="utf-8")
    refused(command, mixed)
    log.write_text(finished, encoding="utf-8")
    assert tiny.highmmt(*command) == 0 and log.read_text(encoding="utf-8") == finished


@pytest.mark.slow
def test_a_sweep_that_was_killed_outright_repeats_nothing(tiny: ModuleType, suite_file: Path, tmp_path: Path) -> None:
    command: list[Any] = ["heterogeneity", suite_file, "--steps", "12", "--budget", "1", "-o"]
    log = tmp_path / "killed" / "heterogeneity" / "runs" / "unimodal-runs.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "highmmt", *map(str, command), str(tmp_path / "killed")]
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not log.exists() or log.read_text(encoding="utf-8").count("\n") < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert process.returncode != 0
    before = log.read_text(encoding="utf-8")
    assert 3 <= before.count("\n") - 1 < 25, "it was killed after the last run"
    assert tiny.highmmt(*command, tmp_path / "killed") == 0
    assert tiny.highmmt(*command, tmp_path / "whole") == 0
    after = log.read_text(encoding="utf-8")
    assert after.startswith(before[: before.rindex("\n") + 1])
    runs = [json.loads(line)["run"] for line in after.splitlines()[1:]]
    assert len(runs) == len(set(runs)) == 5 + 20  # from scratch, and both directions of ten pairs
    whole = {
        path.name: json.loads(path.read_text()) for path in (tmp_path / "whole" / "heterogeneity").glob("*n*.json")
    }
    assert {"unimodal.json", "interaction.json"} <= set(whole)
    for name in ("unimodal.json", "interaction.json"):
        killed = json.loads((tmp_path / "killed" / "heterogeneity" / name).read_text())
        for part in ("values", "transfer"):
            for found, expected in zip(killed[part], whole[name][part], strict=True):
                assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
