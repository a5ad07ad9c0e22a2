"""Random schedules of two suites, with layer norm and with batch norm: gradients and statistics, by any process."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import save_file

from highmmt.suites import Suite
from highmmt.train import (
    SAMPLERS,
    SynchronisedBatchNorms,
    TrainingBatches,
    build_config,
    build_model,
    encode_suite,
    make_sampler,
    make_weighting,
)

# Suite, norm of the heads, and what the model computes in (its losses always in float32).
CASES = (
    *("tiny-layer_norm-float32", "tiny-batch_norm-float32", "mixed-layer_norm-float32", "mixed-batch_norm-float32"),
    *("tiny-batch_norm-float64", "mixed-batch_norm-float64"),
)


def main(here: Path, rows: Path, count: int, cases: list[str]) -> None:
    """What each process of a launch does: `count` schedules of every case, gradients and notes in files of its own."""
    torch.set_num_threads(1)
    accelerator = Accelerator()
    rank, world = accelerator.process_index, accelerator.num_processes
    tensors, notes = {}, {}
    for case in cases:
        found = run_schedules(case, rows, count, accelerator)
        tensors |= {f"{case}/{name}": value for name, value in found["tensors"].items()}
        notes[case] = found["notes"]
    save_file(tensors, here / f"{rank}-of-{world}.safetensors")
    (here / f"{rank}-of-{world}.json").write_text(json.dumps(notes))
    accelerator.end_training()


def run_schedules(case: str, rows: Path, count: int, accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Gradients of each schedule, running statistics after it, and notes.

    One model for all schedules: a task that a step lacks is no parameter to search for.

    Args:
        case: one of `CASES`.
        rows: where the suites' rows are.
        count: number of schedules.
        accelerator: of the launch; None for one process.
    """
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    suite = suite_of(case, rows)
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    model = build_model(build_config(suite, processor), seed=0).to(getattr(torch, case.split("-")[2]))
    wrapped: Any = accelerator.prepare(model) if accelerator else model
    tensors: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {"empty": 0, "learned": [], "steps": 0, "forwards": 0}
    notes["searches"] = world > 1 and wrapped.find_unused_parameters
    model.register_forward_pre_hook(lambda *_: notes.update(forwards=notes["forwards"] + 1))
    with SynchronisedBatchNorms(wrapped) as norms:
        for number in range(count):
            rng = np.random.default_rng(number)
            tasks = rng.permutation(list(suite.tasks))[: rng.integers(1, len(suite.tasks) + 1)]
            chosen = {
                task: {"train": data[task]["train"].select(range(rng.integers(1, 9)))} for task in tasks.tolist()
            }
            counts = {task: len(splits["train"]) for task, splits in chosen.items()}
            sizes = {task: int(rng.integers(1, 6)) for task in counts}
            sampler = make_sampler(SAMPLERS[number % len(SAMPLERS)], counts, sizes, seed=number)
            batches = TrainingBatches(chosen, processor, sampler, seed=number, rank=rank, world_size=world)
            weighting = make_weighting("uncertainty", model.config.tasks)
            total = [torch.zeros_like(value) for value in model.parameters()]
            for step in batches.epoch(number % 3, start=int(rng.integers(0, len(sampler)))):
                notes["steps"] += 1
                notes["empty"] += sum(weight == 0 for weight in step.row_weights.values())
                norms.weigh_rows(step.row_weights)
                losses = {task: step.shares[task] * loss for task, loss in wrapped(**step.batch).losses.items()}
                torch.stack(list(weighting(losses).values())).sum().backward()
                for sum_, value in zip(total, model.parameters(), strict=True):
                    sum_ += value.grad
                model.zero_grad()
            if world > 1:
                weighting.average_gradients()
            notes["learned"].append([None if s.grad is None else s.grad.item() for s in weighting.parameters()])
            tensors[f"gradient-{number}"] = torch.cat([value.flatten() for value in total]).numpy()
            statistics = [value.flatten().float() for value in model.buffers()]
            if statistics:
                tensors[f"statistics-{number}"] = torch.cat(statistics).numpy()
    return {"tensors": tensors, "notes": notes}


def suite_of(case: str, rows: Path) -> Suite:
    """The suite of a case, over rows that `write_rows` has written."""
    name, head_norm, _ = case.split("-")
    if name == "tiny":
        return load("tiny_suite").tiny_suite(rows, head_norm=head_norm)
    values = load("mixed_suite").suite_values()
    values["model"]["head_norm"] = head_norm
    return Suite.from_dict(values, rows)


def write_rows(rows: Path) -> None:
    """The rows of both suites."""
    load("tiny_suite").tiny_suite(rows)
    load("mixed_suite").write_rows(rows)


def load(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
