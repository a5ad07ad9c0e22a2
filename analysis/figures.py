"""Pictures of heterogeneity as PNG and SVG: matrices, cluster trees, spectra, silhouettes, stability of the groups.

matplotlib is imported when something is drawn, not before: what is drawn already costs nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration import ParameterGroups
from ..configuration.files import read_json, whole_folder, write_json
from ..heterogeneity import GroupStability, HeterogeneityMatrix, silhouette_curve, singular_value_shares
from ..heterogeneity.clustering import SILHOUETTE_THRESHOLD, Linkage
from ..heterogeneity.distances import MatrixKind
from . import charts
from .grouping import KINDS, group_numbers, read_stability, stability_file

PREFIX = {"unimodal": "U", "interaction": "C"}
NOUNS = {"unimodal": "modalities", "interaction": "interactions"}

# Goes up whenever the same numbers would give other pictures, so that a finished folder has them drawn again.
_VERSION = 2
_INK, _SOFT, _RULE = "#16212a", "#53616c", "#d8dee2"
_LINES = {"unimodal": ("#0b628f", "o", "-"), "interaction": ("#b0430a", "s", "--")}
_CELL = 0.52  # inches
_LONGEST_NAME = 44


@dataclass(frozen=True)
class View:
    """What the pictures of one matrix show.

    Args:
        matrix: distances of two nodes or more.
        linkage: of the tree.
        groups: group of each node; None where there are none yet.
        stability: of these groups; None where it is not known.
    """

    matrix: HeterogeneityMatrix
    linkage: Linkage
    groups: list[int] | None = None
    stability: GroupStability | None = None

    @property
    def kind(self) -> MatrixKind:
        """Of the matrix."""
        return self.matrix.kind

    @property
    def is_complete(self) -> bool:
        """Whether every distance is known, so that there is a tree."""
        return bool(np.isfinite(self.matrix.values).all())

    @property
    def tree(self) -> charts.Tree | None:
        """The cluster tree."""
        values = self.matrix.values.tolist()
        return charts.cluster_tree(values, self.linkage, self.matrix.nodes) if self.is_complete else None

    @property
    def order(self) -> list[int]:
        """The nodes in drawing order."""
        return charts.leaf_order(self.tree, len(self.matrix.nodes), self.groups)

    @property
    def names(self) -> list[str]:
        """The nodes' names, the middle left out where they are very long."""
        half = (_LONGEST_NAME - 1) // 2
        return [name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}" for name in self.matrix.nodes]

    def group_name(self, node: int) -> str:
        """The name of a node's group, "U1" for group 0; nothing without groups."""
        return f"{PREFIX[self.kind]}{self.groups[node] + 1}" if self.groups else ""


def write_figures(run_folder: Path, linkage: Linkage = "average") -> Path | None:
    """Draw what a run folder's matrices and groups look like, into `heterogeneity/figures`, each as PNG and SVG.

    Nothing is done where the pictures of the same numbers are there already; otherwise the folder is replaced as a
    whole.

    Args:
        run_folder: with `heterogeneity/unimodal.json` and `interaction.json`, as far as they exist, and the groups.
        linkage: of the trees where there are no groups that say which.

    Returns:
        The folder of the pictures; None where no matrix has two nodes.

    Raises:
        ValueError: a file is broken; the message names it.
    """
    views = read_views(run_folder, linkage)
    if not views:
        return None
    folder = run_folder / "heterogeneity" / "figures"
    inputs: list[Any] = [_VERSION]
    for view in views:
        stability = view.stability.to_dict() if view.stability else None
        inputs += [view.matrix.to_dict(), view.linkage, view.groups, stability]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    if _are_drawn(folder, digest):
        return folder
    with fixed_style():
        files = {
            file: content for name, figure in _figures(views) for file, content in draw_files(name, figure).items()
        }
    with whole_folder(folder) as temporary:
        for file, content in files.items():
            (temporary / file).write_bytes(content)
        write_json(temporary / "inputs.json", {"inputs": digest, "files": list(files)})
    return folder


def _are_drawn(folder: Path, digest: str) -> bool:
    try:
        found = read_json(folder / "inputs.json")
        return bool(found["inputs"] == digest) and all((folder / name).is_file() for name in found["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_views(run_folder: Path, linkage: Linkage = "average") -> list[View]:
    """The matrices of a run folder that have two nodes, with their groups where these are known.

    Raises:
        ValueError: a file is broken; the message names it.
    """
    paths = {kind: run_folder / "heterogeneity" / f"{kind}.json" for kind in KINDS}
    groups_file = run_folder / "parameter_groups.json"
    groups = ParameterGroups.from_json_file(groups_file) if groups_file.is_file() else None
    sure = stability_file(groups_file)
    found = read_stability(sure) if groups and sure.is_file() else {}
    views = []
    for kind, path in paths.items():
        if not path.is_file():
            continue
        matrix = HeterogeneityMatrix.from_json_file(path)
        if len(matrix.nodes) < 2:
            continue
        numbers = group_numbers(groups, kind, matrix.nodes) if groups else None
        stability = found.get(kind)
        if stability and (stability.nodes, stability.groups) != (matrix.nodes, numbers):
            stability = None  # of other groups than the folder has now
        views.append(View(matrix, stability.linkage if stability else linkage, numbers, stability))
    return views


@contextmanager
def fixed_style() -> Iterator[None]:
    """Settings of our own, whatever the user's are, so that the same numbers give the same bytes."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update({"svg.hashsalt": "highmmt", "svg.fonttype": "none", "text.parse_math": False})
        rcParams.update({"font.size": 9.0, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _SOFT})
        rcParams.update({"xtick.color": _SOFT, "ytick.color": _SOFT, "axes.spines.right": False})
        rcParams.update({"axes.spines.top": False, "axes.titlelocation": "left", "axes.titleweight": "bold"})
        yield


def draw_files(name: str, figure: Any, dpi: int = 130) -> dict[str, bytes]:
    """A figure as the files `<name>.png` and `<name>.svg`, without a date, so that equal figures have equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Measured once for both files, with text as wide as in the first, and only once a layout has done its work.
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    box = figure.get_tightbbox(renderer).padded(0.15)
    files = {}
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        picture = io.BytesIO()
        figure.savefig(picture, format=ending, dpi=dpi, metadata=metadata, bbox_inches=box)
        files[f"{name}.{ending}"] = picture.getvalue()
    return files


def _figures(views: Sequence[View]) -> Iterator[tuple[str, Any]]:
    """Names and pictures, one at a time."""
    for view in views:
        yield f"{view.kind}_matrix", _matrix_figure(view, draw_matrix)
        if view.is_complete:
            yield f"{view.kind}_tree", _tree_figure(view)
        if view.stability and view.stability.together is not None and not view.stability.is_trivial:
            yield f"{view.kind}_stability", _matrix_figure(view, draw_stability)
    complete = [view for view in views if view.is_complete]
    if complete:
        yield "singular_values", _spectrum_figure(complete)
    curves = {view.kind: silhouette_curve(view.matrix.values, view.linkage, view.matrix.nodes) for view in complete}
    if any(curves.values()):
        yield "silhouette", _silhouette_figure(complete, curves)


def overview_figure(views: Sequence[View]) -> Any:
    """All matrices beside one another, their trees below."""
    from matplotlib.figure import Figure

    size = max(len(view.matrix.nodes) for view in views)
    height = _CELL * (size + 4) + 0.3 * size + 1
    figure = Figure(figsize=((_CELL * size + 4) * len(views), height), layout="constrained")
    axes = figure.subplots(2, len(views), squeeze=False, height_ratios=(_CELL * (size + 4), 0.3 * size + 1))
    for column, view in enumerate(views):
        draw_matrix(axes[0, column], view)
        draw_tree(axes[1, column], view)
    return figure


# --------------------------------------------------------------------------------------------------------------------
# matrices


@dataclass(frozen=True)
class _Cell:
    """One cell of a triangle: its colour step, number, small number under it, and whether it is imputed."""

    step: int | None
    number: str
    note: str = ""
    imputed: bool = False


def _matrix_figure(view: View, draw: Callable[[Any, View], None]) -> Any:
    from matplotlib.figure import Figure

    size = len(view.matrix.nodes)
    figure = Figure(figsize=(_CELL * size, _CELL * (size + 2.6)))
    draw(figure.add_axes((0, 0, 1, 1)), view)
    return figure


def draw_matrix(axes: Any, view: View) -> None:
    """Lower triangle of the distances: numbers in the cells, standard errors under them, imputed cells dashed."""
    matrix = view.matrix
    scale = charts.HeatScale.of(matrix.values.tolist())

    def cell(row: int, column: int) -> _Cell:
        value, error = matrix.values[row, column], matrix.standard_errors[row, column]
        if not math.isfinite(value):
            return _Cell(None, "–")
        note = f"±{scale.label(error)}" if math.isfinite(error) else ""
        imputed = not matrix.measured[row, column]
        return _Cell(scale.step(value), ("~" if imputed else "") + scale.label(value), note, imputed)

    pairs = len(matrix.nodes) * (len(matrix.nodes) - 1) // 2
    seeds = f"{matrix.num_seeds} seed{'' if matrix.num_seeds == 1 else 's'}"
    facts = [f"{matrix.num_measured} of {pairs} pairs measured ({seeds})"]
    if pairs > matrix.num_measured:
        facts.append("~ and dashed: imputed")
    if np.isfinite(matrix.standard_errors[np.tril_indices(len(matrix.nodes), -1)]).any():
        facts.append("±: standard error")
    _draw_triangle(axes, view, cell, f"Heterogeneity of {NOUNS[view.kind]}", "; ".join(facts))
    middle = scale.top * (0.25 if scale.by_root else 0.5)
    marks = [scale.label(value) for value in (0.0, middle, scale.top)]
    _draw_scale(axes, marks, "distance, square-root scale" if scale.by_root else "distance")


def draw_stability(axes: Any, view: View) -> None:
    """Lower triangle of co-membership: in how many percent of the bootstrap samples two nodes share a group."""
    stability = view.stability
    if stability is None or stability.together is None:
        raise ValueError(f"There is no stability of the {view.kind} groups to draw.")
    shares = stability.together

    def cell(row: int, column: int) -> _Cell:
        share = float(shares[row, column])
        return _Cell(round(share * (charts.NUM_HEAT_STEPS - 1)), f"{100 * share:.0f}")

    title = f"How often two {NOUNS[view.kind]} share a group, in %"
    explanation = stability.explanation.split(";")[0].split(":")[0]
    _draw_triangle(axes, view, cell, title, f"{stability.num_samples} samples: {explanation}")
    _draw_scale(axes, ["0 %", "50 %", "100 %"], "share of the samples")


def _draw_triangle(axes: Any, view: View, cell: Callable[[int, int], _Cell], title: str, subtitle: str) -> None:
    """Cells of one unit in data coordinates, names left and below, groups on the diagonal and as frames."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import FancyBboxPatch, Rectangle

    fills, group_fills, order = charts.heat_colors(), charts.group_colors(), view.order
    size = len(order)
    axes.set(xlim=(0, size), ylim=(size, -2.6), aspect="equal")
    axes.axis("off")
    squares, styles = [], []
    for row, node in enumerate(order):
        for column, other in enumerate(order[:row]):
            content = cell(node, other)
            fill, ink = ("white", _INK) if content.step is None else fills[content.step]
            # Imputed cells are smaller and dashed: they differ in form, not in colour.
            margin, line = (0.07, (0, (2, 1.6))) if content.imputed else (0.02, "-")
            edge = _INK if content.imputed else _RULE if content.step is None else fill
            squares.append(Rectangle((column + margin, row + margin), 1 - 2 * margin, 1 - 2 * margin))
            styles.append((fill, edge, line))
            font = 8.2 if len(content.number) < 6 else 7
            number = {"color": ink, "ha": "center", "va": "center", "fontsize": font, "in_layout": False}
            axes.text(column + 0.5, row + (0.4 if content.note else 0.52), content.number, **number)
            if content.note:
                axes.text(column + 0.5, row + 0.72, content.note, **{**number, "fontsize": 6.2})
        axes.text(-0.2, row + 0.5, view.names[node], ha="right", va="center", fontsize=9)
        axes.text(
            row + 0.62, size + 0.15, view.names[node], ha="right", va="top", fontsize=9, rotation=50,
            rotation_mode="anchor",
        )  # fmt: skip
        if view.groups is None:
            axes.add_patch(Rectangle((row + 0.02, row + 0.02), 0.96, 0.96, facecolor=_RULE))
            continue
        fill, ink = group_fills[view.groups[node] % len(group_fills)]
        box: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": fill, "edgecolor": "none"}
        axes.add_patch(FancyBboxPatch((row + 0.12, row + 0.2), 0.76, 0.6, **box))
        axes.text(
            row + 0.5, row + 0.52, view.group_name(node), color=ink, ha="center", va="center", fontsize=8.5,
            fontweight="bold", in_layout=False,
        )  # fmt: skip
    if squares:
        faces, edges, lines = zip(*styles, strict=True)
        look: dict[str, Any] = {"facecolors": faces, "edgecolors": edges, "linestyles": lines, "linewidths": 0.8}
        axes.add_collection(PatchCollection(squares, **look), autolim=False)
    for start, end, group in _runs([view.groups[node] for node in order] if view.groups else []):
        color = group_fills[group % len(group_fills)][0]
        axes.plot(
            [start, start, end],
            [start, end, end],
            color=color,
            linewidth=2,
            solid_capstyle="projecting",
            clip_on=False,
        )
    axes.text(-0.2, -2.2, title, fontsize=11, fontweight="bold", va="center")
    axes.text(-0.2, -1.6, subtitle, fontsize=8.5, color=_SOFT, va="center")


def _draw_scale(axes: Any, marks: Sequence[str], label: str) -> None:
    """The colour scale between title and matrix: its two ends, its middle, and what it is of."""
    from matplotlib.patches import Rectangle

    fills, width = charts.heat_colors(), 4.0
    for step, (fill, _) in enumerate(fills):
        left = -0.2 + step * width / len(fills)
        axes.add_patch(Rectangle((left, -1.15), width / len(fills), 0.32, color=fill, linewidth=0.5, clip_on=False))
    for mark, place, side in zip(marks, (0, 0.5, 1), ("left", "center", "right"), strict=True):
        axes.text(-0.2 + place * width, -0.55, mark, fontsize=7.5, color=_SOFT, ha=side, va="center")
    axes.text(width, -0.99, label, fontsize=8.5, color=_SOFT, va="center")


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Start, end and value of every run of equal numbers."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[start]:
            yield start, place, numbers[start]
            start = place


# --------------------------------------------------------------------------------------------------------------------
# trees


def _tree_figure(view: View) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 0.3 * len(view.matrix.nodes) + 0.2))
    draw_tree(figure.add_axes((0, 0, 1, 1)), view)
    return figure


def draw_tree(axes: Any, view: View) -> None:
    """The cluster tree on its side, leaves at the right with group, name and share of samples in their group."""
    tree, groups = view.tree, view.groups
    if tree is None:
        axes.axis("off")
        return
    size, group_fills = len(tree.leaves), charts.group_colors()
    by_root = charts.HeatScale.of(view.matrix.values.tolist()).by_root
    owner = charts.merge_groups(tree, groups) if groups else [None] * (size - 1)
    place: dict[int, tuple[float, float]] = {leaf: (0.0, rank + 0.5) for rank, leaf in enumerate(tree.leaves)}
    for index, (first, second, height, _) in enumerate(tree.merges):
        (x1, y1), (x2, y2) = place[int(first)], place[int(second)]
        group = owner[index]
        color = _SOFT if group is None else group_fills[group % len(group_fills)][0]
        axes.plot([x1, height, height, x2], [y1, y1, y2, y2], color=color, linewidth=1.5, clip_on=False)
        place[size + index] = (float(height), (y1 + y2) / 2)
    cut = charts.cut_height(tree, groups) if groups else None
    if cut is not None:
        count = len(set(groups or ()))
        axes.plot([cut, cut], [-0.1, size], color=_INK, linestyle="--", linewidth=1)
        words = f"cut: {count} group{'' if count == 1 else 's'}"
        axes.annotate(words, (cut, -0.1), (0, 3), textcoords="offset points", fontsize=8.5, ha="center")
    support = view.stability.support if view.stability else [None] * size
    longest = max(charts.text_width(name, 8.3) for name in view.names)
    for rank, leaf in enumerate(tree.leaves):
        at = {"xy": (1, rank + 0.5), "xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        start = 8.0
        if groups:
            fill, ink = group_fills[groups[leaf] % len(group_fills)]
            box = {"boxstyle": "round,pad=0.22", "facecolor": fill, "edgecolor": "none"}
            mark = {"color": ink, "fontsize": 8, "fontweight": "bold", "ha": "center", "va": "center", "bbox": box}
            axes.annotate(view.group_name(leaf), xytext=(18, 0), **at, **mark)
            start = 34.0
        axes.annotate(view.names[leaf], xytext=(start, 0), **at, fontsize=9, va="center")
        if (share := support[leaf]) is not None:
            text = {"fontsize": 8.5, "color": _SOFT, "ha": "right", "va": "center"}
            axes.annotate(f"{100 * share:.0f} %", xytext=(start + longest + 40, 0), **at, **text)
    if any(share is not None for share in support):
        head = {"textcoords": "offset points", "xytext": (start + longest + 40, 0), "ha": "right", "va": "center"}
        top = {"xy": (1, -0.3), "xycoords": axes.get_yaxis_transform()}
        axes.annotate("in its group", **top, **head, fontsize=8.5, color=_SOFT)
    reach = 1.04 * max(float(tree.merges[-1, 2]), cut or 0.0) or 1.0
    if by_root:
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        ticks = [tick * tick for tick in charts.round_ticks(0, math.sqrt(reach), 6)]
        axes.set_xticks(ticks, charts.tick_labels(ticks))
    axes.set(xlim=(reach, 0), ylim=(size, -0.4), yticks=[])
    axes.set_xlabel(f"distance{', square-root scale' if by_root else ''} ({view.linkage} linkage)")
    axes.spines["left"].set_visible(False)
    axes.set_title(f"Cluster tree of {NOUNS[view.kind]}", fontsize=11, pad=18)


# --------------------------------------------------------------------------------------------------------------------
# curves


def _spectrum_figure(views: Sequence[View]) -> Any:
    """Share of the sum of squared singular values in the largest 1, 2, ... of them (the paper's figure 7)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.2))
    axes = figure.subplots()
    for view in views:
        shares = singular_value_shares(view.matrix.values)
        color, marker, line = _LINES[view.kind]
        top = min(3, len(shares))
        label = f"{NOUNS[view.kind]}: {100 * shares[top - 1]:.1f} % in the top {top}"
        axes.plot(
            np.arange(1, len(shares) + 1), 100 * shares, color=color, marker=marker, linestyle=line, markersize=4,
            label=label,
        )  # fmt: skip
    most = max(len(view.matrix.nodes) for view in views)
    axes.set_xticks(range(1, 1 + most, 1 if most <= 20 else 5))
    axes.set(xlabel="largest singular values", ylabel="share of their squares, %", ylim=(0, 103))
    axes.set_title("Singular value spectrum", fontsize=11)
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _silhouette_figure(views: Sequence[View], curves: Mapping[MatrixKind, dict[int, float]]) -> Any:
    """Mean silhouette against the number of groups, and the number that was taken."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.2))
    axes = figure.subplots()
    for view in views:
        curve = curves[view.kind]
        if not curve:
            continue
        color, marker, line = _LINES[view.kind]
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4, "linestyle": line}
        count = len(set(view.groups)) if view.groups else None
        taken = "" if count is None else f": {count} group{'' if count == 1 else 's'}"
        axes.plot(list(curve), list(curve.values()), **style, label=f"{NOUNS[view.kind]}{taken}")
        if count in curve:
            ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.5}
            axes.plot([count], [curve[count]], **{**style, **ring, "linestyle": "none", "marker": "o"})
    label = f"below {SILHOUETTE_THRESHOLD}: no structure"
    axes.axhline(SILHOUETTE_THRESHOLD, color=_SOFT, linestyle=":", linewidth=1.2, label=label)
    numbers = sorted({number for curve in curves.values() for number in curve})
    axes.set_xticks(numbers if len(numbers) <= 20 else numbers[::5])
    axes.set(xlabel="number of groups", ylabel="mean silhouette")
    axes.set_title("Silhouette", fontsize=11)
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    axes.legend(frameon=False, loc="best")
    return figure


__all__ = ["NOUNS", "PREFIX", "View", "draw_files", "fixed_style", "overview_figure", "read_views", "write_figures"]
