#!/usr/bin/env python3
"""Set HighMMT up in a virtual environment, then run its main job or its tests.

    python3 bootstrap.py run              the whole workflow on the embedded starter suite, into runs/starter
    python3 bootstrap.py run --quick      the same with fewer steps, in about a minute
    python3 bootstrap.py test             the tests

Nothing but Python 3.10 or newer is needed. What follows the command is passed on to `highmmt run` or to `pytest`.
The first call makes the environment and installs the package with what it needs; later calls only run.
"""

# Old versions of Python must be able to read this file, so that they can say what is needed: no `from __future__
# import annotations` (3.6 refuses it), nothing newer than f-strings, only the standard library.
import argparse
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 -- the one file that old versions get to see
    newer = next(filter(None, map(shutil.which, [f"python3.{minor}" for minor in (13, 12, 11, 10)])), None)
    sys.exit(
        f"HighMMT needs Python 3.10 or newer; this is Python {sys.version.split()[0]} ({sys.executable}). "
        + (f"Use {newer} instead of python3." if newer else "Install a newer one and start again with it.")
    )

ROOT = Path(__file__).resolve().parent
# A test process for each core, but no more than memory allows; tests of one file share its fixtures. `-n 0` undoes it.
SPREAD = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")
STAMP = "highmmt-setup.json"
LOG = "highmmt-install.log"


class SetupError(Exception):
    """What went wrong while setting up, in words for the user, with the way out."""


def say(message: str) -> None:
    """Print one line about what happens next."""
    print(f"highmmt: {message}", flush=True)


def shown(path: Path) -> str:
    """A path as the user would write it: relative where it lies below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def folder(venv: Path) -> Path:
    """Where a virtual environment keeps its programs."""
    return venv / ("Scripts" if os.name == "nt" else "bin")


def program(venv: Path, name: str) -> Path:
    """Path of one program of a virtual environment."""
    return folder(venv) / (f"{name}.exe" if os.name == "nt" else name)


def environment(venv: Path) -> dict[str, str]:
    """This process's environment variables, with the virtual environment activated."""
    variables = dict(os.environ, VIRTUAL_ENV=str(venv), PIP_USER="0")
    variables["PATH"] = os.pathsep.join([str(folder(venv)), os.environ.get("PATH", os.defpath)])
    variables.pop("PYTHONHOME", None)
    return variables


def answer(venv: Path, *arguments: str) -> str | None:
    """What the environment's Python prints when started with these arguments; None if it fails or does not start."""
    try:
        command = [str(program(venv, "python")), *arguments]
        return subprocess.run(command, env=environment(venv), capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def perform(message: str, command: list[str], venv: Path) -> None:
    """Run one step of the set-up: one line on the screen, everything else in a log inside the environment.

    Raises:
        SetupError: the step failed; the message ends with the last lines of its output.
    """
    say(f"{message} ...")
    started, lines, live = time.monotonic(), [], sys.stdout.isatty()
    width = shutil.get_terminal_size().columns - 1
    with open(venv / LOG, "a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(venv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        try:
            for line in process.stdout:
                log.write(line)
                lines.append(line.rstrip())
                if live:
                    sys.stdout.write("\r" + f"  {line.strip()}"[:width].ljust(width))
                    sys.stdout.flush()
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the same Ctrl-C
            raise
        finally:
            if live:
                sys.stdout.write("\r" + " " * width + "\r")
    if code:
        output = "\n".join(f"  {line}" for line in lines[-15:])
        raise SetupError(f"{message} failed. The last lines of its output ({shown(venv / LOG)} has all):\n{output}")
    say(f"done in {time.monotonic() - started:.0f} s")


def read_stamp(venv: Path) -> dict:
    """What a former call noted in this environment; empty if there was none."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, **values: object) -> None:
    """Note what was done in this environment; whole or not at all."""
    temporary = venv / f"{STAMP}.new"
    temporary.write_text(json.dumps({"location": str(venv), **values}), encoding="utf-8")
    temporary.replace(venv / STAMP)


def make_environment(venv: Path) -> None:
    """Make the virtual environment, or check that the one that is there can be used.

    An environment that this script made and that no longer works (an interrupted first call, a moved folder, a Python
    that was removed) is made again. One that somebody else made is never deleted.

    Raises:
        SetupError: there is no usable environment and none can be made.
    """
    stamp = read_stamp(venv)
    if venv.exists() and not venv.is_dir():
        raise SetupError(f"{shown(venv)} is a file. Name another place with --venv DIR.")
    if stamp.get("made_here"):
        if stamp.get("location") == str(venv) and answer(venv, "-m", "pip", "--version"):
            return
        say(f"{shown(venv)} was moved or is incomplete, making it again")
        shutil.rmtree(venv)
    elif (venv / "pyvenv.cfg").exists():
        version = answer(venv, "-c", "import sys; print(*sys.version_info[:2])")
        if version is None:
            raise SetupError(f"The Python of {shown(venv)} does not start. Delete that folder, or use --venv DIR.")
        if tuple(map(int, version.split())) < (3, 10):
            found = ".".join(version.split())
            raise SetupError(
                f"{shown(venv)} holds Python {found}; 3.10 or newer is needed. Delete it, or use --venv DIR."
            )
        if answer(venv, "-m", "pip", "--version") is None:
            perform(f"adding pip to {shown(venv)}", [str(program(venv, "python")), "-m", "ensurepip"], venv)
        return
    elif venv.is_dir() and any(venv.iterdir()):
        raise SetupError(f"{shown(venv)} is not a virtual environment. Name another place with --venv DIR.")

    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"This Python ({sys.executable}) cannot make virtual environments: its modules venv and ensurepip are a "
            f"package of their own. On Debian or Ubuntu: apt install python3.{sys.version_info.minor}-venv. "
            "Or name an environment that exists with --venv DIR."
        )
    venv.mkdir(parents=True, exist_ok=True)
    write_stamp(venv, made_here=True, torch=stamp.get("torch"))
    version = ".".join(map(str, sys.version_info[:3]))
    perform(
        f"making the virtual environment {shown(venv)} (Python {version})",
        [sys.executable, "-m", "venv", str(venv)],
        venv,
    )


def install(venv: Path, torch: str | None) -> None:
    """Install the package with what it and its tests need, if anything changed since this was last done.

    Args:
        venv: a virtual environment that works.
        torch: what to give to `pip install` for torch, before all else; None leaves the choice to pip.

    Raises:
        SetupError: pip failed, or the package does not work with the torch that was named.
    """
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    wanted = {"root": str(ROOT), "requirements": digest.hexdigest()}
    stamp = read_stamp(venv)
    made_here = stamp.get("made_here", False)
    if (
        all(stamp.get(key) == value for key, value in wanted.items())
        and torch in (None, stamp.get("torch"))
        and program(venv, "highmmt").exists()
    ):
        return
    # What is half done must not count as done. The torch that once was named is kept, a later call need not repeat it.
    write_stamp(venv, made_here=made_here, torch=stamp.get("torch"))
    torch = torch or stamp.get("torch")
    pip = [str(program(venv, "python")), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]

    pip_version = answer(venv, "-c", "import pip; print(pip.__version__)") or "0"
    if int(pip_version.split(".")[0]) < 22:  # older ones cannot install a package without setup.py as editable
        perform(f"renewing pip {pip_version.strip()}", [*pip, "--upgrade", "pip"], venv)
    constraint = []
    if torch:
        try:
            words = shlex.split(torch)
        except ValueError as error:
            raise SetupError(f"The torch that was named, {torch!r}, cannot be read: {error}.") from None
        perform(f"installing {torch}", [*pip, *words], venv)
        version = answer(venv, "-c", "import importlib.metadata as metadata; print(metadata.version('torch'))")
        if version is None:
            raise SetupError(
                f"{torch!r} brought no torch. Name one as in --torch 'torch==2.13.0', or in HIGHMMT_TORCH."
            )
        write_stamp(venv, made_here=made_here, torch=torch)
        constraint = [f"torch=={version.strip()}"]
    perform(
        "installing the package and what it needs (the first time this takes minutes)",
        [*pip, "--editable", ".[test]", *constraint],
        venv,
    )
    write_stamp(venv, made_here=made_here, torch=torch, **wanted)


def finish(command: list[str], venv: Path, cwd: Path) -> int:
    """Run the command in place of this process; where the system has no such thing, as a child."""
    say(f"running {shlex.join([Path(command[0]).stem, *command[1:]])}")
    variables = environment(venv)
    os.chdir(cwd)
    if os.name == "posix":
        os.execve(command[0], command, variables)
    process = subprocess.Popen(command, env=variables)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child got it too, and ends in its own way


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """This script's own options, and what is passed on. The options may stand on either side of the command."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    options.add_argument("--venv", metavar="DIR", help="virtual environment to make or use (default: .venv)")
    options.add_argument(
        "--torch",
        metavar="WHAT",
        help="what `pip install` gets for torch, before all else; names the build for this machine, for example "
        "'torch==2.13.0' (default: the variable HIGHMMT_TORCH, else what pip chooses)",
    )
    parser = argparse.ArgumentParser(
        prog="bootstrap.py",
        usage="python3 bootstrap.py {run,test} [--venv DIR] [--torch WHAT] [arguments of `highmmt run` or `pytest`]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options],
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=("run", "test"), help="the main job, or the tests")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if not arguments:
        parser.print_help()
        sys.exit(2)
    chosen = parser.parse_args(arguments)
    return options.parse_known_args(chosen.arguments, chosen)


def main(arguments: list[str]) -> int:
    """Set up what is missing, then run; returns the exit code."""
    options, passed_on = parse(arguments)
    here = Path.cwd()
    venv = Path(os.path.abspath(Path(options.venv).expanduser())) if hasattr(options, "venv") else ROOT / ".venv"
    torch = getattr(options, "torch", None) or os.environ.get("HIGHMMT_TORCH")
    try:
        make_environment(venv)
        install(venv, torch)
    except (SetupError, OSError) as error:
        print(f"highmmt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("highmmt: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if options.command == "test":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a test process for each core
        return finish([str(program(venv, "pytest")), *SPREAD, *passed_on], venv, cwd=ROOT)
    if not any(argument.split("=")[0] == "--output-dir" for argument in passed_on):
        passed_on = ["--output-dir", shown(ROOT / "runs" / "starter"), *passed_on]
    return finish([str(program(venv, "highmmt")), "run", "starter", *passed_on], venv, cwd=here)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
