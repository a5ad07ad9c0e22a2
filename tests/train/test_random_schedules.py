"""Random schedules by several processes, some without rows of a task: none hangs, and gradients are those of one."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

SCRIPT = Path(__file__).with_name("schedules.py")
_spec = importlib.util.spec_from_file_location("schedules", SCRIPT)
assert _spec is not None and _spec.loader is not None
schedules = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(schedules)
logger = logging.getLogger(__name__)
COUNT = 50  # of each of the cases


def launch(folder: Path, rows: Path, processes: int, count: int, *cases: str) -> dict[str, Any]:
    """What each process of a run wrote down, by its file's name."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(SCRIPT), str(folder), str(rows), str(count), *cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        path.stem: {"notes": json.loads(path.read_text()), "tensors": load_file(path.with_suffix(".safetensors"))}
        for path in folder.glob(f"*-of-{processes}.json")
    }


def differences(one: dict[str, np.ndarray], several: dict[str, np.ndarray], prefix: str) -> dict[str, float]:
    """How far tensors are from those of one process, relative to their norm."""
    found = {}
    for name, expected in one.items():
        if name.startswith(prefix):
            scale = float(np.linalg.norm(expected))
            # Nothing is learned where no row has a label, or a retrieval has one row to find.
            found[name] = float(np.linalg.norm(several[name] - expected)) / (scale or 1.0)
    assert found
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedule-rows")
    schedules.write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> dict[str, Any]:
    """What each process of runs by one, by two and by four wrote down."""
    folder = tmp_path_factory.mktemp("schedules")
    found: dict[str, Any] = {}
    for processes in (1, 2, 4):
        found |= launch(folder, rows, processes, COUNT, *schedules.CASES)
    return found


def test_two_processes_have_gradients_and_statistics_of_one(rows: Path, tmp_path: Path) -> None:
    # Batch norm, a retrieval, sequences with gaps, missing labels, and steps of fewer rows than processes; in float64,
    # where a mistake is told from rounding.
    case, count = "mixed-batch_norm-float64", 8
    two = launch(tmp_path, rows, 2, count, case)
    found = schedules.run_schedules(case, rows, count)
    one = {f"{case}/{name}": value for name, value in found["tensors"].items()}
    assert two["1-of-2"]["notes"][case]["empty"] > 0
    for rank in (0, 1):
        several = two[f"{rank}-of-2"]
        assert not several["notes"][case]["searches"]
        assert several["notes"][case]["forwards"] == several["notes"][case]["steps"] == found["notes"]["steps"]
        for name, difference in differences(one, several["tensors"], f"{case}/gradient").items():
            assert difference <= 1e-6, name
        for name, difference in differences(one, several["tensors"], f"{case}/statistics").items():
            assert difference <= 1e-6, name
            assert np.array_equal(several["tensors"][name], two["0-of-2"]["tensors"][name])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", schedules.CASES)
def test_gradients_of_random_schedules_are_those_of_one_process(
    runs: dict[str, Any], case: str, processes: int
) -> None:
    one = runs["0-of-1"]
    for rank in range(processes):
        several = runs[f"{rank}-of-{processes}"]
        found = differences(one["tensors"], several["tensors"], f"{case}/gradient")
        largest, middle = max(found.values()), float(np.median(list(found.values())))
        logger.info("%s, process %d of %d: largest %.1e, median %.1e", case, rank, processes, largest, middle)
        bounds, near = dict.fromkeys(found, 1e-6), 1e-6
        if case.endswith("batch_norm-float32"):
            # A norm over two rows enlarges what was rounded before it, by any number of processes.
            exact = case.replace("float32", "float64")
            rounding = differences(
                {name.replace(exact, case): value for name, value in one["tensors"].items() if name.startswith(exact)},
                one["tensors"],
                f"{case}/gradient",
            )
            bounds = {name: max(1e-6, 2 * rounding[name]) for name in found}
            near = 1e-5
            assert middle <= 1e-6
        for name, difference in found.items():
            assert difference <= bounds[name], name
        learned = several["notes"][case]["learned"], one["notes"][case]["learned"]
        for several_s, one_s in zip(*learned, strict=True):
            assert several_s == [None if s is None else pytest.approx(s, rel=1e-5, abs=near) for s in one_s]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", [case for case in schedules.CASES if "batch" in case])
def test_running_statistics_are_the_same_everywhere(runs: dict[str, Any], case: str, processes: int) -> None:
    first = runs[f"0-of-{processes}"]["tensors"]
    for rank in range(processes):
        several = runs[f"{rank}-of-{processes}"]["tensors"]
        for name, difference in differences(runs["0-of-1"]["tensors"], several, f"{case}/statistics").items():
            assert difference <= 1e-6, name
            assert np.array_equal(several[name], first[name])


@pytest.mark.slow
@pytest.mark.parametrize("case", schedules.CASES)
def test_some_processes_had_no_rows_of_a_task(runs: dict[str, Any], case: str) -> None:
    empty = {name: run["notes"][case]["empty"] for name, run in runs.items()}
    assert empty["0-of-1"] == 0
    assert empty["1-of-2"] > 20
    assert empty["3-of-4"] > empty["1-of-2"]


@pytest.mark.slow
def test_every_step_is_one_forward_pass_and_nothing_searches_for_parameters(runs: dict[str, Any]) -> None:
    for run in runs.values():
        for notes in run["notes"].values():
            assert notes["forwards"] == notes["steps"] > 50
            assert not notes["searches"]
