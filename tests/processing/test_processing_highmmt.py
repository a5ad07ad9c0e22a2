"""The processor: fitting, encoding, calling, saving and loading, predictions."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Image, List, Value
from transformers import AutoConfig, AutoProcessor, PreTrainedTokenizerFast

from highmmt.configuration import HighMMTConfig
from highmmt.processing import HighMMTProcessor

SMALL = {"table": {"kind": "table"}}


def one_task(
    column: str = "table", problem_type: str = "single_label_classification", **target: Any
) -> dict[str, Any]:
    return {
        "toy": {
            "modalities": {"table": {"column": column}},
            "target": {"column": "label", "problem_type": problem_type, **target},
        }
    }


def fitted_on(tasks: dict[str, Any], rows: Dataset, modalities: dict[str, Any] | None = None) -> HighMMTProcessor:
    processor = HighMMTProcessor(modalities or SMALL, tasks)
    processor.fit("toy", rows)
    return processor


def batch_of(processor: HighMMTProcessor, task: str, rows: Dataset) -> dict[str, Any]:
    return processor.collate(task, processor.encode(task, rows).with_format("arrow")[:])


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second)


# Fitting


def test_statistics_come_from_the_training_split_only(processor: HighMMTProcessor, splits: Any) -> None:
    before = deepcopy(processor.statistics)
    for task in processor.tasks:
        batch_of(processor, task, splits[task]["test"])
    assert processor.statistics == before
    again = HighMMTProcessor(processor.modalities, processor.tasks)
    for task in reversed(list(again.tasks)):
        again.fit(task, splits[task]["train"])
    assert again.statistics == before


def test_tasks_that_share_a_modality_keep_statistics_of_their_own(processor: HighMMTProcessor) -> None:
    assert len(processor.statistics["shapes/table"]["center"]) == 3
    assert len(processor.statistics["clinic/table"]["center"]) == 2
    assert processor.shape("shapes", "image").axes == (1, 2, 2)
    assert processor.shape("arm", "image").axes == (3, 2, 2)


def test_descriptions_that_are_passed_in_are_neither_changed_nor_shared(splits: Any) -> None:
    modalities, tasks = (
        {"table": {"kind": "table"}},
        {"clinic": {"modalities": {"table": {"columns": ["age", "weight"]}}, "target": {"column": "outcome"}}},
    )
    before = deepcopy((modalities, tasks))
    processor = HighMMTProcessor(modalities, tasks)
    processor.fit("clinic", splits["clinic"]["train"])
    assert (modalities, tasks) == before
    modalities["table"]["kind"] = "image"
    assert processor.modalities == before[0]


def test_a_configuration_follows_from_a_fitted_processor(processor: HighMMTProcessor) -> None:
    config = HighMMTConfig(modalities=processor.modality_configs(), tasks=processor.task_configs())
    widths = {name: (item.num_channels, item.num_axes, item.ordered) for name, item in config.modalities.items()}
    assert widths == {
        "image": (17, 3, True),
        "spectrum": (1, 1, True),
        "table": (2, 1, True),
        "series": (4, 1, True),
        "events": (3, 1, False),
        "notes": (8, 1, True),
        "force": (4, 1, True),
    }
    assert config.modalities["notes"].vocab_size == len(processor.tokenizer) == 10
    assert (config.modalities["image"].num_frequency_bands, config.modalities["table"].max_frequency) == (4, 8.0)
    assert config.tasks["clinic"].modalities == ["series", "events", "notes", "table"]
    assert config.tasks["clinic"].id2label == {0: "died", 1: "lived"}
    assert config.tasks["arm"].id2label == {0: "x", 1: "y"}


def test_flags_are_added_for_all_tasks_of_a_modality_where_one_has_missing_values() -> None:
    tasks = {
        name: {"modalities": {"series": {"column": name}}, "target": {"column": "label"}}
        for name in ("whole", "holey")
    }
    rows = Dataset.from_dict({"whole": [[[1.0]], [[2.0]]], "holey": [[[1.0]], [[None]]], "label": [0, 1]})
    processor = HighMMTProcessor({"series": {"kind": "time_series"}}, tasks)
    for task in tasks:
        processor.fit(task, rows)
    assert processor.modality_configs()["series"]["num_channels"] == 2
    assert batch_of(processor, "whole", rows)["inputs"]["whole"]["series"].shape == (2, 1, 2)


def test_tasks_that_disagree_on_a_width_are_told_so_and_can_be_widened() -> None:
    tasks = {
        name: {"modalities": {"series": {"column": name}}, "target": {"column": "label"}} for name in ("one", "two")
    }
    rows = Dataset.from_dict({"one": [[[1.0]], [[2.0]]], "two": [[[1.0, 2.0]], [[3.0, 5.0]]], "label": [0, 1]})
    for options in ({}, {"num_channels": 2}):
        processor = HighMMTProcessor({"series": {"kind": "time_series", **options}}, tasks)
        for task in tasks:
            processor.fit(task, rows)
        if not options:
            with pytest.raises(ValueError, match="'series': num_channels is 1 in task 'one' and 2 in task 'two'"):
                processor.modality_configs()
    assert processor.modality_configs()["series"]["num_channels"] == 2
    assert batch_of(processor, "one", rows)["inputs"]["one"]["series"].tolist() == [[[-1, 0]], [[1, 0]]]


def test_a_task_may_set_options_of_the_kind_for_itself(processor: HighMMTProcessor, splits: Any) -> None:
    tasks = deepcopy(processor.tasks)
    tasks["arm"]["modalities"]["force"]["window"] = 5
    other = HighMMTProcessor(processor.modalities, tasks)
    for task in tasks:
        other.fit(task, splits[task]["train"])
    assert other.shape("arm", "force").axes == (1,)
    assert processor.shape("arm", "force").axes == (3,)


@pytest.mark.parametrize(
    ("modality", "options", "field", "value"),
    [
        ("series", {"max_length": 4}, "max_length", 4),
        ("force", {"max_length": 5}, "max_length", 3),
        ("notes", {"num_channels": 5}, "num_channels", 5),
        ("notes", {"vocab_size": 6}, "vocab_size", 6),
        ("notes", {"min_frequency": 1000}, "vocab_size", 2),
        ("events", {"ordered": True}, "ordered", True),
        ("table", {"num_frequency_bands": 3}, "num_frequency_bands", 3),
        ("table", {"max_frequency": 3.0}, "max_frequency", 3.0),
    ],
)
def test_options_reach_the_models_configuration(
    fit_processor: Any, processor: HighMMTProcessor, modality: str, options: dict[str, Any], field: str, value: Any
) -> None:
    assert processor.modality_configs()[modality].get(field) != value
    assert fit_processor(modality, **options).modality_configs()[modality][field] == value


# Encoding


def test_encoded_rows_are_flat_lists_in_the_order_of_the_raw_rows(processor: HighMMTProcessor, splits: Any) -> None:
    encoded = processor.encode("clinic", splits["clinic"]["test"])
    assert encoded.features == Features(
        row=Value("int64"),
        series=List(Value("float32")),
        events=List(Value("float32")),
        notes=List(Value("int32")),
        table=List(Value("float32")),
        labels=Value("int64"),
    )
    assert encoded["row"][:] == list(range(9))
    series = splits["clinic"]["test"]["series"]
    assert [len(flat) for flat in encoded["series"]] == [len(steps) * 4 for steps in series]
    assert [["died", "lived"][label] for label in encoded["labels"]] == splits["clinic"]["test"]["outcome"][:]


def test_regression_targets_are_standardised_with_the_training_split(processor: HighMMTProcessor, splits: Any) -> None:
    train = batch_of(processor, "arm", splits["arm"]["train"])["labels"]["arm"]
    assert train.dtype == torch.float32
    assert torch.allclose(train.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.ones(2), atol=1e-5)
    back = processor.rescale_target("arm", train)
    assert torch.allclose(back, torch.tensor(splits["arm"]["train"]["position"][:]), atol=1e-4)
    mean, deviation = processor.target_scale("arm")
    assert torch.equal(processor.rescale_target("arm", torch.zeros(1, 2, dtype=torch.float64))[0], mean)
    assert torch.equal(processor.rescale_target("arm", torch.ones(2, dtype=torch.float64)), mean + deviation)


@pytest.mark.parametrize("task", ["shapes", "clinic", "arm"])
def test_a_sample_gives_the_same_bits_alone_in_a_call_in_a_batch_and_encoded(
    processor: HighMMTProcessor, splits: Any, task: str
) -> None:
    rows = splits[task]["test"]
    target = processor.tasks[task]["target"]["column"]
    whole = batch_of(processor, task, rows)
    columns = {column: rows[column][:] for column in rows.column_names}
    called = processor(task=task, label=columns.pop(target), **columns)
    assert same(called["inputs"], whole["inputs"])
    assert same(called["attention_mask"], whole["attention_mask"])
    assert same(called["labels"], whole["labels"])
    for index, row in enumerate(rows):
        alone = processor(task=task, **row)  # the raw target column gives the label
        encoded = batch_of(processor, task, rows.select([index]))
        assert same(alone["labels"][task], whole["labels"][task][index : index + 1])
        for modality, values in alone["inputs"][task].items():
            assert torch.equal(values, encoded["inputs"][task][modality])
            wanted = whole["inputs"][task][modality][index]
            assert torch.equal(values[0], wanted[: len(values[0])])
            mask = whole["attention_mask"][task].get(modality)
            assert mask is None or int(mask[index].sum()) == len(values[0])


def test_a_call_takes_modality_names_raw_columns_arrays_and_tensors(processor: HighMMTProcessor, splits: Any) -> None:
    row = splits["shapes"]["test"][0]
    wanted = processor(task="shapes", picture=row["picture"], spectrum=row["spectrum"], table=row["table"])
    for convert in (
        np.array,
        torch.tensor,
        lambda values: np.array(values)[None],
        lambda values: [torch.tensor(values)],
    ):
        values = {
            name: convert(row[raw])
            for name, raw in (("image", "picture"), ("spectrum", "spectrum"), ("table", "table"))
        }
        assert same(processor(task="shapes", **values)["inputs"], wanted["inputs"])
    arrays = processor(
        task="shapes", return_tensors="np", picture=row["picture"], spectrum=row["spectrum"], table=row["table"]
    )
    np.testing.assert_array_equal(arrays["inputs"]["shapes"]["table"], wanted["inputs"]["shapes"]["table"].numpy())


def test_a_table_of_several_columns_takes_a_row_a_mapping_or_the_columns(processor: HighMMTProcessor) -> None:
    others = {"series": [[1.0, 2.0]], "events": [], "notes": "pain"}
    wanted = processor(task="clinic", table=[50.0, None], **others)["inputs"]
    assert same(processor(task="clinic", table={"age": 50.0, "weight": None}, **others)["inputs"], wanted)
    assert same(processor(task="clinic", age=50.0, weight=float("nan"), **others)["inputs"], wanted)
    assert wanted["clinic"]["table"][0, 1].tolist() == [0.0, 1.0]


def test_absent_modalities_are_masked_out(processor: HighMMTProcessor) -> None:
    batch = processor(task="clinic", series=None, events=None, notes=None, table=None)
    assert {name: tuple(values.shape) for name, values in batch["inputs"]["clinic"].items()} == {
        "series": (1, 1, 4),
        "events": (1, 1, 3),
        "notes": (1, 1),
        "table": (1, 2, 2),
    }
    assert not any(mask.any() for mask in batch["attention_mask"]["clinic"].values())
    assert len(batch["attention_mask"]["clinic"]) == 4
    assert not any(values.any() for values in batch["inputs"]["clinic"].values())


def test_an_empty_set_is_not_an_absent_one(processor: HighMMTProcessor) -> None:
    batch = processor(
        task="clinic",
        series=[None] * 3,
        events=[[], None, [[40.0, 1.0], [50.0, 0.0]]],
        notes=["pain"] * 3,
        table=[[1.0, 2.0]] * 3,
    )
    assert batch["inputs"]["clinic"]["events"][0, 0].tolist() == [0, 0, 1]
    assert batch["attention_mask"]["clinic"]["events"].tolist() == [[True, False], [False, False], [True, True]]


def test_array_features_and_image_features_are_read(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8)
    tasks = {"toy": {"modalities": {"image": {"column": "image"}}, "target": {"column": "label"}}}
    columns = {
        "plain": Dataset.from_dict({"image": pixels.tolist(), "label": [0, 1, 0, 1]}),
        "array": Dataset.from_dict(
            {"image": pixels.tolist(), "label": [0, 1, 0, 1]},
            features=Features(image=Array2D((8, 8), "uint8"), label=Value("int64")),
        ),
        "picture": Dataset.from_dict(
            {"image": [image_module.fromarray(item) for item in pixels], "label": [0, 1, 0, 1]},
            features=Features(image=Image(), label=Value("int64")),
        ),
    }
    batches = [
        batch_of(fitted_on(tasks, rows, {"image": {"kind": "image"}}), "toy", rows) for rows in columns.values()
    ]
    assert same(batches[0], batches[1])
    assert same(batches[0], batches[2])


def test_encoding_leaves_the_raw_split_as_it_was(processor: HighMMTProcessor, splits: Any) -> None:
    rows = splits["clinic"]["test"]
    before = (repr(rows[:]), rows.format, rows.column_names)  # as text, where NaN equals NaN
    processor.encode("clinic", rows)
    assert (repr(rows[:]), rows.format, rows.column_names) == before


def test_large_rows_are_encoded_a_few_at_a_time_with_the_same_result(
    processor: HighMMTProcessor, splits: Any, monkeypatch: Any
) -> None:
    wanted = batch_of(processor, "arm", splits["arm"]["train"])
    monkeypatch.setattr("highmmt.processing.processing_highmmt.MAX_NUMBERS_PER_BATCH", 700)
    rows = splits["arm"]["train"].select(range(40))  # another fingerprint, so that no cache answers
    assert same(batch_of(processor, "arm", rows), wanted)


def test_cached_encodings_belong_to_one_processor_only(splits: Any, tmp_path: Path) -> None:
    splits["shapes"]["train"].to_parquet(tmp_path / "rows.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    tasks = {"toy": {"modalities": {"table": {"column": "table"}}, "target": {"column": "label"}}}
    first = fitted_on(tasks, rows)
    second = fitted_on(tasks, rows, {"table": {"kind": "table", "scale": "standard"}})
    encoded = first.encode("toy", rows)
    assert encoded._fingerprint == fitted_on(tasks, rows).encode("toy", rows)._fingerprint
    assert encoded._fingerprint != second.encode("toy", rows)._fingerprint
    assert encoded[:]["table"] != second.encode("toy", rows)[:]["table"]


def test_a_split_without_labels_or_rows_can_be_encoded(processor: HighMMTProcessor, splits: Any) -> None:
    rows = splits["arm"]["test"].remove_columns("position")
    encoded = processor.encode("arm", rows, with_labels=False)
    assert encoded.column_names == ["row", "image", "force"]
    assert "labels" not in processor.collate("arm", encoded.with_format("arrow")[:])
    assert len(processor.encode("arm", splits["arm"]["test"].select([]))) == 0


# Text


def test_unknown_words_share_a_code_of_their_own(processor: HighMMTProcessor) -> None:
    others = {"series": [[1.0, 2.0]], "events": [], "table": [1.0, 2.0]}
    ids = processor(task="clinic", notes="Pain zebra pain [PAD] quagga", **others)["inputs"]["clinic"]["notes"][
        0
    ].tolist()
    unknown = processor.tokenizer.unk_token_id
    assert ids[0] == ids[2] != unknown
    assert ids[1] == ids[-1] == unknown
    assert processor.tokenizer.pad_token_id not in ids


def test_an_empty_text_is_one_unknown_token(processor: HighMMTProcessor) -> None:
    texts = ["", "  ", None, "pain fever"]
    batch = processor(task="clinic", notes=texts, series=[None] * 4, events=[None] * 4, table=[None] * 4)
    unknown = processor.tokenizer.unk_token_id
    assert batch["inputs"]["clinic"]["notes"][:3].tolist() == [[unknown, 0], [unknown, 0], [0, 0]]
    assert batch["attention_mask"]["clinic"]["notes"].sum(1).tolist() == [1, 1, 0, 2]


def test_longer_texts_keep_their_first_tokens(fit_processor: Any, processor: HighMMTProcessor) -> None:
    sample = {"task": "clinic", "notes": "pain mild fever", "series": None, "events": None, "table": None}
    whole = processor(**sample)["inputs"]["clinic"]["notes"]
    cut = fit_processor("notes", max_length=2)(**sample)["inputs"]["clinic"]["notes"]
    assert torch.equal(cut, whole[:, :2])


def test_byte_pairs_spell_words_that_a_word_vocabulary_does_not_know(fit_processor: Any) -> None:
    sample = {"task": "clinic", "notes": "painless", "series": None, "events": None, "table": None}
    lengths = {}
    for algorithm in ("word", "bpe"):
        lengths[algorithm] = fit_processor("notes", algorithm=algorithm)(**sample)["inputs"]["clinic"]["notes"].shape[
            1
        ]
    assert lengths["word"] == 1
    assert lengths["bpe"] > 1


@pytest.mark.parametrize("algorithm", ["word", "bpe"])
def test_the_same_texts_train_the_same_tokenizer(fit_processor: Any, algorithm: str) -> None:
    first, second = (fit_processor("notes", algorithm=algorithm, lowercase=False) for _ in range(2))
    assert first.tokenizer.backend_tokenizer.to_str() == second.tokenizer.backend_tokenizer.to_str()
    others = {"task": "clinic", "series": None, "events": None, "table": None}
    small, large = (first(notes=text, **others)["inputs"]["clinic"]["notes"].tolist() for text in ("pain", "PAIN"))
    assert small != large


def test_a_tokenizer_that_several_tasks_share_learns_from_all_of_them() -> None:
    tasks = {
        name: {"modalities": {"text": {"column": "text"}}, "target": {"column": "label"}} for name in ("one", "two")
    }
    rows = {
        "one": Dataset.from_dict({"text": ["red red", "blue blue"], "label": [0, 1]}),
        "two": Dataset.from_dict({"text": ["green green", "red"], "label": [0, 1]}),
    }
    processor = HighMMTProcessor({"text": {"kind": "text"}}, tasks)
    with pytest.raises(ValueError, match="Call fit_tokenizer with the training splits of one, two"):
        processor.fit("one", rows["one"])
    processor.fit_tokenizer(rows)
    for task in tasks:
        processor.fit(task, rows[task])
    assert set(processor.tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "red", "blue", "green"}


def test_a_tokenizer_that_is_passed_in_is_used_as_it_is(processor: HighMMTProcessor) -> None:
    tasks = {"toy": {"modalities": {"text": {"column": "text"}}, "target": {"column": "label"}}}
    rows = Dataset.from_dict({"text": ["pain pain", "zebra"], "label": [0, 1]})
    other = HighMMTProcessor({"text": {"kind": "text"}}, tasks, tokenizer=processor.tokenizer)
    other.fit("toy", rows)
    assert other.tokenizer is processor.tokenizer
    assert other.modality_configs()["text"]["vocab_size"] == len(processor.tokenizer)


# Saving and loading


def test_a_saved_processor_is_the_same_bit_for_bit(processor: HighMMTProcessor, splits: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = HighMMTProcessor.from_pretrained(tmp_path)
    assert loaded.to_json_string() == processor.to_json_string()
    assert list(loaded.modalities) == list(processor.modalities)
    assert list(loaded.modality_configs()) == list(processor.modality_configs())
    for task in processor.tasks:
        assert same(batch_of(loaded, task, splits[task]["test"]), batch_of(processor, task, splits[task]["test"]))
    loaded.save_pretrained(tmp_path / "again")
    for name in ("processor_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_floats_survive_saving_exactly(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"table": np.random.default_rng(0).normal(size=(9, 4)).tolist(), "label": [0, 1, 2] * 3})
    processor = fitted_on(one_task(), rows)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["statistics"] == processor.statistics


def test_auto_processor_loads_from_a_folder_with_the_models_config(
    processor: HighMMTProcessor, tmp_path: Path
) -> None:
    AutoConfig.register("highmmt", HighMMTConfig, exist_ok=True)
    AutoProcessor.register(HighMMTConfig, HighMMTProcessor, exist_ok=True)
    HighMMTConfig(modalities=processor.modality_configs(), tasks=processor.task_configs()).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is HighMMTProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert isinstance(loaded.tokenizer, PreTrainedTokenizerFast)


def test_without_text_there_are_no_tokenizer_files(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"table": [[1.0], [2.0]], "label": [0, 1]})
    processor = fitted_on(one_task(), rows)
    processor.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["processor_config.json"]
    loaded = HighMMTProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer is None
    assert loaded.to_dict() == processor.to_dict()


def test_a_failed_save_leaves_the_old_file(processor: HighMMTProcessor, tmp_path: Path, monkeypatch: Any) -> None:
    processor.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(HighMMTProcessor, "to_json_string", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        processor.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_missing_tokenizer_is_an_error_not_a_processor_without_one(
    processor: HighMMTProcessor, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path / "whole")
    (tmp_path / "part").mkdir()
    shutil.copy(tmp_path / "whole" / "processor_config.json", tmp_path / "part")
    with pytest.raises((OSError, ValueError)):
        HighMMTProcessor.from_pretrained(tmp_path / "part")


def test_a_deep_copy_encodes_as_the_original_does(processor: HighMMTProcessor, splits: Any) -> None:
    copied = deepcopy(processor)
    assert same(
        batch_of(copied, "clinic", splits["clinic"]["test"]), batch_of(processor, "clinic", splits["clinic"]["test"])
    )


# Targets and predictions


def test_probabilities_name_the_classes(processor: HighMMTProcessor) -> None:
    (first, second) = processor.decode("shapes", torch.tensor([[0.0, np.log(3.0), -np.inf], [9.0, 0.0, 0.0]]))
    assert first["label"] == "square"
    assert first["score"] == pytest.approx(0.75)
    assert first["probabilities"] == pytest.approx({"round": 0.25, "square": 0.75, "star": 0.0})
    assert second["label"] == "round"


def test_regression_is_decoded_in_the_targets_own_unit(processor: HighMMTProcessor, splits: Any) -> None:
    labels = batch_of(processor, "arm", splits["arm"]["test"])["labels"]["arm"]
    decoded = processor.decode("arm", labels)
    for prediction, (x, y) in zip(decoded, splits["arm"]["test"]["position"], strict=True):
        assert prediction == pytest.approx({"x": x, "y": y}, abs=1e-4)


def test_several_labels_are_decoded_one_by_one() -> None:
    rows = Dataset.from_dict({"table": [[1.0], [2.0]], "label": [[0, 1], [1, 1]]})
    processor = fitted_on(one_task(problem_type="multi_label_classification", classes=["a", "b"]), rows)
    assert batch_of(processor, "toy", rows)["labels"]["toy"].tolist() == [[0, 1], [1, 1]]
    (decoded,) = processor.decode("toy", torch.tensor([[0.0, np.log(3.0)]]))
    assert decoded == {"labels": ["b"], "probabilities": pytest.approx({"a": 0.5, "b": 0.75})}


def test_class_names_come_from_the_task_the_dataset_or_the_data() -> None:
    values = {"table": [[1.0], [2.0], [3.0]], "label": [1, 0, 1]}
    named = Features(table=List(Value("float32")), label=ClassLabel(names=["no", "yes"]))
    cases = [
        (Dataset.from_dict(values), {"classes": ["off", "on"]}, ["off", "on"]),
        (Dataset.from_dict(values, features=named), {}, ["no", "yes"]),
        (Dataset.from_dict(values), {}, ["0", "1"]),
        (Dataset.from_dict({**values, "label": ["b", "a", "b"]}), {}, ["a", "b"]),
    ]
    for rows, target, classes in cases:
        processor = fitted_on(one_task(**target), rows)
        assert processor.task_configs()["toy"]["id2label"] == dict(enumerate(classes))
        assert batch_of(processor, "toy", rows)["labels"]["toy"].tolist() == [1, 0, 1]
        assert processor(task="toy", table=[1.0], label=classes[1])["labels"]["toy"].tolist() == [1]
