"""Tables of numbers and categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.processing.rows import Source
from highmmt.processing.tables import TableSerializer

SOURCE = Source("task", "column", "modality")
TRAIN = [[1.0, "b"], [2.0, "a"], [3.0, "b"], [None, None]]


def encoded(train: Any, rows: Any, **options: Any) -> list[Any]:
    serializer = TableSerializer(**{"scale": "none", "clip": None, **options})
    return [item.tolist() for item in serializer.encode(rows, SOURCE, serializer.fit(train, SOURCE)).split()]


def test_categories_are_one_hot_after_value_missing_and_unknown() -> None:
    assert encoded(TRAIN, [[5.0, "a"], [6.0, "b"]]) == [
        [[5, 0, 0, 0, 0], [0, 0, 0, 1, 0]],
        [[6, 0, 0, 0, 0], [0, 0, 0, 0, 1]],
    ]


def test_a_missing_category_is_flagged_and_one_never_seen_is_unknown() -> None:
    assert encoded(TRAIN, [[None, None], [float("nan"), "c"], None]) == [
        [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
        [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]],
        [],
    ]


def test_only_the_most_frequent_categories_are_told_apart() -> None:
    train = [["a"], ["b"], ["b"], ["c"], ["c"]]
    assert encoded(train, [["a"], ["b"], ["c"], ["d"]], max_categories=2) == [
        [[0, 0, 1, 0, 0]],
        [[0, 0, 0, 1, 0]],
        [[0, 0, 0, 0, 1]],
        [[0, 0, 1, 0, 0]],
    ]


def test_numbers_can_be_codes_of_categories() -> None:
    train = [[7, 0.5], [3, 1.5], [7, 2.5]]
    for categorical in ([0], ["a"]):
        names = ["a", "b"] if categorical == ["a"] else None
        as_rows: Any = [dict(zip(names, row, strict=True)) for row in train] if names else train
        found = encoded(as_rows, as_rows[:2], categorical=categorical)
        assert found == [[[0, 0, 0, 0, 1], [0.5, 0, 0, 0, 0]], [[0, 0, 0, 1, 0], [1.5, 0, 0, 0, 0]]]
    whole = encoded([[7.0], [3.0], [True]], [[3], [1], [np.int8(7)]], categorical=[0])
    assert [row[0].index(1) for row in whole] == [4, 3, 5]


def test_learned_categories_are_ids_of_their_column() -> None:
    train = [["a", "x"], ["b", "x"], ["c", None]]
    serializer = TableSerializer(categories="learned")
    statistics = serializer.fit(train, SOURCE)
    rows = serializer.encode([["a", "x"], ["c", "y"], [None, None], None], SOURCE, statistics)
    # missing, unknown, a, b, c of the first column; missing, unknown, x of the second
    assert [item.tolist() for item in rows.split()] == [[2, 7], [4, 6], [0, 5], []]
    assert rows.values.dtype == np.int32
    assert serializer.embedding(statistics) == (8, 32)
    assert TableSerializer(categories="learned", num_channels=5).embedding(statistics) == (8, 5)


def test_lists_mappings_arrow_and_columns_give_the_same(tmp_path: Path) -> None:
    rows = [{"age": 1.0, "ward": "b"}, {"age": None, "ward": "a"}, {"age": 3.0, "ward": None}]
    lists = [list(row.values()) for row in rows]
    expected = encoded(lists, lists)
    assert encoded(rows, rows) == expected
    assert encoded(rows, [{"ward": row["ward"], "age": row["age"], "more": 1} for row in rows]) == expected
    assert encoded(pa.array(rows), pa.array(rows)) == expected
    assert encoded(rows, lists) == expected
    data = Dataset.from_list([{**row, "row": row, "label": index} for index, row in enumerate(rows)])
    for entry in ({"columns": ["age", "ward"]}, {"column": "row"}):
        processor = table_processor(data, entry, scale="none", clip=None)
        batch = processor.collate("toy", processor.encode("toy", data).with_format("arrow")[:])
        assert batch["inputs"]["toy"]["table"].tolist() == expected
        called = processor("toy", table=rows)["inputs"]["toy"]["table"]
        assert called.tolist() == expected
        assert processor("toy", table=rows[1])["inputs"]["toy"]["table"].tolist() == expected[1:2]
        assert processor("toy", table=lists[1])["inputs"]["toy"]["table"].tolist() == expected[1:2]
        processor.save_pretrained(tmp_path)
        loaded = HighMMTProcessor.from_pretrained(tmp_path)
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(loaded("toy", table=rows)["inputs"]["toy"]["table"], called)


def table_processor(data: Dataset, entry: dict[str, Any], **options: Any) -> HighMMTProcessor:
    processor = HighMMTProcessor(
        {"table": {"kind": "table", "num_frequency_bands": 1, **options}},
        {"toy": {"modalities": {"table": entry}, "target": {"column": "label"}}},
    )
    processor.fit("toy", data)
    return processor


def test_a_model_learns_a_vector_for_each_category() -> None:
    data = Dataset.from_dict({"a": ["x", "y", "x"], "b": ["u", None, "v"], "label": [0, 1, 0]})
    processor = table_processor(data, {"columns": ["a", "b"]}, categories="learned", num_channels=4)
    config = HighMMTConfig(
        modalities=processor.modality_configs(), tasks=processor.task_configs(), num_latents=2, d_latents=8
    )
    assert (config.modalities["table"].vocab_size, config.modalities["table"].num_channels) == (8, 4)
    torch.manual_seed(0)
    model = HighMMTModel(config).eval()
    with torch.no_grad():
        rows = [["x", "u"], ["y", "u"], ["never seen", "u"], [None, "u"], ["also new", "u"]]
        logits = model(**processor("toy", table=rows)).logits["toy"]
    alike = torch.cdist(logits, logits) < 1e-6
    assert alike.nonzero().tolist() == [[0, 0], [1, 1], [2, 2], [2, 4], [3, 3], [4, 2], [4, 4]]


BROKEN = [
    ([[1.0, "b"], [2.0]], "row 1: found a row of 1 columns, expected 2"),
    ([[1.0, 2.0]], "row 0: found 2, expected text"),
    ([None, ["x", "b"]], "row 1: found str 'x', expected numbers"),
    ([None, [float("inf"), "b"]], "row 1: found an infinite value"),
    ([[1.0, ["b"]]], "row 0: found list"),
    ([{"a": 1.0}], "row 0: found a mapping, expected a list of values"),
]


@pytest.mark.parametrize(("rows", "message"), BROKEN)
def test_rows_that_do_not_fit_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        encoded(TRAIN, rows)
    assert str(error.value).startswith("Task 'task', modality 'modality', column 'column', ")
    assert message in str(error.value)


def test_errors_name_the_column_of_a_mapping() -> None:
    train = [{"age": 1.0, "ward": "b"}]
    with pytest.raises(ValueError, match="column 'age', row 1: found str 'old', expected numbers"):
        encoded(train, [train[0], {"age": "old", "ward": "b"}])
    with pytest.raises(ValueError, match="row 1: the column 'ward' is missing; None is a missing value"):
        encoded(train, [train[0], {"age": 3.0}])
    with pytest.raises(ValueError, match="column 'ward', row 0: found 3, expected text"):
        encoded(train, [{"age": 1.0, "ward": 3}])
    with pytest.raises(ValueError, match="column 'age': holds numbers, while categories='learned'"):
        encoded(train, [], categories="learned")
    with pytest.raises(
        ValueError, match="categorical names 'sex', which is no column of this table; it has age, ward"
    ):
        encoded(train, [], categorical=["sex"])


BAD_OPTIONS = [
    ({"categories": "hashed"}, "categories='hashed' is not one of 'one_hot', 'learned'"),
    ({"categorical": "ward"}, "categorical='ward' must be a list of columns"),
    ({"max_categories": 0}, "max_categories=0 must be a whole number"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        TableSerializer(**options)
    assert message in str(error.value)
