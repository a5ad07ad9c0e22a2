"""Peak resident memory of one epoch of training, by the number of rows: it must not grow with them.

Two tasks of random numbers are written once with 1 and once with 10 times the rows (100 MB and 1 GB of Arrow files).
For each, and for 0 and 2 worker processes, a process of its own opens the files and trains one epoch with a small
model; another one evaluates such a model on the same rows. What counts is the kernel's record of the peak of each
process (`VmHWM` of /proc, set back before), which includes memory shared with other processes and pages of mapped
files. Needs Linux.

    python benchmarks/memory.py --output memory.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import datasets
import measuring
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, load_from_disk

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.train import MultitaskTrainer, TrainingBatches, TrainingSettings, make_sampler

ROWS = {"walk": 20_000, "grasp": 8_000}  # at 1x
SMOKE_ROWS = {"walk": 200, "grasp": 80}
BATCH_SIZE = 64
STEPS, CHANNELS, COLUMNS = 100, 8, 64
WORKERS = (0, 2)
EVALUATION = "evaluation"
FACTORS = (1, 10)
LIMIT = 1.05


def main(options: list[str] | None = None) -> None:
    """Prepare the rows, measure every case in a process of its own, show and save the table."""
    parser = measuring.parser(__doc__ or "", repeats=3)
    parser.add_argument(
        "--measure", nargs=2, metavar=("FOLDER", "CASE"), help="one case alone, in this process: 0, 2 or evaluation"
    )
    arguments = parser.parse_args(options)
    measuring.start(arguments)
    datasets.disable_progress_bars()
    if arguments.measure:
        folder, case = arguments.measure
        found = evaluate(Path(folder)) if case == EVALUATION else measure(Path(folder), int(case))
        print(json.dumps(found))
        return
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("The peak of a process is read from Linux's /proc, which this system does not have.")
    with tempfile.TemporaryDirectory(prefix="highmmt-memory-") as temporary:
        folders = {factor: Path(temporary) / f"{factor}x" for factor in FACTORS}
        sizes = {}
        for factor, folder in folders.items():
            rows = {task: factor * count for task, count in (SMOKE_ROWS if arguments.smoke else ROWS).items()}
            prepare(folder, rows)
            sizes[factor] = sum(file.stat().st_size for file in folder.rglob("*.arrow"))
        cases: dict[str, list[dict[str, Any]]] = {}
        for _ in range(arguments.repeats):
            for case in (*WORKERS, EVALUATION):
                for factor, folder in folders.items():
                    found = measured_elsewhere(folder, case, arguments.threads)
                    cases.setdefault(f"{named(case)}, {factor}x", []).append(found)
    results = summary(cases, sizes)
    show(results)
    measuring.save(arguments, {"cases": cases, "arrow_bytes": sizes, "growth": results})


def prepare(folder: Path, rows: dict[str, int]) -> None:
    """Encoded rows on disk, with their processor."""
    processor = HighMMTProcessor(
        modalities={"series": {"kind": "time_series"}, "table": {"kind": "table"}},
        tasks={
            "walk": {
                "modalities": {"series": {"column": "series"}, "table": {"column": "table"}},
                "target": {"column": "label", "problem_type": "single_label_classification"},
            },
            "grasp": {
                "modalities": {"series": {"column": "series"}},
                "target": {"column": "force", "problem_type": "regression"},
            },
        },
    )
    rng = np.random.default_rng(0)
    splits = {}
    for task, count in rows.items():
        lists = {"series": (STEPS, CHANNELS), "table": (COLUMNS,)} if task == "walk" else {"series": (STEPS, CHANNELS)}
        columns: dict[str, Any] = {name: nested(rng, count, shape) for name, shape in lists.items()}
        if task == "walk":
            columns["label"] = rng.integers(0, 4, count)
        else:
            columns["force"] = rng.normal(size=count)
        splits[task] = Dataset(pa.table(columns))
        processor.fit(task, splits[task].select(range(80)))
    for task, split in splits.items():
        processor.encode(task, split).save_to_disk(folder / task)
    processor.save_pretrained(folder)


def nested(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> pa.Array:
    """Random rows as an Arrow column of lists."""
    values: pa.Array = pa.array(rng.standard_normal(count * int(np.prod(shape)), dtype=np.float32))
    for size in reversed(shape):
        offsets = np.arange(0, len(values) + 1, size, dtype=np.int64)
        values = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    return values


def named(case: int | str) -> str:
    """A case as the table has it."""
    return f"{case} workers" if isinstance(case, int) else case


def measured_elsewhere(folder: Path, case: int | str, threads: int) -> dict[str, Any]:
    """One case, in a new process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", str(folder), str(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def opened(folder: Path, split: str) -> tuple[HighMMTProcessor, dict[str, dict[str, Dataset]], HighMMTModel]:
    """Processor, rows and a new model."""
    processor = HighMMTProcessor.from_pretrained(folder)
    data = {task: {split: load_from_disk(folder / task)} for task in processor.tasks}
    config = HighMMTConfig(
        modalities=processor.modality_configs(),
        tasks=processor.task_configs(),
        num_latents=4,
        d_latents=16,
        num_crossmodal_attention_heads=2,
        num_self_attention_heads=2,
        cross_attention_head_dim=8,
        self_attention_head_dim=8,
    )
    return processor, data, HighMMTModel(config)


def evaluate(folder: Path) -> dict[str, Any]:
    """Evaluate a model on all rows; the peak in bytes."""
    processor, data, model = opened(folder, "validation")
    metrics = {"walk": "accuracy", "grasp": "rmse"}
    trainer = MultitaskTrainer(model, processor, data, metrics, TrainingSettings(eval_batch_size=BATCH_SIZE))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    trainer.evaluate("validation")
    return {"main": status("self", "VmHWM"), "mapped": status("self", "RssFile")}


def measure(folder: Path, workers: int) -> dict[str, Any]:
    """Train one epoch; peaks in bytes, of this process and of the largest worker."""
    processor, data, model = opened(folder, "train")
    optimizer = torch.optim.Adam(model.parameters())
    rows = {task: len(splits["train"]) for task, splits in data.items()}
    sampler = make_sampler("staggered", rows, dict.fromkeys(rows, BATCH_SIZE))
    batches = TrainingBatches(data, processor, sampler, seed=0, num_workers=workers)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    largest_worker = 0
    for step in batches.epoch(0):
        model(**step.batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for worker in active_children():
            largest_worker = max(largest_worker, status(worker.pid, "VmHWM"))
    return {"main": status("self", "VmHWM"), "worker": largest_worker, "mapped": status("self", "RssFile")}


def status(process: int | str | None, field: str) -> int:
    """Bytes in a field of a process's status; 0 for a process that is over."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def summary(cases: dict[str, list[dict[str, Any]]], sizes: dict[int, int]) -> dict[str, Any]:
    """For each case and each kind of process: median peaks at 1x and 10x, and their ratio."""
    rows = {}
    for case in (*WORKERS, EVALUATION):
        for process in ("main", "worker") if case in WORKERS and case else ("main",):
            peaks = [
                statistics.median(found[process] for found in cases[f"{named(case)}, {factor}x"]) for factor in FACTORS
            ]
            rows[f"{named(case)}, {process} process"] = {"peaks": peaks, "growth": peaks[1] / peaks[0]}
    return rows


def show(results: dict[str, Any]) -> None:
    """The table, with a verdict."""
    columns = ["", *(f"peak at {factor}x, MB" for factor in FACTORS), "growth", f"at most {LIMIT - 1:.0%}"]
    rows = []
    for name, found in results.items():
        peaks = [f"{peak / 1e6:.0f}" for peak in found["peaks"]]
        verdict = "yes" if found["growth"] <= LIMIT else "no"
        rows.append([name, *peaks, f"{found['growth'] - 1:+.1%}", verdict])
    measuring.show("Peak resident memory of an epoch", columns, rows)


if __name__ == "__main__":
    main()
