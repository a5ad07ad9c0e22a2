"""The files of MultiBench become rows: what is read, what is corrected, what the public code's quirks are."""

from __future__ import annotations

import builtins
import shutil
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from highmmt.suites import Suite, load_suite, register_builder
from highmmt.suites.builders import build_rows, builder_class, builder_names
from highmmt.suites.multibench.affect import trimmed
from highmmt.suites.multibench.enrico import TOPICS
from highmmt.suites.multibench.enrico import public_split as enrico_split
from highmmt.suites.multibench.mimic import public_split as mimic_split
from highmmt.suites.multibench.restricted_pickle import read_pickled_arrays
from highmmt.suites.multibench.twin_files import write_hdf5, write_pickle, write_torch
from highmmt.suites.multibench.twins import write_twins

SPLITS = ("train", "validation", "test")
HDF5 = ("mujoco_push", "vision_touch")


def rows(name: str, folder: Path, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    """Rows as the builder makes them, before they are in Arrow."""
    return [row for _, row in builder_class(name)(data_dir=str(folder), **options).examples(split)]


def copied(twins: Path, folder: str, to: Path) -> Path:
    shutil.copytree(twins / folder, to / folder)
    return to


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize(
    ("name", "shapes", "sizes"),
    [
        ("mimic", {"static": (5,), "time_series": (24, 12)}, (96, 12, 12)),
        ("avmnist", {"image": (28, 28), "audio": (112, 112)}, (110, 10, 30)),
        ("mosei", {"vision": (None, 35), "audio": (None, 74), "text": (None, 300)}, (63, 15, 23)),
        ("urfunny", {"vision": (None, 371), "audio": (None, 81), "text": (None, 300)}, (64, 16, 24)),
        ("enrico", {}, (39, 9, 12)),
        (
            "mujoco_push",
            {"gripper_pos": (16, 3), "gripper_sensors": (16, 7), "image": (16, 32, 32), "control": (16, 7)},
            None,
        ),
        (
            "vision_touch",
            {"image": (128, 128, 3), "depth": (128, 128), "force": (6, 32), "proprio": (1, 8), "action": (1, 4)},
            (144, 48, 48),
        ),
        ("cifar_esc", {"image": (32, 32, 3), "audio": (112, 112)}, (102, 34, 68)),
    ],
)
def test_every_data_set_becomes_typed_rows_in_three_splits(
    twins: Path, name: str, shapes: dict[str, tuple[int | None, ...]], sizes: tuple[int, ...] | None, faithful: bool
) -> None:
    if name in HDF5:
        pytest.importorskip("h5py")
    source = {"builder": name, "data_dir": str(twins), "faithful_to_public_code": faithful}
    found = build_rows(source, "here").with_format("numpy")
    assert tuple(found) == SPLITS
    if sizes is not None and not faithful:
        assert tuple(len(found[split]) for split in SPLITS) == sizes
    for split in SPLITS:
        assert len({str(found[split].features), str(found["train"].features)}) == 1
        for column, shape in shapes.items():
            for row in range(min(3, len(found[split]))):
                values = np.stack(list(found[split][row][column]))
                if not (faithful and name == "cifar_esc"):
                    assert [size for size, known in zip(values.shape, shape, strict=True) if known] == [
                        known for known in shape if known
                    ]
                assert faithful or name == "mimic" or np.isfinite(values).all()


def test_every_builder_is_covered_above() -> None:
    assert set(builder_names()) - {"sound_folder"} == {
        "mimic", "avmnist", "mosei", "urfunny", "enrico", "mujoco_push", "vision_touch", "cifar_esc"
    }  # fmt: skip


# --- MIMIC -----------------------------------------------------------------------------------------------------------


def test_mimic_has_the_public_split() -> None:
    # First rows of the public code's permutation for the real number of rows, from the description of its files.
    split = mimic_split(36_212)
    assert split["validation"][:5] == [34_531, 22_719, 17_856, 20_472, 22_770]
    assert {name: len(part) for name, part in split.items()} == {"validation": 3621, "test": 3621, "train": 28_970}


def test_mimic_keeps_missing_values_missing_and_the_public_code_makes_them_zero_first(twins: Path) -> None:
    raw = read_pickled_arrays(twins / "mimic" / "im.pk")
    values = raw["ep_tdata"].astype(float)
    for split in SPLITS:
        found = rows("mimic", twins, split)
        for row, index in zip(found, mimic_split(len(values))[split], strict=True):
            missing = ~np.isfinite(values[index])
            assert (np.isnan(row["time_series"]) == missing).all()
            np.testing.assert_allclose(row["time_series"][~missing], values[index][~missing], rtol=1e-6)
    zeroed = np.where(np.isfinite(values), values, 0)
    expected = (zeroed - zeroed.mean((0, 1))) / zeroed.std((0, 1))
    faithful = rows("mimic", twins, "train", faithful_to_public_code=True)
    np.testing.assert_allclose(
        faithful[0]["time_series"], expected[mimic_split(120)["train"][0]], rtol=1e-4, atol=1e-4
    )


def test_mimic_without_spread_is_zero_and_not_nan(twins: Path, tmp_path: Path) -> None:
    raw = dict(read_pickled_arrays(twins / "mimic" / "im.pk"))
    raw["adm_features_all"] = np.ones((120, 5))
    write_pickle(tmp_path / "im.pk", raw)
    assert not np.stack([row["static"] for row in rows("mimic", tmp_path, faithful_to_public_code=True)]).any()


def test_mimic_labels(twins: Path, tmp_path: Path) -> None:
    raw = dict(read_pickled_arrays(twins / "mimic" / "im.pk"))
    deaths = np.zeros((120, 6))
    deaths[:, 0] = 1  # never consulted
    deaths[3, [2, 5]] = 1
    deaths[4, 5] = 2
    groups = np.zeros((120, 20), dtype=np.uint8)
    groups[3, 7] = groups[4, 11] = 2  # any positive number counts
    write_pickle(tmp_path / "im.pk", {**raw, "adm_labels_all": deaths, "y_icd9": groups})
    for group, ill in ((7, 3), (11, 4)):
        by_row = {}
        builder = builder_class("mimic")(data_dir=str(tmp_path), icd9_group=group)
        for split in SPLITS:
            by_row.update(builder.examples(split))
        assert [row for row, values in by_row.items() if values["icd9"]] == [ill]
        assert {row: values["mortality"] for row, values in by_row.items() if values["mortality"]} == {3: 2, 4: 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("y_icd9"), "expected a dictionary with adm_features_all, ep_tdata"),
        (lambda raw: raw.update(y_icd9=raw["y_icd9"][:5]), "numbers of rows are"),
        (lambda raw: raw.update(y_icd9=raw["y_icd9"][:, :7]), "'y_icd9' has 7 columns, expected at least 8"),
        (lambda raw: raw.update(ep_tdata=raw["ep_tdata"][:, 0]), "'ep_tdata' has shape (120, 12)"),
        (lambda raw: raw.update(ep_tdata=np.array(["a"])), "dtype <U1"),
    ],
)
def test_a_mimic_file_of_another_form_is_refused(twins: Path, tmp_path: Path, change: Any, message: str) -> None:
    raw = dict(read_pickled_arrays(twins / "mimic" / "im.pk"))
    change(raw)
    write_pickle(tmp_path / "im.pk", raw)
    with pytest.raises(ValueError) as caught:
        build_rows({"builder": "mimic", "data_dir": str(tmp_path)}, "Suite 'x', task 'mimic'")
    assert message in str(caught.value) and str(tmp_path / "im.pk") in str(caught.value)
    assert str(caught.value).startswith("Suite 'x', task 'mimic'")


# --- AV-MNIST --------------------------------------------------------------------------------------------------------


def test_avmnist_validates_on_the_last_twelfth_of_the_training_files(twins: Path) -> None:
    images = np.load(twins / "avmnist" / "image" / "train_data.npy")
    labels = np.load(twins / "avmnist" / "train_labels.npy")
    train, validation = rows("avmnist", twins), rows("avmnist", twins, "validation")
    assert [row["label"] for row in train + validation] == labels.tolist()
    np.testing.assert_array_equal(validation[0]["image"].reshape(-1), images[110])
    faithful = rows("avmnist", twins, "validation", faithful_to_public_code=True)
    for column in ("image", "audio"):
        np.testing.assert_allclose(faithful[0][column] * 255, validation[0][column], rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("image/train_data.npy", np.zeros((120, 783), np.float32), "expected 28 x 28 = 784 numbers"),
        ("audio/train_data.npy", np.zeros((120, 112, 111)), "expected numbers, any x 112 x 112"),
        ("train_labels.npy", np.full(120, 10), "row 0 is 10, expected 0 to 9"),
        ("train_labels.npy", np.zeros(119), "numbers of rows are"),
        ("train_labels.npy", np.array([{}] * 120), "cannot be read as .npy"),
    ],
)
def test_an_avmnist_folder_of_another_form_is_refused(
    twins: Path, tmp_path: Path, file: str, values: np.ndarray, message: str
) -> None:
    copied(twins, "avmnist", tmp_path)
    np.save(tmp_path / "avmnist" / file, values)
    with pytest.raises(ValueError, match=message):
        rows("avmnist", tmp_path)


# --- MOSEI and UR-FUNNY ----------------------------------------------------------------------------------------------


def test_mosei_is_cut_where_the_words_begin_and_the_public_code_pads_it_again(twins: Path) -> None:
    raw = read_pickled_arrays(twins / "mosei" / "mosei_senti_data.pkl")["train"]
    kept = [row for row in range(64) if row != 1]  # row 1 has no words
    found = rows("mosei", twins)
    faithful = rows("mosei", twins, faithful_to_public_code=True)
    assert len(found) == len(faithful) == 63
    for row, public, index in zip(found, faithful, kept, strict=True):
        start = int((raw["text"][index] != 0).any(1).argmax())
        assert len(row["vision"]) == len(row["audio"]) == len(row["text"]) == 50 - start
        np.testing.assert_array_equal(row["vision"], raw["vision"][index][start:])
        score = raw["labels"][index].item()
        assert row["sentiment"] == public["sentiment"] == score and row["label"] == public["label"] == int(score >= 0)
        own = raw["vision"][index][start:]
        expected = (own - own.mean(0)) / own.std(0, ddof=1)
        np.testing.assert_allclose(public["vision"][: 50 - start], expected, rtol=1e-3, atol=1e-3)
        assert public["vision"].shape == (50, 35) and not public["vision"][50 - start :].any()
    assert raw["audio"][0, -1, 0] == -np.inf
    assert found[0]["audio"][-1, 0] == 0 and found[0]["audio"][-2, 0] != 0
    assert not faithful[0]["audio"][:, 0].any()  # a column with -inf becomes zeros in the public code


def test_a_neutral_sentiment_is_not_negative(tmp_path: Path) -> None:
    part = {"vision": np.ones((3, 4, 35), np.float32), "audio": np.ones((3, 4, 74), np.float32)}
    part |= {"text": np.ones((3, 4, 300), np.float32), "labels": np.array([-0.5, 0.0, 3.0]).reshape(3, 1, 1)}
    write_pickle(tmp_path / "mosei_senti_data.pkl", {"train": part, "valid": part, "test": part})
    assert [row["label"] for row in rows("mosei", tmp_path)] == [0, 1, 1]


def test_urfunny_is_cut_at_the_front_and_the_public_code_repeats_it_five_times(twins: Path) -> None:
    raw = read_pickled_arrays(twins / "urfunny" / "humor.pkl")["train"]
    found = rows("urfunny", twins)
    for row, values in enumerate(raw["vision"]):
        start = int((values != 0).any(1).argmax())
        np.testing.assert_array_equal(found[row]["vision"], values[start:])
    faithful = rows("urfunny", twins, faithful_to_public_code=True)
    assert [row["label"] for row in faithful] == [row["label"] for row in found] * 5
    np.testing.assert_array_equal(faithful[64]["vision"], raw["vision"][0])
    assert len(rows("urfunny", twins, "test", faithful_to_public_code=True)) == 24


def test_infinite_numbers_of_urfunny_become_zero_and_the_public_code_keeps_them(tmp_path: Path) -> None:
    part = {key: np.ones((2, 4, width), np.float32) for key, width in (("vision", 371), ("audio", 81), ("text", 300))}
    part["audio"][1, 2, 3] = -np.inf
    part["labels"] = np.array([[0], [1]])
    write_pickle(tmp_path / "humor.pkl", {"train": part, "valid": part, "test": part})
    for faithful, value in ((False, 0.0), (True, -np.inf)):
        found = rows("urfunny", tmp_path, faithful_to_public_code=faithful)
        assert found[1]["audio"][2, 3] == value and found[1]["audio"][2, 4] == 1.0


def test_sequences_of_one_length_begin_together_and_others_by_themselves() -> None:
    def steps(zeros: int, length: int) -> np.ndarray:
        return np.concatenate([np.zeros((zeros, 2)), np.ones((length - zeros, 2))])

    together = trimmed({"vision": steps(1, 6), "text": steps(3, 6)})
    assert [len(values) for values in together.values()] == [3, 3]
    apart = trimmed({"vision": steps(1, 6), "text": steps(3, 5)})
    assert [len(values) for values in apart.values()] == [5, 2]
    assert len(trimmed({"text": np.zeros((4, 2))})["text"]) == 4


# --- ENRICO ----------------------------------------------------------------------------------------------------------


def test_enrico_has_the_public_sizes_for_its_1458_screens_with_both_pictures() -> None:
    assert {name: len(part) for name, part in enrico_split(1458).items()} == {
        "train": 947, "validation": 219, "test": 292
    }  # fmt: skip


def test_enrico_tests_on_its_own_rows_and_the_public_code_on_the_training_rows(twins: Path) -> None:
    screens = {split: {row["screen_id"] for row in rows("enrico", twins, split)} for split in SPLITS}
    assert sum(map(len, screens.values())) == len(set.union(*screens.values())) == 60
    assert not {"50105", "50109"} & set.union(*screens.values())
    public = rows("enrico", twins, "test", faithful_to_public_code=True)
    assert {row["screen_id"] for row in public} == screens["train"]
    assert {(row["image"].size, row["set"].size, row["image"].mode, row["set"].mode) for row in public} == {
        ((128, 256), (128, 256), "RGB", "RGB")
    }
    assert all(row["label"] in TOPICS for row in public) and TOPICS == sorted(TOPICS) and len(TOPICS) == 20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../etc/passwd,chat", "line 64: the screen id '../../etc/passwd' is no number"),
        ("12345,dialer", "line 64: unknown topic 'dialer'"),
    ],
)
def test_a_list_of_screens_that_names_something_else_is_refused(
    twins: Path, tmp_path: Path, line: str, message: str
) -> None:
    copied(twins, "enrico", tmp_path)
    with (tmp_path / "enrico" / "design_topics.csv").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        rows("enrico", tmp_path)


def test_a_picture_that_is_missing_broken_or_too_large_is_named(twins: Path, tmp_path: Path) -> None:
    copied(twins, "enrico", tmp_path)
    picture = tmp_path / "enrico" / "screenshots" / f"{rows('enrico', twins)[0]['screen_id']}.jpg"
    picture.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"{picture.name} cannot be read as a picture"):
        rows("enrico", tmp_path)
    Image.new("L", (5000, 5000)).save(picture)
    with pytest.raises(ValueError, match="5000 x 5000 pixels are more than"):
        rows("enrico", tmp_path)
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=picture.name):
        build_rows({"builder": "enrico", "data_dir": str(tmp_path)}, "here")


# --- MuJoCo Push -----------------------------------------------------------------------------------------------------


def trajectory(steps: int, offset: float = 0.0) -> dict[str, np.ndarray]:
    time = np.arange(steps, dtype=np.float32) + offset
    return {
        "Cylinder0_pos": np.stack([time, -time, time], axis=1),
        "eef_pos": np.stack([2 * time, 3 * time, 4 * time], axis=1),
        "force": np.repeat(time[:, None], 6, axis=1),
        "contact": (time % 2).astype(np.float32),
        "image": np.broadcast_to(time[:, None, None], (steps, 32, 32)).astype(np.float32),
    }


def push_files(folder: Path, content: dict[str, Any]) -> Path:
    pytest.importorskip("h5py")
    for size in ("1000", "10", "300"):
        write_hdf5(folder / f"gentle_push_{size}.hdf5", content)
    return folder


def test_push_is_cut_into_windows_of_sixteen_steps_in_numeric_order(tmp_path: Path) -> None:
    lengths = [39, 40, 16, 15, 24, 16, 16, 16, 16, 16, 47]
    push_files(tmp_path, {f"trajectory{n}": trajectory(steps, 100.0 * n) for n, steps in enumerate(lengths)})
    found = rows("mujoco_push", tmp_path)
    assert Counter(row["trajectory"] for row in found) == {
        number: steps // 16 + (steps - 8) // 16 for number, steps in enumerate(lengths) if steps >= 16
    }
    assert [row["trajectory"] for row in found] == sorted(row["trajectory"] for row in found)
    assert [row["states"][0, 0] for row in found[:3]] == [0, 16, 8]


def test_push_derives_sensors_and_control_as_described(tmp_path: Path) -> None:
    push_files(tmp_path, {"trajectory0": trajectory(32)})
    first, _, third = rows("mujoco_push", tmp_path)
    time = np.arange(8, 24, dtype=np.float32)
    np.testing.assert_array_equal(third["gripper_sensors"], np.stack([time] * 6 + [time % 2], axis=1))
    previous = np.stack([2 * (time - 1), 3 * (time - 1), 4 * (time - 1)], axis=1)
    change = np.tile([[2, 3, 4]], (16, 1))
    np.testing.assert_array_equal(third["control"], np.concatenate([previous, change, (time % 2)[:, None]], axis=1))
    assert (first["control"][0, :6] == 0).all()  # before the first step there is the first step
    np.testing.assert_array_equal(third["states"], np.stack([time, -time], axis=1))
    np.testing.assert_array_equal(third["state"], third["states"][-1])
    assert third["image"].shape == (16, 32, 32) and third["image"][3, 5, 5] == 11


def test_push_of_the_public_code_is_standardised_with_its_constants(twins: Path) -> None:
    pytest.importorskip("h5py")
    plain, faithful = rows("mujoco_push", twins), rows("mujoco_push", twins, faithful_to_public_code=True)
    expected = (plain[4]["states"] - [0.4970164, -0.00916641]) / [0.0572766, 0.06118315]
    np.testing.assert_allclose(faithful[4]["states"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(faithful[4]["state"], expected[-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(faithful[4]["image"], plain[4]["image"])


def test_push_takes_no_more_memory_for_a_longer_file(tmp_path: Path) -> None:
    peaks = []
    for name, trajectories in (("short", 2), ("long", 12)):
        folder = push_files(tmp_path / name, {f"trajectory{n}": trajectory(480) for n in range(trajectories)})
        builder = builder_class("mujoco_push")(data_dir=str(folder))
        tracemalloc.start()
        count = sum(1 for _ in builder.examples("train"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == trajectories * 59
    assert peaks[1] < 1.2 * peaks[0] < 480 * 32 * 32 * 4


def test_hdf5_that_leads_out_of_the_file_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    push_files(tmp_path, {"trajectory0": trajectory(32)})
    path, other = tmp_path / "gentle_push_1000.hdf5", tmp_path / "gentle_push_10.hdf5"
    kept = path.read_bytes()
    layout = h5py.VirtualLayout((32, 6), "f4")
    layout[:] = h5py.VirtualSource(str(other), "trajectory0/force", (32, 6))

    def external(group: Any) -> None:
        (tmp_path / "raw").write_bytes(bytes(32 * 6 * 4))
        group.create_dataset("force", (32, 6), "f4", external=[(str(tmp_path / "raw"), 0, 32 * 6 * 4)])

    for put, message in (
        (lambda group: group.__setitem__("force", h5py.ExternalLink(str(other), "trajectory0/force")), "is a link"),
        (lambda group: group.__setitem__("force", h5py.SoftLink("/trajectory0/eef_pos")), "is a link"),
        (lambda group: group.create_virtual_dataset("force", layout), "lie in other files"),
        (external, "lie in other files"),
        (lambda group: group.create_group("force"), "is no array"),
        (lambda group: None, "there is no 'force'"),
        (lambda group: group.create_dataset("force", (31, 6), "f4"), "expected numbers, 32 x 6"),
    ):
        path.write_bytes(kept)
        with h5py.File(path, "a") as file:
            del file["trajectory0/force"]
            put(file["trajectory0"])
        with pytest.raises(ValueError, match=message):
            rows("mujoco_push", tmp_path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        rows("mujoco_push", tmp_path)


def test_push_files_that_are_not_clear_are_refused(tmp_path: Path) -> None:
    push_files(tmp_path, {"trajectory0": trajectory(32), "trajectory2": trajectory(32)})
    with pytest.raises(ValueError, match=r"expected trajectory0, trajectory1 and so on, found \[0, 2\]"):
        rows("mujoco_push", tmp_path)
    shutil.copy(tmp_path / "gentle_push_1000.hdf5", tmp_path / "x-gentle_push_1000.hdf5")
    with pytest.raises(ValueError, match="keep one of them"):
        rows("mujoco_push", tmp_path)


def test_without_h5py_the_error_says_what_to_install(
    twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ("1000", "10", "300"):
        (tmp_path / f"gentle_push_{size}.hdf5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r'pip install "highmmt\[multibench\]"'):
        rows("mujoco_push", tmp_path)
    with pytest.raises(ValueError, match=r'pip install "highmmt\[multibench\]"'):
        write_twins(tmp_path, ["mujoco_push"])


# --- Vision & Touch --------------------------------------------------------------------------------------------------


def touch_file(path: Path, contact_at: list[int]) -> None:
    pytest.importorskip("h5py")
    contact = np.zeros((50, 50))
    contact[contact_at, 7] = 1
    step = np.arange(50.0)
    write_hdf5(
        path,
        {
            "image": np.broadcast_to(step[:, None, None, None], (50, 128, 128, 3)).astype(np.uint8),
            "depth_data": np.broadcast_to((step / 20)[:, None, None, None], (50, 128, 128, 1)).astype(np.float32),
            "ee_forces_continuous": np.broadcast_to(np.arange(50.0)[None, :, None] / 50, (50, 50, 6)),
            "proprio": np.repeat(step[:, None], 8, axis=1),
            "action": np.repeat(step[:, None], 4, axis=1),
            "contact": contact,
        },
    )


def test_vision_touch_takes_no_more_memory_for_more_files(tmp_path: Path) -> None:
    peaks = []
    for name, runs in (("short", 5), ("long", 15)):
        for run in range(runs):
            touch_file(tmp_path / name / f"run{run:02}_0_1000.h5", [0])
        builder = builder_class("vision_touch")(data_dir=str(tmp_path / name))
        tracemalloc.start()
        count = sum(1 for _ in builder.examples("train"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == runs * 3 // 5 * 48
    assert peaks[1] < 1.2 * peaks[0] < 50 * 128 * 128 * 4  # less than the depth of one file


def test_vision_touch_pairs_each_step_with_what_follows(tmp_path: Path) -> None:
    for run in range(5):
        touch_file(tmp_path / f"run{run}_0_1000.h5", [0, 10, 49])
    found = rows("vision_touch", tmp_path, "test")
    assert len(found) == 48
    assert [step for step, row in enumerate(found) if row["contact"]] == [9]
    row = found[30]
    assert row["image"][5, 5, 0] == 30 and row["proprio"][0, 0] == 30
    assert row["action"][0, 0] == 31 and row["pose"].tolist() == [31] * 4
    np.testing.assert_allclose(row["force"][2], np.tanh(np.arange(18, 50) / 50), rtol=1e-6)
    assert found[0]["depth"].max() == 0 and found[41]["depth"].max() == 0  # 2.05 m
    assert found[39]["depth"].min() == np.float32(1.95)
    faithful = rows("vision_touch", tmp_path, "test", faithful_to_public_code=True)
    assert len(faithful) == 49 and faithful[41]["depth"].min() == np.float32(2.05)
    assert faithful[48]["proprio"][0, 0] in range(48)


def test_no_run_of_vision_touch_is_in_two_splits_and_the_public_code_tests_on_validation(tmp_path: Path) -> None:
    for run in range(6):
        for chunk in (0, 11):
            touch_file(tmp_path / f"2019_{run}_{chunk}_1000.h5", [])
    runs = {split: {row["run"] for row in rows("vision_touch", tmp_path, split)} for split in SPLITS}
    assert sum(map(len, runs.values())) == 6 and all(runs.values())
    public = {row["run"] for row in rows("vision_touch", tmp_path, "test", faithful_to_public_code=True)}
    assert public == runs["validation"]


def test_vision_touch_files_of_another_form_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for run in range(2):
        touch_file(tmp_path / f"run{run}_0_1000.h5", [])
    with pytest.raises(ValueError, match="files of 2 runs cannot be split"):
        rows("vision_touch", tmp_path)
    touch_file(tmp_path / "run2_0_1000.h5", [])
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "a") as file:
            del file["proprio"]
            file["proprio"] = np.zeros((50, 7))
    with pytest.raises(ValueError, match="at least 8 values of proprio"):
        rows("vision_touch", tmp_path)


# --- CIFAR-ESC -------------------------------------------------------------------------------------------------------


def test_cifar_esc_pairs_each_picture_with_a_sound_of_its_class_and_one_of_another(twins: Path) -> None:
    found = rows("cifar_esc", twins)
    assert [row["match"] for row in found] == [1, 0] * 51
    for row in found:
        band = row["audio"].reshape(112, 112)[:102].reshape(17, 6, 112).mean((1, 2))
        assert (int(band.argmax()) == row["concept"]) == bool(row["match"])
    assert len({row["concept"] for row in found}) == 17
    again = rows("cifar_esc", twins)
    assert all(np.array_equal(one["audio"], other["audio"]) for one, other in zip(found, again, strict=True))


def test_cifar_esc_for_a_retrieval_has_matching_pairs_alone(twins: Path) -> None:
    found = build_rows({"builder": "cifar_esc", "data_dir": str(twins), "pairs": False}, "here")["validation"]
    assert found["concept"] == list(range(17)) and "match" not in found.column_names


def test_cifar_esc_of_the_public_code_swaps_axes_and_overlaps_windows(twins: Path) -> None:
    plain = rows("cifar_esc", twins, "test")
    faithful = rows("cifar_esc", twins, "test", faithful_to_public_code=True)
    image, sound = plain[0]["image"], plain[0]["audio"]
    np.testing.assert_allclose(faithful[0]["image"], image.transpose(1, 0, 2) / 255, rtol=1e-6)
    windows = faithful[0]["audio"].reshape(25, 16, 25, 16).transpose(0, 2, 1, 3)
    for row, column in ((0, 0), (3, 20), (24, 24)):
        expected = sound[4 * row : 4 * row + 16, 4 * column : 4 * column + 16]
        np.testing.assert_array_equal(windows[row, column], expected)


def test_tensors_are_read_and_anything_else_in_such_a_file_is_refused(twins: Path, tmp_path: Path) -> None:
    import torch

    copied(twins, "esc50-cifar", tmp_path)
    path = tmp_path / "esc50-cifar" / "esconly.pt"
    before = rows("cifar_esc", tmp_path)
    sounds = builder_class("cifar_esc")(data_dir=str(tmp_path))._items["esconly.pt"]
    as_tensors = [[[torch.from_numpy(values.copy()), label] for values, label in sounds[split]] for split in SPLITS]
    torch.save(as_tensors, path)  # noqa: TID251 - as users have them
    after = rows("cifar_esc", tmp_path)
    assert all(np.array_equal(one["audio"], other["audio"]) for one, other in zip(before, after, strict=True))

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return builtins.eval, (f"__import__('os').mkdir({str(tmp_path / 'canary')!r})",)

    torch.save([[Evil()], [], []], path)  # noqa: TID251
    with pytest.raises(ValueError, match=r"esconly\.pt is refused.*it names .*eval"):
        rows("cifar_esc", tmp_path)
    assert not (tmp_path / "canary").exists()
    write_torch(path, [[], []])
    with pytest.raises(ValueError, match="expected three lists"):
        rows("cifar_esc", tmp_path)
    write_torch(path, [[[np.zeros((112, 111)), 1]], [], []])
    with pytest.raises(ValueError, match="train, item 0: found float64"):
        rows("cifar_esc", tmp_path)
    write_torch(path, [[[np.zeros((112, 112)), 17]], [], []])
    with pytest.raises(ValueError, match="the class is 17, expected 0 to 16"):
        rows("cifar_esc", tmp_path)


# --- As sources of a suite -------------------------------------------------------------------------------------------


def suite_of(source: dict[str, Any], folder: Path | None = None) -> Suite:
    values = {
        "name": "mine",
        "modalities": {"static": {"kind": "table"}},
        "tasks": {
            "ward": {
                "source": source,
                "modalities": {"static": "static"},
                "target": {"column": "icd9", "problem_type": "single_label_classification"},
            }
        },
    }
    return Suite.from_dict(values, folder)


def test_a_builder_is_a_source_and_its_folder_may_come_later(twins: Path) -> None:
    suite = suite_of({"builder": "mimic", "icd9_group": 3})
    with pytest.raises(
        ValueError, match="tasks.ward: the builder 'mimic' reads files of yours; say where.*--data-dir"
    ):
        suite.load("ward")
    found = suite.with_data_dir(twins)
    assert found.load("ward")["train"].features["icd9"].names == ["absent", "present"]
    assert found.build_processor().num_labels("ward") == 2
    assert Suite.from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match="no task reads from a data folder that is still to be named"):
        found.with_data_dir(twins)
    with pytest.raises(ValueError, match="no task reads from a data folder"):
        load_suite("starter", data_dir=twins)


def test_a_folder_in_a_suite_file_starts_at_the_file(twins: Path) -> None:
    found = suite_of({"builder": "mimic", "data_dir": "mimic"}, twins)
    assert len(found.load("ward")["train"]) == 96


def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tasks\.ward.*im\.pk not found in .*looked in mimic.*PhysioNet"):
        suite_of({"builder": "mimic"}).with_data_dir(tmp_path).load("ward")
    with pytest.raises(FileNotFoundError, match="the data folder .* does not exist"):
        suite_of({"builder": "mimic", "data_dir": "nowhere"}, tmp_path).load("ward")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"builder": "mimik"}, "unknown value 'mimik'; did you mean 'mimic'?"),
        ({"builder": "mimic", "icd_group": 3}, "unknown key 'icd_group'; did you mean 'icd9_group'?"),
        ({"builder": "mimic", "pairs": True}, "unknown key 'pairs'"),
        ({"builder": "mimic", "icd9_group": 20}, "source.icd9_group: icd9_group=20 must be a whole number"),
        ({"builder": "cifar_esc", "pairs": "no"}, "source.pairs: pairs='no' must be true or false"),
        ({"builder": "mosei", "faithful_to_public_code": 1}, "faithful_to_public_code=1 must be true or false"),
        ({"builder": "mimic", "data_dir": 3}, "source.data_dir: must be text"),
    ],
)
def test_a_source_that_no_builder_takes_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        suite_of(source)
    assert message in str(caught.value)


def test_rows_are_made_once_until_a_file_changes(twins: Path, tmp_path: Path) -> None:
    copied(twins, "mimic", tmp_path)
    suite = suite_of({"builder": "mimic", "data_dir": str(tmp_path)})
    first, fingerprint = suite.load("ward"), suite.fingerprint
    again = suite.load("ward")
    assert again["train"].cache_files == first["train"].cache_files
    write_twins(tmp_path, ["mimic"], seed=1)
    other = suite_of({"builder": "mimic", "data_dir": str(tmp_path)})
    assert other.load("ward")["train"]["icd9"][:] != first["train"]["icd9"][:]
    assert other.fingerprint != fingerprint


def test_the_fingerprint_is_that_of_the_files_wherever_they_are(twins: Path, tmp_path: Path) -> None:
    copied(twins, "mimic", tmp_path / "elsewhere")
    prints = {
        suite_of({"builder": "mimic"}).with_data_dir(folder).fingerprint for folder in (twins, tmp_path / "elsewhere")
    }
    assert len(prints) == 1


class Waves(datasets.GeneratorBasedBuilder):
    def _info(self) -> datasets.DatasetInfo:
        features = {"static": datasets.List(datasets.Value("float32")), "icd9": datasets.ClassLabel(names=["a", "b"])}
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=name, gen_kwargs={"name": name}) for name in SPLITS]

    def _generate_examples(self, name: str) -> Any:
        numbers = np.loadtxt(Path(self.config.data_dir) / f"{name}.txt")
        for row, number in enumerate(numbers):
            yield row, {"static": [number, 1.0], "icd9": int(number > 0)}


def test_a_builder_of_ones_own_can_be_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import highmmt.suites.builders as registry

    monkeypatch.setattr(registry, "_registered", {})
    for split in SPLITS:
        np.savetxt(tmp_path / f"{split}.txt", np.array([-1.0, 2.0, 3.0]))
    register_builder("waves", Waves)
    found = suite_of({"builder": "waves"}).with_data_dir(tmp_path)
    assert found.load("ward")["test"]["icd9"] == [0, 1, 1]
    before = found.fingerprint
    np.savetxt(tmp_path / "test.txt", np.array([1.0, 1.0]))
    assert suite_of({"builder": "waves"}).with_data_dir(tmp_path).fingerprint != before
    with pytest.raises(ValueError, match="There is a builder 'mimic' already"):
        register_builder("mimic", Waves)


def test_twins_are_the_same_for_the_same_seed_and_grow_with_their_scale(tmp_path: Path) -> None:
    for folder, options in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"scale": 2})):
        write_twins(tmp_path / folder, ["mimic"], **options)  # type: ignore[arg-type]
    a, b, c, d = ((tmp_path / folder / "mimic" / "im.pk").read_bytes() for folder in "abcd")
    assert a == b != c
    assert len(d) > 1.8 * len(a)
    with pytest.raises(ValueError, match="There is no data set 'mimik'; did you mean 'mimic'"):
        write_twins(tmp_path, ["mimik"])
