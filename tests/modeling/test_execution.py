"""The same numbers in every way of running the model: gradient checkpointing, compiled, exported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel, inputs

MODALITIES = {
    "image": {"num_channels": 3, "num_axes": 2, "num_frequency_bands": 2, "max_frequency": 8.0},
    "sound": {"num_channels": 5, "num_frequency_bands": 3},
    "events": {"num_channels": 4, "ordered": False},
    "words": {"num_channels": 4, "vocab_size": 11, "max_length": 9},
}
TASKS = {
    "two": {"modalities": ["sound", "image"], "num_labels": 3},
    "three": {"modalities": ["events", "image", "words"], "num_labels": 2, "problem_type": "regression"},
    "one": {"modalities": ["words"], "num_labels": 4, "problem_type": "multi_label_classification"},
}


def build(**changes: Any) -> HighMMTModel:
    torch.manual_seed(0)
    sizes = {"num_latents": 4, "d_latents": 12, "cross_attention_head_dim": 5, "self_attention_head_dim": 7}
    return HighMMTModel(HighMMTConfig(modalities=MODALITIES, tasks=TASKS, **{**sizes, **changes}))


def batch(size: int = 3, length: int = 6) -> dict[str, Any]:
    """Inputs, masks of ragged and absent samples, and labels of all tasks."""
    generator = torch.Generator().manual_seed(size)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=generator)

    words = torch.randint(0, 11, (size, 7), generator=generator)
    inputs = {
        "two": {"sound": normal(length, 5), "image": normal(3, 4, 3)},
        "three": {"events": normal(5, 4), "image": normal(2, 3, 3), "words": words},
        "one": {"words": words},
    }
    ragged = torch.arange(length) < torch.tensor([length, 2, 0, 3, 1][:size])[:, None]
    events = torch.arange(5) < torch.tensor([0, 5, 2, 1, 4][:size])[:, None]
    picture = torch.ones(size, 3, 4, dtype=torch.bool)
    picture[0, 2] = picture[0, :, 3] = False
    return {
        "inputs": inputs,
        "attention_mask": {"two": {"sound": ragged, "image": picture}, "three": {"events": events}},
        "labels": {
            "two": torch.arange(size) % 3,
            "three": normal(2),
            "one": (torch.arange(size * 4).view(size, 4) % 2).float(),
        },
    }


def only(given: dict[str, Any], task: str) -> dict[str, Any]:
    """One task of a batch."""
    return {part: {task: values[task]} for part, values in given.items() if task in values}


def gradients_of(model: HighMMTModel, run: Any, given: dict[str, Any]) -> dict[str, Tensor]:
    model.zero_grad()
    run(**given).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-3).item()
        torch.testing.assert_close(found[name] / scale, gradient / scale, atol=tolerance, rtol=0, msg=name)


# --- Gradient checkpointing ------------------------------------------------------------------------------------------


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """What a forward pass keeps for the backward pass, each storage once."""
    storages: dict[int, int] = {}
    total = [0]

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = storage.nbytes()
            total[0] += storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield total


def enable_checkpointing(model: HighMMTModel, **options: Any) -> None:
    """By the name that this version of transformers does not warn of."""
    method = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    method(*([options] if options else []))


@pytest.mark.parametrize("changes", [{}, {"num_unimodal_layers": 3, "num_crossmodal_layers": 2}])
@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
def test_checkpointed_gradients_are_the_same_and_less_is_kept(changes: dict[str, int], embedding: str) -> None:
    model = build(modality_embedding=embedding, hidden_dropout_prob=0.2, **changes).train()
    given = batch(5)
    results = []
    for _ in range(2):
        torch.manual_seed(1)  # of the dropout, which the second forward pass of a layer must repeat
        with saved_bytes() as kept:
            loss = model(**given).loss
        model.zero_grad()
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        results.append((loss.detach(), gradients, kept[0]))
        enable_checkpointing(model)
    (loss, gradients, kept), (again, checkpointed, kept_less) = results
    assert torch.equal(loss, again)
    assert_equal_gradients(checkpointed, gradients, 1e-6)
    assert kept_less < 0.35 * kept, (kept_less, kept)


def test_a_checkpointed_model_evaluates_as_before() -> None:
    model = build().eval()
    given = batch()
    expected = model(**given).logits
    enable_checkpointing(model)
    found = model(**given).logits
    assert all(torch.equal(found[task], expected[task]) for task in expected)


def test_a_way_of_checkpointing_that_loses_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="use_reentrant=False"):
        enable_checkpointing(build(), use_reentrant=True)


# --- torch.compile ---------------------------------------------------------------------------------------------------


def absent(given: dict[str, Any]) -> dict[str, Any]:
    """The same batch without one task's first modality and its mask."""
    inputs = {**given["inputs"], "two": {"image": given["inputs"]["two"]["image"]}}
    masks = {**given["attention_mask"], "two": {"image": given["attention_mask"]["two"]["image"]}}
    return {**given, "inputs": inputs, "attention_mask": masks}


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No graph of another test counts against this one."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiles(test: Any) -> Any:
    """Without the compiler's warnings about itself."""
    quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")
    return pytest.mark.usefixtures("fresh_compiler")(quiet(test))


@compiles
def test_a_traced_model_is_one_graph_with_the_same_gradients() -> None:
    model = build(head_norm="layer_norm").train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    given = only(batch(), "two")
    found, expected = (gradients_of(model, run, given) for run in (compiled, model))
    assert_equal_gradients(found, expected, 1e-5)


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("changes", [{}, {"modality_embedding": "learned", "num_unimodal_layers": 2}])
def test_a_compiled_model_gives_the_same_logits_and_gradients(changes: dict[str, Any]) -> None:
    pytest.importorskip("torch._inductor")
    model = build(head_norm="layer_norm", **changes).train()
    compiled = torch.compile(model, fullgraph=True)
    for given in (batch(), absent(batch()), batch(5, 4)):
        found, expected = compiled(**given), model(**given)
        for task, logits in expected.logits.items():
            torch.testing.assert_close(found.logits[task], logits, atol=1e-5, rtol=1e-5)
        gradients = [gradients_of(model, run, given) for run in (compiled, model)]
        assert_equal_gradients(*gradients, 1e-4)
    model.eval()
    found, expected = compiled(**batch()), model(**batch())
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)


# --- autocast --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("autocast_as_it_is")
def test_autocast_computes_in_bf16_where_the_processor_can() -> None:
    model = build(head_norm="layer_norm")
    exact = model(**batch()).logits
    with torch.autocast("cpu", torch.bfloat16):
        near = model(**batch()).logits
    for task, logits in exact.items():
        assert near[task].dtype == torch.bfloat16
        torch.testing.assert_close(near[task].float(), logits, atol=0.1, rtol=0.1)


def test_autocast_is_left_off_where_the_processor_has_no_arithmetic_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("highmmt.modeling_highmmt.inputs._SLOW_ON_CPU", frozenset({torch.bfloat16}))
    inputs.logger.warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger(inputs.__name__), "propagate", True)
    model = build(head_norm="layer_norm")
    expected = model(**batch())
    with torch.autocast("cpu", torch.bfloat16):
        found = [model(**batch()) for _ in range(2)]
        assert torch.is_autocast_enabled("cpu")
    for output in found:
        assert all(torch.equal(output.logits[task], logits) for task, logits in expected.logits.items())
        assert torch.equal(output.loss, expected.loss)
    said = [record.getMessage() for record in caplog.records if "bfloat16" in record.getMessage()]
    assert said == ["This processor has no bfloat16 arithmetic: autocast is left off, HighMMT computes in float32."]
