"""Samplers: rows once in a pass, small tasks late or by chance, nothing random but by seed, epoch and task."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from highmmt.train import SAMPLERS, RandomTaskSampler, StaggeredSchedule, TaskSampler, make_sampler

TASKS = st.dictionaries(
    st.sampled_from(["digits", "push", "liver", "gait"]),
    st.tuples(st.integers(1, 60), st.integers(1, 17)),
    min_size=1,
)
NAMES = st.sampled_from(SAMPLERS)


def schedule_of(tasks: dict[str, tuple[int, int]], seed: int = 0, name: str = "staggered") -> TaskSampler:
    rows = {task: rows for task, (rows, _) in tasks.items()}
    return make_sampler(name, rows, {task: size for task, (_, size) in tasks.items()}, seed)


def plain(steps: object) -> list[dict[str, list[int]]]:
    return [{task: rows.tolist() for task, rows in step.items()} for step in steps]  # type: ignore[attr-defined]


@given(tasks=TASKS, epoch=st.integers(0, 5), seed=st.integers(0, 5))
def test_every_row_is_seen_once_in_a_staggered_epoch(tasks: dict, epoch: int, seed: int) -> None:
    steps = list(schedule_of(tasks, seed).epoch(epoch))
    for task, (rows, _) in tasks.items():
        seen = np.concatenate([step[task] for step in steps if task in step])
        assert sorted(seen.tolist()) == list(range(rows))


@given(tasks=TASKS)
def test_a_task_trains_at_a_step_iff_its_batches_just_reach_the_end_of_the_epoch(tasks: dict) -> None:
    schedule = schedule_of(tasks)
    steps = list(schedule.epoch(0))
    assert len(steps) == len(schedule) == max(schedule.num_batches.values())
    for number, step in enumerate(steps):
        assert set(step) == {task for task in tasks if number >= len(schedule) - schedule.num_batches[task]}


@given(tasks=TASKS)
def test_batches_are_full_but_the_last_which_has_between_two_rows_and_one_too_many(tasks: dict) -> None:
    steps = list(schedule_of(tasks).epoch(3))
    for task, (rows, size) in tasks.items():
        *full, last = [len(step[task]) for step in steps if task in step]
        assert all(length == size for length in full)
        assert min(2, rows, size) <= last <= size + 1


@given(tasks=TASKS, seed=st.integers(0, 100), epoch=st.integers(0, 9), name=NAMES)
def test_a_tasks_order_depends_on_seed_epoch_and_its_own_name_alone(
    tasks: dict, seed: int, epoch: int, name: str
) -> None:
    together = list(schedule_of(tasks, seed, name).epoch(epoch))
    for task in tasks:
        among_others = np.concatenate([step[task] for step in together if task in step] or [np.zeros(0, np.int64)])
        alone = np.concatenate([step[task] for step in schedule_of({task: tasks[task]}, seed, name).epoch(epoch)])
        length = min(len(among_others), len(alone))
        assert among_others[:length].tolist() == alone[:length].tolist()


@given(tasks=TASKS, name=NAMES, epoch=st.integers(0, 3), data=st.data())
def test_what_follows_a_start_is_the_rest_of_the_epoch(
    tasks: dict, name: str, epoch: int, data: st.DataObject
) -> None:
    sampler = schedule_of(tasks, 5, name)
    whole = plain(sampler.epoch(epoch))
    assert len(whole) == len(sampler)
    start = data.draw(st.integers(0, len(whole)))
    assert plain(sampler.epoch(epoch, start)) == whole[start:]


@given(tasks=TASKS, name=st.sampled_from(SAMPLERS[1:]), epoch=st.integers(0, 3))
def test_a_step_drawn_at_random_has_one_task_and_each_pass_through_its_rows_has_every_row_once(
    tasks: dict, name: str, epoch: int
) -> None:
    sampler = schedule_of(tasks, 1, name)
    steps = list(sampler.epoch(epoch))
    assert len(steps) == sum(sampler.num_batches.values())
    assert {len(step) for step in steps} == {1}
    for task, (rows, _) in tasks.items():
        seen = [row for step in steps for row in step.get(task, np.zeros(0)).tolist()]
        for begin in range(0, len(seen), rows):
            part = seen[begin : begin + rows]
            assert len(set(part)) == len(part)


def test_a_second_pass_within_an_epoch_has_another_order() -> None:
    sampler = schedule_of({"many": (4000, 10), "few": (40, 40)}, name="uniform")
    passes = [step["few"].tolist() for step in sampler.epoch(0) if "few" in step]
    assert len(passes) > 100
    assert len({tuple(rows) for rows in passes}) == len(passes)


@pytest.mark.parametrize(
    ("name", "temperature", "share"),
    [
        ("uniform", 2.0, 0.5),
        ("proportional", 2.0, 900 / 1000),
        ("temperature", 1.0, 900 / 1000),
        ("temperature", 2.0, 30 / 40),  # square roots of 900 and 100
        ("temperature", 1e6, 0.5),
        ("temperature", 1e-4, 1.0),  # the powers alone would be infinite
    ],
)
def test_tasks_are_drawn_as_often_as_the_formula_says(name: str, temperature: float, share: float) -> None:
    # 1800 rows in batches of 2: it is batches that count.
    sampler = make_sampler(name, {"large": 1800, "small": 100}, {"large": 2, "small": 1}, temperature=temperature)
    assert isinstance(sampler, RandomTaskSampler)
    assert sampler.probabilities["large"] == pytest.approx(share, abs=1e-6)
    drawn = [task for epoch in range(5) for step in sampler.epoch(epoch) for task in step]
    assert drawn.count("large") / len(drawn) == pytest.approx(share, abs=0.03)


def test_the_order_of_tasks_depends_on_seed_and_epoch() -> None:
    tasks = {"a": (30, 1), "b": (30, 1)}
    drawn = {
        (seed, epoch): tuple(task for step in schedule_of(tasks, seed, "uniform").epoch(epoch) for task in step)
        for seed, epoch in itertools.product(range(2), range(2))
    }
    assert len(set(drawn.values())) == 4


def test_seed_epoch_and_name_each_change_the_order() -> None:
    def order(task: str, seed: int, epoch: int) -> list[int]:
        schedule = StaggeredSchedule({task: 40}, {task: 40}, seed)
        return next(iter(schedule.epoch(epoch)))[task].tolist()

    orders = [order("a", 0, 0), order("b", 0, 0), order("a", 1, 0), order("a", 0, 1)]
    assert len({tuple(rows) for rows in orders}) == 4


@given(tasks=TASKS, name=NAMES, seed=st.integers(0, 99))
def test_a_state_that_went_through_json_gives_the_same_order(tasks: dict, name: str, seed: int) -> None:
    saved = schedule_of(tasks, seed, name)
    other = schedule_of(tasks, seed + 1, name)
    other.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    assert plain(other.epoch(2)) == plain(saved.epoch(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "uniform"}, "name='uniform', this run 'temperature'"),
        ({"temperature": 3.0}, "temperature=3.0, this run 2.0"),
        ({"num_rows": {"gait": 9, "push": 5}}, "Task 'gait': 8 training rows, but the saved order of tasks is for 9"),
        ({"num_rows": {"gait": 8}}, "Task 'push': 5 training rows, but the saved order of tasks is for none"),
        ({"num_rows": {"gait": 8, "push": 5, "far": 1}}, "Task 'far': no training rows, .* is for 1"),
        ({"batch_sizes": {"gait": 2, "push": 3}}, "Task 'push': 2 rows in a batch, but .* is for 3"),
        ({"num_rows": {"push": 5, "gait": 8}}, "for push, gait, this run has them as gait, push"),
    ],
)
def test_a_state_of_another_run_is_refused_by_name(change: dict, message: str) -> None:
    sampler = make_sampler("temperature", {"gait": 8, "push": 5}, {"gait": 2, "push": 2})
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **change})


@pytest.mark.parametrize(
    ("rows", "sizes", "message"),
    [
        ({}, {}, "at least one task"),
        ({"gait": 0}, {"gait": 4}, "Task 'gait' has no training rows"),
        ({"gait": 3}, {}, "Task 'gait': its batch size is None"),
        ({"gait": 3}, {"gait": 0}, "Task 'gait': its batch size is 0"),
    ],
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_schedule_that_cannot_be_is_refused_by_name(rows: dict, sizes: dict, message: str, name: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler(name, rows, sizes)


def test_other_settings_that_cannot_be_are_refused() -> None:
    rows, sizes = {"gait": 3}, {"gait": 1}
    with pytest.raises(ValueError, match="no sampler 'staggerd'; use one of staggered, uniform, proportional, temp"):
        make_sampler("staggerd", rows, sizes)
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"temperature={temperature!r} must be a positive number"):
            make_sampler("temperature", rows, sizes, temperature=temperature)
    with pytest.raises(ValueError, match="no way 'staggered' to draw tasks"):
        RandomTaskSampler(rows, sizes, name="staggered")
    with pytest.raises(ValueError, match="start=4: an epoch has the steps 0 to 2"):
        next(iter(make_sampler("staggered", rows, sizes).epoch(0, start=4)))
