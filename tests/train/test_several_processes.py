"""Training by several processes: the same run as by one, decided together, written once."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

# Run by every process; tasks of one row in a step leave a process without rows of its own.
SCRIPT = """
import hashlib, importlib.util, json, sys, warnings
from pathlib import Path

import datasets
import torch
from highmmt.heterogeneity import HeterogeneitySettings, measure_heterogeneity
from highmmt.train import (
    MultitaskTrainer, TrainingSettings, build_config, build_model, encode_suite, metric_names, save_model_folder
)

here, rows = Path(sys.argv[1]), Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("tiny_suite", sys.argv[3])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
torch.set_num_threads(1)
record = {}
for head_norm in ("layer_norm", "batch_norm"):
    suite = tiny.tiny_suite(rows, head_norm=head_norm)
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    model = build_model(build_config(suite, processor), seed=0)
    settings = TrainingSettings(
        num_epochs=4, learning_rate=1e-2, patience=2, batch_sizes={"shapes": 5, "arm": 4, "tone": 1}
    )
    trainer = MultitaskTrainer(model, processor, data, metric_names(suite), settings)
    result = trainer.train()
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    record[head_norm] = {
        "result": result.to_dict(), "test": trainer.evaluate("test"), "weights": hashlib.sha256(weights).hexdigest()
    }
    # A row of which one process alone knows that it is not finite.
    broken = [dict(row) for row in data["shapes"]["train"]]
    broken[7]["table"] = [float("nan")] * len(broken[7]["table"])
    rows_with_nan = datasets.Dataset.from_list(broken, features=data["shapes"]["train"].features)
    data = {**data, "shapes": {**data["shapes"], "train": rows_with_nan}}
    model = build_model(build_config(suite, processor), seed=0)
    spoilt = MultitaskTrainer(model, processor, data, metric_names(suite), settings).train()
    record[head_norm]["skipped"] = [[step.samples for step in epoch.skipped] for epoch in spoilt.history]
    record[head_norm]["spoilt"] = spoilt.to_dict()
state = trainer.accelerator.state
save_model_folder(here / "model", model, processor, f"written by process {state.process_index}")
assert (here / "model" / "config.json").exists()
settings = HeterogeneitySettings(num_steps=2, num_evaluations=1, batch_size=6, share=0.5, num_seeds=2)
folder = here / f"runs-{state.num_processes}"
matrix = measure_heterogeneity(suite, processor, data, "unimodal", settings, folder)
record["measurement"] = matrix.to_dict()
record["log"] = sorted((folder / "unimodal-runs.jsonl").read_text().splitlines())
(here / f"{state.process_index}-of-{state.num_processes}.json").write_text(json.dumps(record))
trainer.accelerator.end_training()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each process of a run by one and of a run by two wrote down."""
    folder, rows = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("rows")
    tiny_suite = Path(__file__).with_name("tiny_suite.py")
    spec = importlib.util.spec_from_file_location("tiny_suite", tiny_suite)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.tiny_suite(rows)
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    # With `--cpu`, `accelerate launch` would start one process whatever it is told.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    for launch in ([sys.executable], [*accelerate, "--main_process_port", "0"]):
        done = subprocess.run(
            [*launch, str(script), str(folder), str(rows), str(tiny_suite)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*-of-*.json")} | {"folder": folder}


def near(expected: Any) -> Any:
    """Each number of nested data within what adding in another order can change."""
    if isinstance(expected, dict):
        return {key: near(value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [near(value) for value in expected]
    return expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("head_norm", ["layer_norm", "batch_norm"])
def test_two_processes_train_as_one(runs: dict[str, Any], head_norm: str) -> None:
    one, two = runs["0-of-1"][head_norm], runs["0-of-2"][head_norm]
    # A step of batch norm over two rows enlarges what rounding has changed.
    first = slice(None) if head_norm == "layer_norm" else slice(1)
    assert two["result"]["history"][first] == near(one["result"]["history"][first])
    if head_norm == "layer_norm":
        assert two["result"] == near(one["result"])
        assert two["test"] == near(one["test"])


@pytest.mark.slow
@pytest.mark.parametrize("head_norm", ["layer_norm", "batch_norm"])
def test_what_one_process_finds_not_finite_is_skipped_by_all(runs: dict[str, Any], head_norm: str) -> None:
    for run in ("0-of-1", "0-of-2", "1-of-2"):
        skipped = runs[run][head_norm]["skipped"]
        assert skipped == [[{"shapes": ["shapes/train/7"]}]] * len(skipped)
    assert runs["0-of-2"][head_norm]["spoilt"] == runs["1-of-2"][head_norm]["spoilt"]


@pytest.mark.slow
@pytest.mark.parametrize("head_norm", ["layer_norm", "batch_norm"])
def test_all_processes_have_the_same_weights_and_stop_together(runs: dict[str, Any], head_norm: str) -> None:
    assert runs["0-of-2"][head_norm] == runs["1-of-2"][head_norm]


@pytest.mark.slow
def test_the_main_process_writes_and_the_others_wait(runs: dict[str, Any]) -> None:
    assert (runs["folder"] / "model" / "README.md").read_text() == "written by process 0"
    assert not [path.name for path in runs["folder"].iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_several_processes_measure_heterogeneity_as_one(runs: dict[str, Any]) -> None:
    one = runs["0-of-1"]
    for process in (0, 1):
        assert runs[f"{process}-of-2"]["measurement"] == one["measurement"]
        # The main process alone writes: every run once, and the same runs.
        assert runs[f"{process}-of-2"]["log"] == one["log"]
