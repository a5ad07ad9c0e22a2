"""One model folder, and environments to load it in."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from highmmt import load_suite
from highmmt.analysis import model_card
from highmmt.train import build_config, build_model, save_model_folder

# What a folder with code must do without, and the hooks by which an editable install puts highmmt on the path.
HIDDEN = ("highmmt", "__editable__", "pyarrow", "datasets", "pandas", "_virtualenv", "distutils-precedence")
# Runs before the test's own code: connections to other machines fail, as in `tests/conftest.py`.
PREAMBLE = """
import socket
_connect = socket.socket.connect
def _guarded(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        raise AssertionError(f"tried to connect to {address[0]}")
    return _connect(self, address)
socket.socket.connect = _guarded
"""


def _load(path: Path) -> ModuleType:
    # Test folders are no packages, so that their names are free.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Helpers of the command line's `tiny.py`."""
    return _load(Path(__file__).parents[1] / "command_line" / "tiny.py")


@pytest.fixture(scope="session")
def local_hub() -> ModuleType:
    """The server of `local_hub.py`."""
    return _load(Path(__file__).with_name("local_hub.py"))


@pytest.fixture(scope="session")
def model_folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, processor and card of the tiny suite, as training leaves them; read only."""
    suite = load_suite(tiny.write_suite_with_rows(tmp_path_factory.mktemp("suite")))
    processor = suite.build_processor()
    model = build_model(build_config(suite, processor), seed=0)
    card = model_card(suite, model, processor, {"signs": 0.9375, "walk": -0.25, "tones": 1.0}, "pretrained", seed=0)
    return save_model_folder(tmp_path_factory.mktemp("models") / "tiny", model, processor, card)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with this one's libraries, but without highmmt, pyarrow and datasets."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    for place in filter(lambda entry: entry.endswith(("site-packages", "dist-packages")), reversed(sys.path)):
        for entry in Path(place).iterdir():
            link = packages / entry.name
            if not entry.name.lower().startswith(HIDDEN) and entry.suffix != ".pth" and not link.exists():
                link.symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture
def run_in(tmp_path: Path) -> Callable[..., str]:
    """Run code with a Python, in an empty folder, with caches of its own; returns what it printed."""

    def run(python: Path, code: str, *arguments: object, **variables: str) -> str:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
        environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **variables}
        command = [str(python), "-c", PREAMBLE + code, *map(str, arguments)]
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        process = subprocess.run(command, cwd=home, env=environment, **options)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run
