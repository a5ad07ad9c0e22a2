"""Modules that several tests of the model use; test folders are no packages, so that their names are free."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """The equations, written as in the paper."""
    return _load("naive")


@pytest.fixture(scope="session")
def random_models() -> ModuleType:
    """Small models of any shape, and inputs for them."""
    return _load("random_models")
