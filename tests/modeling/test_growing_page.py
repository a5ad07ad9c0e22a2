"""The page about growing says what is so."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


# PEFT asks transformers for names that the newest transformers calls old.
@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")
def test_every_python_block_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks((root / "docs" / "growing.md").read_text(encoding="utf-8"))
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/growing.md", "exec"), namespace)
    assert sum(block.count("assert ") for block in blocks) == 5


def test_the_table_of_parameters_is_what_its_command_prints(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["group_parameters.py"])
    runpy.run_path(str(root / "benchmarks" / "group_parameters.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 12
    assert printed in (root / "docs" / "growing.md").read_text(encoding="utf-8")
