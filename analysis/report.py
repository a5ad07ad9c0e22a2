"""The report of a run: one HTML page without network, and pictures for a README, made from the files of a run folder.

A run folder fills in stages. The report shows what there is, and says what is missing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..configuration import ParameterGroups
from ..configuration.files import read_json, write_bytes, write_text
from ..heterogeneity import GroupStability
from ..heterogeneity.clustering import Linkage
from ..heterogeneity.distances import MatrixKind
from . import charts
from .charts import format_number, format_parameters
from .figures import NOUNS, PREFIX, draw_files, fixed_style, overview_figure, read_views
from .grouping import KINDS, group_numbers, read_stability, stability_file

_PHASES = {"pretrained": "pretraining", "finetuned": "fine-tuning"}
_METHODS = ("share_none", "share_all", "random", "highmmt")


@dataclass
class Distances:
    """One heterogeneity matrix as its file holds it; all matrices are (n, n), None where a number is missing."""

    nodes: list[str]
    values: list[list[float | None]]
    measured: list[list[bool]]
    standard_errors: list[list[float | None]] | None
    transfer: list[list[float | None]] | None
    linkage: Linkage
    loss_scale: str
    seeds: Any
    tree: charts.Tree | None = None

    def cluster(self, linkage: Linkage) -> None:
        """Make the tree, where there are two nodes and every distance is known."""
        self.linkage = linkage
        pairs = ((row, column) for row in range(len(self.nodes)) for column in range(len(self.nodes)) if row != column)
        if len(self.nodes) > 1 and all(self.values[row][column] is not None for row, column in pairs):
            self.tree = charts.cluster_tree(self.values, linkage, self.nodes)

    @property
    def num_pairs(self) -> int:
        """Number of unordered pairs of nodes."""
        return len(self.nodes) * (len(self.nodes) - 1) // 2

    @property
    def num_measured(self) -> int:
        """Number of unordered pairs that were measured."""
        return sum(self.measured[row][column] for row in range(len(self.nodes)) for column in range(row))


@dataclass
class Run:
    """What `read_run` found in a run folder; None or empty where a file does not exist yet."""

    name: str
    suite: dict[str, Any] | None = None
    distances: dict[MatrixKind, Distances] = field(default_factory=dict)
    groups: ParameterGroups | None = None
    stability: dict[MatrixKind, GroupStability] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    has_model: bool = False
    written: datetime | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks: the suite's, or else those that the other files mention."""
        if self.suite:
            return list(self.suite["tasks"])
        if self.metrics and self.metrics["metric"]:
            return list(self.metrics["metric"])
        nodes = self.distances["unimodal"].nodes if "unimodal" in self.distances else []
        nodes = nodes or list(self.groups.unimodal if self.groups else [])
        return list(dict.fromkeys(node.split("/", 1)[0] for node in nodes))

    @property
    def has_interactions(self) -> bool:
        """False where it is known that no task fuses two modalities."""
        if self.suite:
            fused = [
                len(task.get("modalities") or [])
                for task in self.suite["tasks"].values()
                if (task.get("target") or {}).get("problem_type") != "retrieval"
            ]
            return any(count > 1 for count in fused)
        if self.groups:
            return bool(self.groups.crossmodal)
        return True

    def modalities_of(self, task: str) -> list[str]:
        """Names of a task's modalities, from the suite or else from the parameter groups."""
        if self.suite:
            return list((self.suite["tasks"].get(task) or {}).get("modalities") or [])
        nodes = [node.split("/", 1) for node in (self.groups.unimodal if self.groups else ())]
        return [parts[-1] for parts in nodes if parts[0] == task]

    def groups_of(self, kind: MatrixKind) -> list[int] | None:
        """Group of each node of a matrix, in its order; None without groups or where they name other nodes."""
        if self.groups is None or kind not in self.distances:
            return None
        return group_numbers(self.groups, kind, self.distances[kind].nodes)


def read_run(run_folder: Path | str) -> Run:
    """Read what a run has left so far.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file is broken or has another form than a run's; the message names the file.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No run folder at {folder}; a report is made from the folder that a run has written to."
        )
    run = Run(folder.resolve().name, has_model=(folder / "finetuned" / "config.json").is_file())
    found = []

    def read(name: str, load: Callable[[Path], Any]) -> Any:
        path = folder / name
        if not path.is_file():
            return None
        found.append(path.stat().st_mtime)
        try:
            return load(path)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            if reason.startswith(f"{path}: "):
                raise
            raise ValueError(
                f"{path}: not readable as part of a run ({reason}). Repair it or let its stage write it again."
            ) from error

    run.suite = read("suite.yaml", _load_suite)
    for kind in KINDS:
        if (distances := read(f"heterogeneity/{kind}.json", _load_distances)) is not None:
            run.distances[kind] = distances
    run.groups = read("parameter_groups.json", ParameterGroups.from_json_file)
    for kind, stability in (read(stability_file(Path("parameter_groups.json")).name, read_stability) or {}).items():
        distances = run.distances.get(kind)
        # What was made for other groups than the folder has now says nothing about these.
        if distances and (stability.nodes, stability.groups) == (distances.nodes, run.groups_of(kind)):
            run.stability[kind] = stability
            distances.cluster(stability.linkage)
    run.metrics = read("metrics.json", _load_metrics)
    run.written = datetime.fromtimestamp(max(found), timezone.utc) if found else None
    return run


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a mapping, found {type(value).__name__}")
    return {str(key): item for key, item in value.items()}


def _load_suite(path: Path) -> dict[str, Any]:
    suite = _mapping(yaml.safe_load(path.read_text(encoding="utf-8")), "the suite")
    suite["tasks"] = {
        name: _mapping(task, f"task {name!r}") for name, task in _mapping(suite.get("tasks"), "tasks").items()
    }
    return suite


def _load_distances(path: Path) -> Distances:
    data = _mapping(read_json(path), "the file")
    nodes = [str(node) for node in data["nodes"]]

    def matrix(key: str) -> list[list[Any]] | None:
        rows = data.get(key)
        if rows is None:
            return None
        if len(rows) != len(nodes) or any(len(row) != len(nodes) for row in rows):
            raise ValueError(f"{key!r} is not a matrix of {len(nodes)} x {len(nodes)}, one row and column per node")
        return [[_number(value) for value in row] for row in rows]

    values = matrix("values")
    if values is None:
        raise ValueError("'values' is missing")
    measured = matrix("measured") or [[value is not None for value in row] for row in values]
    settings = data.get("settings") or {}
    linkage: Any = data.get("linkage") or settings.get("linkage") or "average"  # `cluster_tree` checks it
    distances = Distances(
        nodes,
        values,
        [[bool(flag) for flag in row] for row in measured],
        matrix("standard_errors"),
        matrix("transfer"),
        linkage,
        str(data.get("loss_scale") or settings.get("loss_scale") or ""),
        data.get("seeds"),
    )
    distances.cluster(linkage)
    return distances


def _number(value: Any) -> float | None:
    """A finite number as it is, None for None and for what JSON cannot hold (nan, infinity)."""
    return None if value is None or not math.isfinite(value) else value


def _numbers(value: Any, what: str) -> dict[str, float | None]:
    return {key: _number(number) for key, number in _mapping({} if value is None else value, what).items()}


def _load_metrics(path: Path) -> dict[str, Any]:
    metrics = _mapping(read_json(path), "the file")
    for key in ("methods", "metric", "higher_is_better", "reference", "history", "settings", "timings", "versions"):
        metrics[key] = _mapping(metrics.get(key) or {}, repr(key))
    metrics["seeds"] = list(metrics.get("seeds") or [])
    one_seed = len(metrics["seeds"]) == 1
    methods = {name: _mapping(method, f"method {name!r}") for name, method in metrics["methods"].items()}
    for name, method in methods.items():
        method["label"] = str(method.get("label") or name)
        scores = _mapping(method.get("scores") or {}, "'scores'")
        method["scores"] = {task: [_number(score) for score in seeds] for task, seeds in scores.items()}
        for key in ("mean", "std", "components"):
            method[key] = _numbers(method.get(key), repr(key))
        for key in ("average", "average_std", "num_parameters"):
            method[key] = _number(method.get(key))
        if one_seed:  # one seed has no deviation, whatever the file says
            method["std"], method["average_std"] = {}, None
    ranks = {name: rank for rank, name in enumerate(_METHODS)}
    metrics["methods"] = dict(sorted(methods.items(), key=lambda item: ranks.get(item[0], len(ranks))))
    if not metrics["metric"]:
        metrics["metric"] = {task: "score" for method in methods.values() for task in method["mean"]}
    metrics["timings"] = _numbers(metrics["timings"], "'timings'")
    metrics["history"] = {
        phase: [_load_epoch(_mapping(epoch, f"history of {phase!r}")) for epoch in epochs or []]
        for phase, epochs in metrics["history"].items()
    }
    return metrics


def _load_epoch(epoch: Mapping[str, Any]) -> dict[str, Any]:
    validation = _mapping(epoch.get("validation") or {}, "'validation'")
    return {
        "train_loss": _numbers(epoch.get("train_loss"), "'train_loss'"),
        "validation": {task: _numbers(values, "'validation'") for task, values in validation.items()},
        "score": _number(epoch.get("score")),
    }


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(label: str) -> str:
    """A label without words in brackets, with a capital letter."""
    return _capital(label.split(" (")[0])


def _inside(label: str) -> str:
    """A label within a sentence: "Share all" becomes "share all", "HighMMT" stays."""
    short = _short(label)
    return short[:1].lower() + short[1:] if short.partition(" ")[0][1:].islower() else short


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as ("a.b", value) rows."""
    rows = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "none" if isinstance(value, Mapping) else _plain(value)))
    return rows


def _direction(metrics: Mapping[str, Any]) -> bool | None:
    """Whether a higher average is better; None where the tasks' metrics point both ways."""
    directions = {bool(metrics["higher_is_better"].get(task, True)) for task in metrics["metric"]}
    return directions.pop() if len(directions) == 1 else None


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence: who is best on average, by how much, and whether that is more than the seeds' deviation.

    The winner is compared with HighMMT, or with the runner-up where HighMMT wins. The deviation of a difference is
    the root of the sum of both squared deviations.
    """
    methods = {name: method for name, method in metrics["methods"].items() if method["average"] is not None}
    tasks, seeds = _count(len(metrics["metric"]), "task"), _count(len(metrics["seeds"]), "seed")
    if not methods:
        return "No method has been scored on average yet."
    higher = _direction(metrics)
    if higher is None:
        return (
            f"The metrics of these {tasks} point both ways (for some lower is better), "
            "so no method is best on average; compare them task by task."
        )
    ranking = sorted(methods, key=lambda name: methods[name]["average"], reverse=higher)

    def said(name: str) -> str:
        mean, spread = format_number(methods[name]["average"]), methods[name]["average_std"]
        return mean if spread is None else f"{mean}\u00a0±\u00a0{format_number(spread)}"

    best = ranking[0]
    name = _short(methods[best]["label"])
    if len(ranking) == 1:
        return f"{name} reaches {said(best)} on average over {tasks} and {seeds}; it is the only method scored."
    rival = "highmmt" if best != "highmmt" and "highmmt" in methods else ranking[1]
    difference = abs(methods[best]["average"] - methods[rival]["average"])
    order = "" if higher else " (lower is better)"
    start = f"{name} is best on average with {said(best)} over {tasks} and {seeds}{order}; "
    start += f"{_inside(methods[rival]['label'])} reaches {said(rival)}, and "
    deviations = [methods[name]["average_std"] for name in (best, rival)]
    if None in deviations:
        return (
            f"{start}without a deviation over seeds the difference of {format_number(difference)} is no evidence yet."
        )
    spread = math.hypot(*deviations)
    start += f"the difference of {format_number(difference)} is"
    if difference <= spread:
        start += f" within the deviation over seeds (±\u00a0{format_number(spread)})"
        return f"{start}, so this run cannot tell them apart."
    return f"{start} more than the deviation over seeds (±\u00a0{format_number(spread)})."


def _marked(scores: Sequence[tuple[float | None, float | None]], higher: bool | None) -> list[dict[str, Any]]:
    """Cells of a row with `mark` "best", "close" (the deviation does not tell it apart from the best) or ""."""
    known = [mean for mean, _ in scores if mean is not None]
    best = None if higher is None or len(known) < 2 else max(known) if higher else min(known)
    spread = next((deviation for mean, deviation in scores if mean == best), None)
    cells = []
    for mean, deviation in scores:
        mark = "best" if mean is not None and mean == best else ""
        if not mark and mean is not None and best is not None and deviation is not None and spread is not None:
            mark = "close" if abs(mean - best) <= math.hypot(deviation, spread) else ""
        cells.append({"mean": mean, "std": deviation, "mark": mark})
    return cells


def _references(run: Run) -> dict[str, tuple[float, str]]:
    """Reference score of each task that has one, and where it comes from."""
    found = {task: spec.get("reference") for task, spec in (run.suite or {"tasks": {}})["tasks"].items()}
    found.update((run.metrics or {}).get("reference") or {})
    values = {
        task: (_number(entry.get("value")), str(entry.get("source") or "")) for task, entry in found.items() if entry
    }
    return {task: (value, source) for task, (value, source) in values.items() if value is not None}


def _reference_average(run: Run) -> float | None:
    """Mean of the reference scores, where every task has one."""
    references, tasks = _references(run), run.metrics["metric"] if run.metrics else {}
    return statistics.fmean(references[task][0] for task in tasks) if tasks and set(tasks) <= set(references) else None


def _results(run: Run) -> dict[str, Any] | None:
    if not run.metrics or not run.metrics["methods"]:
        return None
    metrics, methods, references = run.metrics, list(run.metrics["methods"].values()), _references(run)
    sources = list(
        dict.fromkeys(source for task, (_, source) in references.items() if source and task in metrics["metric"])
    )
    rows = []
    for task, metric in metrics["metric"].items():
        higher = bool(metrics["higher_is_better"].get(task, True))
        value, source = references.get(task, (None, ""))
        rows.append(
            {
                "task": task,
                "metric": metric,
                "higher": higher,
                "cells": _marked([(method["mean"].get(task), method["std"].get(task)) for method in methods], higher),
                "reference": value,
                "source": sources.index(source) + 1 if source else None,
                "seeds": [method["scores"].get(task) or [] for method in methods],
            }
        )
    return {
        "rows": rows,
        "average": _marked([(method["average"], method["average_std"]) for method in methods], _direction(metrics)),
        "has_reference": any(row["reference"] is not None for row in rows),
        "reference_average": _reference_average(run),
        "sources": sources,
    }


def _points(run: Run) -> list[charts.Point]:
    """The methods that have both an average score and a number of parameters."""
    methods = run.metrics["methods"].items() if run.metrics else ()
    return [
        charts.Point(_short(m["label"]), m["num_parameters"], m["average"], m["average_std"], name == "highmmt")
        for name, m in methods
        if m["average"] is not None and m["num_parameters"]
    ]


def _performance(run: Run) -> dict[str, Any] | None:
    metrics, points = run.metrics, _points(run)
    if not metrics or not points:
        return None
    higher = _direction(metrics)
    pictures = []
    if higher is not None:
        front = [point.label for point, best in zip(points, charts.pareto_front(points, higher), strict=True) if best]
        for width, height in ((860, 430), (328, 340)):
            picture = charts.scatter(
                points,
                title=f"Average score against number of parameters. On the Pareto front: {', '.join(front)}.",
                x_label="parameters (logarithmic)",
                y_label=f"average score {'↑' if higher else '↓'}",
                higher_is_better=higher,
                reference=_reference_average(run),
                width=width,
                height=height,
            )
            pictures.append(Markup(picture))
    parts = dict.fromkeys(part for method in metrics["methods"].values() for part in method["components"])
    return {"higher": higher, "pictures": pictures, "parts": list(parts)}


def _pairs(distances: Distances) -> list[dict[str, Any]]:
    """All pairs, nearest first, those without a distance last."""
    nodes, errors, transfer = distances.nodes, distances.standard_errors, distances.transfer
    pairs = [
        {
            "nodes": (nodes[column], nodes[row]),
            "distance": distances.values[row][column],
            "error": errors[row][column] if errors else None,
            "there": transfer[column][row] if transfer else None,
            "back": transfer[row][column] if transfer else None,
            "measured": distances.measured[row][column],
        }
        for row in range(len(nodes))
        for column in range(row)
    ]
    return sorted(pairs, key=lambda pair: (pair["distance"] is None, pair["distance"] or 0.0))


def _heterogeneity(run: Run) -> list[dict[str, Any]]:
    """Heat map, pairs and cluster tree of both matrices."""
    figures: list[dict[str, Any]] = []
    for kind in KINDS:
        distances = run.distances.get(kind)
        if distances is None or not distances.nodes:
            figures.append({"kind": kind, "noun": NOUNS[kind], "distances": None, "pairs": []})
            continue
        groups, scale = run.groups_of(kind), charts.HeatScale.of(distances.values)
        imputed, tree = distances.num_pairs - distances.num_measured, distances.tree
        common: dict[str, Any] = {"groups": groups, "prefix": PREFIX[kind]}
        picture = charts.heat_map(
            distances.nodes,
            distances.values,
            title=f"Heterogeneity matrix of {len(distances.nodes)} {NOUNS[kind]}; the table below has all numbers.",
            measured=distances.measured,
            standard_errors=distances.standard_errors,
            order=charts.leaf_order(distances.tree, len(distances.nodes), groups),
            scale=scale,
            **common,
        )
        title = f"Cluster tree of {len(distances.nodes)} {NOUNS[kind]}"
        support = run.stability[kind].support if kind in run.stability else [None] * len(distances.nodes)
        leaves = [
            node if share is None else f"{node} · {100 * share:.0f} %"
            for node, share in zip(distances.nodes, support, strict=True)
        ]
        trees = [
            charts.dendrogram(leaves, tree, title=title, by_root=scale.by_root, width=width, **common)
            for width in (470, 328)
            if tree
        ]
        figures.append(
            {
                "kind": kind,
                "noun": NOUNS[kind],
                "distances": distances,
                "imputed": imputed,
                "picture": Markup(picture),
                "legend": Markup(charts.heat_legend(scale, imputed > 0)),
                "pairs": _pairs(distances),
                "trees": [Markup(picture) for picture in trees],
                "grouped": groups is not None,
                "has_shares": any(share is not None for share in support),
                "is_cut": bool(tree and groups and charts.cut_height(tree, groups) is not None),
            }
        )
    return figures


def _groups(run: Run) -> list[dict[str, Any]]:
    """Groups of both kinds: their members, and how often samples of the measurement agree."""
    figures = []
    for kind, members in zip(KINDS, (run.groups.unimodal, run.groups.crossmodal) if run.groups else (), strict=False):
        groups: list[dict[str, Any]] = []
        stability = run.stability.get(kind)
        support = dict(zip(stability.nodes, stability.support, strict=True)) if stability else {}
        for number in sorted(set(members.values())):
            nodes = [node for node, group in members.items() if group == number]
            shares = [share for node in nodes if (share := support.get(node)) is not None]
            share = statistics.fmean(shares) if shares else None
            groups.append({"number": number, "nodes": nodes, "share": share})
        picture = None
        if stability and stability.together is not None and not stability.is_trivial:
            drawn = run.distances[kind]
            picture = charts.heat_map(
                stability.nodes,
                stability.together.tolist(),
                title=f"How often two of {len(stability.nodes)} {NOUNS[kind]} share a group.",
                groups=stability.groups,
                prefix=PREFIX[kind],
                order=charts.leaf_order(drawn.tree, len(drawn.nodes), stability.groups),
                scale=charts.HeatScale(1.0, False),
                are_distances=False,
            )
        figures.append(
            {
                "kind": kind,
                "count": len(members),
                "groups": groups,
                "stability": stability,
                "has_shares": any(group["share"] is not None for group in groups),
                "picture": Markup(picture) if picture else None,
            }
        )
    return figures


def _curves(run: Run) -> dict[str, Any] | None:
    history = (run.metrics or {}).get("history") or {}
    phases = {name: history[key] for key, name in _PHASES.items() if history.get(key)}
    if not run.metrics or not phases:
        return None
    starts, kept, total = {}, [], 0
    for name, epochs in phases.items():
        starts[name] = total
        known = [(epoch["score"], -index) for index, epoch in enumerate(epochs) if epoch["score"] is not None]
        kept += [total + 1 - max(known)[1]] if known else []
        total += len(epochs)
    divider = starts["fine-tuning"] + 0.5 if len(phases) == 2 else None
    figures = []
    for task in run.tasks:
        metric = str(run.metrics["metric"].get(task, "score"))
        scores, losses = [], []
        for name, epochs in phases.items():
            x = range(starts[name] + 1, starts[name] + 1 + len(epochs))
            validation = [epoch["validation"].get(task, {}) for epoch in epochs]
            scores.append(charts.Line(x, [values.get(metric) for values in validation]))
            losses.append(charts.Line(x, [epoch["train_loss"].get(task) for epoch in epochs], "train"))
            losses.append(charts.Line(x, [values.get("loss") for values in validation]))
        common: dict[str, Any] = {"num_epochs": total, "divider": divider, "kept": kept}
        words = ("pretraining", "fine-tuning") if divider else None
        first = charts.line_chart(
            scores,
            title=f"{task}: validation {metric} per epoch",
            y_label=f"validation {metric}",
            phases=words,
            **common,
        )
        second = charts.line_chart(
            losses, title=f"{task}: training and validation loss per epoch", y_label="loss", x_label="epoch", **common
        )
        figures.append({"task": task, "pictures": [Markup(first), Markup(second)]})
    return {"figures": figures, "phases": list(phases), "kept": kept}


def write_report(run_folder: Path | str) -> Path:
    """Write `report.html` into a run folder, from what the folder holds so far: one page that needs no network.

    Returns:
        The path of the report. It is written whole or not at all.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file of the run is broken; the message names it.
    """
    run, here = read_run(run_folder), Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=format_number, parameters=format_parameters, plain=_plain, capital=_capital)
    environment.filters.update(duration=_duration, task_of=lambda node: node.split("/", 1)[0])
    environment.filters.update(percent=lambda share: f"{100 * share:.0f}\u00a0%")
    environment.tests.update(identifier=str.isidentifier)
    environment.globals.update(count=_count, nouns=NOUNS)
    settings = (run.metrics or {}).get("settings") or {}
    page = environment.get_template("report.html").render(
        run=run,
        css=Markup((here / "report.css").read_text(encoding="utf-8") + charts.chart_css()),
        verdict=verdict(run.metrics) if run.metrics and run.metrics["methods"] else None,
        settings=_flat({key: value for key, value in settings.items() if key != "command"}),
        results=_results(run),
        performance=_performance(run),
        heterogeneity=_heterogeneity(run),
        scales={distances.loss_scale for distances in run.distances.values()},
        linkages=sorted({distances.linkage for distances in run.distances.values()}),
        badge=lambda group, kind: Markup(charts.group_badge(group, PREFIX[kind])),
        groupings=_groups(run),
        curves=_curves(run),
    )
    return write_text(Path(run_folder) / "report.html", page)


def write_pictures(run_folder: Path | str, out: Path | str) -> list[Path]:
    """Save `heterogeneity` (heat maps and cluster trees) and `performance` (scores against parameters) in a folder.

    Returns:
        The pictures written, each as PNG and SVG; a picture whose numbers do not exist yet is left out.

    Raises:
        FileNotFoundError: there is no such run folder.
        ValueError: a file of the run is broken, or there is nothing to draw yet.
    """
    run, views = read_run(run_folder), read_views(Path(run_folder))
    points = _points(run)
    higher = _direction(run.metrics) if run.metrics else None
    pictures: dict[str, Callable[[], Any]] = {}
    if views:
        pictures["heterogeneity"] = lambda: overview_figure(views)
    if points and higher is not None:
        pictures["performance"] = lambda: _performance_picture(points, higher, _reference_average(run))
    if not pictures:
        raise ValueError(f"{run_folder}: there are neither distances nor average scores to draw yet.")
    with fixed_style():
        files = {
            file: content for name, draw in pictures.items() for file, content in draw_files(name, draw()).items()
        }
    return [write_bytes(Path(out) / file, content) for file, content in files.items()]


def _performance_picture(points: Sequence[charts.Point], higher: bool, reference: float | None) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    front = charts.pareto_front(points, higher)
    best = sorted((point.x, point.y) for point, is_best in zip(points, front, strict=True) if is_best)
    right = 1.6 * max(point.x for point in points)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    axes.step([*(x for x, _ in best), right], [*(y for _, y in best), best[-1][1]], where="post", color="#0b6570")
    for point, is_best in zip(points, front, strict=True):
        color = "#0b6570" if point.is_ours else "#16212a"
        fill = color if is_best else "white"
        axes.errorbar(point.x, point.y, point.error, fmt="o", color=color, markerfacecolor=fill, capsize=3, zorder=3)
        words = f"{point.label}\n{format_number(point.y)} · {format_parameters(point.x)}"
        axes.annotate(words, (point.x, point.y), (9, -7), textcoords="offset points", va="top", fontsize=8, bbox=box)
    if reference is not None:
        axes.axhline(reference, color="#53616c", linestyle=":", label=f"reference scores {format_number(reference)}")
        axes.legend(frameon=False, loc="best")
    axes.set_xscale("log")
    axes.set_xlim(min(point.x for point in points) / 1.4, right)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set(xlabel="parameters (logarithmic)", ylabel=f"average score ({'higher' if higher else 'lower'} is better)")
    axes.spines[["right", "top"]].set_visible(False)
    return figure
