"""What the model refuses, each with one error that names task, modality, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture(scope="module")
def model() -> HighMMTModel:
    torch.manual_seed(0)
    return HighMMTModel(
        HighMMTConfig(
            modalities={
                "scan": {"num_channels": 3, "num_axes": 2},
                "sound": {"num_channels": 5, "max_length": 8},
                "words": {"num_channels": 4, "vocab_size": 11},
            },
            tasks={
                "kind": {"modalities": ["scan", "sound", "words"], "num_labels": 3},
                "signs": {
                    "modalities": ["sound"],
                    "num_labels": 2,
                    "problem_type": "multi_label_classification",
                },
                "size": {"modalities": ["scan"], "num_labels": 1, "problem_type": "regression"},
            },
            num_latents=3,
            d_latents=4,
        )
    ).eval()


def good() -> dict[str, Any]:
    """Arguments that the model takes."""
    generator = torch.Generator().manual_seed(0)
    scan = torch.randn(4, 2, 3, 3, generator=generator)
    sound = torch.randn(4, 6, 5, generator=generator)
    words = torch.randint(0, 11, (4, 7), generator=generator)
    return {
        "inputs": {
            "kind": {"scan": scan, "sound": sound, "words": words},
            "signs": {"sound": sound[:2]},
            "size": {"scan": scan[:3]},
        },
        "attention_mask": {"kind": {"words": torch.ones(4, 7, dtype=torch.bool)}},
        "labels": {
            "kind": torch.tensor([0, 2, -100, 1]),
            "signs": torch.tensor([[0.0, 1.0], [NAN, 1.0]]),
            "size": torch.tensor([[0.5], [NAN], [-7.0]]),
        },
    }


def put(*path: str) -> Callable[[dict[str, Any], Any], None]:
    """A function that puts a value at a path."""

    def change(arguments: dict[str, Any], value: Any) -> None:
        for key in path[:-1]:
            arguments = arguments[key]
        arguments[path[-1]] = value

    return change


def holed(values: Tensor, place: tuple[int, ...], value: float) -> Tensor:
    values[place] = value
    return values


def test_good_input_is_taken(model: HighMMTModel) -> None:
    output = model(**good())
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(logits).all() for logits in output.logits.values())


WHERE = "Task 'kind', modality 'sound'"
BAD_INPUTS = {
    "no task": (("inputs",), {}, "inputs is empty: give at least one task"),
    "no mapping": (("inputs",), torch.zeros(3), "inputs: task: expected a mapping from names, got Tensor"),
    "no mapping of modalities": (
        ("inputs", "kind"),
        torch.zeros(3, 6, 5),
        "Task 'kind': modality: expected a mapping from names, got Tensor",
    ),
    "task": (("inputs", "sort"), {}, "inputs: task 'sort' is unknown; there are kind, signs, size"),
    "modality": (
        ("inputs", "kind", "smell"),
        torch.zeros(4, 6, 5),
        "Task 'kind': modality 'smell' is unknown; there are scan, sound, words",
    ),
    "modality of another task": (
        ("inputs", "signs", "scan"),
        torch.zeros(2, 2, 3, 3),
        "Task 'signs': modality 'scan' is unknown; there are sound",
    ),
    "no modality": (("inputs", "signs"), {}, "Task 'signs': no modality was given"),
    "channels": (
        ("inputs", "kind", "sound"),
        torch.zeros(4, 6, 4),
        f"{WHERE}: expected (batch, 1 axis, 5 channels), got shape (4, 6, 4)",
    ),
    "too many axes": (
        ("inputs", "kind", "sound"),
        torch.zeros(4, 6, 2, 5),
        f"{WHERE}: expected (batch, 1 axis, 5 channels), got shape (4, 6, 2, 5)",
    ),
    "too few axes": (
        ("inputs", "kind", "scan"),
        torch.zeros(4, 6, 3),
        "Task 'kind', modality 'scan': expected (batch, 2 axes, 3 channels), got shape (4, 6, 3)",
    ),
    "batch sizes": (
        ("inputs", "kind", "sound"),
        torch.zeros(3, 6, 5),
        "Task 'kind': batch sizes differ between modalities: scan 4, sound 3, words 4",
    ),
    "no samples": (("inputs", "kind", "sound"), torch.zeros(0, 6, 5), f"{WHERE}: a batch of shape (0, 6, 5) is empty"),
    "empty axis": (("inputs", "kind", "sound"), torch.zeros(4, 0, 5), f"{WHERE}: an axis of shape (4, 0, 5) is empty"),
    "length": (
        ("inputs", "kind", "sound"),
        torch.zeros(4, 9, 5),
        f"{WHERE}: 9 elements on the first axis; max_length is 8",
    ),
    "NaN": (
        ("inputs", "kind", "sound"),
        holed(torch.zeros(4, 6, 5), (2, 3, 1), NAN),
        f"{WHERE}: NaN or infinite values in sample 2 of the batch (1 in all)",
    ),
    "infinity": (
        ("inputs", "kind", "sound"),
        holed(torch.zeros(4, 6, 5), (1, 3, 1), -INFINITE),
        f"{WHERE}: NaN or infinite values in sample 1 of the batch (1 in all)",
    ),
    "too large": (
        ("inputs", "kind", "sound"),
        holed(torch.zeros(4, 6, 5), (3, 3, 1), 1e30),
        f"{WHERE}: values too large to be squared in sample 3 of the batch (1 in all)",
    ),
    "list": (("inputs", "kind", "sound"), [[0.0]], f"{WHERE}: expected a torch tensor, got list"),
    "none": (("inputs", "kind", "sound"), None, f"{WHERE}: expected a torch tensor, got NoneType"),
    "numpy": (("inputs", "kind", "sound"), np.zeros((4, 6, 5)), f"{WHERE}: expected a torch tensor, got ndarray"),
    "complex": (
        ("inputs", "kind", "sound"),
        torch.zeros(4, 6, 5, dtype=torch.complex64),
        f"{WHERE}: expected real numbers, got torch.complex64",
    ),
    "device": (
        ("inputs", "kind", "sound"),
        torch.zeros(4, 6, 5, device="meta"),
        f"{WHERE}: expected a tensor on cpu, where the model is, got one on meta",
    ),
    "ids that are no numbers": (
        ("inputs", "kind", "words"),
        torch.zeros(4, 7),
        "modality 'words': expected whole-number token ids (batch, 1 axis), got torch.float32 of shape (4, 7)",
    ),
    "ids with channels": (
        ("inputs", "kind", "words"),
        torch.zeros(4, 7, 4, dtype=torch.long),
        "modality 'words': expected whole-number token ids (batch, 1 axis), got torch.int64 of shape (4, 7, 4)",
    ),
    "ids too large": (
        ("inputs", "kind", "words"),
        torch.full((4, 7), 11),
        "modality 'words': token ids run from 11 to 11; the vocabulary has 11, from 0",
    ),
    "negative ids": (("inputs", "kind", "words"), torch.full((4, 7), -1), "token ids run from -1 to -1"),
    "mask of an unknown task": (
        ("attention_mask", "sort"),
        {},
        "attention_mask: task 'sort' is unknown; there are kind, signs, size",
    ),
    "mask of a modality that is not there": (
        ("attention_mask", "signs"),
        {"scan": torch.ones(2, 2, 3)},
        "Task 'signs': mask of modality 'scan' is unknown; there are sound",
    ),
    "mask of another shape": (
        ("attention_mask", "kind", "sound"),
        torch.ones(4, 6, 5, dtype=torch.bool),
        f"{WHERE}, attention_mask: expected shape (4, 6), got (4, 6, 5)",
    ),
    "additive mask": (
        ("attention_mask", "kind", "sound"),
        torch.zeros(4, 6),
        f"{WHERE}, attention_mask: expected bool, True where an element is real, got torch.float32",
    ),
    "mask as a list": (
        ("attention_mask", "kind", "sound"),
        [True],
        "attention_mask: expected a torch tensor, got list",
    ),
    "labels without inputs": (
        ("labels", "sort"),
        torch.zeros(3),
        "labels: task 'sort' is unknown; there are kind, signs, size",
    ),
    "labels as a tensor": (("labels",), torch.zeros(3), "labels: task: expected a mapping from names, got Tensor"),
    "labels as a list": (("labels", "kind"), [0, 1, 2, 0], "Task 'kind', labels: expected a torch tensor, got list"),
    "number of labels": (
        ("labels", "kind"),
        torch.tensor([0, 1]),
        "Task 'kind': labels have shape (2,), expected (4,)",
    ),
    "class": (
        ("labels", "kind"),
        torch.tensor([0, 1, 3, 0]),
        "Task 'kind': label 3 is not a class from 0 to 2, nor -100 for unlabelled",
    ),
    "negative class": (("labels", "kind"), torch.tensor([0, 1, -1, 0]), "Task 'kind': label -1 is not a class"),
    "class as NaN": (
        ("labels", "kind"),
        torch.tensor([0, 1, NAN, 0]),
        "Task 'kind', labels: expected whole numbers, -100 where unlabelled, got torch.float32",
    ),
    "yes or no": (
        ("labels", "signs"),
        torch.tensor([[0.0, 1.0], [-100.0, 1.0]]),
        "Task 'signs', labels: expected numbers from 0 to 1, NaN where unlabelled, got -100.0 in sample 1",
    ),
    "shape of the quantities": (
        ("labels", "size"),
        torch.zeros(3),
        "Task 'size': labels have shape (3,), expected (3, 1)",
    ),
    "infinite quantity": (
        ("labels", "size"),
        torch.tensor([[0.0], [1.0], [-INFINITE]]),
        "Task 'size', labels: expected finite numbers, NaN where unlabelled, got -inf in sample 2",
    ),
    "labels elsewhere": (
        ("labels", "size"),
        torch.zeros(3, 1, device="meta"),
        "Task 'size', labels: expected a tensor on cpu, where the model is, got one on meta",
    ),
}


@pytest.mark.parametrize("path, value, message", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_refused_by_name(model: HighMMTModel, path: tuple[str, ...], value: Any, message: str) -> None:
    arguments = good()
    put(*path)(arguments, value)
    with pytest.raises(ValueError) as error:
        model(**arguments)
    assert message in str(error.value)


def test_a_sample_without_any_modality_is_refused_with_its_index(model: HighMMTModel) -> None:
    arguments = good()
    shapes = {"scan": (4, 2, 3), "sound": (4, 6), "words": (4, 7)}
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for mask in masks.values():
        mask[2] = False
    arguments["attention_mask"] = {"kind": masks}
    with pytest.raises(ValueError, match="Task 'kind': sample 2 of the batch has no modality"):
        model(**arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8, torch.bool])
def test_numbers_of_any_real_type_are_read_as_the_models(model: HighMMTModel, dtype: torch.dtype) -> None:
    values = torch.arange(4 * 6 * 5).view(4, 6, 5).remainder(2)
    arguments = good()
    arguments["inputs"]["kind"]["sound"] = values.float()
    expected = model(**arguments).logits["kind"]
    arguments["inputs"]["kind"]["sound"] = values.to(dtype)
    assert torch.equal(model(**arguments).logits["kind"], expected)


def test_a_mask_of_ones_and_zeros_is_one_of_true_and_false(model: HighMMTModel) -> None:
    arguments = good()
    mask = torch.arange(6) < torch.tensor([6, 3, 0, 1])[:, None]
    arguments["attention_mask"] = {"kind": {"sound": mask}}
    expected = model(**arguments).logits["kind"]
    arguments["attention_mask"] = {"kind": {"sound": mask.long()}}
    assert torch.equal(model(**arguments).logits["kind"], expected)
