"""Weights of losses: fixed ones, and learned ones that begin at them and end where the formula says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from highmmt.configuration import TaskConfig
from highmmt.train import WEIGHTINGS, make_weighting

TYPES = ("single_label_classification", "multi_label_classification", "regression", "retrieval")


def tasks_of(weights: dict[str, float]) -> dict[str, TaskConfig]:
    return {kind: TaskConfig(["a", "b"], kind, 4, loss_weight=weight) for kind, weight in weights.items()}  # type: ignore[arg-type]


@given(st.fixed_dictionaries({kind: st.floats(0.01, 100) for kind in TYPES}))
def test_learning_begins_at_the_fixed_weights(weights: dict[str, float]) -> None:
    shared = torch.tensor([0.3, -2.0], requires_grad=True)
    gradients = []
    for name in WEIGHTINGS:
        weighting = make_weighting(name, tasks_of(weights))
        losses = {kind: (shared * (place + 1)).pow(2).sum() for place, kind in enumerate(TYPES)}
        (gradient,) = torch.autograd.grad(torch.stack(list(weighting(losses).values())).sum(), shared)
        gradients.append(gradient)
        assert weighting.factors() == pytest.approx(weights, rel=1e-5)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("loss", [0.02, 0.5, 3.0])
def test_the_learned_factor_of_a_constant_loss_is_one_over_twice_the_loss(kind: str, loss: float) -> None:
    weighting = make_weighting("uncertainty", tasks_of({kind: 1.0}))
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weighting({kind: torch.tensor(loss)})[kind].backward()
        optimizer.step()
    assert weighting.factors()[kind] == pytest.approx(1 / (2 * loss), rel=1e-3)


def test_the_two_forms_are_those_of_the_paper() -> None:
    weighting = make_weighting("uncertainty", tasks_of({"regression": 0.25, "retrieval": 0.25}))
    weighted = weighting({"regression": torch.tensor(3.0), "retrieval": torch.tensor(3.0)})
    # 1 / (2 σ²) = 0.25 is σ² = 2; 1 / σ² = 0.25 is σ² = 4; log σ is added.
    assert weighted["regression"].item() == pytest.approx(3 / (2 * 2) + math.log(2) / 2)
    assert weighted["retrieval"].item() == pytest.approx(3 / 4 + math.log(2))


def test_a_task_that_a_step_lacks_gets_no_gradient() -> None:
    weighting = make_weighting("uncertainty", tasks_of({"regression": 1.0, "retrieval": 1.0}))
    weighting({"retrieval": torch.tensor(3.0)})["retrieval"].backward()
    gradients = {name.rsplit(".", 1)[1]: value.grad for name, value in weighting.named_parameters()}
    weighting.average_gradients()
    assert gradients["regression"] is None
    assert float(gradients["retrieval"]) == pytest.approx(-3 + 0.5)


def test_learned_weights_travel_through_safetensors(tmp_path: Path) -> None:
    tasks = tasks_of({"regression": 1.0, "retrieval": 2.0})
    learned = make_weighting("uncertainty", tasks)
    with torch.no_grad():
        for value in learned.parameters():
            value += torch.randn(())
    save_file(learned.state_dict(), tmp_path / "weights.safetensors")
    again = make_weighting("uncertainty", tasks)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert again.factors() == learned.factors()
    with pytest.raises(RuntimeError, match="log_variances.retrieval"):
        make_weighting("uncertainty", tasks_of({"regression": 1.0})).load_state_dict(learned.state_dict())
    assert not make_weighting("fixed", tasks).state_dict()


def test_what_cannot_be_learned_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Task 'regression': loss_weight=0 is no weight to begin learning at"):
        make_weighting("uncertainty", tasks_of({"retrieval": 1.0, "regression": 0.0}))
    with pytest.raises(ValueError, match="no weighting 'fix'; use one of fixed, uncertainty"):
        make_weighting("fix", tasks_of({"retrieval": 1.0}))
