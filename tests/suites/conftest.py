"""Twins of the MultiBench files, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from highmmt.suites.multibench.twins import TWINS, write_twins

HDF5 = ("mujoco_push", "vision_touch")


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with all twins, those in HDF5 only where h5py is installed; tests of them ask for it first."""
    folder = tmp_path_factory.mktemp("multibench")
    try:
        import h5py  # noqa: F401
    except ImportError:
        write_twins(folder, [name for name in TWINS if name not in HDF5])
    else:
        write_twins(folder)
    return folder
