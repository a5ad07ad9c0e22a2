"""Heads and losses of sequence targets and of retrieval: values worked out on paper, what is left out, learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from highmmt.configuration import HighMMTConfig, TaskConfig
from highmmt.modeling_highmmt import BatchNorm, HighMMTModel, complete_pairs, task_loss
from highmmt.modeling_highmmt.heads import retrieval_loss

pytestmark = pytest.mark.usefixtures("one_thread")


TASKS = {
    "find": {"modalities": ["image", "sound"], "problem_type": "retrieval", "num_labels": 6},
    "place": {"modalities": ["image"], "problem_type": "regression", "num_labels": 2, "num_steps": 4},
    "phase": {"modalities": ["sound", "image"], "num_labels": 3, "num_steps": 2},
    "flags": {"modalities": ["sound"], "problem_type": "multi_label_classification", "num_labels": 2, "num_steps": 3},
    "kind": {"modalities": ["image", "sound"], "num_labels": 3},
}
SIZES = {"find": 5, "place": 3, "phase": 2, "flags": 2, "kind": 2}


def tiny_model(seed: int = 0, **changes: object) -> HighMMTModel:
    torch.manual_seed(seed)
    values = {
        "modalities": {
            "image": {"num_channels": 3, "num_axes": 2, "num_frequency_bands": 2},
            "sound": {"num_channels": 5, "num_frequency_bands": 2},
        },
        "tasks": TASKS,
        "num_latents": 3,
        "d_latents": 8,
        "num_crossmodal_attention_heads": 2,
        "num_self_attention_heads": 2,
        "cross_attention_head_dim": 4,
        "self_attention_head_dim": 4,
        "head_norm": "layer_norm",
    }
    return HighMMTModel(HighMMTConfig(**{**values, **changes})).eval()


def batch(*tasks: str, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"image": (2, 3, 3), "sound": (4, 5)}
    return {
        task: {
            name: torch.randn(SIZES[task], *shapes[name], generator=generator) for name in TASKS[task]["modalities"]
        }
        for task in tasks
    }


LABELS = {
    "find": torch.tensor([7, 3, 3, 11, 0]),
    "place": torch.zeros(3, 4, 2),
    "phase": torch.tensor([[0, 2], [1, -100]]),
    "flags": torch.ones(2, 3, 2),
    "kind": torch.tensor([0, 2]),
}


# Retrieval: the loss


def test_equal_similarities_cost_the_logarithm_of_the_number_of_pairs() -> None:
    assert retrieval_loss(torch.zeros(8, 8), torch.arange(8)).item() == pytest.approx(math.log(8))
    # Whatever the scale, and however many pairs are of the same item.
    assert retrieval_loss(torch.full((6, 6), 100.0), torch.tensor([0, 0, 1, 2, 3, 3])).item() == pytest.approx(
        math.log(6)
    )


def test_perfect_alignment_at_the_largest_scale_costs_nothing() -> None:
    assert retrieval_loss(100 * torch.eye(5), torch.arange(5)).item() < 1e-6
    # The same with everything turned round: each row 100 below its wrong partners, log(4 e^100 + 1) - 0.
    assert retrieval_loss(-100 * torch.eye(5), torch.arange(5)).item() == pytest.approx(100 + math.log(4), rel=1e-4)


def test_the_two_directions_have_half_of_the_loss_each() -> None:
    # Rows: log(1 + 3) - log 3 and log 2; columns: log(3 + 1) - log 3 and log 2.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    rows = columns = (math.log(4 / 3) + math.log(2)) / 2
    assert retrieval_loss(logits, torch.tensor([4, 9])).item() == pytest.approx((rows + columns) / 2)
    # Unequal directions: rows cost log 4 - log 3 and log 2, columns log 3.5 - log 3 and log 1.5.
    logits = torch.tensor([[math.log(3), 0.0], [math.log(0.5), math.log(0.5)]])
    rows = (math.log(4 / 3) + math.log(2)) / 2
    columns = (math.log(3.5 / 3) + math.log(1.5 / 0.5)) / 2
    assert retrieval_loss(logits, torch.tensor([4, 9])).item() == pytest.approx((rows + columns) / 2)


def test_rows_of_the_same_item_are_partners_of_each_other() -> None:
    # Of three columns two are right; the best that a row can do is to give each of them half.
    same = torch.tensor([[20.0, 20.0, 0.0], [20.0, 20.0, 0.0], [0.0, 0.0, 20.0]])
    items = torch.tensor([5, 5, 8])
    assert retrieval_loss(same, items).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-6)
    assert retrieval_loss(same, torch.tensor([5, 6, 8])).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-6)
    own_only = 20 * torch.eye(3)
    assert retrieval_loss(own_only, items) > retrieval_loss(same, items) + 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 6), left_out=st.integers(0, 3))
def test_a_pair_without_an_item_is_left_out_as_a_query_and_as_a_candidate(seed: int, size: int, left_out: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 10 * torch.randn(size + left_out, size + left_out, generator=generator)
    items = torch.randint(0, 3, (size + left_out,), generator=generator)
    items[torch.randperm(size + left_out, generator=generator)[:left_out]] = -100
    kept = items != -100
    torch.testing.assert_close(retrieval_loss(logits, items), retrieval_loss(logits[kept][:, kept], items[kept]))


def test_a_batch_without_any_item_adds_zero_and_keeps_the_head_in_the_graph() -> None:
    model = tiny_model()
    losses = model(inputs=batch("find"), labels={"find": torch.full((5,), -100)}).losses
    assert losses["find"].item() == 0
    losses["find"].backward()
    for name, parameter in model.heads["find"].named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.eq(0).all(), name


# Retrieval: the model


def test_embeddings_have_length_one_and_logits_are_their_scaled_cosines() -> None:
    output = tiny_model()(inputs=batch("find"), labels={"find": LABELS["find"]})
    first, second = output.multimodal_states["find"].split(6, dim=1)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(second.norm(dim=1), torch.ones(5))
    cosines = torch.nn.functional.cosine_similarity(first[:, None], second[None, :], dim=2)
    torch.testing.assert_close(output.logits["find"], cosines / 0.07)
    torch.testing.assert_close(output.losses["find"], retrieval_loss(cosines / 0.07, LABELS["find"]))


def test_the_scale_is_learned_and_never_above_a_hundred() -> None:
    model = tiny_model()
    head = model.heads["find"]
    model(inputs=batch("find"), labels={"find": LABELS["find"]}).loss.backward()
    assert head.log_scale.grad.abs() > 0
    ones = torch.ones(1, 2)
    with torch.no_grad():
        assert head(ones).item() == pytest.approx(1 / 0.07)
        head.log_scale.fill_(9.0)
        assert head(ones).item() == pytest.approx(100)


def test_a_scale_that_no_file_holds_starts_as_in_a_new_model(tmp_path: Path) -> None:
    tiny_model(tasks={"find": TASKS["find"]}).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["heads.find.log_scale"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = HighMMTModel.from_pretrained(tmp_path)
    assert loaded.heads["find"].log_scale.exp().item() == pytest.approx(1 / 0.07)


def test_each_modality_is_embedded_by_itself() -> None:
    """A gallery can be encoded in batches: no row and no other modality has a say."""
    model, inputs = tiny_model(), batch("find")
    together = model(inputs=inputs).multimodal_states["find"]
    alone = [
        model(inputs={"find": {name: values[row : row + 1] for name, values in inputs["find"].items()}})
        for row in range(5)
    ]
    torch.testing.assert_close(together, torch.cat([output.multimodal_states["find"] for output in alone]))
    images = model(inputs={"find": {"image": inputs["find"]["image"]}}).multimodal_states["find"]
    torch.testing.assert_close(images[:, :6], together[:, :6])
    assert images[:, 6:].eq(0).all()


def test_samples_that_lack_a_modality_are_left_out_of_the_loss() -> None:
    model, inputs = tiny_model(), batch("find")
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[1] = mask[4] = False
    output = model(inputs=inputs, attention_mask={"find": {"sound": mask}}, labels={"find": LABELS["find"]})
    kept = [0, 2, 3]
    fewer = {"find": {name: values[kept] for name, values in inputs["find"].items()}}
    expected = model(inputs=fewer, labels={"find": LABELS["find"][kept]}).losses["find"]
    torch.testing.assert_close(output.losses["find"], expected)
    assert complete_pairs(output.multimodal_states["find"]).tolist() == [True, False, True, True, False]


def test_a_retrieval_fuses_nothing_but_uses_unimodal_groups() -> None:
    model = tiny_model(tasks={"find": TASKS["find"]})
    assert model.config.interactions() == []
    assert model.config.modality_task_pairs() == ["find/image", "find/sound"]
    assert len(model.crossmodal_groups) == 0
    split = model.split_parameter_groups({"unimodal": {"find/image": 0, "find/sound": 1}, "crossmodal": {}})
    inputs = batch("find")
    before = model(inputs=inputs).logits["find"]
    torch.testing.assert_close(split(inputs=inputs).logits["find"], before)
    with torch.no_grad():
        split.unimodal_groups[1].latents.neg_()
    states, old = split(inputs=inputs).multimodal_states["find"], model(inputs=inputs).multimodal_states["find"]
    torch.testing.assert_close(states[:, :6], old[:, :6])
    assert not torch.allclose(states[:, 6:], old[:, 6:])
    # Beside a task that fuses, the crossmodal transformer is that task's alone.
    both = tiny_model()
    assert [node.split("/")[0] for node in both.config.interactions()] == ["phase", "kind"]
    both(inputs=batch("find"), labels={"find": LABELS["find"]}).loss.backward()
    assert all(parameter.grad is None for parameter in both.crossmodal_groups.parameters())
    assert any(parameter.grad is not None for parameter in both.unimodal_groups.parameters())


def test_a_model_without_crossmodal_part_embeds_the_same() -> None:
    with_part, without = tiny_model(), tiny_model(use_crossmodal=False)
    state = {
        name: value for name, value in with_part.state_dict().items() if name.startswith(("unimodal", "heads.find"))
    }
    without.load_state_dict(state, strict=False)
    torch.testing.assert_close(without(inputs=batch("find")).logits, with_part(inputs=batch("find")).logits)


def test_a_retrieval_needs_the_unimodal_encoder() -> None:
    with pytest.raises(ValueError, match="Task 'find': a retrieval compares what the unimodal encoder makes"):
        tiny_model(tasks={name: TASKS[name] for name in ("find", "kind")}, use_unimodal_encoder=False)


def test_hiding_modalities_hides_none_of_a_pair() -> None:
    model = tiny_model(modality_dropout=0.5).train()
    states = [model(inputs=batch("find", "kind")).multimodal_states for _ in range(8)]
    assert all(complete_pairs(state["find"]).all() for state in states)
    assert any((state["kind"] == 0).any() for state in states)  # of a task that fuses it does


@pytest.mark.parametrize("task", list(TASKS))
def test_every_parameter_has_a_gradient_in_a_training_step_of_any_task(task: str) -> None:
    model = tiny_model().train()
    model(inputs=batch(task), labels={task: LABELS[task]}).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("head_norm", ["batch_norm", "layer_norm"])
def test_a_retrieval_learns_planted_pairs(head_norm: str) -> None:
    """Image and sound of a pair show the same hidden vector; 64 new pairs are found again far above chance."""
    torch.manual_seed(0)
    model = tiny_model(tasks={"find": TASKS["find"]}, head_norm=head_norm).train()
    views = torch.randn(4, 3), torch.randn(4, 5)

    def pairs(count: int) -> dict[str, dict[str, Tensor]]:
        hidden = torch.randn(count, 4)
        image, sound = ((hidden @ view)[:, None] + 0.05 * torch.randn(count, 2, view.shape[1]) for view in views)
        return {"find": {"image": image[:, None], "sound": sound}}

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = model(inputs=pairs(32), labels={"find": torch.arange(32)}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        output = model.eval()(inputs=pairs(64), labels={"find": torch.arange(64)})
    found = (output.logits["find"].argmax(dim=1) == torch.arange(64)).float().mean()
    assert found > 0.5  # chance: 1 in 64
    assert output.losses["find"] < 0.5 * math.log(64)


# Sequences of targets


def test_a_sequence_has_one_prediction_for_each_step() -> None:
    tasks = ("place", "phase", "flags")
    output = tiny_model()(inputs=batch(*tasks), labels={task: LABELS[task] for task in tasks})
    assert {task: tuple(logits.shape) for task, logits in output.logits.items()} == {
        "place": (3, 4, 2),
        "phase": (2, 2, 3),
        "flags": (2, 3, 2),
    }
    logits = output.logits["phase"].log_softmax(-1)
    expected = -(logits[0, 0, 0] + logits[0, 1, 2] + logits[1, 0, 1]) / 3  # the fourth step has no label
    torch.testing.assert_close(output.losses["phase"], expected)
    torch.testing.assert_close(output.losses["place"], output.logits["place"].square().mean())
    # An output of its own for each step, not one repeated.
    assert not torch.allclose(output.logits["place"][:, 0], output.logits["place"][:, 1])


def test_steps_of_zeros_cost_the_logarithm_of_their_classes() -> None:
    model = tiny_model()
    with torch.no_grad():
        for task in ("phase", "flags"):
            for parameter in model.heads[task].classifier.parameters():
                parameter.zero_()
    labels = {task: LABELS[task] for task in ("phase", "flags")}
    losses = model(inputs=batch("phase", "flags"), labels=labels).losses
    assert losses["phase"].item() == pytest.approx(math.log(3))
    assert losses["flags"].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("task", ["place", "phase", "flags"])
def test_padded_steps_add_nothing_and_a_batch_without_labels_adds_zero(task: str) -> None:
    description = TaskConfig(**TASKS[task])
    steps = description.num_steps
    logits = torch.randn(3, steps, description.num_labels, requires_grad=True)
    labels = torch.zeros(3, steps, dtype=torch.long) if task == "phase" else torch.zeros(3, steps, logits.shape[-1])
    missing = -100 if task == "phase" else math.nan
    labels[0, 1:] = missing
    labels[2] = missing
    kept = torch.tensor([[True] + [False] * (steps - 1), [True] * steps, [False] * steps])
    flat = TaskConfig(**{**TASKS[task], "num_steps": None})
    torch.testing.assert_close(
        task_loss(task, description, logits, labels), task_loss(task, flat, logits[kept], labels[kept])
    )
    nothing = task_loss(task, description, logits, torch.full_like(labels, missing))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.eq(0).all()


# Both


def test_all_problem_types_train_side_by_side_and_survive_saving(tmp_path: Path) -> None:
    model = tiny_model()
    output = model(inputs=batch(*TASKS), labels=LABELS)
    torch.testing.assert_close(output.loss, sum(output.losses.values()))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.heads.parameters())
    with torch.no_grad():
        model.heads["find"].log_scale.fill_(1.25)
    model.save_pretrained(tmp_path)
    loaded = HighMMTModel.from_pretrained(tmp_path)
    assert loaded.config.tasks == model.config.tasks
    again = loaded(inputs=batch(*TASKS)).logits
    torch.testing.assert_close(again, model(inputs=batch(*TASKS)).logits)


def test_half_precision_keeps_similarities_exact() -> None:
    model = tiny_model()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs=batch("find"))
    first, second = output.multimodal_states["find"].split(6, dim=1)
    assert output.logits["find"].dtype == torch.float32
    torch.testing.assert_close(output.logits["find"], first @ second.T / 0.07)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("find", torch.zeros(4, dtype=torch.long), r"Task 'find': labels have shape \(4,\), expected \(5,\)"),
        ("find", torch.zeros(5), "Task 'find', labels: expected whole numbers"),
        ("phase", torch.zeros(2, dtype=torch.long), r"Task 'phase': labels have shape \(2,\), expected \(2, 2\)"),
        ("phase", torch.full((2, 2), 3), "Task 'phase': label 3 is not a class from 0 to 2"),
        ("place", torch.zeros(3, 2), r"Task 'place': labels have shape \(3, 2\), expected \(3, 4, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_name(task: str, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model()(inputs=batch(task), labels={task: labels})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": ["image"]}, "Task 'find': a retrieval finds one modality by another, so it has exactly two"),
        ({"num_steps": 3}, "Task 'find': num_steps is not for a retrieval"),
        ({"id2label": {index: str(index) for index in range(6)}}, "Task 'find': id2label is not for a retrieval"),
        ({"num_labels": 1}, "Task 'find': num_labels=1 must be a whole number from 2"),
        ({"problem_type": "regression", "num_steps": 0}, "Task 'find': num_steps=0 must be a whole number from 1"),
    ],
)
def test_impossible_tasks_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(tasks={"find": {**TASKS["find"], **changes}})


def test_a_batch_norm_is_torchs_and_keeps_the_digits_of_columns_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    near_zero, direction = (torch.randn(6, 5, generator=generator) for _ in range(2))
    for states, dtype in ((near_zero, torch.float32), (1000 + near_zero, torch.float32), (near_zero, torch.float64)):
        norm, reference = BatchNorm(5).to(dtype), torch.nn.BatchNorm1d(5).double()
        ours, theirs = (states.to(kind).clone().requires_grad_() for kind in (dtype, torch.float64))
        for _ in range(2):
            normed, expected = norm(ours), reference(theirs)
        torch.testing.assert_close(normed.double(), expected, rtol=1e-5, atol=1e-5)
        for result in (normed, expected):
            (result * direction.to(result.dtype)).sum().backward()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)
        assert list(norm.state_dict()) == list(reference.state_dict())
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name].to(value.dtype), value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.eval()(ours).double(), reference.eval()(theirs), rtol=1e-4, atol=1e-4)
