"""The tiny suite, and one finished run of it that no test changes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

# How wide commands print is settled when this module is first imported: here, the same whatever test comes first.
os.environ.pop("COLUMNS", None)
import highmmt.console  # noqa: E402, F401


def _load_tiny() -> ModuleType:
    # Test folders are no packages, so that their names are free.
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A test run that was started in the background ignores Ctrl-C, and the commands it starts would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Helpers of `tiny.py`."""
    return _load_tiny()


@pytest.fixture(scope="session")
def suite_file(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's file, its rows beside it."""
    return tiny.write_suite_with_rows(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def finished_run(tiny: ModuleType, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished `highmmt run --quick`; read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert tiny.highmmt("run", suite_file, "--quick", "--output-dir", folder) == 0
    return folder


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to break."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))
