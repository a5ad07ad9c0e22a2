"""The network, and the conversion of the authors' public checkpoints."""

from .checks import NonFiniteInputError
from .heads import BatchNorm, complete_pairs, head_width, labelled, task_loss
from .modeling_highmmt import HighMMTModel, HighMMTOutput, HighMMTPreTrainedModel

__all__ = [
    "BatchNorm",
    "HighMMTModel",
    "HighMMTOutput",
    "HighMMTPreTrainedModel",
    "NonFiniteInputError",
    "complete_pairs",
    "head_width",
    "labelled",
    "task_loss",
]
