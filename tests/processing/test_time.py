"""Time: timestamps, which end of a series is kept, modalities that share one axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from highmmt.configuration import HighMMTConfig, ModalityConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.modeling_highmmt.inputs import grid_positions
from highmmt.processing import HighMMTProcessor
from highmmt.processing.rows import Source
from highmmt.processing.sequences import TimeSeriesSerializer

SOURCE = Source("task", "column", "modality")
TIMED: dict[str, Any] = {"time_channel": 0, "time_step": 0.5, "scale": "none", "clip": None}


def encoded(train: Any, rows: Any, **options: Any) -> list[Any]:
    serializer = TimeSeriesSerializer(**options)
    return [item.tolist() for item in serializer.encode(rows, SOURCE, serializer.fit(train, SOURCE)).split()]


def test_steps_stand_where_their_timestamps_say() -> None:
    series = [[0.1, 7.0], [0.4, 9.0], [1.5, 3.0]]
    assert encoded([series], [series], **TIMED) == [[[8, 0], [0, 1], [0, 1], [3, 0]]]
    shuffled = [series[2], series[0], series[1]]
    assert encoded([series], [shuffled], **TIMED) == encoded([series], [series], **TIMED)


def test_missing_numbers_take_no_part_in_the_mean_of_an_element() -> None:
    series = [[0.1, 7.0, None], [0.2, None, 2.0], [0.6, None, 4.0]]
    assert encoded([series], [series], **TIMED) == [[[7, 2, 0, 0], [0, 4, 1, 0]]]


def test_timestamps_outside_the_axis_are_left_out() -> None:
    series = [[-1.0, 1.0], [0.0, 2.0], [0.9, 3.0], [1.0, 4.0]]
    assert encoded([series], [series, [[5.0, 1.0]]], max_length=2, **TIMED) == [[[2, 0], [3, 0]], []]
    early = encoded([series], [series], time_start=-1.0, max_length=3, **TIMED)
    assert early == [[[1, 0], [0, 1], [2, 0]]]


@given(step=st.sampled_from([0.1, 0.3, 1 / 3, 7.0]), start=st.sampled_from([0.0, -2.5, 1e6]))
@settings(max_examples=12, deadline=None)
def test_regular_timestamps_give_the_series_itself(step: float, start: float) -> None:
    values = np.arange(20, dtype=np.float64)
    series = np.stack([start + step * np.arange(20), values], axis=1)
    options = {**TIMED, "time_step": step, "time_start": start}
    assert encoded([series], [series], **options) == [[[value, 0] for value in values]]


def test_bad_timestamps_are_refused_by_row() -> None:
    good = [[0.0, 1.0]]
    with pytest.raises(ValueError, match="column 'column', row 1: a timestamp is missing"):
        encoded([good], [good, [[None, 1.0]]], **TIMED)
    with pytest.raises(ValueError, match="row 1: a timestamp lies 3400000000 elements after time_start; choose"):
        encoded([good], [good, [[1.7e9, 1.0]]], **TIMED)
    with pytest.raises(ValueError, match="time_channel=2 is not among 2 channels"):
        encoded([good], [], **{**TIMED, "time_channel": 2})


BAD_OPTIONS = [
    ({"time_channel": 0}, "time_channel needs time_step, a positive number, not None"),
    ({"time_channel": 0, "time_step": 0}, "time_channel needs time_step, a positive number, not 0"),
    ({"time_channel": -1, "time_step": 1}, "time_channel=-1 must be a whole number"),
    ({"time_step": 1.0}, "need time_channel"),
    ({"time_start": float("nan")}, "time_start=nan must be a number"),
    ({"time_channel": 0, "time_step": 1, "keep": "last"}, "keep='last' would move"),
    ({"keep": "middle"}, "keep='middle' is not one of"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        TimeSeriesSerializer(**options)
    assert message in str(error.value)


def test_either_end_of_a_long_series_can_be_kept() -> None:
    series = [[[0.0], [1.0], [2.0], [3.0]], [[4.0]]]
    options: dict[str, Any] = {"scale": "none", "max_length": 3}
    assert encoded(series, series, **options) == [[[1], [2], [3]], [[4]]]
    assert encoded(series, series, keep="last", **options) == [[[1], [2], [3]], [[4]]]
    assert encoded(series, series, keep="first", **options) == [[[0], [1], [2]], [[4]]]


# One axis of time for several modalities: a second of film, sound, words and force


def second(length: float, seed: int) -> dict[str, Any]:
    """The first `length` of a second that every modality could cover."""
    rng = np.random.default_rng(seed)
    return {
        "film": rng.integers(0, 255, (int(10 * length), 4, 4)).astype(np.uint8),
        "sound": {"array": rng.normal(size=int(1000 * length)) * 0.1, "sampling_rate": 1000},
        "words": " ".join(["yes", "no", "maybe", "so", "on"][: int(5 * length)]),
        "force": rng.normal(size=(int(20 * length), 2)),
        # About two measurements in each tenth of a second, in no order, the last of them certainly in the last.
        "pulse": np.stack(
            [[length - 0.01, *rng.uniform(0, length, int(20 * length))], rng.normal(size=1 + int(20 * length))], axis=1
        ),
    }


@pytest.fixture(scope="module")
def aligned() -> HighMMTProcessor:
    modalities: dict[str, dict[str, Any]] = {
        "film": {"kind": "video", "max_length": 10},
        "sound": {
            "kind": "audio",
            "sample_rate_hz": 1000,
            "window_seconds": 0.1,
            "hop_seconds": 0.1,
            "num_mels": 4,
            "max_length": 10,
        },
        "words": {"kind": "text", "num_channels": 4, "min_frequency": 1, "max_length": 5},
        "force": {"kind": "time_series", "max_length": 20, "window": 2, "keep": "first"},
        "pulse": {"kind": "time_series", "max_length": 10, "time_channel": 0, "time_step": 0.1},
    }
    processor = HighMMTProcessor(
        {name: {**options, "num_frequency_bands": 2} for name, options in modalities.items()},
        {"toy": {"modalities": {name: {"column": name} for name in modalities}, "target": {"column": "label"}}},
    )
    rows = [second(1.0, 0), second(0.6, 1)]
    columns: dict[str, Any] = {"words": [row["words"] for row in rows]}
    columns["film"] = [row["film"].tolist() for row in rows]
    columns["sound"] = [row["sound"] for row in rows]
    columns["force"] = [row["force"].tolist() for row in rows]
    columns["pulse"] = [row["pulse"].tolist() for row in rows]
    processor.fit("toy", Dataset.from_dict({**columns, "label": [0, 1]}))
    return processor


def test_modalities_of_one_time_stand_at_the_same_positions(aligned: HighMMTProcessor) -> None:
    configs = {name: ModalityConfig(**values) for name, values in aligned.modality_configs().items()}
    assert {name: config.max_length for name, config in configs.items()} == {
        "film": 10,
        "sound": 10,
        "words": 5,
        "force": 10,
        "pulse": 10,
    }
    for length in (1.0, 0.6):
        inputs = aligned("toy", **second(length, 2))["inputs"]["toy"]
        points = {}
        for name, config in configs.items():
            shape = inputs[name].shape[1 : 1 + config.num_axes]
            # The last number of an axis's code is the position itself.
            points[name] = grid_positions(shape, config).reshape(*shape, -1)[..., 2 * config.num_frequency_bands]
        assert {float(item.flatten()[0]) for item in points.values()} == {-1.0}
        film = points["film"].flatten(1)[:, 0]
        assert torch.equal(film, points["sound"])
        assert torch.equal(film, points["force"])
        assert torch.equal(film, points["pulse"])
        assert (float(points["words"][-1]) == 1) == (length == 1)


def test_padding_moves_nothing_in_any_modality(aligned: HighMMTProcessor) -> None:
    config = HighMMTConfig(
        modalities=aligned.modality_configs(), tasks=aligned.task_configs(), num_latents=2, d_latents=8
    )
    torch.manual_seed(0)
    model = HighMMTModel(config).eval()
    short, long = second(0.4, 3), second(1.0, 4)
    both = {name: [short[name], long[name]] for name in short}
    with torch.no_grad():
        alone = model(**aligned("toy", **short)).logits["toy"]
        padded = model(**aligned("toy", **both)).logits["toy"][:1]
        cut = model(**aligned("toy", **{**short, "force": short["force"][:4]})).logits["toy"]
    torch.testing.assert_close(alone, padded)
    assert (alone - cut).abs().max() > 1e-6
