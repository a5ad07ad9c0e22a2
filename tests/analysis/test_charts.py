"""Charts: what they say about the numbers, and that it can be read without colour."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cut_tree

from highmmt.analysis import charts

NODES = ["a/image", "a/table", "b/image", "c/text"]
VALUES = [[0.0, 1.0, 0.1, 2.0], [1.0, 0.0, 0.9, 2.2], [0.1, 0.9, 0.0, 2.1], [2.0, 2.2, 2.1, 0.0]]


@st.composite
def distances(draw: st.DrawFn) -> list[list[float]]:
    size = draw(st.integers(2, 9))
    count = size * (size - 1) // 2
    found = draw(st.lists(st.integers(1, 10**6), min_size=count, max_size=count, unique=True))
    values = [[0.0] * size for _ in range(size)]
    for row in range(size):
        for column in range(row):
            values[row][column] = values[column][row] = found.pop() / 1000
    return values


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.5, "0.500"), (-0.0314, "−0.031"), (12.345, "12.35"), (1234.5, "1,234.5"), (None, "–"), (math.nan, "–")],
)
def test_numbers_are_written_with_three_decimals_and_fewer_where_they_are_large(
    value: float | None, written: str
) -> None:
    assert charts.format_number(value) == written


@pytest.mark.parametrize(
    ("count", "written"), [(528_000, "0.528 M"), (3_412_816, "3.41 M"), (32_300_000, "32.30 M"), (9_400, "9.4 k")]
)
def test_parameters_are_written_in_millions(count: int, written: str) -> None:
    assert charts.format_parameters(count) == written


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_stand_out_from_every_colour_they_are_written_on(dark: bool) -> None:
    for fill, ink in [*charts.heat_colors(dark), *charts.group_colors(dark)]:
        assert charts.contrast(fill, ink) >= 4.5, (fill, ink)


@pytest.mark.parametrize("dark", [False, True])
def test_the_colour_scale_is_ordered_by_lightness_alone(dark: bool) -> None:
    against_black = [charts.contrast(fill, "#000000") for fill, _ in charts.heat_colors(dark)]
    assert against_black == sorted(against_black, reverse=not dark)


def test_contrast_of_black_and_white_is_21() -> None:
    assert charts.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_every_distance_stands_once_in_the_heat_map_and_every_name_at_its_diagonal_cell() -> None:
    svg = charts.heat_map(NODES, VALUES, title="Distances")
    numbers = [text for text in texts(svg) if re.fullmatch(r"\d+\.\d+", text)]
    assert sorted(numbers) == ["0.10", "0.90", "1.00", "2.00", "2.10", "2.20"]
    assert [text for text in texts(svg) if text in NODES] == NODES
    assert 'role="img"' in svg and "<title>Distances</title>" in svg


def test_imputed_cells_differ_by_a_mark_and_a_frame_not_by_colour_alone() -> None:
    measured = [[True] * 4 for _ in NODES]
    measured[3][0] = measured[0][3] = False
    svg = charts.heat_map(NODES, VALUES, title="Distances", measured=measured)
    assert [text for text in texts(svg) if text.startswith("~")] == ["~2.00"]
    assert len(re.findall(r'class="imputed ', svg)) == 1
    assert "c/text – a/image: 2.000, imputed" in svg


def test_a_distance_that_is_missing_is_not_drawn_as_zero() -> None:
    values: list[list[float | None]] = [[0.0, None], [None, 0.0]]
    svg = charts.heat_map(["a/x", "b/x"], values, title="Distances")
    assert "–" in texts(svg) and "0.00" not in texts(svg)


def test_standard_errors_can_be_read_beside_their_distance() -> None:
    errors: list[list[float | None]] = [[None] * 4 for _ in NODES]
    errors[1][0] = 0.25
    assert "a/table – a/image: 1.000 ± 0.250 (standard error)" in charts.heat_map(
        NODES, VALUES, title="Distances", standard_errors=errors
    )


def test_names_cannot_break_out_of_a_chart() -> None:
    evil = "<script>alert('x')</script>/a&b"
    drawn = [
        charts.heat_map([evil, "b/x"], [[0, 1], [1, 0]], title=evil),
        charts.dendrogram([evil, "b/x"], charts.cluster_tree([[0, 1], [1, 0]]), title=evil),
        charts.scatter([charts.Point(evil, 1e6, 0.5)], title=evil, x_label=evil, y_label=evil),
        charts.line_chart([charts.Line([1], [0.5])], title=evil, y_label=evil, num_epochs=1),
    ]
    for svg in drawn:
        assert "<script" not in svg and "&lt;script&gt;" in svg


def test_one_outlier_does_not_flatten_the_colours_of_the_others() -> None:
    values = [[0.0, 0.2, 20.0], [0.2, 0.0, 21.0], [20.0, 21.0, 0.0]]
    many = [[0.0 if i == j else (20.0 if 9 in (i, j) else 0.2 + 0.01 * (i + j)) for j in range(10)] for i in range(10)]
    assert not charts.HeatScale.of(values).by_root  # two of three distances are large: no outlier
    scale = charts.HeatScale.of(many)
    assert scale.by_root
    assert scale.step(0.0) == 0 < scale.step(0.3) < scale.step(20.0) == charts.NUM_HEAT_STEPS - 1
    assert "square-root scale" in charts.heat_legend(scale, any_imputed=False)


def test_equal_distances_have_a_scale_and_a_tree() -> None:
    zero = [[0.0] * 3 for _ in range(3)]
    svg = charts.heat_map(["a/x", "b/x", "c/x"], zero, title="Distances", groups=[0, 0, 0])
    assert texts(svg).count("0.00") == 3
    tree = charts.cluster_tree(zero)
    for groups in ([0, 0, 0], [0, 1, 2]):
        assert "cut: " in charts.dendrogram(["a/x", "b/x", "c/x"], tree, title="Tree", groups=groups)


@given(values=distances(), data=st.data())
def test_groups_that_are_a_cut_of_the_tree_get_a_line_between_the_right_merges(
    values: list[list[float]], data: st.DataObject
) -> None:
    tree = charts.cluster_tree(values)
    num_groups = data.draw(st.integers(1, len(values)))
    groups = [int(group) for group in cut_tree(tree.merges, n_clusters=num_groups)[:, 0]]
    height = charts.cut_height(tree, groups)
    assert height is not None
    assert sum(height < merge for merge in tree.merges[:, 2]) == num_groups - 1


def test_groups_that_no_single_line_gives_get_no_line() -> None:
    tree = charts.cluster_tree(VALUES)
    assert charts.cut_height(tree, [0, 0, 1, 1]) is None
    svg = charts.dendrogram(NODES, tree, title="Tree", groups=[0, 0, 1, 1])
    assert "cut" not in "".join(texts(svg))


def test_leaves_carry_the_mark_of_their_group_and_their_full_name() -> None:
    svg = charts.dendrogram(NODES, charts.cluster_tree(VALUES), title="Tree", groups=[0, 0, 0, 1], prefix="U")
    found = texts(svg)
    assert [found.count(mark) for mark in ("U1", "U2")] == [3, 1]
    assert set(NODES) <= set(found) and "cut: 2 groups" in found


@pytest.mark.parametrize("method", ["ward", "nearest"])
def test_a_linkage_that_needs_more_than_distances_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"linkage '{method}' is not one of average, single, complete, weighted"):
        charts.cluster_tree(VALUES, method)


def test_an_incomplete_matrix_is_not_clustered() -> None:
    with pytest.raises(ValueError, match="a distance is missing"):
        charts.cluster_tree([[0.0, None], [None, 0.0]])


def test_the_pareto_front_is_what_nothing_smaller_beats() -> None:
    points = [
        charts.Point("small", 1e5, 0.5),
        charts.Point("middle", 2e5, 0.8),
        charts.Point("as large, worse", 2e5, 0.7),
        charts.Point("larger, equal", 3e5, 0.8),
        charts.Point("large", 4e5, 0.9),
    ]
    assert charts.pareto_front(points) == [True, True, False, False, True]
    assert charts.pareto_front(points, higher_is_better=False) == [True, False, False, False, False]


def test_points_off_the_front_are_hollow_and_all_are_named_with_their_numbers() -> None:
    points = [charts.Point("Share all", 5e5, 0.8, 0.01), charts.Point("Share none", 3e6, 0.7)]
    svg = charts.scatter(points, title="Scores", x_label="parameters", y_label="score", reference=0.75)
    assert len(re.findall(r'class="point hollow"', svg)) == 1
    assert {"Share all", "0.800 · 0.500 M", "Share none", "0.700 · 3.00 M", "reference scores 0.750"} <= set(
        texts(svg)
    )


@pytest.mark.parametrize("width", [328, 860])
def test_labels_of_near_points_lie_apart_and_inside_the_picture(width: float) -> None:
    points = [charts.Point(f"Method {number}", 1e6 * (1 + 0.02 * number), 0.8 + 0.001 * number) for number in range(4)]
    svg = charts.scatter(points, title="Scores", x_label="parameters", y_label="score", width=width)
    boxes = []
    for number, match in enumerate(re.finditer(r'<text x="([\d.]+)" y="([\d.]+)"([^>]*)>Method \d</text>', svg)):
        size = charts.text_width(f"Method {number}", 13)
        left = float(match[1]) - size * (0.5 if "middle" in match[3] else 1 if "end" in match[3] else 0)
        boxes.append((left, left + size, float(match[2])))
    assert len(boxes) == 4
    for index, (left, right, y) in enumerate(boxes):
        assert left >= 0 and right <= width
        for other_left, other_right, other_y in boxes[:index]:
            assert abs(y - other_y) >= 13 or left >= other_right or right <= other_left


def test_a_curve_has_a_gap_where_a_value_is_missing() -> None:
    svg = charts.line_chart(
        [charts.Line([1, 2, 3, 4, 5], [0.1, 0.2, None, 0.3, 0.4])], title="Curve", y_label="loss", num_epochs=5
    )
    path = re.search(r'class="curve validation" d="([^"]*)"', svg)
    assert path is not None and path[1].count("M") == 2 and path[1].count("L") == 2


def test_a_single_epoch_is_a_dot() -> None:
    svg = charts.line_chart([charts.Line([1], [0.5])], title="Curve", y_label="loss", num_epochs=1, kept=[1])
    assert 'class="dot validation"' in svg and 'class="kept validation"' in svg


def test_a_chart_without_any_value_still_has_its_title() -> None:
    svg = charts.line_chart([charts.Line([1, 2], [None, None])], title="Nothing", y_label="loss", num_epochs=2)
    assert "<title>Nothing</title>" in svg and "nan" not in svg


def test_axis_ticks_are_round_numbers_inside_the_range() -> None:
    for low, high in [(0.0, 1.0), (0.83, 0.861), (-3.0, 12.0), (0.0, 2e-4), (5.0, 5.0)]:
        ticks = charts.round_ticks(low, high, 5)
        assert 1 <= len(ticks) <= 6
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
        assert len(set(charts.tick_labels(ticks))) == len(ticks)


def test_the_style_sheet_has_every_colour_in_light_and_dark() -> None:
    css = charts.chart_css()
    light, dark = css.split("@media screen and (prefers-color-scheme:dark)")
    for name in [*(f"--h{i}:" for i in range(charts.NUM_HEAT_STEPS)), *(f"--g{i}:" for i in range(8))]:
        assert name in light and name in dark
