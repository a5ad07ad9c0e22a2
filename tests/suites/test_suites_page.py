"""The page about suites says what is so: its own-data example runs, its table is the suite's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from highmmt.configuration import HighMMTConfig
from highmmt.suites import load_suite
from highmmt.suites.first_version import first_version
from highmmt.suites.schema import METRICS, SUITE_KEYS, TASK_KEYS


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "suites.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def test_the_example_with_ones_own_data_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_data = next(block for block in blocks(page, "python") if "to_parquet" in block)
    exec(compile(make_data, "docs/suites.md", "exec"), {})
    first = first_version("patients.parquet", Path("my_suite.yaml"))
    assert first == blocks(page, "yaml")[0]
    (tmp_path / "my_suite.yaml").write_text(first, encoding="utf-8")
    suite = load_suite("my_suite.yaml")
    rows = suite.load("my")
    assert {split: len(data) for split, data in rows.items()} == {"train": 200, "validation": 50, "test": 50}
    assert not set(rows["train"]["hospital"]) & set(rows["test"]["hospital"])
    processor = suite.build_processor()
    config = HighMMTConfig(modalities=processor.modality_configs(), tasks=processor.task_configs())
    assert len(config.interactions()) == 3


def test_the_table_lists_every_task_with_its_modalities_columns_and_metric(page: str) -> None:
    suite = load_suite("starter")
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    names = {"accuracy": "accuracy", "auroc": "AUROC", "r2": "R²"}
    for name, task in suite.tasks.items():
        for modality, options in task.modalities.items():
            assert f"{modality}: `{options['column']}`" in lines[name]
        for words in (task.area, names[task.metric], task.licence.split(" (")[0]):
            assert words in lines[name]
        cells = [cell.strip() for cell in lines[name].split("|")]
        assert task.reference["value"] in [float(cell) for cell in cells if cell.startswith("0.")]
        sizes = " / ".join(str(len(rows)) for rows in suite.load(name).values())
        assert sizes in lines[name]


def test_every_key_and_metric_is_described(page: str) -> None:
    for word in (*SUITE_KEYS, *TASK_KEYS, *METRICS):
        assert f"`{word}`" in page
