"""The study of a suite: stages, seeds, suites with little to compare, settings."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from highmmt import load_suite, run_study
from highmmt.analysis import Study, StudySettings, select_tasks
from highmmt.configuration import ParameterGroups
from highmmt.heterogeneity import HeterogeneitySettings
from highmmt.suites import Suite
from highmmt.suites.schema import HETEROGENEITY_KEYS


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """Helpers of the tiny suite, which the tests of the command line use too."""
    path = Path(__file__).parents[1] / "command_line" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def suite(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return load_suite(tiny.write_suite_with_rows(tmp_path_factory.mktemp("suite")))


@pytest.fixture(scope="module")
def two_seeds(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a quick study with two seeds; read only."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    run_study(suite, folder, quick=True, num_seeds=2)
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_every_stage_does_its_work_once(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import highmmt.analysis.grouping as grouping
    import highmmt.analysis.study as study

    calls: list[str] = []
    for name in ("measure_heterogeneity", "cluster_parameter_groups", "pretrain", "finetune", "single_task"):
        module = grouping if name == "cluster_parameter_groups" else study
        work = getattr(module, name)

        def counted(*arguments: Any, work: Any = work, name: str = name, **options: Any) -> Any:
            calls.append(name)
            return work(*arguments, **options)

        monkeypatch.setattr(module, name, counted)
    settings = StudySettings.for_suite(suite, quick=True)
    stages: list[str] = []
    report = Study(suite, tmp_path / "run", settings).run(stages.append)
    assert stages == ["heterogeneity", "groups", "training", "report"]
    expected = ["measure_heterogeneity"] * 2 + ["cluster_parameter_groups", "pretrain"]
    expected += ["finetune"] * 3 + ["single_task"] * 3
    assert calls == expected
    again = Study(suite, tmp_path / "run", settings)
    assert again.run() == report
    assert calls == expected
    # What is deleted is made again, and nothing else.
    before = metrics_of(tmp_path / "run")
    (tmp_path / "run" / "methods" / "share_none-walk-seed0.json").unlink()
    (tmp_path / "run" / "heterogeneity" / "interaction.json").unlink()
    again.run()
    assert calls[len(expected) :] == ["measure_heterogeneity", "single_task"]
    after = metrics_of(tmp_path / "run")
    for metrics in (before, after):
        del metrics["timings"]
    assert before == after


def test_several_seeds_give_mean_and_sample_deviation(two_seeds: Path) -> None:
    metrics = metrics_of(two_seeds)
    assert metrics["seeds"] == [0, 1]
    for method in metrics["methods"].values():
        scores = np.array([method["scores"][task] for task in metrics["metric"]])
        assert scores.shape == (3, 2)
        np.testing.assert_allclose(list(method["mean"].values()), scores.mean(axis=1))
        np.testing.assert_allclose(list(method["std"].values()), scores.std(axis=1, ddof=1))
        assert method["average"] == pytest.approx(scores.mean(axis=0).mean())
        assert method["average_std"] == pytest.approx(scores.mean(axis=0).std(ddof=1))
    assert (two_seeds / "seeds" / "1" / "pretrained" / "model.safetensors").exists()
    texts = [(two_seeds / "methods" / f"pretrained-seed{seed}.json").read_text() for seed in (0, 1)]
    assert json.loads(texts[0])["course"] != json.loads(texts[1])["course"]


def test_models_are_kept_with_their_seed_and_lead_to_the_report(two_seeds: Path) -> None:
    for folder, seed in (("pretrained", 0), ("finetuned", 0), ("seeds/1/pretrained", 1)):
        card = ModelCard.load(two_seeds / folder / "README.md").content
        assert f"Seed {seed};" in card
        assert "with 2 seeds" in card
        target = card.split("[report](")[1].split(")")[0]
        assert (two_seeds / folder / target).resolve() == (two_seeds / "report.html").resolve()


def test_alternatives_have_the_parameters_their_names_say(two_seeds: Path) -> None:
    methods = metrics_of(two_seeds)["methods"]
    parts = {name: method["components"] for name, method in methods.items()}
    groups = ParameterGroups.from_json_file(two_seeds / "parameter_groups.json")
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == (2, 2)
    assert parts["highmmt"]["unimodal"] == 2 * parts["share_all"]["unimodal"]
    assert parts["highmmt"]["crossmodal"] == 2 * parts["share_all"]["crossmodal"]
    assert parts["random"] == parts["highmmt"]
    # One encoder for each of three tasks; one crossmodal transformer for each of the two that have an interaction.
    assert parts["share_none"]["unimodal"] <= 3 * parts["share_all"]["unimodal"]
    assert parts["share_none"]["heads"] == parts["share_all"]["heads"]
    for method in methods.values():
        assert method["num_parameters"] == sum(method["components"].values())


@pytest.mark.parametrize(
    ("tasks", "pairs", "interactions"),
    [(["tones"], 1, 0), (["signs"], 2, 1)],
    ids=["one modality-task pair", "one task"],
)
def test_suites_with_little_to_compare_have_a_report(
    suite: Suite, tmp_path: Path, caplog: pytest.LogCaptureFixture, tasks: list[str], pairs: int, interactions: int
) -> None:
    part = select_tasks(suite, tasks)
    with caplog.at_level(logging.WARNING, "highmmt"):
        metrics = run_study(part, tmp_path / "run", quick=True)
    groups = ParameterGroups.from_json_file(tmp_path / "run" / "parameter_groups.json")
    assert (len(groups.unimodal), len(groups.crossmodal)) == (pairs, interactions)
    said = [record.getMessage() for record in caplog.records]
    nothing = ["Suite 'tiny' has one modality-task pair, so there is nothing to group."]
    assert said == (nothing if pairs == 1 else [])
    assert list(metrics["methods"]) == ["share_none", "share_all", "random", "highmmt"]
    assert "</html>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for kind, size in (("unimodal", pairs), ("interaction", interactions)):
        matrix = json.loads((tmp_path / "run" / "heterogeneity" / f"{kind}.json").read_text(encoding="utf-8"))
        assert np.shape(matrix["values"]) == ((size, size) if size else (0,))


def test_a_suite_of_single_modalities_has_no_crossmodal_groups(tiny: ModuleType, tmp_path: Path) -> None:
    changes = {
        "tasks.signs.modalities.table": None,
        "tasks.walk.modalities.remark": None,
        "modalities.table": None,
        "modalities.remark": None,
        "training.num_crossmodal_groups": None,
    }
    alone = load_suite(tiny.write_suite_with_rows(tmp_path / "rows", changes))
    metrics = run_study(alone, tmp_path / "run", quick=True)
    groups = ParameterGroups.from_json_file(tmp_path / "run" / "parameter_groups.json")
    assert (groups.num_unimodal_groups, groups.num_crossmodal_groups) == (2, 0)
    assert metrics["methods"]["highmmt"]["components"]["crossmodal"] == 0
    assert "</html>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"num_unimodal_groups": 6},
            r"'tiny'.*num_unimodal_groups is 6.*5 modality-task pairs.*leave",
        ),
        ({"num_crossmodal_groups": 3}, r"num_crossmodal_groups is 3.*2 interactions"),
        ({"k": 8}, r"'tiny'.*k is 8.*5 modality-task pairs and 2 interactions can have 2 to 7"),
    ],
)
def test_more_groups_than_members_are_refused_before_anything_is_made(
    suite: Suite, tmp_path: Path, training: dict[str, int], message: str
) -> None:
    greedy = dataclasses.replace(suite, training=training)
    with pytest.raises(ValueError, match=message):
        run_study(greedy, tmp_path / "run", quick=True)
    assert not list(tmp_path.iterdir())


def test_some_of_the_tasks_have_their_own_number_of_groups_chosen(suite: Suite) -> None:
    settings = StudySettings.for_suite(suite)
    assert (settings.num_unimodal_groups, settings.num_crossmodal_groups) == (2, 2)
    settings = StudySettings.for_suite(select_tasks(suite, ["tones", "walk", "signs"]))
    assert (settings.num_unimodal_groups, settings.num_crossmodal_groups) == (2, 2)
    settings = StudySettings.for_suite(select_tasks(suite, ["tones", "walk"]))
    assert (settings.num_unimodal_groups, settings.num_crossmodal_groups) == (None, None)
    assert settings.pretraining == StudySettings.for_suite(suite).pretraining


def test_settings_come_from_the_suite_and_quick_cuts_all_that_takes_time(suite: Suite) -> None:
    usual, quick = StudySettings.for_suite(suite), StudySettings.for_suite(suite, quick=True)
    assert (usual.pretraining.num_epochs, usual.finetuning.num_epochs) == (3, 2)
    assert usual.pretraining.learning_rate == usual.heterogeneity.learning_rate == 0.01
    assert quick.pretraining.learning_rate == 0.01
    assert quick.pretraining.num_epochs < usual.pretraining.num_epochs
    assert quick.heterogeneity.num_steps < usual.heterogeneity.num_steps
    assert quick.heterogeneity.share < usual.heterogeneity.share


def test_how_heterogeneity_is_measured_is_said_by_the_suite(suite: Suite) -> None:
    own = dataclasses.replace(
        suite, heterogeneity={"share": 0.5, "num_seeds": 3, "num_steps": 7, "loss_scale": "none"}
    )
    found = StudySettings.for_suite(own).heterogeneity
    assert (found.share, found.num_seeds, found.num_steps, found.loss_scale) == (0.5, 3, 7, "none")
    assert found.learning_rate == 0.01
    assert StudySettings.for_suite(suite).heterogeneity.num_seeds == 1
    assert StudySettings.for_suite(own, measurement_seeds=2).heterogeneity.num_seeds == 2
    assert StudySettings.for_suite(own, quick=True).heterogeneity == dataclasses.replace(
        StudySettings.for_suite(suite, quick=True).heterogeneity, loss_scale="none"
    )
    assert set(HETEROGENEITY_KEYS) == {field.name for field in dataclasses.fields(HeterogeneitySettings)}
    for wrong, message in ({"share": 2}, "share=2"), ({"method": "guess"}, "'guess' is not one of transfer"):
        with pytest.raises(ValueError, match=f"'tiny', heterogeneity: .*{message}"):
            StudySettings.for_suite(dataclasses.replace(suite, heterogeneity=wrong))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"learning_rate": "2e-3"}, "'tiny', training: .*learning_rate='2e-3'"),
        ({"optimizer": "lion"}, "'tiny', training: .*'lion' is not one of"),
        ({"linkage": "ward"}, "'tiny', training: linkage='ward' is not one of average"),
        ({"k": 0}, "'tiny', training: k=0 must be a whole number"),
        ({"k": 3, "num_unimodal_groups": 2}, "'tiny', training: .*twice"),
        ({"mixed_precision": "fp8"}, "'tiny', training: .*'fp8' is not one of"),
    ],
)
def test_training_settings_that_cannot_be_are_named(suite: Suite, training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudySettings.for_suite(dataclasses.replace(suite, training=training))


def test_a_suite_can_choose_its_groups_by_k_by_a_budget_and_by_a_linkage(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path)
    counts = dict.fromkeys(("training.num_unimodal_groups", "training.num_crossmodal_groups"))
    for number, choice in enumerate([{"k": 3}, {"max_parameters": 10**9}, {"k": 4, "linkage": "single"}]):
        changes = {**counts, **{f"training.{name}": value for name, value in choice.items()}}
        chosen = load_suite(tiny.write_suite(tmp_path, changes))
        study = Study(chosen, tmp_path / str(number), StudySettings.for_suite(chosen, quick=True))
        groups = study.group()
        count = groups.num_unimodal_groups + groups.num_crossmodal_groups
        assert count == choice.get("k", 7)
        study.draw()
        kept = json.loads((tmp_path / str(number) / "parameter_groups.stability.json").read_text(encoding="utf-8"))
        assert {part["linkage"] for part in kept.values()} == {choice.get("linkage", "average")}


@pytest.mark.parametrize("seeds", [0, True, 1.5])
def test_a_number_of_seeds_that_cannot_be_is_refused(suite: Suite, seeds: Any) -> None:
    with pytest.raises(ValueError, match="num_seeds=.* whole number"):
        StudySettings.for_suite(suite, num_seeds=seeds)


def test_a_folder_is_continued_with_the_same_settings_only(suite: Suite, tmp_path: Path) -> None:
    settings = StudySettings.for_suite(suite, quick=True)
    Study(suite, tmp_path / "run", settings)
    # Nothing was made yet, so the folder is free.
    longer = dataclasses.replace(settings, num_seeds=3)
    Study(suite, tmp_path / "run", longer)
    (tmp_path / "run" / "heterogeneity").mkdir()
    with pytest.raises(ValueError, match=r"run holds a run with other settings \(num_seeds: 3 there, 1 now\)"):
        Study(suite, tmp_path / "run", settings)
    with pytest.raises(ValueError, match="holds a run of suite 'tiny' with other data, tasks or options"):
        part = select_tasks(suite, ["tones"])
        Study(part, tmp_path / "run", StudySettings.for_suite(part, quick=True))
    Study(suite, tmp_path / "run", longer)


def test_nothing_that_is_trained_or_chosen_depends_on_test_data(tiny: ModuleType, tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        file = tiny.write_suite_with_rows(tmp_path / name)
        if name == "other":
            for task in ("walk", "tones"):
                rows = tiny.datasets.Dataset.from_dict(tiny.task_rows(task, 9, seed=77))
                rows.to_parquet(tmp_path / name / f"{task}-test.parquet")
        run = tmp_path / f"run-{name}"
        metrics = run_study(select_tasks(load_suite(file), ["walk", "tones"]), run, quick=True)
        weights = [(run / stage / "model.safetensors").read_bytes() for stage in ("pretrained", "finetuned")]
        matrix = json.loads((run / "heterogeneity" / "unimodal.json").read_text(encoding="utf-8"))["values"]
        groups = (run / "parameter_groups.json").read_bytes()
        found.append((weights, matrix, groups, metrics["history"]))
    assert found[0] == found[1]
