"""The loop: what it learns, what it keeps, what every setting changes, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState

from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import MultitaskTrainer, TrainingSettings, build_config, build_model, make_sampler, metric_names

BASE = {"num_epochs": 2, "learning_rate": 1e-2, "weight_decay": 1e-2, "batch_size": 4}
Build = Any


@pytest.fixture
def build(suite: Suite, processor: HighMMTProcessor, data: dict) -> Build:
    """A function that makes a trainer with a new model: `build(tasks=[...], head_norm=..., num_epochs=...)`."""

    def make(
        tasks: list[str] | None = None,
        model: HighMMTModel | None = None,
        head_norm: str = "batch_norm",
        dropout: float = 0.0,
        **changes: Any,
    ) -> MultitaskTrainer:
        if model is None:
            model = build_model(
                build_config(suite, processor, head_norm=head_norm, hidden_dropout_prob=dropout), seed=0
            )
        chosen = {task: data[task] for task in tasks or suite.tasks}
        settings = TrainingSettings.from_dict({**BASE, **changes})
        return MultitaskTrainer(model, processor, chosen, metric_names(suite), settings)

    return make


def weights(trainer: MultitaskTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_of_every_task_falls(build: Build) -> None:
    result = build(num_epochs=12).train()
    first, last = result.history[0], result.history[-1]
    assert all(last.train_loss[task] < 0.8 * first.train_loss[task] for task in first.train_loss)
    assert [record.epoch for record in result.history] == list(range(12))


def test_the_best_epochs_weights_are_the_ones_kept(build: Build) -> None:
    trainer = build(num_epochs=4)
    scores = iter([1.0, 3.0, 3.0, 2.0])
    trainer.score = lambda evaluation: next(scores)
    result = trainer.train()
    assert (result.best_epoch, result.best_score) == (1, 3.0)
    assert trainer.evaluate() == result.history[1].validation
    assert result.history[1].validation != result.history[3].validation


def test_the_score_is_the_weighted_sum_of_metrics_with_errors_counted_negative(build: Build) -> None:
    trainer = build(num_epochs=1)
    assert trainer.score({"shapes": {"accuracy": 0.5}, "arm": {"rmse": 2.0}, "tone": {"macro_f1": 0.25}}) == (
        0.5 - 0.25 * 2.0 + 0.25
    )
    record = trainer.train().history[0]
    assert record.score == trainer.score(record.validation)


def test_the_same_seed_gives_the_same_run_to_the_last_bit(build: Build) -> None:
    torch.manual_seed(1)
    first = build(dropout=0.2)
    one = first.train()
    torch.manual_seed(2)
    np.random.seed(2)
    second = build(dropout=0.2)
    assert second.train() == one
    assert same(weights(first), weights(second))


def test_every_task_takes_part_in_all_its_batches(build: Build) -> None:
    result = build(num_epochs=3, batch_sizes={"arm": 6}).train()
    # 24 rows by 4; 13 rows by 6, the last two batches' 7 joined; 9 rows by 4, the last row joined.
    assert result.gradient_steps == {"shapes": 3 * 6, "arm": 3 * 2, "tone": 3 * 2}
    assert [record.steps for record in result.history] == [6, 6, 6]


def test_a_task_that_is_not_trained_keeps_its_head(build: Build) -> None:
    trainer = build(tasks=["shapes", "tone"])
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    changed = {name.split(".")[1] for name in before if "heads" in name and not torch.equal(before[name], after[name])}
    assert changed == {"shapes", "tone"}


CHANGES: dict[str, dict[str, Any]] = {
    "num_epochs": {"num_epochs": 1},
    "learning_rate": {"learning_rate": 2e-2},
    "weight_decay": {"weight_decay": 0.1},
    "optimizer": {"optimizer": "adamw"},
    "optimizer_options": {"optimizer_options": {"betas": [0.5, 0.9]}},
    "lr_scheduler": {"lr_scheduler": "cosine"},
    "lr_scheduler_options": {"lr_scheduler": "cosine", "lr_scheduler_options": {"num_cycles": 2}},
    "warmup_ratio": {"warmup_ratio": 0.5},
    "max_grad_norm": {"max_grad_norm": 0.01},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "sampling": {"sampling": "uniform"},
    "temperature": {"sampling": "temperature", "temperature": 9.0},
    "loss_weighting": {"loss_weighting": "uncertainty"},
    "batch_sizes": {"batch_sizes": {"arm": 3}},
    "batch_size": {"batch_size": 5},
    "mixed_precision": {"mixed_precision": "bf16"},
    "seed": {"seed": 1},
}


@pytest.fixture(scope="module")
def base_history(suite: Suite, processor: HighMMTProcessor, data: dict) -> Any:
    model = build_model(build_config(suite, processor), seed=0)
    return MultitaskTrainer(model, processor, data, metric_names(suite), TrainingSettings(**BASE)).train().history


@pytest.mark.usefixtures("autocast_as_it_is")
@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_the_run(name: str, build: Build, base_history: Any) -> None:
    history = build(**CHANGES[name]).train().history
    assert history != base_history
    assert all(math.isfinite(loss) for record in history for loss in record.train_loss.values())


def test_every_setting_has_a_test() -> None:
    elsewhere = {
        *("patience", "eval_batch_size"),  # below
        *("save_steps", "keep", "max_non_finite_steps"),  # test_resuming.py
        *("num_workers", "skip_bad_rows"),  # test_loading.py
        *("fused_optimizer", "torch_compile"),  # change rounding alone: test_optimization.py
    }
    assert {field.name for field in dataclasses.fields(TrainingSettings)} == set(CHANGES) | elsewhere


def test_patience_stops_after_so_many_epochs_without_a_better_score(build: Build) -> None:
    trainer = build(num_epochs=9, patience=2)
    scores = iter([1.0, 2.0, 0.0, 3.0, 3.0, 1.0, 9.0])
    trainer.score = lambda evaluation: next(scores)
    result = trainer.train()
    assert (len(result.history), result.best_epoch) == (6, 3)


def test_the_size_of_evaluation_batches_changes_no_result(build: Build) -> None:
    whole = build(eval_batch_size=99).evaluate("test")
    for size in (1, 3):
        parts = build(eval_batch_size=size).evaluate("test")
        for task, values in whole.items():
            assert parts[task] == pytest.approx(values, rel=1e-5)


def test_a_linear_schedule_ends_where_it_started_to_matter(build: Build) -> None:
    # All steps of warm-up but the first have a learning rate above zero, so one epoch of them changes the weights.
    trainer = build(num_epochs=1, lr_scheduler="linear", warmup_ratio=0.99, head_norm="layer_norm")
    before = weights(trainer)
    trainer.train()
    assert not same(before, weights(trainer))


def test_no_learning_rate_leaves_the_weights_as_they_were(build: Build) -> None:
    trainer = build(learning_rate=0.0, head_norm="layer_norm")
    before = weights(trainer)
    trainer.train()
    assert same(before, weights(trainer))


def test_mixed_precision_leaves_no_trace_on_the_model_or_on_later_runs(build: Build, base_history: Any) -> None:
    trainer = build(mixed_precision="bf16")
    record = trainer.train()
    assert "forward" not in vars(trainer.model)
    assert trainer.evaluate() == record.history[record.best_epoch].validation
    assert next(trainer.model.parameters()).dtype == torch.float32
    copied = copy.deepcopy(trainer.model)
    with torch.no_grad():
        copied.heads["shapes"].classifier.weight.zero_()
        copied.heads["shapes"].classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    logits, _ = build(model=copied).predict("shapes", "test")
    assert torch.equal(logits, torch.tensor([0.0, 1.0, 0.0]).expand(len(logits), -1))
    assert build().train().history == base_history


def test_half_precision_without_a_gpu_is_refused(build: Build) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="mixed_precision='fp16' needs a GPU"):
        build(mixed_precision="fp16")
    assert build().accelerator.mixed_precision == "no"


def test_gradient_accumulation_asked_for_at_the_launch_is_refused_not_ignored(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    try:
        with pytest.raises(ValueError, match="gradient_accumulation_steps=4"):
            build()
    finally:
        GradientState._reset_state()


def test_an_accelerator_of_ones_own_is_used(
    suite: Suite, processor: HighMMTProcessor, data: dict, build: Build
) -> None:
    accelerator = Accelerator(mixed_precision=build().accelerator.mixed_precision)
    model = build_model(build_config(suite, processor), seed=0)
    trainer = MultitaskTrainer(
        model, processor, data, metric_names(suite), TrainingSettings(**BASE), accelerator=accelerator
    )
    assert trainer.accelerator is accelerator
    assert trainer.train() == build().train()


def test_evaluation_counts_each_row_once_and_in_order(build: Build, suite: Suite, processor: HighMMTProcessor) -> None:
    trainer = build(eval_batch_size=4)
    for task in suite.tasks:
        raw = suite.load(task)["test"]
        logits, labels = trainer.predict(task, "test")
        assert len(logits) == len(labels) == len(raw)
        expected = np.array(raw[suite.task(task).target["column"]])
        found = processor.rescale_target(task, labels.double()).numpy() if task == "arm" else labels.numpy()
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_model_that_knows_nothing_has_the_errors_of_the_training_mean_in_the_targets_unit(
    build: Build, suite: Suite
) -> None:
    trainer = build(tasks=["arm"])
    with torch.no_grad():
        trainer.model.heads["arm"].classifier.weight.zero_()
        trainer.model.heads["arm"].classifier.bias.zero_()
    rows = suite.load("arm")
    train, test = (np.array(rows[split]["position"]) for split in ("train", "test"))
    values = trainer.evaluate("test")["arm"]
    assert values["rmse"] == pytest.approx(float(np.sqrt(((test - train.mean(0)) ** 2).mean())))
    # The loss is of the standardised target.
    assert values["loss"] == pytest.approx(float((((test - train.mean(0)) / train.std(0)) ** 2).mean()), rel=1e-5)


def test_a_head_without_weights_has_the_loss_of_guessing(build: Build) -> None:
    trainer = build()
    with torch.no_grad():
        for head in trainer.model.heads.values():
            head.classifier.weight.zero_()
            head.classifier.bias.zero_()
    values = trainer.evaluate()
    assert values["shapes"]["loss"] == pytest.approx(math.log(3))
    assert values["tone"]["loss"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("task", ["shapes", "arm", "tone"])
def test_a_training_loss_that_is_not_finite_is_named_by_task_and_epoch(build: Build, task: str) -> None:
    trainer = build()
    with torch.no_grad():
        trainer.model.heads[task].classifier.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=f"Task '{task}': the training loss of epoch 0 is not finite"):
        trainer.train()


def test_a_learning_rate_far_too_high_is_named(build: Build) -> None:
    with pytest.raises(FloatingPointError, match=r"Task '\w+': .* Lower learning_rate|learning_rate \(1e\+30\)"):
        build(learning_rate=1e30).train()


def test_outputs_that_are_not_finite_are_named_in_evaluation(build: Build) -> None:
    trainer = build()
    with torch.no_grad():
        trainer.model.heads["arm"].classifier.bias.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="Task 'arm': .* on the test split are not finite"):
        trainer.evaluate("test")


def test_what_cannot_be_trained_is_refused_by_name(
    build: Build, suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    alone = build_model(build_config(suite, processor, ["shapes"]), seed=0)
    with pytest.raises(ValueError, match="Task 'arm': the model has no such task; it has shapes"):
        build(model=alone)
    model, settings = build().model, TrainingSettings(**BASE)
    with pytest.raises(ValueError, match="data is empty"):
        MultitaskTrainer(model, processor, {}, metric_names(suite), settings)
    with pytest.raises(ValueError, match="Task 'arm': no metric is named"):
        MultitaskTrainer(model, processor, data, {"shapes": "accuracy"}, settings)
    with pytest.raises(ValueError, match="Task 'arm': metric 'accuracy' cannot judge regression"):
        MultitaskTrainer(model, processor, data, {**metric_names(suite), "arm": "accuracy"}, settings)


def test_a_split_without_rows_is_refused_before_the_first_step(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    def trainer(**splits: Any) -> MultitaskTrainer:
        model = build_model(build_config(suite, processor), seed=0)
        return MultitaskTrainer(model, processor, {"arm": splits}, metric_names(suite), TrainingSettings(**BASE))

    splits = data["arm"]
    with pytest.raises(ValueError, match="Task 'arm' has no rows in the validation split; it has train"):
        trainer(train=splits["train"]).train()
    with pytest.raises(ValueError, match="Task 'arm' has no rows in the train split"):
        trainer(train=splits["train"].select([]), validation=splits["validation"]).train()
    with pytest.raises(ValueError, match="Task 'arm' has no rows in the test split"):
        trainer(train=splits["train"]).evaluate("test")


def test_labels_that_do_not_determine_the_metric_are_named(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    rows = data["shapes"]["validation"]
    one_class = rows.select([index for index, label in enumerate(rows["labels"]) if label == 1])
    model = build_model(build_config(suite, processor), seed=0)
    trainer = MultitaskTrainer(
        model, processor, {"shapes": {"validation": one_class}}, {"shapes": "auroc"}, TrainingSettings()
    )
    with pytest.raises(ValueError, match="Task 'shapes': the labels of the validation split do not determine auroc"):
        trainer.evaluate()


@pytest.mark.gpu
def test_a_model_is_evaluated_where_the_accelerator_is(build: Build) -> None:
    trainer = build()
    assert next(trainer.model.parameters()).device.type == trainer.accelerator.device.type != "cpu"
    trainer.evaluate("test")


def test_processes_that_do_not_know_of_each_other_are_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, .* Set ACCELERATE_USE_CPU=true"):
        build()


def test_one_process_where_several_were_asked_for_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    # What `accelerate launch --cpu --num_processes 2` gives the one process that it starts.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="has started one, .* accelerate launch --multi_gpu --num_processes N"):
        build()
    monkeypatch.delenv("MASTER_ADDR")
    build()


def test_every_step_is_one_forward_pass_over_all_its_tasks(build: Build, data: dict) -> None:
    trainer, given = build(num_epochs=1), []
    rows = {task: len(data[task]["train"]) for task in data}

    def note(model: HighMMTModel, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if model.training:
            given.append(set(named["inputs"]))

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    trainer.train()
    sampler = make_sampler("staggered", rows, dict.fromkeys(rows, 4), seed=0)
    assert given == [set(tasks) for tasks in sampler.epoch(0)]
