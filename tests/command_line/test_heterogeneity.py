"""`highmmt heterogeneity`: what it says before it starts, what it measures, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

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
    assert "Left out: tones/spectrum (tones/spectrum: the target" in capsys.readouterr().err
    assert tiny.highmmt("cluster", out, "--unimodal-groups", "2") == 0
    groups = json.loads((out / "parameter_groups.json").read_text(encoding="utf-8"))["unimodal"]
    assert groups["tones/spectrum"] == 2 and sorted(set(groups.values())) == [0, 1, 2]
    assert [node for node, group in groups.items() if group == 2] == ["tones/spectrum"]
