"""The known truth: families that only an encoder's training can tell apart are found again in the matrices."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def known_families(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as a module that its processes can import too."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.delitem(sys.modules, "known_families", raising=False)
    import known_families

    return known_families


def test_families_have_inputs_of_one_distribution_and_each_its_own_window(known_families: ModuleType) -> None:
    answer = np.arange(3000) % 3
    rows = [known_families.signals(np.random.default_rng(family), family, answer) for family in range(3)]
    for family, signals in enumerate(rows):
        np.testing.assert_allclose(signals.mean(0), rows[0].mean(0), atol=0.09)
        np.testing.assert_allclose(np.cov(signals.reshape(3000, -1).T), np.cov(rows[0].reshape(3000, -1).T), atol=0.15)
        for window in range(3):
            found = signals[:, 4 * window : 4 * window + 4].mean(1).argmax(1)
            assert (found == answer).mean() == pytest.approx(1 if window == family else 1 / 3, abs=0.05)


def test_the_maps_of_modalities_can_be_inverted(known_families: ModuleType) -> None:
    turn = known_families.rotation(np.random.default_rng(0))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    for curve in known_families.CURVES:
        steps = np.diff(curve(np.linspace(-4, 4, 101)))
        assert (steps > 0).all() or (steps < 0).all()


@pytest.mark.slow
def test_measured_matrices_find_the_families(known_families: ModuleType) -> None:
    results = known_families.measure_all(seeds=10, processes=2, methods=("transfer",))
    found = {kind: [result[f"transfer {kind}"]["agreement"] for result in results] for kind in known_families.KINDS}
    assert sum(index == 1 for index in found["unimodal"]) >= 9, found
    assert sum(index == 1 for index in found["interaction"]) >= 9, found
