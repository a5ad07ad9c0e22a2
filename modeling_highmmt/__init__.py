"""The network, and the conversion of the authors' public checkpoints."""

from .heads import head_width, task_loss
from .modeling_highmmt import HighMMTModel, HighMMTOutput, HighMMTPreTrainedModel

__all__ = ["HighMMTModel", "HighMMTOutput", "HighMMTPreTrainedModel", "head_width", "task_loss"]
