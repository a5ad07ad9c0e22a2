"""Serializer of sound: recordings of any rate as log-mel spectrograms."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from transformers.audio_utils import mel_filter_bank, window_function

from .images import file_content
from .rows import Source, Values, as_array, entries_of, some_rows
from .scaling import mean_and_deviation
from .serializers import (
    Elements,
    ElementShape,
    NumericSerializer,
    Statistics,
    check_choice,
    check_folder,
    check_pair,
    check_whole,
    group_steps,
    is_number,
)

# Power below which a sound counts as silent: full scale is 1, and the noise of 16-bit rounding lies a little above.
MEL_FLOOR = 1e-10
SILENCE = math.log10(MEL_FLOOR)
STREAM_SIZE = 0x7FFFFFFF  # from here on, the size in a WAV file's header is one that was never filled in


@dataclass(frozen=True)
class AudioSerializer(NumericSerializer):
    """Recordings, sound or speech, as log-mel spectrograms, in frames or in patches.

    A recording is a file (WAV; with the extra `audio` also FLAC, OGG, MP3) as bytes, its path or an entry of
    `datasets.Audio`, or `{"array": waveform, "sampling_rate": hertz}`, where several channels are a second axis,
    (samples, channels). Channels are averaged and the rate is changed to `sample_rate_hz` (polyphase filter). Frame k
    covers the time from `k * hop_seconds` on for `window_seconds`, under a Hann window; the last one is filled up with
    silence. A frame holds log10 of the power in each mel band (HTK scale, 0 Hz to half the rate, floor 1e-10).

    Args:
        sample_rate_hz: rate that all recordings are changed to.
        window_seconds: length of a frame.
        hop_seconds: time from the start of a frame to that of the next.
        num_mels: number of mel bands.
        patch_size: None makes one element of each frame, (frames,) x mel bands; a number, or a pair for time and
            frequency, makes patches, (frames, bands) x numbers of a patch: 112 x 112 and 16 give (7, 7, 256).
        max_length: counted in frames; longer recordings keep their first `max_length` frames.
        fill: `"silence"` extends shorter recordings to `max_length` frames of silence. Without it they have fewer
            elements, and a batch masks the rest.
        scale: `"standardize"` (mean 0, deviation 1 over all numbers of the training split) or `"none"`.
        rate_hz: rate of recordings that are mere lists of numbers; None refuses these.
        folder: where relative paths start; None for the working directory.
    """

    kind: ClassVar[str] = "audio"

    sample_rate_hz: int = 16000
    window_seconds: float = 0.025
    hop_seconds: float = 0.01
    num_mels: int = 64
    patch_size: int | Sequence[int] | None = None
    fill: Literal["silence"] | None = None
    scale: Literal["standardize", "none"] = "standardize"
    rate_hz: int | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("sample_rate_hz", self.sample_rate_hz, 1)
        check_whole("num_mels", self.num_mels, 1)
        if self.rate_hz is not None:
            check_whole("rate_hz", self.rate_hz, 1)
        for name in ("window_seconds", "hop_seconds"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and round(value * self.sample_rate_hz) >= 1):
                raise ValueError(f"{name}={value!r} must be at least one sample, 1/{self.sample_rate_hz} seconds.")
        if self.patch_size is not None:
            check_pair("patch_size", self.patch_size)
        check_choice("fill", self.fill, (None, "silence"))
        check_choice("scale", self.scale, ("standardize", "none"))
        if self.fill is not None and self.max_length is None:
            raise ValueError("fill='silence' needs max_length, the number of frames to fill up to.")
        check_folder(self.folder)

    @property
    def _patch(self) -> tuple[int, int]:
        """Frames and bands of a patch; without patches one frame and all bands."""
        if self.patch_size is None:
            return 1, self.num_mels
        return check_pair("patch_size", self.patch_size)

    @property
    def position_length(self) -> int | None:
        """`max_length` in patches."""
        return None if self.max_length is None else -(-self.max_length // self._patch[0])

    def fit(self, values: Values, source: Source) -> Statistics:
        """Mean, deviation and range of the log-mel power, longest recording in frames. See `Serializer.fit`."""
        values, source = some_rows(values, source, lambda *row: self._spectrograms(*row)[0].size)
        frames, lengths = self._spectrograms(values, source)
        if not len(frames):
            raise source.error("the training split holds no recording.")
        sizes = lengths[lengths > 0]
        mean, deviation = mean_and_deviation(frames) if self.scale == "standardize" else (0.0, 1.0)
        statistics: Statistics = {
            "length": int(sizes[0]) if (sizes == sizes[0]).all() else None,
            "longest": int(sizes.max()),
            "mean": mean,
            "deviation": deviation,
            "low": float(frames.min()),
            "high": float(frames.max()),
        }
        return self._check_fit(statistics, source)

    def encode(self, values: Values, source: Source, statistics: Statistics) -> Elements:
        """(frames, mel bands), or with `patch_size` (frames of patches, bands of patches, channels).

        Channels of a patch run over its frames, each with its bands from low to high. See `Serializer.encode`.
        """
        frames, lengths = self._spectrograms(values, source)
        deep, wide = self._patch
        missing = -frames.shape[1] % wide
        frames = np.pad(frames, ((0, 0), (0, missing)), constant_values=SILENCE)
        frames = (frames - statistics["mean"]) / (statistics["deviation"] or 1.0)
        silence = (SILENCE - statistics["mean"]) / (statistics["deviation"] or 1.0)
        grouped, lengths = group_steps(frames, lengths, deep, silence)
        if self.patch_size is None:
            return self._elements(grouped, lengths)
        bands = frames.shape[1] // wide
        patches = grouped.reshape(len(grouped), deep, bands, wide).transpose(0, 2, 1, 3)
        return self._elements(patches.reshape(len(grouped), bands, deep * wide), lengths)

    def shape(self, statistics: Statistics) -> ElementShape:
        """(frames,) of mel bands, or (frames, bands) of patches; frames are None where training recordings differ."""
        deep, wide = self._patch
        length = statistics["length"]
        frames = None if length is None else -(-length // deep)
        axes = (frames,) if self.patch_size is None else (frames, -(-self.num_mels // wide))
        return ElementShape(axes, self._width(deep * wide), varies=self.fill is None)

    def sample_ndim(self, statistics: Statistics) -> int:
        """A recording counts as one axis, that of its samples."""
        return 1

    def object_ndim(self, statistics: Statistics, value: Any, nested: bool) -> int:
        """A file, or a waveform with its rate, is one recording."""
        return 1

    def _spectrograms(self, values: Values, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """(all frames, mel bands) and the number of frames of each row; 0 where it is absent."""
        parts = [np.zeros((0, self.num_mels))]
        entries = entries_of(values)
        lengths = np.zeros(len(entries), np.int64)
        for row, entry in enumerate(entries):
            if entry is not None:
                frames = self._spectrogram(entry, source, row)
                lengths[row] = len(frames)
                parts.append(frames)
        return np.concatenate(parts), lengths

    def _spectrogram(self, entry: Any, source: Source, row: int) -> np.ndarray:
        waveform, rate = read_recording(entry, source, row, self.rate_hz, self.folder)
        waveform = resampled(waveform, rate, self.sample_rate_hz)
        window, hop = round(self.window_seconds * self.sample_rate_hz), round(self.hop_seconds * self.sample_rate_hz)
        if self.max_length is not None:
            waveform = waveform[: window + (self.max_length - 1) * hop]
        frames = log_mel(waveform, self.sample_rate_hz, window, hop, self.num_mels)
        if self.fill == "silence":
            missing = (self.max_length or 0) - len(frames)
            frames = np.pad(frames, ((0, missing), (0, 0)), constant_values=SILENCE)
        return frames


def read_recording(
    value: Any, source: Source, row: int, rate_hz: int | None = None, folder: str | None = None
) -> tuple[np.ndarray, int]:
    """Waveform and rate of a recording in any form.

    Args:
        value: a file (bytes, path or `{"bytes", "path"}`), `{"array", "sampling_rate"}`, or numbers.
        source, row: where it comes from.
        rate_hz: rate of mere numbers.
        folder: where relative paths start.

    Returns:
        (samples,) float64, of files between -1 and 1, channels averaged; and the rate in hertz.

    Raises:
        ValueError: not such a thing, a file that cannot be read, no samples, or one that is missing or infinite; the
            message names the row.
        ImportError: a WAV file without scipy.
    """
    if isinstance(value, Mapping) and value.get("array") is not None:
        rate = value.get("sampling_rate", value.get("rate"))
        waveform = as_array(value["array"], source, row)
    elif isinstance(value, (str, bytes, Mapping)) or hasattr(value, "__fspath__"):
        content = file_content(value, source, row, folder, "audio")
        waveform, rate = _decoded_file(content, source, row)
    else:
        waveform, rate = as_array(value, source, row), rate_hz
        if rate is None:
            raise source.error(
                "found numbers without a rate; give {'array': ..., 'sampling_rate': ...}, or set rate_hz.", row
            )
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or not rate >= 1 or rate != int(rate):
        raise source.error(f"found the rate {rate!r}, expected whole hertz.", row)
    if waveform.ndim == 2:
        waveform = waveform.mean(axis=1) if waveform.shape[1] else waveform[:, 0:0].reshape(-1)
    if waveform.ndim != 1:
        raise source.error(f"found {waveform.ndim} axes, expected samples, or samples x channels.", row)
    if not len(waveform):
        raise source.error("the recording is empty; give None for one that is missing.", row)
    if not np.isfinite(waveform).all():
        raise source.error("found missing or infinite samples; numbers must be finite.", row)
    return waveform.astype(np.float64), int(rate)


def resampled(waveform: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """A waveform, (samples,), at another rate: `scipy.signal.resample_poly`, about `len * target_rate / rate` long."""
    if rate == target_rate:
        return waveform
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError(f"Changing {rate} Hz to {target_rate} Hz needs scipy: pip install scipy") from error

    divisor = math.gcd(rate, target_rate)
    return np.asarray(resample_poly(waveform, target_rate // divisor, rate // divisor))


def log_mel(waveform: np.ndarray, rate: int, window: int, hop: int, num_mels: int) -> np.ndarray:
    """log10 of mel power, (frames, num_mels) float64.

    The numbers are those of `transformers.audio_utils.spectrogram` without centring, all frames in one go.

    Args:
        waveform: (samples,); extended with zeros to whole frames, of which there is at least one.
        rate: samples in a second.
        window: samples of a frame.
        hop: samples from one frame to the next.
        num_mels: mel bands.
    """
    count = max(0, -(-(len(waveform) - window) // hop)) + 1
    padded = np.zeros(window + (count - 1) * hop)
    padded[: len(waveform)] = waveform
    hann, filters = _bank(rate, window, num_mels)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * hann
    power = np.abs(np.fft.rfft(frames, n=2 * (len(filters) - 1))) ** 2
    return np.log10(np.maximum(power @ filters, MEL_FLOOR))


@functools.lru_cache(maxsize=16)
def _bank(rate: int, window: int, num_mels: int) -> tuple[np.ndarray, np.ndarray]:
    """Hann window, and mel filters, (frequencies, num_mels), of a transform that gives every band a frequency.

    The transform is the shortest power of two that holds the window and leaves no band empty; frames are filled up
    with zeros, which changes no power.
    """
    size = 1 << (window - 1).bit_length()
    limit = rate / 2
    mels = np.linspace(0, 2595 * math.log10(1 + limit / 700), num_mels + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    while True:
        bins = np.arange(size // 2 + 1) * rate / size
        inside = np.searchsorted(bins, edges[2:], "left") - np.searchsorted(bins, edges[:-2], "right")
        if (inside > 0).all():
            break
        size *= 2
    filters = mel_filter_bank(size // 2 + 1, num_mels, 0.0, limit, rate, norm=None, mel_scale="htk")
    return window_function(window, "hann"), filters


def _decoded_file(content: BytesIO | Path, source: Source, row: int) -> tuple[np.ndarray, int]:
    """Samples, (samples,) or (samples, channels) float64 between -1 and 1, and the rate of an audio file."""
    data = content.getvalue() if isinstance(content, BytesIO) else content.read_bytes()
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        _require_whole(data, source, row)
        return _decoded_wav(data, source, row)
    if not data:
        raise source.error("the audio file is empty.", row)
    return _decoded_by_soundfile(data, source, row, f"that is no WAV (it begins with {data[:4]!r})")


def _require_whole(data: bytes, source: Source, row: int) -> None:
    """Refuse a WAV file that ends before its sound does; sizes from 2 GB on stand for a stream of unknown length."""
    start = 12
    while start + 8 <= len(data):
        size, found = int.from_bytes(data[start + 4 : start + 8], "little"), len(data) - start - 8
        if data[start : start + 4] == b"data" and found < size < STREAM_SIZE:
            raise source.error(f"the audio is cut short: {found} of {size} bytes of sound are there.", row)
        start += 8 + size + size % 2


def _decoded_by_soundfile(data: bytes, source: Source, row: int, what: str) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise source.error(
            f'found a file {what}; to read FLAC, OGG, MP3 and compressed WAV: pip install "highmmt[audio]".', row
        ) from error
    try:
        waveform, rate = soundfile.read(BytesIO(data), dtype="float64")
    except (RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "error_string", error)
        raise source.error(f"the audio cannot be read: {str(reason).rstrip('.')}.", row) from error
    return waveform, rate


def _decoded_wav(data: bytes, source: Source, row: int) -> tuple[np.ndarray, int]:
    try:
        from scipy.io import wavfile
    except ImportError as error:
        raise ImportError("Reading WAV files needs scipy: pip install scipy") from error
    import struct
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that hold no sound
            rate, waveform = wavfile.read(BytesIO(data))
    except (ValueError, EOFError, struct.error, ZeroDivisionError, IndexError, UnboundLocalError) as error:
        if str(error).startswith("Unknown wave file format"):  # mu-law, A-law, ADPCM and the like
            return _decoded_by_soundfile(data, source, row, "of compressed WAV")
        raise source.error(f"the audio cannot be read: {str(error).rstrip('.')}.", row) from error
    if waveform.dtype.kind == "f":
        return waveform.astype(np.float64), rate
    if waveform.dtype == np.uint8:
        return (waveform.astype(np.float64) - 128) / 128, rate
    return waveform / float(np.iinfo(waveform.dtype).max + 1), rate
