"""How long a whole unimodal heterogeneity matrix takes: the package against the obvious loop.

The obvious way trains a model on each node, then fine-tunes it on every other node, one run after the other. The
package trains all runs on a target side by side, in one process and in as many as there are cores. Both make the same
steps on the same batches and look at validation data equally often. Then times a step of 1, 5, 10, 20 and 40 models
stacked, against as many one after the other. Prints the tables of docs/heterogeneity.md.

    python benchmarks/heterogeneity.py [--steps 48] [--processes 2] [--share 0.5] [--stacks-only] [--smoke]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from highmmt import HighMMTConfig, HighMMTModel
from highmmt.heterogeneity import HeterogeneitySettings, TransferMeasurement, measure_heterogeneity
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite, load_suite
from highmmt.train import StaggeredSchedule, build_config, build_model, encode_suite
from highmmt.train.processes import process_state

EVALUATION_BATCH = 256
STACKS = (1, 5, 10, 20, 40)
STACK_NODE = "motion/gyroscope"


class ObviousLoop:
    """One model after the other, as one would write it without the package's measurement."""

    def __init__(self, suite: Suite, processor: HighMMTProcessor, data: Any, settings: HeterogeneitySettings) -> None:
        self.suite, self.processor, self.settings = suite, processor, settings
        self.nodes = suite.modality_task_pairs()
        self.config = build_config(suite, processor)
        self.tables = {}
        for node in self.nodes:
            task, modality = node.split("/")
            for split in ("train", "validation"):
                table = data[task][split].with_format("arrow")[:]
                present = [row for row, values in enumerate(table[modality].to_pylist()) if values]
                self.tables[node, split] = table.take(present)

    def losses(self) -> dict[str, float]:
        """Best validation loss of every run."""
        found, trained = {}, {}
        for node in self.nodes:
            found[node], trained[node] = self.train(node, {})
        for source, target in itertools.permutations(self.nodes, 2):
            start = {name: value for name, value in trained[source].items() if not name.startswith("heads.")}
            found[f"{source}->{target}"], _ = self.train(target, start)
        return found

    def train(self, node: str, start: dict[str, torch.Tensor], steps: int | None = None) -> tuple[float, Any]:
        """Best validation loss of one run, and the weights that had it."""
        task, settings = node.split("/")[0], self.settings
        steps = steps or settings.num_steps
        model = self.new_model(node)
        model.load_state_dict({**model.state_dict(), **start})
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        rows = {task: self.tables[node, "train"].num_rows}
        schedule = StaggeredSchedule(rows, {task: settings.batch_size}, seed=settings.seed)
        order = (step[task] for epoch in itertools.count() for step in schedule.epoch(epoch))
        evaluate_at = set(np.linspace(0, steps, settings.num_evaluations + 1).round().astype(int)[1:])
        best, weights = float("inf"), {}
        torch.manual_seed(settings.seed)
        for step, numbers in enumerate(itertools.islice(order, steps), start=1):
            model.train()
            loss = model(**self.batch(node, "train", numbers)).losses[task]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step in evaluate_at:
                value = self.validate(model, node)
                if value < best:
                    best = value
                    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return best, weights

    @torch.no_grad()
    def validate(self, model: HighMMTModel, node: str) -> float:
        """Mean loss over the validation rows."""
        model.eval()
        total, count = 0.0, self.tables[node, "validation"].num_rows
        for start in range(0, count, EVALUATION_BATCH):
            numbers = np.arange(start, min(start + EVALUATION_BATCH, count))
            output = model(**self.batch(node, "validation", numbers))
            total += float(output.losses[node.split("/")[0]]) * len(numbers)
        return total / count

    def batch(self, node: str, split: str, numbers: np.ndarray) -> dict[str, Any]:
        """Collated rows."""
        task, modality = node.split("/")
        batch = self.processor.collate(task, self.tables[node, split].take(numbers), modalities=[modality])
        batch.pop("row", None)
        return dict(batch)

    def new_model(self, node: str) -> HighMMTModel:
        """A model for one node, of the standard width of all."""
        task, modality = node.split("/")
        tasks = {task: {**dataclasses.asdict(self.config.tasks[task]), "modalities": [modality]}}
        return build_model(HighMMTConfig(**{**self.config.to_dict(), "tasks": tasks}), self.settings.seed)


def faster_threads(loop: ObviousLoop) -> int:
    """The number of threads that the obvious way is faster with: small tensors gain little from a second one."""
    seconds = {}
    for threads in (1, len(os.sched_getaffinity(0))):
        torch.set_num_threads(threads)
        loop.train(loop.nodes[0], {}, steps=1)
        started = time.perf_counter()
        loop.train(loop.nodes[0], {}, steps=4)
        seconds[threads] = time.perf_counter() - started
    return min(seconds, key=lambda threads: seconds[threads])


def run_one_way(arguments: argparse.Namespace) -> None:
    """Measure in this process (or as one of several) and write losses and seconds."""
    datasets.disable_progress_bars()
    suite = load_suite("starter")
    if arguments.tasks:
        suite = suite.select(arguments.tasks)
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    settings = HeterogeneitySettings(
        num_steps=arguments.steps,
        num_evaluations=min(3, arguments.steps),
        share=arguments.share,
        seed=arguments.seed,
        loss_scale="none",
    )
    result: dict[str, Any] = {}
    if arguments.way == "obvious":
        loop = ObviousLoop(suite, processor, data, settings)
        result["threads"] = faster_threads(loop)
        torch.set_num_threads(result["threads"])
        started = time.perf_counter()
        result["losses"] = loop.losses()
    else:
        torch.set_num_threads(1)
        process_state().wait_for_everyone()
        started = time.perf_counter()
        matrix = measure_heterogeneity(
            suite, processor, data, "unimodal", settings, arguments.folder / f"{arguments.share}-{arguments.seed}"
        )
        entries = {**matrix.losses["scratch"], **matrix.losses["transfer"]}
        result["losses"] = {run: loss for run, [loss] in entries.items()}
    result["seconds"] = time.perf_counter() - started
    if int(os.environ.get("RANK", "0")) == 0:
        arguments.output.write_text(json.dumps(result))


def plain_step(model: HighMMTModel, settings: HeterogeneitySettings) -> Callable[[dict[str, Any]], None]:
    """An optimizer step of a single model, as one would write it."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )

    def step(batch: dict[str, Any]) -> None:
        model.train()
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def stack_table(node: str, sizes: Sequence[int], repeats: int) -> str:
    """Milliseconds per model and optimizer step on one node, stacked and one after the other, as Markdown."""
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    suite = load_suite("starter").select([node.split("/")[0]])
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    settings = HeterogeneitySettings()
    with tempfile.TemporaryDirectory() as name:
        made = TransferMeasurement(suite, processor, data, "unimodal", settings, Path(name), writes=False)
        batches = [made._batch(node, "train", rows) for rows in itertools.islice(made._order(node, 0), repeats + 1)]
        alone = [plain_step(made._model(node, 0), settings) for _ in range(max(sizes))]
        lines = ["| models | ms, stacked | ms, one by one | times faster |", "|---|---|---|---|"]
        for size in sizes:
            stacked = [made._stack(node, 0, [{}] * size).train_step]
            seconds: dict[str, list[float]] = {"stacked": [], "one by one": []}
            for number, batch in enumerate(batches):
                # In turns, so that a disturbance meets both; the first round prepares what the others find prepared.
                for label, steps in (("stacked", stacked), ("one by one", alone[:size])):
                    started = time.perf_counter()
                    for step in steps:
                        step(batch)
                    if number:
                        seconds[label].append(time.perf_counter() - started)
            fast, slow = (1000 * float(np.median(seconds[label])) / size for label in ("stacked", "one by one"))
            lines.append(f"| {size} | {fast:.1f} | {slow:.1f} | {slow / fast:.2f} |")
    return "\n".join(lines)


def launch(
    way: str, folder: Path, arguments: argparse.Namespace, share: float, seed: int, processes: int | None = None
) -> dict[str, Any]:
    """One way in processes of its own."""
    output = folder / "result.json"
    folder.mkdir(exist_ok=True)
    command = [sys.executable]
    processes = processes or arguments.processes
    if way == "ours" and processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [__file__, "--way", way, "--folder", str(folder), "--output", str(output)]
    command += ["--steps", str(arguments.steps), "--share", str(share), "--seed", str(seed)]
    if arguments.tasks:
        command += ["--tasks", *arguments.tasks]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    if way == "ours":
        environment["OMP_NUM_THREADS"] = "1"
    subprocess.run(command, check=True, env=environment)
    return dict(json.loads(output.read_text()))


def typical_difference(first: dict[str, float], second: dict[str, float]) -> tuple[float, float]:
    """Median and largest difference of the same runs' losses."""
    differences = [abs(first[run] - second[run]) for run in first if run in second]
    return float(np.median(differences)), max(differences)


def main() -> None:
    """Both ways, one after the other, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=48, help="optimizer steps of every run")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="of the package's way")
    parser.add_argument("--share", type=float, default=0.5, help="share of the pairs of the partial measurement")
    parser.add_argument("--tasks", nargs="+", help="only these tasks of the starter suite")
    parser.add_argument("--repeats", type=int, default=15, help="steps that each size of a stack is timed for")
    parser.add_argument("--stacks-only", action="store_true", help="only the table of stacked models")
    parser.add_argument("--smoke", action="store_true", help="two tasks, two steps: whether it runs")
    parser.add_argument("--way", choices=("obvious", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps, arguments.tasks, arguments.repeats = 2, ["vowels", "parkinson"], 1
    if arguments.way:
        run_one_way(arguments)
        return
    stacks = stack_table(STACK_NODE, (1, 2) if arguments.smoke else STACKS, arguments.repeats)
    print(f"A step of models of {STACK_NODE}, per model, one thread:\n\n{stacks}\n")
    if arguments.stacks_only:
        return
    print(f"Load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = launch("ours", folder, arguments, 1.0, 0)
        one_process = launch("ours", folder / "one", arguments, 1.0, 0, processes=1)
        other_seed = launch("ours", folder, arguments, 1.0, 1)
        partial = launch("ours", folder, arguments, arguments.share, 0)
        obvious = launch("obvious", folder, arguments, 1.0, 0)
    runs = len(obvious["losses"])
    print(f"Load after: {os.getloadavg()[0]:.1f}\n")
    print("| way | runs | seconds | times faster |\n|---|---|---|---|")
    for label, result in (
        (f"obvious loop, {obvious['threads']} thread(s)", obvious),
        ("package, 1 process", one_process),
        (f"package, {arguments.processes} process(es)", ours),
        (f"package, {arguments.share:.0%} of the pairs", partial),
    ):
        ratio = obvious["seconds"] / result["seconds"]
        print(f"| {label} | {len(result['losses'])} | {result['seconds']:.1f} | {ratio:.2f} |")
    saved = 1 - partial["seconds"] / ours["seconds"]
    print(f"\nMeasuring {arguments.share:.0%} of the pairs saves {saved:.0%} of the time of the whole matrix.")
    same, noise = (typical_difference(ours["losses"], other["losses"]) for other in (obvious, other_seed))
    print(f"\n{runs} losses, ours and obvious: differ by {same[0]:.2g} (median), {same[1]:.2g} (largest)")
    print(f"{runs} losses, ours with two seeds: differ by {noise[0]:.2g} (median), {noise[1]:.2g} (largest)")


if __name__ == "__main__":
    main()
