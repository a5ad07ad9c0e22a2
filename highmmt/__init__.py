"""HighMMT: one small model for many modalities and tasks, in the Hugging Face ecosystem.

Importing this package registers its classes with transformers' `AutoConfig`, `AutoModel` and `AutoProcessor`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version

__version__ = _version("highmmt")

# Public name -> where it lives; loaded on first use.
_HOME = {
    "HighMMTConfig": "highmmt.configuration",
    "ModalityConfig": "highmmt.configuration",
    "TaskConfig": "highmmt.configuration",
    "ParameterGroups": "highmmt.configuration",
    "HighMMTModel": "highmmt.modeling_highmmt",
    "HighMMTOutput": "highmmt.modeling_highmmt",
    "HighMMTPreTrainedModel": "highmmt.modeling_highmmt",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'highmmt' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
