"""Text with tokenizers that were not trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import BertTokenizer, GPT2Tokenizer

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.processing.kinds import build_serializer

ROWS = Dataset.from_dict({"note": ["short of breath", "tired", None], "label": [0, 1, 0]})


def bert(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "short", "of", "breath", "ti", "##red"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)


def gpt2(folder: Path) -> None:
    """Byte-level: every text can be spelled, and there is no padding token."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "<|endoftext|>"]
    GPT2Tokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]).save_pretrained(folder)


def text_processor(**options: Any) -> HighMMTProcessor:
    processor = HighMMTProcessor(
        {"note": {"kind": "text", "num_channels": 4, "num_frequency_bands": 2, **options}},
        {"toy": {"modalities": {"note": {"column": "note"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", ROWS)
    return processor


@pytest.mark.parametrize(("make", "ids"), [(bert, [[5, 6, 7], [8, 9, 0]]), (gpt2, None)])
def test_any_tokenizer_can_be_named_and_travels_with_the_processor(make: Any, ids: Any, tmp_path: Path) -> None:
    make(tmp_path / "tokenizer")
    processor = text_processor(pretrained=str(tmp_path / "tokenizer"))
    batch = processor("toy", note=["short of breath", "tired"])
    found = batch["inputs"]["toy"]["note"]
    if ids is None:
        assert found.shape == (2, len("short of breath"))
        assert batch["attention_mask"]["toy"]["note"].sum(dim=1).tolist() == [15, 5]
    else:
        assert found.tolist() == ids
    config = HighMMTConfig(
        modalities=processor.modality_configs(), tasks=processor.task_configs(), num_latents=2, d_latents=8
    )
    assert config.modalities["note"].vocab_size == len(processor.tokenizer)
    assert torch.isfinite(HighMMTModel(config).eval()(**batch).logits["toy"]).all()

    processor.save_pretrained(tmp_path / "saved")
    (tmp_path / "tokenizer").rename(tmp_path / "gone")
    loaded = HighMMTProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == processor.to_dict()
    assert type(loaded.tokenizer) is type(processor.tokenizer)
    assert torch.equal(loaded("toy", note=["short of breath", "tired"])["inputs"]["toy"]["note"], found)


def test_another_tokenizer_of_the_same_size_finds_no_rows_in_the_cache(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "short", "of", "breath", "tired"]
    tokenizers = [
        BertTokenizer(vocab={word: index for index, word in enumerate(order)})
        for order in (words, words[:2] + words[:1:-1])
    ]
    ROWS.to_parquet(tmp_path / "rows.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path), split="train")
    found = []
    for tokenizer in tokenizers:
        processor = HighMMTProcessor(
            {"note": {"kind": "text"}},
            {"toy": {"modalities": {"note": {"column": "note"}}, "target": {"column": "label"}}},
            tokenizer=tokenizer,
        )
        processor.fit("toy", rows)
        found.append((processor.statistics, processor.encode("toy", rows)["note"][0]))
    assert found[0][0] == found[1][0]
    assert (found[0][1], found[1][1]) == ([2, 3, 4], [5, 4, 3])


def test_a_tokenizer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"pretrained='.*empty': the tokenizer cannot be loaded:"):
        text_processor(pretrained=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="pretrained='' must be the name or the folder of a tokenizer"):
        build_serializer("text", {"pretrained": ""}, "Modality 'note'")


def test_given_vectors_of_words_are_a_series() -> None:
    vectors = {
        word: np.random.default_rng(index).normal(size=5) for index, word in enumerate(["short", "of", "breath"])
    }
    rows = [np.stack([vectors[word] for word in text.split()]).tolist() for text in ("short of breath", "short")]
    processor = HighMMTProcessor(
        {"note": {"kind": "time_series", "scale": "none", "clip": None, "max_length": 3, "keep": "first"}},
        {"toy": {"modalities": {"note": {"column": "note"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", Dataset.from_dict({"note": rows, "label": [0, 1]}))
    batch = processor("toy", note=rows)
    np.testing.assert_allclose(batch["inputs"]["toy"]["note"][0].numpy(), rows[0], rtol=1e-6)
    assert batch["attention_mask"]["toy"]["note"].tolist() == [[True, True, True], [True, False, False]]
