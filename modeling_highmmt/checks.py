"""What a forward pass is given, looked at before anything is computed: one error that says where and what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..configuration import ModalityConfig, TaskConfig


class NonFiniteInputError(ValueError):
    """Samples of a batch are no finite numbers, or so large that their squares are none.

    Attributes:
        task: whose batch it is.
        samples: their places in the batch.
    """

    def __init__(self, message: str, task: str, samples: list[int]) -> None:
        super().__init__(message)
        self.task, self.samples = task, samples


def check_names(what: str, given: object, known: Iterable[str]) -> None:
    """Refuse anything but a mapping of known names.

    Raises:
        ValueError: not a mapping, or a name that is not among those known.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: expected a mapping from names, got {type(given).__name__}.")
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown; there are {', '.join(known) or 'none'}.")


def check_values(where: str, values: Any, modality: ModalityConfig, device: torch.device) -> None:
    """Refuse values that are not a batch of the modality.

    Args:
        where: task and modality, for messages.
        values: `(batch, *axes, channels)`, or whole token ids `(batch, *axes)` where the modality has a vocabulary.
        modality: says how many axes and channels there must be.
        device: where the model is.

    Raises:
        ValueError: another type, dtype, shape or device; an empty or overlong axis; ids outside the vocabulary.
    """
    _check_tensor(where, values, device)
    axes = f"{modality.num_axes} {'axis' if modality.num_axes == 1 else 'axes'}"
    shape = tuple(values.shape)
    if modality.vocab_size is not None:
        if values.dim() != modality.num_axes + 1 or values.is_floating_point() or values.dtype == torch.bool:
            raise ValueError(
                f"{where}: expected whole-number token ids (batch, {axes}), got {values.dtype} of shape {shape}."
            )
    elif values.dim() != modality.num_axes + 2 or shape[-1] != modality.num_channels:
        raise ValueError(f"{where}: expected (batch, {axes}, {modality.num_channels} channels), got shape {shape}.")
    if shape[0] == 0:
        raise ValueError(f"{where}: a batch of shape {shape} is empty; leave out tasks without samples.")
    lengths = shape[1 : 1 + modality.num_axes]
    if 0 in lengths:
        raise ValueError(f"{where}: an axis of shape {shape} is empty; pad absent samples and mask them.")
    if modality.max_length is not None and lengths[0] > modality.max_length:
        raise ValueError(f"{where}: {lengths[0]} elements on the first axis; max_length is {modality.max_length}.")
    if modality.vocab_size is not None and not torch.compiler.is_compiling():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= modality.vocab_size:
            raise ValueError(
                f"{where}: token ids run from {low} to {high}; the vocabulary has {modality.vocab_size}, from 0."
            )


def check_mask(where: str, mask: Any, values: Tensor, device: torch.device) -> None:
    """Refuse a mask that does not say of each element of `values` `(batch, *axes, channels)` whether it is real.

    Raises:
        ValueError: another type, dtype, shape or device.
    """
    where = f"{where}, attention_mask"
    _check_tensor(where, mask, device)
    if mask.is_floating_point():
        # In additive masks 0 stands for a real element, here for padding.
        raise ValueError(f"{where}: expected bool, True where an element is real, got {mask.dtype}.")
    expected = tuple(values.shape[:-1])
    if tuple(mask.shape) != expected:
        raise ValueError(f"{where}: expected shape {expected}, got {tuple(mask.shape)}.")


def check_labels(name: str, task: TaskConfig, labels: Any, device: torch.device) -> None:
    """Refuse labels that are no numbers of the task's kind; shapes and classes are its loss's affair.

    Args:
        name: the task, for messages.
        task: its problem type.
        labels: what was given.
        device: where the model is.

    Raises:
        ValueError: another type, dtype or device, infinite quantities, or labels that are neither yes nor no.
    """
    where = f"Task {name!r}, labels"
    _check_tensor(where, labels, device)
    if task.problem_type not in ("regression", "multi_label_classification"):
        if labels.is_floating_point():
            raise ValueError(f"{where}: expected whole numbers, -100 where unlabelled, got {labels.dtype}.")
        return
    if torch.compiler.is_compiling():
        return
    if task.problem_type == "regression":
        wrong, wanted = torch.isinf(labels), "finite numbers"
    else:
        wrong, wanted = (labels < 0) | (labels > 1), "numbers from 0 to 1"
    if bool(wrong.any()):
        sample = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"{where}: expected {wanted}, NaN where unlabelled, got {labels[wrong][0].item()} in sample {sample}."
        )


def _check_tensor(where: str, values: Any, device: torch.device) -> None:
    if not isinstance(values, Tensor):
        raise ValueError(
            f"{where}: expected a torch tensor, got {type(values).__name__}; convert it with torch.as_tensor."
        )
    if values.is_complex():
        raise ValueError(f"{where}: expected real numbers, got {values.dtype}; make two channels of them.")
    if values.device != device:
        raise ValueError(f"{where}: expected a tensor on {device}, where the model is, got one on {values.device}.")
