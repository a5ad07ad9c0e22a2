"""Files and folders are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from highmmt.configuration.files import read_json, whole_folder, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    values = {"scores": [0.1, None, 1e-300], "name": "ß"}
    assert read_json(write_json(tmp_path / "deep" / "down" / "values.json", values)) == values
    assert write_text(tmp_path / "text", "a\nß").read_bytes() == "a\nß".encode()
    assert names(tmp_path) == ["deep", "text"]


@pytest.mark.parametrize("values", [float("nan"), {"score": float("inf")}, {"path": Path("x")}])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, values: object) -> None:
    path = write_json(tmp_path / "values.json", [1])
    with pytest.raises((ValueError, TypeError)):
        write_json(path, values)
    assert read_json(path) == [1]
    assert names(tmp_path) == ["values.json"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_bytes(tmp_path / "taken", b"a file cannot replace a folder")
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize("text", ["{ not json", "", '{"cut": [1,'])
def test_a_broken_json_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON .* Delete the file"):
        read_json(tmp_path / "broken.json")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"image\.json: not valid JSON"):
        read_json(tmp_path / "image.json")


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        file = write_text(tmp_path / "file", "")
        with whole_folder(tmp_path / "folder") as temporary:
            (temporary / "inside").write_text("")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_a_folder_and_its_files_are_as_readable_as_the_umask_lets_them(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with whole_folder(tmp_path / "model") as folder:
            (folder / "part").mkdir(mode=0o700)
            private = folder / "part" / "weights"
            private.touch(mode=0o600)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "model" / "part").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "model" / "part" / "weights").stat().st_mode) == 0o644


def test_a_folder_appears_once_it_is_filled_and_replaces_the_old_one_entirely(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    with whole_folder(target) as temporary:
        (temporary / "weights").write_text("1")
        assert not target.exists()
    with whole_folder(target) as temporary:
        (temporary / "config").write_text("2")
        assert names(target) == ["weights"]
    assert names(target) == ["config"]
    assert names(target.parent) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_within_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "model"
    for existed in (False, True):
        with pytest.raises(error), whole_folder(target) as temporary:
            (temporary / "half").write_text("")
            raise error
        assert names(tmp_path) == (["model"] if existed else [])
        target.mkdir(exist_ok=True)
        (target / "old").write_text("")
    assert names(target) == ["old"]


def test_an_error_in_the_exchange_itself_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("")
    replace = os.replace

    def full_disk(source: Path, destination: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError("No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"), whole_folder(target) as temporary:
        (temporary / "new").write_text("")
    assert names(tmp_path) == ["model"]
    assert names(target) == ["old"]
