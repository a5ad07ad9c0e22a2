"""`highmmt export`: a task of a saved model as a file, with the logits of `highmmt predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import onnx
import onnxruntime
import pytest
import torch

from highmmt.analysis import load_model_folder


def test_a_task_is_written_as_onnx_with_the_models_logits(
    tiny: ModuleType,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tiny.highmmt("export", finished_run / "finetuned", "--task", "tones") == 0
    shown, errors = capsys.readouterr()
    assert "tones.onnx, task tones" in shown
    assert "batch x size_0_0 x 1" in shown
    assert not errors
    model, processor = load_model_folder(finished_run / "finetuned")
    batch = processor("tones", spectrum=tiny.task_rows("tones", 5, 9)["spectrum"])
    values = batch["inputs"]["tones"]["spectrum"]
    session = onnxruntime.InferenceSession("tones.onnx")
    feed = {"spectrum": values.numpy(), "spectrum.mask": torch.ones(values.shape[:2], dtype=torch.bool).numpy()}
    with torch.no_grad():
        expected = model(**batch).logits["tones"]
    torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), expected, atol=1e-5, rtol=1e-5)
    metadata = {entry.key: entry.value for entry in onnx.load("tones.onnx").metadata_props}
    assert json.loads(metadata["highmmt"])["labels"] == ["a", "b", "c"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tones.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "tone"], "has no task 'tone'; did you mean 'tones'"),
        (["--task", "tones", "--output", "."], "is a folder; name a file with --output"),
        (["--task", "tones", "--format", "exe"], "'exe' is not one of 'onnx', 'pt2'"),
        ([], "Missing option '--task'"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    tiny: ModuleType,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tiny.highmmt("export", finished_run / "finetuned", *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_one_line(
    tiny: ModuleType, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert tiny.highmmt("export", finished_run / "finetuned", "--task", "tones") == 2
    assert "pip install 'highmmt[onnx]'" in capsys.readouterr().err
