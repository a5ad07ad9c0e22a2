"""Text as given vectors of its words."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.processing.rows import Source
from highmmt.processing.word_vectors import MAX_LINE_BYTES

ROWS = Dataset.from_dict({"note": ["Short of breath!", "tired, tired", None, "  "], "label": [0, 1, 0, 1]})
GLOVE = "the 9 9\nof 1 2\nbreath 3 4\nmorning -1 0.5\nshort 5 6\ntired 7 8\nof 0 0\nad hoc 4 4\n"


def processor(folder: Path, text: str = GLOVE, rows: Dataset = ROWS, **options: Any) -> HighMMTProcessor:
    (folder / "glove.txt").write_bytes(text.encode())
    made = HighMMTProcessor(
        {"note": {"kind": "word_vectors", "vectors": str(folder / "glove.txt"), "num_frequency_bands": 2, **options}},
        {"toy": {"modalities": {"note": {"column": "note"}}, "target": {"column": "label"}}},
    )
    made.fit("toy", rows)
    return made


def elements(made: HighMMTProcessor, *texts: str | None) -> list[Any]:
    batch = made("toy", note=list(texts))
    note = batch["inputs"]["toy"]["note"]
    mask = batch["attention_mask"]["toy"].get("note", torch.ones(note.shape[:2], dtype=torch.bool))
    return [row[kept].tolist() for row, kept in zip(note, mask, strict=True)]


def test_words_are_their_vectors_and_others_zeros_with_a_flag(tmp_path: Path) -> None:
    made = processor(tmp_path)
    found = elements(made, "Short of breath!", "this morning", None, " ")
    assert found[0] == [[5, 6, 0], [1, 2, 0], [3, 4, 0], [0, 0, 1]]
    assert found[1] == [[0, 0, 1], [-1, 0.5, 0]]  # a word of the file that no training text has
    assert found[2:] == [[], [[0, 0, 1]]]
    assert made.statistics["toy/note"] == {"width": 2, "unknown": 2 / 7, "longest": 4}


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"unknown": "zero"}, [[5, 6], [0, 0]], [[0, 0]]),
        ({"unknown": "skip"}, [[5, 6]], [[0, 0]]),
        ({"unknown": "skip", "max_length": 1}, [[5, 6]], [[0, 0]]),
        ({"max_length": 1}, [[5, 6, 0]], [[0, 0, 1]]),
        ({"lowercase": False}, [[0, 0, 1], [0, 0, 1]], [[0, 0, 1]]),
        ({"num_channels": 4}, [[5, 6, 0, 0], [0, 0, 1, 0]], [[0, 0, 1, 0]]),
    ],
)
def test_options_say_what_becomes_of_other_words(
    tmp_path: Path, options: dict[str, Any], first: Any, second: Any
) -> None:
    assert elements(processor(tmp_path, **options), "Short !", "!") == [first, second]


def test_the_most_frequent_words_of_the_texts_are_kept_before_the_first_of_the_file(tmp_path: Path) -> None:
    for size, words in (
        (1, ["tired"]),
        (3, ["tired", "breath", "of"]),
        (5, ["tired", "breath", "of", "short", "the"]),
    ):
        assert processor(tmp_path, vocab_size=size).word_vectors["toy/note"].words == words


def test_the_form_of_word2vec_and_tabs_are_read_alike(tmp_path: Path) -> None:
    plain = processor(tmp_path).word_vectors["toy/note"]
    for text in ("7 2\n" + GLOVE, GLOVE.replace(" ", "\t"), GLOVE.replace("\n", "\r\n"), "\n" + GLOVE.rstrip("\n")):
        found = processor(tmp_path, text).word_vectors["toy/note"]
        assert found.words == plain.words and np.array_equal(found.matrix, plain.matrix)


def test_vectors_travel_with_the_processor_and_the_file_is_needed_no_more(tmp_path: Path) -> None:
    made = processor(tmp_path)
    batch = made("toy", note=["short of words", None])
    made.save_pretrained(tmp_path / "saved")
    (tmp_path / "glove.txt").unlink()
    loaded = HighMMTProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == made.to_dict()
    assert torch.equal(
        loaded("toy", note=["short of words", None])["inputs"]["toy"]["note"], batch["inputs"]["toy"]["note"]
    )
    assert str(tmp_path) not in (tmp_path / "saved" / "processor_config.json").read_text(encoding="utf-8")
    encoded = loaded.encode("toy", ROWS, num_proc=2)
    assert encoded["note"][0] == [5, 6, 0, 1, 2, 0, 3, 4, 0, 0, 0, 1]
    config = HighMMTConfig(
        modalities=loaded.modality_configs(), tasks=loaded.task_configs(), num_latents=2, d_latents=8
    )
    assert (config.modalities["note"].num_channels, config.modalities["note"].num_axes) == (3, 1)
    model = HighMMTModel(config).eval()
    assert torch.isfinite(model(**loaded("toy", note=["short of words", "!"])).logits["toy"]).all()


def test_other_vectors_are_other_encodings(tmp_path: Path) -> None:
    first = processor(tmp_path).encode("toy", ROWS)
    second = processor(tmp_path, GLOVE.replace("short 5", "short 50")).encode("toy", ROWS)
    assert (first["note"][0][0], second["note"][0][0]) == (5, 50)


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_a_broken_file_of_vectors_is_named(tmp_path: Path, content: bytes) -> None:
    processor(tmp_path).save_pretrained(tmp_path)
    (tmp_path / "word_vectors.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"word_vectors\.safetensors cannot be read as words and their vectors"):
        HighMMTProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("of 1 2\nbreath 3\n", "line 2: found 1 numbers after the word, expected 2"),
        ("of\n", "line 1: found 0 numbers after the word, expected 1"),
        ("of 1 2\nbreath 3 x\n", "line 2: could not convert string to float"),
        ("of 1 2\nbreath 3 nan\n", "line 2: found a number that is missing or infinite"),
        ("of 1 2\n" + "x" * (MAX_LINE_BYTES + 1), f"line 2: longer than {MAX_LINE_BYTES} bytes"),
        ("le 1 2\n", "none of the training split's words is in it, such as 'tired'"),
        ("", "none of the training split's words is in it"),
    ],
)
def test_a_file_that_is_none_of_words_is_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        processor(tmp_path, text)
    assert str(error.value).startswith("Task 'toy', modality 'note', column 'note': vectors='")
    assert message in str(error.value) and "glove.txt" in str(error.value)


def test_bytes_that_are_no_text_are_named_with_the_line(tmp_path: Path) -> None:
    made = processor(tmp_path)
    (tmp_path / "glove.txt").write_bytes(b"of 1 2\n\xff\xfe 1 2\n")
    with pytest.raises(ValueError, match=r"line 2: the word is not UTF-8"):
        made.fit("toy", ROWS)
    (tmp_path / "glove.txt").unlink()
    with pytest.raises(ValueError, match=r"glove\.txt': there is no such file"):
        made.fit("toy", ROWS)
    unnamed = HighMMTProcessor({"note": {"kind": "word_vectors"}}, made.tasks)
    with pytest.raises(ValueError, match="no file of words and their numbers is named; set vectors"):
        unnamed.fit("toy", ROWS)
    with pytest.raises(ValueError, match="row 0: found int '3', expected text"):
        made("toy", note=3)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        text = "".join(f"w{number} {'0.5 ' * 50}\n" for number in range(count)) + "of " + "1 " * 50
        (tmp_path / "glove.txt").write_text(text, encoding="utf-8")
        made = HighMMTProcessor(
            {"note": {"kind": "word_vectors", "vectors": str(tmp_path / "glove.txt"), "vocab_size": 100}},
            {"toy": {"modalities": {"note": {"column": "note"}}, "target": {"column": "label"}}},
        )
        del text
        tracemalloc.start()
        found = made.serializer("toy", "note").read_vectors(ROWS["note"], Source("toy", "note", "note"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.words[0] == "of" and len(found.words) == 100
    assert peaks[1] < 1.2 * peaks[0]
