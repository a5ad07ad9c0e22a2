"""Growing: new tasks and modalities leave old tasks alone, and continue what the model has learned."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.configuration import HighMMTConfig, TaskConfig
from highmmt.modeling_highmmt import HighMMTModel

MODALITIES = {
    "image": {"num_channels": 3, "num_axes": 2, "num_frequency_bands": 2, "max_frequency": 8.0},
    "sound": {"num_channels": 5, "num_frequency_bands": 3},
    "table": {"num_channels": 2, "ordered": False},
}
TASKS = {
    "film": {"modalities": ["image", "sound"], "num_labels": 3},
    "clinic": {"modalities": ["table", "sound"], "num_labels": 2},
}
# film and clinic share nothing.
APART = {
    "unimodal": {"film/image": 0, "film/sound": 0, "clinic/table": 1, "clinic/sound": 1},
    "crossmodal": {"film/image+sound": 0, "clinic/table+sound": 1},
}
RADAR = {"num_channels": 4, "num_frequency_bands": 3}


def model_of(random_models: ModuleType, **changes: object) -> HighMMTModel:
    values = {"modalities": MODALITIES, "tasks": TASKS, "parameter_groups": None, "head_norm": "layer_norm"}
    return random_models.random_model(3, **{**values, "use_crossmodal": True, **changes})


def snapshot(model: HighMMTModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def grow(model: HighMMTModel, random_models: ModuleType, seed: int) -> None:
    """A new modality like any old one, and a task that reads it and some old modalities from any fitting groups."""
    rng = random.Random(seed)
    config = model.config
    like = rng.choice(config.modality_task_pairs())
    model.add_modality("radar", random_models.random_modality(seed), like=like)
    radar_group = config.num_groups("unimodal")
    names = ["radar", *rng.sample(list(config.modalities), rng.randint(0, min(2, len(config.modalities))))]
    rng.shuffle(names)
    unimodal = {f"new/{name}": radar_group if name == "radar" else rng.randrange(radar_group) for name in names}
    groups = {"unimodal": unimodal, "crossmodal": {}}
    if number := config.num_groups("crossmodal"):
        pairs = [f"new/{a}+{b}" for index, a in enumerate(names) for b in names[index + 1 :]]
        groups["crossmodal"] = {pair: rng.randrange(number) for pair in pairs}
    task = {"modalities": names, "num_labels": 2}
    model.add_task("new", task, groups=groups, own_groups=rng.random() < 0.5)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_growing_leaves_the_bits_of_old_tasks_and_parameters(seed: int, random_models: ModuleType, naive) -> None:
    model = random_models.random_model(seed)
    inputs, state = random_models.random_inputs(model.config), snapshot(model)
    parameters = dict(model.named_parameters())
    before = model(inputs=inputs)
    torch.manual_seed(seed)
    grow(model, random_models, seed)
    after = model(inputs=inputs)
    for task in inputs:
        assert torch.equal(after.logits[task], before.logits[task])
        for modality, latents in before.unimodal_states[task].items():
            assert torch.equal(after.unimodal_states[task][modality], latents)
    grown = model.state_dict()
    assert all(torch.equal(grown[name], value) for name, value in state.items())
    # The very same parameters, so that what holds on to them still does.
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in parameters.items())
    values = random_models.random_inputs(model.config)["new"]
    logits = model(inputs={"new": values}).logits["new"]
    for index in range(2):
        sample = {
            name: model.token_embeddings[name](value[index]) if name in model.token_embeddings else value[index]
            for name, value in values.items()
        }
        torch.testing.assert_close(logits[index], naive.logits(model, "new", sample), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_a_grown_model_saved_and_loaded_gives_the_same_bits(
    seed: int, random_models: ModuleType, tmp_path: Path
) -> None:
    model = random_models.random_model(seed)
    old = random_models.random_inputs(model.config)
    before = model(inputs=old).logits
    grow(model, random_models, seed)
    model.save_pretrained(tmp_path)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.to_dict()["group_modalities"] == model.config.group_modalities
    loaded = again.eval()(inputs=old).logits
    assert all(torch.equal(loaded[task], logits) for task, logits in before.items())
    inputs = random_models.random_inputs(model.config)
    first, second = model(inputs=inputs).logits, again(inputs=inputs).logits
    assert all(torch.equal(first[task], second[task]) for task in model.config.tasks)


def meanings(config: HighMMTConfig, group: int, modality: str) -> list[str]:
    """What each column of an element of this modality holds, for one unimodal group."""
    entry = config.modalities[modality]
    positions = []
    for axis in reversed(range(entry.num_axes)) if entry.ordered else ():
        for kind in ("sin", "cos"):
            positions += [f"axis {axis}: {kind} {band}" for band in reversed(range(entry.num_frequency_bands))]
        positions.append(f"axis {axis}: point")
    if config.modality_embedding == "one_hot":
        embedding = [f"is {name}" for name in config.modalities_of_group(group)]
    else:
        embedding = [f"embedding {index}" for index in range(config.num_modality_channels)]
    rest = config.width_of_group(group) - len(positions) - len(embedding)
    return [f"data {index}" for index in range(rest)] + positions + embedding


@given(seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_columns_that_mean_the_same_are_cloned_and_all_others_are_new(seed: int, random_models: ModuleType) -> None:
    model = random_models.random_model(seed)
    old = model.config
    like = random.Random(seed).choice(old.modality_task_pairs())
    model.add_modality("radar", random_models.random_modality(seed), like=like)
    new, source = model.config, old.group_map("unimodal")[like]
    known = meanings(old, source, like.split("/")[1])
    sought = meanings(new, old.num_groups("unimodal"), "radar")
    # Of the wider group's columns "data", those are known which an element of the old group has, too.
    places = [(here, known.index(meaning)) for here, meaning in enumerate(sought) if meaning in known]
    fresh = [here for here, meaning in enumerate(sought) if meaning not in known]
    base, grown = model.unimodal_groups[old.group_bases("unimodal")[source]], model.unimodal_groups[-1]
    for ours, theirs in zip(grown.layers, base.layers, strict=True):
        pair = ours.cross_attention, theirs.cross_attention
        assert ours.cross_attention.k_proj.in_features == len(sought)
        for name in ("k_proj.weight", "v_proj.weight", "norm_context.weight", "norm_context.bias"):
            mine, yours = (attention.get_parameter(name) for attention in pair)
            for here, there in places:
                assert torch.equal(mine[..., here], yours[..., there])
            assert not any(torch.equal(mine[..., here], column) for here in fresh for column in yours.unbind(-1))
        assert ours.cross_attention.norm_context.weight[fresh].eq(1).all()
        assert ours.cross_attention.norm_context.bias[fresh].eq(0).all()
    for name, value in base.state_dict().items():
        if value.shape == grown.state_dict()[name].shape and "context" not in name and "k_proj" not in name:
            if "cross_attention.v_proj" not in name:
                assert torch.equal(grown.state_dict()[name], value)


@pytest.mark.parametrize("adapters", [None, 2])
def test_a_modality_just_like_an_old_one_is_encoded_as_that_one(random_models: ModuleType, adapters) -> None:
    model = model_of(random_models, modality_embedding="none", parameter_groups=APART, group_adapter_rank=adapters)
    model.add_modality("radar", MODALITIES["sound"], like="clinic/sound")
    model.add_task("flight", {"modalities": ["radar"]})
    sound = random_models.random_inputs(model.config)["clinic"]["sound"]
    states = model(inputs={"clinic": {"sound": sound}, "flight": {"radar": sound}}).unimodal_states
    assert torch.equal(states["flight"]["radar"], states["clinic"]["sound"])


@pytest.mark.parametrize("adapters", [None, 2])
def test_a_new_task_with_its_own_groups_is_trained_without_forgetting(random_models: ModuleType, adapters) -> None:
    model = model_of(random_models, parameter_groups=APART, group_adapter_rank=adapters)
    old = random_models.random_inputs(model.config)
    before = model(inputs=old).logits
    new = model.add_modality("radar", RADAR, like="film/sound")
    new += model.add_task("flight", TaskConfig(["radar", "image"], num_labels=2), like="film", own_groups=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in new)
    inputs = {"flight": random_models.random_inputs(model.config, size=12)["flight"]}
    labels = {"flight": torch.arange(12) % 2}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(inputs=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert {name.split(".")[0] for name in new} >= {"heads", "unimodal_groups"}
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    model.requires_grad_(True)  # torch multiplies in another order where nothing needs a gradient
    after = model(inputs=old).logits
    assert all(torch.equal(after[task], logits) for task, logits in before.items())


@pytest.mark.parametrize(
    ("task", "options", "unimodal", "crossmodal"),
    [
        (["image"], {}, [0], []),  # one task has it
        (["sound"], {"like": "clinic"}, [1], []),
        (["image", "table"], {"like": "film"}, [0, 1], [0]),  # table: the one group of other tasks
        (["image", "sound"], {"like": "film"}, [0, 0], [0]),
        (["sound", "image"], {"groups": {"unimodal": {"new/sound": 1}}}, [1, 0], [0]),  # film has this pair
        (["sound", "table"], {"like": "clinic", "groups": {"crossmodal": {"new/table+sound": 0}}}, [1, 1], [0]),
        (["image", "sound"], {"like": "film", "own_groups": True}, [2, 2], [2]),
        (["image", "sound"], {"like": "clinic", "own_groups": True}, [2, 3], [2]),
    ],
)
def test_a_new_task_uses_the_groups_that_the_rules_say(
    task: list[str], options: dict, unimodal: list[int], crossmodal: list[int], random_models: ModuleType
) -> None:
    model = model_of(random_models, parameter_groups=APART)
    count = len(list(model.parameters()))
    new = model.add_task("new", {"modalities": task}, **options)
    assert len(list(model.parameters())) == count + len(new)
    config = model.config
    assert [config.group_map("unimodal")[f"new/{name}"] for name in task] == unimodal
    assert [group for node, group in config.group_map("crossmodal").items() if node[:4] == "new/"] == crossmodal
    assert len(model.unimodal_groups) == max(2, max(unimodal) + 1)
    assert model(inputs=random_models.random_inputs(config)).logits["new"].shape == (2, 2)


def test_clones_for_a_new_task_start_as_the_groups_they_are_cloned_from(random_models: ModuleType) -> None:
    model = model_of(random_models, parameter_groups=APART)
    model.add_task("new", {"modalities": ["image", "sound"]}, like="film", own_groups=True)
    inputs = random_models.random_inputs(model.config)["film"]
    states = model(inputs={"film": inputs, "new": inputs}).multimodal_states
    assert torch.equal(states["new"], states["film"])
    with torch.no_grad():
        model.unimodal_groups[2].latents.add_(1.0)
    states = model(inputs={"film": inputs, "new": inputs}).multimodal_states
    assert not torch.allclose(states["new"], states["film"])


def test_the_first_interaction_of_a_model_gets_a_new_group(random_models: ModuleType) -> None:
    model = model_of(random_models, tasks={"film": {"modalities": ["image"]}})
    assert len(model.crossmodal_groups) == 0
    new = model.add_task("both", {"modalities": ["image", "sound"]})
    assert len(model.crossmodal_groups) == 1
    assert any(name.startswith("crossmodal_groups.0.") for name in new)
    model(inputs=random_models.random_inputs(model.config))


def test_a_retrieval_is_added_without_an_interaction(random_models: ModuleType) -> None:
    model = model_of(random_models, parameter_groups=APART)
    task = {"modalities": ["image", "table"], "problem_type": "retrieval", "num_labels": 8}
    new = model.add_task("find", task)
    assert {name.split(".")[1] for name in new} == {"find"}
    assert not any(node.startswith("find/") for node in model.config.group_map("crossmodal"))
    inputs = random_models.random_inputs(model.config, size=3)["find"]
    loss = model(inputs={"find": inputs}, labels={"find": torch.arange(3)}).loss
    assert torch.isfinite(loss)


def test_a_step_of_a_new_task_gives_old_parameters_a_gradient_of_zeros(random_models: ModuleType) -> None:
    model = model_of(random_models, parameter_groups=APART, modality_embedding="learned").train()
    model.add_modality("radar", RADAR, like="film/sound")
    new = model.add_task("flight", {"modalities": ["radar"]})
    radar = random_models.random_inputs(model.config, size=4)["flight"]
    model(inputs={"flight": radar}, labels={"flight": torch.arange(4) % 2}).loss.backward()
    for name, parameter in model.named_parameters():
        used = name in new or name.startswith(("unimodal_groups.2.", "grown_modality_embeddings.radar"))
        assert parameter.grad.any() == used, name


def test_a_model_without_unimodal_encoder_grows_tasks_but_no_modalities(random_models: ModuleType) -> None:
    model = model_of(random_models, use_unimodal_encoder=False, modality_embedding="one_hot")
    inputs = random_models.random_inputs(model.config)
    before = model(inputs=inputs).logits
    model.add_task("new", {"modalities": ["image", "table"]})
    after = model(inputs=inputs).logits
    assert all(torch.equal(after[task], logits) for task, logits in before.items())
    assert model(inputs={"new": random_models.random_inputs(model.config)["new"]}).logits["new"].shape == (2, 2)
    with pytest.raises(ValueError, match="a model cannot grow a modality"):
        model.add_modality("radar", RADAR, like="film/sound")


def test_modalities_wait_for_their_tasks_in_any_order(random_models: ModuleType, tmp_path: Path) -> None:
    model = model_of(random_models)
    inputs = random_models.random_inputs(model.config)
    before = model(inputs=inputs).logits
    model.add_modality("radar", RADAR, like="film/sound")
    model.add_modality("smell", {**RADAR, "num_channels": 20}, like="clinic/table")
    latents = [model.unimodal_groups[group].latents.clone() for group in (1, 2)]
    model.save_pretrained(tmp_path)
    model = HighMMTModel.from_pretrained(tmp_path).eval()
    model.add_task("nose", {"modalities": ["smell", "sound"]})
    model.add_task("flight", {"modalities": ["radar", "smell"]})
    groups = model.config.group_map("unimodal")
    assert (groups["nose/smell"], groups["nose/sound"], groups["flight/radar"], groups["flight/smell"]) == (1, 0, 2, 1)
    assert torch.equal(model.unimodal_groups[1].latents, latents[1])
    assert torch.equal(model.unimodal_groups[2].latents, latents[0])
    after = model(inputs={**random_models.random_inputs(model.config), **inputs}).logits
    alone = model(inputs=inputs).logits
    assert all(torch.equal(alone[task], logits) for task, logits in before.items())
    assert set(after) == {"film", "clinic", "nose", "flight"}


def test_a_grown_model_is_split_and_a_split_model_is_split_further(random_models: ModuleType) -> None:
    model = model_of(random_models)
    model.add_modality("radar", RADAR, like="film/sound")
    model.add_modality("smell", RADAR, like="film/sound")  # stays without a task
    model.add_task("flight", {"modalities": ["radar", "image"]})
    inputs = random_models.random_inputs(model.config)
    before = model(inputs=inputs).logits
    groups = model.config.groups().to_dict()
    groups["unimodal"] |= {"film/image": 2, "flight/image": 2}
    groups["crossmodal"] |= {"flight/radar+image": 1}
    for rank in (None, 2):
        split = model.split_parameter_groups(groups, adapter_rank=rank)
        after = split(inputs=inputs).logits
        for task in inputs:
            torch.testing.assert_close(after[task], before[task], atol=1e-6, rtol=0)
        assert split.config.num_groups("unimodal") == 4
        finer = {**groups, "crossmodal": {"film/image+sound": 0, "clinic/table+sound": 2, "flight/radar+image": 1}}
        again = split.split_parameter_groups(finer)
        assert again.config.num_groups("crossmodal") == 3
        assert again.config.group_adapter_rank == rank
        for task in inputs:
            torch.testing.assert_close(again(inputs=inputs).logits[task], before[task], atol=1e-6, rtol=0)
        split.add_task("nose", {"modalities": ["smell", "table"]}, like="clinic")
        assert split.config.group_map("unimodal")["nose/smell"] == 3


def test_growing_one_model_leaves_another_of_the_same_config_alone(random_models: ModuleType) -> None:
    model = model_of(random_models)
    other = HighMMTModel(model.config)
    model.add_modality("radar", RADAR, like="film/sound")
    model.add_task("new", {"modalities": ["table"]})
    assert "radar" not in other.config.modalities and "new" not in other.config.tasks
    assert other.config.group_modalities is None


def add(name: str, task: dict, **options: object):
    return lambda model: model.add_task(name, task, **options)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: m.add_modality("sound", RADAR, like="film/sound"), "There is a modality 'sound' already"),
        (
            lambda m: m.add_modality("radar", RADAR, like="sound"),
            "like='sound' is not a modality-task pair",
        ),
        (lambda m: m.add_modality("a b", RADAR, like="film/sound"), "Modality name 'a b'"),
        (lambda m: m.add_modality("x", {"num_channels": 0}, like="film/sound"), "Modality 'x': num_channels=0"),
        (add("film", {"modalities": ["image"]}), "There is a task 'film' already"),
        (add("new", {"modalities": ["radar"]}), "Task 'new': unknown modality 'radar'"),
        (add("new", {"modalities": ["image"], "labels": 2}), "Task 'new' has no field 'labels'"),
        (add("new", {"modalities": ["image"]}, like="cinema"), "like='cinema' is not a task; there are film, clinic"),
        (
            add("new", {"modalities": ["sound"]}),
            "new/sound could use several unimodal groups: 0 (film/image, ",
        ),
        (add("new", {"modalities": ["image", "table"]}), "new/image+table could use several crossmodal groups"),
        (add("type", {"modalities": ["image"]}), "Task 'type': the model keeps parameters under this name"),
        (add("new", {"modalities": ["image"]}, groups={"both": {}}), "groups has no part 'both'"),
        (
            add("new", {"modalities": ["image"]}, groups={"unimodal": {"new/sound": 0}}),
            "unimodal node 'new/sound' is not of the new task; its nodes are new/image",
        ),
        (
            add("new", {"modalities": ["image"]}, groups={"unimodal": {"new/image": 2}}),
            "new/image cannot use unimodal group 2; there are 2, from 0",
        ),
        (
            lambda m: m.split_parameter_groups(m.config.groups(), adapter_rank=2),
            "of their own already",
        ),
    ],
)
def test_what_cannot_be_grown_is_refused_by_name_and_changes_nothing(
    act, message: str, random_models: ModuleType
) -> None:
    model = model_of(random_models, parameter_groups=APART)
    config, state = model.config.to_dict(), snapshot(model)
    with pytest.raises(ValueError) as error:
        act(model)
    assert message in str(error.value)
    assert model.config.to_dict() == config
    assert model.state_dict().keys() == state.keys()


def test_a_group_that_is_not_made_for_a_modality_is_refused(random_models: ModuleType) -> None:
    model = model_of(random_models)
    model.add_modality("radar", RADAR, like="film/sound")
    with pytest.raises(ValueError, match="new/radar uses unimodal group 0, which is not made for this modality"):
        model.add_task("new", {"modalities": ["radar"]}, groups={"unimodal": {"new/radar": 0}})
