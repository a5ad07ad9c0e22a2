"""HighMMT: one small model for many modalities and tasks, in the Hugging Face ecosystem.

Importing this package registers its classes with transformers' `AutoConfig`, `AutoModel` and `AutoProcessor`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version as _version
from pathlib import Path as _Path

__version__ = _version("highmmt")

# Public name -> the room or module it lives in; loaded on first use.
_HOME = {
    "HighMMTConfig": "configuration",
    "HighMMTModel": "modeling_highmmt",
    "HighMMTOutput": "modeling_highmmt",
    "HighMMTPreTrainedModel": "modeling_highmmt",
    "HighMMTProcessor": "processing",
    "HeterogeneityMatrix": "heterogeneity",
    "HeterogeneitySettings": "heterogeneity",
    "ModalityConfig": "configuration",
    "MultitaskTrainer": "train",
    "ParameterGroups": "configuration",
    "Suite": "suites",
    "TaskConfig": "configuration",
    "TrainingSettings": "train",
    "add_code_files": "code_files",
    "available_suites": "suites",
    "cluster_parameter_groups": "heterogeneity",
    "complete_matrix": "heterogeneity",
    "load_suite": "suites",
    "measure_heterogeneity": "heterogeneity",
    "push_to_hub": "hub",
    "run_study": "analysis",
    "write_report": "analysis",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'highmmt' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"highmmt.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# Registration loads torch and transformers. The command line does it itself, once a command needs a model, so that
# `highmmt --help` answers at once; "-m" stands there while Python looks for `python -m highmmt`.
if _Path(sys.argv[0] if sys.argv else "").stem not in ("highmmt", "-m"):
    from .auto import register as _register

    _register()
