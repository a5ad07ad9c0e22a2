"""Parameter groups as adapters: groups that share a base and differ by low-rank updates."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.configuration import ParameterGroups
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.modeling_highmmt.export import export_task

RANK = 3


def shared_model(random_models: ModuleType, seed: int = 0, **changes: object) -> HighMMTModel:
    """A model that shares everything, with several tasks and interactions."""
    modalities = {
        "image": {"num_channels": 3, "num_axes": 2},
        "sound": {"num_channels": 5},
        "table": {"num_channels": 2},
    }
    tasks = {
        "film": {"modalities": ["image", "sound"]},
        "clinic": {"modalities": ["table", "sound", "image"], "num_labels": 3},
    }
    values = {"modalities": modalities, "tasks": tasks, "parameter_groups": None, "use_crossmodal": True}
    return random_models.random_model(seed, **{**values, **changes})


def split(model: HighMMTModel, rank: int | None = RANK) -> HighMMTModel:
    nodes = model.config.modality_task_pairs(), model.config.interactions()
    return model.split_parameter_groups(ParameterGroups.share_none(*nodes), adapter_rank=rank)


def trained(model: HighMMTModel, random_models: ModuleType) -> HighMMTModel:
    """The model after some steps, so that its adapters are no longer zero."""
    inputs = random_models.random_inputs(model.config, size=6)
    labels = {task: torch.arange(6) % 2 for task in inputs}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.train()(inputs=inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def gradients(model: HighMMTModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"num_unimodal_layers": 2}, {"use_unimodal_encoder": False}], ids=str)
def test_groups_as_adapters_give_the_outputs_of_the_shared_model_at_first(changes: dict, random_models) -> None:
    model = shared_model(random_models, **changes)
    inputs = random_models.random_inputs(model.config)
    before, after = model(inputs=inputs).logits, split(model)(inputs=inputs).logits
    for task in inputs:
        torch.testing.assert_close(after[task], before[task], atol=1e-6, rtol=1e-6)


def test_the_base_is_that_of_the_shared_model_and_groups_share_nothing_else(random_models: ModuleType) -> None:
    model = shared_model(random_models)
    adapters = split(model)
    state = adapters.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    inputs = random_models.random_inputs(model.config)
    before = adapters(inputs=inputs).unimodal_states
    with torch.no_grad():
        for update in adapters.unimodal_adapters[0].updates.values():
            update.up.add_(0.1)
    after = adapters(inputs=inputs).unimodal_states
    assert not torch.allclose(after["film"]["image"], before["film"]["image"])
    for task, modality in (("film", "sound"), ("clinic", "image"), ("clinic", "sound")):
        torch.testing.assert_close(after[task][modality], before[task][modality], atol=1e-6, rtol=0)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
def test_outputs_and_gradients_are_those_of_the_sum_of_base_and_update(
    seed: int, random_models: ModuleType, naive: ModuleType
) -> None:
    model = trained(split(shared_model(random_models, seed, head_norm="layer_norm")), random_models)
    inputs = random_models.random_inputs(model.config)
    logits = model(inputs=inputs).logits
    expected = {
        task: torch.stack(
            [naive.logits(model, task, {name: value[index] for name, value in values.items()}) for index in range(2)]
        )
        for task, values in inputs.items()
    }
    for task in inputs:
        torch.testing.assert_close(logits[task], expected[task], atol=2e-5, rtol=1e-4)
    fast, slow = (
        gradients(model, sum(value.square().sum() for value in outputs.values())) for outputs in (logits, expected)
    )
    assert fast.keys() == dict(model.named_parameters()).keys()
    for name, gradient in slow.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(fast[name] / scale, gradient / scale, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("rank", [1, 4])
def test_parameters_are_one_base_and_rank_times_inputs_and_outputs_for_each_group(random_models, rank: int) -> None:
    model = shared_model(random_models)
    one, many = model.num_parameters_by_component(), split(model, rank).num_parameters_by_component()
    for part, groups in (("unimodal", 5), ("crossmodal", 4)):
        shared = getattr(model, f"{part}_groups")[0]
        widths = sum(
            module.in_features + module.out_features for module in shared.modules() if type(module) is nn.Linear
        )
        assert many[part] == one[part] + groups * rank * widths
    assert many["total"] == sum(parameter.numel() for parameter in split(model, rank).parameters())
    assert many["heads"] == one["heads"]


def test_adapters_saved_and_loaded_give_the_same_bits(random_models: ModuleType, tmp_path: Path) -> None:
    model = trained(split(shared_model(random_models)), random_models)
    model.save_pretrained(tmp_path)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.group_adapter_rank == RANK
    inputs = random_models.random_inputs(model.config)
    first, second = model(inputs=inputs).logits, again.eval()(inputs=inputs).logits
    assert all(torch.equal(first[task], second[task]) for task in inputs)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_base_is_trained_unless_it_is_frozen(random_models: ModuleType, frozen: bool) -> None:
    # A batch norm would take the gradient of the biases before it, to the last bit.
    model = split(shared_model(random_models, head_norm="layer_norm"))
    shared = ("unimodal_groups.", "crossmodal_groups.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (frozen and name.startswith(shared)))
    before = {name: value.clone() for name, value in model.named_parameters()}
    trained(model, random_models)
    for name, value in model.named_parameters():
        # Without a first step `up` is zero, and nothing reaches `down`.
        assert torch.equal(value, before[name]) == (frozen and name.startswith(shared)), name


def test_a_step_of_one_task_gives_every_parameter_a_gradient_and_says_which_are_idle(random_models) -> None:
    model = split(shared_model(random_models, modality_embedding="learned")).train()
    shake = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.add_(torch.randn(parameter.shape, generator=shake))
    inputs = {"film": random_models.random_inputs(model.config, size=4)["film"]}
    loss = model(inputs=inputs, labels={"film": torch.arange(4) % 2}).loss
    gradient = gradients(model, loss)
    assert gradient.keys() == dict(model.named_parameters()).keys()
    idle = {id(parameter) for parameter in model.idle_parameters({"film": ["image", "sound"]})}
    named = {name for name, parameter in model.named_parameters() if id(parameter) in idle}
    assert all(gradient[name].eq(0).all() for name in named)
    assert {".".join(name.split(".")[:2]) for name in named} == {
        "heads.clinic",
        *(f"unimodal_adapters.{group}" for group in (2, 3, 4)),
        *(f"crossmodal_adapters.{group}" for group in (1, 2, 3)),
    }


def test_attention_weights_are_those_of_groups_with_parameters_of_their_own(random_models: ModuleType) -> None:
    model = shared_model(random_models)
    inputs = random_models.random_inputs(model.config)
    ours, theirs = (split(model, rank)(inputs=inputs, output_attentions=True).attentions for rank in (RANK, None))
    assert ours["unimodal"].keys() == theirs["unimodal"].keys()
    for kind in ("unimodal", "crossmodal"):
        for task, weights in theirs[kind].items():
            for name, layers in weights.items():
                torch.testing.assert_close(ours[kind][task][name], layers, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("autocast_as_it_is")
def test_bf16_autocast_is_near_fp32_and_reaches_every_adapter(random_models: ModuleType) -> None:
    model = trained(split(shared_model(random_models, modality_embedding="one_hot")), random_models)
    inputs = random_models.random_inputs(model.config)
    exact = model(inputs=inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        near = model(inputs=inputs).logits
    for task in inputs:
        torch.testing.assert_close(near[task].float(), exact[task], atol=0.1, rtol=0.1)
        assert not torch.equal(near[task].float(), exact[task])
    gradient = gradients(model, sum(value.float().square().sum() for value in near.values()))
    assert all(torch.isfinite(value).all() for value in gradient.values())
    assert {name for name in gradient if name.endswith((".up", ".down"))} == {
        name for name, _ in model.named_parameters() if name.endswith((".up", ".down"))
    }


def test_checkpointing_computes_again_with_the_groups_own_weights(random_models: ModuleType) -> None:
    model = trained(split(shared_model(random_models, head_norm="layer_norm")), random_models).train()
    inputs = random_models.random_inputs(model.config)
    results = []
    for checkpointing in (False, True):
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.gradient_checkpointing = checkpointing
                module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        logits = model(inputs=inputs).logits
        results.append(gradients(model, sum(value.square().sum() for value in logits.values())))
    assert all(adapter.gradient_checkpointing for adapter in model.unimodal_adapters)
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_a_task_of_a_grown_model_of_adapters_is_one_program(random_models: ModuleType) -> None:
    model = trained(split(shared_model(random_models, modality_embedding="learned")), random_models)
    model.add_modality("radar", {"num_channels": 4}, like="clinic/sound")
    groups = {"crossmodal": {"flight/radar+table": 2}}
    model.add_task("flight", {"modalities": ["radar", "table"]}, like="clinic", groups=groups, own_groups=True)
    values = random_models.random_inputs(model.config)["flight"]
    masks = [torch.ones(value.shape[:-1], dtype=torch.bool) for value in values.values()]
    logits = export_task(model, "flight").module()(*values.values(), *masks)
    torch.testing.assert_close(logits, model(inputs={"flight": values}).logits["flight"], atol=1e-5, rtol=1e-5)


def test_a_model_of_adapters_keeps_its_rank(random_models: ModuleType) -> None:
    model = split(shared_model(random_models))
    with pytest.raises(ValueError, match=f"adapter_rank=2: the groups of this model are adapters of rank {RANK}"):
        split(model, 2)
    assert split(model, None).config.group_adapter_rank == RANK
