"""What a user may get wrong, and the message for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict

from highmmt.processing import HighMMTProcessor

TABLE = {"table": {"kind": "table"}}
TARGET = {"column": "label"}


def toy(modalities: Any = None, target: Any = None) -> dict[str, Any]:
    return {"toy": {"modalities": modalities or {"table": {"column": "table"}}, "target": target or TARGET}}


DESCRIPTIONS = [
    ({"labels": {"kind": "table"}}, {}, "Modality 'labels': this name is taken"),
    ({"a/b": {"kind": "table"}}, {}, "Modality 'a/b': a name must not hold '/'"),
    (TABLE, {"a/b": toy()["toy"]}, "Task 'a/b': a name must not hold '/'"),
    ({"table": {}}, {}, "Modality 'table': must be a mapping with at least 'kind'"),
    ({"table": {"kind": "tables"}}, {}, "Modality 'table': unknown kind 'tables'"),
    (
        {"table": {"kind": "table", "cilp": 3}},
        {},
        "no option 'cilp'; its options are categorical, categories, clip",
    ),
    ({"table": {"kind": "table", "max_frequency": 0}}, {}, "Modality 'table': max_frequency=0 must be positive"),
    ({"table": {"kind": "table", "clip": float("nan")}}, {}, "modalities must hold plain data"),
    (TABLE, {"toy": {"modalities": {}}}, "Task 'toy': must be a mapping with 'modalities' and 'target'"),
    (TABLE, {"toy": {"modalities": {}, "target": TARGET}}, "Task 'toy': 'modalities' must map at least one"),
    (TABLE, toy({"tabel": {"column": "table"}}), "Task 'toy': unknown modality 'tabel'; declared are table"),
    (TABLE, toy({"table": "table"}), "Task 'toy', modality 'table': must be a mapping with 'column'"),
    (TABLE, toy({"table": {}}), "needs 'column', one raw column"),
    (TABLE, toy({"table": {"column": "a", "columns": ["b"]}}), "needs 'column', one raw column"),
    (TABLE, toy({"table": {"columns": []}}), "'table', columns: must be a list of columns' names, got []"),
    ({"net": {"kind": "graph"}}, toy({"net": {"columns": ["a"]}}), "of the nodes and that of the edges, got ['a']"),
    ({"net": {"kind": "set"}}, toy({"net": {"columns": ["a"]}}), "the kind 'set' reads one 'column'"),
    (
        TABLE,
        toy({"table": {"column": "a", "window": 2}}),
        "Task 'toy', modality 'table': kind 'table' has no option 'window'",
    ),
    (TABLE, toy(target={"column": "label", "type": "x"}), "Task 'toy': a target has no field 'type'"),
    (TABLE, toy(target={"problem_type": "regression"}), "Task 'toy': the target needs the name of its column"),
    (TABLE, toy(target={"column": "label", "problem_type": "ranking"}), "problem_type='ranking' is not one of"),
    (TABLE, toy(target={"column": "label", "classes": ["a", "a"]}), "must be names that differ"),
    (TABLE, toy(target={"column": "label", "classes": [0, 1]}), "classes=[0, 1] must be a list of names"),
    (TABLE, toy(target={"column": "label", "names": ["a"]}), "'names' is for regression"),
    (
        TABLE,
        toy(target={"column": "l", "problem_type": "regression", "classes": ["a"]}),
        "a regression has no classes",
    ),
    (
        {"a": {"kind": "text"}, "b": {"kind": "text", "vocab_size": 50}},
        toy({"a": {"column": "a"}, "b": {"column": "b"}}),
        "toy/b and toy/a share the processor's tokenizer",
    ),
]


@pytest.mark.parametrize(("modalities", "tasks", "message"), DESCRIPTIONS)
def test_impossible_descriptions_are_refused(modalities: Any, tasks: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        HighMMTProcessor(modalities, tasks)
    assert message in str(error.value)


ROWS = [
    (
        {"table": [[1.0], [2.0]], "label": [0, 1]},
        {"column": "lable"},
        "no column 'lable' in the data; its columns are table, label",
    ),
    ({"tab": [[1.0], [2.0]], "label": [0, 1]}, TARGET, "no column 'table' in the data; its columns are tab, label"),
    ({"table": [], "label": []}, TARGET, "Task 'toy': the training split is empty"),
    ({"table": [[1.0], [2.0]], "label": [0, 2]}, TARGET, "column 'label': found classes [0, 2], expected 0, 1, 2"),
    ({"table": [[1.0], [2.0]], "label": [0, None]}, TARGET, "column 'label', row 1: the target is missing"),
    (
        {"table": [[1.0], [2.0]], "label": [0, 0.5]},
        TARGET,
        "row 1: found 0.5, expected the index or the name of a class",
    ),
    (
        {"table": [[1.0], [2.0]], "label": ["a", "c"]},
        {"column": "label", "classes": ["a", "b"]},
        "row 1: unknown class 'c'; classes are a, b",
    ),
    (
        {"table": [[1.0], [2.0]], "label": [0, 2]},
        {"column": "label", "classes": ["a", "b"]},
        "row 1: found class 2, expected 0 to 1",
    ),
    (
        {"table": [[1.0], [2.0]], "label": [0.0, float("nan")]},
        {"column": "label", "problem_type": "regression"},
        "row 1: the target is missing or infinite",
    ),
    (
        {"table": [[1.0], [2.0]], "label": [[0.0], []]},
        {"column": "label", "problem_type": "regression"},
        "row 1: the target is missing",
    ),
    (
        {"table": [[1.0], [2.0]], "label": [[0.0], [1.0]]},
        {"column": "label", "problem_type": "regression", "names": ["x", "y"]},
        "found 1 numbers, expected the 2 named",
    ),
    (
        {"table": [[1.0], [2.0, 3.0]], "label": [0, 1]},
        TARGET,
        "modality 'table', column 'table', row 0: found shape 1, expected 2",
    ),
]


@pytest.mark.parametrize(("rows", "target", "message"), ROWS)
def test_training_splits_that_do_not_fit_are_refused(rows: Any, target: Any, message: str) -> None:
    processor = HighMMTProcessor(TABLE, toy(target=target))
    with pytest.raises(ValueError) as error:
        processor.fit("toy", Dataset.from_dict(rows))
    assert "Task 'toy'" in str(error.value)
    assert message in str(error.value)


def test_several_labels_must_be_zeros_and_ones() -> None:
    processor = HighMMTProcessor(TABLE, toy(target={"column": "label", "problem_type": "multi_label_classification"}))
    processor.fit("toy", Dataset.from_dict({"table": [[1.0]], "label": [[0, 1]]}))
    with pytest.raises(ValueError, match="column 'label', row 1: found a label other than 0 and 1"):
        processor.encode("toy", Dataset.from_dict({"table": [[1.0], [2.0]], "label": [[0, 1], [0, 2]]}))


def test_errors_count_rows_in_the_raw_split_not_in_the_batch() -> None:
    processor = HighMMTProcessor(TABLE, toy())
    processor.fit("toy", Dataset.from_dict({"table": [[1.0], [2.0]], "label": [0, 1]}))
    rows = Dataset.from_dict({"table": [[1.0]] * 1500 + [[float("inf")]], "label": [0] * 1501})
    with pytest.raises(ValueError, match="Task 'toy', modality 'table', column 'table', row 1500: found an infinite"):
        processor.encode("toy", rows)


def test_scalar_columns_of_a_table_are_checked_one_by_one() -> None:
    processor = HighMMTProcessor(TABLE, toy({"table": {"columns": ["a", "b"]}}))
    processor.fit("toy", Dataset.from_dict({"a": [1.0, 2.0], "b": [True, False], "label": [0, 1]}))
    with pytest.raises(ValueError, match="column 'b', row 0: found string values, expected numbers"):
        processor.encode("toy", Dataset.from_dict({"a": [1.0], "b": ["x"], "label": [0]}))
    with pytest.raises(ValueError, match="row 1: found an infinite value"):
        processor.encode("toy", Dataset.from_dict({"a": [1.0, float("inf")], "b": [True, None], "label": [0, 0]}))


CALLS: list[tuple[Callable[[HighMMTProcessor], Any], str]] = [
    (lambda p: p(task="shaeps"), "Unknown task 'shaeps'; the processor's tasks are shapes, clinic, arm"),
    (lambda p: p(task="arm", image=None), "Task 'arm': modality 'force' is not given; where it is absent, pass None"),
    (
        lambda p: p(task="arm", image=None, force=None, speed=1),
        "unknown argument 'speed'; its modalities are image, force",
    ),
    (
        lambda p: p(task="arm", image=None, force=[[1.0, 2.0]], return_tensors="tf"),
        "return_tensors='tf' is not one of 'pt', 'np'",
    ),
    (
        lambda p: p(task="arm", image=None, force=[1.0, 2.0]),
        "modality 'force', column 'force', row 0: found 1 axes; one sample has 2, a batch 3",
    ),
    (
        lambda p: p(task="arm", image=torch.zeros(2, 3, 6, 5), force=[[1.0, 2.0]]),
        "modality 'force', column 'force', row 0: found one sample, while 'image' (column 'frames') is a batch",
    ),
    (
        lambda p: p(task="arm", image=torch.zeros(2, 3, 6, 5), force=torch.zeros(3, 5, 2)),
        "modality 'image' has 2 samples, others have 3",
    ),
    (
        lambda p: p(task="arm", image=torch.zeros(2, 3, 6, 5), force=None, label=[[0.0, 0.0]]),
        "Task 'arm': 2 samples need as many labels",
    ),
    (
        lambda p: p(task="arm", image=None, force=[[1.0, float("inf")]]),
        "modality 'force', column 'force', row 0: found an inf",
    ),
    (
        lambda p: p(task="clinic", series=None, events=None, notes=3, table=None),
        "column 'notes', row 0: found int '3', expected text",
    ),
    (lambda p: p.decode("shapes", torch.zeros(2, 4)), "logits of shape (2, 4), expected (batch, 3)"),
    (lambda p: p.target_scale("shapes"), "its target is single_label_classification, which has no scale"),
    (lambda p: p.fit_tokenizer({}), "Task 'clinic': its text takes part in the tokenizer"),
    (lambda p: p.encode("arm", DatasetDict()), "Task 'arm': give one split, a datasets.Dataset, not DatasetDict"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_calls_that_cannot_be_meant_are_refused(processor: HighMMTProcessor, call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call(processor)
    assert message in str(error.value)


def test_an_unfitted_processor_says_what_to_call() -> None:
    processor = HighMMTProcessor(TABLE, toy())
    for call in (processor.modality_configs, processor.task_configs, lambda: processor(task="toy", table=[1.0])):
        with pytest.raises(ValueError, match="not fitted on task 'toy' yet; first call processor.fit"):
            call()
    with pytest.raises(ValueError, match="No task has a modality of kind 'text'"):
        processor.fit_tokenizer({})
