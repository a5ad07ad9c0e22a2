"""The main job: what it leaves, that it goes on where it was stopped, and the real thing on `starter`."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoModel, AutoProcessor

from highmmt import load_suite
from highmmt.configuration import files
from highmmt.modeling_highmmt import HighMMTModel

PROMISED = (
    "suite.yaml",
    "heterogeneity/unimodal.json",
    "heterogeneity/interaction.json",
    "heterogeneity/figures/unimodal_matrix.png",
    "heterogeneity/figures/unimodal_tree.svg",
    "parameter_groups.json",
    "parameter_groups.stability.json",
    "metrics.json",
    "report.html",
    "pretrained/model.safetensors",
    "finetuned/model.safetensors",
    "finetuned/config.json",
    "finetuned/processor_config.json",
    "finetuned/README.md",
)


def results(folder: Path) -> dict[str, Any]:
    """What must be the same in two runs of one command."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    del metrics["timings"]
    groups = json.loads((folder / "parameter_groups.json").read_text(encoding="utf-8"))
    matrices = [
        json.loads((folder / "heterogeneity" / f"{kind}.json").read_text()) for kind in ("unimodal", "interaction")
    ]
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("pretrained", "finetuned")]
    log = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return {"metrics": metrics, "groups": groups, "matrices": matrices, "weights": weights, "log": log}


def test_a_run_leaves_the_promised_folder_and_nothing_half_written(tiny: ModuleType, finished_run: Path) -> None:
    assert all((finished_run / name).stat().st_size for name in PROMISED)
    assert not tiny.leftovers(finished_run)
    assert load_suite(finished_run / "suite.yaml").name == "tiny"


def test_a_run_logs_every_epoch_of_every_training_and_each_tasks_own_best(finished_run: Path) -> None:
    found = [json.loads(line) for line in (finished_run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs: dict[str, list[int]] = {}
    for line in found:
        epochs.setdefault(line["run"], []).append(line["epoch"])
    assert all(numbers == list(range(len(numbers))) for numbers in epochs.values())
    alone = [f"share_none-{task}-seed0/phase-{phase}" for task in ("signs", "walk", "tones") for phase in (1, 2)]
    assert set(epochs) == {f"{name}-seed0" for name in ("pretrained", "share_all", "random", "highmmt")} | set(alone)
    metrics = json.loads((finished_run / "metrics.json").read_text(encoding="utf-8"))
    for stage, bests in metrics["own_bests"].items():
        for task, best in bests.items():
            values = [entry["validation"][task][metrics["metric"][task]] for entry in metrics["history"][stage]]
            assert best == {"epoch": values.index(max(values)), "value": max(values)}


def test_a_run_prints_every_method_with_scores_and_parameters(
    tiny: ModuleType, suite_file: Path, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("run", suite_file, "--quick", "-o", run_copy) == 0
    said = capsys.readouterr()
    metrics = json.loads((run_copy / "metrics.json").read_text(encoding="utf-8"))
    for word in ("Share none", "Share all", "Random groups", "HighMMT", "reference", "signs", "walk", "tones"):
        assert word in said.out
    for method in metrics["methods"].values():
        assert f"{method['num_parameters']:,}" in said.out
        assert f"{method['average']:.3f}" in said.out
    assert str(run_copy / "report.html") in said.out
    assert [line[:3] for line in said.err.splitlines()] == ["1/4", "2/4", "3/4", "4/4"]


def test_a_finished_run_is_not_trained_again(
    tiny: ModuleType, suite_file: Path, run_copy: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a finished stage was repeated")

    for name in ("pretrain", "finetune", "single_task", "measure_heterogeneity", "encode_suite"):
        monkeypatch.setattr(f"highmmt.analysis.study.{name}", fail)
    monkeypatch.setattr("highmmt.analysis.figures.draw_files", fail)
    assert tiny.highmmt("run", suite_file, "--quick", "-o", run_copy) == 0
    assert results(run_copy) == results(finished_run)


def test_a_run_stopped_before_every_file_and_folder_it_makes_ends_like_one_that_was_not(
    tiny: ModuleType,
    suite_file: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replace, stopped_at, out = os.replace, [], tmp_path / "out"

    def stop(source: Any, target: Any) -> None:
        place = Path(target)
        hidden = any(part.startswith(".") for part in place.parts)
        if place.is_relative_to(out) and "runs" not in place.parts and not hidden and place not in stopped_at:
            stopped_at.append(place)
            raise KeyboardInterrupt
        replace(source, target)

    codes = []
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", stop)
        while 0 not in codes:
            codes.append(tiny.highmmt("run", suite_file, "--quick", "-o", out))
            assert not tiny.leftovers(tmp_path), stopped_at
    assert set(codes) == {0, 130}
    assert {out / "pretrained", out / "finetuned", out / "report.html", out / "suite.yaml"} <= set(stopped_at)
    assert "Stopped. The same command goes on" in capsys.readouterr().err
    assert results(out) == results(finished_run)


def test_a_run_stopped_while_it_trains_goes_on(
    tiny: ModuleType,
    suite_file: Path,
    run_copy: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in (run_copy / "methods").iterdir():
        path.unlink()
    forward, calls = HighMMTModel.forward, []

    def stop(self: HighMMTModel, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 20:
            signal.raise_signal(signal.SIGINT)
        return forward(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HighMMTModel, "forward", stop)
        assert tiny.highmmt("run", suite_file, "--quick", "-o", run_copy) == 130
    assert tiny.highmmt("run", suite_file, "--quick", "-o", run_copy) == 0
    assert results(run_copy) == results(finished_run)


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(
    tiny: ModuleType,
    suite_file: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fsync, calls, out = os.fsync, [], tmp_path / "out"

    def full(handle: int) -> None:
        calls.append(1)
        if len(calls) % 29 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    codes = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        while 0 not in codes:
            capsys.readouterr()
            codes.append(tiny.highmmt("run", suite_file, "--quick", "-o", out))
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
            assert len(lines) == (codes[-1] == 2)
            assert all(f"No space left on the disk of {out}" in line for line in lines), lines
            assert not tiny.leftovers(tmp_path)
            assert len(codes) < 60, codes
    assert set(codes) == {0, 2}
    assert results(out) == results(finished_run)


def test_ctrl_c_in_a_terminal_ends_cleanly_with_130(tiny: ModuleType, suite_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "highmmt", "run", str(suite_file), "--quick", "-o", "out"]
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **streams) as process:
        said = [process.stderr.readline()]
        process.send_signal(signal.SIGINT)
        said += process.stderr.readlines()
    assert process.returncode == 130
    assert said == [
        "1/4 Heterogeneity: train on one, transfer to another\n",
        "Stopped. The same command goes on from what is finished.\n",
    ]
    assert not tiny.leftovers(tmp_path)
    assert tiny.highmmt("run", suite_file, "--quick", "-o", tmp_path / "out") == 0


@pytest.fixture(scope="module")
def starter_run(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main job in its quick form, on the suite that comes with the package."""
    folder = tmp_path_factory.mktemp("starter") / "run"
    assert tiny.highmmt("run", "starter", "--quick", "--output-dir", folder) == 0
    return folder


def test_the_quick_main_job_leaves_the_promised_folder(tiny: ModuleType, starter_run: Path) -> None:
    assert all((starter_run / name).stat().st_size for name in PROMISED)
    assert not tiny.leftovers(starter_run)


def test_the_quick_main_job_gives_a_grouped_model_that_the_auto_classes_load(starter_run: Path) -> None:
    model = AutoModel.from_pretrained(starter_run / "finetuned").eval()
    processor = AutoProcessor.from_pretrained(starter_run / "finetuned")
    assert type(model) is HighMMTModel
    assert len(model.unimodal_groups) > 1
    suite = load_suite("starter")
    for name, task in suite.tasks.items():
        row = suite.load(name)["test"][0]
        sample = {modality: row[entry["column"]] for modality, entry in task.modalities.items()}
        (answer,) = processor.decode(name, model(**processor(task=name, **sample)).logits[name])
        assert answer


def test_the_quick_main_job_compares_four_methods_on_seven_tasks(starter_run: Path) -> None:
    metrics = json.loads((starter_run / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["methods"]) == ["share_none", "share_all", "random", "highmmt"]
    for method in metrics["methods"].values():
        assert len(method["scores"]) == 7
    counts = {name: method["num_parameters"] for name, method in metrics["methods"].items()}
    assert counts["share_all"] < counts["highmmt"] == counts["random"] < counts["share_none"]
    assert sum(metrics["timings"].values()) > 0
