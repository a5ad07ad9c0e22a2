"""`highmmt cluster`: every way to say which groups, what it writes and prints, and that it repeats nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from highmmt.configuration import ParameterGroups
from highmmt.modeling_highmmt import HighMMTModel


@pytest.fixture(scope="module")
def measured(tiny: ModuleType, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `highmmt heterogeneity` with two seeds; read only."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    assert tiny.highmmt("heterogeneity", suite_file, "--quick", "--share", "1", "--seeds", "2", "-o", folder) == 0
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """A copy to cluster in."""
    return Path(shutil.copytree(measured, tmp_path / "run"))


def groups_of(folder: Path) -> ParameterGroups:
    return ParameterGroups.from_json_file(folder / "parameter_groups.json")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_measuring_draws_its_matrices_and_repeats_nothing(tiny: ModuleType, suite_file: Path, folder: Path) -> None:
    figures = folder / "heterogeneity" / "figures"
    assert (figures / "unimodal_matrix.png").exists() and (figures / "silhouette.svg").exists()
    before = contents(folder)
    command = ["heterogeneity", suite_file, "--quick", "--share", "1", "--seeds", "2", "-o", folder]
    assert tiny.highmmt(*command) == 0
    assert contents(folder) == before
    # Nor does it undo what clustering has drawn.
    assert tiny.highmmt("cluster", folder, "--k", "4", "--linkage", "complete") == 0
    before = contents(folder)
    assert tiny.highmmt(*command) == 0
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("options", "count"),
    [(["--k", "5"], 5), (["--unimodal-groups", "3", "--crossmodal-groups", "1"], 4), ([], None)],
    ids=["joint", "two numbers", "automatic"],
)
def test_the_same_command_twice_leaves_the_same_files_and_says_the_same(
    tiny: ModuleType, folder: Path, options: list[str], count: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("cluster", folder, *options) == 0
    said, before, groups = capsys.readouterr().out, contents(folder), groups_of(folder)
    if count:
        assert groups.num_unimodal_groups + groups.num_crossmodal_groups == count
    assert tiny.highmmt("cluster", folder, *options) == 0
    assert capsys.readouterr().out == said
    assert contents(folder) == before
    assert "Mean silhouette by number of groups" in said and "Together, unimodal: " in said
    assert str(folder / "heterogeneity" / "figures") in said.replace("\n", "")
    kept = json.loads((folder / "parameter_groups.stability.json").read_text(encoding="utf-8"))
    assert kept["unimodal"]["groups"] == list(groups.unimodal.values())
    assert kept["unimodal"]["source"] == "seeds"


def test_a_changed_matrix_gives_new_groups_and_figures(tiny: ModuleType, folder: Path) -> None:
    assert tiny.highmmt("cluster", folder, "--unimodal-groups", "2") == 0
    before = contents(folder)
    file = folder / "heterogeneity" / "unimodal.json"
    matrix = json.loads(file.read_text(encoding="utf-8"))
    matrix["values"] = [[0.0 if i == j else 9.0 if 4 in (i, j) else 0.1 for j in range(5)] for i in range(5)]
    file.write_text(json.dumps(matrix), encoding="utf-8")
    assert tiny.highmmt("cluster", folder, "--unimodal-groups", "2") == 0
    assert list(groups_of(folder).unimodal.values()) == [0, 0, 0, 0, 1]
    figure = "heterogeneity/figures/unimodal_matrix.svg"
    assert contents(folder)[figure][0] != before[figure][0]


def test_linkage_and_the_numbers_of_groups_bite(tiny: ModuleType, folder: Path) -> None:
    file = folder / "heterogeneity" / "unimodal.json"
    matrix = json.loads(file.read_text(encoding="utf-8"))
    # A chain: single linkage follows it, complete linkage halves it.
    points = [0.0, 1.0, 2.1, 3.3, 5.0]
    matrix["values"] = [[abs(a - b) for b in points] for a in points]
    file.write_text(json.dumps(matrix), encoding="utf-8")
    found = {}
    for linkage in ("single", "complete"):
        assert tiny.highmmt("cluster", folder, "--unimodal-groups", "2", "--linkage", linkage) == 0
        found[linkage] = list(groups_of(folder).unimodal.values())
        assert f"({linkage} linkage)" in (folder / "heterogeneity" / "figures" / "unimodal_tree.svg").read_text()
    assert found == {"single": [0, 0, 0, 0, 1], "complete": [0, 0, 1, 1, 1]}


def test_a_budget_is_one_of_the_suites_own_model_without_heads(
    tiny: ModuleType, suite_file: Path, finished_run: Path, folder: Path
) -> None:
    parts = HighMMTModel.from_pretrained(finished_run / "pretrained").num_parameters_by_component()
    one, other = parts["unimodal"], parts["crossmodal"]
    for budget, count in ((one + other, 2), (5 * one + 2 * other, 7)):
        assert tiny.highmmt("cluster", folder, "--max-parameters", budget) == 0
        groups = groups_of(folder)
        assert groups.num_unimodal_groups + groups.num_crossmodal_groups == count
    assert tiny.highmmt("cluster", folder, "--max-parameters", 3 * one + 2 * other - 1) == 0
    groups = groups_of(folder)
    used = groups.num_unimodal_groups * one + groups.num_crossmodal_groups * other
    assert used < 3 * one + 2 * other


def test_a_budget_that_cannot_be_kept_or_computed_is_refused(
    tiny: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.highmmt("cluster", folder, "--max-parameters", "10") == 2
    assert "max_parameters=10 is not enough for one group of each kind" in capsys.readouterr().err
    file = folder / "heterogeneity" / "unimodal.json"
    matrix = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**matrix, "excluded": {"old/x": "no rows"}}), encoding="utf-8")
    assert tiny.highmmt("cluster", folder, "--max-parameters", "10") == 2
    assert "not enough for the nodes that could not be measured" in capsys.readouterr().err
    (folder / "suite.yaml").unlink()
    assert tiny.highmmt("cluster", folder, "--max-parameters", "10") == 2
    assert "there is no suite, whose model says" in capsys.readouterr().err
    assert not (folder / "parameter_groups.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, ["unimodal.json was measured by version 1 of the measurement, now it is 2"]),
        ({"settings": {"seed": 7}}, ["interaction.json", "different settings", "seed: 7 there, 0 now"]),
        ({"settings": {"method": "feature"}}, ["different settings", "method: 'feature' there, 'transfer' now"]),
        ({"suite_fingerprint": "0" * 64}, ["unimodal.json was measured on another suite", "run.json"]),
    ],
    ids=["version", "seed", "method", "suite"],
)
def test_matrices_that_do_not_belong_together_are_refused(
    tiny: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: list[str]
) -> None:
    file = folder / "heterogeneity" / "unimodal.json"
    matrix = json.loads(file.read_text(encoding="utf-8"))
    settings = {**matrix["settings"], **changes.get("settings", {})}
    file.write_text(json.dumps({**matrix, **changes, "settings": settings}), encoding="utf-8")
    assert tiny.highmmt("cluster", folder) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert not (folder / "parameter_groups.json").exists()
    if "suite_fingerprint" in changes:
        (folder / "run.json").unlink()
        assert tiny.highmmt("cluster", folder) == 2
        assert "interaction.json was measured on another suite" in capsys.readouterr().err


def by_hand(folder: Path) -> dict[str, Any]:
    """Groups by hand of the tiny suite, interactions spelt the other way round."""
    nodes = {
        kind: json.loads((folder / "heterogeneity" / f"{kind}.json").read_text())["nodes"]
        for kind in ("unimodal", "interaction")
    }
    turned = ["{0}/{2}+{1}".format(*node.replace("+", "/").split("/")) for node in nodes["interaction"]]
    return {
        "unimodal": {node: number % 2 for number, node in enumerate(nodes["unimodal"])},
        "crossmodal": dict.fromkeys(turned, 0),
    }


def test_groups_by_hand_are_taken_as_they_are(tiny: ModuleType, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(by_hand(folder)), encoding="utf-8")
    assert tiny.highmmt("cluster", folder, "--groups", file) == 0
    groups = groups_of(folder)
    assert list(groups.unimodal.values()) == [0, 1, 0, 1, 0]
    assert list(groups.crossmodal) == json.loads((folder / "heterogeneity" / "interaction.json").read_text())["nodes"]
    kept = json.loads((folder / "parameter_groups.stability.json").read_text(encoding="utf-8"))
    assert kept["unimodal"]["groups"] == [0, 1, 0, 1, 0]
    before = contents(folder)
    assert tiny.highmmt("cluster", folder, "--groups", file) == 0
    assert contents(folder) == before


def _text(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], str]:
    def changed(values: dict[str, Any]) -> str:
        change(values)
        return json.dumps(values)

    return changed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_text(lambda values: values["unimodal"].pop("walk/series")), ["no group for walk/series"]),
        (_text(lambda values: values["crossmodal"].clear()), ["no group for", "signs/"]),
        (_text(lambda values: values["unimodal"].update({"walk/smell": 0})), ["unknown walk/smell"]),
        (
            _text(lambda values: values["unimodal"].update({"walk/series": 3})),
            ["without gaps", "'walk/series' has group 3"],
        ),
        (_text(lambda values: values["unimodal"].update({"walk/series": "a"})), ["'walk/series' has group 'a'"]),
        (_text(lambda values: values.update(groups={})), ["no part 'groups'"]),
        (lambda values: json.dumps(values)[:20], ["mine.json"]),
        (
            lambda values: json.dumps(values).replace('"walk/series"', '"walk/series": 0, "walk/series"'),
            ["name 'walk/series' twice"],
        ),
        (
            _text(lambda values: values["crossmodal"].update({"walk/series+remark": 0, "walk/remark+series": 0})),
            ["one interaction twice", "'walk/series+remark'", "'walk/remark+series'"],
        ),
    ],
    ids=[
        "missing",
        "no interactions",
        "unknown",
        "gap",
        "no number",
        "other part",
        "no JSON",
        "twice",
        "twice, turned",
    ],
)
def test_groups_by_hand_that_are_not_complete_are_refused_by_name(
    tiny: ModuleType,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: Callable[[dict[str, Any]], str],
    words: list[str],
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text(by_hand(folder)), encoding="utf-8")
    assert tiny.highmmt("cluster", folder, "--groups", file) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in [str(file), *words])
    assert not (folder / "parameter_groups.json").exists()


def test_groups_by_hand_and_numbers_do_not_go_together(
    tiny: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    assert tiny.highmmt("cluster", folder, "--groups", file) == 2
    assert "mine.json: no such file of parameter groups" in capsys.readouterr().err
    file.write_text(json.dumps(by_hand(folder)), encoding="utf-8")
    assert tiny.highmmt("cluster", folder, "--groups", file, "--k", "3") == 2
    assert "so k cannot be given, too" in capsys.readouterr().err


def test_groups_written_elsewhere_leave_the_folder_as_it_was(tiny: ModuleType, run_copy: Path, tmp_path: Path) -> None:
    before = contents(run_copy)
    assert tiny.highmmt("cluster", run_copy, "--k", "3", "--output", tmp_path / "three.json") == 0
    assert contents(run_copy) == before
    assert (tmp_path / "three.stability.json").exists()
    # The groups that the models were trained with may be asked for again: nothing changes.
    assert tiny.highmmt("cluster", run_copy, "--unimodal-groups", "2", "--crossmodal-groups", "2") == 0
    assert contents(run_copy) == before
