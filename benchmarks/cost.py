"""What a training step costs as the data grow: sequence length, ordered pairs, tasks in a group, parameter groups.

Three curves, each with everything else held fixed, and one comparison. All are fp32 training steps (forward, backward,
Adam) with the sizes of the paper's large setting; the points of a curve are measured in turn, not one after the other.

  sequence length  one modality of 64 channels, 32 samples, 64 to 2048 elements
  ordered pairs    always 12 sequences of 20 elements, 8 samples each: as 6 tasks of 2 modalities (12 ordered pairs),
                   4 of 3 (24), 3 of 4 (36), 2 of 6 (60), 1 of 12 (132)
  tasks            1 to 16 tasks of two modalities that share all parameters: with 128 samples in all, and with 32
                   samples more for each task
  groups           the four tasks of the large setting: all parameters shared, three unimodal and three crossmodal
                   groups, and one group for each of the ten modality-task pairs and eight interactions; fp32, and bf16
                   where the processor multiplies it

    python benchmarks/cost.py [--output cost.json] [--picture cost.png]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from large_setting import Run, Setting, draw, large_setting
from matplotlib.axes import Axes
from measuring import Spread, count_operations, interleave, parser, precisions, ratio, save, show, start

from highmmt import HighMMTConfig, HighMMTModel, ParameterGroups


def similar_tasks(num_tasks: int, num_modalities: int, elements: int, batch: int) -> Setting:
    """Tasks that all read the same modalities, with sequences of one length.

    Args:
        num_tasks, num_modalities: how many.
        elements: length of each sequence, of 64 channels.
        batch: samples of each task.
    """
    modalities = {f"m{index:02d}": {"num_channels": 64} for index in range(num_modalities)}
    tasks = {f"t{index:02d}": {"modalities": list(modalities)} for index in range(num_tasks)}
    config = HighMMTConfig(modalities=modalities, tasks=tasks, head_norm="layer_norm")
    shapes = {task: dict.fromkeys(modalities, (elements,)) for task in tasks}
    return draw(config, shapes, dict.fromkeys(tasks, batch))


def curves(smoke: bool) -> dict[str, dict[int, Setting]]:
    """For each curve, what is run at each of its points."""
    lengths, splits, counts, shrink = [64, 128, 256, 512, 1024, 2048], [6, 4, 3, 2, 1], [1, 2, 4, 8, 16], 1
    if smoke:
        lengths, splits, counts, shrink = [4, 8, 16], [3, 2, 1], [1, 2, 4], 16
    sequences = 12 // shrink or 6
    return {
        "sequence length": {length: similar_tasks(1, 1, length, 32 // shrink) for length in lengths},
        "ordered pairs": {
            sequences * (sequences // tasks - 1): similar_tasks(tasks, sequences // tasks, 20, 8 // shrink or 2)
            for tasks in splits
        },
        "tasks, samples in all fixed": {
            count: similar_tasks(count, 2, 50, 128 // shrink // count) for count in counts
        },
        "tasks, samples per task fixed": {count: similar_tasks(count, 2, 50, 32 // shrink) for count in counts},
    }


def groupings(config: HighMMTConfig) -> dict[str, ParameterGroups]:
    """Three groups of each kind, as figure 5's distances suggest for these tasks; and share none."""
    pairs, interactions = config.modality_task_pairs(), config.interactions()
    apart = {"avmnist/image": 1, "avmnist/spectrogram": 1, "mimic/time_series": 2}
    apart |= {"avmnist/image+spectrogram": 1, "mimic/table+time_series": 2}
    return {
        "3 + 3 groups": ParameterGroups(
            {pair: apart.get(pair, 0) for pair in pairs}, {node: apart.get(node, 0) for node in interactions}
        ),
        f"{len(pairs)} + {len(interactions)} groups": ParameterGroups(
            {pair: index for index, pair in enumerate(pairs)}, {node: index for index, node in enumerate(interactions)}
        ),
    }


def measure_curve(name: str, settings: Mapping[int, Setting], repeats: int) -> list[dict[str, Any]]:
    """Seconds and operations of a training step at each point."""
    works: dict[str, Callable[[], object]] = {str(x): Run(setting).train for x, setting in settings.items()}
    seconds = interleave(works, repeats, name)
    return [
        {
            "x": x,
            "num_samples": setting.num_samples,
            "operations": count_operations(works[str(x)]),
            "seconds": seconds[str(x)],
        }
        for x, setting in settings.items()
    ]


def straight_line(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Least-squares line through the medians: seconds = intercept + slope x; and the share of variance it explains."""
    x = np.array([point["x"] for point in points], dtype=float)
    y = np.array([Spread.of(point["seconds"]).median for point in points])
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - intercept - slope * x
    total = ((y - y.mean()) ** 2).sum()
    return {"slope": float(slope), "intercept": float(intercept), "r_squared": float(1 - (residual**2).sum() / total)}


def measure_groups(repeats: int, smoke: bool) -> dict[str, Any]:
    """How much longer a step of the large setting takes with several parameter groups."""
    setting = large_setting(batch_divisor=16 if smoke else 1)
    shared = HighMMTModel(setting.config)
    runs = {"share all": Run(setting, shared)}
    for name, groups in groupings(setting.config).items():
        runs[name] = Run(setting, shared.split_parameter_groups(groups))
    results: dict[str, Any] = {}
    for precision in precisions():
        works = {
            name: lambda run=run, bf16=precision == "bf16": run.train(bf16=bf16)  # type: ignore[misc]
            for name, run in runs.items()
        }
        seconds = interleave(works, repeats, f"groups, {precision}")
        results[precision] = {
            name: {
                "parameters": runs[name].model.num_parameters(),
                "seconds": values,
                "times_as_long_as_share_all": asdict(ratio(values, seconds["share all"])),
            }
            for name, values in seconds.items()
        }
    return results


def draw_picture(results: Mapping[str, Any], path: Path) -> None:
    """The three curves and the groups in one picture."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    _curve(axes[0, 0], results, "sequence length", "elements of the sequence", "Sequence length")
    _curve(axes[0, 1], results, "ordered pairs", "ordered pairs, 12 sequences in all", "Ordered pairs")
    panel = axes[1, 0]
    _curve(panel, results, "tasks, samples per task fixed", "tasks that share a group", "", "32 samples per task")
    _curve(panel, results, "tasks, samples in all fixed", "tasks that share a group", "Tasks", "128 samples in all")
    panel.legend(frameon=False)
    panel = axes[1, 1]
    offsets = 0.36 * (np.arange(len(results["groups"])) - (len(results["groups"]) - 1) / 2)
    for offset, (precision, groups) in zip(offsets, results["groups"].items(), strict=True):
        spreads = [Spread(**values["times_as_long_as_share_all"]) for values in groups.values()]
        positions = np.arange(len(groups)) + offset
        medians = np.array([spread.median for spread in spreads])
        errors = [
            np.maximum(0, medians - [spread.lower for spread in spreads]),
            np.maximum(0, [spread.upper for spread in spreads] - medians),
        ]
        panel.bar(positions, medians, 0.32, yerr=errors, label=precision, error_kw={"linewidth": 1, "capsize": 3})
        for x, spread in zip(positions, spreads, strict=True):
            panel.text(x, 0.05, f"{spread.median:.2f}", ha="center", color="white")
    panel.axhline(1.15, color="black", linewidth=1, linestyle=":", label="15 % more")
    panel.set_xticks(range(len(groups)), list(groups))
    panel.set_title("Parameter groups, large setting", loc="left")
    panel.set_ylabel("time of a step, share all = 1")
    panel.legend(frameon=False, ncols=3, loc="upper left")
    panel.set_ylim(0, max(1.5, panel.get_ylim()[1] * 1.15))
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curve(
    panel: Axes, results: Mapping[str, Any], name: str, unit: str, title: str, label: str | None = None
) -> None:
    curve = results["curves"][name]
    x = np.array([point["x"] for point in curve["points"]])
    spreads = [Spread.of(point["seconds"]) for point in curve["points"]]
    medians = np.array([spread.median for spread in spreads]) * 1e3
    errors = [
        medians - np.array([spread.lower for spread in spreads]) * 1e3,
        np.array([spread.upper for spread in spreads]) * 1e3 - medians,
    ]
    points = panel.errorbar(x, medians, yerr=errors, fmt="o", markersize=5, capsize=3, label=label)
    line = curve["line"]
    ends = np.array([0, x.max()])
    panel.plot(ends, (line["intercept"] + line["slope"] * ends) * 1e3, color=points[0].get_color(), linewidth=1)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.set_xlabel(unit)
    panel.set_ylabel("ms per training step")
    panel.set_title(title, loc="left")


def print_results(results: Mapping[str, Any]) -> None:
    """A table for each curve, one for the groups."""
    for name, curve in results["curves"].items():
        rows = []
        for point in curve["points"]:
            spread = Spread.of(point["seconds"])
            microseconds = f"{spread.median / point['num_samples'] * 1e6:.0f}"
            operations = f"{point['operations'] / 1e9:.2f}"
            rows.append([str(point["x"]), str(point["num_samples"]), operations, spread.text(1e3), microseconds])
        show(f"Cost against {name}", ["", "samples", "GFLOP", "ms", "µs per sample"], rows)
        line = curve["line"]
        slope, intercept = line["slope"] * 1e3, line["intercept"] * 1e3
        print(f"line: {intercept:.1f} ms + {slope:.4f} ms each; explains {line['r_squared']:.2%} of the variance\n")
    rows = []
    for precision, groups in results["groups"].items():
        for name, values in groups.items():
            times = Spread(**values["times_as_long_as_share_all"]).text(decimals=2)
            size = f"{values['parameters'] / 1e6:.2f}"
            rows.append([f"{name}, {precision}", size, Spread.of(values["seconds"]).text(1e3), times])
    show("Parameter groups, large setting", ["", "M parameters", "ms", "times share all"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON and picture."""
    options = parser(__doc__, repeats=15)
    options.add_argument("--picture", type=Path, metavar="FILE", help="also draw the curves into this PNG or SVG file")
    args = options.parse_args(arguments)
    start(args)
    results: dict[str, Any] = {"curves": {}}
    for name, settings in curves(args.smoke).items():
        points = measure_curve(name, settings, args.repeats)
        results["curves"][name] = {"line": straight_line(points), "points": points}
    results["groups"] = measure_groups(args.repeats, args.smoke)
    print_results(results)
    if args.picture is not None:
        draw_picture(results, args.picture)
    save(args, results)


if __name__ == "__main__":
    main()
