"""The model: the paper's equations, masks and missing modalities, parameter groups, saving and loading."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModel

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.configuration import HighMMTConfig, ParameterGroups
from highmmt.modeling_highmmt import HighMMTModel, head_width, task_loss
from highmmt.modeling_highmmt.inputs import InputSequence
from highmmt.modeling_highmmt.modeling_highmmt import drop_modalities


def _load(name: str) -> ModuleType:
    # Test folders are no packages, so that their names are free.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naive = _load("naive")

MODALITIES = {
    "image": {"num_channels": 3, "num_axes": 2, "num_frequency_bands": 2, "max_frequency": 8.0},
    "sound": {"num_channels": 5, "num_frequency_bands": 3},
    "events": {"num_channels": 4, "ordered": False},
    "volume": {"num_channels": 1, "num_axes": 3, "num_frequency_bands": 1},
}
TASKS = {
    "two": {"modalities": ["sound", "image"], "num_labels": 3},
    "three": {"modalities": ["events", "image", "sound"], "num_labels": 2, "problem_type": "regression"},
    "one": {"modalities": ["volume"], "num_labels": 4, "problem_type": "multi_label_classification"},
}
FUSING = {name: task for name, task in TASKS.items() if len(task["modalities"]) > 1}
SHAPES = {"image": (3, 4), "sound": (6,), "events": (5,), "volume": (2, 3, 2)}


def tiny_config(**changes: object) -> HighMMTConfig:
    values = {
        "modalities": MODALITIES,
        "tasks": TASKS,
        "num_latents": 4,
        "d_latents": 12,
        "num_cross_attention_heads": 2,
        "num_crossmodal_attention_heads": 3,
        "num_self_attention_heads": 2,
        "cross_attention_head_dim": 5,
        "self_attention_head_dim": 7,
        "head_norm": "layer_norm",
    }
    return HighMMTConfig(**{**values, **changes})


def tiny_model(seed: int = 0, **changes: object) -> HighMMTModel:
    torch.manual_seed(seed)
    model = HighMMTModel(tiny_config(**changes))
    with torch.no_grad():
        # Norms away from 1 and 0, so that a norm left out is seen.
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def batch(sizes: dict[str, int], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        task: {
            name: torch.randn(size, *SHAPES[name], MODALITIES[name]["num_channels"], generator=generator)
            for name in TASKS[task]["modalities"]
        }
        for task, size in sizes.items()
    }


def labels_for(sizes: dict[str, int]) -> dict[str, Tensor]:
    known = {
        "two": lambda size: torch.arange(size) % 3,
        "three": lambda size: torch.randn(size, 2, generator=torch.Generator().manual_seed(1)),
        "one": lambda size: (torch.arange(size * 4).view(size, 4) % 2).float(),
    }
    return {task: known[task](size) for task, size in sizes.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_unimodal_layers": 2, "num_crossmodal_layers": 2, "num_self_attends_per_layer": 2},
        {"modality_embedding": "learned"},
        {"modality_embedding": "none"},
        {"use_crossmodal": False},
        {"use_unimodal_encoder": False, "tasks": FUSING},
        {
            "use_unimodal_encoder": False,
            "tasks": FUSING,
            "num_crossmodal_layers": 2,
            "num_self_attends_per_layer": 2,
            "modality_embedding": "learned",
        },
        {"head_norm": "batch_norm"},
        {
            "parameter_groups": {
                "unimodal": {
                    "two/sound": 0,
                    "two/image": 1,
                    "three/events": 2,
                    "three/image": 0,
                    "three/sound": 1,
                    "one/volume": 0,
                },
                "crossmodal": {
                    "two/sound+image": 1,
                    "three/events+image": 0,
                    "three/events+sound": 1,
                    "three/image+sound": 0,
                },
            }
        },
    ],
    ids=lambda changes: ",".join(changes) or "default",
)
def test_the_fast_path_equals_the_equations(changes: dict) -> None:
    model = tiny_model(**changes)
    inputs = batch(
        {task: size for task, size in {"two": 3, "three": 2, "one": 2}.items() if task in model.config.tasks}
    )
    logits = model(inputs=inputs).logits
    for task, values in inputs.items():
        for index in range(len(next(iter(values.values())))):
            sample = {name: value[index] for name, value in values.items()}
            torch.testing.assert_close(logits[task][index], naive.logits(model, task, sample), atol=2e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_equations() -> None:
    model = tiny_model(modality_embedding="learned")
    inputs = batch({"two": 3, "three": 2, "one": 2})
    fast = {}
    sum(value.square().sum() for value in model(inputs=inputs).logits.values()).backward()
    for name, parameter in model.named_parameters():
        fast[name] = parameter.grad.clone()
        parameter.grad = None
    total = torch.zeros(())
    for task, values in inputs.items():
        for index in range(len(next(iter(values.values())))):
            sample = {name: value[index] for name, value in values.items()}
            total = total + naive.logits(model, task, sample).square().sum()
    total.backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().clamp_min(1e-3).item()
        torch.testing.assert_close(fast[name] / scale, parameter.grad / scale, atol=1e-4, rtol=0, msg=name)


def test_an_element_is_laid_out_as_in_appendix_b1() -> None:
    config = HighMMTConfig(
        modalities={
            "image": {"num_channels": 16, "num_axes": 2},
            "other": {"num_channels": 371, "num_frequency_bands": 3},
            **{f"m{index}": {"num_channels": 1} for index in range(7)},
        },
        tasks={"t": {"modalities": ["image", "other"]}},
    )
    row = naive.standardise(HighMMTModel(config), "image", torch.full((7, 7, 16), 9.0))
    assert row.shape == (49, 387)
    assert bool((row[:, :16] == 9).all())
    assert bool((row[:, 16 : 16 + 336] == 0).all())
    assert bool((row[:, 352:378].abs().sum(0) > 0).all())  # 26 position channels
    assert row[:, 378:].sum(1).eq(1).all()  # 9 one-hot channels


def test_parameters_of_the_large_setting_are_those_of_the_public_code() -> None:
    # 256,902 encoder + 1,280 latents, 264,064 crossmodal, 5,136 heads: counted in the public code, 522,246 + heads.
    spec = importlib.util.spec_from_file_location(
        "large", Path(__file__).parents[1] / "configuration" / "test_configuration_highmmt.py"
    )
    large = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(large)
    config = large.large_config()
    counts = HighMMTModel(config).num_parameters_by_component()
    assert counts == {
        "unimodal": 258_182,
        "crossmodal": 264_064,
        "heads": 10_256 - 5_120,
        "embeddings": 0,
        "total": 527_382,
    }
    assert {head_width(config, task) for task in config.tasks.values()} == {128, 384}


def test_head_widths_are_those_of_table_8_and_10() -> None:
    config = HighMMTConfig(
        modalities={name: {"num_channels": 1} for name in "abcd"},
        tasks={str(n): {"modalities": list("abcd")[:n]} for n in (1, 2, 3, 4)},
    )
    assert [head_width(config, config.tasks[str(n)]) for n in (1, 2, 3, 4)] == [1280, 128, 384, 768]


@given(padding=st.integers(1, 7), garbage=st.sampled_from([0.0, 1e6, float("nan"), float("inf")]))
@settings(max_examples=12)
def test_padding_changes_no_logit_whatever_it_holds(padding: int, garbage: float) -> None:
    model = tiny_model()
    inputs = batch({"two": 2})
    short = inputs["two"]["sound"][:, :4]
    plain = model(inputs={"two": {**inputs["two"], "sound": short}}).logits["two"]
    padded = torch.full((2, 4 + padding, 5), garbage)
    padded[:, :4] = short
    mask = torch.zeros(2, 4 + padding, dtype=torch.bool)
    mask[:, :4] = True
    output = model(inputs={"two": {**inputs["two"], "sound": padded}}, attention_mask={"two": {"sound": mask}})
    torch.testing.assert_close(output.logits["two"], plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"use_unimodal_encoder": False, "tasks": FUSING}], ids=["encoder", "none"])
@pytest.mark.parametrize("max_length", [None, 9])
def test_a_ragged_batch_equals_its_samples_one_by_one(max_length: int | None, changes: dict) -> None:
    modalities = {**MODALITIES, "sound": {**MODALITIES["sound"], "max_length": max_length}}
    model = tiny_model(modalities=modalities, **changes)
    inputs = batch({"two": 4})["two"]
    lengths = [6, 1, 3, 5]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    together = model(inputs={"two": inputs}, attention_mask={"two": {"sound": mask}}).logits["two"]
    for index, length in enumerate(lengths):
        alone = {"image": inputs["image"][[index]], "sound": inputs["sound"][[index], :length]}
        torch.testing.assert_close(model(inputs={"two": alone}).logits["two"][0], together[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"use_unimodal_encoder": False, "tasks": FUSING}], ids=["encoder", "none"])
def test_an_absent_modality_gives_exactly_the_pairs_that_remain(changes: dict) -> None:
    model = tiny_model(**changes)
    inputs = batch({"three": 3})
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    output = model(inputs=inputs, attention_mask={"three": {"events": mask}}).logits["three"]
    left_out = {name: value for name, value in inputs["three"].items() if name != "events"}
    without = model(inputs={"three": left_out}).logits["three"]
    whole = model(inputs=inputs).logits["three"]
    torch.testing.assert_close(output[1], without[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(output[[0, 2]], whole[[0, 2]], atol=1e-6, rtol=0)
    sample = {name: value[1] for name, value in left_out.items()}
    torch.testing.assert_close(output[1], naive.logits(model, "three", sample), atol=2e-5, rtol=1e-5)


def test_no_gradient_and_no_nan_flow_through_an_absent_modality() -> None:
    model = tiny_model().train()
    inputs = batch({"two": 3})
    inputs["two"]["sound"][0] = float("nan")
    inputs["two"]["sound"].requires_grad_(True)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0] = False
    output = model(inputs=inputs, attention_mask={"two": {"sound": mask}}, labels=labels_for({"two": 3}))
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    assert inputs["two"]["sound"].grad[0].eq(0).all()


def test_every_subset_of_the_modalities_in_one_batch_equals_the_subsets_one_by_one() -> None:
    model = tiny_model()
    names = TASKS["three"]["modalities"]
    subsets = [subset for size in (1, 2, 3) for subset in itertools.combinations(names, size)]
    inputs = batch({"three": len(subsets)})["three"]
    masks = {
        name: torch.tensor([name in subset for subset in subsets])
        .view(-1, *[1] * len(SHAPES[name]))
        .expand(-1, *SHAPES[name])
        for name in names
    }
    together = model(inputs={"three": inputs}, attention_mask={"three": masks}).logits["three"]
    for index, subset in enumerate(subsets):
        alone = model(inputs={"three": {name: inputs[name][[index]] for name in subset}}).logits["three"]
        torch.testing.assert_close(together[index], alone[0], atol=1e-6, rtol=0)


def test_modality_dropout_hides_whole_modalities_while_training_and_never_all() -> None:
    model = tiny_model(modality_dropout=0.5)
    inputs = batch({"three": 64})
    torch.manual_seed(0)
    states = model.train()(inputs=inputs).multimodal_states["three"].view(64, 6, 12)
    # Pairs in order: events-image, events-sound, image-events, image-sound, sound-events, sound-image.
    kept = states.abs().sum(-1) > 0
    assert torch.equal(kept[:, 0], kept[:, 2]) and torch.equal(kept[:, 1], kept[:, 4])
    assert 0 < int(kept[:, 0].sum()) < 64 and 0 < int(kept.all(dim=1).sum()) < 64
    whole = tiny_model()(inputs=inputs).multimodal_states["three"].view(64, 6, 12)
    torch.testing.assert_close(states, whole * kept[..., None], atol=1e-6, rtol=0)
    assert bool((model.eval()(inputs=inputs).multimodal_states["three"] != 0).all())


def test_modality_dropout_leaves_a_sample_its_only_modality() -> None:
    sequences = {name: InputSequence(torch.ones(4, 1, 1), 1, 0, None, None, torch.ones(4, 1, 1)) for name in "ab"}
    sequences["a"].present = torch.tensor([True, True, False, False])
    sequences["b"].present = torch.tensor([True, False, True, False])
    drop_modalities(sequences, 1.0)
    assert sequences["a"].present.tolist() == [True, True, False, False]
    assert sequences["b"].present.tolist() == [True, False, True, False]


def test_every_parameter_has_a_gradient_in_every_training_step() -> None:
    groups = ParameterGroups.share_none(tiny_config().modality_task_pairs(), tiny_config().interactions())
    model = tiny_model(parameter_groups=groups.to_dict()).train()
    model(inputs=batch({"two": 3, "one": 2}), labels=labels_for({"two": 3})).loss.backward()
    used = {"heads.two", "unimodal_groups.0", "unimodal_groups.1", "crossmodal_groups.0"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == (".".join(name.split(".")[:2]) in used), name
    idle = {id(parameter) for parameter in model.idle_parameters({"two": ["sound", "image"]})}
    assert idle == {id(parameter) for parameter in model.parameters() if not parameter.grad.any()}


@given(st.permutations(range(5)))
@settings(max_examples=10)
def test_permuting_a_set_changes_no_logit(order: list[int]) -> None:
    model = tiny_model()
    inputs = batch({"three": 2})
    shuffled = {**inputs["three"], "events": inputs["three"]["events"][:, list(order)]}
    before, after = model(inputs=inputs).logits["three"], model(inputs={"three": shuffled}).logits["three"]
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


def test_an_ordered_modality_does_notice_its_order() -> None:
    model = tiny_model()
    inputs = batch({"two": 2})
    flipped = {**inputs["two"], "sound": inputs["two"]["sound"].flip(1)}
    before, after = model(inputs=inputs).logits["two"], model(inputs={"two": flipped}).logits["two"]
    assert (before - after).abs().max() > 1e-4


def test_tasks_do_not_influence_each_other() -> None:
    model = tiny_model()
    together = model(inputs=batch({"two": 3, "three": 2, "one": 1}))
    for task, size in {"two": 3, "three": 2, "one": 1}.items():
        alone = model(inputs={task: batch({"two": 3, "three": 2, "one": 1})[task]}).logits[task]
        assert alone.shape[0] == size
        torch.testing.assert_close(together.logits[task], alone, atol=1e-6, rtol=0)


def test_cloned_groups_give_the_outputs_of_the_shared_model() -> None:
    model = tiny_model(head_norm="batch_norm")
    nodes = model.config.modality_task_pairs(), model.config.interactions()
    inputs = batch({"two": 3, "three": 2, "one": 1})
    before = model(inputs=inputs)
    for groups in (ParameterGroups.share_all(*nodes), ParameterGroups.share_none(*nodes)):
        split = model.split_parameter_groups(groups)
        after = split(inputs=inputs)
        for task in inputs:
            torch.testing.assert_close(after.logits[task], before.logits[task], atol=1e-6, rtol=0)
        assert len(split.unimodal_groups) == groups.num_unimodal_groups
        assert len(split.crossmodal_groups) == groups.num_crossmodal_groups


def test_groups_share_storage_within_and_none_between() -> None:
    model = tiny_model()
    nodes = model.config.modality_task_pairs(), model.config.interactions()
    split = model.split_parameter_groups(ParameterGroups.share_none(*nodes))
    addresses = [parameter.data_ptr() for parameter in split.parameters()]
    assert len(set(addresses)) == len(addresses)
    one, many = model.num_parameters_by_component(), split.num_parameters_by_component()
    assert many["unimodal"] == 6 * one["unimodal"]
    assert many["crossmodal"] == 4 * one["crossmodal"]
    assert many["heads"] == one["heads"]


@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
def test_saved_and_loaded_equals_before_for_a_grouped_model(tmp_path: Path, embedding: str) -> None:
    model = tiny_model(modality_embedding=embedding, head_norm="batch_norm")
    nodes = model.config.modality_task_pairs(), model.config.interactions()
    split = model.split_parameter_groups(ParameterGroups.share_none(*nodes)).train()
    split(inputs=batch({"two": 3}))  # moves the running statistics
    split.eval().save_pretrained(tmp_path)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is HighMMTModel
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in split.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    inputs = batch({"two": 2, "three": 2, "one": 2})
    before, after = split(inputs=inputs), again.eval()(inputs=inputs)
    assert all(torch.equal(before.logits[task], after.logits[task]) for task in inputs)


def test_modalities_listed_in_another_order_mean_the_same_weights() -> None:
    model = tiny_model()
    again = HighMMTModel(tiny_config(modalities=dict(reversed(MODALITIES.items())))).eval()
    again.load_state_dict(model.state_dict())
    inputs = batch({"two": 2})
    assert torch.equal(model(inputs=inputs).logits["two"], again(inputs=inputs).logits["two"])


def test_token_ids_are_embedded_and_padding_ids_do_not_matter() -> None:
    modalities = {"text": {"num_channels": 4, "vocab_size": 11, "max_length": 8}}
    torch.manual_seed(0)
    model = HighMMTModel(tiny_config(modalities=modalities, tasks={"t": {"modalities": ["text"]}})).eval()
    ids = torch.tensor([[3, 5, 7, 0], [1, 2, 4, 9]])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    other = ids.clone()
    other[0, 3] = 10
    first = model(inputs={"t": {"text": ids}}, attention_mask={"t": {"text": mask}}).logits["t"]
    second = model(inputs={"t": {"text": other}}, attention_mask={"t": {"text": mask}}).logits["t"]
    torch.testing.assert_close(first, second)
    with pytest.raises(ValueError, match="vocabulary has 11"):
        model(inputs={"t": {"text": ids + 5}})
    with pytest.raises(ValueError, match="max_length is 8"):
        model(inputs={"t": {"text": torch.zeros(2, 9, dtype=torch.long)}})


def test_element_dropout_bites_only_while_training() -> None:
    modalities = {**MODALITIES, "sound": {**MODALITIES["sound"], "element_dropout": 0.6}}
    model = tiny_model(modalities=modalities)
    inputs = batch({"two": 8})
    assert torch.equal(model(inputs=inputs).logits["two"], model(inputs=inputs).logits["two"])
    model.train()
    assert not torch.equal(model(inputs=inputs).logits["two"], model(inputs=inputs).logits["two"])


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_bites_only_while_training(name: str) -> None:
    model = tiny_model(**{name: 0.4})
    inputs = batch({"two": 8})
    assert torch.equal(model(inputs=inputs).logits["two"], model(inputs=inputs).logits["two"])
    model.train()
    assert not torch.equal(model(inputs=inputs).logits["two"], model(inputs=inputs).logits["two"])


def test_attention_weights_are_those_of_every_layer_and_sum_to_one() -> None:
    model = tiny_model(num_unimodal_layers=2)
    output = model(inputs=batch({"three": 2}), output_attentions=True).attentions
    unimodal = output["unimodal"]["three"]["image"]
    assert [tuple(weights.shape) for weights in unimodal] == [(2, 2, 4, 12)] * 2
    crossmodal = output["crossmodal"]["three"]["image<-sound"]
    assert [tuple(weights.shape) for weights in crossmodal] == [(2, 3, 4, 4)]
    for weights in (*unimodal, *crossmodal):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_a_head_of_zeros_costs_the_logarithm_of_its_classes() -> None:
    model = tiny_model()
    with torch.no_grad():
        for head in model.heads.values():
            head.classifier.weight.zero_()
            head.classifier.bias.zero_()
    sizes = {"two": 3, "one": 2}
    output = model(inputs=batch(sizes), labels=labels_for(sizes))
    assert output.losses["two"].item() == pytest.approx(math.log(3))
    assert output.losses["one"].item() == pytest.approx(math.log(2))
    assert output.loss.item() == pytest.approx(math.log(3) + math.log(2))


def test_loss_weights_weigh_the_sum_and_not_the_parts() -> None:
    tasks = {**TASKS, "two": {**TASKS["two"], "loss_weight": 0.5}}
    sizes = {"two": 3, "three": 2}
    output = tiny_model(tasks=tasks)(inputs=batch(sizes), labels=labels_for(sizes))
    expected = 0.5 * output.losses["two"] + output.losses["three"]
    torch.testing.assert_close(output.loss, expected)


def test_unlabelled_samples_add_nothing_and_none_labelled_adds_zero() -> None:
    task = tiny_config().tasks
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, -100, 2, -100])
    torch.testing.assert_close(
        task_loss("two", task["two"], logits, labels), task_loss("two", task["two"], logits[::2], labels[::2])
    )
    nothing = task_loss("two", task["two"], logits, torch.full((4,), -100))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.eq(0).all()
    guess = torch.randn(3, 2)
    target = torch.tensor([[1.0, float("nan")], [2.0, 3.0], [float("nan"), float("nan")]])
    expected = torch.stack([(guess[0, 0] - 1) ** 2, (guess[1, 0] - 2) ** 2, (guess[1, 1] - 3) ** 2]).mean()
    torch.testing.assert_close(task_loss("three", task["three"], guess, target), expected)


def test_batch_norm_survives_a_batch_of_one_while_training() -> None:
    model = tiny_model(head_norm="batch_norm").train()
    output = model(inputs=batch({"two": 1, "three": 2}), labels=labels_for({"two": 1, "three": 2}))
    assert torch.isfinite(output.loss)


def test_a_split_model_is_not_split_again() -> None:
    model = tiny_model()
    nodes = model.config.modality_task_pairs(), model.config.interactions()
    split = model.split_parameter_groups(ParameterGroups.share_none(*nodes))
    with pytest.raises(ValueError, match="split into parameter groups already"):
        split.split_parameter_groups(ParameterGroups.share_all(*nodes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_unimodal_encoder": False}, "'one': without a unimodal encoder a task needs at least two modalities"),
        ({"use_unimodal_encoder": False, "use_crossmodal": False}, "leave nothing to learn with"),
        ({"modality_dropout": 1.0}, "modality_dropout=1.0 must be at least 0 and below 1"),
    ],
)
def test_settings_that_leave_nothing_are_refused(changes: dict, message: str) -> None:
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        tiny_config(**changes)


def test_a_model_without_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        HighMMTModel(HighMMTConfig())
