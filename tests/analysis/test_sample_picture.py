"""Pictures of samples: every kind can be drawn, present and absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from highmmt.analysis import draw_sample
from highmmt.processing import SERIALIZERS, HighMMTProcessor

RNG = np.random.default_rng(0)
GRAPH = {"nodes": [[1.0, 2.0], [0.5, 1.0], [0.0, 0.0]], "edges": [[0, 1], [1, 2]]}
SAMPLES: list[tuple[str, dict[str, Any], Any]] = [
    ("image", {}, RNG.integers(0, 255, (8, 8)).tolist()),
    ("image", {"num_colors": 3}, RNG.integers(0, 255, (8, 8, 3)).tolist()),
    ("image", {"num_axes": 3}, RNG.integers(0, 255, (9, 8, 8)).tolist()),
    ("video", {"patch_frames": 2, "num_colors": 3}, RNG.random((3, 8, 8, 3)).tolist()),
    ("audio", {"num_mels": 8}, {"array": RNG.normal(size=2000).tolist(), "sampling_rate": 8000}),
    ("audio", {"num_mels": 8, "patch_size": 4}, {"array": RNG.normal(size=2000).tolist(), "sampling_rate": 8000}),
    ("spectrum", {}, RNG.random(9).tolist()),
    ("table", {}, {"age": 3.5, "ward": "east"}),
    ("table", {"categories": "learned"}, {"kind": "a", "ward": "east"}),
    ("time_series", {}, [[1.0, None], [2.0, 3.0]]),
    ("time_series", {"layout": "elements"}, [[1.0, 4.0], [2.0, 3.0]]),
    ("set", {"empty": "token"}, [[1.0, 2.0], [2.0, 3.0]]),
    ("graph", {}, GRAPH),
    ("text", {"min_frequency": 1}, "a note of $5 and $6, " * 9),
    ("word_vectors", {"vectors": "words.txt"}, "a note of $5 and $6, " * 9),
]


def picture(kind: str, options: dict[str, Any], sample: Any, row: int) -> np.ndarray:
    rows = Dataset.from_dict({"sample": [sample, sample, None], "label": [0, 1, 0]})
    processor = HighMMTProcessor(
        {"it": {"kind": kind, **options}},
        {"toy": {"modalities": {"it": {"column": "sample"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", rows)
    return np.asarray(Image.open(io.BytesIO(draw_sample(processor, rows, "toy", row))).convert("L"))


@pytest.mark.parametrize(("kind", "options", "sample"), SAMPLES, ids=[f"{k}-{len(o)}" for k, o, _ in SAMPLES])
def test_every_kind_is_drawn_before_and_after(
    kind: str, options: dict[str, Any], sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("a 1 2\nnote 3 4\n", encoding="utf-8")
    present, absent = picture(kind, options, sample, 0), picture(kind, options, sample, 2)
    middle = present.shape[1] // 2
    for half in (slice(None, middle), slice(middle, None)):
        assert (present[30:, half] != absent[30:, half]).sum() > 100  # below the titles


def test_every_kind_has_a_sample_here() -> None:
    assert {kind for kind, _, _ in SAMPLES} == set(SERIALIZERS)


def test_an_empty_set_and_columns_of_a_table_are_drawn_and_other_rows_are_refused() -> None:
    rows = Dataset.from_dict({"set": [[[1.0]], []], "age": [3.0, None], "ward": ["a", None], "label": [0, 1]})
    processor = HighMMTProcessor(
        {"set": {"kind": "set", "empty": "token"}, "table": {"kind": "table"}},
        {
            "toy": {
                "modalities": {"set": {"column": "set"}, "table": {"columns": ["age", "ward"]}},
                "target": {"column": "label"},
            }
        },
    )
    processor.fit("toy", rows)
    first, second = (draw_sample(processor, rows, "toy", row) for row in (0, 1))
    assert first != second
    nodes, edges = GRAPH["nodes"], GRAPH["edges"]
    graphs = Dataset.from_dict(
        {"nodes": [nodes, nodes], "edges": [edges, edges], "atoms": [nodes, nodes], "label": [0, 1]}
    )
    drawn = []
    for columns in (["nodes", "edges"], ["atoms", "edges"]):
        of_graphs = HighMMTProcessor(
            {"it": {"kind": "graph"}},
            {"toy": {"modalities": {"it": {"columns": columns}}, "target": {"column": "label"}}},
        )
        of_graphs.fit("toy", graphs)
        drawn.append(draw_sample(of_graphs, graphs, "toy", 0))
    assert drawn[0] == drawn[1]
    with pytest.raises(IndexError, match="Task 'toy': there is no row 2; rows are 0 to 1"):
        draw_sample(processor, rows, "toy", 2)
