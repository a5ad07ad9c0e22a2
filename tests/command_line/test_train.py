"""`highmmt train`: what it leaves and tells, where its options come from, how it stops and how it goes on."""

from __future__ import annotations

import errno
import importlib.util
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.utils.data import get_worker_info

from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.train import CheckpointFolder, MultitaskTrainer
from highmmt.train.interruption import StopRequests

Train = Callable[..., int]
MODEL_FILES = ("model.safetensors", "metrics.json", "config.json")


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """For every test of this module."""


@pytest.fixture
def train(tiny: ModuleType, suite_file: Path) -> Train:
    """A function that runs `highmmt train` on two tasks for three epochs, and gives its exit code."""

    def run(folder: Path, *options: object) -> int:
        return tiny.highmmt("train", suite_file, "--tasks", "signs,tones", "-o", folder, *options)

    return run


@pytest.fixture(scope="module")
def finished(tiny: ModuleType, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished pretraining; read only."""
    folder = tmp_path_factory.mktemp("train") / "finished"
    assert tiny.highmmt("train", suite_file, "--tasks", "signs,tones", "-o", folder) == 0
    return folder


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def same_run(first: Path, second: Path) -> bool:
    """Whether two folders hold the same model, made in the same way, and the same log."""
    names = [f"pretrained/{name}" for name in MODEL_FILES] + ["log.jsonl"]
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def stop_at(call: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal in a forward pass."""
    forward, calls = HighMMTModel.forward, []

    def stopped(self: HighMMTModel, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(number)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(HighMMTModel, "forward", stopped)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of an error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_training_leaves_a_model_a_log_and_each_tasks_own_best(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {"pretrained", "checkpoints", "log.jsonl", "run.json"}
    metrics = json.loads((finished / "pretrained" / "metrics.json").read_text(encoding="utf-8"))
    (course,) = metrics["course"]
    assert log(finished) == [{"run": "pretrained", **record} for record in course["history"]]
    for record in log(finished):
        assert set(record["train_loss"]) == set(record["weighted_loss"]) == {"signs", "tones"}
        assert record["learning_rate"] == 0.01
    for task, name in (("signs", "accuracy"), ("tones", "macro_f1")):
        values = [record["validation"][task][name] for record in course["history"]]
        assert course["own_bests"][task] == {"epoch": values.index(max(values)), "value": max(values)}


def test_a_training_tells_trackers_pipes_and_the_user(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(tmp_path, "--report-to", "tensorboard") == 0
    said = capsys.readouterr()
    assert [line.split(", score")[0] for line in said.err.splitlines()] == [
        f"Pretraining, all shared: epoch {epoch}/3" for epoch in (1, 2, 3)
    ]
    for words in ("pretrained, validation data", "own best", "kept: epoch", "pretrain on tiny, test"):
        assert words in said.out
    events = EventAccumulator(str(tmp_path / "tensorboard" / "pretrained" / "tiny")).Reload()
    told = [event.value for event in events.Scalars("weighted_loss/signs")]
    assert told == pytest.approx([record["weighted_loss"]["signs"] for record in log(tmp_path)])
    assert same_run(tmp_path, finished)  # a tracker changes no number


def test_a_tracker_that_is_missing_is_one_line_that_says_how_to_get_it(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest)
    )
    assert train(tmp_path / "out", "--report-to", "wandb") == 2
    assert error_of(capsys) == "Error: The tracker 'wandb' is not installed: pip install \"highmmt[wandb]\""
    assert train(tmp_path / "out", "--report-to", "paper") == 2
    assert "There is no tracker 'paper'; use one of tensorboard, wandb, mlflow." in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_options_come_from_a_file_and_the_command_line_wins(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    file = tmp_path / "options.yaml"
    file.write_text(
        "recipe: few_shot\ntarget: tones\nshare: 0.5\nepochs: 2\nlearning-rate: 0.002\nreport_to: [tensorboard]\n"
        "optimizer: adamw\noptimizer_options: {betas: [0.5, 0.9]}\nresume: true\n"
        f"output_dir: {tmp_path / 'nowhere'}\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    assert train(out, "--config", file, "--epochs", 1, "--learning-rate", 0.003) == 0
    run = json.loads((out / "few_shot" / "tones" / "metrics.json").read_text(encoding="utf-8"))["run"]
    (settings,) = run["settings"]
    assert (settings["num_epochs"], settings["learning_rate"], settings["optimizer"]) == (1, 0.003, "adamw")
    assert (settings["optimizer_options"], run["share"]) == ({"betas": [0.5, 0.9]}, 0.5)
    assert [record["run"] for record in log(out)] == ["few_shot/tones"]
    assert (out / "tensorboard" / "few_shot" / "tones").is_dir() and not (tmp_path / "nowhere").exists()
    capsys.readouterr()
    for text, part in (("epoch: 2\n", "unknown key 'epoch'"), ("recipe: boil\n", "no recipe 'boil'")):
        file.write_text(text, encoding="utf-8")
        assert train(out, "--config", file) == 2
        assert part in (said := error_of(capsys)) and "options.yaml, line 1" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_names_its_checkpoint_and_ends_like_one_that_was_not(
    number: signal.Signals,
    code: int,
    train: Train,
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_at(6, number, patch)  # after three steps and two evaluations
        assert train(tmp_path) == code
    checkpoint = tmp_path / "checkpoints" / "pretrained" / "epoch-00001-step-00000001"
    assert checkpoint.is_dir()
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"checkpoint: {checkpoint}. The same command with --resume goes on from there.")
    )
    assert train(tmp_path) == 2
    assert "holds checkpoints of a run that is not finished. Add --resume" in error_of(capsys)
    assert train(tmp_path, "--resume") == 0
    assert same_run(tmp_path, finished)


def test_a_log_is_whole_wherever_the_process_died(
    train: Train, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "pretrained")
    newest = max((folder / "checkpoints" / "pretrained").glob("epoch-*"))
    shutil.rmtree(newest)  # the log is an epoch ahead of the checkpoint
    content = (folder / "log.jsonl").read_text(encoding="utf-8")
    (folder / "log.jsonl").write_text(content[:-40], encoding="utf-8")  # and its last line was cut
    assert train(folder, "--resume") == 0
    assert same_run(folder, finished)


def test_a_run_that_is_begun_anew_leaves_no_line_of_the_former(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path, "--recipe", "transfer", "--target", "tones", "--epochs", 2) == 0
    assert [(line["run"], line["epoch"]) for line in log(tmp_path)] == [
        (f"transfer/tones/{phase}", epoch) for phase in ("sources", "target") for epoch in range(2)
    ]
    assert train(tmp_path, "--recipe", "transfer", "--target", "tones", "--epochs", 1) == 0
    assert [line["run"] for line in log(tmp_path)] == ["transfer/tones/sources", "transfer/tones/target"]


def test_resume_begins_in_an_empty_folder_and_does_nothing_in_a_finished_one(
    train: Train, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path, "--resume") == 0
    assert same_run(tmp_path, finished)
    monkeypatch.delattr(MultitaskTrainer, "train")
    assert train(tmp_path, "--resume", "--save-steps", 3, "--keep", 5) == 0


def test_resume_refuses_other_settings_and_broken_checkpoints_by_name(
    train: Train, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "pretrained")
    assert train(folder, "--resume", "--learning-rate", "0.5") == 2
    assert "other settings (settings[0].learning_rate: 0.01 there, 0.5 now)" in error_of(capsys)
    checkpoints = sorted((folder / "checkpoints" / "pretrained").glob("epoch-*"))
    assert len(checkpoints) == 2
    for checkpoint in checkpoints:
        file = checkpoint / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    assert train(folder, "--resume") == 2
    said = error_of(capsys)
    assert all(f"{checkpoint / 'optimizer.safetensors'}: has " in said for checkpoint in checkpoints)
    assert "--allow-inexact" in said
    assert train(folder, "--resume", "--allow-inexact") == 0
    assert (folder / "pretrained" / "model.safetensors").exists()


def test_the_package_of_training_is_the_command(
    suite_file: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--tasks", "signs,tones", "--resume", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train", str(suite_file), *options])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("highmmt.train", run_name="__main__")
    assert not stopped.value.code
    assert same_run(tmp_path, finished)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers must inherit the accident")
def test_a_worker_that_dies_is_one_line_with_task_rows_and_file(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collate = HighMMTProcessor.collate

    def die(self: HighMMTProcessor, task: str, rows: Any) -> Any:
        if get_worker_info() is not None and task == "tones":
            os.kill(os.getpid(), signal.SIGKILL)
        return collate(self, task, rows)

    monkeypatch.setattr(HighMMTProcessor, "collate", die)
    assert train(tmp_path, "--num-workers", 1) == 2
    said = error_of(capsys)
    for part in ("A worker process", "Task 'tones', row tones/train/", ".parquet", "num_workers=0"):
        assert part in said


def test_a_full_disk_says_to_resume_and_that_works(
    train: Train, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = CheckpointFolder.save, []

    def full(self: CheckpointFolder, *arguments: Any) -> Path:
        calls.append(1)
        if len(calls) == 2:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", _raise(OSError(errno.ENOSPC, "No space left on device")))
                return save(self, *arguments)
        return save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", full)
        assert train(tmp_path) == 2
    assert f"No space left on the disk of {tmp_path}" in (said := error_of(capsys))
    assert "make room and repeat the command with --resume" in said
    assert len(list((tmp_path / "checkpoints" / "pretrained").iterdir())) == 2  # the first checkpoint, and run.json
    assert train(tmp_path, "--resume") == 0
    assert same_run(tmp_path, finished)


def test_a_read_only_place_is_one_line_whoever_the_user_is(
    train: Train, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if path.is_relative_to(tmp_path) and not path.exists():
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert train(tmp_path / "out") == 2
    assert error_of(capsys) == f"Error: {tmp_path / 'out'}: Read-only file system. Choose a place where you may write."
    monkeypatch.undo()
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "pretrained")
    kept = sorted((folder / "checkpoints" / "pretrained").glob("epoch-*"))
    shutil.rmtree(kept.pop())
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert train(folder, "--resume") == 2
    assert "epoch-00003-step-00000000: the checkpoint could not be written (Read-only" in error_of(capsys)
    assert sorted((folder / "checkpoints" / "pretrained").glob("epoch-*")) == kept


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*arguments: Any) -> Any:
        raise error

    return fail


def code_after(signals: list[int], pause: float, environment: dict[str, str]) -> int:
    """Exit code of a child that gets these signals within the block of a training; 0 where it comes to its end."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads does not matter here
        patch.delenv("LOCAL_RANK", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with StopRequests():
                for number in signals:
                    signal.raise_signal(number)
                    time.sleep(pause)
            os._exit(0)
        finally:
            os._exit(99)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_second_signal_ends_the_process_at_once_but_a_launchers_repeat_does_not() -> None:
    assert code_after([signal.SIGTERM], 0, {}) == 0
    assert code_after([signal.SIGTERM, signal.SIGTERM], 0, {}) == 143
    assert code_after([signal.SIGINT, signal.SIGINT], 0, {}) == 130
    assert code_after([signal.SIGINT, signal.SIGINT], 0, {"LOCAL_RANK": "0"}) == 0
    assert code_after([signal.SIGINT, signal.SIGINT], 1.1, {"LOCAL_RANK": "0"}) == 130


def signalled(suite_file: Path, folder: Path, signals: list[int], seconds_a_step: float) -> tuple[int, str]:
    """Exit code and stderr of a training, in a process of its own, that gets signals from its second epoch on."""
    code = (
        "import sys, time\n"
        "from highmmt.cli import main\n"
        "from highmmt.modeling_highmmt import HighMMTModel\n"
        "forward = HighMMTModel.forward\n"
        "def slow(self, *a, **k):\n"
        f"    time.sleep({seconds_a_step} if self.training and list(FOLDER.glob('epoch-*')) else 0)\n"
        "    return forward(self, *a, **k)\n"
        "HighMMTModel.forward = slow\n"
        "from pathlib import Path\n"
        f"FOLDER = Path({str(folder / 'checkpoints' / 'pretrained')!r})\n"
        "main(sys.argv[1:])"
    )
    options = ["--tasks", "signs,tones", "--epochs", "1000", "-o", str(folder)]
    command = [sys.executable, "-c", code, "train", str(suite_file), *options]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not list(folder.glob("checkpoints/*/epoch-*")) and process.poll() is None:
            time.sleep(0.05)
        for number in signals:
            time.sleep(1.0)  # for the former to be heard
            process.send_signal(number)
        started = time.monotonic()
        _, said = process.communicate(timeout=120)
    assert len(signals) == 1 or time.monotonic() - started < 30
    return process.returncode, said


@pytest.mark.slow
def test_sigterm_ends_a_process_with_143_and_the_name_of_a_checkpoint(suite_file: Path, tmp_path: Path) -> None:
    code, said = signalled(suite_file, tmp_path, [signal.SIGTERM], 0.1)
    assert code == 143
    assert "Stopping after this step, with a checkpoint." in said
    (checkpoint,) = [word for word in said.split() if word.startswith(str(tmp_path / "checkpoints" / "pretrained"))]
    assert Path(checkpoint.rstrip(".")).is_dir()
    assert said.endswith("The same command with --resume goes on from there.\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGTERM, signal.SIGINT], 130),
    ],
)
def test_other_signals_end_a_process_with_their_codes(
    suite_file: Path, tmp_path: Path, signals: list[int], code: int
) -> None:
    # A step takes a minute where a second signal must not wait for it.
    found, said = signalled(suite_file, tmp_path, signals, 0.1 if len(signals) == 1 else 60)
    assert found == code
    assert ("goes on from there" in said) == (len(signals) == 1)
