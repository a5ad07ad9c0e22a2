"""What a sweep will cost: the jobs that a rehearsal finds are those of the sweep, and their times add up."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from highmmt.heterogeneity import HeterogeneitySettings, TransferMeasurement, estimate_sweep, measure_heterogeneity
from highmmt.heterogeneity.estimate import Rehearsal, seconds_of_jobs
from highmmt.heterogeneity.measure import measure_transfers, null_values
from highmmt.heterogeneity.transfer import Job
from highmmt.suites import Suite
from highmmt.train import encode_suite

FAST = HeterogeneitySettings(num_steps=2, num_evaluations=1, batch_size=6, share=1.0, num_seeds=2)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Any, Any]:
    """A suite of five modality-task pairs, its processor and its data."""
    spec = importlib.util.spec_from_file_location("tiny_suite", root / "tests" / "train" / "tiny_suite.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    suite = module.tiny_suite(tmp_path_factory.mktemp("rows"))
    processor = suite.build_processor()
    return suite, processor, encode_suite(suite, processor)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that are really made."""
    jobs: list[Job] = []
    run = TransferMeasurement._run

    def noted(self: TransferMeasurement, new: Sequence[Job]) -> None:
        run(self, new)
        jobs.extend(new)

    monkeypatch.setattr(TransferMeasurement, "_run", noted)
    return jobs


def rehearsed(prepared: tuple[Suite, Any, Any], settings: HeterogeneitySettings, folder: Path) -> list[Job]:
    rehearsal = Rehearsal(*prepared, "unimodal", settings, folder)
    null, excluded = null_values(rehearsal)
    measure_transfers(rehearsal, null, excluded)
    return rehearsal.jobs


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_rehearsal_finds_the_jobs_of_the_sweep(
    prepared: tuple[Suite, Any, Any], made: list[Job], tmp_path: Path, share: float
) -> None:
    settings = dataclasses.replace(FAST, share=share)
    expected = rehearsed(prepared, settings, tmp_path)
    assert made == [] and not list(tmp_path.iterdir())
    measure_heterogeneity(*prepared, "unimodal", settings, tmp_path)
    if share == 1:
        assert expected == made
    # Which pairs come after the first row hangs on results, how many runs there are does not.
    assert sum(len(job.runs) for job in expected) == sum(len(job.runs) for job in made) == settings.num_runs(5)
    first_row = 5 * 2 + 5 * 2  # from scratch, then to and from the landmark, for each seed
    assert sorted(len(job.runs) for job in expected[:first_row]) == sorted(len(job.runs) for job in made[:first_row])
    estimate = estimate_sweep(*prepared, "unimodal", settings, tmp_path)
    assert (estimate.runs, estimate.finished, estimate.seconds) == (settings.num_runs(5), settings.num_runs(5), 0.0)


def test_of_a_sweep_that_was_stopped_the_rest_is_left_and_lost_sources_are_trained_again(
    prepared: tuple[Suite, Any, Any], made: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TransferMeasurement._train

    def stopped(self: TransferMeasurement, *arguments: Any, **options: Any) -> Any:
        if len(self.log.losses) >= 30:
            raise KeyboardInterrupt
        return train(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TransferMeasurement, "_train", stopped)
        with pytest.raises(KeyboardInterrupt):
            measure_heterogeneity(*prepared, "unimodal", FAST, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    del made[:]
    left = rehearsed(prepared, FAST, tmp_path)
    estimate = estimate_sweep(*prepared, "unimodal", FAST, tmp_path)
    assert (estimate.runs, estimate.finished) == (50, 30) and estimate.seconds > 0
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sum(len(job.runs) for job in left) == 20
    for path in files:
        if path.suffix == ".safetensors":
            path.unlink()
    left = rehearsed(prepared, FAST, tmp_path)
    measure_heterogeneity(*prepared, "unimodal", FAST, tmp_path)
    assert left == made
    assert Counter(bool(job.sources) for job in left)[False] > 0


def test_the_times_of_all_jobs_add_up(prepared: tuple[Suite, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {("a/x", 1): 5.0, ("a/x", 3): 9.0, ("b/y", 1): 7.0}
    monkeypatch.setattr("highmmt.heterogeneity.estimate._seconds", lambda made, node, size: costs[node, size])
    jobs = [Job("a/x", 0), Job("b/y", 0), Job("a/x", 0, ("b/y",) * 6), Job("a/x", 1, ("b/y",)), Job("b/y", 1)]
    # On a/x one model takes 5 and each further one 2; on b/y there are only single ones.
    assert seconds_of_jobs(None, jobs) == (5 + 15 + 5) + (7 + 7)  # type: ignore[arg-type]


def test_more_steps_and_more_seeds_take_longer_in_proportion(
    prepared: tuple[Suite, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("highmmt.heterogeneity.estimate.time.perf_counter", lambda: float(next(ticks)))

    def seconds(**changes: Any) -> float:
        settings = dataclasses.replace(FAST, **changes)
        return estimate_sweep(*prepared, "unimodal", settings, tmp_path).seconds

    # Every call of the clock is a second later: a job of n steps and one evaluation takes 1 + n + its evaluation.
    assert seconds(num_steps=12) - seconds(num_steps=2) == 10 * (2 * 5 + 2 * 5)  # stacks of four: as long as one
    assert seconds(num_seeds=4) == 2 * seconds(num_seeds=2)
    assert seconds(method="random") == 0
    assert seconds(method="feature", num_steps=12, num_seeds=3) == 36
