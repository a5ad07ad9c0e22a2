"""Text as given vectors of its words: files in the form of GloVe, and the serializer that looks words up in them."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from ..configuration.files import write_bytes
from .rows import Source, Values
from .sequences import TextSerializer
from .serializers import Elements, ElementShape, NumericSerializer, Statistics, check_choice, check_whole

VECTORS_FILE = "word_vectors.safetensors"
MAX_LINE_BYTES = 2**20
_WORDS = "/words"  # ends the name of a tensor that holds words, as UTF-8 with a line for each


@dataclass(frozen=True)
class WordVectors:
    """Words and a vector for each.

    Args:
        words: in the order of the rows of `matrix`.
        matrix: (words, width) float32.
    """

    words: list[str]
    matrix: np.ndarray
    row_of: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_of", {word: row for row, word in enumerate(self.words)})

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of words and vectors."""
        return hashlib.sha256("\n".join(self.words).encode() + self.matrix.tobytes()).hexdigest()


@dataclass(frozen=True)
class WordVectorSerializer(NumericSerializer):
    """Text as the given vectors of its words, in the order of the text; nothing of them is learned.

    The file has the text form of GloVe: a line for each word, the word and then its numbers, parted by spaces (a first
    line with the numbers of words and of columns, as word2vec writes it, is skipped). `fit` keeps the words of the
    training texts, the most frequent first, and fills up with the first words of the file; they are saved with the
    processor, which then needs the file no more. Words and punctuation marks are told apart as the kind `text` does.

    Args:
        vectors: path of the file.
        vocab_size: largest number of words that are kept.
        unknown: what becomes of other words: `"flag"` makes them zeros and gives all elements one more channel, which
            is 1 there; `"zero"` makes them zeros; `"skip"` leaves them out. A text without any word left is one
            unknown word, so that it differs from an absent text (None), which is masked out.
        lowercase: True looks words up in lower case.
        max_length: longer texts keep their first `max_length` words.
        given: not an option of a suite: the words that the processor keeps.
    """

    kind: ClassVar[str] = "word_vectors"

    vectors: str | None = None
    vocab_size: int = 20_000
    unknown: Literal["flag", "zero", "skip"] = "flag"
    lowercase: bool = True
    given: WordVectors | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.vectors is None or (isinstance(self.vectors, str) and self.vectors)):
            raise ValueError(f"vectors={self.vectors!r} must be the path of a file of words and their numbers.")
        check_whole("vocab_size", self.vocab_size, 1)
        check_choice("unknown", self.unknown, ("flag", "zero", "skip"))
        check_choice("lowercase", self.lowercase, (True, False))

    def read_vectors(self, values: Values, source: Source) -> WordVectors:
        """The words to keep for the texts of a training split.

        Raises:
            ValueError: no text, no such file, a line that is not a word and its numbers, or none of the texts' words
                in it; the message names file and line.
        """
        counts = Counter(word for text in TextSerializer.read(values, source) for word in self._words_of(text or ""))
        if not counts:
            raise source.error("the training split holds no text.")
        wanted = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        if self.vectors is None:
            raise source.error("no file of words and their numbers is named; set vectors to its path.")
        path = Path(self.vectors)
        if not path.is_file():
            raise source.error(f"vectors={self.vectors!r}: there is no such file.")
        try:
            found = _read_lines(path, wanted, self.vocab_size)
        except ValueError as error:
            raise source.error(f"vectors={self.vectors!r}, {error}") from error
        if not any(word in found.row_of for word in wanted):
            raise source.error(
                f"vectors={self.vectors!r}: none of the training split's words is in it, such as {wanted[0]!r}."
            )
        return found

    def fit(self, values: Values, source: Source) -> Statistics:
        """Width of the vectors, longest text in words, share of unknown words. See `Serializer.fit`."""
        vectors = self._given(source)
        texts = [list(self._words_of(text)) for text in TextSerializer.read(values, source) if text is not None]
        unknown = [word not in vectors.row_of for words in texts for word in words]
        statistics = {"width": vectors.matrix.shape[1], "unknown": float(np.mean(unknown)) if unknown else 0.0}
        encoded = self.encode(values, source, {**statistics, "longest": 1})
        return {**statistics, "longest": int(encoded.lengths.max(initial=1))}

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(words, width), then the flag of unknown words if any. See `Serializer.encode`."""
        vectors = self._given(source)
        rows: list[int] = []
        lengths: list[int] = []
        for text in TextSerializer.read(values, source):
            found = [] if text is None else [vectors.row_of.get(word, -1) for word in self._words_of(text)]
            if self.unknown == "skip":
                found = [row for row in found if row >= 0]
            found = (found or [-1])[: self.max_length] if text is not None else []
            rows += found
            lengths.append(len(found))
        places = np.array(rows, dtype=np.int64)
        known = (places >= 0)[:, None]
        elements = np.where(known, vectors.matrix[places], np.float32(0))
        if self.unknown == "flag":
            elements = np.concatenate([elements, ~known], axis=1)
        return self._elements(elements, np.array(lengths, dtype=np.int64))

    def shape(self, statistics: Statistics) -> ElementShape:
        """(words,), of varying number."""
        return ElementShape((None,), self._width(statistics["width"] + (self.unknown == "flag")), varies=True)

    def sample_ndim(self, statistics: Statistics) -> int:
        """A text is one value."""
        return 0

    def _given(self, source: Source) -> WordVectors:
        if self.given is None:
            raise source.error("the processor has no vectors of words yet; first call fit with the training split.")
        return self.given

    def _words_of(self, text: str) -> Iterator[str]:
        steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if self.lowercase else [])]
        normal = normalizers.Sequence(steps).normalize_str(text)
        return (word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(normal))


def _read_lines(path: Path, wanted: Iterable[str], most: int) -> WordVectors:
    """At most `most` words of a file: of those wanted the first that it has, then the file's first.

    A line at a time, so that memory grows with `most` and not with the file.

    Raises:
        ValueError: a line is not a word and as many numbers as the first line has; the message begins with its number.
    """
    rank = {word: place for place, word in enumerate(wanted)}
    chosen: dict[str, np.ndarray] = {}
    others: dict[str, np.ndarray] = {}
    width: int | None = None
    for number, line in enumerate(_short_lines(path), start=1):
        parts = line.split()
        if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
            continue  # word2vec's line of sizes
        if not parts:
            continue
        width = len(parts) - 1 if width is None else width
        if len(parts) - 1 < max(width, 1):
            raise ValueError(
                f"line {number}: found {len(parts) - 1} numbers after the word, expected {max(width, 1)}."
            )
        if len(parts) - 1 > width:
            continue  # a word that holds a space, which no word of a text does
        try:
            word = parts[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: the word is not UTF-8.") from error
        kept = chosen if word in rank else others
        if word in kept or (kept is others and len(others) >= most):
            continue
        try:
            vector = np.array(parts[1:], dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"line {number}: {str(error).rstrip('.')}.") from error
        if not np.isfinite(vector).all():
            raise ValueError(f"line {number}: found a number that is missing or infinite.")
        kept[word] = vector
    words = [*sorted(chosen, key=rank.__getitem__), *others][:most]
    vectors = [chosen[word] if word in chosen else others[word] for word in words]
    return WordVectors(words, np.stack(vectors) if vectors else np.zeros((0, width or 0), np.float32))


def _short_lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, none of which is longer than `MAX_LINE_BYTES`."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES:
                raise ValueError(f"line {number}: longer than {MAX_LINE_BYTES} bytes; this is no file of words.")
            yield line


def save_word_vectors(vectors: Mapping[str, WordVectors], folder: Path) -> Path:
    """Write `word_vectors.safetensors`, whole or not at all.

    Args:
        vectors: `"task/modality"` to its words.
        folder: where to.
    """
    from safetensors.numpy import save

    tensors: dict[str, Any] = {}
    for name, item in vectors.items():
        tensors[name] = np.ascontiguousarray(item.matrix)
        tensors[name + _WORDS] = np.frombuffer("\n".join(item.words).encode(), dtype=np.uint8)
    return write_bytes(folder / VECTORS_FILE, save(tensors))


def load_word_vectors(path: Path) -> dict[str, WordVectors]:
    """What `save_word_vectors` wrote.

    Raises:
        ValueError: a file that is broken or holds something else; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        found = {}
        for name in [name for name in tensors if not name.endswith(_WORDS)]:
            words = tensors[name + _WORDS].tobytes().decode("utf-8").split("\n")
            matrix = tensors[name]
            if matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) != len(words):
                raise ValueError(f"{len(words)} words have vectors of shape {matrix.shape}")
            found[name] = WordVectors(words, matrix)
    except (SafetensorError, OSError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as words and their vectors: {error}.") from error
    return found


def named_files(modalities: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Options of modalities in which files of words, which are read no more, go by their names without folders."""
    return {
        name: {key: Path(value).name if key == "vectors" and value else value for key, value in options.items()}
        for name, options in copy.deepcopy(dict(modalities)).items()
    }
