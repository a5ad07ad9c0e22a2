"""Whether measured heterogeneity finds families of modalities that are known beforehand.

A generated suite of three families. Every modality is a short time series with three windows, and in each window runs
one of three patterns, drawn anew. The pattern of the first window is what a task of the first family asks for, that of
the second or third window what the other families ask for; to a family, the windows of the others are noise. Two
modalities of one task see the same answer, and every modality sees its windows through an invertible map of its own: a
rotation of the channels, then a monotone curve. So all families have inputs of the same distribution and targets of
the same kind, and only what an encoder learns can tell them apart.

Measures both matrices by transfer, by mean features and at random, cuts the trees at three groups, and compares these
with the families. Prints the table of docs/heterogeneity.md.

    python benchmarks/known_families.py [--seeds 10] [--processes 2] [--latents 1] [--picture FILE] [--output FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from highmmt.configuration.files import write_json
from highmmt.heterogeneity import HeterogeneityMatrix, HeterogeneitySettings, cluster_nodes, measure_heterogeneity
from highmmt.suites import Suite
from highmmt.train import encode_suite

Floats = NDArray[np.float64]

NUM_FAMILIES = 3
TASKS_OF_A_FAMILY = 2
MODALITIES_OF_A_TASK = ("near", "far")
WINDOW = 4
NUM_PATTERNS = NUM_CHANNELS = 3
NOISE = 0.5
ROWS = {"train": 1024, "validation": 256, "test": 8}
METHODS = ("transfer", "feature", "random")
KINDS = ("unimodal", "interaction")
CURVES: tuple[Callable[[Floats], Floats], ...] = (lambda x: x, np.sinh, np.cbrt, lambda x: -x)
SETTINGS = HeterogeneitySettings(
    num_steps=24, num_evaluations=2, batch_size=64, learning_rate=1e-2, share=1.0, num_seeds=3
)


def rotation(generator: np.random.Generator) -> Floats:
    """A random orthogonal map of the channels."""
    q, r = np.linalg.qr(generator.normal(size=(NUM_CHANNELS, NUM_CHANNELS)))
    return np.asarray(q * np.sign(np.diag(r)))


def signals(generator: np.random.Generator, family: int, answer: NDArray[np.int64]) -> Floats:
    """What a modality of a family is made from, `(rows, windows * WINDOW, channels)`: a pattern in each window."""
    patterns = generator.integers(NUM_PATTERNS, size=(len(answer), NUM_FAMILIES))
    patterns[:, family] = answer
    clean = np.repeat(np.eye(NUM_PATTERNS, NUM_CHANNELS)[patterns] * np.sqrt(NUM_CHANNELS), WINDOW, axis=1)
    return np.asarray(clean + NOISE * generator.normal(size=clean.shape))


def families_suite(folder: Path, seed: int, num_latents: int = 1) -> Suite:
    """The suite of a seed, its rows written into the folder. A task's family is the digit in its name."""
    datasets.disable_progress_bars()
    generator = np.random.default_rng([2023, seed])
    tasks: dict[str, Any] = {}
    modalities: dict[str, Any] = {}
    for family in range(NUM_FAMILIES):
        for number in range(TASKS_OF_A_FAMILY):
            task = f"family{family + 1}{'abc'[number]}"
            names = {f"{task}-{end}": "time_series" for end in MODALITIES_OF_A_TASK}
            maps = {name: (rotation(generator), CURVES[(2 * number + i) % 4]) for i, name in enumerate(names)}
            for split, count in ROWS.items():
                answer = np.arange(count) % NUM_PATTERNS
                columns: dict[str, Any] = {"answer": answer.tolist()}
                for name, (turn, curve) in maps.items():
                    columns[name] = curve(signals(generator, family, answer) @ turn).tolist()
                datasets.Dataset.from_dict(columns).to_parquet(folder / f"{task}-{split}.parquet")
            modalities |= {
                name: {"kind": kind, "num_frequency_bands": 3, "max_frequency": 8} for name, kind in names.items()
            }
            tasks[task] = {
                "source": {"path": "parquet", "data_files": {split: f"{task}-{split}.parquet" for split in ROWS}},
                "modalities": {name: name for name in names},
                "target": {"column": "answer", "problem_type": "single_label_classification"},
                "metric": "accuracy",
                "batch_size": 64,
            }
    model = {
        "num_latents": num_latents,
        "d_latents": 16,
        "cross_attention_head_dim": 16,
        "num_self_attention_heads": 2,
        "self_attention_head_dim": 8,
        "num_crossmodal_attention_heads": 2,
    }
    values = {"name": "known-families", "model": model, "modalities": modalities, "tasks": tasks}
    return Suite.from_dict(values, folder)


def family(node: str) -> int:
    """The family of a modality-task pair or an interaction."""
    return int(node.removeprefix("family")[0])


def agreement(matrix: HeterogeneityMatrix) -> float:
    """Adjusted Rand index between the groups of average linkage at the true number and the families; 1: the same."""
    groups = cluster_nodes(matrix.values, matrix.nodes, NUM_FAMILIES)
    return float(adjusted_rand_score([family(node) for node in matrix.nodes], list(groups.values())))


def measure(seed: int, num_latents: int = 1, methods: tuple[str, ...] = METHODS) -> dict[str, dict[str, Any]]:
    """Method and kind of matrix, joined by a space, to the agreement, the matrix, its nodes and its seconds."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        suite = families_suite(Path(name), seed, num_latents)
        processor = suite.build_processor()
        data = encode_suite(suite, processor)
        for method in methods:
            settings = HeterogeneitySettings(**{**SETTINGS.to_dict(), "seed": seed, "method": method})
            for kind in KINDS:
                started = time.perf_counter()
                matrix = measure_heterogeneity(
                    suite, processor, data, kind, settings, Path(name) / method, lambda steps: None
                )
                found[f"{method} {kind}"] = {
                    "agreement": agreement(matrix),
                    "values": matrix.values.tolist(),
                    "nodes": matrix.nodes,
                    "seconds": time.perf_counter() - started,
                }
    return found


def measure_all(
    seeds: int, processes: int, num_latents: int = 1, methods: tuple[str, ...] = METHODS
) -> list[dict[str, dict[str, Any]]]:
    """What `measure` gives for seeds 0, 1, ..., by processes of one thread each."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(measure, seed, num_latents, methods) for seed in range(seeds)]
        return [job.result() for job in jobs]


def distances(result: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """The distances of one matrix within families, and those across."""
    values = np.array(result["values"])
    families = np.array([family(node) for node in result["nodes"]])
    same = families[:, None] == families[None]
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    return values[same & upper], values[~same & upper]


def table(results: list[dict[str, dict[str, Any]]]) -> str:
    """One row for each method and matrix, as Markdown."""
    lines = [
        "| measured by | matrix | all families found | adjusted Rand index, each seed | within | across |",
        "|---|---|---|---|---|---|",
    ]
    for name in results[0]:
        indices = [result[name]["agreement"] for result in results]
        within, across = (
            np.median(np.concatenate(parts)) for parts in zip(*(distances(r[name]) for r in results), strict=True)
        )
        method, kind = name.split()
        each = " ".join(f"{index:.2f}" for index in indices)
        count = sum(index == 1 for index in indices)
        lines.append(f"| {method} | {kind} | {count} of {len(indices)} | {each} | {within:.3g} | {across:.3g} |")
    return "\n".join(lines)


def draw(results: list[dict[str, dict[str, Any]]], path: Path) -> None:
    """Both matrices of the first seed as measured, and all seeds' distances within and across families."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1.25, 1, 1))
    for panel, kind in zip(axes, KINDS, strict=False):
        result = results[0][f"transfer {kind}"]
        values = np.array(result["values"])
        image = panel.imshow(values, cmap="YlGnBu", vmin=0)
        size = len(values)
        short = [node.split("/")[1].removeprefix("family") if kind == "unimodal" else node for node in result["nodes"]]
        labels = [name if kind == "unimodal" else name.split("/")[0].removeprefix("family") for name in short]
        panel.set_xticks(range(size), labels, rotation=90)
        panel.set_yticks(range(size), labels)
        for row, column in np.argwhere(~np.eye(size, dtype=bool)):
            dark = values[row, column] > 0.55 * values.max()
            panel.text(
                column,
                row,
                f"{values[row, column]:.1f}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if dark else "black",
            )
        for edge in np.arange(1, NUM_FAMILIES) * size / NUM_FAMILIES - 0.5:
            panel.axhline(edge, color="tab:red", linewidth=1)
            panel.axvline(edge, color="tab:red", linewidth=1)
        panel.set_title(f"{kind}, seed 0 (share of what there is to learn)", fontsize=9)
        figure.colorbar(image, ax=panel, shrink=0.8)
    panel = axes[2]
    for place, kind in enumerate(KINDS):
        for number, result in enumerate(results):
            for values, color in zip(distances(result[f"transfer {kind}"]), ("tab:blue", "tab:orange"), strict=True):
                x = place * (len(results) + 2) + number
                panel.plot(np.full(len(values), x), values, "o", color=color, markersize=3, alpha=0.5)
    panel.plot([], [], "o", color="tab:blue", label="within a family")
    panel.plot([], [], "o", color="tab:orange", label="across families")
    middle = (len(results) - 1) / 2
    panel.set_xticks([middle, middle + len(results) + 2], [f"{kind}\n{len(results)} seeds" for kind in KINDS])
    panel.set_yscale("symlog", linthresh=0.01)
    panel.set_ylim(-0.002, 4)
    panel.set_title("distance of every pair", fontsize=9)
    panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.32))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measure all seeds, print the table, write the files that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="suites, each with maps, rows and runs of its own")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--latents", type=int, default=1, help="latents of the models")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the measured matrices and distances")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all matrices as JSON")
    arguments = parser.parse_args()
    started = time.perf_counter()
    results = measure_all(arguments.seeds, arguments.processes, arguments.latents, tuple(arguments.methods))
    print(table(results))
    print(f"\n{arguments.latents} latent(s), {arguments.seeds} seeds, {time.perf_counter() - started:.0f} s")
    if arguments.output:
        write_json(arguments.output, {"settings": SETTINGS.to_dict(), "results": results})
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
