"""Random schedules by several processes, some without rows of a task: none hangs, and gradients are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

SCHEDULES = 200
# Run by every process. One model for all schedules: a task that a step lacks is no parameter to search for.
SCRIPT = """
import importlib.util, json, sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import save_file
from highmmt.train import (
    SAMPLERS, TrainingBatches, build_config, build_model, encode_suite, make_sampler, make_weighting
)

here, rows_folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
spec = importlib.util.spec_from_file_location("tiny_suite", sys.argv[3])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
torch.set_num_threads(1)
accelerator = Accelerator()
rank, world = accelerator.process_index, accelerator.num_processes
suite = tiny.tiny_suite(rows_folder, head_norm="layer_norm")
processor = suite.build_processor()
data = encode_suite(suite, processor)
model = build_model(build_config(suite, processor), seed=0)
wrapped = accelerator.prepare(model)
assert world == 1 or not wrapped.find_unused_parameters
gradients, empty, learned = {}, 0, []
for number in range(count):
    rng = np.random.default_rng(number)
    tasks = rng.permutation(list(suite.tasks))[: rng.integers(1, 4)]
    chosen = {task: {"train": data[task]["train"].select(range(rng.integers(1, 9)))} for task in tasks.tolist()}
    rows = {task: len(splits["train"]) for task, splits in chosen.items()}
    sizes = {task: int(rng.integers(1, 6)) for task in rows}
    sampler = make_sampler(SAMPLERS[number % len(SAMPLERS)], rows, sizes, seed=number)
    batches = TrainingBatches(chosen, processor, sampler, seed=number, rank=rank, world_size=world)
    weighting = make_weighting("uncertainty", model.config.tasks)
    total = [torch.zeros_like(value) for value in model.parameters()]
    for step in batches.epoch(number % 3, start=int(rng.integers(0, len(sampler)))):
        empty += sum(share == 0 for share in step.shares.values())
        losses = {task: step.shares[task] * loss for task, loss in wrapped(**step.batch).losses.items()}
        accelerator.backward(torch.stack(list(weighting(losses).values())).sum())
        for sum_, value in zip(total, model.parameters()):
            sum_ += value.grad
        model.zero_grad()
    weighting.average_gradients()
    learned.append([None if s.grad is None else s.grad.item() for s in weighting.parameters()])
    gradients[str(number)] = torch.cat([value.flatten() for value in total]).numpy()
save_file(gradients, here / f"{rank}-of-{world}.safetensors")
(here / f"{rank}-of-{world}.json").write_text(json.dumps({"empty": empty, "learned": learned}))
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What each process of runs by one, by two and by four wrote down."""
    folder, rows = tmp_path_factory.mktemp("schedules"), request.getfixturevalue("rows_folder")
    request.getfixturevalue("still_suite")  # writes the rows
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for processes in (1, 2, 4):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [*launch, str(script), str(folder), str(rows), str(Path(__file__).with_name("tiny_suite.py"))]
        done = subprocess.run(
            [*command, str(SCHEDULES)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        path.stem: {**json.loads(path.read_text()), "gradients": load_file(path.with_suffix(".safetensors"))}
        for path in folder.glob("*-of-*.json")
    }


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_of_random_schedules_are_those_of_one_process(runs: dict[str, Any], processes: int) -> None:
    one = runs["0-of-1"]
    for rank in range(processes):
        several = runs[f"{rank}-of-{processes}"]
        for number, expected in one["gradients"].items():
            scale = np.linalg.norm(expected)
            assert scale > 0
            assert np.linalg.norm(several["gradients"][number] - expected) <= 1e-6 * scale, number
        for found, expected in zip(several["learned"], one["learned"], strict=True):
            assert found == [None if value is None else pytest.approx(value, rel=1e-5, abs=1e-6) for value in expected]


@pytest.mark.slow
def test_some_processes_had_no_rows_of_a_task(runs: dict[str, Any]) -> None:
    assert runs["0-of-1"]["empty"] == 0
    assert runs["1-of-2"]["empty"] > 100
    assert runs["3-of-4"]["empty"] > runs["1-of-2"]["empty"]
