"""The network, and the conversion of the authors' public checkpoints."""

from .modeling_highmmt import HighMMTModel, HighMMTOutput, HighMMTPreTrainedModel, head_width, task_loss

__all__ = ["HighMMTModel", "HighMMTOutput", "HighMMTPreTrainedModel", "head_width", "task_loss"]
