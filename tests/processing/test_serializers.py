"""One kind of raw data at a time, with values that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from highmmt.processing import SERIALIZERS, HighMMTProcessor
from highmmt.processing.kinds import ALIASES, build_serializer
from highmmt.processing.rows import Source

SOURCE = Source("task", "column", "modality")
FINITE = st.floats(-1e6, 1e6, allow_nan=False, width=32)
OR_MISSING = st.one_of(FINITE, st.just(float("nan")))


def encoded(kind: str, train: Any, rows: Any, **options: Any) -> list[np.ndarray]:
    serializer = build_serializer(kind, options, "Modality 'modality'")
    return serializer.encode(rows, SOURCE, serializer.fit(train, SOURCE)).split()


def ragged(width: int, numbers: st.SearchStrategy[float], smallest: int = 0) -> st.SearchStrategy[list[Any]]:
    vector = st.lists(numbers, min_size=width, max_size=width)
    return st.lists(st.lists(vector, min_size=smallest, max_size=5), min_size=1, max_size=6)


# Images


def test_an_mnist_image_becomes_49_patches_of_16_pixels() -> None:
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    (patches,) = encoded("image", [image], [image], scale="unit")
    assert patches.shape == (7, 7, 16)
    np.testing.assert_allclose(patches[1, 2], image[4:8, 8:12].reshape(-1) / 255, rtol=1e-6)


def test_images_are_extended_with_zero_at_the_bottom_and_the_right() -> None:
    (patches,) = encoded(
        "image", [np.full((5, 3), 9.0), np.zeros((5, 3))], [np.full((5, 3), 9.0)], patch_size=(2, 4), scale="unit"
    )
    assert patches.shape == (3, 1, 8)
    assert patches[0, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
    assert patches[2, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_colours_of_a_pixel_stay_together() -> None:
    image = np.zeros((2, 2, 3))
    image[0, 1] = [1, 2, 4]
    (patch,) = encoded("image", [image], [image], patch_size=2, scale="unit")
    assert (patch.reshape(4, 3)[1] * 4).tolist() == [1, 2, 4]


def test_standardised_training_pixels_have_mean_0_and_deviation_1() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8)).astype(np.uint8)
    patches = np.concatenate(encoded("image", images, images))
    assert abs(patches.mean()) < 1e-6
    assert abs(patches.std() - 1) < 1e-6


def test_a_single_image_with_three_axes_is_one_frame() -> None:
    image = np.random.default_rng(0).random((8, 8))
    (flat,) = encoded("image", [image], [image])
    (stack,) = encoded("image", [image], [image], num_axes=3)
    assert stack.shape == (1, 2, 2, 16)
    np.testing.assert_array_equal(stack[0], flat)


def test_a_blank_frame_is_flagged_and_left_out_of_the_statistics() -> None:
    frames = np.zeros((3, 4, 4))
    frames[0], frames[2] = 10.0, 30.0
    (patches,) = encoded("image", [frames], [frames], num_axes=3, blank="flag")
    assert patches[:, 0, 0, -1].tolist() == [0, 1, 0]
    assert patches[:, 0, 0, 0].tolist() == [-1, 0, 1]  # mean 20, deviation 10, without the blank frame
    (unflagged,) = encoded("image", [frames], [frames], num_axes=3)
    assert unflagged.shape[-1] == patches.shape[-1] - 1


def test_stacks_may_differ_in_their_number_of_frames() -> None:
    stacks = [np.ones((2, 4, 4)), np.ones((5, 4, 4))]
    assert [len(item) for item in encoded("image", stacks, stacks, num_axes=3)] == [2, 5]


def test_pil_images_equal_their_arrays() -> None:
    image_module = pytest.importorskip("PIL.Image")
    arrays = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    pictures = [image_module.fromarray(array) for array in arrays]
    for axes in (2, 3):
        frames = arrays[:, None] if axes == 3 else arrays
        expected = encoded("image", frames, frames, num_axes=axes)
        for found, wanted in zip(encoded("image", pictures, pictures, num_axes=axes), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


# Tables


def test_a_missing_value_is_zero_and_flagged() -> None:
    train = [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]
    rows = encoded("table", train, [[float("nan"), 20.0], [None, 30.0]], scale="standard")
    np.testing.assert_allclose(rows[0], [[0, 1], [0, 0]])
    np.testing.assert_allclose(rows[1], [[0, 1], [np.sqrt(1.5), 0]], rtol=1e-6)


def test_robust_scaling_is_median_and_normal_interquartile_range() -> None:
    train = [[float(value)] for value in range(1, 10)]  # median 5, quartiles 3 and 7
    (row,) = encoded("table", train, [[7.0]])
    np.testing.assert_allclose(row[0], [2 * 1.3489795 / 4, 0], rtol=1e-6)


def test_a_column_without_interquartile_range_falls_back_to_its_deviation() -> None:
    train = [[5.0]] * 9 + [[15.0]]  # deviation 3
    (row,) = encoded("table", train, [[11.0]])
    assert row[0].tolist() == [2.0, 0.0]


def test_a_constant_column_is_zero_even_where_it_changes_later() -> None:
    rows = encoded("table", [[7.0, 1.0], [7.0, 2.0]], [[7.0, 1.0], [1e9, 1.0]])
    assert [row[0].tolist() for row in rows] == [[0.0, 0.0], [0.0, 0.0]]


def test_a_column_that_was_never_known_is_zero_with_its_flag() -> None:
    rows = encoded("table", [[None, 1.0], [None, 2.0]], [[None, 1.0], [3.0, 1.0]])
    assert [row[0].tolist() for row in rows] == [[0.0, 1.0], [0.0, 0.0]]


def test_columns_of_zeros_and_ones_keep_their_values() -> None:
    rows = encoded("table", [[0.0], [0.0], [0.0], [1.0]], [[1.0], [0.0]])
    assert [row[0, 0] for row in rows] == [1.0, 0.0]


@settings(max_examples=40)
@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 20), st.integers(1, 4)), elements=OR_MISSING))
def test_tables_stay_finite_and_within_the_clip(train: np.ndarray) -> None:
    for quantile in (False, True):
        values = np.stack(encoded("table", train, train * 3, quantile=quantile, clip=2.0))
        assert np.isfinite(values).all()
        assert (np.abs(values) <= 2).all()


@given(hnp.arrays(np.float64, (40, 1), elements=st.integers(-1000, 1000)), st.sampled_from([0.25, 8.0]))
def test_quantile_scores_follow_the_order_of_the_values_and_no_unit(train: np.ndarray, unit: float) -> None:
    order = np.argsort(train[:, 0], kind="stable")
    scores = np.stack(encoded("table", train, train, quantile=True))[order, 0, 0]
    assert (np.diff(scores) >= 0).all()
    np.testing.assert_array_equal(
        np.stack(encoded("table", train * unit, train * unit, quantile=True))[order, 0, 0], scores
    )
    assert (np.abs(scores) < 2.6).all()


def test_quantile_scores_of_normal_data_are_nearly_the_data() -> None:
    train = np.random.default_rng(0).normal(size=(20000, 1))
    rows = encoded("table", train, [[-1.0], [0.0], [1.5]], quantile=True)
    np.testing.assert_allclose([row[0, 0] for row in rows], [-1, 0, 1.5], atol=0.05)


# Spectra


def test_each_number_of_a_spectrum_has_its_own_scale() -> None:
    train = [[1.0, 1e-20, 1e6], [3.0, 3e-20, 3e6]]
    rows = encoded("spectrum", train, train, scale="standard")
    np.testing.assert_allclose(rows[0], [[-1], [-1], [-1]], rtol=1e-6)
    np.testing.assert_allclose(rows[1], [[1], [1], [1]], rtol=1e-6)


def test_spectra_are_grouped_into_patches_and_the_last_is_filled_with_zeros() -> None:
    train = np.arange(20.0).reshape(2, 5, 2)
    (first, _) = encoded("spectrum", train, train, scale="none", clip=None, patch_size=2)
    np.testing.assert_array_equal(first, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]])
    flagged, _ = encoded("spectrum", train, train, scale="none", clip=None, patch_size=2, flag_missing=True)
    np.testing.assert_array_equal(flagged[2], [8, 9, 0, 0, 0, 0, 1, 1])


# Time series


def test_a_series_has_a_flag_for_each_channel_where_training_had_missing_values() -> None:
    train = [[[1.0, 2.0]], [[3.0, None]], [[5.0, 4.0]]]
    rows = encoded("time_series", train, [[[3.0, None], [3.0, 3.0]]])
    np.testing.assert_array_equal(rows[0], [[0, 0, 0, 1], [0, 0, 0, 0]])
    complete = [[[1.0, 2.0]], [[3.0, 4.0]]]
    assert encoded("time_series", complete, complete)[0].shape == (1, 2)
    assert encoded("time_series", complete, complete, flag_missing=True)[0].shape == (1, 4)


def test_longer_series_keep_their_last_steps() -> None:
    train = [np.arange(6.0)[:, None], np.arange(2.0)[:, None], np.zeros((0, 1))]
    rows = encoded("time_series", train, train, scale="none", max_length=3, clip=None)
    assert [row[:, 0].tolist() for row in rows] == [[3, 4, 5], [0, 1], []]


def test_a_window_puts_steps_side_by_side_and_flags_the_filling() -> None:
    train = [np.arange(6.0).reshape(3, 2), np.arange(2.0).reshape(1, 2)]
    rows = encoded("time_series", train, train, scale="none", window=2, flag_missing=True, clip=None)
    np.testing.assert_array_equal(rows[0], [[0, 1, 2, 3, 0, 0, 0, 0], [4, 5, 0, 0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(rows[1], [[0, 1, 0, 0, 0, 0, 1, 1]])


def test_the_elements_layout_gives_a_24_by_12_grid_of_one_channel() -> None:
    series = np.random.default_rng(0).normal(size=(4, 24, 12))
    steps, grid = (
        encoded("time_series", series, series)[0],
        encoded("time_series", series, series, layout="elements")[0],
    )
    assert grid.shape == (24, 12, 1)
    np.testing.assert_array_equal(grid[..., 0], steps)


# Sets


@settings(max_examples=40)
@given(ragged(2, FINITE, smallest=1), st.randoms(use_true_random=False))
def test_permuting_the_elements_of_a_set_permutes_the_encoded_elements(sets: list[Any], random: Any) -> None:
    order = list(range(len(sets[0])))
    random.shuffle(order)
    (before,) = encoded("set", sets, [sets[0]], empty="token")
    (after,) = encoded("set", sets, [[sets[0][index] for index in order]], empty="token")
    np.testing.assert_array_equal(after, before[order])


def test_an_empty_set_is_one_token_if_asked_for_and_nothing_otherwise() -> None:
    sets = [[[1.0, 0.0], [3.0, 1.0]], [], None, [], [[2.0, 1.0]]]
    plain = encoded("set", sets, sets)
    assert [item.shape for item in plain] == [(2, 2), (0, 2), (0, 2), (0, 2), (1, 2)]
    rows = encoded("set", sets, sets, empty="token")
    assert [item.shape for item in rows] == [(2, 3), (1, 3), (0, 3), (1, 3), (1, 3)]
    assert rows[1].tolist() == rows[3].tolist() == [[0, 0, 1]]
    for row, wanted in ((0, plain[0]), (4, plain[4])):
        np.testing.assert_array_equal(rows[row][:, :2], wanted)
        assert (rows[row][:, 2] == 0).all()


# All kinds


@settings(max_examples=40)
@given(ragged(2, OR_MISSING))
def test_a_row_alone_gives_the_same_bits_as_in_any_batch(rows: list[Any]) -> None:
    train = [[[1.0, 5.0], [2.5, None]], [[9.0, 4.0]], []]
    for kind, options in (
        ("set", {"empty": "token"}),
        ("time_series", {"window": 2}),
        ("time_series", {"quantile": True, "max_length": 2}),
    ):
        together = encoded(kind, train, rows, **options)
        for row, wanted in zip(rows, together, strict=True):
            (alone,) = encoded(kind, train, [row], **options)
            assert alone.tobytes() == wanted.tobytes()


@settings(max_examples=40)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=OR_MISSING))
def test_arrow_lists_and_arrays_give_the_same_bits(values: np.ndarray) -> None:
    train = np.array([[0.5, 2, 7], [1, 3, 7], [2, 9, 7]])
    forms = [
        values,
        values.tolist(),
        list(values),
        pa.array(list(values), pa.list_(pa.float32())),
        pa.array(list(values), pa.list_(pa.float64())),
        pa.array(list(values), pa.list_(pa.float32(), 3)),
        pa.chunked_array([pa.array([row], pa.large_list(pa.float32())) for row in values]),
        pa.array([[0, 0, 0], *values], pa.list_(pa.float32(), 3))[1:],
    ]
    wanted = [item.tobytes() for item in encoded("table", train, values)]
    for form in forms:
        assert [item.tobytes() for item in encoded("table", train, form)] == wanted


def test_arrow_rows_that_are_null_or_empty_are_absent_wherever_they_stand() -> None:
    rows = [None, [[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]], None]
    for kind in (pa.list_(pa.list_(pa.float32(), 2)), pa.list_(pa.list_(pa.float64()))):
        values = encoded("time_series", rows, pa.array(rows, kind), scale="none", clip=None)
        assert [item.tolist() for item in values] == [row or [] for row in rows]
    fixed = pa.array([None, [[1.0], [2.0]], [[3.0], [4.0]]], pa.list_(pa.list_(pa.float32(), 1), 2))
    assert [len(item) for item in encoded("spectrum", fixed, fixed)] == [0, 2, 2]
    assert [len(item) for item in encoded("spectrum", fixed, fixed[1:])] == [2, 2]


def test_large_numbers_do_not_overflow() -> None:
    train = [[1e300, -1e300], [-1e300, 1e300], [3e299, 0.0]]
    for scale in ("robust", "standard", "none"):
        assert np.isfinite(np.stack(encoded("table", train, train, scale=scale, clip=None))).all()


def test_input_arrays_are_never_changed() -> None:
    rng = np.random.default_rng(0)
    for kind, shape in (
        ("image", (3, 8, 8)),
        ("table", (3, 4)),
        ("spectrum", (3, 4)),
        ("time_series", (3, 5, 2)),
        ("set", (3, 5, 2)),
    ):
        values = rng.normal(size=shape)
        values.setflags(write=False)
        before = values.tobytes()
        encoded(kind, values, values)
        assert values.tobytes() == before


BITES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("image", {}, {"patch_size": 2}),
    ("image", {}, {"patch_size": [4, 2]}),
    ("image", {}, {"num_axes": 3, "num_colors": 3}),
    ("image", {}, {"scale": "unit"}),
    ("image", {}, {"blank": "flag"}),
    ("image", {}, {"num_channels": 60}),
    ("table", {}, {"scale": "standard"}),
    ("table", {}, {"scale": "none"}),
    ("table", {}, {"quantile": True}),
    ("table", {}, {"clip": 0.5}),
    ("table", {}, {"num_channels": 3}),
    ("spectrum", {}, {"scale": "standard"}),
    ("spectrum", {}, {"patch_size": 2}),
    ("spectrum", {}, {"quantile": True}),
    ("spectrum", {}, {"clip": 0.5}),
    ("spectrum", {}, {"flag_missing": True}),
    ("spectrum", {}, {"num_channels": 5}),
    ("time_series", {}, {"scale": "robust"}),
    ("time_series", {}, {"quantile": True}),
    ("time_series", {}, {"clip": 0.5}),
    ("time_series", {}, {"window": 2}),
    ("time_series", {}, {"max_length": 2}),
    ("time_series", {}, {"layout": "elements"}),
    ("time_series", {}, {"flag_missing": True}),
    ("time_series", {}, {"num_channels": 5}),
    ("set", {}, {"scale": "robust"}),
    ("set", {}, {"quantile": True}),
    ("set", {}, {"clip": 0.5}),
    ("set", {}, {"empty": "token"}),
    ("set", {}, {"flag_missing": True}),
    ("set", {}, {"num_channels": 5}),
]


@pytest.mark.parametrize(
    ("kind", "first", "second"), BITES, ids=[f"{kind}-{next(iter(new))}" for kind, _, new in BITES]
)
def test_every_option_changes_what_is_encoded(kind: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    values = np.random.default_rng(0).exponential(size=(6, 8, 6, 3) if kind == "image" else (6, 8, 3))
    values = values[:, :, 0] if kind == "table" else values
    before, after = encoded(kind, values, values, **first), encoded(kind, values, values, **second)
    assert [item.shape for item in before] != [item.shape for item in after] or not np.array_equal(before[0], after[0])


def test_the_shape_that_is_announced_is_the_shape_that_is_encoded() -> None:
    values = np.random.default_rng(0).exponential(size=(6, 8, 6, 3))
    for kind, _, options in BITES:
        rows = {"image": values, "table": values[:, :, 0, 0]}.get(kind, values[:, :, :3, 0])
        serializer = build_serializer(kind, options, "Modality 'modality'")
        statistics = serializer.fit(rows, SOURCE)
        shape = serializer.shape(statistics)
        row = serializer.encode(rows, SOURCE, statistics).split()[0]
        assert row.shape[1:] == shape.tail
        assert shape.axes[0] in (None, len(row))
        assert len(shape.axes) == row.ndim - 1


def test_other_names_of_kinds_are_read_and_the_kinds_own_name_is_saved() -> None:
    for name, kind in ALIASES.items():
        processor = HighMMTProcessor({"one": {"kind": name}}, {"toy": TOY})
        assert processor.to_dict()["modalities"]["one"]["kind"] == kind
        assert type(processor.serializer("toy", "one")) is SERIALIZERS[kind]


SENSORS = ["sensor", "force", "proprioception", "control"]


@pytest.mark.parametrize("kind", SENSORS)
def test_a_plain_vector_of_a_sensor_is_one_step_whose_channels_have_their_own_scales(kind: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 3)) * [1, 1000, 0.01] + [0, 5000, 1]
    processor = HighMMTProcessor({"one": {"kind": kind}}, {"toy": TOY})
    rows = Dataset.from_dict({"one": [None, *vectors[1:].tolist()], "label": [0, 1] * 25})
    processor.fit("toy", rows)
    batch = processor("toy", rows[1:])["inputs"]["toy"]["one"]
    assert batch.shape == (49, 1, 3)
    np.testing.assert_allclose(batch.mean(dim=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(batch.std(dim=(0, 1), correction=0), 1, rtol=1e-5)
    assert processor("toy", one=vectors[7])["inputs"]["toy"]["one"].tolist() == batch[6:7].tolist()
    encoded = processor.encode("toy", rows)["one"]
    assert encoded[0] == [] and encoded[7] == batch[6].reshape(-1).tolist()
    with pytest.raises(ValueError, match="column 'one', row 1: found a vector of 2 numbers, expected 3; vector=false"):
        processor("toy", one=[vectors[0], vectors[0, :2]])


@pytest.mark.parametrize("kind", SENSORS)
def test_steps_of_a_sensor_are_those_of_a_time_series(kind: str) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 5, 3))
    processors = [HighMMTProcessor({"one": {"kind": name}}, {"toy": TOY}) for name in (kind, "time_series")]
    for processor in processors:
        processor.fit("toy", Dataset.from_dict({"one": rows.tolist(), "label": [0, 1] * 3}))
    sensor, series = (processor("toy", one=rows)["inputs"]["toy"]["one"] for processor in processors)
    assert sensor.shape == (6, 5, 3) and sensor.tolist() == series.tolist()


def test_numbers_of_a_series_stay_steps_of_one_channel_unless_they_are_a_vector() -> None:
    rows = [[1.0, 2.0, 3.0, 4.0], [3.0, 1.0]]
    assert [item.shape for item in encoded("time_series", rows, rows)] == [(4, 1), (2, 1)]
    assert encoded("time_series", rows[:1], rows[:1], vector=True)[0].shape == (1, 4)
    (timed,) = encoded("time_series", [[0.5, 7.0], [1.5, 9.0]], [[1.5, 9.0]], vector=True, time_channel=0, time_step=1)
    assert timed.tolist() == [[0, 1], [1, 0]]
    assert not build_serializer("time_series", {}, "Modality 'a'").vector
    processor = HighMMTProcessor({"one": {"kind": "sensor", "vector": False}}, {"toy": TOY})
    assert not processor.serializer("toy", "one").vector


TOY = {"modalities": {"one": {"column": "one"}}, "target": {"column": "label"}}

BAD_OPTIONS = [
    ("image", {"patchsize": 4}, "kind 'image' has no option 'patchsize'; its options are blank"),
    ("image", {"patch_size": 0}, "patch_size=0 must be a whole number"),
    ("image", {"patch_size": [1, 2, 3]}, "patch_size=[1, 2, 3] must be a whole number or a pair"),
    ("image", {"num_axes": 4}, "num_axes=4 is not one of 2, 3"),
    ("image", {"blank": "mask"}, "blank='mask' is not one of None, 'flag'"),
    ("table", {"clip": 0}, "clip=0 must be a positive number"),
    ("table", {"clip": True}, "clip=True must be a positive number"),
    ("table", {"quantile": True, "scale": "standard"}, "takes the place of scale='standard'"),
    ("table", {"scale": "minmax"}, "scale='minmax' is not one of"),
    ("time_series", {"window": 1.5}, "window=1.5 must be a whole number"),
    ("time_series", {"window": 2, "layout": "elements"}, "layout='elements' keeps apart"),
    ("time_series", {"flag_missing": "yes"}, "flag_missing='yes' is not one of"),
    ("set", {"max_length": 3}, "max_length is no option of sets"),
    ("set", {"empty": "zero"}, "empty='zero' is not one of None, 'token'"),
    ("text", {"algorithm": "unigram"}, "algorithm='unigram' is not one of 'word', 'bpe'"),
    ("text", {"tokenizer": "bert"}, "no option 'tokenizer'"),
    ("tabel", {}, "unknown kind 'tabel'; kinds are image, video, audio, "),
]


@pytest.mark.parametrize(("kind", "options", "message"), BAD_OPTIONS)
def test_impossible_options_are_refused_by_name(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        build_serializer(kind, options, "Modality 'mine'")
    assert "Modality 'mine'" in str(error.value)
    assert message in str(error.value)


BAD_VALUES = [
    ("table", [[1.0, 2.0]], [[1.0, 2.0], [1.0]], "row 1", "found shape 1, expected 2"),
    ("table", [[1.0, 2.0]], [[1.0, float("inf")]], "row 0", "infinite"),
    ("table", [[1.0, 2.0]], [[1.0, 2.0], ["a", "b"]], "row 1", "expected numbers"),
    ("table", [[1.0, 2.0]], [[1.0, None], [None, "b"]], "row 1", "found str 'b', expected numbers"),
    ("table", [[1.0, 2.0]], [[1.0, 2.0], 3.0], "row 1", "found a single number"),
    ("table", [[1.0, 2.0]], [[[1.0, 2.0]]], "row 0", "found shape 1 x 2, expected any"),
    ("table", [[1.0, 2.0]], pa.array([[1.0, 2.0], [1.0, 2.0, 3.0]]), "row 1", "found shape 3, expected 2"),
    ("table", [[1.0, 2.0]], pa.array(["a", "b"]), "row 0", "found str 'a', expected numbers"),
    ("table", [[1.0, 2.0]], pa.array([["a", "b"]]), "row 0", "found str 'a', expected numbers"),
    (
        "image",
        [np.zeros((4, 4))],
        [np.zeros((4, 4)), np.zeros((4, 5))],
        "row 1",
        "found shape 4 x 5, expected any x 4",
    ),
    ("image", [np.zeros((4, 4))], [np.zeros((4, 4)), np.zeros((5, 4))], "row 1", "found shape 5 x 4, expected 4 x 4"),
    ("image", [np.zeros((4, 4))], [np.zeros((4, 4)), np.full((4, 4), np.nan)], "row 1", "missing pixels"),
    ("image", [np.zeros((4, 4))], [np.full((4, 4), -np.inf)], "row 0", "infinite"),
    ("spectrum", [[1.0, 2.0]], [[1.0, 2.0], [1.0, None]], "row 1", "missing values and there are no flags"),
    ("spectrum", [[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0, 3.0]], "row 1", "found shape 3, expected 2"),
    ("time_series", [[[1.0, 2.0]]], [[[1.0, 2.0]], [[1.0, 2.0, 3.0]]], "row 1", "found shape 1 x 3, expected any x 2"),
    ("time_series", [[[1.0, 2.0]]], [[[1.0, 2.0], [1.0]]], "row 0", "lists of different lengths"),
    (
        "time_series",
        [[[1.0, 2.0]]],
        pa.array([[[1.0, 2.0]], [[1.0, 2.0], [1.0]]]),
        "row 1",
        "found a list of 1 values",
    ),
    ("time_series", [[[1.0, 2.0]]], pa.array([[], [[1.0, 2.0], None]]), "row 1", "a missing (null) list"),
    ("time_series", [[[1.0, 2.0]]], [[[1.0, 2.0]], [[1.0, None]]], "row 1", "set flag_missing=true"),
    ("set", [[[1.0, 2.0]]], [[], [[1.0, float("-inf")]]], "row 1", "infinite"),
]


@pytest.mark.parametrize(("kind", "train", "rows", "row", "message"), BAD_VALUES)
def test_bad_values_are_refused_with_task_column_and_row(
    kind: str, train: Any, rows: Any, row: str, message: str
) -> None:
    with pytest.raises(ValueError) as error:
        encoded(kind, train, rows)
    for part in ("Task 'task', modality 'modality', column 'column'", f"{row}:", message):
        assert part in str(error.value)


OTHER_ROWS = ("audio", "graph", "text", "word_vectors")  # rows of these are no lists of numbers


@pytest.mark.parametrize("kind", [kind for kind in SERIALIZERS if kind not in OTHER_ROWS])
def test_a_training_split_without_values_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="the training split holds no"):
        encoded(kind, [[], None], [])


def test_missing_values_in_training_are_refused_where_flags_are_switched_off() -> None:
    with pytest.raises(ValueError, match="row 1: found missing values while flag_missing=false"):
        encoded("time_series", [[[1.0]], [[None]]], [], flag_missing=False)


def test_elements_wider_than_num_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="elements have 3 channels, num_channels=2 is too narrow"):
        encoded("time_series", [[[1.0, 2.0, 3.0]]], [], num_channels=2)
