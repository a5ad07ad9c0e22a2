"""The JSON schema for editors says what `check_suite` says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from highmmt.processing.kinds import SERIALIZERS, option_names
from highmmt.suites import Suite
from highmmt.suites.builders import builder_names
from highmmt.suites.json_schema import suite_json_schema

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = suite_json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


SUITE: dict[str, Any] = {
    "name": "tiny",
    "modalities": {"vitals": {"kind": "time_series", "max_frequency": 8}, "table": {"kind": "table"}},
    "tasks": {
        "ward": {
            "source": {"path": "csv", "data_files": {"train": "a.csv", "test": ["b.csv"]}, "sep": ";"},
            "splits": {"validation": 0.25},
            "modalities": {"vitals": None, "table": {"columns": ["age", "weight"]}},
            "target": {"column": "ill", "problem_type": "single_label_classification", "classes": ["no", 1]},
        }
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(SUITE)
    *parents, last = path.split(".")
    place: Any = values
    for key in parents:
        place = place.setdefault(key, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return values


def test_every_suite_of_the_package_fits(validator: Any, root: Path) -> None:
    files = sorted((root / "suites").glob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        assert not list(validator.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8")))), file


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tasks.ward.source", {"saved": "folder"}),
        ("tasks.ward.source", {"path": "owner/name", "revision": "v1"}),
        ("tasks.ward.source", {"builder": "mimic", "icd9_group": 3, "data_dir": "here"}),
        ("tasks.ward.source", {"builder": "cifar_esc", "pairs": False, "faithful_to_public_code": True}),
        ("tasks.ward.splits", {"validation": "valid", "test": 0.2, "seed": 3, "group_by": "person"}),
        ("model", {"num_latents": 4, "head_norm": "layer_norm"}),
        ("training", {"optimizer": "adamw", "num_pretraining_epochs": 3, "learning_rate": 1e-3, "max_grad_norm": 1.0}),
        ("heterogeneity", {"share": 0.5, "num_seeds": 3, "loss_scale": "metric", "method": "feature", "seed": 0}),
        ("modalities.vitals.clip", 3.0),
        ("modalities.vitals.kind", "force"),
        ("modalities.vitals.element_dropout", 0.1),
        ("tasks.ward.reference", {"value": 0.5, "source": "a guess"}),
    ],
)
def test_what_a_suite_may_say_fits(validator: Any, path: str, value: Any) -> None:
    values = changed(path, value)
    Suite.from_dict(values)
    assert not list(validator.iter_errors(values))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", None),
        ("name", "a b"),
        ("tasks", {}),
        ("tusks", {}),
        ("tasks.ward.target", None),
        ("tasks.ward.batch_size", 0),
        ("tasks.ward.batch_size", "many"),
        ("tasks.ward.loss_weight", -1),
        ("tasks.ward.metric", "acuracy"),
        ("tasks.ward.target.problem_type", "guess"),
        ("tasks.ward.target.class", ["a"]),
        ("tasks.ward.source", {}),
        ("tasks.ward.source", {"saved": "a", "path": "csv"}),
        ("tasks.ward.source", {"path": "csv", "data_files": "a.csv", "streaming": True}),
        ("tasks.ward.source", {"builder": "mimik"}),
        ("tasks.ward.source", {"builder": "mimic", "pairs": True}),
        ("tasks.ward.source", {"builder": "mimic", "icd9_group": "seven"}),
        ("tasks.ward.splits.validation", 1.5),
        ("tasks.ward.splits.valid", "valid"),
        ("tasks.ward.modalities.table", {"columns": []}),
        ("tasks.ward.modalities.table", {"colunm": "a"}),
        ("modalities.vitals.kind", "series"),
        ("modalities.vitals.kind", None),
        ("modalities.vitals.patch_size", 4),
        ("modalities.vitals.layout", "step"),
        ("modalities.vitals.max_frequency", "high"),
        ("model", {"num_latent": 3}),
        ("model", {"num_latents": "three"}),
        ("model", {"tasks": {}}),
        ("training", {"optimiser": "adam"}),
        ("training", {"num_finetuning_epochs": 0}),
        ("heterogeneity", {"seeds": 3}),
        ("heterogeneity", {"loss_scale": None}),
    ],
)
def test_what_a_suite_may_not_say_is_refused_by_both(validator: Any, path: str, value: Any) -> None:
    values = changed(path, value)
    with pytest.raises(ValueError):
        Suite.from_dict(values)
    assert list(validator.iter_errors(values))


def test_every_kind_option_and_builder_is_in_it() -> None:
    schema = suite_json_schema()
    kinds = schema["properties"]["modalities"]["additionalProperties"]["allOf"]
    for kind, entry in zip(SERIALIZERS, kinds, strict=True):
        properties = entry["then"]["properties"]
        assert set(option_names(kind)) <= set(properties)
        assert all(properties[name] for name in option_names(kind)), kind  # each with a type
    sources = schema["properties"]["tasks"]["additionalProperties"]["properties"]["source"]["anyOf"]
    assert [entry["properties"]["builder"]["const"] for entry in sources[2:]] == builder_names()
