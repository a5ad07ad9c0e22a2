"""The paper's recipes: what they start from, what they pass on, and the folders they are saved in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.configuration import ParameterGroups
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import (
    METRICS,
    MultitaskTrainer,
    TrainingSettings,
    build_config,
    build_model,
    encode_suite,
    few_shot,
    finetune,
    metric_names,
    pretrain,
    save_model_folder,
    single_task,
    train_model,
    transfer,
    with_retrieval,
)

SHORT = TrainingSettings(num_epochs=1, learning_rate=1e-2, weight_decay=0.0)
GROUPS = ParameterGroups(
    {"shapes/spectrum": 0, "shapes/table": 1, "arm/series": 1, "arm/table": 0, "tone/spectrum": 0},
    {"shapes/spectrum+table": 0, "arm/series+table": 1},
)


def test_a_config_takes_weights_and_sizes_from_the_suite(suite: Suite, processor: HighMMTProcessor) -> None:
    config = build_config(suite, processor, hidden_dropout_prob=0.25, d_latents=6)
    assert {name: (task.loss_weight, task.evaluation_weight) for name, task in config.tasks.items()} == {
        "shapes": (1.0, 1.0),
        "arm": (0.5, 0.25),
        "tone": (1.0, 1.0),
    }
    assert (config.num_latents, config.d_latents, config.hidden_dropout_prob) == (3, 6, 0.25)
    assert [task.num_labels for task in config.tasks.values()] == [3, 2, 2]


def test_a_config_of_some_tasks_has_their_modalities_only(suite: Suite, processor: HighMMTProcessor) -> None:
    config = build_config(suite, processor, ["tone"])
    assert (list(config.tasks), list(config.modalities)) == (["tone"], ["spectrum"])
    with pytest.raises(ValueError, match="no task 'tones'; did you mean 'tone'"):
        build_config(suite, processor, ["tones"])


def test_new_weights_depend_on_the_seed_and_leave_the_callers_random_numbers_alone(
    suite: Suite, processor: HighMMTProcessor
) -> None:
    config = build_config(suite, processor)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = build_model(config, seed=0)
    assert torch.equal(torch.rand(2), expected)
    again, other = build_model(config, seed=0).state_dict(), build_model(config, seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.unimodal_groups[0].latents, other["unimodal_groups.0.latents"])


def test_a_loss_weight_of_zero_takes_a_task_out_of_the_training(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    silent = dataclasses.replace(
        suite, tasks={**suite.tasks, "tone": dataclasses.replace(suite.tasks["tone"], loss_weight=0.0)}
    )
    model, result, _ = pretrain(silent, processor, data, SHORT)
    fresh = build_model(build_config(silent, processor), SHORT.seed)
    assert result.history[0].train_loss["tone"] > 0
    assert torch.equal(model.heads["tone"].classifier.weight, fresh.heads["tone"].classifier.weight)
    assert not torch.equal(model.heads["arm"].classifier.weight, fresh.heads["arm"].classifier.weight)


def test_batch_sizes_come_from_the_suite_unless_the_settings_name_the_task(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    settings = dataclasses.replace(SHORT, batch_sizes={"shapes": 12})
    _, result, test = pretrain(suite, processor, data, settings)
    assert result.gradient_steps == {"shapes": 2, "arm": 3, "tone": 2}
    assert list(test) == ["shapes", "arm", "tone"]
    with pytest.raises(ValueError, match="no task 'shape'; did you mean 'shapes'"):
        pretrain(suite, processor, data, dataclasses.replace(SHORT, batch_sizes={"shape": 12}))


def test_test_scores_are_those_of_the_model_that_is_returned(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    model, _, test = pretrain(suite, processor, data, SHORT)
    values = MultitaskTrainer(model, processor, data, metric_names(suite), SHORT).evaluate("test")
    assert test == {task: values[task][suite.task(task).metric] for task in suite.tasks}


def test_fine_tuning_in_groups_starts_at_the_pretrained_models_outputs(
    still_suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    shared, _, scores = pretrain(still_suite, processor, data, SHORT)
    model, result, test = finetune(
        shared, GROUPS, still_suite, processor, data, dataclasses.replace(SHORT, learning_rate=0.0)
    )
    assert test == pytest.approx(scores)
    trainers = [MultitaskTrainer(one, processor, data, metric_names(still_suite), SHORT) for one in (shared, model)]
    for task in still_suite.tasks:
        before, after = (trainer.predict(task, "test")[0] for trainer in trainers)
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)
    assert len(result.history) == 1


def test_fine_tuning_in_groups_trains_the_clones_apart_and_the_shared_model_not_at_all(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    shared = build_model(build_config(suite, processor), seed=0)
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    model, _, _ = finetune(shared, GROUPS, suite, processor, data, SHORT)
    assert model.config.groups() == GROUPS
    assert not torch.equal(model.unimodal_groups[0].latents, model.unimodal_groups[1].latents)
    for first, second in zip(*(group.parameters() for group in model.crossmodal_groups), strict=True):
        assert first.data_ptr() != second.data_ptr()
    assert all(torch.equal(value, shared.state_dict()[name]) for name, value in before.items())


def test_share_none_goes_through_the_same_phases(suite: Suite, processor: HighMMTProcessor, data: dict) -> None:
    phases = [SHORT, dataclasses.replace(SHORT, num_epochs=2, learning_rate=3e-3)]
    model, results, test = single_task("arm", suite, processor, data, phases)
    assert (list(model.config.tasks), list(test)) == (["arm"], ["arm"])
    assert [len(result.history) for result in results] == [1, 2]
    by_hand = build_model(build_config(suite, processor, ["arm"]), SHORT.seed)
    for phase, result in zip(phases, results, strict=True):
        found, expected = train_model(by_hand, suite, processor, data, phase, "")
        assert found == result
    assert test == expected
    with pytest.raises(ValueError, match="Task 'arm': single_task needs at least one phase"):
        single_task("arm", suite, processor, data, [])


def test_transfer_trains_the_sources_without_the_target_and_then_the_target_alone(
    suite: Suite, processor: HighMMTProcessor, data: dict
) -> None:
    # What the sources' phase leaves, from a second phase that moves nothing.
    still = dataclasses.replace(SHORT, learning_rate=0.0)
    model, results, _ = transfer("arm", suite, processor, data, (SHORT, still))
    fresh = build_model(build_config(suite, processor), SHORT.seed)
    by_hand = build_model(build_config(suite, processor), SHORT.seed)
    expected, _ = train_model(by_hand, suite, processor, data, SHORT, "", tasks=["shapes", "tone"])
    assert results[0] == expected
    assert torch.equal(model.unimodal_groups[0].latents, by_hand.unimodal_groups[0].latents)
    assert torch.equal(model.heads["arm"].classifier.weight, fresh.heads["arm"].classifier.weight)
    model, results, test = transfer("arm", suite, processor, data, (SHORT, SHORT))
    assert [set(result.history[0].train_loss) for result in results] == [{"shapes", "tone"}, {"arm"}]
    assert list(test) == ["arm"]
    for task in ("shapes", "tone"):
        assert torch.equal(model.heads[task].classifier.weight, by_hand.heads[task].classifier.weight)
    assert not torch.equal(model.heads["arm"].classifier.weight, fresh.heads["arm"].classifier.weight)
    with pytest.raises(ValueError, match="no task 'arms'; did you mean 'arm'"):
        transfer("arms", suite, processor, data, (SHORT, SHORT))
    with pytest.raises(ValueError, match="has 'tone' alone"):
        transfer("tone", suite.select(["tone"]), processor, data, (SHORT, SHORT))


def test_a_larger_share_of_few_shot_has_the_rows_of_a_smaller_one(
    suite: Suite, processor: HighMMTProcessor, data: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict] = []

    def keep(model: object, suite: Suite, processor: object, data: dict, *rest: object) -> tuple:
        seen.append(data)
        return None, {task: 0.0 for task in suite.tasks}

    monkeypatch.setattr("highmmt.train.recipes.train_model", keep)
    for share in (0.05, 0.25, 0.5, 1.0):
        few_shot("shapes", share, suite, processor, data, SHORT)
    rows = [set(few["shapes"]["train"]["row"]) for few in seen]
    assert [len(part) for part in rows] == [2, 6, 12, 24]
    assert rows[0] < rows[1] < rows[2] < rows[3]
    assert all(few["arm"] == data["arm"] and few["shapes"]["test"] is data["shapes"]["test"] for few in seen)
    few_shot("shapes", 0.25, suite, processor, data, dataclasses.replace(SHORT, seed=1))
    assert set(seen[-1]["shapes"]["train"]["row"]) != rows[1]


def test_few_shot_keeps_what_is_best_for_the_target(suite: Suite, processor: HighMMTProcessor, data: dict) -> None:
    settings = dataclasses.replace(SHORT, num_epochs=3)
    model, result, test = few_shot("tone", 0.5, suite, processor, data, settings, target_weight=3.0)
    assert [record.score for record in result.history] == [
        record.validation["tone"]["macro_f1"] for record in result.history
    ]
    assert {name: task.loss_weight for name, task in model.config.tasks.items()} == {
        "shapes": 1.0,
        "arm": 0.5,
        "tone": 3.0,
    }
    assert list(test) == ["tone"] and result.gradient_steps["shapes"] == 18
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share="):
            few_shot("tone", share, suite, processor, data, settings)
    with pytest.raises(ValueError, match="target_weight="):
        few_shot("tone", 0.5, suite, processor, data, settings, target_weight=0.0)


def test_retrieval_stands_next_to_fusion_in_one_model(suite: Suite) -> None:
    pairs = with_retrieval(suite)
    assert list(pairs.tasks) == ["shapes", "shapes-retrieval", "arm", "arm-retrieval", "tone"]
    assert list(pairs.task("arm-retrieval").modalities) == ["series", "table"]
    assert with_retrieval(pairs) is pairs
    processor = pairs.build_processor()
    model, result, test = pretrain(pairs, processor, encode_suite(pairs, processor), SHORT)
    assert set(test) == set(pairs.tasks)
    assert 0.0 <= test["shapes-retrieval"] <= 1.0 and METRICS["recall_at_10"].higher_is_better
    assert result.gradient_steps["shapes-retrieval"] == result.gradient_steps["shapes"] > 0
    assert {task.problem_type for task in model.config.tasks.values()} >= {"retrieval", "regression"}
    with pytest.raises(ValueError, match="has no task of two modalities"):
        with_retrieval(suite.select(["tone"]))
    with pytest.raises(ValueError, match="has retrievals alone"):
        with_retrieval(pairs.select(["shapes-retrieval"]))


def test_a_saved_folder_predicts_the_same(
    suite: Suite, processor: HighMMTProcessor, data: dict, tmp_path: Path
) -> None:
    model = build_model(build_config(suite, processor), seed=0).eval()
    folder = save_model_folder(tmp_path / "new" / "model", model, processor, "# Card", {"notes.txt": "ß"})
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Card"
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "ß"
    loaded, reader = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    rows = data["arm"]["test"].with_format("arrow")[:]
    batches = [one.collate("arm", rows) for one in (processor, reader)]
    for batch in batches:
        del batch["row"]
    with torch.no_grad():
        assert torch.equal(model(**batches[0]).logits["arm"], loaded(**batches[1]).logits["arm"])


def test_a_save_that_fails_midway_leaves_the_old_folder_and_nothing_else(
    suite: Suite, processor: HighMMTProcessor, tmp_path: Path
) -> None:
    models = [build_model(build_config(suite, processor), seed=seed) for seed in (0, 1)]
    folder = save_model_folder(tmp_path / "model", models[0], processor, "old")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FileNotFoundError):
        save_model_folder(folder, models[1], processor, "new", {"no/such/folder.txt": ""})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    save_model_folder(folder, models[1], processor, "new")
    assert (folder / "README.md").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
