"""Which task trains on which rows at which step."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import numpy as np


class StaggeredSchedule:
    """The paper's order of tasks: all of them train at the end of an epoch, the largest alone at its start.

    With N_t batches of task t and N = max N_t, step s of an epoch trains task t iff s >= N - N_t. Every row is seen
    once in an epoch. Only row numbers are held, never rows. Where a last batch would hold a single row, that row
    joins the batch before it.

    Args:
        num_rows: task to the number of its training rows.
        batch_sizes: task to the rows of one batch.
        seed: of the order of rows; an epoch's order depends on the seed, the epoch and the task's name alone.

    Raises:
        ValueError: no task, or a task without rows or without a batch size of 1 or more; the message names it.

    Source: Liang et al., TMLR 05/2023, appendix B.5.
    """

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

    def __len__(self) -> int:
        """Steps of one epoch."""
        return max(self.num_batches.values())

    def epoch(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """The steps of one epoch, each as task to the row numbers of its batch."""
        orders = {
            task: np.random.default_rng([self.seed, epoch, zlib.crc32(task.encode())]).permutation(rows)
            for task, rows in self.num_rows.items()
        }
        for step in range(len(self)):
            batches = {}
            for task, order in orders.items():
                index = step - (len(self) - self.num_batches[task])
                if index >= 0:
                    size = self.batch_sizes[task]
                    stop = None if index == self.num_batches[task] - 1 else (index + 1) * size
                    batches[task] = order[index * size : stop]
            yield batches
