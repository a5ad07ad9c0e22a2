"""PEFT around the model: what the folded attention computes is what the adapters say."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import peft as peft_package
import pytest
import torch
from packaging.version import Version
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel
from transformers.integrations.peft import MIN_PEFT_VERSION

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.modeling_highmmt import HighMMTModel

# PEFT asks transformers for names that the newest transformers calls old.
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

NAMED = ["q_proj", "v_proj", "up_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def plain_model(random_models: ModuleType, **changes: object) -> HighMMTModel:
    modalities = {"image": {"num_channels": 3, "num_axes": 2}, "sound": {"num_channels": 5}}
    tasks = {"film": {"modalities": ["image", "sound"], "num_labels": 3}, "song": {"modalities": ["sound"]}}
    values = {"modality_embedding": "one_hot", "head_norm": "layer_norm", "use_crossmodal": True, **changes}
    return random_models.random_model(1, modalities=modalities, tasks=tasks, parameter_groups=None, **values)


def shake(model: nn.Module) -> None:
    """Adapters that are no longer what they were at first."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def wrapped(random_models: ModuleType, config: object, **changes: object) -> PeftModel:
    model = get_peft_model(plain_model(random_models, **changes), config)
    shake(model)
    return model.eval()


def unfolded(naive: ModuleType, model: HighMMTModel, inputs: dict) -> dict[str, Tensor]:
    """Logits where every projection, with all that is wrapped around it, is called on its inputs."""
    return {
        task: torch.stack(
            [naive.logits(model, task, {name: value[index] for name, value in values.items()}) for index in range(2)]
        )
        for task, values in inputs.items()
    }


def assert_near(first: dict[str, Tensor], second: dict[str, Tensor], atol: float = 2e-5) -> None:
    for task in second:
        torch.testing.assert_close(first[task], second[task], atol=atol, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules="all-linear", r=4),
        LoraConfig(target_modules=NAMED, r=2, lora_alpha=6),
        LoraConfig(target_modules="all-linear", r=2, use_dora=True),
        LoraConfig(target_modules=["o_proj", "down_proj"], r=2, lora_bias=True),
        IA3Config(target_modules=["k_proj", "v_proj", "o_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["all-linear", "named", "dora", "lora-bias", "ia3"],
)
def test_outputs_and_gradients_are_those_of_adapters_around_unfolded_projections(
    config: object, random_models: ModuleType, naive: ModuleType
) -> None:
    peft = wrapped(random_models, config)
    model = peft.base_model.model
    inputs = random_models.random_inputs(model.config)
    results = []
    for logits in (peft(inputs=inputs).logits, unfolded(naive, model, inputs)):
        peft.zero_grad()
        sum(value.square().sum() for value in logits.values()).backward()
        gradients = {name: p.grad.clone() for name, p in peft.named_parameters() if p.requires_grad}
        results.append((logits, gradients))
    assert_near(results[0][0], results[1][0])
    assert any("cross_attention" in name for name in results[0][1])
    for name, gradient in results[1][1].items():
        scale = gradient.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(results[0][1][name] / scale, gradient / scale, atol=1e-4, rtol=0, msg=name)
    before = plain_model(random_models)(inputs=inputs).logits
    assert all((results[0][0][task] - before[task]).abs().max() > 0.01 for task in inputs)


@pytest.mark.parametrize("targets", ["all-linear", NAMED], ids=["all-linear", "named"])
def test_an_adapter_is_switched_off_merged_saved_and_loaded(targets, random_models, tmp_path: Path) -> None:
    peft = wrapped(random_models, LoraConfig(target_modules=targets, r=4))
    inputs = random_models.random_inputs(peft.base_model.model.config)
    adapted = peft(inputs=inputs).logits
    with peft.disable_adapter():
        assert_near(peft(inputs=inputs).logits, plain_model(random_models)(inputs=inputs).logits, atol=1e-6)
    peft.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    again = PeftModel.from_pretrained(plain_model(random_models), tmp_path).eval()(inputs=inputs).logits
    assert all(torch.equal(again[task], adapted[task]) for task in inputs)
    merged = peft.merge_and_unload()
    assert type(merged) is HighMMTModel
    assert_near(merged(inputs=inputs).logits, adapted)


def test_the_head_of_a_task_is_trained_and_saved_with_the_adapter(random_models, tmp_path: Path) -> None:
    config = LoraConfig(target_modules=NAMED, r=2, modules_to_save=["heads.song"])
    peft = get_peft_model(plain_model(random_models, head_norm="batch_norm"), config)
    trained = {
        name.split("heads.")[1].split(".")[0]
        for name, p in peft.named_parameters()
        if p.requires_grad and "heads." in name
    }
    assert trained == {"song"}
    inputs = random_models.random_inputs(peft.base_model.model.config, size=6)
    optimizer = torch.optim.Adam([p for p in peft.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = peft.train()(inputs={"song": inputs["song"]}, labels={"song": torch.arange(6) % 2}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    peft.eval().save_pretrained(tmp_path)
    base = plain_model(random_models, head_norm="batch_norm")
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    # The running statistics of the head's batch norm have moved, and are saved with it.
    assert torch.equal(again(inputs=inputs).logits["song"], peft(inputs=inputs).logits["song"])


def test_several_adapters_stand_beside_each_other(random_models: ModuleType, naive: ModuleType) -> None:
    peft = wrapped(random_models, LoraConfig(target_modules=NAMED, r=2))
    inputs = random_models.random_inputs(peft.base_model.model.config)
    first = peft(inputs=inputs).logits
    peft.add_adapter("other", LoraConfig(target_modules=ATTENTION, r=3))
    peft.set_adapter("other")
    shake(peft)
    second = peft.eval()(inputs=inputs).logits
    assert_near(second, unfolded(naive, peft.base_model.model, inputs))
    assert not torch.allclose(second["song"], first["song"], atol=1e-3)
    peft.set_adapter("default")
    assert_near(peft(inputs=inputs).logits, first, atol=1e-6)


# A transformers may ask for a newer PEFT than there is; its own methods then refuse, and `get_peft_model` still works.
@pytest.mark.skipif(
    Version(peft_package.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"this transformers' adapter methods need peft {MIN_PEFT_VERSION}",
)
def test_the_adapter_methods_of_transformers_work(random_models, naive, tmp_path: Path) -> None:
    model = plain_model(random_models)
    inputs = random_models.random_inputs(model.config)
    before = model(inputs=inputs).logits
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(target_modules=NAMED, r=2), adapter_name="mine")
    shake(model)
    adapted = model.eval()(inputs=inputs).logits
    assert_near(adapted, unfolded(naive, model, inputs))
    model.save_pretrained(tmp_path / "adapter")
    again = AutoModel.from_pretrained(tmp_path / "base")
    again.load_adapter(tmp_path / "adapter", adapter_name="mine")
    assert all(torch.equal(again.eval()(inputs=inputs).logits[task], adapted[task]) for task in inputs)
    model.disable_adapters()
    assert_near(model(inputs=inputs).logits, before, atol=1e-6)


@pytest.mark.usefixtures("autocast_as_it_is")
def test_bf16_autocast_of_an_adapted_model_is_near_fp32(random_models: ModuleType) -> None:
    peft = wrapped(random_models, LoraConfig(target_modules="all-linear", r=2))
    inputs = random_models.random_inputs(peft.base_model.model.config)
    exact = peft(inputs=inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        near = peft(inputs=inputs).logits
    for task in inputs:
        assert not torch.equal(near[task].float(), exact[task])
        torch.testing.assert_close(near[task].float(), exact[task], atol=0.1, rtol=0.1)
    sum(value.float().square().sum() for value in near.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in peft.parameters() if p.requires_grad)


class FeatureMask(nn.Module):
    """Dropout that leaves out the features it is told to, of every element."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept


def test_dropout_in_attention_adapters_leaves_out_features_of_all_elements_alike(random_models, naive) -> None:
    peft = wrapped(random_models, LoraConfig(target_modules=ATTENTION, r=4, lora_dropout=0.4))
    model = peft.base_model.model
    inputs = random_models.random_inputs(model.config)
    exact = peft(inputs=inputs).logits
    dropouts = [
        (module, module.lora_dropout["default"]) for module in peft.modules() if hasattr(module, "lora_dropout")
    ]
    masks = {}

    def keep(dropout: nn.Module, _: object, output: Tensor) -> None:
        if len(output) > 1:  # one row of zeros is read for the bias
            masks[dropout] = output.diagonal().clone()

    for _, dropout in dropouts:
        dropout.register_forward_hook(keep)
    torch.manual_seed(0)
    peft.train()
    dropped = peft(inputs=inputs).logits
    assert len(masks) == len(dropouts)
    assert not torch.allclose(dropped["film"], exact["film"], atol=1e-3)
    for module, dropout in dropouts:
        kept = masks[dropout] != 0
        torch.testing.assert_close(masks[dropout][kept], torch.full((int(kept.sum()),), 1 / 0.6))
        module.lora_dropout["default"] = FeatureMask(masks[dropout])
    assert_near(unfolded(naive, model, inputs), dropped)


def test_a_bias_that_attention_cannot_have_is_refused_with_the_way_out(random_models: ModuleType) -> None:
    with pytest.warns(match="has no bias"):
        peft = get_peft_model(plain_model(random_models), LoraConfig(target_modules=["q_proj"], lora_bias=True))
    with pytest.raises(ValueError, match="attention projection, which has no bias"):
        peft(inputs=random_models.random_inputs(peft.base_model.model.config))


def test_groups_as_adapters_can_be_adapted_again(random_models: ModuleType, naive: ModuleType) -> None:
    model = plain_model(random_models)
    groups = {
        "unimodal": {"film/image": 0, "film/sound": 1, "song/sound": 1},
        "crossmodal": {"film/image+sound": 0},
    }
    split = model.split_parameter_groups(groups, adapter_rank=2)
    shake(split)
    inputs = random_models.random_inputs(split.config)
    before = split(inputs=inputs).logits
    peft = get_peft_model(split, LoraConfig(target_modules=NAMED, r=2))
    assert_near(peft.eval()(inputs=inputs).logits, before)
    shake(peft)
    adapted = peft(inputs=inputs).logits
    assert not torch.allclose(adapted["song"], before["song"], atol=1e-3)
    assert_near(peft.merge_and_unload()(inputs=inputs).logits, adapted)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.add_task("new", {"modalities": ["image"]}),
        lambda model: model.add_modality("radar", {"num_channels": 2}, like="film/image"),
        lambda model: model.split_parameter_groups(model.config.groups()),
    ],
)
def test_a_wrapped_model_is_not_grown_or_split(change, random_models: ModuleType) -> None:
    peft = wrapped(random_models, LoraConfig(target_modules=NAMED, r=2))
    with pytest.raises(ValueError, match="wrapped by an adapter of PEFT.*merge_and_unload"):
        change(peft.base_model.model)
    change(peft.merge_and_unload())
