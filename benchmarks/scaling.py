"""Throughput of training by 1 and by 2 processes with one thread each, over gloo on the CPU.

Steps of the paper's large setting, forward, backward and Adam, with the model that Accelerate prepares. Rounds take
turns, 1 process and 2 in one and 2 and 1 in the next, each in new processes; a round's number is its median step.
"shared": all processes share the rows of one step, as `MultitaskTrainer` has it. "own": each has a step's rows of its
own, so that 2 processes train on twice the rows. 2 would be perfect; every process pays what a step costs whatever its
size, and waits for the gradients of the other.

    python benchmarks/scaling.py --output scaling.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import measuring
import torch
from accelerate import Accelerator
from large_setting import Setting, large_setting

from highmmt.modeling_highmmt import HighMMTModel

PROCESSES = (1, 2)
DIVISIONS = ("shared", "own")


def main(options: list[str] | None = None) -> None:
    """Launch the rounds in turn, show and save the table."""
    parser = measuring.parser(__doc__ or "", repeats=7)
    parser.set_defaults(threads=1)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a round (default: 8)")
    parser.add_argument("--worker", action="store_true", help="one process of a round; torch.distributed.run says so")
    arguments = parser.parse_args(options)
    measuring.start(arguments)
    if arguments.worker:
        work(arguments.steps, arguments.smoke)
        return
    rounds: dict[str, list[float]] = {f"{division} {count}": [] for division in DIVISIONS for count in PROCESSES}
    for number in range(arguments.repeats):
        for count in PROCESSES if number % 2 == 0 else PROCESSES[::-1]:
            found = launch(count, arguments.steps, arguments.threads, arguments.smoke)
            for division, seconds in found.items():
                rounds[f"{division} {count}"].append(seconds)
    samples = setting_of(arguments.smoke).num_samples
    rows, throughput = [], {}
    for division in DIVISIONS:
        one, *others = (rounds[f"{division} {count}"] for count in PROCESSES)
        for count, seconds in zip(PROCESSES, (one, *others), strict=True):
            num_samples = samples * (count if division == "own" else 1)
            rates = [num_samples / each for each in seconds]
            factors = [rate * each / samples for rate, each in zip(rates, one, strict=True)]
            spread, factor = measuring.Spread.of(rates), measuring.Spread.of(factors)
            throughput[f"{division} {count}"] = {"samples_per_second": vars(spread), "factor": vars(factor)}
            rows.append(
                [
                    f"{division}, {count} process{'es' if count > 1 else ''}",
                    spread.text(decimals=0),
                    factor.text(decimals=2),
                ]
            )
    measuring.show("Training throughput", ["", "samples/s", "times as fast as 1 process"], rows)
    measuring.save(arguments, {"step_seconds": rounds, "throughput": throughput})


def launch(count: int, steps: int, threads: int, smoke: bool) -> dict[str, float]:
    """One round: seconds of the median step, for each division of the rows."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command += [__file__, "--worker", "--threads", str(threads), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, *(["--smoke"] if smoke else [])], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def work(steps: int, smoke: bool) -> None:
    """What each process of a round does."""
    accelerator = Accelerator()
    found = {}
    for division in DIVISIONS:
        torch.manual_seed(0)
        setting = setting_of(smoke)
        model = HighMMTModel(setting.config)
        model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=8e-4, fused=True))
        batch = {"inputs": setting.inputs, "labels": setting.labels}
        if division == "shared":
            batch = part_of(batch, accelerator.process_index, accelerator.num_processes)
        seconds = []
        for _ in range(2 + steps):
            accelerator.wait_for_everyone()
            started = time.perf_counter()
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.wait_for_everyone()
            seconds.append(time.perf_counter() - started)
        found[division] = statistics.median(seconds[2:])
        accelerator.free_memory()
    if accelerator.is_main_process:
        print(json.dumps(found), flush=True)
    accelerator.end_training()


def setting_of(smoke: bool) -> Setting:
    """The large setting, or a tiny piece of it."""
    return large_setting(batch_divisor=10) if smoke else large_setting()


def part_of(values: Any, process: int, count: int) -> Any:
    """A process's rows of nested tensors."""
    if isinstance(values, dict):
        return {key: part_of(value, process, count) for key, value in values.items()}
    return values[process::count]


if __name__ == "__main__":
    main()
