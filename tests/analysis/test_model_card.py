"""Model cards: metadata that the Hub reads, and text that a reader can check."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt import load_suite
from highmmt.analysis import model_card
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.processing import HighMMTProcessor
from highmmt.suites import Suite
from highmmt.train import build_config, build_model, save_model_folder

TEST = {"signs": 0.9375, "walk": -0.25, "tones": 1.0}


def _helpers(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, Path(__file__).parents[1] / name)
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    return helpers


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    tiny = _helpers("command_line/tiny.py")
    return load_suite(tiny.write_suite_with_rows(tmp_path_factory.mktemp("suite")))


@pytest.fixture(scope="module")
def processor(suite: Suite) -> HighMMTProcessor:
    return suite.build_processor()


@pytest.fixture(scope="module")
def model(suite: Suite, processor: HighMMTProcessor) -> HighMMTModel:
    return build_model(build_config(suite, processor), seed=0).eval()


def test_the_metadata_reads_back_with_every_result(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    card = ModelCard(model_card(suite, model, processor, TEST, "finetuned", seed=0))
    data = card.data.to_dict()
    assert data["library_name"] == "highmmt"
    assert {"highmmt", "multimodal", "image", "spectrum"} <= set(data["tags"])
    assert data["metrics"] == ["accuracy", "f1", "r_squared"]
    assert card.data.model_name == "highmmt-tiny-finetuned"
    results = {result.task_name: result for result in card.data.eval_results}
    assert {task: result.metric_value for task, result in results.items()} == TEST
    assert all(result.dataset_split == "test" for result in results.values())
    assert (results["walk"].task_type, results["walk"].metric_type) == ("tabular-regression", "r_squared")
    assert (results["tones"].metric_type, results["tones"].metric_args) == ("f1", {"average": "macro"})
    # Written and read again, nothing is lost and nothing is missed.
    assert ModelCard(str(card)).data.to_dict() == data
    assert "metadata" not in capsys.readouterr().err


def test_every_metric_of_the_trainer_has_a_name_on_the_hub() -> None:
    from highmmt.analysis.model_card import _METRICS
    from highmmt.train import METRICS

    assert set(_METRICS) == set(METRICS)


def test_the_text_has_scores_licences_groups_and_the_seed(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor
) -> None:
    text = model_card(suite, model, processor, TEST, "finetuned", seed=7, num_seeds=3, report="../report.html")
    assert "| signs | image, table | accuracy | 0.938 | 0.900 (a guess) |" in text
    assert "| walk | wearables | CC BY 4.0 | - |" in text
    assert "| tones | sound | CC0-1.0 | - |" in text
    assert "| U1 | signs/image, signs/table, walk/series, walk/remark, tones/spectrum |" in text
    assert "Seed 7;" in text
    assert "with 3 seeds" in text
    assert "[report](../report.html)" in text
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in text
    assert "More Information Needed" not in text


def test_without_report_reference_or_repetitions_the_text_speaks_of_none(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor
) -> None:
    signs = dataclasses.replace(suite.task("signs"), reference=None, licence="", area="a | b")
    plain = dataclasses.replace(suite, tasks={**suite.tasks, "signs": signs})
    text = model_card(plain, model, processor, TEST, "pretrained", seed=0)
    assert "report" not in text
    assert "seeds" not in text
    assert "reference" not in text
    assert "| signs | a \\| b | not stated | - |" in text


def test_data_of_the_hub_is_linked_and_local_data_is_not(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor
) -> None:
    assert "datasets" not in ModelCard(model_card(suite, model, processor, TEST, "finetuned", seed=0)).data.to_dict()
    tones = dataclasses.replace(suite.task("tones"), source={"path": "someone/tones", "revision": "main"})
    local = dataclasses.replace(suite.task("walk"), source={"saved": "/data/walk"})
    mixed = dataclasses.replace(suite, tasks={**suite.tasks, "tones": tones, "walk": local})
    data = ModelCard(model_card(mixed, model, processor, TEST, "finetuned", seed=0)).data.to_dict()
    assert data["datasets"] == ["someone/tones"]
    types = [result["dataset"]["type"] for result in data["model-index"][0]["results"]]
    assert types == ["tiny-signs", "tiny-walk", "someone/tones"]


def test_every_result_has_all_that_the_hub_requires(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor
) -> None:
    data = ModelCard(model_card(suite, model, processor, TEST, "finetuned", seed=0)).data.to_dict()
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "highmmt-tiny-finetuned"
    assert len(results) == len(TEST)
    for result in results:
        assert all((result.task_type, result.dataset_type, result.dataset_name, result.metric_type))
        assert result.metric_value == TEST[result.task_name]
    assert eval_results_to_model_index(name, results) == data["model-index"]


def test_tasks_and_shapes_are_those_of_the_processor(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor
) -> None:
    text = model_card(suite, model, processor, TEST, "finetuned", seed=0)
    assert "| signs | single label classification | 2 | stop, go |" in text
    assert "| walk | regression | 2 | x, y |" in text
    # 6 x 6 pixels in patches of 3 x 3; two columns with a flag each; steps of two numbers; words; one spectrum.
    assert "| signs | image | image | image | 2 x 2 | 9 |" in text
    assert "| signs | table | table | age, weight | 2 | 2 |" in text
    assert "| walk | series | time_series | series | any | 2 |" in text
    assert "| walk | remark | text | remark | any | token ids |" in text
    assert "| tones | spectrum | spectrum | spectrum | 8 | 1 |" in text


def test_retrievals_and_sequences_have_targets_of_their_own(tmp_path: Path) -> None:
    suite = _helpers("train/mixed_suite.py").mixed_suite(tmp_path)
    processor = suite.build_processor()
    model = build_model(build_config(suite, processor), seed=0)
    scores = {"find": 0.5, "walk": 2.5, "phase": 0.75, "kind": 1.0}
    card = ModelCard(model_card(suite, model, processor, scores, "finetuned", seed=0))
    assert "| find | retrieval | - |  |" in card.text
    assert "| walk | regression | 4 x 2 | x, y |" in card.text
    assert "| phase | single label classification | 3 x 2 | up, down |" in card.text
    assert "| find | spectrum | spectrum | spectrum | 4 | 1 |" in card.text
    assert {result.task_name: result.metric_value for result in card.data.eval_results} == scores


def test_many_names_are_not_all_listed(suite: Suite, model: HighMMTModel, processor: HighMMTProcessor) -> None:
    config = copy.deepcopy(model.config)
    config.tasks["tones"].id2label = {index: f"tone {index}" for index in range(11)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "config", config)
        text = model_card(suite, model, processor, TEST, "finetuned", seed=0)
    assert "tone 6, tone 7, and 3 more |" in text


def test_the_lines_of_code_in_the_card_run(
    suite: Suite, model: HighMMTModel, processor: HighMMTProcessor, tmp_path: Path
) -> None:
    text = model_card(suite, model, processor, TEST, "finetuned", seed=0)
    save_model_folder(tmp_path / "model", model, processor, text)
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    *lines, last = code.replace("path/to/this/folder", str(tmp_path / "model")).strip().splitlines()
    row = suite.load("signs")["test"][0]
    names = re.search(r"a dict of (.*)", code)[1].split(", ")
    scope = {"sample": {name: row[name] for name in names}}
    with torch.no_grad():
        exec("\n".join(lines), scope)
        (answer,) = eval(last, scope)
    assert answer["label"] in ("stop", "go")
