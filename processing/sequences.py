"""Serializers of sequences: spectra, time series, sets and text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .rows import Rows, Source, Values, entries_of, read_rows
from .serializers import (
    Elements,
    ElementShape,
    FlaggedSerializer,
    Serializer,
    Statistics,
    check_choice,
    check_whole,
    group_steps,
    is_number,
)

MAX_SLOTS = 100_000  # elements on an axis of time without max_length; more are a mistake in the unit
PAD_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"


@dataclass(frozen=True)
class SpectrumSerializer(FlaggedSerializer):
    """Spectra of one size, (frequencies,) or (frequencies, channels); each number has a scale of its own.

    Args:
        patch_size: consecutive elements that are put into one, `patch_size * channels` wide (and as many flags); the
            last one is filled up with 0, flagged where there are flags.
    """

    kind: ClassVar[str] = "spectrum"

    patch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("patch_size", self.patch_size, 1)

    def fit(self, values: Values, source: Source) -> Statistics:
        """Scale of each number. See `Serializer.fit`."""
        rows, matrix, statistics = self._fit_rows(values, source)
        length = int(rows.lengths.max())
        rows.require_length(length)
        scaling = self._fit_scaling(matrix.reshape(-1, length * matrix.shape[1]))
        return self._check_fit({**statistics, "length": length, **scaling}, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(elements, channels), values first, then missing flags if any. See `Serializer.encode`."""
        rows, matrix = self._read(values, source, statistics)
        rows.require_length(statistics["length"])
        width = statistics["num_columns"]
        wide = matrix.reshape(-1, statistics["length"] * width)
        scaled = self._scaled(wide, statistics).reshape(-1, width)
        elements, lengths = group_steps(scaled, rows.lengths, self.patch_size, 0.0)
        if self._flagged(statistics):
            flags, _ = group_steps(np.isnan(matrix), rows.lengths, self.patch_size, True)
            elements = np.concatenate([elements, flags], axis=1)
        return self._elements(elements, lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(elements,) of `patch_size * channels`, twice that with flags."""
        channels = self.patch_size * statistics["num_columns"] * (1 + self._flagged(statistics))
        return ElementShape((-(-statistics["length"] // self.patch_size),), self._width(channels))


@dataclass(frozen=True)
class TimeSeriesSerializer(FlaggedSerializer):
    """Series of steps, (steps, channels) or (steps,), of any length: motion, force, vital signs, features of frames.

    With timestamps, a channel says when each step was. Element k then covers the time from `time_start + k *
    time_step` on for `time_step`: it holds the mean of the numbers that fall into it, missing ones where there are
    none. Steps before `time_start`, and with `max_length` those after the last element, are left out.

    Args:
        max_length: of longer series so many steps are kept; with timestamps, the number of elements on the axis.
        keep: which end of a longer series: `"last"` or `"first"` steps. None for the last ones, with timestamps the
            first ones, which is then the only choice.
        window: consecutive steps that are put into one element, `window * channels` wide (and as many flags); the end
            of a series is filled up with 0, flagged where there are flags.
        layout: `"steps"` makes one element of each step (or window); `"elements"` one of each number, on two axes,
            steps x channels, with one channel (two with flags).
        time_channel: position of the channel, from 0, that holds timestamps; it is no channel of the elements.
        time_step: time that one element covers, in the unit of the timestamps.
        time_start: where the axis of time begins.
        vector: True reads a row that is a plain vector, (channels,), as one step, where it is else as many steps of
            one channel; all vectors of a task then have one size. Rows of steps x channels are read as ever.
    """

    kind: ClassVar[str] = "time_series"
    default_scale: ClassVar[str] = "standard"

    keep: Literal["last", "first"] | None = None
    window: int = 1
    layout: Literal["steps", "elements"] = "steps"
    time_channel: int | None = None
    time_step: float | None = None
    time_start: float = 0.0
    vector: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("window", self.window, 1)
        check_choice("keep", self.keep, (None, "last", "first"))
        if not (is_number(self.time_start) and math.isfinite(self.time_start)):
            raise ValueError(f"time_start={self.time_start!r} must be a number.")
        if self.time_channel is not None:
            check_whole("time_channel", self.time_channel, 0)
            if not (is_number(self.time_step) and 0 < (self.time_step or 0) < math.inf):
                raise ValueError(f"time_channel needs time_step, a positive number, not {self.time_step!r}.")
            if self.keep == "last":
                raise ValueError("keep='last' would move what time_channel puts in place; leave it out.")
        elif self.time_step is not None or self.time_start:
            raise ValueError("time_step and time_start need time_channel, the channel with the timestamps.")
        check_choice("vector", self.vector, (True, False))
        check_choice("layout", self.layout, ("steps", "elements"))
        if self.layout == "elements" and self.window > 1:
            raise ValueError(f"window={self.window} groups steps, which layout='elements' keeps apart; drop one.")

    @property
    def position_length(self) -> int | None:
        """`max_length` in elements: windows, where steps are grouped."""
        return None if self.max_length is None else -(-self.max_length // self.window)

    def fit(self, values: Values, source: Source) -> Statistics:
        """Scale of each channel. See `Serializer.fit`."""
        rows, matrix, statistics = self._fit_rows(values, source)
        sizes = rows.lengths[rows.lengths > 0]
        statistics["length"] = int(sizes[0]) if (sizes == sizes[0]).all() else None
        statistics["longest"] = int(sizes.max())
        if self.time_channel is not None:
            statistics["tail"], statistics["missing"] = [matrix.shape[1] + 1], True
        first = int((rows.lengths > 0).argmax())
        if self.vector and not read_rows(values[first : first + 1], source).tail:
            statistics["vector"], statistics["tail"] = statistics["tail"][0], []
        return self._check_fit({**statistics, **self._fit_scaling(matrix)}, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(elements, channels), or (steps, channels, 1) with `layout="elements"`. See `Serializer.encode`."""
        rows, matrix = self._read(values, source, statistics)
        lengths = rows.lengths
        if self.max_length is not None and lengths.max(initial=0) > self.max_length:
            from_start = np.arange(len(matrix)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            from_end = np.repeat(lengths, lengths) - 1 - from_start
            place = from_start if self.keep == "first" else from_end
            matrix, lengths = matrix[place < self.max_length], np.minimum(lengths, self.max_length)
        scaled, flagged = self._scaled(matrix, statistics), self._flagged(statistics)
        if self.layout == "elements":
            parts = [scaled, np.isnan(matrix)] if flagged else [scaled]
            return self._elements(np.stack(parts, axis=-1), lengths)
        elements, grouped = group_steps(scaled, lengths, self.window, 0.0)
        if flagged:
            flags, _ = group_steps(np.isnan(matrix), lengths, self.window, True)
            elements = np.concatenate([elements, flags], axis=1)
        return self._elements(elements, grouped)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(elements,) or (steps, channels); the first axis is None where training series differ in length."""
        length, width = statistics["length"], statistics["num_columns"]
        if length is not None:
            length = -(-min(length, self.max_length or length) // self.window)
        channels = 1 + self._flagged(statistics)
        if self.layout == "elements":
            return ElementShape((length, width), self._width(channels), varies=True)
        return ElementShape((length,), self._width(channels * self.window * width), varies=True)

    def _stepped(self, rows: Rows, statistics: Statistics | None) -> Rows:
        """With `vector`, rows that are plain vectors as one step each."""
        size = rows.lengths.max(initial=0) if statistics is None else statistics.get("vector", 0)
        if not self.vector or rows.tail or not size:
            return rows
        wrong = (rows.lengths != size) & (rows.lengths > 0)
        if wrong.any():
            row = int(wrong.argmax())
            raise rows.source.error(
                f"found a vector of {rows.lengths[row]} numbers, expected {size}; vector=false reads numbers as steps "
                "of one channel.",
                row,
            )
        return dataclasses.replace(
            rows, values=rows.values.reshape(-1, size), lengths=(rows.lengths > 0).astype(np.int64)
        )

    def _placed(self, rows: Rows, matrix: np.ndarray) -> tuple[Rows, np.ndarray]:
        """With timestamps: (elements, channels without them), NaN in elements that no step falls into."""
        if self.time_channel is None:
            return rows, matrix
        if self.time_channel >= matrix.shape[1]:
            raise rows.source.error(f"time_channel={self.time_channel} is not among {matrix.shape[1]} channels.")
        times, numbers = matrix[:, self.time_channel], np.delete(matrix, self.time_channel, axis=1)
        if np.isnan(times).any():
            raise rows.source.error("a timestamp is missing.", rows.row_of(int(np.isnan(times).argmax())))
        # A time that is a multiple of the step up to rounding belongs to the element that begins there.
        slots = np.floor((times - self.time_start) / (self.time_step or 1.0) + 1e-6)
        most = self.max_length or MAX_SLOTS
        inside = (slots >= 0) & (slots < most)
        if self.max_length is None and (slots >= most).any():
            row = rows.row_of(int((slots >= most).argmax()))
            raise rows.source.error(
                f"a timestamp lies {slots.max():.0f} elements after time_start; choose time_start and time_step, or "
                "give max_length.",
                row,
            )
        row_of_step = np.repeat(np.arange(len(rows.lengths)), rows.lengths)[inside]
        slots, numbers = slots[inside].astype(np.int64), numbers[inside]
        lengths = np.zeros(len(rows.lengths), np.int64)
        np.maximum.at(lengths, row_of_step, slots + 1)
        places = (np.cumsum(lengths) - lengths)[row_of_step] + slots
        known = ~np.isnan(numbers)
        sums, counts = np.zeros((2, int(lengths.sum()), numbers.shape[1]))
        np.add.at(sums, places, np.where(known, numbers, 0.0))
        np.add.at(counts, places, known)
        placed = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return dataclasses.replace(rows, values=placed, lengths=lengths), placed


@dataclass(frozen=True)
class SetSerializer(FlaggedSerializer):
    """Sets of vectors, (elements, channels), of any size; the order of the elements carries no meaning.

    Args:
        empty: `"token"` gives an empty set one element, so that a model can read the emptiness: all elements get one
            more channel, which is 1 in that element and 0 in all others. Without it an empty set is masked out, as
            an absent one (None) always is.
    """

    kind: ClassVar[str] = "set"
    default_scale: ClassVar[str] = "standard"
    ordered: ClassVar[bool] = False

    empty: Literal["token"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("empty", self.empty, (None, "token"))
        if self.max_length is not None:
            raise ValueError("max_length is no option of sets: they have no first or last element to keep.")

    def fit(self, values: Values, source: Source) -> Statistics:
        """Scale of each channel. See `Serializer.fit`."""
        rows, matrix, statistics = self._fit_rows(values, source)
        statistics["longest"] = int(rows.lengths.max())
        return self._check_fit({**statistics, **self._fit_scaling(matrix)}, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(elements, channels): values, missing flags if any, then the empty flag if any. See `Serializer.encode`."""
        rows, matrix = self._read(values, source, statistics)
        parts = [self._scaled(matrix, statistics)]
        if self._flagged(statistics):
            parts.append(np.isnan(matrix).astype(np.float64))
        elements, lengths = np.concatenate(parts, axis=1), rows.lengths
        if self.empty == "token":
            elements = np.concatenate([elements, np.zeros((len(elements), 1))], axis=1)
            empty = rows.present & (lengths == 0)
            token = np.zeros(elements.shape[1])
            token[-1] = 1.0
            elements = np.insert(elements, np.cumsum(lengths)[empty], token, axis=0)
            lengths = lengths + empty
        return self._elements(elements, lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(elements,), of varying number."""
        channels = statistics["num_columns"] * (1 + self._flagged(statistics)) + (self.empty == "token")
        return ElementShape((None,), self._width(channels), varies=True)


@dataclass(frozen=True)
class TextSerializer(Serializer):
    """Text as token ids; the model learns a vector for each.

    A text without words is one unknown token, so that it differs from an absent text (None), which is masked out.
    Padding happens in collation only.

    Args:
        num_channels: width of the learned vectors.
        max_length: longer texts keep their first `max_length` tokens.
        algorithm: `"word"` (words and punctuation marks; those outside the vocabulary share one unknown token) or
            `"bpe"` (byte-pair encoding: unknown words are spelled from their pieces).
        vocab_size: largest number of tokens, padding and unknown included.
        min_frequency: words (or pairs, for `"bpe"`) seen less often in training are not learned.
        lowercase: True ignores case.
        pretrained: takes the tokenizer of this name or folder (`AutoTokenizer`) in place of training one; the four
            options before have no say then. It is saved with the processor.
        tokenizer: not an option of a suite: the processor's tokenizer.
    """

    kind: ClassVar[str] = "text"

    num_channels: int = 32
    algorithm: Literal["word", "bpe"] = "word"
    vocab_size: int = 2000
    min_frequency: int = 2
    lowercase: bool = True
    pretrained: str | None = None
    tokenizer: PreTrainedTokenizerBase | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("num_channels", self.num_channels, 1)
        check_choice("algorithm", self.algorithm, ("word", "bpe"))
        check_whole("vocab_size", self.vocab_size, 3)
        check_whole("min_frequency", self.min_frequency, 1)
        check_choice("lowercase", self.lowercase, (True, False))
        if not (self.pretrained is None or (isinstance(self.pretrained, str) and self.pretrained)):
            raise ValueError(f"pretrained={self.pretrained!r} must be the name or the folder of a tokenizer.")

    def training_options(self) -> tuple[Any, ...]:
        """What must agree where several modalities share the processor's one tokenizer."""
        if self.pretrained is not None:
            return (self.pretrained,)
        return (self.algorithm, self.vocab_size, self.min_frequency, self.lowercase)

    def make_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        """The pretrained tokenizer, or a new one for the given texts; the same texts give the same tokenizer.

        Raises:
            ValueError: there is no tokenizer of that name or in that folder.
        """
        if self.pretrained is None:
            return self._train_tokenizer(texts)
        from transformers import AutoTokenizer

        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.pretrained)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"pretrained={self.pretrained!r}: the tokenizer cannot be loaded: {reason}") from error
        return tokenizer

    def _train_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        special = [PAD_TOKEN, UNKNOWN_TOKEN]
        model, trainer_class = {
            "word": (models.WordLevel, trainers.WordLevelTrainer),
            "bpe": (models.BPE, trainers.BpeTrainer),
        }[self.algorithm]
        backend = Tokenizer(model(unk_token=UNKNOWN_TOKEN))
        steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if self.lowercase else [])]
        backend.normalizer = normalizers.Sequence(steps)
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainer_class(
            vocab_size=self.vocab_size, min_frequency=self.min_frequency, special_tokens=special, show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD_TOKEN, unk_token=UNKNOWN_TOKEN)

    @staticmethod
    def read(values: Values, source: Source) -> list[str | None]:
        """The texts of a column.

        Raises:
            ValueError: an entry is neither text nor None; the message names the row.
        """
        texts = entries_of(values)
        for row, entry in enumerate(texts):
            if not (entry is None or isinstance(entry, str)):
                raise source.error(f"found {type(entry).__name__} {str(entry)[:40]!r}, expected text.", row)
        return texts

    def fit(self, values: Values, source: Source) -> Statistics:
        """Size of the vocabulary and length of the longest text, in tokens. See `Serializer.fit`."""
        tokens = self.encode(values, source, {"vocab_size": len(self._tokenizer(source))})
        if not len(tokens.values):
            raise source.error("the training split holds no text.")
        return {"vocab_size": len(self._tokenizer(source)), "longest": int(tokens.lengths.max())}

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(tokens,) int32 ids. See `Serializer.encode`."""
        tokenizer = self._tokenizer(source)
        if len(tokenizer) != statistics["vocab_size"]:
            raise source.error(
                f"the tokenizer has {len(tokenizer)} tokens where {statistics['vocab_size']} were fitted; fit again."
            )
        texts = self.read(values, source)
        known = [text for text in texts if text is not None]
        settings = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        coded = tokenizer(known, **settings)["input_ids"] if known else []
        filler = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.eos_token_id
        if filler is None and not all(coded):
            raise source.error("a text is empty, and the tokenizer has neither an unknown nor an end token for it.")
        ids = iter([(row or [filler])[: self.max_length] for row in coded])
        rows: list[list[int]] = [[] if text is None else next(ids) for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return Elements(np.array([token for row in rows for token in row], dtype=np.int32), lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(tokens,), without a channel axis."""
        return ElementShape((None,), None, varies=True)

    def embedding(self, statistics: Statistics) -> tuple[int, int] | None:
        """Number of tokens and width of their vectors."""
        return statistics["vocab_size"], self.num_channels

    @property
    def pad_id(self) -> int:
        """The padding token, 0 where the tokenizer has none."""
        return (self.tokenizer.pad_token_id or 0) if self.tokenizer is not None else 0

    def sample_ndim(self, statistics: Statistics) -> int:
        """A text is one value."""
        return 0

    def _tokenizer(self, source: Source) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise source.error(
                "the processor has no tokenizer yet; first call fit_tokenizer with the training splits."
            )
        return self.tokenizer
