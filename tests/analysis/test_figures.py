"""Figures of a run folder: what they show, that equal numbers give equal bytes, and odd matrices."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from highmmt.analysis import choose_groups, save_stability, write_changed, write_figures
from highmmt.analysis import figures as module
from highmmt.configuration import ParameterGroups
from highmmt.heterogeneity import HeterogeneityMatrix

UNIMODAL = ["digits/image", "digits/spectrum", "liver/set", "liver/table"]


def distances(size: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(size, 2)) + np.arange(size)[:, None] % 2 * 4
    return np.abs(points[:, None] - points[None]).sum(-1)


def make_run(folder: Path, nodes: list[str] = UNIMODAL, values: np.ndarray | None = None, **numbers: int) -> Path:
    """A folder with both matrices (every third entry imputed) and groups of them."""
    matrices: dict[Any, HeterogeneityMatrix] = {}
    for kind, names in (("unimodal", nodes), ("interaction", [f"{node}+other" for node in nodes])):
        found = distances(len(names)) if values is None else values
        row, column = np.indices(found.shape)
        off_diagonal = row != column
        matrices[kind] = HeterogeneityMatrix(
            kind=kind,  # type: ignore[arg-type]
            nodes=names,
            transfer=np.full(found.shape, np.nan),
            values=found,
            standard_errors=np.where(off_diagonal, 0.33, 0.0),
            measured=off_diagonal & ((row + column) % 3 > 0),
        )
        matrices[kind].to_json_file(folder / "heterogeneity" / f"{kind}.json")
    groups = choose_groups(matrices, lambda: pytest.fail("no budget was given"), **numbers)
    write_changed(folder / "parameter_groups.json", groups.to_dict())
    save_stability(folder / "parameter_groups.json", groups, matrices, "average")
    return folder


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_figure_is_there_as_png_and_svg(tmp_path: Path) -> None:
    folder = write_figures(make_run(tmp_path, num_unimodal_groups=2, num_crossmodal_groups=2))
    assert folder == tmp_path / "heterogeneity" / "figures"
    names = [f"{kind}_{part}" for kind in ("unimodal", "interaction") for part in ("matrix", "tree", "stability")]
    expected = {f"{name}.{ending}" for name in (*names, "singular_values", "silhouette") for ending in ("png", "svg")}
    assert set(files(folder)) == {*expected, "inputs.json"}
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 200 and len(picture.convert("L").getcolors() or range(99)) > 5


def test_a_matrix_shows_numbers_errors_names_groups_and_what_was_imputed(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_unimodal_groups=2, num_crossmodal_groups=2)
    write_figures(run)
    matrix = HeterogeneityMatrix.from_json_file(run / "heterogeneity" / "unimodal.json")
    said = texts(run / "heterogeneity" / "figures" / "unimodal_matrix.svg")
    imputed = 0
    for row in range(4):
        assert said.count(matrix.nodes[row]) == 2
        for column in range(row):
            mark = "" if matrix.measured[row, column] else "~"
            imputed += mark == "~"
            value = matrix.values[row, column]
            assert f"{mark}{value:.{2 if value < 10 else 1}f}" in said
    assert said.count("±0.33") == 6
    assert {"U1", "U2"} <= set(said) and imputed > 0
    assert f"{6 - imputed} of 6 pairs measured (1 seed); ~ and dashed: imputed; ±: standard error" in said
    # Not by colour alone: an imputed cell has a dashed frame.
    picture = (run / "heterogeneity" / "figures" / "unimodal_matrix.svg").read_text(encoding="utf-8")
    assert picture.count("stroke-dasharray") == imputed


def test_trees_and_stability_show_how_often_nodes_share_a_group(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_unimodal_groups=2, num_crossmodal_groups=3)
    folder = write_figures(run)
    assert folder is not None
    (view, _) = module.read_views(run)
    assert view.stability is not None and view.stability.together is not None
    tree = texts(folder / "unimodal_tree.svg")
    assert {"cut: 2 groups", "in its group", *UNIMODAL} <= set(tree)
    assert all(f"{100 * share:.0f} %" in tree for share in view.stability.support if share is not None)
    shares = texts(folder / "unimodal_stability.svg")
    assert f"{100 * view.stability.together[3, 1]:.0f}" in shares
    assert "interactions: 3 groups" in texts(folder / "silhouette.svg")
    assert any(
        text.startswith("modalities: ") and "in the top 3" in text for text in texts(folder / "singular_values.svg")
    )


def test_equal_numbers_give_equal_bytes_and_are_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (write_figures(make_run(tmp_path / name)) for name in ("first", "second"))
    assert first is not None and second is not None
    assert files(first) == files(second)
    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_files", lambda *arguments: pytest.fail("drawn again"))
        assert write_figures(tmp_path / "first") == first
    (second / "silhouette.svg").unlink()
    assert files(write_figures(tmp_path / "second") or second) == files(first)


def test_changed_groups_are_drawn_anew_and_stability_of_others_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_unimodal_groups=2, num_crossmodal_groups=2)
    folder = write_figures(run)
    assert folder is not None
    before = files(folder)
    groups = ParameterGroups.from_json_file(run / "parameter_groups.json")
    other = ParameterGroups.share_none(groups.unimodal, groups.crossmodal)
    write_changed(run / "parameter_groups.json", other.to_dict())
    after = files(write_figures(run) or folder)
    assert after["unimodal_matrix.svg"] != before["unimodal_matrix.svg"]
    assert "unimodal_stability.png" in before and "unimodal_stability.png" not in after
    (run / "parameter_groups.json").unlink()
    write_figures(run)
    assert not any(re.fullmatch(r"U\d", text) for text in texts(folder / "unimodal_matrix.svg"))


def test_no_text_is_cut_off_and_none_lies_on_another_at_fourteen_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [f"{task}/{name}" for task in ("digits", "parkinson_disease") for name in "abcdef"]
    nodes += ["push/proprioception", "motion/accelerometer"]
    run = make_run(tmp_path, nodes, num_unimodal_groups=2, num_crossmodal_groups=5)
    save, draw, boxes, drawn = Figure.savefig, Text.draw, [], set()

    def noted(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(figure, *arguments, **options)
        boxes.append(options["bbox_inches"])

    def noted_text(text: Text, *arguments: Any) -> None:
        draw(text, *arguments)
        if text.get_text() and text.get_visible():
            drawn.add(text)

    monkeypatch.setattr(Figure, "savefig", noted)
    monkeypatch.setattr(Text, "draw", noted_text)
    views = module.read_views(run)
    with module.fixed_style():
        figures = {**dict(module._figures(views)), "overview": module.overview_figure(views)}
        for name, figure in figures.items():
            drawn.clear()
            picture = module.draw_files(name, figure)[f"{name}.png"]
            renderer, box = figure.canvas.get_renderer(), boxes[-1]
            to_inches = figure.dpi_scale_trans.inverted()
            for text in drawn:
                place = text.get_window_extent(renderer).transformed(to_inches)
                assert box.x0 <= place.x0 and place.x1 <= box.x1, (name, text)
                assert box.y0 <= place.y0 and place.y1 <= box.y1, (name, text)
                assert text.get_fontsize() >= 6, (name, text)
            # What is cut off reaches the edge of the picture.
            with Image.open(io.BytesIO(picture)) as opened:
                pixels = np.asarray(opened.convert("L"))
            edges = (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:])
            assert all((edge == 255).all() for edge in edges), name
            number = re.compile(r"~?\d+\.?\d*")
            upright = [
                text
                for text in drawn
                if not text.get_rotation() and (text.get_text() in nodes or number.fullmatch(text.get_text()))
            ]
            places = [(text, text.get_window_extent(renderer)) for text in upright]
            for (one, first), (other, second) in itertools.combinations(places, 2):
                assert not first.overlaps(second), (name, one, other)
    assert len(figures) == 9


def test_without_a_matrix_of_two_nodes_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert write_figures(tmp_path) is None
    assert write_figures(make_run(tmp_path / "one", ["digits/image"])) is None
    assert not (tmp_path / "one" / "heterogeneity" / "figures").exists()


@pytest.mark.parametrize(
    ("nodes", "values"),
    [
        (UNIMODAL[:2], None),
        (UNIMODAL, np.zeros((4, 4))),
        (UNIMODAL, 2000.0 * distances(4)),
        (["x/" + "very_long_name_" * 8, "a$b$/<i>&", "c/d"], None),
    ],
    ids=["two nodes", "all equal", "large numbers", "names"],
)
def test_odd_matrices_can_be_drawn(tmp_path: Path, nodes: list[str], values: np.ndarray | None) -> None:
    folder = write_figures(make_run(tmp_path, nodes, values))
    assert folder is not None
    for name in ("unimodal_matrix", "unimodal_tree", "interaction_matrix", "singular_values"):
        with Image.open(folder / f"{name}.png") as picture:
            assert max(picture.size) < 2500
    if nodes[0].startswith("x/"):
        said = texts(folder / "unimodal_matrix.svg")
        assert "a$b$/&lt;i&gt;&amp;" in said and max(map(len, said)) < 100


def test_one_kind_of_matrix_alone_and_missing_distances_can_be_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "heterogeneity" / "interaction.json").unlink()
    matrix = HeterogeneityMatrix.from_json_file(run / "heterogeneity" / "unimodal.json")
    matrix.values[1, 0] = matrix.values[0, 1] = np.nan
    matrix.measured[1, 0] = matrix.measured[0, 1] = False
    matrix.to_json_file(run / "heterogeneity" / "unimodal.json")
    folder = write_figures(run)
    assert folder is not None
    names = {path.stem for path in folder.glob("*.svg")}
    assert "unimodal_matrix" in names and not {"unimodal_tree", "interaction_matrix", "silhouette"} & names
    assert "–" in texts(folder / "unimodal_matrix.svg")
