"""The page about processing says what is so: its examples give what it shows, its options are the kinds' own."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from highmmt.processing.descriptions import MODEL_OPTIONS, RESERVED_NAMES
from highmmt.processing.kinds import ALIASES, SERIALIZERS, option_names


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "processing.md").read_text(encoding="utf-8")


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def shown_value(lines: list[str], end: int) -> str:
    """The comment lines that follow line `end`, counted from 1."""
    found = []
    for line in lines[end:]:
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(found)


def table_rows(page: str, first: str) -> Iterator[list[str]]:
    """Cells of the table whose first heading is `first`."""
    table = page.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_every_python_block_runs_and_gives_the_values_it_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    same = doctest.OutputChecker().check_output
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    compared = 0
    for block in python_blocks(page):
        lines = block.splitlines()
        for statement in ast.parse(block).body:
            if not isinstance(statement, ast.Expr):
                exec(compile(ast.Module([statement], []), "docs/processing.md", "exec"), namespace)
                continue
            value = eval(compile(ast.Expression(statement.value), "docs/processing.md", "eval"), namespace)
            shown = shown_value(lines, statement.end_lineno or 0)
            if shown:
                compared += 1
                code = ast.unparse(statement)
                assert same(f"{shown}\n", f"{value!r}\n", flags), f"{code}\nshown: {shown}\nis:    {value!r}"
    assert compared >= 25


def test_every_option_of_every_kind_is_listed_with_its_default(page: str) -> None:
    listed = {}
    for option, kinds, default, _ in table_rows(page, "option"):
        for kind in kinds.split(", "):
            assert (kind, option) not in listed
            listed[kind, option] = yaml.safe_load(default.strip("`"))
    expected = {}
    for kind, serializer in SERIALIZERS.items():
        defaults = {field.name: field.default for field in dataclasses.fields(serializer)}
        for option in option_names(kind):
            assert f"`{option}`" in page
            expected[kind, f"`{option}`"] = defaults[option]
    assert listed == expected


def test_every_kind_model_option_and_reserved_name_is_listed(page: str) -> None:
    assert [row[0] for row in table_rows(page, "kind")] == [f"`{kind}`" for kind in SERIALIZERS]
    for name in (*MODEL_OPTIONS, *RESERVED_NAMES):
        assert f"`{name}`" in page


def test_other_names_of_kinds_are_listed(page: str) -> None:
    (sentence,) = [line for line in page.splitlines() if line.startswith("Some kinds have other names")]
    listed: dict[str, str] = {}
    names: list[str] = []
    for word in re.findall(r"`(\w+)`", sentence):
        if word in SERIALIZERS:
            listed |= dict.fromkeys(names, word)
            names = []
        else:
            names.append(word)
    assert listed == ALIASES and not names


def test_the_default_scale_of_each_kind_is_as_described(page: str) -> None:
    assert "Left out: `robust` for tables and spectra, `standard` for series, sets and graphs" in page
    found = {kind: getattr(item, "default_scale", None) for kind, item in SERIALIZERS.items()}
    assert found == {
        "image": None,
        "video": None,
        "audio": None,
        "spectrum": "robust",
        "table": "robust",
        "time_series": "standard",
        "set": "standard",
        "graph": "standard",
        "text": None,
        "word_vectors": None,
    }


def test_a_sample_of_every_kind_is_shown_before_and_after(page: str, root: Path) -> None:
    for name in (*SERIALIZERS, "depth", "force"):
        file = f"images/kind-{name.replace('_', '-')}.png"
        assert f"]({file})" in page and (root / "docs" / file).stat().st_size > 1000
