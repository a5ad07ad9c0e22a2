"""Kill a training again and again, and see that it ends as one that was never killed: the same files, bit by bit.

Runs `highmmt train` on four tasks of the starter suite (pretraining, then fine-tuning in groups, each with dropout),
once undisturbed, and once with SIGKILL at random moments, a part of them while a checkpoint is being written; after
each kill the same command is given again. Compared are every file of the last checkpoints (weights, best weights,
optimizer, schedule, generators, losses, history, digest of the (task, sample id) stream), the models and metrics.json.

    python scripts/chaos.py --kills 20 --in-save 5 --num-workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = "digits,motion,birds,vowels"
PHASES = ("pretrain", "finetune")


def command(recipe: str, folder: Path, epochs: int, workers: int) -> list[str]:
    """One phase of the run."""
    options = ["--tasks", TASKS, "--epochs", epochs, "--save-steps", 5, "--num-workers", workers]
    start = [sys.executable, "-m", "highmmt", "train", "starter", "--recipe", recipe, "--resume"]
    return [*start, *map(str, options), "--output-dir", str(folder)]


def write_groups(folder: Path) -> None:
    """Two unimodal groups, so that fine-tuning has something to clone."""
    from highmmt import load_suite

    suite = load_suite("starter").select(TASKS.split(","))
    pairs = {pair: number % 2 for number, pair in enumerate(suite.modality_task_pairs())}
    groups = {"unimodal": pairs, "crossmodal": dict.fromkeys(suite.interactions(), 0)}
    (folder / "parameter_groups.json").write_text(json.dumps(groups), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """All that must be the same: models with their metrics, and the newest checkpoint of each phase."""
    chosen = [path for name in ("pretrained", "finetuned") for path in (folder / name).iterdir()]
    for phase in ("pretrained", "finetuned"):
        chosen += max(
            path for path in (folder / "checkpoints" / phase).iterdir() if path.name.startswith("epoch-")
        ).iterdir()
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in chosen if path.is_file()}


def saving(folder: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any((folder / "checkpoints").glob("*/.epoch-*.tmp"))


def checkpoints(folder: Path) -> set[str]:
    """Names of all checkpoints that are there."""
    return {path.name for path in (folder / "checkpoints").glob("*/epoch-*")}


def killed(process: subprocess.Popen[bytes], folder: Path, delay: float, in_save: bool) -> bool:
    """Kill a process some time after its first checkpoint, or in the next save then; False where it ended before."""
    before, deadline = checkpoints(folder), float("inf")
    while process.poll() is None:
        if deadline == float("inf") and checkpoints(folder) - before:
            deadline = time.monotonic() + delay
        if time.monotonic() > deadline and (not in_save or saving(folder)):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    if process.returncode:
        sys.exit(f"a run that was continued failed with {process.returncode}")
    return False


def main() -> None:
    """Both runs, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-save", type=int, default=5, help="how many of the kills hit a save")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch, "whole"), Path(scratch, "broken")
        for phase in PHASES:
            if phase == "finetune":
                write_groups(whole)
            subprocess.run(command(phase, whole, given.epochs, given.num_workers), check=True, capture_output=True)
        moments = [number < given.in_save for number in range(given.kills)]
        rng.shuffle(moments)
        done = dict.fromkeys((False, True), 0)
        for index, phase in enumerate(PHASES):
            if phase == "finetune":
                write_groups(broken)
            share = moments[index :: len(PHASES)]
            while True:
                process = subprocess.Popen(
                    command(phase, broken, given.epochs, given.num_workers),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                in_save = share[0] if share else False
                wait = rng.uniform(0, 0.5) if share else float("inf")
                if not killed(process, broken, wait, in_save):
                    break
                done[share.pop(0)] += 1
                print(f"{phase}: killed{' within a save' if in_save else ''}, {len(share)} to go", flush=True)
        found, expected = contents(broken), contents(whole)
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        print(f"{sum(done.values())} kills, {done[True]} of them within a save; {len(expected)} files compared")
        if different:
            sys.exit(f"different: {', '.join(different)}")
        print("all identical")


if __name__ == "__main__":
    main()
