"""The staggered schedule: every row once, small tasks late, nothing random but by seed, epoch and task."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from highmmt.train import StaggeredSchedule

TASKS = st.dictionaries(
    st.sampled_from(["digits", "push", "liver", "gait"]),
    st.tuples(st.integers(1, 60), st.integers(1, 17)),
    min_size=1,
)


def schedule_of(tasks: dict[str, tuple[int, int]], seed: int = 0) -> StaggeredSchedule:
    return StaggeredSchedule(
        {task: rows for task, (rows, _) in tasks.items()}, {task: size for task, (_, size) in tasks.items()}, seed
    )


@given(tasks=TASKS, epoch=st.integers(0, 5), seed=st.integers(0, 5))
def test_every_row_is_seen_once_in_an_epoch(tasks: dict, epoch: int, seed: int) -> None:
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


@given(tasks=TASKS, seed=st.integers(0, 100), epoch=st.integers(0, 9))
def test_a_tasks_order_depends_on_seed_epoch_and_its_own_name_alone(tasks: dict, seed: int, epoch: int) -> None:
    together = list(schedule_of(tasks, seed).epoch(epoch))
    for task in tasks:
        alone = [step[task].tolist() for step in schedule_of({task: tasks[task]}, seed).epoch(epoch)]
        assert alone == [step[task].tolist() for step in together if task in step]


def test_seed_epoch_and_name_each_change_the_order() -> None:
    def order(task: str, seed: int, epoch: int) -> list[int]:
        schedule = StaggeredSchedule({task: 40}, {task: 40}, seed)
        return next(iter(schedule.epoch(epoch)))[task].tolist()

    orders = [order("a", 0, 0), order("b", 0, 0), order("a", 1, 0), order("a", 0, 1)]
    assert len({tuple(rows) for rows in orders}) == 4


@pytest.mark.parametrize(
    ("rows", "sizes", "message"),
    [
        ({}, {}, "at least one task"),
        ({"gait": 0}, {"gait": 4}, "Task 'gait' has no training rows"),
        ({"gait": 3}, {}, "Task 'gait': its batch size is None"),
        ({"gait": 3}, {"gait": 0}, "Task 'gait': its batch size is 0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(rows: dict, sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StaggeredSchedule(rows, sizes)
