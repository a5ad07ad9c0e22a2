"""Task heads: from a task's representation to its logits, and from logits and labels to its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration import HighMMTConfig, TaskConfig


class Head(nn.Module):
    """Norm, dropout and one linear layer from a task's concatenated representation to its logits (appendix B.4)."""

    def __init__(self, config: HighMMTConfig, task: TaskConfig) -> None:
        super().__init__()
        width = head_width(config, task)
        self.norm = nn.BatchNorm1d(width) if config.head_norm == "batch_norm" else nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(width, task.num_labels)

    def forward(self, states: Tensor) -> Tensor:
        """`(batch, width)` to `(batch, num_labels)`."""
        if isinstance(self.norm, nn.BatchNorm1d) and self.training and len(states) < 2:
            # One sample has no variance; the running statistics stand in and are left as they are.
            norm = self.norm
            states = F.batch_norm(states, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            states = self.norm(states)
        return self.classifier(self.dropout(states))


def head_width(config: HighMMTConfig, task: TaskConfig) -> int:
    """Width of what a task's head reads: 2, 6, 12 pair vectors for 2, 3, 4 modalities, all latents for one."""
    count = len(task.modalities)
    if count == 1 or not config.use_crossmodal:
        return count * config.num_latents * config.d_latents
    return count * (count - 1) * config.d_latents


def task_loss(name: str, task: TaskConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss over a task's labelled samples, `()`; zero, still with a gradient path, where none is labelled.

    Args:
        name: the task, for messages.
        task: its problem type and number of labels.
        logits: `(batch, num_labels)`.
        labels: class indices `(batch,)`, -100 where unlabelled; else `(batch, num_labels)`, NaN where unlabelled.

    Raises:
        ValueError: labels of the wrong shape or out of range.
    """
    logits = logits.float()
    if task.problem_type == "single_label_classification":
        if labels.shape != logits.shape[:1]:
            raise ValueError(f"Task {name!r}: labels have shape {tuple(labels.shape)}, expected ({len(logits)},).")
        wrong = ((labels < 0) | (labels >= task.num_labels)) & (labels != -100)
        if not torch.compiler.is_compiling() and bool(wrong.any()):
            raise ValueError(
                f"Task {name!r}: label {int(labels[wrong][0])} is not a class from 0 to {task.num_labels - 1}, "
                "nor -100 for unlabelled."
            )
        count = (labels != -100).sum().clamp_min(1)
        return F.cross_entropy(logits, labels.long(), reduction="sum", ignore_index=-100) / count
    if labels.shape != logits.shape:
        raise ValueError(f"Task {name!r}: labels have shape {tuple(labels.shape)}, expected {tuple(logits.shape)}.")
    known = ~torch.isnan(labels)
    target = torch.where(known, labels, torch.zeros_like(labels)).to(logits.dtype)
    if task.problem_type == "regression":
        each = F.mse_loss(logits, target, reduction="none")
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


__all__ = ["Head", "head_width", "task_loss"]
