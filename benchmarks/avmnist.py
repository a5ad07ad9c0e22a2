"""Digits seen and heard: a training step against the public code's, and whole runs of docs/examples/avmnist.yaml.

Both models read 7 x 7 patches of 16 pixels and 7 x 7 patches of 256 log-mel numbers, 40 pairs in a step. They start
from the same weights and give the same logits, and their steps are timed in turns. A whole run is everything from
Parquet with PNG and WAV files to the test accuracy of the best epoch: fitting, encoding (where no cache has it yet,
which is in the first seed), 15 epochs and evaluation.

    python benchmarks/avmnist.py [--original FOLDER] [--data FOLDER] [--output results.json]

--original needs a checkout of the authors' public code, --data the files train.parquet, validation.parquet and
test.parquet.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from large_setting import CHANNELS_AND_BANDS, Run, Setting, draw
from measuring import Spread, interleave, parser, ratio, save, show, start
from throughput import PublicRun, same_numbers

from highmmt import HighMMTConfig, load_suite
from highmmt.training import RecipeOptions, train_recipe

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "avmnist.yaml"


def setting(batch: int) -> Setting:
    """AV-MNIST alone, with random inputs.

    Args:
        batch: samples of a step.
    """
    modalities = {
        name: {"num_channels": channels, "num_axes": axes, "num_frequency_bands": bands, "max_frequency": 1.0}
        for name, (channels, axes, bands) in CHANNELS_AND_BANDS.items()
        if name in ("image", "spectrogram")
    }
    task = {"modalities": list(modalities), "problem_type": "single_label_classification", "num_labels": 10}
    config = HighMMTConfig(
        modalities=modalities, tasks={"avmnist": task}, num_self_attention_heads=6, head_norm="layer_norm"
    )
    return draw(config, {"avmnist": dict.fromkeys(modalities, (7, 7))}, {"avmnist": batch})


def time_steps(original: Path | None, batch: int, repeats: int) -> dict[str, Any]:
    """Seconds of training steps, taken in turns; with the public code how many times as long its steps take."""
    both: dict[str, Run | PublicRun] = {"ours": Run(setting(batch))}
    if original is not None:
        public = PublicRun(setting(batch), original)
        both = {"ours": Run(setting(batch), public.converted()), "public": public}
        same_numbers(both["ours"].model, public)
    for run in both.values():
        run.model.train()
    seconds = interleave({name: run.train for name, run in both.items()}, repeats, "training steps")
    results: dict[str, Any] = {"seconds": seconds}
    if original is not None:
        results["public_takes_times_as_long"] = asdict(ratio(seconds["public"], seconds["ours"]))
    rows = [[name, Spread.of(values).text(1e3, 1)] for name, values in seconds.items()]
    show(f"One training step, {batch} pairs", ["", "ms"], rows)
    return results


def time_runs(data: Path, seeds: int, smoke: bool) -> list[dict[str, float]]:
    """Seconds and test accuracy of whole runs, one for each seed."""
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for file in (EXAMPLE, *(data / f"{split}.parquet" for split in ("train", "validation", "test"))):
            shutil.copy(file, scratch)
        suite = load_suite(Path(scratch) / EXAMPLE.name)
        for seed in range(seeds):
            options = RecipeOptions("pretrain", quick=smoke, changes={"seed": seed})
            began = time.perf_counter()
            _, accuracy = train_recipe(suite, Path(scratch) / f"seed{seed}", options).scores["avmnist"]
            results.append({"seed": seed, "seconds": time.perf_counter() - began, "accuracy": accuracy})
    rows = [[f"{run['seed']}", f"{run['seconds']:.0f}", f"{run['accuracy']:.3f}"] for run in results]
    show("Whole runs", ["seed", "s", "test accuracy"], rows)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    options = parser(__doc__, repeats=31)
    options.add_argument("--original", type=Path, metavar="FOLDER", help="checkout of the public code to compare with")
    options.add_argument("--data", type=Path, metavar="FOLDER", help="folder of the three Parquet files")
    options.add_argument("--seeds", type=int, default=3, help="whole runs (default: 3)")
    args = options.parse_args(arguments)
    start(args)
    # The public code calls torch.meshgrid and torch.utils.checkpoint in ways that warn.
    warnings.filterwarnings("ignore", message=".*(meshgrid|use_reentrant|requires_grad=True)", category=UserWarning)
    results: dict[str, Any] = {"step": time_steps(args.original, 4 if args.smoke else 40, args.repeats)}
    if args.data is not None:
        runs = time_runs(args.data, args.seeds, args.smoke)
        results["runs"] = runs
        mean = statistics.mean(run["accuracy"] for run in runs)
        print(f"{mean:.3f} test accuracy and {statistics.mean(run['seconds'] for run in runs):.0f} s in the mean.")
    if "public_takes_times_as_long" in results["step"]:
        median = results["step"]["public_takes_times_as_long"]["median"]
        print(f"A training step of the public code takes {median:.2f} times as long as ours.")
    save(args, results)


if __name__ == "__main__":
    main()
