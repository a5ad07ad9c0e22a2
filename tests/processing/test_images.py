"""Pictures in every form they come in: files, PIL images, arrays; colours, sizes, frames."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from highmmt.processing import HighMMTProcessor
from highmmt.processing.images import recolored, resized
from highmmt.processing.kinds import build_serializer
from highmmt.processing.rows import Source

SOURCE = Source("task", "column", "modality")


def encoded(kind: str, train: Any, rows: Any, **options: Any) -> list[np.ndarray]:
    serializer = build_serializer(kind, options, "Modality 'modality'")
    return serializer.encode(rows, SOURCE, serializer.fit(train, SOURCE)).split()


def file_bytes(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 3), (8, 12, 4)])
def test_bytes_paths_pictures_and_arrays_give_the_same_patches(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = noise(*shape)
    (tmp_path / "picture.png").write_bytes(file_bytes(pixels))
    forms = [
        pixels,
        pixels.tolist(),
        Image.fromarray(pixels),
        file_bytes(pixels),
        str(tmp_path / "picture.png"),
        tmp_path / "picture.png",
        {"bytes": file_bytes(pixels), "path": None},
        {"bytes": None, "path": str(tmp_path / "picture.png")},
    ]
    (expected,) = encoded("image", [pixels], [pixels])
    assert expected.shape == (2, 3, int(np.prod(shape[2:])) * 16)
    for form in forms:
        np.testing.assert_array_equal(encoded("image", [form], [form])[0], expected)
    (found,) = encoded("image", ["picture.png"], ["picture.png"], folder=str(tmp_path))
    np.testing.assert_array_equal(found, expected)


def test_sixteen_bit_depth_maps_keep_their_values() -> None:
    depth = np.array([[0, 1000], [30000, 65535]], np.uint16)
    (patch,) = encoded("image", [depth], [file_bytes(depth)], patch_size=2, scale="unit")
    np.testing.assert_allclose(patch[0, 0] * 65535, depth.reshape(-1), rtol=1e-6)


def test_pictures_of_another_depth_than_the_training_splits_are_refused() -> None:
    shallow, deep = noise(4, 4), noise(4, 4).astype(np.uint16) * 257
    for train, other, message in (
        (file_bytes(shallow), file_bytes(deep), "row 1: found pixels of 16 bits, expected 8"),
        (file_bytes(deep), file_bytes(shallow), "row 1: found pixels of 8 bits, expected 16"),
        (file_bytes(shallow), Image.fromarray(shallow.astype(np.float32)), "found pixels of 32 bits, expected 8"),
    ):
        for options in ({}, {"size": 2}, {"num_colors": 1}):
            with pytest.raises(ValueError, match=message):
                encoded("image", [train], [train, other], **options)
        with pytest.raises(ValueError, match=message):
            encoded("image", [train, other], [])
        with pytest.raises(ValueError, match=message.replace("row 1", "row 0")):
            encoded("video", [[train]], [[other]])
    # Arrays are their numbers, whatever type holds them.
    assert encoded("image", [shallow], [shallow.astype(np.uint16)])[0].tolist() == (
        encoded("image", [file_bytes(shallow)], [shallow.astype(np.int64).tolist()])[0].tolist()
    )


def test_black_and_white_files_are_grey_ones_of_two_values() -> None:
    pixels = noise(4, 4) > 127
    (patch,) = encoded("image", [noise(4, 4)], [Image.fromarray(pixels)], scale="unit")
    np.testing.assert_array_equal(patch[0, 0], pixels.reshape(-1))


def test_features_of_frames_are_no_video() -> None:
    with pytest.raises(ValueError, match=r"row 1: found shape 9 x 35, expected frames .*: use kind time_series"):
        encoded("video", [None, np.zeros((9, 35))], [])


def test_colours_become_brightness_and_grey_becomes_colours() -> None:
    pixels = noise(4, 4, 4)
    luma = pixels[..., :3] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(recolored(pixels, 1, False), luma, rtol=1e-6)
    np.testing.assert_array_equal(recolored(pixels, 3, False), pixels[..., :3])
    grey = noise(4, 4)
    assert recolored(grey, 3, False).shape == (4, 4, 3)
    assert (recolored(grey, 3, False) == grey[..., None]).all()
    np.testing.assert_allclose(recolored(pixels[None], 1, True)[0], luma, rtol=1e-6)


def test_pictures_of_several_modes_and_sizes_meet_in_one_shape() -> None:
    pictures = [
        Image.fromarray(noise(9, 7)),
        Image.fromarray(noise(20, 30, 3)),
        Image.fromarray(noise(8, 8, 4)),
        Image.fromarray(noise(8, 8)).convert("P"),
        Image.fromarray(noise(8, 8)).convert("1"),
    ]
    for colors in (1, 3):
        found = encoded("image", pictures, pictures, size=(8, 12), num_colors=colors)
        assert {item.shape for item in found} == {(2, 3, 16 * colors)}
    with pytest.raises(ValueError, match="row 1: found shape 20 x 30 x 3, expected any x 7"):
        encoded("image", pictures, pictures)


@given(height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_resizing_keeps_what_is_constant(height: int, width: int) -> None:
    for flat in (np.full((5, 6), 37, np.uint8), np.full((5, 6, 3), 40000, np.uint16), np.full((2, 5, 6), 0.25)):
        stacked = flat.shape[0] == 2
        found = resized(flat, (height, width), stacked)
        assert found.shape[stacked : stacked + 2] == (height, width)
        np.testing.assert_allclose(found, np.broadcast_to(flat.flat[0], found.shape), rtol=1e-6)


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 4:] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    photo = file_bytes(pixels, "PNG", exif=exif)
    (patches,) = encoded("image", [photo], [photo], scale="unit")
    assert patches.shape == (2, 1, 16)
    assert patches[0].max() == 0
    assert patches[1].min() == 1


def test_columns_of_files_are_read_from_a_dataset(tmp_path: Path) -> None:
    pictures = noise(4, 8, 8)
    paths = []
    for index, pixels in enumerate(pictures):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(pixels).save(paths[-1])
    columns = {
        "path": Dataset.from_dict({"picture": paths}),
        "bytes": Dataset.from_dict({"picture": [file_bytes(pixels) for pixels in pictures]}),
        "feature": Dataset.from_dict({"picture": paths}, features=Features(picture=datasets.Image())),
        "large": Dataset.from_dict({"picture": paths}, features=Features(picture=Value("large_string"))),
    }
    expected = np.stack(encoded("image", pictures, pictures))
    for name, rows in columns.items():
        rows = rows.add_column("label", [0, 1, 0, 1])
        processor = image_processor(rows)
        batch = processor.collate("toy", processor.encode("toy", rows).with_format("arrow")[:])
        np.testing.assert_array_equal(batch["inputs"]["toy"]["image"].numpy(), expected, err_msg=name)


def image_processor(rows: Dataset, **options: Any) -> HighMMTProcessor:
    processor = HighMMTProcessor(
        {"image": {"kind": "image", **options}},
        {"toy": {"modalities": {"image": {"column": "picture"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", rows)
    return processor


def test_a_call_tells_one_picture_from_several(tmp_path: Path) -> None:
    pictures = noise(2, 8, 8, 3)
    rows = Dataset.from_dict({"picture": [file_bytes(pixels) for pixels in pictures], "label": [0, 1]})
    processor = image_processor(rows, num_colors=1)
    Image.fromarray(pictures[0]).save(tmp_path / "one.png")
    for one in (str(tmp_path / "one.png"), file_bytes(pictures[0]), Image.fromarray(pictures[0])):
        assert processor("toy", image=one)["inputs"]["toy"]["image"].shape == (1, 2, 2, 16)
        assert processor("toy", image=[one, None])["inputs"]["toy"]["image"].shape == (2, 2, 2, 16)
        assert processor("toy", picture=one, label=1)["labels"]["toy"].tolist() == [1]


def test_colour_arrays_of_a_grey_modality_are_one_sample_each() -> None:
    pictures = noise(2, 8, 8, 3)
    processor = image_processor(Dataset.from_dict({"picture": pictures.tolist(), "label": [0, 1]}), num_colors=1)
    assert processor("toy", image=pictures[0])["inputs"]["toy"]["image"].shape == (1, 2, 2, 16)
    assert processor("toy", image=pictures)["inputs"]["toy"]["image"].shape == (2, 2, 2, 16)


BROKEN = [
    (b"no image", "row 1: the image cannot be read: it is cut, or in no format"),
    (file_bytes(noise(8, 8))[:-40], "row 1: the image cannot be read:"),
    (b"", "row 1: the image cannot be read:"),
    ("gone.png", "row 1: there is no image file gone.png"),
    ({"height": 3}, "row 1: found a structure of height, expected an image"),
    (7, "row 1: found shape a single number"),
    (np.full((8, 8), np.nan), "row 1: found missing pixels"),
    (noise(9, 8), "row 1: found shape 9 x 8, expected 8 x 8"),
    (np.array([["a"] * 8] * 8), "row 1: found <U1 values, expected numbers"),
]


@pytest.mark.parametrize(("value", "message"), BROKEN)
def test_what_is_no_picture_is_refused_by_row(value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        encoded("image", [noise(8, 8)], [noise(8, 8), value])
    assert str(error.value).startswith("Task 'task', modality 'modality', column 'column', ")
    assert message in str(error.value).replace("found a single number, expected a list", "found shape a single number")


def test_a_picture_that_cannot_be_resized_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0: found infinite or missing pixels"):
        encoded("image", [np.full((4, 4), np.nan)], [], size=8)
    with pytest.raises(ValueError, match="row 0: found a list of 2 pictures, expected one; stacks need num_axes=3"):
        encoded("image", [[file_bytes(noise(4, 4))] * 2], [])


def test_statistics_of_many_pictures_are_those_of_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [None, *noise(9, 8, 8)]
    monkeypatch.setattr("highmmt.processing.rows.MAX_FIT_NUMBERS", 5 * 64)
    serializer = build_serializer("image", {}, "Modality 'modality'")
    statistics = serializer.fit(pictures, SOURCE)
    assert statistics["mean"] == pytest.approx(np.stack(pictures[2::2]).mean())
    assert (
        serializer.fit(pa.array([None if item is None else item.tolist() for item in pictures]), SOURCE) == statistics
    )
    with pytest.raises(ValueError, match="row 4: the image cannot be read"):
        serializer.fit([file_bytes(item) for item in pictures[1:5]] + [b"broken"] * 6, SOURCE)


# Videos


def test_a_patch_of_a_video_runs_over_frames_then_pixels() -> None:
    video = np.arange(5 * 4 * 8, dtype=np.float64).reshape(5, 4, 8)
    (patches,) = encoded("video", [video], [video], patch_frames=2, scale="unit")
    assert patches.shape == (3, 1, 2, 32)
    high = video.max()
    np.testing.assert_allclose(patches[1, 0, 1] * high, video[2:4, :, 4:].reshape(-1), rtol=1e-6)
    np.testing.assert_allclose(patches[2, 0, 0, :16] * high, video[4, :, :4].reshape(-1), rtol=1e-6)
    assert (patches[2, 0, 0, 16:] == 0).all()


def test_blank_frames_of_a_patch_have_a_flag_each() -> None:
    video = np.zeros((3, 4, 4))
    video[0], video[2] = 10.0, 30.0
    (patches,) = encoded("video", [video], [video], patch_frames=2, blank="flag")
    assert patches.shape == (2, 1, 1, 34)
    assert patches[:, 0, 0, -2:].tolist() == [[0, 1], [0, 1]]
    assert patches[:, 0, 0, 0].tolist() == [-1, 1]
    assert (patches[:, 0, 0, 16:32] == 0).all()


def test_a_video_of_one_frame_patches_equals_a_stack_of_images() -> None:
    videos = [noise(2, 8, 8, 3), noise(5, 8, 8, 3)]
    for found, wanted in zip(
        encoded("video", videos, videos), encoded("image", videos, videos, num_axes=3), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_animations_and_lists_of_files_are_videos() -> None:
    frames = noise(3, 8, 8)
    pages = [Image.fromarray(frame) for frame in frames]
    stream = io.BytesIO()
    pages[0].save(stream, "PNG", save_all=True, append_images=pages[1:])
    forms = [stream.getvalue(), pages, [file_bytes(frame) for frame in frames], frames.tolist()]
    (expected,) = encoded("video", [frames], [frames])
    assert expected.shape == (3, 2, 2, 16)
    for form in forms:
        np.testing.assert_array_equal(encoded("video", [form], [form])[0], expected)
    with pytest.raises(ValueError, match="row 0: the frames differ in size or colours"):
        encoded("video", [[pages[0], Image.fromarray(noise(4, 4))]], [])


def test_a_long_video_keeps_its_first_frames() -> None:
    video = noise(7, 4, 4)
    serializer = build_serializer("video", {"max_length": 4, "patch_frames": 2}, "Modality 'video'")
    statistics = serializer.fit([video], SOURCE)
    (found,) = serializer.encode([video], SOURCE, statistics).split()
    (whole,) = encoded("video", [video], [video], patch_frames=2)
    np.testing.assert_array_equal(found, whole[:2])
    assert serializer.position_length == 2
    assert serializer.shape(statistics).axes == (2, 1, 1)


def test_a_call_tells_one_video_from_several() -> None:
    frames = noise(3, 8, 8)
    pages = [file_bytes(frame) for frame in frames]
    processor = HighMMTProcessor(
        {"video": {"kind": "video"}},
        {"toy": {"modalities": {"video": {"column": "clip"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", Dataset.from_dict({"clip": [pages, pages[:2]], "label": [0, 1]}))
    assert processor("toy", video=pages)["inputs"]["toy"]["video"].shape == (1, 3, 2, 2, 16)
    batch = processor("toy", video=[pages, pages[:1]])
    assert batch["inputs"]["toy"]["video"].shape == (2, 3, 2, 2, 16)
    assert batch["attention_mask"]["toy"]["video"][1, :, 0, 0].tolist() == [True, False, False]


def test_picture_processors_survive_saving(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"picture": [file_bytes(noise(9, 9, 3)), file_bytes(noise(5, 7))], "label": [0, 1]})
    processor = image_processor(rows, size=[8, 4], num_colors=3)
    processor.save_pretrained(tmp_path)
    loaded = HighMMTProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    one, other = (item("toy", image=file_bytes(noise(6, 6)))["inputs"]["toy"]["image"] for item in (processor, loaded))
    assert one.shape == (1, 2, 1, 48)
    assert (one == other).all()
