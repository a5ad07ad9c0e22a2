"""A broken configuration is refused by name, and one that asks for too much memory before any is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.modeling_highmmt.model_size import check_model_size, parameters_by_component

MODALITIES = {
    "image": {"num_channels": 3, "num_axes": 2, "num_frequency_bands": 2},
    "sound": {"num_channels": 5, "num_frequency_bands": 3},
    "words": {"num_channels": 4, "vocab_size": 11},
}
TASKS = {
    "two": {"modalities": ["sound", "image"], "num_labels": 3},
    "three": {"modalities": ["words", "image", "sound"], "num_steps": 4},
}
ONE = {"one": {"modalities": ["words"], "num_labels": 7, "problem_type": "regression"}}
FIND = {"find": {"modalities": ["sound", "words"], "num_labels": 5, "problem_type": "retrieval"}}
GROUPS = {
    "unimodal": {"two/sound": 0, "two/image": 1, "three/words": 2, "three/image": 1, "three/sound": 0},
    "crossmodal": {"two/sound+image": 0, "three/words+image": 1, "three/words+sound": 0, "three/image+sound": 1},
}


def config_of(**changes: Any) -> HighMMTConfig:
    values = {"modalities": MODALITIES, "tasks": {**TASKS, **ONE, **FIND}, "num_latents": 5, "d_latents": 12}
    return HighMMTConfig(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_unimodal_layers": 3, "num_crossmodal_layers": 2, "num_self_attends_per_layer": 2},
        {"modality_embedding": "learned", "modality_embedding_dim": 3, "widening_factor": 1},
        {"use_crossmodal": False, "modality_embedding": "none"},
        {"use_unimodal_encoder": False, "num_crossmodal_layers": 3, "tasks": TASKS},
        {"parameter_groups": GROUPS, "tasks": TASKS, "head_norm": "layer_norm"},
        {"parameter_groups": GROUPS, "tasks": TASKS, "group_adapter_rank": 3, "num_unimodal_layers": 2},
        {
            "parameter_groups": GROUPS,
            "tasks": TASKS,
            "group_adapter_rank": 2,
            "group_modalities": [["image", "sound"], ["image", "sound", "words"], ["sound", "words"]],
            "modality_embedding": "learned",
        },
    ],
    ids=lambda changes: ",".join(changes) or "default",
)
def test_the_size_worked_out_beforehand_is_that_of_the_model(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    counts = HighMMTModel(config).num_parameters_by_component()
    assert parameters_by_component(config) == {part: counts[part] for part in parameters_by_component(config)}


def _in(part: str, name: str, **values: object) -> Callable[[], dict[str, Any]]:
    entries = {"modalities": MODALITIES, "tasks": {**TASKS, **ONE}}[part]
    return lambda: {part: {**entries, name: {**entries[name], **values}}}


@pytest.mark.parametrize(
    ("changes", "part", "setting"),
    [
        (lambda: {"d_latents": 10**7, "widening_factor": 10**7}, "crossmodal", "d_latents=10000000"),
        (lambda: {"num_latents": 10**7}, "heads", "num_latents=10000000"),
        (lambda: {"num_unimodal_layers": 10**7}, "unimodal", "num_unimodal_layers=10000000"),
        (lambda: {"num_crossmodal_layers": 10**5}, "crossmodal", "num_crossmodal_layers=100000"),
        (lambda: {"num_self_attends_per_layer": 10**5}, "crossmodal", "num_self_attends_per_layer=100000"),
        (lambda: {"self_attention_head_dim": 10**7}, "crossmodal", "self_attention_head_dim=10000000"),
        (_in("modalities", "sound", num_channels=10**7), "unimodal", "modality 'sound': num_channels=10000000"),
        (_in("modalities", "words", vocab_size=10**7, num_channels=100), "embeddings", "vocab_size=10000000"),
        (_in("tasks", "one", num_labels=10**7), "heads", "task 'one': num_labels=10000000"),
        (_in("tasks", "three", num_steps=10**7), "heads", "task 'three': num_labels=2, num_steps=10000000"),
    ],
)
def test_a_model_that_would_not_fit_is_refused_by_what_makes_it_large(
    changes: Callable[[], dict[str, Any]], part: str, setting: str
) -> None:
    with pytest.raises(ValueError) as error:
        HighMMTModel(config_of(**changes()))
    assert f"for its {part} part" in str(error.value)
    assert setting in str(error.value)
    assert "more than the 100,000,000 that are allowed" in str(error.value)


def test_the_limit_can_be_raised_and_leaves_room_for_ten_times_the_papers_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_model_size(config_of(d_latents=256, num_unimodal_layers=4, num_crossmodal_layers=4), 10 * 5_280_000)
    monkeypatch.setattr(HighMMTModel, "max_parameters", 1000)
    with pytest.raises(ValueError, match=r"raise HighMMTModel\.max_parameters"):
        HighMMTModel(config_of())
    monkeypatch.setattr(HighMMTModel, "max_parameters", 10**6)
    assert HighMMTModel(config_of()).num_parameters() > 1000


@pytest.mark.parametrize(("count", "seed"), [(200, 1), pytest.param(1000, 0, marks=pytest.mark.slow)])
def test_a_mutated_configuration_loads_or_names_what_is_wrong_and_takes_no_memory(
    tmp_path: Path, count: int, seed: int
) -> None:
    here = Path(__file__).parent
    original = here / "older_checkpoint" / "config.json"
    command = [sys.executable, here / "mutated_configs.py", original, tmp_path, str(count), str(seed)]
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(results) == count
    unexpected = []
    for result in results:
        if result["error"] is not None:
            kinds, message = result["error"]
            # Memory that is not there is an error of another kind.
            refused = {"ValueError", "StrictDataclassError"} & set(kinds)
            named = any(str(key)[:40] in message for key in result["keys"] if isinstance(key, str) and key)
            if not (refused and named):
                unexpected.append((result["what"], kinds[0], message[:200]))
    assert not unexpected
    loaded = sum(result["error"] is None for result in results)
    assert 0.1 * count < loaded < 0.5 * count
