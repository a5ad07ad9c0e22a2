"""Targets of several steps and of retrievals: what is read, what is missing, what is refused, what is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoProcessor

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.configuration import HighMMTConfig
from highmmt.processing import HighMMTProcessor

MODALITIES = {"table": {"kind": "table"}, "tone": {"kind": "spectrum"}}
NAN = math.nan


def toy(modalities: tuple[str, ...] = ("table",), **target: Any) -> HighMMTProcessor:
    entries = {name: {"column": name} for name in modalities}
    return HighMMTProcessor(MODALITIES, {"toy": {"modalities": entries, "target": target}})


def rows_with(label: list[Any], **more: Any) -> Dataset:
    table = [[float(row), 1.0] for row in range(len(label))]
    return Dataset.from_dict({"table": table, "label": label, **more})


def labels_of(processor: HighMMTProcessor, rows: Dataset) -> torch.Tensor:
    return processor.collate("toy", processor.encode("toy", rows).with_format("arrow")[:])["labels"]["toy"]


def same(found: torch.Tensor, expected: Any) -> bool:
    return torch.allclose(found, torch.tensor(expected, dtype=found.dtype), equal_nan=True)


# Sequences


def test_a_list_of_classes_is_a_sequence_as_long_as_the_longest_training_row() -> None:
    rows = rows_with([["b", "a", "b"], ["a"], None, [None, "b"], []])
    processor = toy(column="label")
    processor.fit("toy", rows)
    config = processor.task_configs()["toy"]
    assert (config["num_steps"], config["num_labels"], config["id2label"]) == (3, 2, {0: "a", 1: "b"})
    HighMMTConfig(modalities=processor.modality_configs(), tasks=processor.task_configs())
    expected = [[1, 0, 1], [0, -100, -100], [-100] * 3, [-100, 1, -100], [-100] * 3]
    assert labels_of(processor, rows).tolist() == expected
    assert labels_of(processor, rows_with([["b"]])).tolist() == [[1, -100, -100]]
    called = processor("toy", table=rows["table"], label=rows["label"])["labels"]["toy"]
    assert called.tolist() == expected
    assert processor("toy", table=[1.0, 2.0], label=["a", "b"])["labels"]["toy"].tolist() == [[0, 1, -100]]


def test_names_of_classes_come_from_the_dataset_for_sequences_too() -> None:
    features = Features(table=List(Value("float32")), label=List(ClassLabel(names=["rest", "walk", "run"])))
    rows = Dataset.from_dict({"table": [[1.0], [2.0]], "label": [[1, 0], [1]]}, features=features)
    processor = toy(column="label")
    processor.fit("toy", rows)
    assert processor.task_configs()["toy"]["id2label"] == {0: "rest", 1: "walk", 2: "run"}
    assert labels_of(processor, rows).tolist() == [[1, 0], [1, -100]]


def test_steps_of_numbers_are_standardised_by_quantity_over_the_steps_there_are() -> None:
    rows = rows_with([[[1.0, 10.0], [3.0, None]], None, [None, [5.0, 30.0], [NAN, 50.0]]])
    processor = toy(column="label", problem_type="regression", names=["x", "y"])
    processor.fit("toy", rows)
    x, y = np.array([1.0, 3, 5]), np.array([10.0, 30, 50])
    mean, deviation = (part.tolist() for part in processor.target_scale("toy"))
    assert mean == pytest.approx([x.mean(), y.mean()])
    assert deviation == pytest.approx([x.std(), y.std()])
    a, b = -math.sqrt(1.5), math.sqrt(1.5)
    empty = [NAN, NAN]
    expected = [[[a, a], [0, NAN], empty], [empty] * 3, [empty, [b, 0], [NAN, b]]]
    assert same(labels_of(processor, rows), expected)
    assert same(processor("toy", table=rows["table"], label=rows["label"])["labels"]["toy"], expected)


def test_a_list_of_numbers_is_one_vector_unless_the_steps_are_stated() -> None:
    rows = rows_with([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    vector = toy(column="label", problem_type="regression")
    vector.fit("toy", rows)
    assert (vector.num_labels("toy"), vector.task_configs()["toy"]["num_steps"]) == (3, None)
    ragged = rows_with([[1.0, 2.0], [3.0, None, 5.0, 4.0]])
    steps = toy(column="label", problem_type="regression", num_steps=5)
    steps.fit("toy", ragged)
    assert (steps.num_labels("toy"), steps.task_configs()["toy"]["num_steps"]) == (1, 5)
    labels = labels_of(steps, ragged)
    assert labels.shape == (2, 5, 1)
    found = steps.rescale_target("toy", labels.double())[..., 0]
    assert same(found, [[1, 2, NAN, NAN, NAN], [3, NAN, 5, 4, NAN]])


def test_steps_of_several_labels() -> None:
    rows = rows_with([[[0, 1], [1, 1]], [[1, 0]]])
    processor = toy(column="label", problem_type="multi_label_classification", classes=["loud", "long"])
    processor.fit("toy", rows)
    assert same(labels_of(processor, rows), [[[0, 1], [1, 1]], [[1, 0], [NAN, NAN]]])
    with pytest.raises(ValueError, match="column 'label', row 1: found a label other than 0 and 1"):
        processor.encode("toy", rows_with([[[0, 1]], [[0, 2]]]))


def test_predictions_of_a_sequence_are_lists_over_its_steps() -> None:
    classes = toy(column="label")
    classes.fit("toy", rows_with([["a", "b"], ["b"]]))
    (said,) = classes.decode("toy", torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]]]))
    assert said == {
        "label": ["b", "a"],
        "score": pytest.approx([0.75, 0.5]),
        "probabilities": {"a": pytest.approx([0.25, 0.5]), "b": pytest.approx([0.75, 0.5])},
    }
    numbers = toy(column="label", problem_type="regression", names=["x", "y"])
    rows = rows_with([[[1.0, 10.0], [3.0, 20.0]], [[5.0, 60.0], [7.0, 40.0]]])
    numbers.fit("toy", rows)
    for said, steps in zip(numbers.decode("toy", labels_of(numbers, rows)), rows["label"], strict=True):
        assert said == {"x": pytest.approx([x for x, _ in steps]), "y": pytest.approx([y for _, y in steps])}
    flags = toy(column="label", problem_type="multi_label_classification", classes=["loud", "long"])
    flags.fit("toy", rows_with([[[0, 1], [1, 1]], [[1, 0]]]))
    (said,) = flags.decode("toy", torch.tensor([[[1.0, -1.0], [1.0, 1.0]]]))
    assert said["labels"] == [["loud"], ["loud", "long"]]
    with pytest.raises(ValueError, match=r"logits of shape \(1, 2\), expected \(batch, 2, 2\)"):
        classes.decode("toy", torch.zeros(1, 2))


def test_a_saved_processor_reads_sequences_and_pairs_as_before(tmp_path: Path) -> None:
    rows = rows_with([["b", "a"], ["a"]], tone=[[1.0, 2.0], [2.0, 3.0]])
    for number, processor in enumerate(
        (toy(column="label"), toy(("table", "tone"), problem_type="retrieval", projection_dim=5))
    ):
        processor.fit("toy", rows)
        processor.save_pretrained(tmp_path / str(number))
        loaded = AutoProcessor.from_pretrained(tmp_path / str(number))
        assert loaded.task_configs() == processor.task_configs()
        assert torch.equal(labels_of(loaded, rows), labels_of(processor, rows))


# Retrieval


def pairs(label: list[Any]) -> Dataset:
    return rows_with(label, tone=[[float(row), 2.0, 3.0] for row in range(len(label))])


def test_without_a_column_every_row_is_an_item_of_its_own() -> None:
    rows = pairs([0] * 5).remove_columns("label")
    processor = toy(("table", "tone"), problem_type="retrieval")
    processor.fit("toy", rows)
    assert labels_of(processor, rows).tolist() == [0, 1, 2, 3, 4]
    config = processor.task_configs()["toy"]
    assert (config["num_labels"], config["id2label"], config["num_steps"]) == (64, None, None)
    HighMMTConfig(modalities=processor.modality_configs(), tasks=processor.task_configs())
    batch = processor("toy", table=[[1.0, 2.0]] * 2, tone=[[1.0, 2.0, 3.0]] * 2, label=[4, 4])
    assert batch["labels"]["toy"].tolist() == [4, 4]


def test_ids_of_items_are_equal_where_the_items_are_in_every_split() -> None:
    processor = toy(("table", "tone"), problem_type="retrieval", column="label", projection_dim=16)
    texts = pairs(["cat", "dog", "cat", None])
    processor.fit("toy", texts)
    assert processor.num_labels("toy") == 16
    first, second = labels_of(processor, texts), labels_of(processor, pairs(["ox", "dog"]))
    assert first[0] == first[2] != first[1] == second[1]
    assert first[3] == -100
    assert len({*first.tolist(), *second.tolist()}) == 4 and (first[:3] >= 0).all()
    numbers = pairs([7, None, 12345678901, 7])
    assert labels_of(processor, numbers).tolist() == [7, -100, 12345678901, 7]


def test_matches_are_named_by_modality_best_first_with_probabilities() -> None:
    processor = toy(("table", "tone"), problem_type="retrieval")
    processor.fit("toy", pairs([0] * 3).remove_columns("label"))
    log = math.log
    third = [log(0.5), log(3), log(2)]
    said = processor.decode("toy", torch.tensor([[log(2), log(5), log(3)], [log(4), log(9), log(7)], third]))
    assert said[0]["tone_matches"] == [1, 2, 0]
    assert said[0]["tone_scores"] == pytest.approx([0.5, 0.3, 0.2])
    assert said[1]["tone_matches"] == [1, 2, 0]
    # The second direction compares down the columns.
    assert said[1]["table_matches"] == [1, 0, 2]
    assert said[1]["table_scores"] == pytest.approx([9 / 17, 5 / 17, 3 / 17])
    many = processor.decode("toy", torch.arange(1.0, 145.0).view(12, 12))
    assert many[0]["tone_matches"] == list(range(11, 1, -1))  # the ten best
    with pytest.raises(ValueError, match=r"Task 'toy': logits of shape \(2, 3\), expected \(batch, batch\)"):
        processor.decode("toy", torch.zeros(2, 3))


def test_what_lacks_a_modality_neither_searches_nor_is_found_by_it() -> None:
    processor = toy(("table", "tone"), problem_type="retrieval")
    processor.fit("toy", pairs([0] * 3).remove_columns("label"))
    # Row 0 has no table, row 2 no tone.
    said = processor.decode("toy", torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 0.0], [3.0, 1.0, 0.0]]))
    assert said[0]["tone_matches"] == [] and said[0]["tone_scores"] == []
    assert said[1]["tone_matches"] == [1, 0] and sum(said[1]["tone_scores"]) == pytest.approx(1)
    assert said[0]["table_matches"] == [2, 1]
    assert said[2]["table_matches"] == []


# Refused


@pytest.mark.parametrize(
    ("target", "label", "message"),
    [
        ({}, [["a"], "b"], "row 1: found 'b', expected a list with a target for each step"),
        ({}, [["a"], [None, "c"]], "row 1: unknown class 'c'"),
        ({"num_steps": 2}, [[], None], "no step has a target"),
        ({"num_steps": 1}, [["a"], ["a", "b"]], "row 1: found 2 steps, expected at most 1. That is 'num_steps'"),
        ({"problem_type": "regression"}, [[[1.0], [2.0, 3.0]]], "row 0: found lists of different lengths"),
        ({"problem_type": "regression"}, [[[1.0]], [[2.0, 3.0]]], "row 1: found steps of 2 numbers, expected 1"),
        ({"problem_type": "regression"}, [[[1.0]], [[math.inf]]], "row 1: found an infinite value"),
        ({"problem_type": "regression", "names": ["x"]}, [[[1.0, 2.0]]], "found 2 numbers, expected the 1 named"),
        ({"problem_type": "regression"}, [[[1.0, None]], [[2.0, None]]], "'1' is missing everywhere"),
    ],
)
def test_sequences_that_cannot_be_read_are_refused_by_row(target: dict, label: list, message: str) -> None:
    processor = toy(column="label", **{"classes": ["a", "b"]} if "problem_type" not in target else {}, **target)
    table = [[1.0, 2.0]] * len(label)
    with pytest.raises(ValueError) as caught:
        # Through a call, as Arrow holds no rows that differ in kind.
        statistics = processor._targets["toy"].fit(label, processor._label_source("toy"))
        processor.statistics = {"toy/labels": statistics}
        processor("toy", table=table, label=label)
    assert message in str(caught.value)
    assert "Task 'toy', column 'label'" in str(caught.value)


def test_a_row_longer_than_those_of_the_training_split_is_refused() -> None:
    processor = toy(column="label")
    processor.fit("toy", rows_with([["a", "b"], ["b"]]))
    with pytest.raises(ValueError, match="column 'label', row 1: found 3 steps, expected at most 2.* training split"):
        processor.encode("toy", rows_with([["a"], ["a", "b", "a"]]))


@pytest.mark.parametrize(
    ("modalities", "target", "message"),
    [
        (("table",), {"problem_type": "retrieval"}, "Task 'toy': a retrieval finds one modality by another"),
        (("table",), {"problem_type": "regression"}, "Task 'toy': the target needs the name of its column"),
        (("table", "tone"), {"problem_type": "retrieval", "classes": ["a"]}, "'classes' is not for a retrieval"),
        (("table", "tone"), {"problem_type": "retrieval", "num_steps": 2}, "'num_steps' is not for the problem type"),
        (("table", "tone"), {"problem_type": "retrieval", "projection_dim": 1}, "projection_dim=1 must be a whole"),
        (("table",), {"column": "label", "projection_dim": 8}, "'projection_dim' is not for the problem type single"),
        (("table",), {"column": "label", "num_steps": 0}, "num_steps=0 must be a whole number, 1 or more"),
    ],
)
def test_impossible_targets_are_refused_by_name(modalities: tuple[str, ...], target: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        toy(modalities, **target)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0.5, 1.0, 2.0], "row 0: found 0.5, expected an item's id: a text or a whole number from 0"),
        ([3, -100, 4], "row 1: found -100, expected an item's id"),
        (["cat", "cat", "cat"], "all rows are of one item"),
    ],
)
def test_ids_that_are_none_are_refused_by_row(label: list[Any], message: str) -> None:
    processor = toy(("table", "tone"), problem_type="retrieval", column="label")
    with pytest.raises(ValueError) as caught:
        processor.fit("toy", pairs(label))
    assert message in str(caught.value)
