"""Named tasks over datasets: suites in YAML, among them the embedded `starter`."""

from .builders import register_builder
from .suite import Suite, TaskSpec, available_suites, load_suite

__all__ = ["Suite", "TaskSpec", "available_suites", "load_suite", "register_builder"]
