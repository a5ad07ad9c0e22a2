"""What all tests share: no network, no writing into the user's caches, two threads, reference files if given."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by the libraries when they are first imported, so it must happen before any test module is.
_CACHES = tempfile.TemporaryDirectory(prefix="highmmt-tests-")
os.environ.update(
    HF_HOME=_CACHES.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
for _name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_VERBOSITY"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    from hypothesis import settings

    # The same examples on every machine, and no time limit on a busy one.
    settings.register_profile("highmmt", deadline=None, derandomize=True, database=None)
    settings.load_profile("highmmt")


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Small models do not gain from more, and a shared machine loses."""
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors of a few numbers are slower with two."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A test that reaches for another machine fails and says where it wanted to go."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            try:
                local = ipaddress.ip_address(host).is_loopback
            except ValueError:
                local = host == "localhost"
            if not local:
                self.close()
                raise AssertionError(f"A test tried to connect to {host}; the tests run offline.")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder of the reference files that cannot be part of this repository; the test is skipped without it."""
    folder = os.environ.get("HIGHMMT_REFERENCE_DIR")
    if not folder:
        pytest.skip("HIGHMMT_REFERENCE_DIR names no folder with reference files")
    if not Path(folder).is_dir():
        pytest.fail(f"HIGHMMT_REFERENCE_DIR={folder!r} is not a folder")
    return Path(folder)


@pytest.fixture
def autocast_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast is followed also on a processor where that is slow."""
    monkeypatch.setattr("highmmt.modeling_highmmt.inputs._SLOW_ON_CPU", frozenset())
