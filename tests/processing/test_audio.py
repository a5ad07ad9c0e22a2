"""Recordings in every form they come in, as log-mel spectrograms."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import scipy.io.wavfile
import torch
from datasets import Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.processing.audio import AudioSerializer, log_mel, read_recording, resampled
from highmmt.processing.rows import Source

SOURCE = Source("task", "column", "modality")
RATE = 8000


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def wav(waveform: np.ndarray, rate: int = RATE, kind: Any = np.int16) -> bytes:
    stream = io.BytesIO()
    if kind == np.uint8:
        samples = np.round(waveform * 128 + 128)
    else:
        samples = waveform if np.dtype(kind).kind == "f" else np.round(waveform * np.iinfo(kind).max)
    scipy.io.wavfile.write(stream, rate, samples.astype(kind))
    return stream.getvalue()


def encoded(train: Any, rows: Any, **options: Any) -> list[np.ndarray]:
    serializer = AudioSerializer(**{"sample_rate_hz": RATE, "num_mels": 20, **options})
    return serializer.encode(rows, SOURCE, serializer.fit(train, SOURCE)).split()


def test_a_spectrogram_of_112_frames_and_bands_becomes_7_x_7_patches() -> None:
    recording = wav(tone(300, 0.7))
    options: dict[str, Any] = {"num_mels": 112, "window_seconds": 0.032, "hop_seconds": 0.004, "max_length": 112}
    (frames,) = encoded([recording], [recording], **options)
    (patches,) = encoded([recording], [recording], patch_size=16, **options)
    assert frames.shape == (112, 112)
    assert patches.shape == (7, 7, 256)
    np.testing.assert_array_equal(patches[2, 3].reshape(16, 16), frames[32:48, 48:64])


def test_log_mel_is_that_of_transformers() -> None:
    waveform = np.random.default_rng(0).normal(size=4001) * 0.1
    window, hop, bands = 200, 80, 40
    found = log_mel(waveform, RATE, window, hop, bands)
    filters = mel_filter_bank(129, bands, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    expected = spectrogram(
        waveform,
        window_function(window, "hann"),
        window,
        hop,
        fft_length=256,
        power=2.0,
        center=False,
        mel_filters=filters,
        mel_floor=1e-10,
        log_mel="log10",
    ).T
    assert len(found) == len(expected) + 1  # the last frame is filled up with zeros
    np.testing.assert_allclose(found[:-1], expected, atol=1e-5)


def test_frame_k_begins_k_hops_after_the_start() -> None:
    waveform = np.zeros(4000)
    waveform[2000:2010] = 0.5
    (frames,) = encoded([wav(waveform)], [wav(waveform)], window_seconds=0.01, hop_seconds=0.01)
    assert frames.shape == (50, 20)
    assert (frames[25] > frames[24]).all()
    assert (frames[25] > frames[26]).all()


def test_no_mel_band_is_empty() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bands in (8, 40, 128):
            noise = np.random.default_rng(0).normal(size=RATE)
            assert (log_mel(noise, RATE, 200, 80, bands) > -9).all()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_files_paths_and_waveforms_give_the_same_elements(kind: Any, tmp_path: Path) -> None:
    waveform = tone(440)
    data = wav(waveform, kind=kind)
    (tmp_path / "a.wav").write_bytes(data)
    samples, rate = read_recording(data, SOURCE, 0)
    assert rate == RATE
    np.testing.assert_allclose(samples, waveform, atol=0.01 if kind == np.uint8 else 1e-4)
    forms = [
        data,
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        {"bytes": data, "path": "elsewhere.wav"},
        {"bytes": None, "path": str(tmp_path / "a.wav")},
        {"array": samples, "sampling_rate": RATE},
        {"array": samples.tolist(), "sampling_rate": float(RATE)},
        {"array": torch.from_numpy(np.stack([samples, samples], axis=1)), "sampling_rate": RATE},
    ]
    (expected,) = encoded([data], [data])
    for form in forms:
        np.testing.assert_allclose(encoded([form], [form])[0], expected, atol=1e-5)
    (found,) = encoded(["a.wav"], ["a.wav"], folder=str(tmp_path))
    np.testing.assert_array_equal(found, expected)
    (found,) = encoded([samples], [samples], rate_hz=RATE)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_flac_is_read_with_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, tone(440), RATE, format="FLAC")
    (tmp_path / "a.flac").write_bytes(stream.getvalue())
    for form in (stream.getvalue(), str(tmp_path / "a.flac")):
        waveform, rate = read_recording(form, SOURCE, 0)
        assert rate == RATE
        np.testing.assert_allclose(waveform, tone(440), atol=1e-4)
    with pytest.raises(ValueError, match="row 0: the audio cannot be read:"):
        encoded([stream.getvalue()[:30]], [])


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_the_size_of_a_stream_that_was_never_filled_in_is_no_fault(size: int) -> None:
    whole = wav(tone(440))
    stream = whole[:40] + size.to_bytes(4, "little") + whole[44:]
    np.testing.assert_array_equal(read_recording(stream, SOURCE, 0)[0], read_recording(whole, SOURCE, 0)[0])


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM"])
def test_compressed_wav_is_read_with_soundfile(subtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, tone(440), RATE, format="WAV", subtype=subtype)
    waveform, rate = read_recording(stream.getvalue(), SOURCE, 0)
    assert rate == RATE
    assert (np.abs(waveform[: len(tone(440))] - tone(440)) < 0.05).mean() > 0.99  # ADPCM has to find its step first
    with pytest.raises(ValueError, match="the audio is cut short"):
        read_recording(stream.getvalue()[:-500], SOURCE, 0)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ValueError, match=r'found a file of compressed WAV; .* pip install "highmmt\[audio\]"'):
        read_recording(stream.getvalue(), SOURCE, 0)


def test_without_soundfile_other_formats_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ValueError, match=r'row 0: found a file that is no WAV .* pip install "highmmt\[audio\]"'):
        encoded([b"fLaC and so on"], [])


@given(rate=st.sampled_from([4000, 11025, 16000, 22050, 44100, 48000]))
@settings(max_examples=6, deadline=None)
def test_any_rate_is_resampled(rate: int) -> None:
    waveform = tone(440, 1.0, rate)
    found = resampled(waveform, rate, RATE)
    assert len(found) == RATE
    np.testing.assert_allclose(found[200:-200], tone(440, 1.0)[200:-200], atol=0.01)
    frames = encoded([wav(tone(440, 1.0))], [wav(waveform, rate), wav(tone(440, 1.0))])
    assert frames[0].shape == frames[1].shape
    assert (frames[0].argmax(axis=1)[1:-1] == frames[1].argmax(axis=1)[1:-1]).all()


def test_shorter_recordings_are_masked_or_filled_with_silence() -> None:
    rows = [wav(tone(300, 0.5)), wav(tone(300, 0.2)), None]
    options: dict[str, Any] = {"max_length": 40, "patch_size": [4, 20]}
    masked, short, absent = encoded(rows, rows, **options)
    assert (masked.shape, short.shape, absent.shape) == ((10, 1, 80), (5, 1, 80), (0, 1, 80))
    filled = encoded(rows, rows, fill="silence", scale="none", **options)
    assert [len(item) for item in filled] == [10, 10, 0]
    assert (filled[1][5:] == -10).all()
    unscaled = encoded(rows, rows, scale="none", **options)
    np.testing.assert_array_equal(filled[1][:5], unscaled[1])


def test_training_spectrograms_have_mean_0_and_deviation_1() -> None:
    rows = [wav(tone(hertz)) for hertz in (200, 500, 1500)]
    numbers = np.concatenate(encoded(rows, rows))
    assert abs(numbers.mean()) < 1e-6
    assert abs(numbers.std() - 1) < 1e-6


BROKEN = [
    (b"", "the audio file is empty"),
    (wav(tone(300))[:20], "the audio cannot be read:"),
    (wav(tone(300))[:30] + b"\0" * 3, "the audio cannot be read:"),
    (wav(tone(300))[:4044], "the audio is cut short: 4000 of 8000 bytes of sound are there"),
    (wav(tone(300))[:-1], "the audio is cut short: 7999 of 8000 bytes of sound are there"),
    ("gone.wav", "there is no audio file gone.wav"),
    ([0.0, 0.1], "found numbers without a rate; give {'array': ..., 'sampling_rate': ...}, or set rate_hz"),
    ({"array": [0.1]}, "found the rate None, expected whole hertz"),
    ({"array": [0.1], "sampling_rate": 0.5}, "found the rate 0.5, expected whole hertz"),
    ({"array": [], "sampling_rate": 8000}, "the recording is empty"),
    (wav(np.zeros(0)), "the recording is empty"),
    ({"array": [0.1, None], "sampling_rate": 8000}, "found missing or infinite samples"),
    ({"array": [[[0.1]]], "sampling_rate": 8000}, "found 3 axes, expected samples"),
    ({"array": ["a"], "sampling_rate": 8000}, "expected numbers"),
    ({"sound": 3}, "found a structure of sound, expected an audio"),
    (7.5, "found numbers without a rate"),
]


@pytest.mark.parametrize(("value", "message"), BROKEN)
def test_what_is_no_recording_is_refused_by_row(value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        encoded([wav(tone(300))], [None, value])
    assert str(error.value).startswith("Task 'task', modality 'modality', column 'column', row 1: ")
    assert message in str(error.value)


def test_a_training_split_without_recordings_is_refused() -> None:
    with pytest.raises(ValueError, match="the training split holds no recording"):
        encoded([None, None], [])
    with pytest.raises(ValueError, match="row 2: the audio file is empty"):
        encoded([None, None, b""], [])


BAD_OPTIONS = [
    ({"sample_rate_hz": 0}, "sample_rate_hz=0 must be a whole number"),
    ({"hop_seconds": 1e-6}, "hop_seconds=1e-06 must be at least one sample, 1/16000 seconds"),
    ({"window_seconds": "long"}, "window_seconds='long' must be at least one sample"),
    ({"patch_size": [1, 2, 3]}, "patch_size=[1, 2, 3] must be a whole number or a pair"),
    ({"fill": "silence"}, "fill='silence' needs max_length"),
    ({"scale": "unit"}, "scale='unit' is not one of 'standardize', 'none'"),
    ({"folder": 3}, "folder=3 must be the path of a folder"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        AudioSerializer(**options)
    assert message in str(error.value)


def audio_processor(rows: Dataset, **options: Any) -> HighMMTProcessor:
    processor = HighMMTProcessor(
        {"audio": {"kind": "audio", "sample_rate_hz": RATE, "num_mels": 20, "num_frequency_bands": 2, **options}},
        {"toy": {"modalities": {"audio": {"column": "sound"}}, "target": {"column": "label"}}},
    )
    processor.fit("toy", rows)
    return processor


def sounds() -> list[bytes]:
    return [wav(tone(300, 0.3)), wav(tone(700, 0.2)), wav(tone(1200, 0.25), 4000)]


def test_columns_of_recordings_are_read_from_a_dataset(tmp_path: Path) -> None:
    paths = []
    for index, data in enumerate(sounds()):
        paths.append(str(tmp_path / f"{index}.wav"))
        Path(paths[-1]).write_bytes(data)
    waveforms = [
        dict(zip(("array", "sampling_rate"), read_recording(data, SOURCE, 0), strict=True)) for data in sounds()
    ]
    feature = Features(sound={"bytes": Value("binary"), "path": Value("string")}, label=Value("int64"))
    columns = {
        "path": Dataset.from_dict({"sound": paths, "label": [0, 1, 0]}),
        "bytes": Dataset.from_dict({"sound": sounds(), "label": [0, 1, 0]}),
        "audio": Dataset.from_dict(
            {"sound": [{"bytes": data, "path": None} for data in sounds()], "label": [0, 1, 0]}, features=feature
        ),
        "feature": Dataset.from_dict({"sound": paths, "label": [0, 1, 0]}).cast(
            Features(sound=datasets.Audio(), label=Value("int64"))
        ),
        "waveforms": Dataset.from_dict({"sound": waveforms, "label": [0, 1, 0]}),
    }
    expected = np.concatenate(encoded(sounds(), sounds()))
    for name, rows in columns.items():
        processor = audio_processor(rows)
        batch = processor.collate("toy", processor.encode("toy", rows).with_format("arrow")[:])
        mask = batch["attention_mask"]["toy"]["audio"]
        np.testing.assert_allclose(batch["inputs"]["toy"]["audio"][mask].numpy(), expected, atol=1e-5, err_msg=name)


def test_a_call_tells_one_recording_from_several() -> None:
    processor = audio_processor(Dataset.from_dict({"sound": sounds(), "label": [0, 1, 0]}))
    samples, rate = read_recording(sounds()[0], SOURCE, 0)
    for one in (sounds()[0], {"array": samples, "sampling_rate": rate}):
        assert processor("toy", audio=one)["inputs"]["toy"]["audio"].shape == (1, 29, 20)
        batch = processor("toy", audio=[one, None], label=[1, 0])
        assert batch["inputs"]["toy"]["audio"].shape == (2, 29, 20)
        assert batch["attention_mask"]["toy"]["audio"].sum(dim=1).tolist() == [29, 0]


def test_what_comes_after_a_recording_in_its_batch_changes_no_logit() -> None:
    processor = audio_processor(
        Dataset.from_dict({"sound": sounds(), "label": [0, 1, 0]}), max_length=40, patch_size=[4, 20]
    )
    config = HighMMTConfig(
        modalities=processor.modality_configs(), tasks=processor.task_configs(), num_latents=4, d_latents=8
    )
    model = HighMMTModel(config).eval()
    assert config.modalities["audio"].max_length == 10
    with torch.no_grad():
        alone = model(**processor("toy", audio=sounds()[1])).logits["toy"]
        padded = model(**processor("toy", audio=sounds())).logits["toy"][1:2]
    torch.testing.assert_close(alone, padded)


def test_an_audio_processor_survives_saving(tmp_path: Path) -> None:
    processor = audio_processor(Dataset.from_dict({"sound": sounds(), "label": [0, 1, 0]}), patch_size=[4, 20])
    processor.save_pretrained(tmp_path)
    loaded = HighMMTProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    one, other = (item("toy", audio=sounds())["inputs"]["toy"]["audio"] for item in (processor, loaded))
    assert torch.equal(one, other)
