"""Training settings: plain data, checked when they are made."""

from __future__ import annotations

import json
import math

import pytest

from highmmt.suites.schema import TRAINING_KEYS
from highmmt.train import TrainingSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_epochs": 0}, "num_epochs=0"),
        ({"num_epochs": 2.0}, "num_epochs=2.0"),
        ({"num_epochs": True}, "num_epochs=True"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_sizes": {"gait": 0}}, "batch_sizes['gait']=0"),
        ({"batch_sizes": 16}, "batch_sizes=16"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1"),
        ({"patience": 0}, "patience=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": "8e-4"}, "learning_rate='8e-4'"),  # what YAML makes of 8e-4, without a point
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"warmup_ratio": 1}, "warmup_ratio=1"),
        ({"warmup_ratio": "half"}, "warmup_ratio='half'"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
        ({"max_grad_norm": "big"}, "max_grad_norm='big'"),
        ({"optimizer": "lbfgs"}, "optimizer='lbfgs' is not one of adam, adamw, sgd"),
        ({"optimizer_options": {"momentum": 0.9}}, "optimizer_options: 'adam' has no option 'momentum'; its options"),
        ({"optimizer_options": {"lr": 0.9}}, "optimizer_options: 'adam' has no option 'lr'; its options are betas"),
        ({"optimizer_options": 0.9}, "optimizer_options=0.9"),
        ({"fused_optimizer": 1}, "fused_optimizer=1"),
        ({"lr_scheduler": "cos"}, "lr_scheduler='cos' is not one of linear, cosine"),
        ({"lr_scheduler_options": {"num_cycles": 2}}, "'constant' has no option 'num_cycles'; its options are none"),
        ({"sampling": "random"}, "sampling='random' is not one of staggered, uniform, proportional, temperature"),
        ({"temperature": 0}, "temperature=0"),
        ({"loss_weighting": "learned"}, "loss_weighting='learned' is not one of fixed, uncertainty"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"skip_bad_rows": True}, "skip_bad_rows=True"),
        ({"torch_compile": "yes"}, "torch_compile='yes'"),
        ({"max_non_finite_steps": 0}, "max_non_finite_steps=0"),
        ({"save_steps": 0}, "save_steps=0"),
        ({"keep": 0}, "keep=0"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8' is not one of no, bf16, fp16"),
        ({"learning_rat": 1.0}, "no training setting 'learning_rat'"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        TrainingSettings.from_dict(values)
    assert message in str(error.value)


def test_settings_survive_json() -> None:
    settings = TrainingSettings(num_epochs=3, batch_sizes={"gait": 7}, max_grad_norm=None, patience=2)
    assert TrainingSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_task_that_is_not_named_has_the_common_batch_size() -> None:
    settings = TrainingSettings(batch_size=5, batch_sizes={"gait": 7})
    assert (settings.batch_size_of("gait"), settings.batch_size_of("push")) == (7, 5)


def test_all_that_a_suite_may_say_of_training_is_a_setting() -> None:
    known = TrainingSettings().to_dict()
    grouping = ("k", "max_parameters", "linkage")
    keys = [
        key.removeprefix("finetuning_") for key in TRAINING_KEYS if not key.startswith("num_") and key not in grouping
    ]
    assert [key for key in keys if key not in known] == []
