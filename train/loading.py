"""Batches for every step of an epoch, made here or by worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from random import getstate as get_python_state
from random import seed as seed_python
from random import setstate as set_python_state
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset
from transformers.utils import logging

from ..modeling_highmmt import labelled
from ..processing import HighMMTProcessor
from .mapped_files import MappedFiles
from .sampling import TaskSampler

logger = logging.get_logger(__name__)

Batch = dict[str, dict[str, Any]]
# Rows of a task's batch that are named should their worker die.
_NOTED_ROWS = 1024
# Rows of large files that are copied before the memory they were mapped into is given back.
_ROWS_AT_ONCE = 16
# Task -> split ("train", "validation", "test") -> rows encoded by the processor.
EncodedTasks = Mapping[str, Mapping[str, Dataset]]


@dataclass
class StepBatch:
    """What one process trains on in one step.

    Attributes:
        epoch, step: counted from 0.
        batch: arguments of the model, on the CPU.
        rows: task to this process's row numbers, `(rows,)`.
        shares: task to the factor of its loss that makes the mean over processes the mean over the step's labels, as
            the encoded rows have them: labelled rows, steps or entries, whatever the loss counts.
        row_weights: task to what each of this process's rows counts in the step: 1, or 1 / processes for a retrieval,
            of which every process has all rows. 0 for a process without rows of its own, which passes one row through
            so that it takes part in the step.
        sample_ids: task to the names of the step's rows of all processes, `"task/train/row"` with the row's number in
            the raw split, or what the column `id` of the data says.
        bad_rows: task to the rows of this process that could not be read, with the reason; they count as rows of loss
            zero.
    """

    epoch: int
    step: int
    batch: Batch = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    row_weights: dict[str, float] = field(default_factory=dict)
    sample_ids: dict[str, list[str]] = field(default_factory=dict)
    bad_rows: dict[str, dict[int, str]] = field(default_factory=dict)


class TrainingBatches:
    """The steps of a sampler as batches of encoded training rows, the same for any number of worker processes.

    Each task's part of a step is read under generators (Python, NumPy, torch on the CPU) that are seeded by seed,
    epoch, step, task and rank, and put back afterwards. So what is random in the data, such as a transform set by
    `Dataset.with_transform` on the encoded rows, depends neither on the workers nor on where a run was resumed. No
    more than two steps for each worker are held at a time.

    Args:
        data: task and split to encoded rows (`processor.encode`); the split `train` is read. A transform gets and
            gives the encoded columns.
        processor: fitted; makes batches of rows.
        sampler: which rows at which step; the tasks are those of `data`.
        seed: of what is random in the data.
        num_workers: processes that prepare steps ahead; 0 prepares them when they are asked for.
        rank, world_size: which process of how many this is. Each has every `world_size`-th row of a task's batch, and
            all rows of a retrieval's, which are compared with each other.
        skip_bad_rows: how many different rows of this process may be left out because they cannot be read.
        files: task to the data files that its rows are from, for errors; those of the encoded rows by default.

    Raises:
        ValueError: an impossible number, or a sampler for other tasks or other numbers of rows.
    """

    def __init__(
        self,
        data: EncodedTasks,
        processor: HighMMTProcessor,
        sampler: TaskSampler,
        *,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        skip_bad_rows: int = 0,
        files: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        for name, value in (("num_workers", num_workers), ("skip_bad_rows", skip_bad_rows)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}={value!r} must be a whole number, 0 or more.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not one of the {world_size} processes, which are counted from 0.")
        for task, rows in sampler.num_rows.items():
            found = len(data[task]["train"]) if task in data else 0
            if rows != found:
                raise ValueError(f"Task {task!r}: the sampler is for {rows} training rows, the data has {found}.")
        self.sampler = sampler
        self.num_workers = num_workers
        self.skip_bad_rows = skip_bad_rows
        # Task to the rows that could not be read so far, with the reason.
        self.skipped: dict[str, dict[int, str]] = {}
        train = {task: data[task]["train"] for task in sampler.num_rows}
        self._maker = _StepMaker(train, processor, seed, rank, world_size, skip_bad_rows > 0, num_workers)
        self._maker.files = dict(files or {})

    def epoch(self, epoch: int, start: int = 0) -> Iterator[StepBatch]:
        """The steps of one epoch in order.

        Args:
            epoch: counted from 0.
            start: steps to leave out at the beginning; what follows is the same as without it.

        Raises:
            ValueError: a row cannot be read, beyond those that may be skipped; the message names task, row and file.
            WorkerDiedError: a worker process died; the message names the task and rows it was at.
        """
        wanted = ((epoch, step, rows) for step, rows in enumerate(self.sampler.epoch(epoch, start), start))
        for made in self._made(wanted):
            if isinstance(made, str):
                raise ValueError(made)
            for task, reasons in made.bad_rows.items():
                self._skip(task, reasons)
            yield made

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state and the rows skipped so far, as plain JSON data."""
        skipped = {task: {str(row): why for row, why in rows.items()} for task, rows in self.skipped.items()}
        return {"sampler": self.sampler.state_dict(), "skipped": skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            ValueError: it is of another sampler or of other data.
        """
        self.sampler.load_state_dict(state["sampler"])
        self.skipped = {task: {int(row): why for row, why in rows.items()} for task, rows in state["skipped"].items()}

    def _skip(self, task: str, reasons: Mapping[int, str]) -> None:
        for row, reason in reasons.items():
            known = self.skipped.setdefault(task, {})
            if row in known:
                continue
            if sum(map(len, self.skipped.values())) >= self.skip_bad_rows:
                raise ValueError(f"{reason} {self.skip_bad_rows} rows were skipped before it, which is the limit.")
            known[row] = reason
            logger.warning(f"Skipped: {reason}")

    def _made(self, wanted: Iterator[_Wanted]) -> Iterator[StepBatch | str]:
        if not self.num_workers:
            yield from map(self._maker.__getitem__, wanted)
            return
        loader: DataLoader[Any] = DataLoader(
            self._maker,
            batch_size=None,
            sampler=wanted,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            # Its own, so that workers take nothing from the generator of dropout.
            generator=torch.Generator(),
        )
        self._maker.at.zero_()
        before = signal.getsignal(signal.SIGCHLD)
        steps = iter(loader)
        if before is not None and threading.current_thread() is threading.main_thread():
            # torch's handler would raise wherever the main process happens to be, not here where the rows are known.
            signal.signal(signal.SIGCHLD, before)
        while True:
            try:
                made = next(steps)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # A worker's tensors go with it, so that its death may also show as a broken connection.
                words = self._maker.last_words()
                if not words:
                    raise
                raise WorkerDiedError(
                    f"A worker process that reads rows died. {words} Look for rows that take too much memory or crash "
                    "their decoder, or set num_workers=0 to have the main process read them."
                ) from error
            yield made


# Epoch, step, task to the row numbers of all processes.
_Wanted = tuple[int, int, dict[str, np.ndarray]]


class _StepMaker(TorchDataset[Any]):
    """Makes the steps it is asked for; sent to each worker as a whole."""

    def __init__(
        self,
        train: Mapping[str, Dataset],
        processor: HighMMTProcessor,
        seed: int,
        rank: int,
        world_size: int,
        skips: bool,
        num_workers: int,
    ) -> None:
        self.train = dict(train)
        self.processor = processor
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.skips = skips
        self.files: dict[str, Sequence[str]] = {}
        self.arrow = {task: dataset.with_format("arrow") for task, dataset in self.train.items()}
        self.ids: dict[str, Dataset] = {}
        for task, dataset in self.arrow.items():
            own_ids = "id" in dataset.column_names and "id" not in processor.tasks[task]["modalities"]
            column = "id" if own_ids else "row"
            if column in dataset.column_names:
                self.ids[task] = dataset.select_columns([column])
        self.labels = {
            task: dataset.select_columns(["labels"])
            for task, dataset in self.arrow.items()
            if "labels" in dataset.column_names
        }
        configs = processor.task_configs()
        self.replicated = {task for task in self.train if configs[task]["problem_type"] == "retrieval"}
        self.mapped = {
            task: MappedFiles(file["filename"] for file in dataset.cache_files) for task, dataset in self.train.items()
        }
        for files in self.mapped.values():
            files.release()
        # What each worker is at: its process, the number of the task, how many rows and which. All processes share it.
        self.at = torch.zeros(num_workers, 3 + _NOTED_ROWS, dtype=torch.int64).share_memory_()

    def __getitem__(self, wanted: _Wanted) -> StepBatch | str:
        """The step, or what is wrong with it."""
        epoch, step, rows_of_tasks = wanted
        made = StepBatch(epoch, step)
        parts = []
        for task, rows in rows_of_tasks.items():
            self._note(task, rows)
            try:
                parts.append(self._add_task(made, task, rows))
            except _UnreadableError as error:
                return str(error)
        made.batch = merge_batches(parts)
        return made

    def last_words(self) -> str:
        """What the workers that died were at; empty where all live."""
        for _ in range(50):
            living = {process.pid for process in torch.multiprocessing.active_children()}
            dead = [at for at in self.at.tolist() if at[0] and at[0] not in living]
            if dead:
                break
            time.sleep(0.02)  # its connections close a moment before a process has ended
        tasks = list(self.train)
        return " ".join(f"It was at: {self._place(tasks[task], rows[:count])}." for _, task, count, *rows in dead)

    def _note(self, task: str, rows: np.ndarray) -> None:
        if (worker := get_worker_info()) is None:
            return
        own = torch.from_numpy(self._own(task, rows)[:_NOTED_ROWS].copy())
        self.at[worker.id, 0] = os.getpid()
        self.at[worker.id, 1] = list(self.train).index(task)
        self.at[worker.id, 2] = len(own)
        self.at[worker.id, 3 : 3 + len(own)] = own

    def _add_task(self, made: StepBatch, task: str, rows: np.ndarray) -> Batch:
        """A task's part of a step; rows, shares, weights and names go into `made`."""
        # What all processes read is the same on all of them, also where it is random.
        rank = 0 if task in self.replicated else self.rank
        entropy = (self.seed, made.epoch, made.step, crc32(task.encode()), rank)
        own = self._own(task, rows)
        part: Batch | None = None
        if len(own):
            try:
                part = self._read(task, own, entropy)
            except _UnreadableError as error:
                own, made.bad_rows[task] = self._sort_out(task, own, entropy, error)
                part = self._read(task, own, entropy) if len(own) else None
        made.rows[task] = own
        weight = 1 / self.world_size if task in self.replicated else 1.0
        made.shares[task] = weight * self.world_size * self._share_of_labels(task, own, rows)
        made.row_weights[task] = weight if len(own) else 0.0
        made.sample_ids[task] = self._names(task, rows)
        if part is None:
            # Every process must take part in every step: one without rows of its own passes a row through that
            # counts 0.
            made.rows[task], part = self._any_row(task, rows, entropy)
        return part

    def _own(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Which of a step's rows of a task this process has."""
        return rows if task in self.replicated else rows[self.rank :: self.world_size]

    def _share_of_labels(self, task: str, own: np.ndarray, rows: np.ndarray) -> float:
        """Labels of this process's rows as a share of those of all rows, which the mean loss of a step is of."""
        if len(own) == len(rows) or task not in self.labels:
            return len(own) / len(rows)
        column = self.labels[task][rows]["labels"].combine_chunks()
        flat = column.flatten() if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else column
        labels = torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy()).reshape(len(rows), -1)
        counts = labelled(labels).sum(dim=1)  # (rows,)
        return float(counts[np.isin(rows, own)].sum() / counts.sum().clamp_min(1))

    def _read(self, task: str, rows: np.ndarray, entropy: tuple[int, ...]) -> Batch:
        try:
            with seeded_generators(*entropy):
                batch = self.processor.collate(task, self._table(task, rows))
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}."
            raise _UnreadableError(f"{self._place(task, rows.tolist())} cannot be read: {reason}") from error
        batch.pop("row", None)
        return batch

    def _table(self, task: str, rows: np.ndarray) -> pa.Table:
        """Rows with the columns that `collate` reads."""
        dataset, files = self.train[task], self.mapped[task]
        if dataset.format["type"] == "custom":
            table = _as_table(dataset, rows)
            files.release()
            return table
        if not files.paths:
            return self.arrow[task][rows]
        # Some systems map a megabyte around each row that is read, so that even one batch would hold much.
        parts = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            parts.append(self.arrow[task][rows[start : start + _ROWS_AT_ONCE]].combine_chunks())
            files.release()
        return pa.concat_tables(parts)

    def _sort_out(
        self, task: str, rows: np.ndarray, entropy: tuple[int, ...], error: _UnreadableError
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The rows that can be read, and why each of the others cannot."""
        reasons = {}
        for row in rows.tolist():
            try:
                self._read(task, np.array([row]), entropy)
            except _UnreadableError as reason:
                reasons[row] = str(reason)
        if not reasons:
            raise error
        if not self.skips:
            raise _UnreadableError(next(iter(reasons.values())) + " To go on without such rows, set skip_bad_rows.")
        return np.array([row for row in rows.tolist() if row not in reasons], dtype=rows.dtype), reasons

    def _any_row(self, task: str, rows: np.ndarray, entropy: tuple[int, ...]) -> tuple[np.ndarray, Batch]:
        """A row that can be read, one of the step if there is one."""
        for row in chain(rows, range(len(self.train[task]))):
            try:
                return np.array([row]), self._read(task, np.array([row]), entropy)
            except _UnreadableError:
                if not self.skips:
                    raise
        raise _UnreadableError(f"Task {task!r}: no row of the train split can be read.")

    def _names(self, task: str, rows: np.ndarray) -> list[str]:
        if task not in self.ids:
            return [f"{task}/train/{row}" for row in rows]
        (column,) = self.ids[task].column_names
        names = self.ids[task][rows][column].to_pylist()
        return [str(name) for name in names] if column == "id" else [f"{task}/train/{row}" for row in names]

    def _place(self, task: str, rows: list[int]) -> str:
        names = self._names(task, np.array(rows, dtype=np.int64))
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        files = self.files.get(task) or [file["filename"] for file in self.train[task].cache_files]
        return f"Task {task!r}, row {listed} ({', '.join(files[:3]) or 'rows in memory'})"


class WorkerDiedError(RuntimeError):
    """A process that reads rows was killed or crashed; the text says at which rows."""


class _UnreadableError(Exception):
    """A step that cannot be made; the text goes to the main process."""


@contextmanager
def seeded_generators(*entropy: int) -> Iterator[None]:
    """Python's, NumPy's and torch's generator (of the CPU) seeded by whole numbers, and put back afterwards."""
    words = np.random.SeedSequence(entropy).generate_state(4)
    states = get_python_state(), np.random.get_state(), torch.get_rng_state()
    try:
        seed_python(int(words[0]))
        np.random.seed(words[1:3])
        # Not `torch.manual_seed`, which would also seed the GPUs, where dropout draws.
        torch.default_generator.manual_seed(int(words[3]))
        yield
    finally:
        set_python_state(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def merge_batches(batches: list[Batch]) -> Batch:
    """Batches of different tasks as one batch of the model."""
    merged: Batch = {}
    for batch in batches:
        for part, values in batch.items():
            merged.setdefault(part, {}).update(values)
    return merged


def iterate_batches(num_rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers of consecutive batches."""
    for start in range(0, num_rows, batch_size):
        yield np.arange(start, min(start + batch_size, num_rows))


def _as_table(dataset: Dataset, rows: np.ndarray) -> pa.Table:
    """What the transform of an encoded dataset gives for some rows, as the table that `collate` reads."""
    values = dataset[rows]
    columns = {}
    for column in dataset.features.arrow_schema:
        name, kind = column.name, column.type
        if name in values:
            numbers = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
            columns[name] = pa.array([_plain(value, numbers) for value in values[name]], kind)
    return pa.table(columns)


def _plain(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, (str, type(None))):
        return value
    array = np.asarray(value, dtype=kind.to_pandas_dtype())
    return array.reshape(-1) if array.ndim else array.item()


def _unchanged(step: Any) -> Any:
    return step


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the main one decides what is still to be read.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
