"""Help, version and the ways to start the command line."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

COMMANDS = (
    "run",
    "train",
    "heterogeneity",
    "cluster",
    "evaluate",
    "predict",
    "report",
    "inspect",
    "convert",
    "export",
    "push",
    "suite",
)
SUITE_COMMANDS = ("prepare", "twins", "init", "schema")
HEAVY = {"torch", "transformers", "datasets", "numpy", "sklearn", "scipy", "matplotlib", "huggingface_hub"}


def test_help_lists_every_command(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.highmmt("--help") == 0
    said = capsys.readouterr().out
    assert all(f" {command} " in said for command in COMMANDS)
    assert "highmmt run starter" in said
    # Without anything, the same.
    assert tiny.highmmt() == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("command", [*COMMANDS[:-1], *(f"suite {command}" for command in SUITE_COMMANDS)])
def test_help_of_a_command_has_an_example_and_says_what_every_option_is_for(
    tiny: ModuleType, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert tiny.highmmt(*command.split(), "--help") == 0
    said = capsys.readouterr().out
    assert f"Example: highmmt {command} " in said
    for line in said.splitlines():
        if line.startswith("│") and "--" in line.split("  ")[0]:
            assert len(line.strip("│ ").split("  ")[-1]) > 10, line


def test_help_of_suite_lists_its_commands(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.highmmt("suite", "--help") == 0
    said = capsys.readouterr().out
    assert all(f" {command} " in said for command in SUITE_COMMANDS)


def test_help_of_the_main_job_is_grouped(
    tiny: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny.highmmt("train", "--help") == 0
    said = capsys.readouterr().out
    for panel in ("What to work on", "How to train", "Where results go"):
        assert f"─ {panel} ─" in said


def test_version(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.highmmt("--version") == 0
    assert capsys.readouterr().out == f"highmmt {importlib.metadata.version('highmmt')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["suite", "--help"], ["--version"], ["rnu"]])
def test_help_and_typing_errors_load_no_heavy_library(arguments: list[str], tmp_path: Path) -> None:
    # `sys.argv[0]` is what tells the package that it is run as a command.
    code = (
        "import atexit, sys\n"
        "sys.argv = ['highmmt', *sys.argv[1:]]\n"
        "atexit.register(lambda: print('LOADED', *sys.modules))\n"
        "from highmmt.cli import main\n"
        "main()"
    )
    process = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == (2 if arguments == ["rnu"] else 0)
    loaded = {name.split(".")[0] for name in process.stdout.rpartition("LOADED")[2].split()}
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_the_module_is_the_command_and_a_closed_pipe_ends_it_quietly(suite_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "highmmt", "inspect", str(suite_file)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with open(os.devnull if os.name == "nt" else "/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "highmmt", "--version"]
        process = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 2
    assert process.stderr == "Error: No space left on device\n"
