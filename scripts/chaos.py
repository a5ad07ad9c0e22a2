"""Kill a training again and again, and see that it ends as one that was never killed: the same files, bit by bit.

Runs four tasks of the starter suite (pretraining, then fine-tuning in groups, each with dropout), once undisturbed,
and once with SIGKILL at random moments: before a start has written anything (imports and encoding included), between
two checkpoints, and while a checkpoint is being written. After each kill the same command is given again. Compared are
every file of the last checkpoints (weights, best weights, optimizer, schedule, generators, losses, history, digest of
the (task, sample id) stream), the models, metrics.json, and log.jsonl but for its times.

The command is `highmmt train`, once for each phase. With --random-rows it is the recipes in Python, both phases in one
process, on some rows of each task that a transform changes at random whenever they are read.

    python scripts/chaos.py --kills 20 --in-save 5 --num-workers 2
    python scripts/chaos.py --kills 20 --in-save 5 --num-workers 2 --random-rows
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = "digits,motion,birds,vowels"
MODELS = ("pretrained", "finetuned")
SAVE_STEPS = 5
# Of each task at most, with --random-rows.
ROWS = 300
# How the names end of what the clock decides in log.jsonl.
TIMES = ("seconds", "time", "date")
Options = argparse.Namespace


def commands(folder: Path, options: Options) -> list[list[str]]:
    """What is run one after the other."""
    if options.random_rows:
        given = ["--epochs", options.epochs, "--num-workers", options.num_workers, "--train-in", folder]
        return [[sys.executable, str(Path(__file__).resolve()), *map(str, given)]]
    start = [sys.executable, "-m", "highmmt", "train", "starter", "--resume", "--tasks", TASKS]
    given = ["--epochs", options.epochs, "--save-steps", SAVE_STEPS, "--num-workers", options.num_workers]
    end = [*map(str, given), "--output-dir", str(folder)]
    return [[*start, "--recipe", recipe, *end] for recipe in ("pretrain", "finetune")]


def write_groups(folder: Path) -> Path:
    """Two unimodal groups, so that fine-tuning has something to clone."""
    from highmmt import load_suite

    suite = load_suite("starter").select(TASKS.split(","))
    pairs = {pair: number % 2 for number, pair in enumerate(suite.modality_task_pairs())}
    groups = {"unimodal": pairs, "crossmodal": dict.fromkeys(suite.interactions(), 0)}
    path = folder / "parameter_groups.json"
    path.write_text(json.dumps(groups), encoding="utf-8")
    return path


def shaken(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Noise of all three generators on every encoded number that is no label and no token."""
    import numpy as np
    import torch

    changed = dict(rows)
    for name, values in rows.items():
        if name not in ("row", "labels") and any(isinstance(row[0], float) for row in values if row):
            scale = random.uniform(0.05, 0.15)
            noise = [np.random.normal(size=len(row)) + torch.randn(len(row)).numpy() for row in values]
            changed[name] = [np.asarray(row) + scale * part for row, part in zip(values, noise, strict=True)]
    return changed


def train_on_random_rows(folder: Path, options: Options) -> None:
    """Both phases; what is in the folder already is gone on from."""
    from highmmt import ParameterGroups, load_suite
    from highmmt.train import Resumable, TrainingSettings, encode_suite, finetune, pretrain, save_model_folder

    suite = load_suite("starter").select(TASKS.split(","))
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    for splits in data.values():
        rows = splits["train"]
        splits["train"] = rows.select(range(min(ROWS, len(rows)))).with_transform(shaken)
    settings = TrainingSettings(
        num_epochs=options.epochs, learning_rate=2e-3, save_steps=SAVE_STEPS, num_workers=options.num_workers
    )
    folder.mkdir(parents=True, exist_ok=True)
    groups = ParameterGroups.from_json_file(write_groups(folder))
    places = {name: Resumable(folder / "checkpoints" / name) for name in MODELS}
    shared, *first = pretrain(suite, processor, data, settings, resumable=places["pretrained"])
    other = dataclasses.replace(settings, seed=1)
    tuned, *second = finetune(shared, groups, suite, processor, data, other, resumable=places["finetuned"])
    for name, model, (result, test) in (("pretrained", shared, first), ("finetuned", tuned, second)):
        metrics = json.dumps({"course": [result.to_dict()], "test": test}, indent=1)
        save_model_folder(folder / name, model, processor, "", {"metrics.json": metrics})


def contents(folder: Path) -> dict[str, Any]:
    """All that must be the same: models with their metrics, the newest checkpoint of each phase, and the log."""
    chosen = [path for name in MODELS for path in (folder / name).iterdir()]
    for name in MODELS:
        chosen += max(
            path for path in (folder / "checkpoints" / name).iterdir() if path.name.startswith("epoch-")
        ).iterdir()
    found: dict[str, Any] = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in chosen if path.is_file()
    }
    for log in folder.rglob("log.jsonl"):
        lines = log.read_text(encoding="utf-8").splitlines()
        found[log.relative_to(folder).as_posix()] = [without_times(json.loads(line)) for line in lines]
    return found


def without_times(record: Any) -> Any:
    """A line of the log without what the clock decides."""
    if isinstance(record, list):
        return [without_times(entry) for entry in record]
    if not isinstance(record, dict):
        return record
    return {key: without_times(entry) for key, entry in record.items() if not key.endswith(TIMES)}


def stream(found: dict[str, Any], name: str) -> str:
    """SHA-256 of the names of all samples, task by task and step by step, that a model was trained on."""
    (course,) = json.loads(found[f"{name}/metrics.json"])["course"]
    return str(course["samples"])


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in the folders of checkpoints."""
    found: list[os.DirEntry[str]] = []
    for name in MODELS:
        try:
            with os.scandir(folder / "checkpoints" / name) as part:
                found += part
        except FileNotFoundError:
            continue
    return found


def half_written(folder: Path, since: float) -> bool:
    """Whether a checkpoint has files but no name yet, all of them written since then (seconds since 1970).

    One that is being removed (`.old.tmp`) is none, nor is what an earlier kill has left.
    """
    for entry in entries(folder):
        if entry.name.startswith(".epoch-") and entry.name.endswith(".tmp") and not entry.name.endswith(".old.tmp"):
            with contextlib.suppress(FileNotFoundError), os.scandir(entry.path) as files:
                if all(item.stat().st_mtime >= since for item in [entry, *files]):
                    return True
    return False


def checkpoints(folder: Path) -> set[str]:
    """All checkpoints that have their name."""
    return {entry.path for entry in entries(folder) if entry.name.startswith("epoch-")}


def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A command in a session of its own, so that its workers are killed with it."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **quiet, env=environment, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes]) -> None:
    """Let a command end; stop here where it fails."""
    if process.wait():
        sys.exit(f"a run failed with {process.returncode}; without kills: {shlex.join(map(str, process.args))}")


@dataclasses.dataclass
class Killer:
    """Starts a command and kills it.

    Args:
        folder: of the run.
        environment: of the command.
        rng: draws the moments.
        start_seconds: how long a start takes until its first checkpoint.

    Attributes:
        done: kind of moment to the number of kills that hit it.
    """

    folder: Path
    environment: dict[str, str]
    rng: random.Random
    start_seconds: float
    done: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(("start", "between", "save"), 0))

    def run(self, command: list[str], moment: str | None) -> str | None:
        """Run a command, and kill it at such a moment; what was hit in truth, None where it ended before."""
        before, since = checkpoints(self.folder), time.time()
        process = start(command, self.environment)
        if moment is None:
            wait_for(process)
            return None
        began = time.monotonic()
        deadline = began + self.rng.uniform(0, self.start_seconds) if moment == "start" else float("inf")
        passed = self.rng.randint(0 if moment == "save" else 1, 2)  # no more than two stay
        while process.poll() is None:
            now = time.monotonic()
            if moment == "save":
                due = len(checkpoints(self.folder) - before) >= passed and half_written(self.folder, since)
            else:
                if deadline == float("inf") and len(checkpoints(self.folder) - before) >= passed:
                    deadline = now + self.rng.uniform(0, 0.5)
                due = now > deadline
            if due:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return self._hit(before, since)
            time.sleep(0.0005)
        wait_for(process)
        return None

    def _hit(self, before: set[str], since: float) -> str:
        if half_written(self.folder, since):
            hit = "save"
        else:
            hit = "between" if checkpoints(self.folder) - before else "start"
        self.done[hit] += 1
        return hit


def undisturbed(folder: Path, options: Options, environment: dict[str, str]) -> float:
    """Run everything; how many seconds it took to the first checkpoint."""
    began, first = time.monotonic(), 0.0
    for number, command in enumerate(commands(folder, options)):
        if number:
            write_groups(folder)
        process = start(command, environment)
        while process.poll() is None:
            if not first and checkpoints(folder):
                first = time.monotonic() - began
            time.sleep(0.01)
        wait_for(process)
    return first


def disturbed(killer: Killer, options: Options) -> None:
    """Run everything with kills, each followed by the same command."""
    todo = ["save"] * options.in_save + ["start"] * options.at_start
    todo += ["between"] * (options.kills - len(todo))
    killer.rng.shuffle(todo)
    planned = commands(killer.folder, options)
    for number, command in enumerate(planned):
        if number:
            write_groups(killer.folder)
        stay = len(todo) * (len(planned) - 1 - number) // len(planned)
        while True:
            hit = killer.run(command, todo[0] if len(todo) > stay else None)
            if hit is None:
                break
            # A save that was over when the signal came counts as what it was; another one is tried.
            if hit == todo[0] or todo[0] != "save":
                todo.pop(0)
            print(f"killed: {hit}; {len(todo)} to go", flush=True)
    if todo:
        sys.exit(f"the run ended before {len(todo)} of the kills; give it more --epochs")


def main() -> None:
    """Both runs, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="at least so many")
    parser.add_argument(
        "--in-save", type=int, default=5, help="how many of them hit a checkpoint that is being written"
    )
    parser.add_argument("--at-start", type=int, help="how many of them come before the first; a quarter")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--random-rows", action="store_true", help="rows that change at random, in Python")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_in is not None:
        return train_on_random_rows(options.train_in, options)
    if options.at_start is None:
        options.at_start = min(options.kills // 4 or 1, options.kills - options.in_save)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, name) for name in ("whole", "broken")}
        # Caches of their own, so that a start may also be killed while it encodes rows.
        environments = {name: {**os.environ, "HF_DATASETS_CACHE": f"{scratch}/cache of {name}"} for name in folders}
        seconds = undisturbed(folders["whole"], options, environments["whole"])
        print(f"undisturbed: {seconds:.1f} s to the first checkpoint", flush=True)
        killer = Killer(folders["broken"], environments["broken"], random.Random(options.seed), seconds)
        disturbed(killer, options)
        found, expected = contents(folders["broken"]), contents(folders["whole"])
    different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    done = killer.done
    print(
        f"{sum(done.values())} kills: {done['save']} within a save, {done['start']} before the first checkpoint of a "
        f"start, {done['between']} between two; {len(expected)} files compared"
    )
    for name in MODELS:
        print(f"{name}: (task, sample id) stream {stream(expected, name)[:16]}, {stream(found, name)[:16]} with kills")
    if different:
        sys.exit(f"different: {', '.join(different)}")
    print("all identical")


if __name__ == "__main__":
    main()
