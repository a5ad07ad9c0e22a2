"""Charts as SVG text: heat map, dendrogram, scatter and line chart, drawn with style-sheet colours only.

Every function returns a piece of HTML that stands in a page with `chart_css()` in its style sheet. Nothing here
names a colour: shapes carry classes, so that one chart serves light mode, dark mode and print. User text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from scipy.cluster import hierarchy

from ..heterogeneity.clustering import Linkage, dendrogram_cut

Matrix = Sequence[Sequence[float | None]]

NUM_HEAT_STEPS = 16
NUM_GROUP_COLORS = 8

# Pale to deep for light pages, deep to pale for dark ones; lightness alone orders both, so that hue is never needed.
_LIGHT_ANCHORS = ("#f4f8e9", "#d3ebc4", "#9fd6bf", "#5cb9c2", "#2d90b8", "#27619f", "#1b2f6b")
_DARK_ANCHORS = ("#15222d", "#173d55", "#1a5f7d", "#2788a0", "#4fb4b4", "#9bd8b4", "#edf6c6")
_LIGHT_GROUPS = ("#0b628f", "#b0430a", "#0a7052", "#83479c", "#765c00", "#ab2a5b", "#4a5763", "#4a52b8")
_DARK_GROUPS = ("#6cb8e6", "#f29a5c", "#58cba2", "#cf9fe6", "#dcc04a", "#f28fb3", "#b4c1cc", "#a3abff")
_INKS = ("#0b141b", "#ffffff")


# --------------------------------------------------------------------------------------------------------------------
# numbers and text


def format_number(value: float | None) -> str:
    """A score, loss or distance for reading: three decimals below 10, fewer above, "–" where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    decimals = 3 if size < 10 else 2 if size < 100 else 1
    return f"{value:,.{decimals}f}".replace("-", "−")


def format_parameters(count: float) -> str:
    """A number of parameters in millions, "0.528 M"; in thousands below 10,000."""
    if count < 10_000:
        return f"{count / 1e3:.1f} k"
    millions = count / 1e6
    return f"{millions:.{3 if millions < 1 else 2 if millions < 100 else 0}f} M"


def text_width(text: str, size: float) -> float:
    """Width of `text` in a generous estimate for sans-serif fonts, in the unit of the font size `size`."""
    narrow, wide = set("iljtfr.,:;'|/!()[] "), set("mwMWGOQ@%")
    return size * sum(0.41 if letter in narrow else 0.95 if letter in wide else 0.65 for letter in text)


def _fixed(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") or "0"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{_fixed(x)}" y="{_fixed(y)}"{side}{style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_fixed(x1)}" y1="{_fixed(y1)}" x2="{_fixed(x2)}" y2="{_fixed(y2)}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str, radius: float = 0) -> str:
    corner = f' rx="{_fixed(radius)}"' if radius else ""
    size = f'width="{_fixed(width)}" height="{_fixed(height)}"'
    return f'<rect class="{kind}" x="{_fixed(x)}" y="{_fixed(y)}" {size}{corner}/>'


def _svg(width: float, height: float, body: str, title: str | None, kind: str = "chart") -> str:
    role = 'aria-hidden="true"' if title is None else 'role="img"'
    name = "" if title is None else f"<title>{escape(title)}</title>"
    width, height = math.ceil(width), math.ceil(height)
    frame = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg class="{kind}" {role} {frame}>{name}{body}</svg>'


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within `low` to `high`, about `count` of them."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if span / (factor * power) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks with as many decimals as tell them apart."""
    for decimals in range(6):
        labels = [f"{tick + 0.0:.{decimals}f}" for tick in ticks]
        if all(
            abs(float(label) - tick) <= 1e-9 * max(1.0, abs(tick)) for label, tick in zip(labels, ticks, strict=True)
        ):
            break
    return [("0" if float(label) == 0 else label).replace("-", "−") for label in labels]


# --------------------------------------------------------------------------------------------------------------------
# colours


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two `#rrggbb` colours, 1 to 21 (WCAG 2.2; text needs 4.5)."""

    def luminance(color: str) -> float:
        parts = [channel / 255 for channel in _channels(color)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def heat_colors(dark: bool = False) -> list[tuple[str, str]]:
    """The heat map's steps from near to far as (fill, text) colours, the text in the ink that contrasts more."""
    anchors = [_channels(color) for color in (_DARK_ANCHORS if dark else _LIGHT_ANCHORS)]
    steps = []
    for step in range(NUM_HEAT_STEPS):
        place = step / (NUM_HEAT_STEPS - 1) * (len(anchors) - 1)
        left = min(int(place), len(anchors) - 2)
        mixed = (round(a + (b - a) * (place - left)) for a, b in zip(anchors[left], anchors[left + 1], strict=True))
        fill = "#" + "".join(f"{channel:02x}" for channel in mixed)
        steps.append((fill, max(_INKS, key=lambda ink: contrast(fill, ink))))
    return steps


def group_colors(dark: bool = False) -> list[tuple[str, str]]:
    """Colours of the parameter groups as (fill, text on it); they repeat after `NUM_GROUP_COLORS` groups."""
    return [
        (fill, max(_INKS, key=lambda ink: contrast(fill, ink))) for fill in (_DARK_GROUPS if dark else _LIGHT_GROUPS)
    ]


def chart_css() -> str:
    """Custom properties for light and dark mode, and the classes that use them."""

    def properties(dark: bool) -> str:
        heat = (f"--h{i}:{fill};--ht{i}:{ink}" for i, (fill, ink) in enumerate(heat_colors(dark)))
        group = (f"--g{i}:{fill};--gt{i}:{ink}" for i, (fill, ink) in enumerate(group_colors(dark)))
        return ";".join([*heat, *group])

    rules = [
        f":root{{{properties(False)}}}",
        f"@media screen and (prefers-color-scheme:dark){{:root{{{properties(True)}}}}}",
    ]
    rules += [
        f".h{i}{{fill:var(--h{i})}}.ht{i}{{fill:var(--ht{i})}}.hs{i}{{stroke:var(--ht{i})}}"
        for i in range(NUM_HEAT_STEPS)
    ]
    for i in range(NUM_GROUP_COLORS):
        rules.append(f".g{i}{{fill:var(--g{i})}}.gt{i}{{fill:var(--gt{i})}}.gs{i}{{stroke:var(--g{i})}}")
        rules.append(f".gb{i}{{background:var(--g{i});color:var(--gt{i})}}")
    return "\n".join(rules)


@dataclass(frozen=True)
class HeatScale:
    """From a distance to its colour step: from 0 to `top`, linear or by the square root."""

    top: float
    by_root: bool

    @classmethod
    def of(cls, values: Matrix) -> HeatScale:
        """The scale for a matrix: by the square root where a few distances dwarf the others (over 6 x the median)."""
        positive = sorted(
            value
            for row, line in enumerate(values)
            for column, value in enumerate(line)
            if column < row and value is not None and math.isfinite(value) and value > 0
        )
        if not positive:
            return cls(1.0, False)
        return cls(positive[-1], positive[-1] > 6 * positive[len(positive) // 2])

    def step(self, value: float) -> int:
        """The colour step of a distance, 0 to `NUM_HEAT_STEPS - 1`."""
        share = min(max(value / self.top, 0.0), 1.0)
        return round((math.sqrt(share) if self.by_root else share) * (NUM_HEAT_STEPS - 1))

    def label(self, value: float) -> str:
        """A distance as it stands in a cell: two decimals below 10, fewer above."""
        decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
        return f"{value + 0.0:.{decimals}f}".replace("-", "−")


# --------------------------------------------------------------------------------------------------------------------
# clustering


@dataclass(frozen=True)
class Tree:
    """A cluster tree: `merges` is scipy's linkage matrix (n - 1, 4), `leaves` the nodes in drawing order."""

    merges: np.ndarray
    leaves: list[int]


def cluster_tree(values: Matrix, method: Linkage = "average", nodes: Sequence[str] | None = None) -> Tree:
    """The tree that `cluster_nodes` cuts, for a symmetric matrix of distances (n, n), with n of at least 2.

    Equal distances are merged in the order of the nodes' names; without names, in the order of the rows.

    Raises:
        ValueError: a distance is missing, or `method` is no linkage that works on distances.
    """
    if method not in ("average", "single", "complete", "weighted"):
        raise ValueError(f"linkage {method!r} is not one of average, single, complete, weighted.")
    distances = np.array([[np.nan if value is None else value for value in line] for line in values], dtype=float)
    np.fill_diagonal(distances, 0.0)
    if not np.isfinite(distances).all():
        raise ValueError("a distance is missing; complete the matrix before clustering.")
    names = list(nodes) if nodes is not None else [f"{row:09d}" for row in range(len(distances))]
    merges, _ = dendrogram_cut((distances + distances.T) / 2, names, 1, method)
    drawn = hierarchy.dendrogram(merges, no_plot=True)
    return Tree(merges, [int(leaf) for leaf in drawn["leaves"]])


def merge_groups(tree: Tree, groups: Sequence[int]) -> list[int | None]:
    """For each merge the group that all its leaves belong to, None where it joins several groups."""
    owner: list[int | None] = list(groups)
    for first, second in tree.merges[:, :2].astype(int):
        owner.append(owner[first] if owner[first] == owner[second] else None)
    return owner[len(groups) :]


def leaf_order(tree: Tree | None, num_nodes: int, groups: Sequence[int] | None) -> list[int]:
    """Drawing order of the nodes: as in the tree, but each group's nodes together."""
    leaves = tree.leaves if tree else list(range(num_nodes))
    if groups is None:
        return leaves
    first = list(dict.fromkeys(groups[leaf] for leaf in leaves))
    return sorted(leaves, key=lambda leaf: first.index(groups[leaf]))


def cut_height(tree: Tree, groups: Sequence[int]) -> float | None:
    """The height that cuts the tree into `groups` (one number per node), None where no single cut gives them."""
    heights = tree.merges[:, 2]
    owner = merge_groups(tree, groups)
    inside = [height for height, group in zip(heights, owner, strict=True) if group is not None]
    across = [height for height, group in zip(heights, owner, strict=True) if group is None]
    if len(inside) != len(groups) - len(set(groups)) or (inside and across and max(inside) > min(across)):
        return None
    if not across:
        return float(max(inside) * 1.08) if max(inside) > 0 else 1.0
    return float((max(inside, default=0.0) + min(across)) / 2)


# --------------------------------------------------------------------------------------------------------------------
# heat map


def group_badge(group: int, prefix: str) -> str:
    """The name of a group, "U1" for group 0, as a small coloured mark in running text."""
    return f'<span class="badge gb{group % NUM_GROUP_COLORS}">{escape(prefix)}{group + 1}</span>'


def heat_map(
    nodes: Sequence[str],
    values: Matrix,
    *,
    title: str,
    measured: Sequence[Sequence[bool]] | None = None,
    standard_errors: Matrix | None = None,
    groups: Sequence[int] | None = None,
    prefix: str = "",
    order: Sequence[int] | None = None,
    scale: HeatScale | None = None,
    are_distances: bool = True,
) -> str:
    """Lower triangle of a matrix of distances, or of other numbers, each node named beside its diagonal cell.

    The names stand a second time at the left edge, for the style sheet to show on narrow screens only.

    Args:
        nodes: names, "task/modality" or "task/a+b".
        values: distances (n, n); None where there is none.
        title: what a screen reader says.
        measured: (n, n), False for imputed distances: they get a dashed frame and a "~" before the number.
        standard_errors: (n, n), shown when the pointer rests on a cell.
        groups: group of each node; groups stand apart, and their name is on the diagonal.
        prefix: letter before a group's number.
        order: the nodes in drawing order; as given where left out.
        scale: colour scale; made from the values where left out.
        are_distances: whether the numbers were measured or imputed, and the text of a cell says which.
    """
    scale = scale or HeatScale.of(values)
    order = list(order if order is not None else range(len(nodes)))
    cell, gap, head = 39, 8, 4
    places, offset = [], 0.0
    for rank, node in enumerate(order):
        if rank and groups is not None and groups[node] != groups[order[rank - 1]]:
            offset += gap
        places.append(rank * cell + offset)
    height = (places[-1] + cell if places else 0) + 2 * head
    cells = []
    for rank, node in enumerate(order):
        top = head + places[rank]
        for place, other in zip(places[:rank], order[:rank], strict=True):
            real = measured is None or bool(measured[node][other])
            origin = f", {'measured' if real else 'imputed'}" if are_distances else ""
            error = None if standard_errors is None else standard_errors[node][other]
            hint = f"{nodes[node]} – {nodes[other]}"
            cells.append(_heat_cell(place, top, cell, values[node][other], scale, real, origin, error, hint))
        if groups is None:
            cells.append(_rect(places[rank] + 1, top + 1, cell - 2, cell - 2, "diagonal", 3))
        else:
            cells.append(_group_cell(places[rank], top, cell, groups[node], prefix))
        cells.append(_text(places[rank] + cell + 6, top + cell / 2 + 4, nodes[node], "column"))
    ends = (places[rank] + cell + 8 + text_width(nodes[node], 11.5) for rank, node in enumerate(order))
    names = _row_names([nodes[node] for node in order], [head + place + cell / 2 for place in places], height)
    width = math.ceil(max(ends, default=0.0))
    cells_svg = _svg(width, height, "".join(cells), title, "cells")
    return f'<div class="heat" style="--natural:{width}px">{names}{cells_svg}</div>'


def _row_names(nodes: Sequence[str], middles: Sequence[float], height: float) -> str:
    """Names for the left edge, for screens too narrow to show a row as a whole: up to three short lines each."""
    lines = []
    for node in nodes:
        task, _, name = node.partition("/")
        first, plus, second = name.partition("+")
        lines.append([line for line in (first or task, plus + second, task if name else "") if line])
    width = max((text_width(line, 11.5) for texts in lines for line in texts), default=0) + 10
    parts = []
    for texts, middle in zip(lines, middles, strict=True):
        top = middle + 4 - 6 * (len(texts) - 1)
        for index, line in enumerate(texts):
            kind = "row-task" if index and index + 1 == len(texts) else "row-name"
            parts.append(_text(width - 6, top + 12 * index, line, kind, "end"))
    return _svg(width, height, "".join(parts), None, "rows")


def _heat_cell(
    x: float,
    y: float,
    cell: float,
    value: float | None,
    scale: HeatScale,
    real: bool,
    origin: str,
    error: float | None,
    pair: str,
) -> str:
    if value is None or not math.isfinite(value):
        shape = _rect(x + 1, y + 1, cell - 2, cell - 2, "blank", 3)
        number = _text(x + cell / 2, y + cell / 2 + 4, "–", "note", "middle")
        return f"<g><title>{escape(pair)}: not measured</title>{shape}{number}</g>"
    step = scale.step(value)
    spread = "" if error is None or not math.isfinite(error) else f" ± {format_number(error)} (standard error)"
    hint = f"{pair}: {format_number(value)}{spread}{origin}"
    shape = _rect(x + 1, y + 1, cell - 2, cell - 2, f"h{step}", 3)
    if not real:
        shape += _rect(x + 2.5, y + 2.5, cell - 5, cell - 5, f"imputed hs{step}", 2)
    number = ("" if real else "~") + scale.label(value)
    shape += _text(x + cell / 2, y + cell / 2 + 4, number, f"number ht{step}", "middle")
    return f"<g><title>{escape(hint)}</title>{shape}</g>"


def _group_cell(x: float, y: float, cell: float, group: int, prefix: str) -> str:
    color = group % NUM_GROUP_COLORS
    shape = _rect(x + 4, y + 8, cell - 8, cell - 16, f"g{color}", 4)
    return shape + _text(x + cell / 2, y + cell / 2 + 4, f"{prefix}{group + 1}", f"mark gt{color}", "middle")


def heat_legend(scale: HeatScale, any_imputed: bool) -> str:
    """The colour scale with its end values, and how imputed cells look where there are any."""
    bar, width = [], 176
    for step in range(NUM_HEAT_STEPS):
        bar.append(_rect(step * width / NUM_HEAT_STEPS, 0, width / NUM_HEAT_STEPS + 0.5, 14, f"h{step}"))
    middle = scale.top * (0.25 if scale.by_root else 0.5)
    marks = ((0.0, 0, "start"), (middle, width / 2, "middle"), (scale.top, width, "end"))
    bar += [_text(x, 28, scale.label(value), "tick", anchor) for value, x, anchor in marks]
    title = f"Colour scale of the distance from 0 to {scale.label(scale.top)}"
    kind = "distance, square-root scale" if scale.by_root else "distance"
    parts = [f'<span class="key">{_svg(width, 32, "".join(bar), title, "bar")}<span>{kind}</span></span>']
    samples = (("", "measured"), ("imputed hs3", "imputed: dashed, with ~")) if any_imputed else (("", "measured"),)
    for kind, label in samples:
        body = _rect(1, 1, 24, 24, "h3", 3) + (_rect(3.5, 3.5, 19, 19, kind, 2) if kind else "")
        parts.append(f'<span class="key">{_svg(26, 26, body, None, "swatch")}<span>{label}</span></span>')
    return f'<div class="legend">{"".join(parts)}</div>'


# --------------------------------------------------------------------------------------------------------------------
# dendrogram


def dendrogram(
    nodes: Sequence[str],
    tree: Tree,
    *,
    title: str,
    groups: Sequence[int] | None = None,
    prefix: str = "",
    by_root: bool = False,
    width: float = 460,
) -> str:
    """The cluster tree lying on its side: leaves at the right with their group's mark, the cut as a dashed line.

    Branches within one group have its colour. Without `groups`, or where they are no cut of this tree, there is no
    cut line. `by_root` draws the square root of the distances, so that one far node does not flatten the others.
    """
    stacked = width < 400  # on a phone the task goes under the modality, to leave room for the tree
    row, top, foot = 32 if stacked else 24, 24, 38
    badge = 0 if groups is None else 34
    names = [node.partition("/")[::2] if stacked and "/" in node else ("", node) for node in nodes]
    label = max(text_width(name, 11 if stacked else 12) for _, name in names) + 8
    left, right = 14, width - label - badge - 8
    bottom = top + row * len(nodes)
    cut = None if groups is None else cut_height(tree, groups)
    heights = tree.merges[:, 2]
    reach = max(float(heights.max()), cut or 0.0) * 1.04 or 1.0

    def across(height: float) -> float:
        share = height / reach
        return right - (right - left) * (math.sqrt(share) if by_root else share)

    place = {leaf: (right, top + row * (rank + 0.5)) for rank, leaf in enumerate(tree.leaves)}
    owner = [None] * len(heights) if groups is None else merge_groups(tree, groups)
    parts = []
    most = max(2, int((right - left) / 62))
    ticks = (
        [tick * tick for tick in round_ticks(0, math.sqrt(reach), most)] if by_root else round_ticks(0, reach, most)
    )
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(_line(across(tick), top, across(tick), bottom + 4, "grid"))
        parts.append(_text(across(tick), bottom + 18, text, "tick", "middle"))
    parts.append(
        _text(
            (left + right) / 2, bottom + 34, "distance, square-root scale" if by_root else "distance", "tick", "middle"
        )
    )
    for index, (first, second, height, _) in enumerate(tree.merges):
        x = across(height)
        (x1, y1), (x2, y2) = place[int(first)], place[int(second)]
        group = owner[index]
        kind = "branch" if group is None else f"branch gs{group % NUM_GROUP_COLORS}"
        path = f"M{_fixed(x1)} {_fixed(y1)}H{_fixed(x)}V{_fixed(y2)}H{_fixed(x2)}"
        parts.append(f'<path class="{kind}" d="{path}"/>')
        place[len(nodes) + index] = (x, (y1 + y2) / 2)
    if cut is not None:
        parts.append(_line(across(cut), top - 6, across(cut), bottom + 4, "cut"))
        count = len(set(groups or ()))
        words = f"cut: {count} group{'' if count == 1 else 's'}"
        middle = min(max(across(cut), text_width(words, 13.5) / 2), width - text_width(words, 13.5) / 2)
        parts.append(_text(middle, top - 11, words, "name", "middle"))
    for leaf in tree.leaves:
        y = place[leaf][1]
        if groups is not None:
            color = groups[leaf] % NUM_GROUP_COLORS
            parts.append(_rect(right + 5, y - 8.5, 28, 17, f"g{color}", 4))
            parts.append(_text(right + 19, y + 4, f"{prefix}{groups[leaf] + 1}", f"mark gt{color}", "middle"))
        task, name = names[leaf]
        parts.append(_text(right + badge + 7, y - 1 if task else y + 4, name, "row-leaf" if stacked else "leaf"))
        parts += [_text(right + badge + 7, y + 11, task, "row-task")] if task else []
    return _svg(width, bottom + foot + 2, "".join(parts), title)


# --------------------------------------------------------------------------------------------------------------------
# scatter


@dataclass(frozen=True)
class Point:
    """One method in the scatter: `x` number of parameters, `y` score, `error` its standard deviation."""

    label: str
    x: float
    y: float
    error: float | None = None
    is_ours: bool = False


def pareto_front(points: Sequence[Point], higher_is_better: bool = True) -> list[bool]:
    """For each point whether no other has at most its `x` and at least its `y`, one of them strictly better."""
    sign = 1 if higher_is_better else -1
    return [
        not any(
            other.x <= point.x and sign * other.y >= sign * point.y and (other.x, other.y) != (point.x, point.y)
            for other in points
        )
        for point in points
    ]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1-2-5 numbers within `low` to `high`, thinned to at most `most`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    return ticks


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    higher_is_better: bool = True,
    reference: float | None = None,
    width: float = 640,
    height: float = 380,
) -> str:
    """Score against number of parameters (log axis), Pareto front as a stepped line through its filled points.

    Points off the front are hollow; bars are plus and minus one `error`; `reference` is a dotted line.
    """
    left, right, top, bottom = 52.0, width - 12, 34.0, height - 48
    low_x, high_x = min(point.x for point in points) / 1.45, max(point.x for point in points) * 1.45
    edges = [point.y + side * (point.error or 0) for point in points for side in (-1, 1)]
    edges += [] if reference is None else [reference]
    margin = 0.14 * ((max(edges) - min(edges)) or abs(max(edges)) or 1)
    low_y, high_y = min(edges) - margin, max(edges) + margin

    def at(x: float, y: float) -> tuple[float, float]:
        share = math.log(x / low_x) / math.log(high_x / low_x)
        return left + share * (right - left), bottom - (y - low_y) / (high_y - low_y) * (bottom - top)

    parts = [_text(2, 14, y_label, "axis")]
    ticks = round_ticks(low_y, high_y, 6)
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        y = at(low_x, tick)[1]
        parts += [_line(left, y, right, y, "grid"), _text(left - 8, y + 4, text, "tick", "end")]
    for tick in _log_ticks(low_x, high_x, max(3, int(width / 90))):
        x = at(tick, low_y)[0]
        parts += [_line(x, bottom, x, bottom + 5, "axis-line")]
        parts += [_text(x, bottom + 19, f"{tick / 1e6:g} M" if high_x >= 1e5 else f"{tick:,.0f}", "tick", "middle")]
    parts += [_line(left, bottom, right, bottom, "axis-line")]
    parts += [_text((left + right) / 2, height - 8, x_label, "axis", "middle")]
    taken: list[tuple[float, float, float, float]] = []
    if reference is not None:
        y = at(low_x, reference)[1]
        words = f"reference scores {format_number(reference)}"
        # On the side of the line where the margin is, away from points and their bars.
        base = y + 15 if y > (top + bottom) / 2 else y - 6
        parts += [_line(left, y, right, y, "reference"), _text(left + 6, base, words, "note")]
        taken += [(left + 6, base - 12, left + 6 + text_width(words, 11), base + 6), (left, y - 2, right, y + 2)]
    front = pareto_front(points, higher_is_better)
    corners = sorted(at(p.x, p.y) for p, best in zip(points, front, strict=True) if best)
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], (right, corners[-1][1])], strict=True):
        taken += [(x1, y1 - 3, x2, y1 + 3), (x2 - 3, min(y1, y2), x2 + 3, max(y1, y2))]
    parts.append(_front_path(corners, right))
    taken += [(x - 9, y - 9, x + 9, y + 9) for x, y in (at(point.x, point.y) for point in points)]
    for point in points:
        x, low = at(point.x, point.y - (point.error or 0))
        high = at(point.x, point.y + (point.error or 0))[1]
        if point.error:
            parts += [
                _line(x, low, x, high, "error"),
                _line(x - 4, low, x + 4, low, "error"),
                _line(x - 4, high, x + 4, high, "error"),
            ]
            taken.append((x - 4, high, x + 4, low))
    for point, best in sorted(zip(points, front, strict=True), key=lambda pair: not pair[0].is_ours):
        x, y = at(point.x, point.y)
        kind = f"point{' ours' if point.is_ours else ''}{'' if best else ' hollow'}"
        parts.append(f'<circle class="{kind}" cx="{_fixed(x)}" cy="{_fixed(y)}" r="6"/>')
        parts.append(_point_label(point, x, y, taken, (left, top - 12, width, bottom)))
    return _svg(width, height, "".join(parts), title)


def _front_path(front: Sequence[tuple[float, float]], right: float) -> str:
    path = f"M{_fixed(front[0][0])} {_fixed(front[0][1])}"
    for x, y in front[1:]:
        path += f"H{_fixed(x)}V{_fixed(y)}"
    return f'<path class="front" d="{path}H{_fixed(right)}"/>'


def _point_label(
    point: Point,
    x: float,
    y: float,
    taken: list[tuple[float, float, float, float]],
    frame: tuple[float, float, float, float],
) -> str:
    """Two lines of text beside a point, on the side that covers least of what is there; its box joins `taken`."""
    note = f"{format_number(point.y)} · {format_parameters(point.x)}"
    width, height = max(text_width(point.label, 13), text_width(note, 11.5)), 30.0
    sides = []
    for gap in (12.0, 30.0):
        sides += [(x + gap, y - height / 2, "start"), (x - gap - width, y - height / 2, "end")]
        sides += [(x + gap * 0.8, y - gap - height, "start"), (x + gap * 0.8, y + gap, "start")]
        sides += [(x - gap * 0.8 - width, y - gap - height, "end"), (x - gap * 0.8 - width, y + gap, "end")]
        sides += [(x - width / 2, y - gap - height, "middle"), (x - width / 2, y + gap, "middle")]

    def covered(side: tuple[float, float, str]) -> float:
        x1, y1 = side[0], side[1]
        x2, y2 = x1 + width, y1 + height
        area = sum(
            max(0.0, min(x2, box[2]) - max(x1, box[0])) * max(0.0, min(y2, box[3]) - max(y1, box[1])) for box in taken
        )
        outside = max(0.0, frame[0] - x1) + max(0.0, frame[1] - y1) + max(0.0, x2 - frame[2]) + max(0.0, y2 - frame[3])
        return area + 1000 * outside

    x1, y1, anchor = min(sides, key=covered)
    taken.append((x1, y1, x1 + width, y1 + height))
    at = {"start": x1, "end": x1 + width, "middle": x1 + width / 2}[anchor]
    name = "name strong" if point.is_ours else "name"
    return _text(at, y1 + 12, point.label, name, anchor) + _text(at, y1 + 26, note, "note", anchor)


# --------------------------------------------------------------------------------------------------------------------
# line chart


@dataclass(frozen=True)
class Line:
    """One curve: `y` may hold None, which leaves a gap. `style` says how it is drawn."""

    x: Sequence[float]
    y: Sequence[float | None]
    style: Literal["train", "validation"] = "validation"


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    y_label: str,
    num_epochs: int,
    divider: float | None = None,
    kept: Sequence[float] = (),
    width: float = 300,
    height: float = 150,
    phases: tuple[str, str] | None = None,
    x_label: str = "",
) -> str:
    """Curves over epochs 1 to `num_epochs`; `divider` parts two phases, `kept` epochs get a ring on every curve."""
    left, right, top, bottom = 44.0, width - 8, 30.0, height - (34 if x_label else 20)
    known = [value for line in lines for value in line.y if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = 0.08 * ((high - low) or abs(high) or 1.0)
    low, high = low - margin, high + margin

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - 1) / (num_epochs - 1) if num_epochs > 1 else 0.5
        return left + 6 + share * (right - left - 12), bottom - (y - low) / (high - low) * (bottom - top)

    parts = [_text(2, 12, y_label, "axis")]
    ticks = round_ticks(low, high, 4)
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        y = at(1, tick)[1]
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, text, "tick", "end")]
    epochs = sorted({max(1, round(tick)) for tick in round_ticks(1, num_epochs, 6)} | {1})
    for epoch in epochs:
        parts.append(_text(at(epoch, low)[0], bottom + 15, str(epoch), "tick", "middle"))
    parts.append(_line(left, bottom, right, bottom, "axis-line"))
    if x_label:
        parts.append(_text((left + right) / 2, height - 3, x_label, "tick", "middle"))
    if divider is not None:
        x = at(divider, low)[0]
        parts.append(_line(x, top - 4, x, bottom, "divider"))
        if phases:
            parts += [_text(x - 5, top - 5, phases[0], "note", "end"), _text(x + 5, top - 5, phases[1], "note")]
    for line in lines:
        parts.append(_curve(line, at))
    for line in lines:
        for x, value in zip(line.x, line.y, strict=True):
            if x in kept and value is not None and math.isfinite(value):
                cx, cy = at(x, value)
                parts.append(f'<circle class="kept {line.style}" cx="{_fixed(cx)}" cy="{_fixed(cy)}" r="4"/>')
    return _svg(width, height, "".join(parts), title)


def _curve(line: Line, at: Callable[[float, float], tuple[float, float]]) -> str:
    """The curve as a path with gaps, and dots where a point has no neighbour to be joined to."""
    path, dots, pen_down = [], [], False
    values = [value if value is not None and math.isfinite(value) else None for value in line.y]
    for index, (x, value) in enumerate(zip(line.x, values, strict=True)):
        if value is None:
            pen_down = False
            continue
        px, py = at(x, value)
        path.append(f"{'L' if pen_down else 'M'}{_fixed(px)} {_fixed(py)}")
        alone = not pen_down and (index + 1 == len(values) or values[index + 1] is None)
        if alone:
            dots.append(f'<circle class="dot {line.style}" cx="{_fixed(px)}" cy="{_fixed(py)}" r="2.5"/>')
        pen_down = True
    return f'<path class="curve {line.style}" d="{"".join(path)}"/>{"".join(dots)}' if path else ""
