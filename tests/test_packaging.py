"""What is installed, what importing costs, and whether the version is said the same everywhere."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from highmmt import __version__

ROOMS = ("configuration", "processing", "modeling_highmmt", "suites", "train", "heterogeneity", "analysis", "highmmt")


def run_python(code: str, cwd: Path, *arguments: str) -> str:
    process = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout.strip()


@pytest.fixture(scope="module")
def setup(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel, built from a copy (building writes into the source folder) and without the network."""
    source = tmp_path_factory.mktemp("source of a wheel")
    for room in ROOMS:
        shutil.copytree(root / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    run_python("import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])", source, "dist")
    (path,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_puts_only_highmmt_into_site_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"highmmt", f"highmmt-{__version__}.dist-info"}


def test_a_wheel_holds_every_module_and_every_data_file_of_every_room(wheel: zipfile.ZipFile, root: Path) -> None:
    held = set(wheel.namelist())
    missing = []
    for room in ROOMS:
        for path in (root / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(root).as_posix()
                if (inside if room == "highmmt" else f"highmmt/{inside}") not in held:
                    missing.append(inside)
    assert not missing, f"setup.cfg leaves these out of the wheel: {missing}"


def test_a_wheel_holds_the_starter_suite_its_types_marker_and_the_licence(wheel: zipfile.ZipFile) -> None:
    held = wheel.namelist()
    assert "highmmt/py.typed" in held
    assert "highmmt/suites/starter.yaml" in held
    assert any(re.fullmatch(r"highmmt/suites/starter/.*\.parquet", name) for name in held)
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_version_is_the_same_everywhere(root: Path, setup: configparser.ConfigParser) -> None:
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert __version__ == importlib.metadata.version("highmmt") == setup["metadata"]["version"] == citation["version"]


def test_importing_highmmt_loads_no_heavy_library_that_it_does_not_need_yet(tmp_path: Path) -> None:
    loaded = {name.split(".")[0] for name in run_python("import sys, highmmt; print(*sys.modules)", tmp_path).split()}
    assert not loaded & {"datasets", "matplotlib", "pandas", "sklearn", "typer"}


def test_importing_highmmt_writes_nothing_and_changes_no_setting(tmp_path: Path) -> None:
    # The libraries change settings when they are imported, so they come before the first look.
    code = (
        "import logging, os, random, warnings, accelerate, numpy, pyarrow, torch, PIL.Image\n"
        "from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin\n"
        "def look():\n"
        "    states = random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()\n"
        "    return dict(os.environ), list(warnings.filters), logging.root.level, torch.get_num_threads(), states\n"
        "before = look()\n"
        "import highmmt\n"
        "print([one == other for one, other in zip(before, look())])"
    )
    assert run_python(code, tmp_path) == str([True] * 5)
    assert not list(tmp_path.iterdir())


def test_every_public_name_exists(tmp_path: Path) -> None:
    code = "import highmmt; print([name for name in highmmt.__all__ if getattr(highmmt, name) is None])"
    assert run_python(code, tmp_path) == "[]"


def requirements(lines: str) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-") for line in lines.split("\n") if line}


def test_every_library_that_the_rooms_import_is_declared(root: Path, setup: configparser.ConfigParser) -> None:
    needed = requirements(setup["options"]["install_requires"])
    extras = setup["options.extras_require"]
    # Within a function, after which an error can name the extra, a library of an optional feature may stand.
    optional = needed.union(*(requirements(extras[name]) for name in extras if name not in ("test", "dev")))
    providers = importlib.metadata.packages_distributions()
    undeclared = set()
    for room in ROOMS:
        for path in (root / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            within = {id(node) for function in functions for node in ast.walk(function)}
            for node in ast.walk(tree):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                declared = optional if id(node) in within else needed
                for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"highmmt"}:
                    if not declared & {provider.lower().replace("_", "-") for provider in providers.get(name, [name])}:
                        undeclared.add(f"{path.relative_to(root)}: {name}")
    assert not undeclared, f"Not in setup.cfg: {sorted(undeclared)}"
