"""Serializer of graphs: nodes are elements, edges become channels of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .rows import Columns, Source, Values, as_array, entries_of, is_arrow, read_rows
from .serializers import Elements, ElementShape, FlaggedSerializer, Statistics, check_choice, check_whole


@dataclass(frozen=True)
class GraphSerializer(FlaggedSerializer):
    """Graphs of any size; one element is one node, and the order of the nodes carries no meaning.

    A graph is `{"nodes": (nodes, channels) or (nodes,), "edges": (edges, 2)}`, where edges hold positions of nodes,
    from 0. A graph without nodes is masked out, as an absent one (None) is. With the task option `columns` nodes and
    edges are two raw columns.

    Beside its own channels a node has those that say where in the graph it is. They follow from the edges alone and
    go with the node wherever it stands in the list.

    Args:
        walk_length: adds the probabilities that a random walk from the node is back after 1, 2, ... `walk_length`
            steps; each step takes one of the edges of the node it is at, all equally likely, and a walk ends where
            there are none.
        degree: True adds log(1 + number of edges that leave the node).
        neighbours: True adds the mean of the scaled channels of the nodes that its edges lead to, 0 where there are
            none.
        directed: False reads every edge both ways (a loop once). An edge that is listed twice counts twice.

    Source: random-walk structural encoding of Dwivedi et al., ICLR 2022 (arXiv 2110.07875).
    """

    kind: ClassVar[str] = "graph"
    default_scale: ClassVar[str] = "standard"
    ordered: ClassVar[bool] = False

    walk_length: int = 8
    degree: bool = True
    neighbours: bool = False
    directed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("walk_length", self.walk_length, 0)
        for name in ("degree", "neighbours", "directed"):
            check_choice(name, getattr(self, name), (True, False))
        if self.max_length is not None:
            raise ValueError("max_length is no option of graphs: they have no first or last node to keep.")

    def fit(self, values: Values, source: Source) -> Statistics:
        """Scale of each channel of the nodes. See `Serializer.fit`."""
        rows, matrix, statistics = self._fit_rows(_parts(values, source)[0], _places(values, source)[0])
        statistics["longest"] = int(rows.lengths.max())
        return self._check_fit({**statistics, **self._fit_scaling(matrix)}, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(nodes, channels): values, missing flags if any, neighbours, degree, walks. See `Serializer.encode`."""
        nodes, edges = _parts(values, source)
        place_of_nodes, place_of_edges = _places(values, source)
        rows, matrix = self._read(nodes, place_of_nodes, statistics)
        scaled = self._scaled(matrix, statistics)
        own = [scaled, np.isnan(matrix).astype(np.float64)] if self._flagged(statistics) else [scaled]
        ends = np.cumsum(rows.lengths)
        structure = [np.zeros((0, self._num_structure(scaled.shape[1])))]
        for row, (pairs, end, count) in enumerate(zip(edges, ends, rows.lengths, strict=True)):
            pairs = _checked(pairs, int(count), place_of_edges, row)
            structure.append(self._structure(scaled[end - count : end], pairs))
        return self._elements(np.concatenate([*own, np.concatenate(structure)], axis=1), rows.lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(nodes,), of varying number."""
        columns = statistics["num_columns"]
        channels = columns * (1 + self._flagged(statistics)) + self._num_structure(columns)
        return ElementShape((None,), self._width(channels), varies=True)

    def sample_ndim(self, statistics: Statistics) -> int:
        """A graph counts as one axis, that of its nodes."""
        return 1

    def join(self, statistics: Statistics, parts: list[Any]) -> Any:
        """Nodes and edges as one graph, or lists of them as a list of graphs. See `Serializer.join`."""
        nodes, edges = parts
        if nodes is None or (_num_axes(nodes) == 1 + len(statistics["tail"]) and _num_axes(edges) < 3):
            return {"nodes": nodes, "edges": edges}
        return [{"nodes": own, "edges": pairs} for own, pairs in zip(nodes, edges, strict=True)]

    def object_ndim(self, statistics: Statistics, value: Any, nested: bool) -> int:
        """A mapping is one graph."""
        return 1

    def _num_structure(self, columns: int) -> int:
        return columns * self.neighbours + self.degree + self.walk_length

    def _structure(self, nodes: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """(nodes, channels) that follow from the edges."""
        count = len(nodes)
        if not self.directed:
            edges = np.concatenate([edges, edges[edges[:, 0] != edges[:, 1]][:, ::-1]])
        adjacency = np.zeros((count, count))
        np.add.at(adjacency, (edges[:, 0], edges[:, 1]), 1.0)
        degrees = adjacency.sum(axis=1)
        step = adjacency / np.maximum(degrees, 1.0)[:, None]
        parts = [step @ nodes] if self.neighbours else []
        if self.degree:
            parts.append(np.log1p(degrees)[:, None])
        walk = np.eye(count)
        for _ in range(self.walk_length):
            walk = walk @ step
            parts.append(np.diag(walk)[:, None])
        return np.concatenate([np.zeros((count, 0)), *parts], axis=1)


def _parts(values: Values, source: Source) -> tuple[Values, list[np.ndarray]]:
    """The nodes of each graph, None where it is absent, and its edges."""
    if isinstance(values, Columns):
        rows = read_rows(values.columns[1], _places(values, source)[1], (2,))
        return values.columns[0], np.split(rows.values, np.cumsum(rows.lengths)[:-1])
    if is_arrow(values):
        from .arrow import fields_of_column

        if (fields := fields_of_column(values, ("nodes", "edges"))) is not None:
            rows = read_rows(fields[1], source, (2,))
            return fields[0], np.split(rows.values, np.cumsum(rows.lengths)[:-1])
    nodes: list[Any] = []
    edges: list[np.ndarray] = []
    for row, entry in enumerate(entries_of(values)):
        if entry is None:
            nodes.append(None)
            edges.append(np.zeros((0, 2)))
        elif isinstance(entry, Mapping) and "nodes" in entry and "edges" in entry:
            nodes.append(entry["nodes"])
            pairs = as_array([] if entry["edges"] is None else entry["edges"], source, row)
            edges.append(pairs if pairs.size else np.zeros((0, 2)))
        else:
            what = f"a mapping of {', '.join(map(str, entry))}" if isinstance(entry, Mapping) else type(entry).__name__
            raise source.error(f"found {what}, expected a mapping with 'nodes' and 'edges'.", row)
    return nodes, edges


def _places(values: Values, source: Source) -> tuple[Source, Source]:
    """Where the nodes and where the edges come from."""
    if isinstance(values, Columns):
        return replace(source, column=values.names[0]), replace(source, column=values.names[1])
    return source, source


def _num_axes(value: Any) -> int:
    """Axes of nested lists or of an array, where None stands for anything."""
    if isinstance(value, (list, tuple)):
        return 1 + max((_num_axes(item) for item in value), default=0)
    return int(np.ndim(value))


def _checked(pairs: np.ndarray, count: int, source: Source, row: int) -> np.ndarray:
    """Edges as (edges, 2) int64 positions of nodes.

    Raises:
        ValueError: other numbers, or another shape; the message names the row.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise source.error(f"found edges of shape {' x '.join(map(str, pairs.shape))}, expected edges x 2.", row)
    wrong = ~((pairs >= 0) & (pairs < count) & (pairs == np.floor(pairs)))
    if wrong.any():
        raise source.error(f"an edge leads to node {pairs[wrong][0]:g}; the graph's {count} nodes count from 0.", row)
    return pairs.astype(np.int64)
