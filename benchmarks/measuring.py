"""How the benchmarks measure: interleaved timings, operations, memory, the machine's GEMM peak; tables and JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from highmmt.configuration.files import write_json
from highmmt.modeling_highmmt import inputs

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one or more values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def text(self, scale: float = 1.0, decimals: int = 1) -> str:
        """`median (lower to upper)`, each times `scale`."""
        median, lower, upper = (f"{value * scale:.{decimals}f}" for value in (self.median, self.lower, self.upper))
        return f"{median} ({lower} to {upper})"


def interleave(
    contenders: Mapping[str, Work], repeats: int, title: str, *, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds that each contender took, once per round.

    Every round runs all contenders, each time starting with another one, so that a disturbance of the machine meets
    all of them alike.

    Args:
        contenders: name to what is timed.
        repeats: number of rounds.
        title: stands before the progress bar.
        warm_up: rounds that are not counted.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(title, total=(repeats + warm_up) * len(names))
        for number in range(repeats + warm_up):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                started = time.perf_counter()
                contenders[name]()
                if number >= warm_up:
                    seconds[name].append(time.perf_counter() - started)
                progress.advance(bar)
    return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """How many times as long `slower` takes: the ratio of medians, with the quartiles of the ratios within a round."""
    each = Spread.of([a / b for a, b in zip(slower, faster, strict=True)])
    return Spread(statistics.median(slower) / statistics.median(faster), each.lower, each.upper)


class _MatrixProducts(TorchDispatchMode):
    """Adds up operations with torch's formulas; its own `FlopCounterMode` refuses checkpoints under `no_grad`."""

    operations = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_operations(work: Work) -> float:
    """Floating-point operations of the matrix products in `work`, backward passes included; a multiply-add is two."""
    with _MatrixProducts() as counter:
        work()
    return counter.operations


def peak_memory(work: Work) -> int:
    """Bytes of tensors alive at once during `work` at the most, beyond those alive before.

    Counted from torch's own record of allocations, so it is the same in every run. Scratch space inside the GEMM
    libraries is not in it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    alive = peak = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


# Kind of work: the torch operations that belong to it.
_KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm"),
    "GELU and its gradient": ("gelu", "gelu_backward"),
    "layer norm": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "copies, casts, joining, zeroing": ("copy_", "cat", "fill_", "zero_", "clone", "_to_copy", "contiguous"),
    "elementwise": ("mul", "mul_", "add", "add_", "sub", "neg", "div", "div_", "where", "masked_fill", "pow", "rsqrt"),
    "sums": ("sum", "mean", "linalg_vector_norm"),
    "Adam": ("_fused_adam_", "_fused_adamw_"),
}


def time_by_kind(work: Work, repeats: int = 5) -> dict[str, float]:
    """Share of the processor's time that each kind of operation takes; "other" is allocation, views and Python."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            work()
    kind_of = {f"aten::{name}": kind for kind, names in _KINDS.items() for name in names}
    shares = {**dict.fromkeys(_KINDS, 0.0), "other": 0.0}
    for event in profiler.key_averages():
        shares[kind_of.get(event.key, "other")] += event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: time / total for kind, time in shares.items()}


def gemm_peak(dtype: torch.dtype, sizes: Sequence[int] = (512, 1024, 2048), repeats: int = 5) -> float:
    """The best rate at which this machine multiplies two square matrices, in operations per second."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
        out = torch.empty(size, size, dtype=dtype)
        torch.mm(a, b, out=out)
        for _ in range(repeats):
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def environment() -> dict[str, Any]:
    """Machine and versions, for the record."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    libraries = ("highmmt", "torch", "transformers")
    return {
        "cpu": name,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    result.add_argument(
        "--repeats", type=int, default=repeats, help=f"interleaved rounds; medians are shown (default: {repeats})"
    )
    result.add_argument("--output", type=Path, metavar="FILE", help="also write all numbers to this JSON file")
    result.add_argument(
        "--smoke", action="store_true", help="tiny sizes, to see that the benchmark runs; its numbers mean nothing"
    )
    return result


def start(arguments: argparse.Namespace) -> None:
    """Set the threads and the seed.

    Raises:
        SystemExit: fewer than one thread or round.
    """
    for option in ("threads", "repeats"):
        if getattr(arguments, option) < 1:
            raise SystemExit(f"--{option} must be at least 1, not {getattr(arguments, option)}")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)


def precisions() -> dict[str, torch.dtype]:
    """What to compute in: fp32, and bf16 where the processor multiplies it.

    Elsewhere the model leaves autocast off and computes in fp32, and others take tens of times as long.
    """
    found = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if torch.bfloat16 in inputs._SLOW_ON_CPU:
        del found["bf16"]
        Console(stderr=True).print("This processor has no bf16 arithmetic: bf16 is left out.")
    return found


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file or a pipe has no width to fit into
    console.print(table)


def save(arguments: argparse.Namespace, results: Mapping[str, Any]) -> None:
    """Write the results with the environment, where `--output` names a file."""
    if arguments.output is None:
        return
    write_json(arguments.output, {"environment": environment(), "repeats": arguments.repeats, **results})
    Console(stderr=True).print(f"Wrote {arguments.output}")
