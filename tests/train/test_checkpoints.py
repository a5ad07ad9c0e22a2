"""Checkpoints: whole or not there, and never read when a byte is wrong."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from highmmt.configuration import files
from highmmt.train import CheckpointFolder
from highmmt.train.checkpoints import Position

CONTENTS: dict[str, Any] = {
    "progress.json": {"epoch": 1, "text": "ß", "score": 0.1 + 0.2},
    "weights.safetensors": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)},
}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


def test_what_is_read_is_what_was_written(folder: CheckpointFolder) -> None:
    assert folder.newest() is None
    path = folder.save(Position(1, 20), CONTENTS)
    found = folder.newest()
    assert found is not None
    assert (found.folder, found.position, found.lost) == (path, Position(1, 20), {})
    assert found.contents["progress.json"] == CONTENTS["progress.json"]
    assert all(
        torch.equal(value, CONTENTS["weights.safetensors"][name])
        for name, value in found.contents["weights.safetensors"].items()
    )


def test_the_newest_few_stay_in_the_order_of_the_run(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for position in (Position(0, 5), Position(0, 30), Position(1, 0), Position(1, 10)):
        folder.save(position, CONTENTS)
    assert folder.positions() == [Position(1, 0), Position(1, 10)]
    with pytest.raises(ValueError, match="keep=0"):
        CheckpointFolder(tmp_path, keep=0)


def damage(path: Path, rng: random.Random) -> str:
    """Flip one byte of a file, or cut it, at a random place."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.5:
        path.write_bytes(data[:place])
        return f"{path.name} cut at {place}"
    data[place] ^= rng.randrange(1, 256)
    path.write_bytes(data)
    return f"{path.name} flipped at {place}"


def test_no_damage_of_200_is_read_without_a_word(folder: CheckpointFolder) -> None:
    path = folder.save(Position(1, 0), CONTENTS)
    kept = shutil.copytree(path, folder.folder.parent / "kept")
    rng = random.Random(0)
    names = sorted(file.name for file in path.iterdir())
    for number in range(200):
        name = names[number % len(names)]
        what = damage(path / name, rng)
        with pytest.raises(ValueError, match="No checkpoint in .* is whole: "):
            folder.newest()
            pytest.fail(f"{what} was read")
        shutil.copy(kept / name, path / name)
    assert folder.newest() is not None


def test_a_broken_newest_checkpoint_is_named_and_the_one_before_it_taken(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.save(Position(1, 0), CONTENTS)
    newest = folder.save(Position(2, 0), CONTENTS)
    (newest / "weights.safetensors").write_bytes(b"nothing")
    found = folder.newest()
    assert found is not None and found.position == Position(1, 0)
    assert f"{newest / 'weights.safetensors'}: has 7 bytes" in caplog.text
    # What the run writes next takes the place of the broken one.
    folder.save(Position(1, 50), CONTENTS)
    assert folder.positions() == [Position(1, 0), Position(1, 50)]


@pytest.mark.parametrize("name", ["manifest.json", *CONTENTS])
def test_a_lost_file_is_refused_unless_an_inexact_checkpoint_is_asked_for(folder: CheckpointFolder, name: str) -> None:
    path = folder.save(Position(1, 0), CONTENTS)
    (path / name).unlink()
    with pytest.raises(ValueError, match="No checkpoint in .* is whole: .*--allow-inexact"):
        folder.newest()
    found = folder.newest(allow_inexact=True)
    assert found is not None
    assert list(found.lost) == [name]
    assert set(found.contents) == set(CONTENTS) - {name}


def test_a_file_that_the_manifest_does_not_list_is_refused(folder: CheckpointFolder) -> None:
    path = folder.save(Position(1, 0), CONTENTS)
    (path / "more.json").write_text("{}")
    with pytest.raises(ValueError, match=r"more\.json: is not in the manifest"):
        folder.newest()


def stopped_saves(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Iterator[int]:
    """Saves that are stopped at the first, second, ... call that changes the disk, until one is not."""
    for limit in range(1, 100):
        calls = []

        def counted(function: Any, calls: list[int] = calls, limit: int = limit) -> Any:
            def call(*arguments: Any) -> Any:
                calls.append(1)
                if len(calls) == limit:
                    raise error
                return function(*arguments)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", counted(os.fsync))
            patch.setattr(files.os, "replace", counted(os.replace))
            try:
                folder.save(Position(2, 0), CONTENTS)
            except type(error):
                yield limit
            else:
                return


def test_a_save_that_is_stopped_anywhere_leaves_the_old_checkpoint_or_the_new_one(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save(Position(1, 0), CONTENTS)
    stops = 0
    for _ in stopped_saves(folder, monkeypatch, KeyboardInterrupt()):
        stops += 1
        found = folder.newest()
        assert found is not None and found.lost == {}
        assert not [path for path in folder.folder.iterdir() if path.name.endswith(".tmp")] or stops > 3
    assert stops >= 5
    assert folder.positions() == [Position(1, 0), Position(2, 0)]


def test_a_full_disk_is_one_error_that_names_the_checkpoint(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save(Position(1, 0), CONTENTS)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="could not be written .No space left on device.; older ones") as error:
            folder.save(Position(2, 0), CONTENTS)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(folder.folder / "epoch-00002-step-00000000")
    assert folder.positions() == [Position(1, 0)]
    assert [path.name for path in folder.folder.iterdir()] == ["epoch-00001-step-00000000"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_may_not_be_written_is_one_error(folder: CheckpointFolder) -> None:
    path = folder.save(Position(1, 0), CONTENTS)
    folder.folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="could not be written"):
            folder.save(Position(2, 0), CONTENTS)
    finally:
        folder.folder.chmod(0o700)
    assert path.exists() and folder.newest() is not None


def test_what_a_killed_run_has_left_is_cleared_away(folder: CheckpointFolder) -> None:
    folder.save(Position(1, 0), CONTENTS)
    (folder.folder / ".epoch-00002-step-00000000.tmp").mkdir()
    assert folder.positions() == [Position(1, 0)]
    folder.save(Position(2, 0), CONTENTS)
    assert not list(folder.folder.glob(".*"))
    folder.clear()
    assert not folder.folder.exists()
