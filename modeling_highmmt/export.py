"""One task of a model as a program that runs without this package: `torch.export` and ONNX."""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..configuration.files import write_bytes
from .growth import KINDS
from .modeling_highmmt import HighMMTModel

Format = Literal["onnx", "pt2"]

# A program may differ from the model by this much, in units of the model's largest logit (or of 1, if that is more).
TOLERANCE = 1e-4


class TaskProgram(nn.Module):
    """A model as a function of tensors: a task's modalities in order, then their masks in order, to its logits.

    Args:
        model: any model; it is copied, without what the task does not use.
        task: one of its tasks.

    Raises:
        ValueError: the model has no such task; the message lists those it has.
    """

    def __init__(self, model: HighMMTModel, task: str) -> None:
        super().__init__()
        if task not in model.config.tasks:
            raise ValueError(f"The model has no task {task!r}; its tasks are {', '.join(model.config.tasks)}.")
        self.task = task
        self.modalities = list(model.config.tasks[task].modalities)
        self.model = _only_task(model, task)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits of `(batch, *axes, channels)` or token ids `(batch, *axes)`, and masks `(batch, *axes)`."""
        count = len(self.modalities)
        inputs = dict(zip(self.modalities, tensors[:count], strict=True))
        masks = dict(zip(self.modalities, tensors[count:], strict=True))
        output = self.model(
            inputs={self.task: inputs}, attention_mask={self.task: masks}, output_unimodal_states=False
        )
        logits: Tensor = output.logits[self.task]
        return logits


def export_task(model: HighMMTModel, task: str) -> torch.export.ExportedProgram:
    """One task as an exported program in evaluation mode, for any batch size and any size of every axis.

    Its arguments are the task's modalities in order, each as `HighMMTModel` takes it, then a mask for each, which is
    True where an element is real; all-False for a sample means that it lacks this modality. It gives the logits. What
    the model refuses with an error (NaN, ids outside the vocabulary, samples without any modality) is not checked.

    Raises:
        ValueError: the model has no such task.
    """
    program = TaskProgram(model, task).eval()
    examples = _examples(program)
    with torch.no_grad(), _without_warnings():
        return torch.export.export(program, examples[0], dynamic_shapes=(_dynamic_shapes(program),))


def save_program(model: HighMMTModel, task: str, path: str | Path, file_format: Format) -> Path:
    """Export one task and write it to a file, whole or not at all, once its logits are the model's.

    The file says what its inputs and logits are: as JSON in the ONNX metadata under `highmmt`, or in the extra file
    `highmmt.json` that `torch.export.load` can give.

    Args:
        model: the model.
        task: one of its tasks.
        path: file to write.
        file_format: `"onnx"` (needs the extra `onnx`) or `"pt2"`, the archive of `torch.export.save`.

    Raises:
        ImportError: a library of the extra `onnx` is not installed.
        ValueError: the model has no such task, or the program's logits differ from the model's by more than
            `TOLERANCE`.
    """
    if file_format == "onnx":
        _require_onnx()
    exported, program = export_task(model, task), TaskProgram(model, task).eval()
    description = json.dumps(describe_program(model, task), indent=2)
    content = (_onnx_bytes if file_format == "onnx" else _pt2_bytes)(exported, program, description)
    return write_bytes(Path(path), content)


def describe_program(model: HighMMTModel, task: str) -> dict[str, Any]:
    """What a task's program reads and gives: names, types, shapes (names stand for any size), labels."""
    program, config = TaskProgram(model, task), model.config
    described = config.tasks[task]
    inputs: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for modality, axes in zip(program.modalities, _axis_names(program), strict=True):
        entry = config.modalities[modality]
        limit = {} if entry.max_length is None else {"max_length": entry.max_length}
        values = {"dtype": "int64", "shape": ["batch", *axes]}
        if entry.vocab_size is None:
            values = {"dtype": "float32", "shape": ["batch", *axes, entry.num_channels]}
        inputs.append({"name": modality, "modality": modality, **values, **limit})
        shape = ["batch", *axes]
        masks.append({"name": f"{modality}.mask", "modality": modality, "dtype": "bool", "shape": shape, **limit})
    if described.problem_type == "retrieval":
        logits = ["batch", "batch"]
    else:
        logits = ["batch", *([] if described.num_steps is None else [described.num_steps]), described.num_labels]
    return {
        "highmmt": version("highmmt"),
        "task": task,
        "problem_type": described.problem_type,
        "inputs": [*inputs, *masks],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": logits}],
        "labels": None if described.id2label is None else list(described.id2label.values()),
    }


def _only_task(model: HighMMTModel, task: str) -> HighMMTModel:
    """A copy of the model with the head, the groups and the embeddings that a task uses, in fp32 on the CPU."""
    config = model.config
    modalities = config.tasks[task].modalities
    kept = copy.copy(model)
    kept._modules = dict(model._modules)
    kept.heads = nn.ModuleDict({task: model.heads[task]})
    kept.token_embeddings = nn.ModuleDict(
        {name: module for name, module in model.token_embeddings.items() if name in modalities}
    )
    for kind in KINDS:
        used = {group for node, group in config.group_map(kind).items() if node.startswith(f"{task}/")}
        bases = {base for group, base in enumerate(config.group_bases(kind)) if group in used}
        for part, places in ((f"{kind}_groups", bases), (f"{kind}_adapters", used)):
            # What is left keeps its number.
            modules = enumerate(getattr(model, part))
            setattr(kept, part, nn.ModuleList(module if i in places else nn.Identity() for i, module in modules))
    return copy.deepcopy(kept).float().cpu().requires_grad_(False)


def _axis_names(program: TaskProgram) -> list[list[str]]:
    """For each modality a name for the size of each axis; modality names are no identifiers."""
    config = program.model.config
    return [
        [f"size_{index}_{axis}" for axis in range(config.modalities[modality].num_axes)]
        for index, modality in enumerate(program.modalities)
    ]


def _dynamic_shapes(program: TaskProgram) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch", min=1)
    shapes = []
    for modality, names in zip(program.modalities, _axis_names(program), strict=True):
        shape = {0: batch}
        longest = program.model.config.modalities[modality].max_length
        for axis, name in enumerate(names, start=1):
            limit = {"max": longest} if axis == 1 and longest is not None else {}
            if limit != {"max": 1}:
                shape[axis] = torch.export.Dim(name, min=1, **limit)
        shapes.append(shape)
    return (*shapes, *shapes)


def _examples(program: TaskProgram) -> list[tuple[Tensor, ...]]:
    """Three batches of other sizes: whole samples, ragged ones of which some lack a modality, and a single sample."""
    config = program.model.config
    generator = torch.Generator().manual_seed(0)
    batches = []
    for size, start in ((4, 3), (5, 6), (1, 2)):
        inputs, masks = [], []
        for index, modality in enumerate(program.modalities):
            entry = config.modalities[modality]
            shape = [size, *(start + axis for axis in range(entry.num_axes))]
            if entry.max_length is not None:
                shape[1] = min(shape[1], entry.max_length)
            if entry.vocab_size is None:
                inputs.append(torch.randn(*shape, entry.num_channels, generator=generator))
            else:
                inputs.append(torch.randint(entry.vocab_size, shape, generator=generator))
            mask = torch.ones(shape, dtype=torch.bool)
            if size == 5:
                mask[1, 1:] = False
                if index and shape[0] > 2:
                    mask[2] = False
            masks.append(mask)
        batches.append((*inputs, *masks))
    return batches


def _check(program: TaskProgram, run: Any, what: str) -> None:
    """Refuse a program whose logits are not the model's."""
    for example in _examples(program):
        with torch.no_grad():
            expected = program(*example)
        found = torch.as_tensor(run(*example))
        limit = TOLERANCE * max(1.0, expected.abs().max().item())
        if found.shape != expected.shape or not bool(((found - expected).abs() <= limit).all()):
            raise ValueError(
                f"Task {program.task!r}: the {what} program's logits differ from the model's by more than "
                f"{limit:.1e}; nothing was written."
            )


def _pt2_bytes(exported: torch.export.ExportedProgram, program: TaskProgram, description: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={"highmmt.json": description})
    with _without_warnings():
        loaded = torch.export.load(io.BytesIO(buffer.getvalue()))
    _check(program, loaded.module(), "exported")
    return buffer.getvalue()


def _require_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"Writing ONNX needs {name}, which is not installed: pip install 'highmmt[onnx]'."
            ) from error


def _onnx_bytes(exported: torch.export.ExportedProgram, program: TaskProgram, description: str) -> bytes:
    import onnxruntime

    described = json.loads(description)
    names = [entry["name"] for entry in described["inputs"]]
    with _without_warnings():
        result: Any = torch.onnx.export(
            exported, input_names=names, output_names=["logits"], dynamo=True, verbose=False, external_data=False
        )
    proto = result.model_proto
    for value, entry in zip(
        [*proto.graph.input, *proto.graph.output], [*described["inputs"], *described["outputs"]], strict=True
    ):
        for size, name in zip(value.type.tensor_type.shape.dim, entry["shape"], strict=True):
            if isinstance(name, str):
                size.dim_param = name  # the exporter's own are numbered
    note = proto.metadata_props.add()
    note.key, note.value = "highmmt", description
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> Any:
        """Logits of the written program."""
        return session.run(["logits"], {name: value.numpy() for name, value in zip(names, tensors, strict=True)})[0]

    _check(program, run, "ONNX")
    return content


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the exporters' remarks about themselves off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["TOLERANCE", "TaskProgram", "describe_program", "export_task", "save_program"]
