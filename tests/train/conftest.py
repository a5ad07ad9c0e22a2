"""One tiny suite for all tests of training, read once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import encode_suite


def _load(name: str) -> ModuleType:
    # Test folders are no packages, so that their names are free.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def always_one_thread(one_thread: None) -> None:
    """For every test of this folder."""


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny suite's rows are."""
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="session")
def suite(rows_folder: Path) -> Suite:
    """Three tasks, batch norm in the heads as in the paper."""
    return _load("tiny_suite").tiny_suite(rows_folder)


@pytest.fixture(scope="session")
def still_suite(rows_folder: Path) -> Suite:
    """The same with layer norm: a model that does not learn does not change at all."""
    return _load("tiny_suite").tiny_suite(rows_folder, head_norm="layer_norm")


@pytest.fixture(scope="session")
def processor(suite: Suite) -> HighMMTProcessor:
    """Fitted on the training splits."""
    return suite.build_processor()


@pytest.fixture(scope="session")
def data(suite: Suite, processor: HighMMTProcessor) -> dict[str, dict[str, Any]]:
    """Task and split to encoded rows."""
    return encode_suite(suite, processor)
