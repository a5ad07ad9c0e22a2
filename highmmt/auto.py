"""HighMMT in transformers' Auto classes."""

from __future__ import annotations


def register() -> None:
    """Make `AutoConfig`, `AutoModel` and `AutoProcessor` know HighMMT; calling it again changes nothing."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from .configuration import HighMMTConfig
    from .modeling_highmmt import HighMMTModel
    from .processing import HighMMTProcessor

    AutoConfig.register(HighMMTConfig.model_type, HighMMTConfig, exist_ok=True)
    AutoModel.register(HighMMTConfig, HighMMTModel, exist_ok=True)
    AutoProcessor.register(HighMMTConfig, HighMMTProcessor, exist_ok=True)
