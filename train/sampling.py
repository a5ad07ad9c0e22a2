"""Which task trains on which rows at which step."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

SAMPLERS = ("staggered", "uniform", "proportional", "temperature")


class TaskSampler(ABC):
    """An order of tasks and rows, a function of its settings, the epoch and the step alone.

    Each task walks through its own rows in an order drawn anew for every epoch, cut into N_t batches. Where a last
    batch would hold a single row, that row joins the batch before it. Only row numbers are held, never rows. There is
    no position to lose: whoever trains keeps epoch and step, and `epoch(epoch, start=step)` gives exactly the rest.

    Args:
        num_rows: task to the number of its training rows.
        batch_sizes: task to the rows of one batch.
        seed: of the order of tasks and rows; a task's order of rows depends on the seed, the epoch and the task's
            name alone.

    Raises:
        ValueError: no task, or a task without rows or without a batch size of 1 or more; the message names it.
    """

    name: str

    def __init__(self, num_rows: Mapping[str, int], batch_sizes: Mapping[str, int], seed: int = 0) -> None:
        if not num_rows:
            raise ValueError("A schedule needs at least one task; none was given.")
        for task, rows in num_rows.items():
            if rows < 1:
                raise ValueError(f"Task {task!r} has no training rows.")
            if batch_sizes.get(task, 0) < 1:
                raise ValueError(f"Task {task!r}: its batch size is {batch_sizes.get(task)!r}; give it 1 row or more.")
        self.num_rows = dict(num_rows)
        # Batch norm cannot learn from one row.
        self.num_batches = {
            task: max(1, rows // batch_sizes[task] + (rows % batch_sizes[task] > 1)) for task, rows in num_rows.items()
        }
        self.batch_sizes = {task: batch_sizes[task] for task in num_rows}
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """Steps of one epoch."""

    @abstractmethod
    def _tasks_of_steps(self, epoch: int, start: int) -> Iterator[dict[str, int]]:
        """For each step from `start` on: task to the number of its batch, counted from the start of the epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """The steps of one epoch, each as task to the row numbers of its batch, `(rows,)`.

        Args:
            epoch: counted from 0.
            start: steps to leave out at the beginning; what follows is the same as without it.

        Raises:
            ValueError: `start` is beyond the end of the epoch.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start={start}: an epoch has the steps 0 to {len(self) - 1}.")
        orders: dict[str, tuple[int, np.ndarray]] = {}  # one pass of each task at a time
        for numbers in self._tasks_of_steps(epoch, start):
            batches = {}
            for task, number in numbers.items():
                walk, index = divmod(number, self.num_batches[task])
                if task not in orders or orders[task][0] != walk:
                    orders[task] = walk, self._order(task, epoch, walk)
                size = self.batch_sizes[task]
                stop = None if index == self.num_batches[task] - 1 else (index + 1) * size
                batches[task] = orders[task][1][index * size : stop]
            yield batches

    def state_dict(self) -> dict[str, Any]:
        """All that the order depends on, as plain JSON data."""
        return {
            "name": self.name,
            "seed": self.seed,
            "num_rows": dict(self.num_rows),
            "batch_sizes": dict(self.batch_sizes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the seed of a saved state, after a check that all else is the same.

        Raises:
            ValueError: the state is of another sampler or of other data; the message names the first difference.
        """
        own = self.state_dict()
        for key in [key for key in own if key not in ("seed", "num_rows", "batch_sizes")]:
            if state.get(key) != own[key]:
                raise ValueError(f"The saved order of tasks has {key}={state.get(key)!r}, this run {own[key]!r}.")
        for key, what in (("num_rows", "training rows"), ("batch_sizes", "rows in a batch")):
            saved = state.get(key, {})
            for task in {**saved, **own[key]}:
                if saved.get(task) != own[key].get(task):
                    raise ValueError(
                        f"Task {task!r}: {own[key].get(task, 'no')} {what}, but the saved order of tasks is for "
                        f"{saved.get(task, 'none')}. Go on with the data and settings that the run began with."
                    )
        if list(state["num_rows"]) != list(self.num_rows):
            raise ValueError(
                f"The saved order of tasks is for {', '.join(state['num_rows'])}, this run has them as "
                f"{', '.join(self.num_rows)}; the draws depend on the order."
            )
        self.seed = int(state["seed"])

    def _order(self, task: str, epoch: int, walk: int) -> np.ndarray:
        """The rows of a task in the order of its `walk`-th pass of an epoch."""
        # The first pass has no number in its seed: that is the order runs have had from the beginning.
        seeds = [self.seed, epoch, zlib.crc32(task.encode()), *([walk] if walk else [])]
        return np.random.default_rng(seeds).permutation(self.num_rows[task])


class StaggeredSchedule(TaskSampler):
    """The paper's order of tasks: all of them train at the end of an epoch, the largest alone at its start.

    With N_t batches of task t and N = max N_t, step s of an epoch trains task t iff s >= N - N_t. An epoch has N steps
    and every row is seen once in it.

    Args:
        num_rows, batch_sizes, seed: as for `TaskSampler`.

    Raises:
        ValueError: as for `TaskSampler`.

    Source: Liang et al., TMLR 05/2023, appendix B.5.
    """

    name = "staggered"

    def __len__(self) -> int:
        """Steps of one epoch: the batches of the largest task."""
        return max(self.num_batches.values())

    def _tasks_of_steps(self, epoch: int, start: int) -> Iterator[dict[str, int]]:
        steps = len(self)
        for step in range(start, steps):
            numbers = {task: step - (steps - batches) for task, batches in self.num_batches.items()}
            yield {task: number for task, number in numbers.items() if number >= 0}


class RandomTaskSampler(TaskSampler):
    """One task at each step, drawn at random with a probability that depends on its number of batches N_t.

    `"uniform"`: p_t is the same for all tasks. `"proportional"`: p_t ∝ N_t, so that every row is seen once in an epoch
    on average. `"temperature"`: p_t ∝ N_t^(1/T), between the two: T = 1 is proportional, a large T almost uniform.

    An epoch has the sum of N_t steps, as many batches as an epoch of `StaggeredSchedule`. A task that is drawn more
    than N_t times begins again, its rows in a new order; one that is drawn less often leaves rows unseen, others in
    each epoch.

    Args:
        num_rows, batch_sizes, seed: as for `TaskSampler`.
        name: `"uniform"`, `"proportional"` or `"temperature"`.
        temperature: T, for `"temperature"` alone.

    Raises:
        ValueError: as for `TaskSampler`; an unknown name, or a temperature that is not positive and finite.

    Source: Raffel et al., JMLR 2020, section 3.5.2 (of examples; here of batches, the unit of a draw).
    """

    def __init__(
        self,
        num_rows: Mapping[str, int],
        batch_sizes: Mapping[str, int],
        seed: int = 0,
        name: str = "uniform",
        temperature: float = 2.0,
    ) -> None:
        super().__init__(num_rows, batch_sizes, seed)
        if name not in SAMPLERS[1:]:
            raise ValueError(f"There is no way {name!r} to draw tasks; use one of {', '.join(SAMPLERS[1:])}.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature={temperature!r} must be a positive number.")
        self.name = name
        self.temperature = temperature

    @property
    def probabilities(self) -> dict[str, float]:
        """Task to the probability that a step trains it; they sum to 1."""
        exponent = {"uniform": 0.0, "proportional": 1.0, "temperature": 1 / self.temperature}[self.name]
        # By logarithms: a low temperature makes powers that no float holds.
        logs = exponent * np.log(list(self.num_batches.values()))
        shares = np.exp(logs - logs.max())
        return dict(zip(self.num_batches, (shares / shares.sum()).tolist(), strict=True))

    def __len__(self) -> int:
        """Steps of one epoch: the batches of all tasks."""
        return sum(self.num_batches.values())

    def state_dict(self) -> dict[str, Any]:
        """All that the order depends on, as plain JSON data."""
        state = super().state_dict()
        return {**state, "temperature": self.temperature} if self.name == "temperature" else state

    def _tasks_of_steps(self, epoch: int, start: int) -> Iterator[dict[str, int]]:
        tasks, shares = list(self.num_batches), list(self.probabilities.values())
        rng = np.random.default_rng([self.seed, epoch])
        draws = rng.choice(np.arange(len(tasks), dtype=np.int32), size=len(self), p=shares)
        numbers = np.bincount(draws[:start], minlength=len(tasks)).tolist()
        for draw in draws[start:]:
            yield {tasks[draw]: numbers[draw]}
            numbers[draw] += 1


def make_sampler(
    name: str,
    num_rows: Mapping[str, int],
    batch_sizes: Mapping[str, int],
    seed: int = 0,
    temperature: float = 2.0,
) -> TaskSampler:
    """The sampler of that name.

    Args:
        name: `"staggered"` (`StaggeredSchedule`), `"uniform"`, `"proportional"` or `"temperature"`
            (`RandomTaskSampler`).
        num_rows: task to the number of its training rows.
        batch_sizes: task to the rows of one batch.
        seed: of the order of tasks and rows.
        temperature: T of `"temperature"`; without effect on the others.

    Raises:
        ValueError: there is none of that name (the message lists them), or as for `TaskSampler`.
    """
    if name not in SAMPLERS:
        raise ValueError(f"There is no sampler {name!r}; use one of {', '.join(SAMPLERS)}.")
    if name == "staggered":
        return StaggeredSchedule(num_rows, batch_sizes, seed)
    return RandomTaskSampler(num_rows, batch_sizes, seed, name, temperature)
