"""What may not be in the repository, and whether the README tells the truth about its commands."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("configuration", "processing", "modeling_highmmt", "suites", "train", "heterogeneity", "analysis", "highmmt")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.save", "breakpoint", "yaml.load"}
TEXT = {".py", ".md", ".cfg", ".toml", ".yaml", ".yml", ".json", ".cff", ".html", ".css", ".svg", ".txt", ""}
NOT_OURS = {".git", ".venv", "venv", "build", "dist", "runs"}


def modules(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"), str(path))


def text_files(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if NOT_OURS & set(parts) or any(part.endswith(("cache", "cache__", ".egg-info")) for part in parts):
            continue
        if path.is_file() and path.suffix in TEXT and ".hypothesis" not in parts:
            yield "/".join(parts), path.read_text(encoding="utf-8")


def test_the_package_runs_no_code_from_data(root: Path) -> None:
    found = [f"{name}:{risk}" for name, tree in modules(root, *ROOMS) for risk in risks(tree)]
    assert not found, found


def risks(tree: ast.Module) -> list[str]:
    """Line and name of what could run code that comes with data, whatever it was imported as."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            called = f"{aliases.get(first, first)}{dot}{rest}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: {called}")
            if called == "torch.load" and keywords.get("weights_only") != "True":
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            for keyword, value in (
                ("allow_pickle", "True"),
                ("trust_remote_code", "True"),
                ("shell", "True"),
                ("weights_only", "False"),
            ):
                if keywords.get(keyword) == value:
                    found.append(f"{node.lineno}: {keyword}={value}")
        forbidden = [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_CALLS]
        found += [f"{node.lineno}: {name}" for name in forbidden]
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.save(1, 'a')",
        "import torch as t\nt.save(1, 'a')",
        "from torch import save",
        "from torch import save as keep\nkeep(1, 'a')",
        "from torch import load\nload('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "from yaml import load\nload('a')",
        "eval('1')",
    ],
)
def test_what_could_run_code_from_data_is_found_whatever_it_is_called(code: str) -> None:
    assert risks(ast.parse(code))
    assert not risks(
        ast.parse("import torch\nfrom torch import nn\ntorch.load('a', weights_only=True)\nmodel.save(1)")
    )


def test_only_the_command_line_prints_and_nothing_asserts(root: Path) -> None:
    found = []
    for name, tree in modules(root, *ROOMS):
        may_print = name in ("highmmt/cli.py", "highmmt/__main__.py") or Path(name).name.startswith("build_")
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found.append(f"{name}:{node.lineno}: assert")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and not may_print:
                found.append(f"{name}:{node.lineno}: print")
    assert not found, found


def test_nothing_is_left_unfinished(root: Path) -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|\bNotImplemented" + "Error")
    here = Path(__file__).relative_to(root).as_posix()
    found = [
        f"{name}: {match[0]}"
        for name, text in text_files(root)
        if name.endswith(".py") and name != here
        for match in marks.finditer(text)
    ]
    assert not found, found


def test_no_file_names_a_place_that_only_its_author_has(root: Path) -> None:
    homes = r"(?<![\w.])/(?:home|Users|root|mnt|work|workspace)/[\w.-]+"
    hosts = r"(?:files\.pythonhosted|download\.pytorch|pypi)\.org|anaconda\.org|(?:10|192\.168)\.\d+\.\d+\.\d+"
    here = Path(__file__).relative_to(root).as_posix()
    found = [
        f"{name}: {match[0]}"
        for name, text in text_files(root)
        if name != here
        for match in re.finditer(f"{homes}|{hosts}", text)
    ]
    assert not found, found


def test_no_file_is_larger_than_the_commit_hook_allows(root: Path) -> None:
    limit = int(re.findall(r"--maxkb=(\d+)", (root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))[0])
    folders = [*ROOMS, "tests", "docs", "examples", "benchmarks"]
    paths = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    large = [path.relative_to(root).as_posix() for path in paths if path.stat().st_size > limit * 1024]
    assert not large, f"larger than {limit} kB: {large}"


def readme_commands(root: Path) -> list[list[str]]:
    """The commands in the README's code blocks, without prompts, comments and line continuations."""
    text = (root / "README.md").read_text(encoding="utf-8")
    commands = []
    for block in re.findall(r"^```(?:console|bash|sh|shell)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables before the command
                words = words[1:]
            if words:
                commands.append(words)
    return commands


def test_ci_runs_the_two_commands_that_the_readme_starts_with(root: Path) -> None:
    ours = [" ".join(words[1:3]) for words in readme_commands(root) if words[0].startswith("python")]
    script = (root / ".ci" / "run").read_text(encoding="utf-8")
    for command in ("bootstrap.py run", "bootstrap.py test"):
        assert command in ours
        assert f"python3 {command}" in script


def test_every_highmmt_command_of_the_readme_exists(root: Path, tmp_path: Path) -> None:
    used = {words[1] for words in readme_commands(root) if Path(words[0]).name == "highmmt" and len(words) > 1}
    code = (
        "import sys; from highmmt.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    print(command, file=sys.stderr)\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as end:\n"
        "        if end.code: raise"
    )
    commands = sorted(used - {"--help", "--version"})
    process = subprocess.run([sys.executable, "-c", code, *commands], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("command", ["run", "test"])
def test_bootstrap_passes_on_what_is_not_its_own_in_the_same_order(root: Path, command: str) -> None:
    code = (
        "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1]); import bootstrap\n"
        "options, passed_on = bootstrap.parse(sys.argv[2:])\n"
        "print(options.command, options.venv, options.torch, passed_on)"
    )
    own = ["--venv", "my env", command, "-k", "not slow", "--torch=torch==9", "tests/a.py", "--quick"]
    process = subprocess.run([sys.executable, "-c", code, str(root), *own], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == f"{command} my env torch==9 ['-k', 'not slow', 'tests/a.py', '--quick']"


def test_bootstrap_refuses_a_folder_that_is_no_virtual_environment_and_leaves_it_alone(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    command = [sys.executable, str(root / "bootstrap.py"), "test", "--venv", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert "is not a virtual environment. Name another place with --venv DIR." in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
