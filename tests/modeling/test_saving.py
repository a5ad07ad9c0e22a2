"""Saving and loading: bit for bit for every grouping, in every way that transformers offers, from older folders."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.configuration import HighMMTConfig, ParameterGroups
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor

OLDER = Path(__file__).with_name("older_checkpoint")
SIZES = {
    "num_latents": 3,
    "d_latents": 8,
    "num_cross_attention_heads": 1,
    "num_crossmodal_attention_heads": 2,
    "num_self_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "self_attention_head_dim": 4,
}


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Two tables, a series and a spectrum, and the answers of three tasks."""
    rng = np.random.default_rng(0)
    columns = {"table": (4,), "series": (5, 2), "spectrum": (6,), "other": (3,)}
    values = {name: rng.normal(size=(12, *shape)).tolist() for name, shape in columns.items()}
    return Dataset.from_dict({**values, "label": [index % 3 for index in range(12)], "height": list(range(12))})


@pytest.fixture(scope="module")
def processor(rows: Dataset) -> HighMMTProcessor:
    kinds = {"table": "table", "series": "time_series", "spectrum": "spectrum", "other": "table"}
    modalities = {name: {"kind": kind} for name, kind in kinds.items()}
    tasks = {
        "three": {"modalities": _columns("table", "series", "spectrum"), "target": {"column": "label"}},
        "two": {
            "modalities": _columns("series", "other"),
            "target": {"column": "height", "problem_type": "regression", "names": ["height"]},
        },
        "one": {"modalities": _columns("spectrum"), "target": {"column": "label"}},
    }
    processor = HighMMTProcessor(modalities, tasks)
    for task in tasks:
        processor.fit(task, rows)
    return processor


def _columns(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"column": name} for name in names}


@pytest.fixture(scope="module")
def shared(processor: HighMMTProcessor) -> HighMMTModel:
    """A shared model whose running statistics are not those it began with."""
    torch.manual_seed(0)
    described = {"modalities": processor.modality_configs(), "tasks": processor.task_configs()}
    return HighMMTModel(HighMMTConfig(**described, **SIZES, hidden_dropout_prob=0.1)).eval()


def batches(processor: HighMMTProcessor, rows: Dataset) -> dict[str, dict[str, Any]]:
    samples = rows[:]
    return {
        task: processor(task, **{name: samples[name] for name in description["modalities"]})
        for task, description in processor.tasks.items()
    }


def logits_of(model: HighMMTModel, given: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {task: model(**batch).logits[task] for task, batch in given.items()}


def grouping(config: HighMMTConfig, kind: object) -> ParameterGroups:
    """Share all, share none, or any cluster map for a seed."""
    nodes = config.modality_task_pairs(), config.interactions()
    if kind == "all":
        return ParameterGroups.share_all(*nodes)
    if kind == "none":
        return ParameterGroups.share_none(*nodes)
    rng = random.Random(kind)
    maps = []
    for names in nodes:
        drawn = [rng.randrange(len(names)) for _ in names]
        number = {group: index for index, group in enumerate(dict.fromkeys(drawn))}
        maps.append({name: number[group] for name, group in zip(names, drawn, strict=True)})
    return ParameterGroups(*maps)


def grouped(shared: HighMMTModel, kind: object) -> HighMMTModel:
    """The shared model in groups, every tensor of every group different."""
    model = shared.split_parameter_groups(grouping(shared.config, kind))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value) if "var" in name else 0.1 * torch.randn_like(value))
    return model.eval()


@pytest.mark.parametrize("kind", ["all", "none", *range(30)])
def test_every_grouping_is_saved_and_loaded_bit_for_bit(
    shared: HighMMTModel, processor: HighMMTProcessor, rows: Dataset, tmp_path: Path, kind: object
) -> None:
    model = grouped(shared, kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    config = AutoConfig.from_pretrained(tmp_path)
    assert config.groups() == model.config.groups() == grouping(shared.config, kind)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is HighMMTModel
    assert not again.training
    assert not any(report.values()), report
    assert again.config.to_json_string() == model.config.to_json_string()

    before, after = dict(model.named_parameters()), dict(again.named_parameters())
    before.update(model.named_buffers())  # the ones that are not in the file too
    after.update(again.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
    addresses = [value.data_ptr() for value in again.parameters()]
    assert len(set(addresses)) == len(addresses)
    assert again.num_parameters_by_component() == model.num_parameters_by_component()

    loaded = AutoProcessor.from_pretrained(tmp_path)
    expected, found = logits_of(model, batches(processor, rows)), logits_of(again, batches(loaded, rows))
    assert all(torch.equal(expected[task], found[task]) for task in expected)


@pytest.mark.parametrize("device_map", ["cpu", "auto", "sequential", {"": "cpu"}])
def test_a_device_map_loads_the_same_model(
    shared: HighMMTModel, processor: HighMMTProcessor, rows: Dataset, tmp_path: Path, device_map: object
) -> None:
    model, given = grouped(shared, "none"), batches(processor, rows)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, device_map=device_map)
    expected, found = logits_of(model, given), logits_of(again, given)
    assert all(torch.equal(expected[task], found[task]) for task in expected)


@pytest.mark.parametrize(
    "device_map",
    [
        {"unimodal_groups": "disk", "crossmodal_groups": "cpu", "heads": "cpu"},
        {"": "disk"},
        {"unimodal_groups": 0, "crossmodal_groups": 1, "heads": 1},
    ],
)
def test_a_device_map_that_takes_the_model_apart_is_refused(shared: HighMMTModel, tmp_path: Path, device_map) -> None:
    shared.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="works on one device"):
        AutoModel.from_pretrained(tmp_path, device_map=device_map)


@pytest.mark.parametrize("device_map", ["auto", "balanced", "balanced_low_0", "sequential"])
@pytest.mark.parametrize(("accelerator", "expected"), [("cuda", "cuda:0"), (None, "cpu")])
def test_an_automatic_device_map_does_not_share_the_model_out(
    monkeypatch: pytest.MonkeyPatch, device_map: str, accelerator: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: accelerator and torch.device(accelerator))
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        PreTrainedModel, "from_pretrained", classmethod(lambda cls, *args, **kwargs: given.update(kwargs))
    )
    HighMMTModel.from_pretrained("folder", device_map=device_map)
    assert given["device_map"] == {"": expected}


def test_bfloat16_gives_the_logits_to_its_precision(
    shared: HighMMTModel, processor: HighMMTProcessor, rows: Dataset, tmp_path: Path
) -> None:
    model, given = grouped(shared, 3), batches(processor, rows)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {value.dtype for value in again.parameters()} == {torch.bfloat16}
    expected, found = logits_of(model, given), logits_of(again, given)
    for task, logits in expected.items():
        assert found[task].dtype == torch.bfloat16
        torch.testing.assert_close(found[task].float(), logits, atol=0.05 * logits.abs().max().item(), rtol=0)
    # And back: what was saved in half the bytes loads as it was saved.
    again.save_pretrained(tmp_path / "half")
    half = AutoModel.from_pretrained(tmp_path / "half")
    assert all(torch.equal(value, half.state_dict()[name]) for name, value in again.state_dict().items())


def test_bfloat16_keeps_small_deviations_of_large_values() -> None:
    torch.manual_seed(0)
    described = {
        "modalities": {"set": {"num_channels": 30, "ordered": False}},
        "tasks": {"t": {"modalities": ["set"]}},
    }
    half = HighMMTModel(HighMMTConfig(**described, **SIZES, modality_embedding="none")).eval().bfloat16()
    full = HighMMTModel(half.config).eval()
    full.load_state_dict(half.state_dict())
    values = (torch.randn(8, 20, 30) + 20).bfloat16()
    expected, found = (model(inputs={"t": {"set": values}}).logits["t"].float() for model in (full, half))
    torch.testing.assert_close(found, expected, atol=0.05 * expected.abs().max().item(), rtol=0)


def test_a_folder_of_an_older_version_gives_the_logits_it_gave() -> None:
    model, report = AutoModel.from_pretrained(OLDER, output_loading_info=True)
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(OLDER)
    expected = json.loads((OLDER / "expected.json").read_text(encoding="utf-8"))["tasks"]
    assert list(expected) == list(model.config.tasks) == ["shapes", "clinic", "arm"]
    for task, values in expected.items():
        with torch.no_grad():
            logits = model(**processor(task, **values["rows"])).logits[task]
        torch.testing.assert_close(logits, torch.tensor(values["logits"]), atol=1e-5, rtol=1e-5)


def test_settings_that_an_older_configuration_lacks_have_their_defaults(tmp_path: Path) -> None:
    config = json.loads((OLDER / "config.json").read_text(encoding="utf-8"))
    for name in ("layer_norm_eps", "use_crossmodal", "initializer_range", "transformers_version"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert AutoConfig.from_pretrained(tmp_path).layer_norm_eps == HighMMTConfig().layer_norm_eps
