"""Graphs: nodes as elements, what edges add to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.processing.graphs import GraphSerializer
from highmmt.processing.rows import Source

SOURCE = Source("task", "column", "modality")
# 0 - 1 - 2, and 3 alone
PATH: dict[str, Any] = {"nodes": [[1.0], [2.0], [3.0], [4.0]], "edges": [[0, 1], [1, 2]]}


def encoded(train: Any, rows: Any, **options: Any) -> list[np.ndarray]:
    serializer = GraphSerializer(**{"scale": "none", **options})
    return serializer.encode(rows, SOURCE, serializer.fit(train, SOURCE)).split()


def test_a_node_has_its_own_channels_then_degree_and_returning_walks() -> None:
    (nodes,) = encoded([PATH], [PATH], walk_length=2)
    np.testing.assert_allclose(nodes[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(nodes[:, 1], np.log([2, 3, 2, 1]), rtol=1e-6)
    # From an end one is back after two steps with probability 1/2, from the middle surely, alone never.
    np.testing.assert_allclose(nodes[:, 2:], [[0, 0.5], [0, 1], [0, 0.5], [0, 0]])


def test_edges_can_have_a_direction() -> None:
    (nodes,) = encoded([PATH], [PATH], walk_length=2, directed=True)
    np.testing.assert_allclose(nodes[:, 1], np.log([2, 2, 1, 1]), rtol=1e-6)
    assert (nodes[:, 2:] == 0).all()
    loop = {"nodes": [[1.0]], "edges": [[0, 0]]}
    for directed in (False, True):
        (node,) = encoded([loop], [loop], walk_length=1, directed=directed)
        np.testing.assert_allclose(node[0, 1:], [np.log(2), 1], rtol=1e-6)


def test_neighbours_are_the_mean_of_their_channels() -> None:
    (nodes,) = encoded([PATH], [PATH], neighbours=True, degree=False, walk_length=0)
    np.testing.assert_allclose(nodes, [[1, 2], [2, 2], [3, 2], [4, 0]])


def test_missing_numbers_are_flagged_and_empty_and_absent_graphs_are_masked() -> None:
    train = [{"nodes": [[1.0, None]], "edges": []}, {"nodes": [], "edges": []}, None]
    found = encoded(train, train, walk_length=0, degree=False)
    assert found[0].tolist() == [[1, 0, 0, 1]]
    assert [len(item) for item in found] == [1, 0, 0]


@given(order=st.permutations(range(5)), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_permuting_the_nodes_permutes_the_elements(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, edges = rng.normal(size=(5, 3)), rng.integers(0, 5, (6, 2))
    place = np.argsort(order)
    (found,) = encoded([PATH_OF_3], [{"nodes": nodes, "edges": edges}], neighbours=True)
    (moved,) = encoded([PATH_OF_3], [{"nodes": nodes[order], "edges": place[edges]}], neighbours=True)
    np.testing.assert_allclose(moved, found[order], atol=1e-6)


PATH_OF_3: dict[str, Any] = {"nodes": [[1.0, 2.0, 3.0], [0.0, 1.0, 5.0]], "edges": [[0, 1]]}


def graph_processor(graphs: list[Any], **options: Any) -> HighMMTProcessor:
    processor = HighMMTProcessor(
        {"graph": {"kind": "graph", "num_frequency_bands": 2, **options}},
        {"toy": {"modalities": {"graph": {"column": "molecule"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", Dataset.from_dict({"molecule": graphs, "label": [0, 1][: len(graphs)]}))
    return processor


def test_permuting_the_nodes_changes_no_logit_and_moving_an_edge_does() -> None:
    other = {"nodes": [[0.5], [2.0]], "edges": [[0, 1]]}
    processor = graph_processor([PATH, other])
    config = HighMMTConfig(
        modalities=processor.modality_configs(), tasks=processor.task_configs(), num_latents=2, d_latents=8
    )
    assert not config.modalities["graph"].ordered
    torch.manual_seed(0)
    model = HighMMTModel(config).eval()
    order = [2, 0, 3, 1]
    place = np.argsort(order)
    moved = {"nodes": np.array(PATH["nodes"])[order], "edges": place[np.array(PATH["edges"])]}
    cut = {**PATH, "edges": [[0, 1], [0, 2]]}
    with torch.no_grad():
        first, second, third = (
            model(**processor("toy", graph=[item, other])).logits["toy"] for item in (PATH, moved, cut)
        )
    torch.testing.assert_close(first, second)
    assert (first[0] - third[0]).abs().max() > 1e-6


def test_a_column_of_graphs_equals_a_call_and_survives_saving(tmp_path: Path) -> None:
    graphs = [PATH, {"nodes": [[7.0]], "edges": []}]
    rows = Dataset.from_dict({"molecule": graphs, "label": [0, 1]})
    processor = graph_processor(graphs)
    batch = processor.collate("toy", processor.encode("toy", rows).with_format("arrow")[:])
    called = processor("toy", graph=graphs)
    assert torch.equal(called["inputs"]["toy"]["graph"], batch["inputs"]["toy"]["graph"])
    assert processor("toy", graph=PATH)["inputs"]["toy"]["graph"].shape == (1, 4, 10)
    processor.save_pretrained(tmp_path)
    loaded = HighMMTProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert torch.equal(loaded("toy", graph=graphs)["inputs"]["toy"]["graph"], called["inputs"]["toy"]["graph"])


def two_columns(rows: dict[str, list[Any]]) -> HighMMTProcessor:
    processor = HighMMTProcessor(
        {"graph": {"kind": "graph"}},
        {"toy": {"modalities": {"graph": {"columns": ["atoms", "bonds"]}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", Dataset.from_dict(rows))
    return processor


def test_nodes_and_edges_of_two_columns_are_those_of_one() -> None:
    graphs = [PATH, {"nodes": [[7.0]], "edges": []}, None]
    columns = {name: [item and item[key] for item in graphs] for name, key in (("atoms", "nodes"), ("bonds", "edges"))}
    rows = Dataset.from_dict({**columns, "label": [0, 1, 0]})
    processor = two_columns({**columns, "label": [0, 1, 0]})
    batch = processor.collate("toy", processor.encode("toy", rows).with_format("arrow")[:])
    expected = graph_processor([PATH, graphs[1]])("toy", graph=graphs)
    for called in (batch, processor("toy", graph=graphs), processor("toy", **columns), processor("toy", rows[:])):
        assert torch.equal(called["inputs"]["toy"]["graph"], expected["inputs"]["toy"]["graph"])
        assert torch.equal(called["attention_mask"]["toy"]["graph"], expected["attention_mask"]["toy"]["graph"])
    for row in range(3):
        one = processor("toy", rows[row])["inputs"]["toy"]["graph"]
        assert torch.equal(one[0], expected["inputs"]["toy"]["graph"][row, : one.shape[1]])


def test_errors_name_the_column_of_the_nodes_or_that_of_the_edges() -> None:
    processor = two_columns({"atoms": [[[1.0]]], "bonds": [[[0, 0]]], "label": [0]})
    for atoms, bonds, message in (
        ([[1.0, 2.0]], [[0, 0]], "column 'atoms', row 1: found a list of 2 values on axis 2"),
        ([[1.0]], [[0, 1]], "column 'bonds', row 1: an edge leads to node 1"),
        ([[1.0]], [[0, 0, 0]], "column 'bonds', row 1: found a list of 3 values"),
    ):
        rows = Dataset.from_dict({"atoms": [[[1.0]], atoms], "bonds": [[[0, 0]], bonds], "label": [0, 0]})
        with pytest.raises(ValueError) as error:
            processor.encode("toy", rows)
        assert f"Task 'toy', modality 'graph', {message}" in str(error.value)


BROKEN = [
    ([[1.0]], "found list, expected a mapping with 'nodes' and 'edges'"),
    ({"nodes": [[1.0]]}, "found a mapping of nodes, expected a mapping with 'nodes' and 'edges'"),
    ({"nodes": [[1.0]], "edges": [[0, 1]]}, "an edge leads to node 1; the graph's 1 nodes count from 0"),
    ({"nodes": [[1.0]], "edges": [[0, -1]]}, "an edge leads to node -1"),
    ({"nodes": [[1.0]], "edges": [[0, 0.5]]}, "an edge leads to node 0.5"),
    ({"nodes": [[1.0]], "edges": [[0, None]]}, "an edge leads to node nan"),
    ({"nodes": [[1.0]], "edges": [[0, 0, 0]]}, "found edges of shape 1 x 3, expected edges x 2"),
    ({"nodes": [[1.0]], "edges": [["a", "b"]]}, "expected numbers"),
    ({"nodes": [[1.0, 2.0]], "edges": []}, "found shape 1 x 2, expected any x 1"),
    ({"nodes": [[float("inf")]], "edges": []}, "found an infinite value"),
]


@pytest.mark.parametrize(("value", "message"), BROKEN)
def test_what_is_no_graph_is_refused_by_row(value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        encoded([PATH], [None, value])
    assert str(error.value).startswith("Task 'task', modality 'modality', column 'column', row 1: ")
    assert message in str(error.value)


BAD_OPTIONS = [
    ({"walk_length": -1}, "walk_length=-1 must be a whole number, at least 0"),
    ({"degree": 1}, "degree=1 is not one of True, False"),
    ({"max_length": 3}, "max_length is no option of graphs"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        GraphSerializer(**options)
    assert message in str(error.value)


def test_a_training_split_without_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="the training split holds no values"):
        encoded([{"nodes": [], "edges": []}, None], [])
