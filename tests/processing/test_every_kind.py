"""Every kind: what is wrong with a sample is told by task, column and row, and a saved processor says the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor

from highmmt.processing import SERIALIZERS, HighMMTProcessor

RNG = np.random.default_rng(0)
TEXTS = ["short of breath", "tired and cold", "feels fine"]
CUT = b"GIF89a"


def wav(count: int) -> bytes:
    stream = io.BytesIO()
    scipy.io.wavfile.write(stream, 8000, (RNG.normal(size=count) * 3000).astype(np.int16))
    return stream.getvalue()


def film(count: int) -> bytes:
    frames = [Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(count)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def graph(count: int) -> dict[str, Any]:
    return {"nodes": RNG.normal(size=(count, 2)).tolist(), "edges": [[0, 1], [1, 2]]}


# Kind: its options, and three samples.
SAMPLES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "image": ({"patch_size": 4}, [picture() for _ in range(3)]),
    "video": ({"patch_frames": 2}, [film(count) for count in (3, 5, 4)]),
    "audio": ({"sample_rate_hz": 8000, "num_mels": 20}, [wav(count) for count in (900, 1200, 800)]),
    "spectrum": ({"patch_size": 2}, RNG.normal(size=(3, 5)).tolist()),
    "table": ({}, [{"age": 30.0, "ward": "east"}, {"age": None, "ward": "west"}, {"age": 50.0, "ward": "east"}]),
    "time_series": ({"window": 2}, [RNG.normal(size=(count, 3)).tolist() for count in (4, 2, 5)]),
    "set": ({"empty": "token"}, [RNG.normal(size=(count, 3)).tolist() for count in (4, 2, 5)]),
    "graph": ({"walk_length": 3}, [graph(count) for count in (3, 5, 4)]),
    "text": ({"min_frequency": 1}, TEXTS),
    "word_vectors": ({"vocab_size": 6}, TEXTS),
}
# Kind, what is given in place of a sample, and what the error says of it.
FAULTS: list[tuple[str, Any, str]] = [
    ("image", CUT, "the image cannot be read"),
    ("image", picture()[:60], "the image cannot be read"),
    ("image", "gone.png", "there is no image file gone.png"),
    ("image", {"file": b""}, "found a structure of file, expected an image"),
    ("image", np.zeros((7, 8)), "found shape 7 x 8, expected 8 x 8"),
    ("image", np.full((8, 8), np.nan), "found missing pixels"),
    ("image", 3.0, ""),
    ("video", CUT, "the image cannot be read"),
    ("video", b"", "the image cannot be read"),
    ("video", "gone.gif", "there is no image file gone.gif"),
    ("video", 3.0, ""),
    ("audio", b"", "the audio file is empty"),
    ("audio", wav(900)[:500], "the audio is cut short: 456 of 1800 bytes of sound are there"),
    ("audio", wav(900)[:30], "the audio cannot be read"),
    ("audio", "gone.wav", "there is no audio file gone.wav"),
    ("audio", {"array": [0.1, None], "sampling_rate": 8000}, "found missing or infinite samples"),
    ("audio", 3, ""),
    ("spectrum", [1.0, 2.0], "found shape 2, expected 5"),
    ("spectrum", [1.0, 2.0, 3.0, 4.0, float("inf")], "found an infinite value"),
    ("spectrum", [1.0, None, 3.0, 4.0, 5.0], "found missing values and there are no flags"),
    ("spectrum", ["a", "b", "c", "d", "e"], "expected numbers"),
    ("spectrum", [[1.0], [2.0], [3.0], [4.0], [5.0]], ""),
    ("spectrum", 3.0, ""),
    ("table", {"age": 3.0}, "the column 'ward' is missing"),
    ("table", {"age": "old", "ward": "east"}, "expected numbers"),
    ("table", {"age": float("inf"), "ward": "east"}, "found an infinite value"),
    ("table", {"age": 3.0, "ward": 7}, "found 7, expected text"),
    ("table", [1.0, "east", 3.0], "found a row of 3 columns, expected 2"),
    ("table", 3.0, ""),
    ("time_series", [[1.0, 2.0]], "found shape 1 x 2, expected any x 3"),
    ("time_series", [[1.0, 2.0, float("inf")]], "found an infinite value"),
    ("time_series", [[1.0, None, 2.0]], "found missing values and there are no flags"),
    ("time_series", [[1.0, 2.0, 3.0], [1.0]], "found lists of different lengths"),
    ("time_series", [["a", "b", "c"]], "expected numbers"),
    ("time_series", [1.0, 2.0, 3.0], ""),
    ("time_series", 3.0, ""),
    ("set", [[1.0, 2.0]], "found shape 1 x 2, expected any x 3"),
    ("set", [[1.0, 2.0, float("inf")]], "found an infinite value"),
    ("set", 3.0, ""),
    ("graph", {"nodes": [[1.0, 2.0]]}, "found a mapping of nodes, expected a mapping with 'nodes' and 'edges'"),
    ("graph", {"nodes": [[1.0, 2.0]], "edges": [[0, 3]]}, "an edge leads to node 3; the graph's 1 nodes"),
    ("graph", {"nodes": [[1.0]], "edges": []}, "found shape 1 x 1, expected any x 2"),
    ("graph", {"nodes": [[1.0, float("inf")]], "edges": []}, "found an infinite value"),
    ("graph", 3.0, ""),
    ("text", 3, "found int '3', expected text"),
    ("text", ["a"], ""),
    ("text", b"a", "found bytes"),
    ("word_vectors", 3, "found int '3', expected text"),
    ("word_vectors", ["a"], ""),
]


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HighMMTProcessor]:
    """Kind to a processor that is fitted on its three samples."""
    words = tmp_path_factory.mktemp("words") / "words.txt"
    words.write_text("tired 0.5 1\ncold -1 0.25\nfine 2 0\n", encoding="utf-8")
    fitted = {}
    for kind, (options, samples) in SAMPLES.items():
        file = {"vectors": str(words)} if kind == "word_vectors" else {}
        fitted[kind] = HighMMTProcessor(
            {"one": {"kind": kind, **options, **file}},
            {"toy": {"modalities": {"one": {"column": "raw"}}, "target": {"column": "label"}}},
        )
        fitted[kind].fit("toy", Dataset.from_dict({"raw": samples, "label": [0, 1, 0]}))
    return fitted


@pytest.mark.parametrize(("kind", "fault", "message"), FAULTS)
def test_a_fault_is_told_by_task_column_and_row(
    processors: dict[str, HighMMTProcessor], kind: str, fault: Any, message: str
) -> None:
    good = SAMPLES[kind][1][0]
    table_column = "raw" if kind != "table" else ""  # a table names the column within the row
    calls = [(fault, 0), ([good, fault], 1), ([None, good, fault], 2)]
    if message == "":  # alone, it may as well be a list of samples
        calls = calls[1:]
    for value, row in calls:
        with pytest.raises(ValueError) as error:
            processors[kind]("toy", one=value)
        said = str(error.value)
        assert said.startswith(f"Task 'toy', modality 'one', column '{table_column}")
        assert f", row {row}: " in said and message in said
        assert "object at 0x" not in said


def test_the_faults_are_of_every_kind() -> None:
    assert {kind for kind, _, _ in FAULTS} == set(SERIALIZERS) == set(SAMPLES)


@pytest.mark.parametrize("kind", SERIALIZERS)
def test_a_saved_processor_of_every_kind_gives_the_same_numbers(
    processors: dict[str, HighMMTProcessor], tmp_path: Path, kind: str
) -> None:
    processor, samples = processors[kind], SAMPLES[kind][1]
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.modality_configs() == processor.modality_configs()
    both = [item("toy", one=samples, label=[0, 1, 0]) for item in (processor, loaded)]
    assert both[0].keys() == both[1].keys()
    assert torch.equal(both[0]["inputs"]["toy"]["one"], both[1]["inputs"]["toy"]["one"])
    for mask, other in zip(*(batch["attention_mask"]["toy"].values() for batch in both), strict=True):
        assert torch.equal(mask, other)
    rows = Dataset.from_dict({"raw": samples, "label": [0, 1, 0]})
    assert processor.encode("toy", rows)["one"][:] == loaded.encode("toy", rows)["one"][:]
