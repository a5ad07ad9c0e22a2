"""Optimizers and schedules by name, the kernel, the compiled model, and gradients that are not finite."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import MultitaskTrainer, TrainingResult, TrainingSettings, build_config, build_model, metric_names
from highmmt.train.optimization import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule
from highmmt.train.state import from_plain, optimizer_state, restore_optimizer, to_plain

STEPS = 12


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (3,), ())]


def step(optimizer: torch.optim.Optimizer, moved: list[nn.Parameter], number: int) -> None:
    """A step on gradients that differ from step to step; one parameter has none in some of them."""
    for index, parameter in enumerate(moved):
        parameter.grad = None if index == 1 and number % 3 == 2 else (parameter.detach() + number).cos()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_and_goes_on_from_its_state_bit_for_bit(name: str) -> None:
    moved = parameters()
    optimizer = build_optimizer(name, moved, 0.01, 0.1, {}, fused=True)
    for number in range(4):
        step(optimizer, moved, number)
    assert not any(torch.equal(after, before) for after, before in zip(moved, parameters(), strict=True))
    tensors, plain = optimizer_state(optimizer)
    tensors = {key: value.clone() for key, value in tensors.items()}
    plain = json.loads(json.dumps(plain, allow_nan=False))
    again = [nn.Parameter(value.detach().clone()) for value in moved]
    restored = build_optimizer(name, again, 0.01, 0.1, {}, fused=True)
    restore_optimizer(restored, tensors, plain)
    for number in range(4, 9):
        step(optimizer, moved, number)
        step(restored, again, number)
        assert all(torch.equal(first, second) for first, second in zip(moved, again, strict=True))


# Those that cannot be had without an option, and what they say then.
NEEDS = {
    "cosine_warmup_with_min_lr": ("min_lr", {"min_lr": 0.001}),
    "cosine_with_min_lr": ("min_lr", {"min_lr": 0.001}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_and_goes_on_from_its_state_or_says_what_it_needs(name: str) -> None:
    def build(options: dict[str, Any]) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = build_optimizer("sgd", parameters(), 0.01, 0.0, {})
        return optimizer, build_schedule(name, optimizer, 2, STEPS, options)

    options: dict[str, Any] = {}
    if name in NEEDS:
        needed, options = NEEDS[name]
        with pytest.raises(ValueError, match=f"lr_scheduler '{name}' with lr_scheduler_options={{}}: .*{needed}"):
            build({})
    optimizer, schedule = build(options)
    rates = []
    for number in range(STEPS):
        optimizer.step()
        schedule.step(*([0.5] if name == "reduce_lr_on_plateau" else []))
        rates.append(optimizer.param_groups[0]["lr"])
        if number == 5:
            state = json.loads(json.dumps(to_plain(schedule.state_dict()), allow_nan=False))
            groups = [dict(group) for group in optimizer.param_groups]
    assert all(math.isfinite(rate) and rate >= 0 for rate in rates) and max(rates) > 0
    again, resumed = build(options)
    resumed.load_state_dict(from_plain(state))
    again.param_groups[0]["lr"] = groups[0]["lr"]
    for number in range(6, STEPS):
        again.step()
        resumed.step(*([0.5] if name == "reduce_lr_on_plateau" else []))
        assert again.param_groups[0]["lr"] == rates[number]


def test_the_kernel_is_chosen_by_a_setting_where_there_is_one() -> None:
    for name in ("adam", "adamw"):
        assert build_optimizer(name, parameters(), 0.01, 0.0, {}, fused=True).defaults["fused"]
        assert not build_optimizer(name, parameters(), 0.01, 0.0, {}, fused=False).defaults["fused"]
    assert not build_optimizer("sgd", parameters(), 0.01, 0.0, {}, fused=True).defaults["fused"]


def test_values_that_an_optimizer_refuses_are_named() -> None:
    with pytest.raises(ValueError, match=r"optimizer 'adam' with optimizer_options=.*2\.0.*: Invalid beta"):
        build_optimizer("adam", parameters(), 0.01, 0.0, {"betas": [2.0, 0.9]})


@pytest.fixture
def build(suite: Suite, processor: HighMMTProcessor, data: dict) -> Any:
    def make(tasks: tuple[str, ...] = tuple(data), **changes: Any) -> MultitaskTrainer:
        model = build_model(build_config(suite, processor, tasks), seed=0)
        settings = TrainingSettings(**{"num_epochs": 2, "learning_rate": 1e-2, "batch_size": 4, **changes})
        return MultitaskTrainer(model, processor, {task: data[task] for task in tasks}, metric_names(suite), settings)

    return make


def losses(result: TrainingResult) -> list[dict[str, float]]:
    return [record.train_loss for record in result.history]


# What torch says of itself while it compiles an autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_is_what_is_trained_and_has_the_same_losses(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build(("tone",), batch_size=9).train()
    compiled: list[nn.Module] = []
    compile_model = torch.compile

    def eagerly(model: nn.Module) -> Any:
        compiled.append(model)
        return compile_model(model, backend="eager")

    monkeypatch.setattr(torch, "compile", eagerly)
    trainer = build(("tone",), batch_size=9, torch_compile=True)
    result = trainer.train()
    assert compiled and all(model is trainer.model for model in compiled)
    for found, wanted in zip(losses(result), losses(expected), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)
    compiled.clear()
    assert losses(build(("tone",), batch_size=9).train()) == losses(expected) and not compiled


def test_a_gradient_that_is_not_finite_costs_its_step_and_names_its_samples(
    build: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build(num_epochs=1)
    weight, calls = trainer.model.heads["arm"].classifier.weight, []

    def spoil(gradient: Tensor) -> Tensor:
        if bool(gradient.any()):  # zero in steps without the task
            calls.append(1)
            return gradient * math.inf if len(calls) == 2 else gradient
        return gradient

    weight.register_hook(spoil)
    with caplog.at_level(logging.WARNING):
        result = trainer.train()
    (skipped,) = result.history[0].skipped
    assert "arm" in skipped.samples and len(skipped.samples["arm"]) == 4
    assert "the gradient of epoch 0 is not finite" in caplog.text and skipped.samples["arm"][0] in caplog.text
    assert result.gradient_steps["arm"] == len(calls) - 1
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.state_dict().values())


def test_gradients_that_are_never_finite_end_the_run(build: Any) -> None:
    trainer = build(max_non_finite_steps=2)
    trainer.model.unimodal_groups[0].latents.register_hook(lambda gradient: gradient * math.nan)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="gradient of epoch 0 is not finite.* 2 steps in a row"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_a_step_that_the_gradient_scaler_skips_is_counted_and_named(
    build: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    update, calls = AcceleratedOptimizer.step, []

    def overflow(self: AcceleratedOptimizer, closure: Any = None) -> None:
        calls.append(1)
        self._is_overflow = len(calls) == 3
        if len(calls) != 3:
            update(self, closure)

    monkeypatch.setattr(AcceleratedOptimizer, "step", overflow)
    monkeypatch.setattr(AcceleratedOptimizer, "step_was_skipped", property(lambda self: self._is_overflow))
    result = build(num_epochs=1).train()
    (skipped,) = result.history[0].skipped
    assert skipped.step == 2 and "shapes" in skipped.samples
    assert "the gradient of epoch 0 is not finite" in caplog.text
    assert result.gradient_steps["shapes"] == len(calls) - 1


@pytest.mark.gpu
def test_half_precision_counts_the_overflows_of_its_scaler(build: Any) -> None:
    trainer = build(num_epochs=1, mixed_precision="fp16", max_non_finite_steps=99)
    trainer.accelerator.scaler = torch.amp.GradScaler(init_scale=2.0**60)
    result = trainer.train()
    skipped = result.history[0].skipped
    assert skipped and result.gradient_steps["shapes"] == 6 - len(skipped)
    assert trainer.accelerator.scaler.get_scale() < 2.0**60
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.state_dict().values())
