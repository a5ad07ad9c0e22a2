"""The benchmark of the heterogeneity measurement runs, and finds that both ways give the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_both_ways_give_the_same_losses(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "heterogeneity.py"), "--smoke", "--processes", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (?:obvious loop|package), .+? \| (\d+) \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.M)
    assert [int(runs) for runs in rows] == [16, 16, 16, 10]
    assert re.search(r"^\| 2 \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", done.stdout, re.M)
    assert re.search(r"^Measuring 50% of the pairs saves -?\d+% of the time", done.stdout, re.M)
    same, noise = (float(value) for value in re.findall(r"differ by (\S+) \(median\)", done.stdout))
    assert same < 0.01 < noise
