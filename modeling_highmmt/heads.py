"""Task heads: from a task's representation to its logits, and from logits and labels to its loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration import HighMMTConfig, TaskConfig

# Similarities are at first divided by 0.07, and multiplied by no more than 100, as in CLIP.
INITIAL_LOG_SCALE = math.log(1 / 0.07)
LARGEST_LOG_SCALE = math.log(100.0)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes one sample as well, and columns that vary little around a large mean."""

    def forward(self, states: Tensor) -> Tensor:
        """`(batch, width)`, each column normalised over the batch while training, by running statistics otherwise."""
        if not self.training or len(states) < 2:
            # One sample has no variance; the running statistics stand in and are left as they are.
            return F.batch_norm(states, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        mean = states.detach().mean(dim=0, dtype=torch.promote_types(states.dtype, torch.float32))
        # The same for any shift; torch multiplies before it subtracts the mean, and what is left has lost its digits.
        centred = states - mean
        self.move_statistics(mean, centred.detach().square().sum(dim=0) / (len(states) - 1))
        centred = centred.to(states.dtype)
        return F.batch_norm(centred, None, None, self.weight, self.bias, training=True, eps=self.eps)

    @torch.no_grad()
    def move_statistics(self, mean: Tensor, variance: Tensor, steps: Tensor | int = 1) -> None:
        """Move the running statistics towards a batch's.

        Args:
            mean, variance: of the batch, the latter divided by one less than its rows, `(width,)`.
            steps: how many batches this counts as, 1 or 0.
        """
        momentum = self.momentum or 0.0
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.mul_(1 - momentum).add_(value.to(running.dtype) * momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(steps)


class Head(nn.Module):
    """Norm, dropout and one linear layer from a task's concatenated representation to its logits (appendix B.4)."""

    def __init__(self, config: HighMMTConfig, task: TaskConfig) -> None:
        super().__init__()
        width = head_width(config, task)
        self.norm = _head_norm(config, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.num_steps = task.num_steps
        self.classifier = nn.Linear(width, (task.num_steps or 1) * task.num_labels)

    def forward(self, states: Tensor) -> Tensor:
        """`(batch, width)` to `(batch, num_labels)`, or `(batch, num_steps, num_labels)` for a sequence of targets."""
        logits: Tensor = self.classifier(self.dropout(self.norm(states)))
        return logits if self.num_steps is None else logits.unflatten(1, (self.num_steps, -1))


class RetrievalHead(nn.Module):
    """Two modalities in one space, where a pair's two vectors point in the same direction.

    Each modality's flattened latents go through a norm and a linear layer of their own and are scaled to length 1.
    Similarities are cosines times a learned scale (the inverse of a temperature).

    Source: Liang et al., TMLR 05/2023, appendix D.3, names retrieval and its score, but no loss; loss and temperature
    are those of Radford et al., 2021 (CLIP), section 2.3.
    """

    def __init__(self, config: HighMMTConfig, task: TaskConfig) -> None:
        super().__init__()
        width = head_width(config, task) // 2
        self.norms = nn.ModuleList(_head_norm(config, width) for _ in task.modalities)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projections = nn.ModuleList(nn.Linear(width, task.num_labels) for _ in task.modalities)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def embed(self, states: Tensor) -> Tensor:
        """Both modalities' vectors of length 1 side by side, zeros for a modality that a sample lacks.

        Args:
            states: `(batch, 2 * num_latents * d_latents)`, zeros for what a sample lacks.

        Returns:
            `(batch, 2 * num_labels)` in fp32.
        """
        embeddings = []
        for norm, projection, latents in zip(self.norms, self.projections, states.chunk(2, dim=1), strict=True):
            projected = projection(self.dropout(norm(latents))).float()
            present = (latents != 0).any(dim=1, keepdim=True)
            embeddings.append(F.normalize(projected, dim=1) * present)
        return torch.cat(embeddings, dim=1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Similarity of each row's first modality with each row's second, times the scale, `(batch, batch)`."""
        first, second = embeddings.chunk(2, dim=1)
        return self.similarity(first, second)

    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Cosines times the scale, `(queries, candidates)`; in fp32, as bf16 would round 100 to steps of a half."""
        with torch.autocast(queries.device.type, enabled=False):
            scale = self.log_scale.float().clamp(max=LARGEST_LOG_SCALE).exp()
            return scale * (queries.float() @ candidates.float().T)


def build_head(config: HighMMTConfig, task: TaskConfig) -> Head | RetrievalHead:
    """The head that suits the task's problem type."""
    return (RetrievalHead if task.problem_type == "retrieval" else Head)(config, task)


def head_width(config: HighMMTConfig, task: TaskConfig) -> int:
    """Width of what a task's head reads: 2, 6, 12 pair vectors for 2, 3, 4 modalities, all latents where none fuse."""
    count = len(task.modalities)
    if not (task.fuses and config.use_crossmodal):
        return count * config.num_latents * config.d_latents
    return count * (count - 1) * config.d_latents


def task_loss(name: str, task: TaskConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss over a task's labelled samples, `()`; zero, still with a gradient path, where none is labelled.

    Args:
        name: the task, for messages.
        task: its problem type, number of labels and of steps.
        logits: `(batch, num_labels)`; `(batch, num_steps, num_labels)` for a sequence of targets, each of whose steps
            counts as a sample; `(batch, batch)` for a retrieval.
        labels: as `HighMMTModel.forward` takes them.

    Raises:
        ValueError: labels of the wrong shape or out of range.
    """
    logits = logits.float()
    if task.problem_type == "retrieval":
        _check_shape(name, labels, logits.shape[:1])
        return retrieval_loss(logits, labels)
    if task.problem_type == "single_label_classification":
        _check_shape(name, labels, logits.shape[:-1])
        wrong = ((labels < 0) | (labels >= task.num_labels)) & (labels != -100)
        if not torch.compiler.is_compiling() and bool(wrong.any()):
            raise ValueError(
                f"Task {name!r}: label {int(labels[wrong][0])} is not a class from 0 to {task.num_labels - 1}, "
                "nor -100 for unlabelled."
            )
        count = labelled(labels).sum().clamp_min(1)
        each = F.cross_entropy(logits.flatten(0, -2), labels.long().flatten(), reduction="sum", ignore_index=-100)
        return each / count
    _check_shape(name, labels, logits.shape)
    known = labelled(labels)
    target = torch.where(known, labels, torch.zeros_like(labels)).to(logits.dtype)
    if task.problem_type == "regression":
        each = F.mse_loss(logits, target, reduction="none")
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def retrieval_loss(logits: Tensor, items: Tensor) -> Tensor:
    """Symmetric contrastive loss, `()`: mean cross-entropy over both directions and all pairs that take part.

    The target of a row is uniform over the columns of the same item, usually its own alone. Equal logits everywhere
    give the log of the number of pairs.

    Args:
        logits: `(batch, batch)`, row i's first modality with row j's second.
        items: `(batch,)`; -100 leaves a pair out, as a row and as a column.

    Source: Radford et al., 2021 (CLIP), section 2.3; with several positives as in Khosla et al., 2020, equation 2.
    """
    known = labelled(items)
    both = known[:, None] & known[None, :]
    target = ((items[:, None] == items[None, :]) & both).to(logits.dtype)
    target = target / target.sum(dim=1, keepdim=True).clamp_min(1)
    # The smallest number rather than -inf: a row without any partner must not become NaN.
    logits = logits.masked_fill(~both, torch.finfo(logits.dtype).min)
    forth, back = (-(target * scores.log_softmax(dim=1)).sum() for scores in (logits, logits.T))
    return (forth + back) / (2 * known.sum().clamp_min(1))


def labelled(labels: Tensor) -> Tensor:
    """Which labels are there, bool of the labels' shape: not -100, or not NaN."""
    return ~torch.isnan(labels) if labels.is_floating_point() else labels != -100


def complete_pairs(embeddings: Tensor) -> Tensor:
    """Which rows of a retrieval's embeddings `(rows, 2 * num_labels)` have both modalities, `(rows,)`."""
    first, second = embeddings.chunk(2, dim=1)
    return (first != 0).any(dim=1) & (second != 0).any(dim=1)


def _head_norm(config: HighMMTConfig, width: int) -> nn.Module:
    return BatchNorm(width) if config.head_norm == "batch_norm" else nn.LayerNorm(width)


def _check_shape(name: str, labels: Tensor, expected: torch.Size) -> None:
    if labels.shape != expected:
        raise ValueError(f"Task {name!r}: labels have shape {tuple(labels.shape)}, expected {tuple(expected)}.")


__all__ = [
    "BatchNorm",
    "Head",
    "RetrievalHead",
    "build_head",
    "complete_pairs",
    "head_width",
    "labelled",
    "retrieval_loss",
    "task_loss",
]
