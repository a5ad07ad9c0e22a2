"""Encoded rows to padded tensors, and batches to devices."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch

from highmmt.processing import HighMMTBatch, HighMMTProcessor, to_device


def test_padding_is_zero_and_masked_and_all_else_is_real(processor: HighMMTProcessor, splits: Any) -> None:
    encoded = processor.encode("clinic", splits["clinic"]["test"])
    batch = processor.collate("clinic", encoded.with_format("arrow")[:])
    values, mask = batch["inputs"]["clinic"]["series"], batch["attention_mask"]["clinic"]["series"]
    lengths = [len(steps) for steps in splits["clinic"]["test"]["series"]]
    assert values.shape == (9, max(lengths), 4)
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == lengths
    assert not values[~mask].any()
    for index, flat in enumerate(encoded["series"]):
        assert values[index, : lengths[index]].flatten().tolist() == flat


def test_a_mask_is_left_out_where_every_element_is_real(processor: HighMMTProcessor, splits: Any) -> None:
    table = processor.encode("clinic", splits["clinic"]["test"]).with_format("arrow")[:]
    assert set(processor.collate("clinic", table)["attention_mask"]["clinic"]) == {"series", "events", "notes"}
    assert processor.collate("clinic", table.slice(0, 1))["attention_mask"]["clinic"] == {}


def test_rows_may_come_in_any_order_and_in_chunks(processor: HighMMTProcessor, splits: Any) -> None:
    encoded = processor.encode("clinic", splits["clinic"]["test"]).with_format("arrow")
    whole = processor.collate("clinic", encoded[:])
    chunked = pa.concat_tables([encoded[[4, 2]], encoded[[7]]])
    batch = processor.collate("clinic", chunked)
    assert batch["row"]["clinic"].tolist() == [4, 2, 7]
    assert torch.equal(batch["labels"]["clinic"], whole["labels"]["clinic"][[4, 2, 7]])
    for modality, values in batch["inputs"]["clinic"].items():
        assert torch.equal(values, whole["inputs"]["clinic"][modality][[4, 2, 7], : values.shape[1]])


def test_grids_keep_their_axes_and_their_masks_follow(processor: HighMMTProcessor, splits: Any) -> None:
    table = processor.encode("arm", splits["arm"]["test"]).with_format("arrow")[:]
    image = processor.collate("arm", table)["inputs"]["arm"]["image"]
    assert image.shape == (9, 3, 2, 2, 17)
    assert image[:, 1, ..., -1].all()  # the blank frame
    lists = table["image"].to_pylist()
    lists[0] = []
    lists[1] = lists[1][: len(lists[1]) // 3]
    shorter = table.set_column(table.column_names.index("image"), "image", pa.array(lists, pa.list_(pa.float32())))
    batch = processor.collate("arm", shorter)
    assert batch["attention_mask"]["arm"]["image"].shape == (9, 3, 2, 2)
    assert batch["attention_mask"]["arm"]["image"].flatten(1).sum(1).tolist() == [0, 4, *[12] * 7]
    assert not batch["inputs"]["arm"]["image"][0].any()
    assert torch.equal(batch["inputs"]["arm"]["image"][1, 0], image[1, 0])


def test_some_of_the_modalities_can_be_collated(processor: HighMMTProcessor, splits: Any) -> None:
    table = processor.encode("arm", splits["arm"]["test"]).with_format("arrow")[:]
    assert set(processor.collate("arm", table, modalities=["force"])["inputs"]["arm"]) == {"force"}


def test_a_batch_can_be_written_to_without_touching_the_encoded_rows(processor: HighMMTProcessor, splits: Any) -> None:
    table = processor.encode("shapes", splits["shapes"]["test"]).with_format("arrow")[:]
    first = processor.collate("shapes", table)
    for values in (*first["inputs"]["shapes"].values(), first["labels"]["shapes"], first["row"]["shapes"]):
        values.zero_()
    second = processor.collate("shapes", table)
    assert second["inputs"]["shapes"]["image"].any()
    assert second["row"]["shapes"].any()


def test_rows_of_another_processor_are_refused(processor: HighMMTProcessor, fit_processor: Any, splits: Any) -> None:
    table = processor.encode("shapes", splits["shapes"]["test"]).with_format("arrow")[:]
    with pytest.raises(ValueError, match="'shapes', modality 'image': found 68 numbers in a row, expected 99"):
        fit_processor("image", patch_size=2, num_channels=11).collate("shapes", table)
    with pytest.raises(ValueError, match="modality 'image': not among the encoded columns of this task, table"):
        processor.collate("shapes", table.select(["row", "table"]))
    with pytest.raises(ValueError, match="found list<item: double>"):
        wrong = pa.array([[1.0]] * 9)
        processor.collate("shapes", table.set_column(table.column_names.index("table"), "table", wrong))


def test_a_batch_moves_with_everything_nested_in_it(processor: HighMMTProcessor, splits: Any) -> None:
    row = splits["clinic"]["test"][0]
    batch = processor(task="clinic", **row)
    assert isinstance(batch, HighMMTBatch)
    assert set(batch) == {"inputs", "attention_mask", "labels"}
    moved = batch.to("meta")
    assert moved["inputs"]["clinic"]["series"].device.type == "meta"
    assert moved["labels"]["clinic"].device.type == "meta"


@pytest.mark.parametrize(
    "call", [((torch.float64,), {}), ((), {"dtype": torch.float64}), (("cpu", torch.float64), {})]
)
def test_a_dtype_changes_floating_tensors_only(call: Any) -> None:
    args, kwargs = call
    batch = {
        "inputs": {"a": torch.ones(1), "ids": torch.ones(1, dtype=torch.long)},
        "mask": [torch.ones(1) > 0],
        "name": "x",
    }
    moved = to_device(batch, *args, **kwargs)
    assert moved["inputs"]["a"].dtype == torch.float64
    assert moved["inputs"]["ids"].dtype == torch.long
    assert moved["mask"][0].dtype == torch.bool
    assert moved["name"] == "x"
    assert batch["inputs"]["a"].dtype == torch.float32
