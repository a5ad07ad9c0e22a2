"""The configuration: facts of the paper, exact round trips, refusals by name."""

from __future__ import annotations

import json
import random

import pytest
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

from highmmt.configuration import HighMMTConfig, ParameterGroups

# The paper's large setting: channels, axes and frequency bands of table 10.
LARGE_MODALITIES = {
    "static": (1, 1, 6),
    "timeseries": (1, 2, 6),
    "image": (16, 2, 6),
    "audio": (256, 2, 6),
    "mosei_video": (35, 1, 3),
    "mosei_audio": (74, 1, 3),
    "text": (300, 1, 3),
    "urfunny_video": (371, 1, 3),
    "urfunny_audio": (81, 1, 3),
}
LARGE_TASKS = {
    "mimic": (["static", "timeseries"], 2),
    "avmnist": (["image", "audio"], 10),
    "mosei": (["mosei_video", "mosei_audio", "text"], 2),
    "urfunny": (["urfunny_video", "urfunny_audio", "text"], 2),
}


def large_config(**settings: object) -> HighMMTConfig:
    return HighMMTConfig(
        modalities={
            name: {"num_channels": channels, "num_axes": axes, "num_frequency_bands": bands}
            for name, (channels, axes, bands) in LARGE_MODALITIES.items()
        },
        tasks={name: {"modalities": names, "num_labels": labels} for name, (names, labels) in LARGE_TASKS.items()},
        **settings,
    )


def test_the_large_setting_has_the_papers_standard_width() -> None:
    assert large_config().d_all == 371 + 7 + 9 == 387
    assert large_config(modality_embedding="learned").d_all == 388
    assert large_config(modality_embedding="none").d_all == 378


def test_nodes_follow_the_order_of_tasks_and_modalities() -> None:
    config = large_config()
    assert config.modality_task_pairs()[:3] == ["mimic/static", "mimic/timeseries", "avmnist/image"]
    assert config.interactions() == [
        "mimic/static+timeseries",
        "avmnist/image+audio",
        "mosei/mosei_video+mosei_audio",
        "mosei/mosei_video+text",
        "mosei/mosei_audio+text",
        "urfunny/urfunny_video+urfunny_audio",
        "urfunny/urfunny_video+text",
        "urfunny/urfunny_audio+text",
    ]


def random_groups(config: HighMMTConfig, seed: int) -> ParameterGroups:
    """Any valid cluster map."""
    rng = random.Random(seed)
    maps = []
    for nodes in (config.modality_task_pairs(), config.interactions()):
        labels = [rng.randrange(4) for _ in nodes]
        names = {label: index for index, label in enumerate(dict.fromkeys(labels))}
        maps.append({node: names[label] for node, label in zip(nodes, labels, strict=True)})
    return ParameterGroups(*maps)


@given(seed=st.integers(0, 10**6), embedding=st.sampled_from(["one_hot", "learned", "none"]))
def test_json_round_trips_exactly(seed: int, embedding: str) -> None:
    config = large_config(modality_embedding=embedding)
    config = large_config(modality_embedding=embedding, parameter_groups=random_groups(config, seed))
    again = HighMMTConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert list(again.tasks) == list(config.tasks)
    assert list(again.modalities) == list(config.modalities)
    assert again.groups() == config.groups()


def test_a_group_is_as_wide_as_the_modalities_it_is_made_for() -> None:
    old = [name for name in LARGE_MODALITIES if name != "urfunny_video"]
    tasks = {"avmnist": {"modalities": ["image", "audio"]}, "urfunny": {"modalities": ["urfunny_video", "text"]}}
    config = large_config()
    values = {**config.to_dict(), "tasks": tasks, "group_modalities": [old, list(LARGE_MODALITIES)]}
    groups = {"avmnist/image": 0, "avmnist/audio": 0, "urfunny/text": 0, "urfunny/urfunny_video": 1}
    crossmodal = {"avmnist/image+audio": 0, "urfunny/urfunny_video+text": 0}
    values["parameter_groups"] = {"unimodal": groups, "crossmodal": crossmodal}
    grown = HighMMTConfig.from_dict(values)
    # Without urfunny's video the widest is mosei's text, 300 channels and 7 positions.
    assert [grown.width_of_group(group) for group in (0, 1)] == [300 + 7 + 8, 387]
    assert grown.modalities_of_group(0) == sorted(old)
    assert grown.embedding_width_of_group(0) == 8
    again = HighMMTConfig.from_dict(json.loads(grown.to_json_string()))
    assert again.to_dict() == grown.to_dict()
    assert again.width_of_group(0) == 315


def test_groups_that_are_adapters_share_a_base_where_they_are_made_for_the_same() -> None:
    config = large_config()
    groups = ParameterGroups.share_none(config.modality_task_pairs(), config.interactions())
    assert large_config(parameter_groups=groups).group_bases("unimodal") == list(range(10))
    adapters = large_config(parameter_groups=groups, group_adapter_rank=4)
    assert adapters.group_bases("unimodal") == [0] * 10
    assert adapters.group_bases("crossmodal") == [0] * 8
    made_for = [list(LARGE_MODALITIES) for _ in range(10)]
    made_for[3] = [name for name in LARGE_MODALITIES if name != "static"]
    values = {**adapters.to_dict(), "group_modalities": made_for}
    assert HighMMTConfig.from_dict(values).group_bases("unimodal") == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_saved_and_loaded_equals_before(tmp_path) -> None:
    config = large_config(hidden_dropout_prob=0.1)
    config.tasks["avmnist"].id2label = {index: str(index) for index in range(10)}
    config.save_pretrained(tmp_path)
    again = HighMMTConfig.from_pretrained(tmp_path)
    assert again.to_dict() == {**config.to_dict(), "transformers_version": again.transformers_version}
    assert again.tasks["avmnist"].id2label[3] == "3"


def test_a_pair_is_one_interaction_whatever_its_order() -> None:
    config = large_config()
    groups = ParameterGroups.share_all(config.modality_task_pairs(), config.interactions()).to_dict()
    del groups["crossmodal"]["mimic/static+timeseries"]
    groups["crossmodal"]["mimic/timeseries+static"] = 0
    assert large_config(parameter_groups=groups).groups() == config.groups()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_latent": 5}, "did you mean 'num_latents'"),
        ({"num_latents": 0}, "num_latents=0"),
        ({"d_latents": 10**9}, "d_latents"),
        ({"num_latents": "many"}, "num_latents"),
        ({"head_norm": "group_norm"}, "head_norm"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob=1.5"),
        ({"modality_embedding": "learned", "modality_embedding_dim": 0}, "modality_embedding_dim=0"),
        ({"modality_embedding_dim": 7}, "needs modality_embedding='learned'"),
        ({"modalities": {"a b": {"num_channels": 1}}}, "Modality name 'a b'"),
        ({"modalities": {"a": {"num_channels": 0}}}, "Modality 'a': num_channels=0"),
        ({"modalities": {"a": {"channels": 1}}}, "Modality 'a' has no field 'channels'"),
        ({"modalities": {"a": {"num_channels": 1, "max_frequency": 0.0}}}, "max_frequency=0.0"),
        ({"modalities": {"a": {"num_channels": 1, "element_dropout": 1.0}}}, "element_dropout=1.0"),
        ({"modalities": {"a": 3}}, "Modality 'a' must be described by a mapping"),
        ({"tasks": {"t": {"modalities": ["smell"]}}}, "Task 't': unknown modality 'smell'; declared"),
        ({"tasks": {"t": {"modalities": []}}}, "Task 't': modalities=[]"),
        ({"tasks": {"t": {"modalities": ["text", "text"]}}}, "listed twice"),
        ({"tasks": {"t": {"modalities": ["text"], "num_labels": 1}}}, "Task 't': num_labels=1"),
        ({"tasks": {"t": {"modalities": ["text"], "problem_type": "guess"}}}, "problem_type='guess'"),
        ({"tasks": {"t": {"modalities": ["text"], "loss_weight": -1}}}, "loss_weight=-1"),
        ({"tasks": {"t": {"modalities": ["text"], "id2label": {"0": "a"}}}}, "id2label must name the labels 0 to 1"),
        ({"parameter_groups": {"unimodal": {"mimic/static": 0}}}, "no group for mimic/timeseries"),
        ({"parameter_groups": {"unimodal": {"mimic/static": 1}}}, "without gaps"),
        ({"parameter_groups": {"unimodal": {"mimic/static": "0"}}}, "not a whole number"),
        ({"parameter_groups": {"both": {}}}, "no part 'both'"),
        ({"group_adapter_rank": 0}, "group_adapter_rank=0"),
        ({"group_modalities": [["image", {}]]}, "group 0 has the unknown modality {}"),
        ({"group_modalities": []}, "group_modalities lists 0 groups; parameter_groups has 1"),
        ({"group_modalities": [["image", "smell"]]}, "group 0 has the unknown modality 'smell'"),
        ({"group_modalities": [["image", "image"]]}, "group 0 must list the names of its modalities"),
        ({"group_modalities": ["image"]}, "group 0 must list the names of its modalities"),
        ({"group_modalities": [["image"]]}, "mimic/static uses unimodal group 0, which is not made for"),
    ],
)
def test_impossible_values_are_refused_by_name(settings: dict, message: str) -> None:
    values = {**large_config().to_dict(), **settings}
    values.pop("transformers_version")
    if "modalities" in settings:
        values["tasks"] = {}
    with pytest.raises((ValueError, StrictDataclassError)) as error:
        HighMMTConfig(**values)
    assert message in str(error.value)


def test_groups_in_a_file_are_refused_with_its_name(tmp_path) -> None:
    path = tmp_path / "groups.json"
    path.write_text("{ not json")
    with pytest.raises(ValueError, match=r"groups\.json"):
        ParameterGroups.from_json_file(path)
