"""What a HighMMT model is made of, as plain data."""

from .configuration_highmmt import HighMMTConfig, ModalityConfig, TaskConfig
from .parameter_groups import GroupKind, ParameterGroups, interaction_name

__all__ = ["GroupKind", "HighMMTConfig", "ModalityConfig", "ParameterGroups", "TaskConfig", "interaction_name"]
