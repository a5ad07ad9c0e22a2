"""A task as a program of its own: the model's logits for any batch, any length and any missing modality."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from highmmt.configuration import HighMMTConfig, ParameterGroups
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.modeling_highmmt import export as export_module
from highmmt.modeling_highmmt.export import TaskProgram, describe_program, export_task, save_program

MODALITIES = {
    "image": {"num_channels": 3, "num_axes": 2, "num_frequency_bands": 2, "max_frequency": 8.0},
    "my-words": {"num_channels": 4, "vocab_size": 11, "max_length": 9},
    "set": {"num_channels": 2, "ordered": False},
}
TASKS = {
    "look": {"modalities": ["my-words", "image"], "num_labels": 2, "id2label": {0: "no", 1: "yes"}},
    "read": {"modalities": ["my-words"], "num_labels": 3, "problem_type": "regression"},
    "all": {"modalities": ["set", "my-words", "image"], "num_labels": 4},
}


def build(**changes: Any) -> HighMMTModel:
    torch.manual_seed(0)
    sizes = {"num_latents": 3, "d_latents": 6, "cross_attention_head_dim": 3, "self_attention_head_dim": 3}
    config = HighMMTConfig(modalities=MODALITIES, tasks=TASKS, **sizes, hidden_dropout_prob=0.3, **changes)
    nodes = config.modality_task_pairs(), config.interactions()
    model = HighMMTModel(config).split_parameter_groups(ParameterGroups.share_none(*nodes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> HighMMTModel:
    """In training mode, in groups, with dropout: a program is always in evaluation mode."""
    return build().train()


def arguments(task: str, size: int, length: int, *, ragged: bool = False) -> list[Tensor]:
    """Modalities of a task, then their masks; ragged samples lack elements, the last one all modalities but one."""
    generator = torch.Generator().manual_seed(size)
    given = {
        "image": torch.randn(size, length, 4, 3, generator=generator),
        "my-words": torch.randint(0, 11, (size, length), generator=generator),
        "set": torch.randn(size, 5, 2, generator=generator),
    }
    values = [given[name] for name in TASKS[task]["modalities"]]
    axes = [MODALITIES[name].get("num_axes", 1) for name in TASKS[task]["modalities"]]
    masks = [torch.ones(value.shape[: 1 + count], dtype=torch.bool) for value, count in zip(values, axes, strict=True)]
    if ragged:
        for index, mask in enumerate(masks):
            mask[0, 2:] = False
            mask[-1] = index == 0
    return [*values, *masks]


def expected_logits(model: HighMMTModel, task: str, given: list[Tensor]) -> Tensor:
    names = TASKS[task]["modalities"]
    model = build().eval() if model.training else model
    with torch.no_grad():
        inputs = dict(zip(names, given[: len(names)], strict=True))
        masks = dict(zip(names, given[len(names) :], strict=True))
        return model(inputs={task: inputs}, attention_mask={task: masks}).logits[task]


BATCHES = [(1, 1, False), (3, 5, True), (7, 9, True)]


@pytest.mark.parametrize("task", ["look", pytest.param("all", marks=pytest.mark.slow)])
def test_a_program_gives_the_logits_for_any_batch(model: HighMMTModel, task: str) -> None:
    program = export_task(model, task).module()
    for size, length, ragged in BATCHES:
        given = arguments(task, size, length, ragged=ragged)
        torch.testing.assert_close(program(*given), expected_logits(model, task, given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["read", pytest.param("look", marks=pytest.mark.slow)])
def test_an_archive_gives_the_logits_for_any_batch_and_says_what_it_reads(
    model: HighMMTModel, tmp_path: Path, task: str
) -> None:
    path = save_program(model, task, tmp_path / "task.pt2", "pt2")
    extra = {"highmmt.json": ""}
    loaded = torch.export.load(path, extra_files=extra).module()
    for size, length, ragged in BATCHES:
        given = arguments(task, size, length, ragged=ragged)
        torch.testing.assert_close(loaded(*given), expected_logits(model, task, given), atol=1e-5, rtol=1e-5)
    assert json.loads(extra["highmmt.json"]) == describe_program(model, task)
    assert [entry.name for entry in tmp_path.iterdir()] == ["task.pt2"]
    assert model.training


@pytest.mark.parametrize("task", ["read", pytest.param("all", marks=pytest.mark.slow)])
def test_onnx_gives_the_logits_for_any_batch_and_says_what_it_reads(
    model: HighMMTModel, tmp_path: Path, task: str
) -> None:
    path = save_program(model, task, tmp_path / "task.onnx", "onnx")
    session = onnxruntime.InferenceSession(path)
    names = [entry.name for entry in session.get_inputs()]
    for size, length, ragged in BATCHES:
        given = arguments(task, size, length, ragged=ragged)
        feed = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        found = torch.from_numpy(session.run(["logits"], feed)[0])
        torch.testing.assert_close(found, expected_logits(model, task, given), atol=1e-5, rtol=1e-5)
    described = json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["highmmt"])
    assert described == describe_program(model, task)
    assert [entry["name"] for entry in described["inputs"]] == names
    assert [entry["shape"] for entry in described["inputs"]] == [entry.shape for entry in session.get_inputs()]


def test_groups_that_are_adapters_keep_theirs_in_a_program() -> None:
    model = build(group_adapter_rank=2).eval()
    program = TaskProgram(model, "read").eval()
    group = model.config.groups().unimodal["read/my-words"]
    assert {name.split(".")[2] for name in program.state_dict() if "adapters" in name} == {str(group)}
    given = arguments("read", 3, 5, ragged=True)
    inputs, masks = {"read": {"my-words": given[0]}}, {"read": {"my-words": given[1]}}
    with torch.no_grad():
        expected = model(inputs=inputs, attention_mask=masks).logits["read"]
        found = export_task(model, "read").module()(*given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_program_holds_what_its_task_uses_and_nothing_else(model: HighMMTModel) -> None:
    program = TaskProgram(model, "read")
    parts = {name.split(".")[1] + "." + name.split(".")[2] for name in program.state_dict()}
    group = model.config.groups().unimodal["read/my-words"]
    assert parts == {"token_embeddings.my-words", f"unimodal_groups.{group}", "heads.read"}
    exported = export_task(model, "read")
    assert set(exported.state_dict) == set(program.state_dict())
    assert len(model.heads) == 3


def test_the_description_names_inputs_types_shapes_and_labels(model: HighMMTModel) -> None:
    described = describe_program(model, "look")
    assert described["task"] == "look"
    assert described["labels"] == ["no", "yes"]
    assert described["inputs"] == [
        {
            "name": "my-words",
            "modality": "my-words",
            "dtype": "int64",
            "shape": ["batch", "size_0_0"],
            "max_length": 9,
        },
        {"name": "image", "modality": "image", "dtype": "float32", "shape": ["batch", "size_1_0", "size_1_1", 3]},
        {
            "name": "my-words.mask",
            "modality": "my-words",
            "dtype": "bool",
            "shape": ["batch", "size_0_0"],
            "max_length": 9,
        },
        {"name": "image.mask", "modality": "image", "dtype": "bool", "shape": ["batch", "size_1_0", "size_1_1"]},
    ]
    assert described["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 2]}]


def test_an_unknown_task_is_refused(model: HighMMTModel) -> None:
    with pytest.raises(ValueError, match="no task 'smell'; its tasks are look, read, all"):
        export_task(model, "smell")


def test_a_program_with_other_logits_is_not_written(
    model: HighMMTModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, forward = TaskProgram(model, "read").eval(), TaskProgram.forward
    monkeypatch.setattr(TaskProgram, "forward", lambda self, *tensors: forward(self, *tensors) + 1e-3)
    exported = export_task(model, "read")
    monkeypatch.setattr(TaskProgram, "forward", forward)
    monkeypatch.setattr(export_module, "export_task", lambda *_: exported)
    with pytest.raises(ValueError, match="Task 'read': the exported program's logits differ from the model's by more"):
        save_program(model, "read", tmp_path / "read.pt2", "pt2")
    assert not list(tmp_path.iterdir())
    assert torch.isfinite(program(*arguments("read", 2, 3))).all()


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_library_is_named_with_its_extra(
    model: HighMMTModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(export_module, "export_task", lambda *_: pytest.fail("asked before the work"))
    with pytest.raises(ImportError, match=rf"{library}, which is not installed: pip install 'highmmt\[onnx\]'"):
        save_program(model, "read", tmp_path / "read.onnx", "onnx")
