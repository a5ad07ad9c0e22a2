"""The report of a run folder, made from folders as a run leaves them at each stage."""

from __future__ import annotations

import copy
import json
import random
import re
import statistics
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from highmmt.analysis import save_stability
from highmmt.analysis.charts import format_number, format_parameters
from highmmt.analysis.report import read_run, verdict, write_pictures, write_report
from highmmt.configuration import ParameterGroups, interaction_name
from highmmt.heterogeneity import HeterogeneityMatrix

TASKS = {
    "digits": ["image", "spectrum", "table"],
    "parkinson": ["speech", "spectrum", "table"],
    "liver": ["timeseries", "set", "table"],
    "motion": ["accelerometer", "gyroscope"],
    "birds": ["text", "table"],
    "push": ["image", "force", "proprioception", "control"],
    "vowels": ["speech"],
}
METRICS = dict(zip(TASKS, ["accuracy", "auroc", "auroc", "accuracy", "macro_f1", "r2", "accuracy"], strict=True))
LEVEL = dict(zip(TASKS, [0.976, 0.832, 0.861, 0.803, 0.664, 0.893, 0.962], strict=True))
REFERENCE = dict(zip(TASKS, [0.992, 0.84, 0.88, 0.79, 0.67, 0.80, 0.986], strict=True))
METHODS = {
    "share_none": ("Share none (one model per task)", 3_412_816, -0.004),
    "share_all": ("Share all", 551_094, -0.016),
    "random": ("Random groups", 1_893_230, -0.012),
    "highmmt": ("HighMMT", 1_893_230, 0.004),
}
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


def unimodal_nodes() -> list[str]:
    return [f"{task}/{modality}" for task, modalities in TASKS.items() for modality in modalities]


def interaction_nodes() -> list[str]:
    return [
        interaction_name(task, first, second)
        for task, modalities in TASKS.items()
        for place, first in enumerate(modalities)
        for second in modalities[place + 1 :]
    ]


def suite(tasks: dict[str, list[str]]) -> dict[str, Any]:
    names = {modality for modalities in tasks.values() for modality in modalities}
    kinds = {"image": "image", "spectrum": "spectrum", "table": "table", "set": "set", "text": "text"}
    return {
        "name": "starter",
        "description": "Seven small tasks.",
        "modalities": {name: {"kind": kinds.get(name, "time_series")} for name in sorted(names)},
        "tasks": {
            task: {
                "area": "health" if task in ("parkinson", "liver") else "sensing",
                "description": f"What the {task} data is about, in one sentence.",
                "source": {"path": "parquet"},
                "modalities": {modality: {"column": modality} for modality in modalities},
                "target": {
                    "column": "label",
                    "problem_type": "regression" if task == "push" else "single_label_classification",
                    "classes": None if task == "push" else ["a", "b", "c"],
                },
                "metric": METRICS[task],
                "batch_size": 32,
                "licence": "CC BY 4.0",
                "citation": "A. Author et al., 2019",
            }
            for task, modalities in tasks.items()
        },
    }


def heterogeneity(kind: str, nodes: list[str], rng: random.Random, outlier: bool = False) -> dict[str, Any]:
    """Distances between points on a plane, those of one modality close together; a third of them imputed."""
    homes: dict[str, tuple[float, float]] = {}
    points = []
    for node in nodes:
        home = homes.setdefault(node.split("/")[1], (rng.uniform(0, 0.5), rng.uniform(0, 0.5)))
        points.append((home[0] + rng.uniform(0, 0.12), home[1] + rng.uniform(0, 0.12)))
    if outlier:
        points[0] = (8.0, 9.0)
    size = len(nodes)
    values = [[round(abs(a[0] - b[0]) + abs(a[1] - b[1]), 4) for b in points] for a in points]
    measured = [[row != column for column in range(size)] for row in range(size)]
    for row in range(size):
        for column in range(row):
            measured[row][column] = measured[column][row] = rng.random() < 0.66
    transfer = [[values[i][j] / 2 if measured[i][j] else None for j in range(size)] for i in range(size)]
    errors = [[0.01 + values[i][j] / 20 if measured[i][j] else None for j in range(size)] for i in range(size)]
    return {
        "kind": kind,
        "nodes": nodes,
        "transfer": transfer,
        "values": values,
        "standard_errors": errors,
        "measured": measured,
        "losses": {},
        "loss_scale": "null",
        "seeds": 3,
        "settings": {"num_epochs": 8},
        "suite": "starter",
        "suite_fingerprint": "0" * 64,
    }


def history(epochs: int, start: float, rng: random.Random) -> list[dict[str, Any]]:
    records = []
    for epoch in range(epochs):
        rise = 1 - (1 - start) * 0.8**epoch
        validation = {
            task: {
                "loss": (1.4 - rise + 0.02 * max(0, epoch - 9)) * (1 + rng.uniform(-0.04, 0.04)),
                METRICS[task]: LEVEL[task] * rise * (1 + rng.uniform(-0.015, 0.01)),
            }
            for task in TASKS
        }
        score = sum(values[METRICS[task]] for task, values in validation.items())
        train = {task: (1.35 - rise) * (1 + rng.uniform(-0.03, 0.03)) for task in TASKS}
        records.append({"epoch": epoch, "steps": 36, "train_loss": train, "validation": validation, "score": score})
    return records


def metrics(seeds: list[int], rng: random.Random) -> dict[str, Any]:
    methods = {}
    for name, (label, count, gain) in METHODS.items():
        scores = {task: [level + gain + rng.gauss(0, 0.007) for _ in seeds] for task, level in LEVEL.items()}
        averages = [statistics.fmean(scores[task][seed] for task in TASKS) for seed in range(len(seeds))]
        spread = {task: statistics.stdev(values) if len(seeds) > 1 else 0.0 for task, values in scores.items()}
        methods[name] = {
            "label": label,
            "num_parameters": count,
            "components": {
                "unimodal": count // 2,
                "crossmodal": count - count // 2 - 12_345,
                "heads": 12_345,
                "embeddings": 0,
            },
            "scores": scores,
            "mean": {task: statistics.fmean(values) for task, values in scores.items()},
            "std": spread,
            "average": statistics.fmean(averages),
            "average_std": statistics.stdev(averages) if len(seeds) > 1 else 0.0,
        }
    source = "best of logistic regression and random forest, all modalities"
    return {
        "suite": "starter",
        "settings": {
            "command": "highmmt run starter --seeds 0,1,2 --output runs/starter",
            "training": {"num_epochs": 24, "learning_rate": 8e-4, "batch_sizes": {"push": 16}, "patience": None},
            "unimodal_groups": 4,
        },
        "seeds": seeds,
        "metric": METRICS,
        "higher_is_better": dict.fromkeys(TASKS, True),
        "reference": {
            task: {"value": value, "source": "ridge regression, all modalities" if task == "push" else source}
            for task, value in REFERENCE.items()
        },
        "num_rows": {task: {"train": 1000, "validation": 400, "test": 600} for task in TASKS},
        "methods": methods,
        "history": {"pretrained": history(24, 0.3, rng), "finetuned": history(12, 0.86, rng)},
        "timings": {"heterogeneity, unimodal": 4210.0, "pretrained": 610.0, "share_none": 340.5},
        "versions": {"highmmt": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    }


def groups_from(data: dict[str, Any], num_groups: int) -> dict[str, int]:
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    labels = cut_tree(linkage(squareform(data["values"]), method="average"), n_clusters=num_groups)[:, 0]
    return {node: int(label) for node, label in zip(data["nodes"], labels, strict=True)}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def make_run(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), outlier: bool = False) -> Path:
    """A complete run folder with the starter suite's 18 modality-task pairs and 17 interactions."""
    rng = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite(TASKS), sort_keys=False), encoding="utf-8")
    matrices = {
        kind: heterogeneity(kind, nodes, rng, outlier)
        for kind, nodes in (("unimodal", unimodal_nodes()), ("interaction", interaction_nodes()))
    }
    for kind, data in matrices.items():
        write_json(folder / "heterogeneity" / f"{kind}.json", data)
    groups = {
        "unimodal": groups_from(matrices["unimodal"], 5),
        "crossmodal": groups_from(matrices["interaction"], 4),
    }
    write_json(folder / "parameter_groups.json", groups)
    write_json(folder / "metrics.json", metrics(list(seeds), rng))
    write_json(folder / "finetuned" / "config.json", {"model_type": "highmmt"})
    return folder


class Page(HTMLParser):
    """A page that was read strictly: every element closed, in order; texts and attributes are kept."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words)).replace("\u00a0", " ")


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "starter")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(full: Path) -> Page:
    return Page((full / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    yield make_run(tmp_path / "starter")


def test_the_page_is_well_formed_and_needs_no_network(full: Path, page: Page) -> None:
    html = (full / "report.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?:|//\w|url\(|@import|@font-face", html)
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in page.tags)
    assert not any("src" in attributes for _, attributes in page.tags)


def test_links_within_the_page_lead_somewhere_and_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert targets and {target.removeprefix("#") for target in targets} <= set(ids)


def test_the_page_can_be_used_without_seeing_it(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in pictures)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags
    scrolling = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in scrolling)


def test_every_number_of_the_metrics_is_on_the_page(full: Path, page: Page) -> None:
    content = json.loads((full / "metrics.json").read_text(encoding="utf-8"))
    wanted = set()
    for method in content["methods"].values():
        wanted |= {*method["label"].rstrip(")").split(" ("), format_parameters(method["num_parameters"])}
        wanted |= {f"{count:,}" for count in method["components"].values()}
        wanted |= {format_number(score) for scores in method["scores"].values() for score in scores}
        for mean, deviation in [
            *((method["mean"][task], method["std"][task]) for task in TASKS),
            (method["average"], method["average_std"]),
        ]:
            wanted.add(f"{format_number(mean)} ± {format_number(deviation)}")
    wanted |= {format_number(entry["value"]) for entry in content["reference"].values()}
    wanted |= {entry["source"] for entry in content["reference"].values()}
    assert not {words for words in wanted if words not in page.text}


def test_every_distance_is_on_the_page_and_imputed_ones_say_so(full: Path, page: Page) -> None:
    for kind in ("unimodal", "interaction"):
        content = json.loads((full / "heterogeneity" / f"{kind}.json").read_text(encoding="utf-8"))
        nodes = content["nodes"]
        for row in range(len(nodes)):
            for column in range(row):
                origin = "measured" if content["measured"][row][column] else "imputed"
                found = re.search(
                    rf"{re.escape(nodes[column])} – {re.escape(nodes[row])} ([\d.]+) (\S+) \S+ \S+ (\w+)", page.text
                )
                assert found is not None
                assert found[1] == format_number(content["values"][row][column]) and found[3] == origin
                assert found[2] == format_number(content["standard_errors"][row][column])


def test_groups_list_their_members_and_the_tasks_that_use_them(full: Path, page: Page) -> None:
    groups = json.loads((full / "parameter_groups.json").read_text(encoding="utf-8"))
    for prefix, members in (("U", groups["unimodal"]), ("C", groups["crossmodal"])):
        for group in set(members.values()):
            nodes = [node for node, its_group in members.items() if its_group == group]
            tasks = ", ".join(dict.fromkeys(node.split("/")[0] for node in nodes))
            assert f"{prefix}{group + 1} {' '.join(nodes)} {tasks}" in page.text
    assert "cut: 5 groups" in page.text and "cut: 4 groups" in page.text


def test_the_page_says_what_was_run_and_how_to_load_the_result(page: Page) -> None:
    for words in (
        "highmmt run starter --seeds 0,1,2",
        "training.num_epochs",
        "0.0008",
        "torch 2.13.0",
        "heterogeneity, unimodal 70 min; pretrained 10 min; share none 6 min",
        'HighMMTModel.from_pretrained("finetuned")',
        'processor(task="digits", image=..., spectrum=..., table=..., return_tensors="pt")',
        "CC BY 4.0",
        "train 1000",
    ):
        assert words in page.text
    assert page.text.count("How to read this") == 7


def with_averages(**averages: tuple[float, float | None]) -> dict[str, Any]:
    methods = {
        name: {"label": METHODS[name][0], "average": mean, "average_std": std}
        for name, (mean, std) in averages.items()
    }
    return {"methods": methods, "metric": {"a": "r2", "b": "r2"}, "higher_is_better": {}, "seeds": [0, 1]}


@pytest.mark.parametrize(
    ("averages", "sentence"),
    [
        (
            {"share_all": (0.70, 0.03), "highmmt": (0.74, 0.04)},
            "HighMMT is best on average with 0.740 ± 0.040 over 2 tasks and 2 seeds; share all reaches 0.700 ± 0.030, "
            "and the difference of 0.040 is within the deviation over seeds (± 0.050), so this run cannot tell them "
            "apart.",
        ),
        (
            {"share_all": (0.70, 0.003), "share_none": (0.8, 0.004), "random": (0.79, 0.0), "highmmt": (0.75, 0.004)},
            "Share none is best on average with 0.800 ± 0.004 over 2 tasks and 2 seeds; HighMMT reaches "
            "0.750 ± 0.004, and the difference of 0.050 is more than the deviation over seeds (± 0.006).",
        ),
        (
            {"share_all": (0.70, None), "highmmt": (0.75, None)},
            "HighMMT is best on average with 0.750 over 2 tasks and 2 seeds; share all reaches 0.700, and without a "
            "deviation over seeds the difference of 0.050 is no evidence yet.",
        ),
        (
            {"highmmt": (0.75, 0.01)},
            "HighMMT reaches 0.750 ± 0.010 on average over 2 tasks and 2 seeds; it is the only method scored.",
        ),
    ],
)
def test_the_verdict_claims_no_more_than_the_numbers(averages: dict[str, Any], sentence: str) -> None:
    assert verdict(with_averages(**averages)).replace("\u00a0", " ") == sentence


def test_errors_are_best_when_low() -> None:
    content = with_averages(share_all=(0.2, 0.0), highmmt=(0.3, 0.0))
    content["higher_is_better"] = {"a": False, "b": False}
    assert verdict(content).startswith("Share all is best on average")
    assert "(lower is better)" in verdict(content)


def test_metrics_that_point_both_ways_have_no_winner_on_average(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    content["higher_is_better"]["push"] = False
    write_json(run / "metrics.json", content)
    page = page_of(run)
    assert "no method is best on average" in page.text and "there is no average to draw" in page.text


def test_the_best_of_a_row_is_marked_and_so_is_what_is_too_close_to_tell(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for name, mean in {"share_none": 0.90, "share_all": 0.5, "random": 0.89, "highmmt": 0.7}.items():
        content["methods"][name]["mean"]["digits"] = mean
        content["methods"][name]["std"]["digits"] = 0.01
    write_json(run / "metrics.json", content)
    row = re.search(r"digits accuracy ↑ \(higher is better\) (.*?) parkinson", page_of(run).text)
    assert row is not None
    assert row[1].startswith("0.900 ± 0.010 ★ best 0.500 ± 0.010 0.890 ± 0.010 ≈ close to the best 0.700 ± 0.010")


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "one", seeds=(0,)))
    assert "± –" in page.text and "± 0.000" not in page.text
    assert "is no evidence yet" in page.text


PARTS = {
    "suite.yaml": "the tasks and their data",
    "heterogeneity/unimodal.json": "distances between modalities",
    "heterogeneity/interaction.json": "distances between interactions",
    "parameter_groups.json": "which modality and interaction uses which parameters",
    "metrics.json": "scores, parameter counts and learning curves",
    "finetuned/config.json": "the trained model",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_does_not_exist_yet_is_named_and_the_rest_is_shown(run: Path, part: str) -> None:
    (run / part).unlink()
    page = page_of(run)
    assert "Not in this run folder yet" in page.text
    for name, words in PARTS.items():
        assert (f"{name.removesuffix('config.json')} : {words}" in page.text) == (name == part)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone_makes_a_report(run: Path, part: str) -> None:
    for name in PARTS:
        if name != part:
            (run / name).unlink()
    assert page_of(run).text.count(":") >= len(PARTS) - 1


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    assert "Nothing has been measured yet." in page_of(tmp_path).text


def test_a_complete_run_misses_nothing(page: Page) -> None:
    assert "Not in this run folder yet" not in page.text


def test_training_that_has_only_begun_shows_its_first_curves(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    content.update(methods={}, history={"pretrained": content["history"]["pretrained"][:1]})
    write_json(run / "metrics.json", content)
    page = page_of(run)
    assert "metrics.json, methods" in page.text and "Only pretraining has been recorded so far." in page.text


@pytest.mark.parametrize("tasks", [{"vowels": ["speech"]}, {"digits": ["table"], "vowels": ["speech"]}])
def test_a_suite_without_interactions_has_a_report_without_complaints(
    tmp_path: Path, tasks: dict[str, list[str]]
) -> None:
    nodes = [f"{task}/{modalities[0]}" for task, modalities in tasks.items()]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite(tasks)), encoding="utf-8")
    write_json(tmp_path / "heterogeneity/unimodal.json", heterogeneity("unimodal", nodes, random.Random(0)))
    empty: dict[str, Any] = {"kind": "interaction", "nodes": [], "values": [], "measured": [], "transfer": []}
    write_json(tmp_path / "heterogeneity/interaction.json", empty)
    write_json(tmp_path / "parameter_groups.json", {"unimodal": dict.fromkeys(nodes, 0), "crossmodal": {}})
    page = page_of(tmp_path)
    assert "No task fuses two modalities, so there are no interactions to compare." in page.text
    assert "None: no task fuses two modalities." in page.text
    (tmp_path / "heterogeneity/interaction.json").unlink()
    assert "heterogeneity/interaction.json" not in page_of(tmp_path).text


@pytest.mark.parametrize("num_groups", [1, 18])
def test_one_group_and_as_many_groups_as_nodes_can_be_drawn(run: Path, num_groups: int) -> None:
    groups = json.loads((run / "parameter_groups.json").read_text(encoding="utf-8"))
    groups["unimodal"] = {node: rank % num_groups for rank, node in enumerate(unimodal_nodes())}
    write_json(run / "parameter_groups.json", groups)
    page = page_of(run)
    assert f"cut: {num_groups} group" in page.text
    assert f"{num_groups} group{'' if num_groups == 1 else 's'} for 18 modality–task pairs." in page.text


def test_a_single_interaction_has_nothing_to_be_compared_with(run: Path) -> None:
    path = run / "heterogeneity/interaction.json"
    write_json(path, heterogeneity("interaction", ["motion/accelerometer+gyroscope"], random.Random(0)))
    (run / "metrics.json").unlink()
    page = page_of(run)
    assert "Heterogeneity is measured for 99 of 153 pairs of modalities; there are no scores yet." in page.text
    assert "motion/accelerometer+gyroscope is the only node, so there is nothing to compare." in page.text


def test_groups_chosen_by_hand_are_shown_without_a_cut(run: Path) -> None:
    groups = json.loads((run / "parameter_groups.json").read_text(encoding="utf-8"))
    groups["unimodal"] = {node: rank % 2 for rank, node in enumerate(unimodal_nodes())}
    write_json(run / "parameter_groups.json", groups)
    assert "The groups are no single cut of this tree" in page_of(run).text


def test_groups_of_other_nodes_mark_nothing(run: Path) -> None:
    write_json(run / "parameter_groups.json", {"unimodal": {"other/table": 0}, "crossmodal": {}})
    assert "names other nodes than this matrix" in page_of(run).text


def test_the_page_says_how_sure_the_groups_are_and_forgets_it_with_other_groups(run: Path) -> None:
    matrices = {
        kind: HeterogeneityMatrix.from_json_file(run / "heterogeneity" / f"{kind}.json")
        for kind in ("unimodal", "interaction")
    }
    for matrix in matrices.values():
        matrix.standard_errors[np.isnan(matrix.standard_errors)] = 0.05
    file = run / "parameter_groups.json"
    assert "How sure" not in page_of(run).text
    found = save_stability(file, ParameterGroups.from_json_file(file), matrices, "complete")
    text = page_of(run).text
    assert "distances drawn again within their standard errors (400 samples)" in text
    assert "complete linkage" in text
    for stability in found.values():
        for node, share in zip(stability.nodes, stability.support, strict=True):
            assert share is not None and f"{node} · {100 * share:.0f} %" in text
    groups = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, {kind: dict.fromkeys(members, 0) for kind, members in groups.items()})
    assert "How sure" not in page_of(run).text


def test_interactions_are_found_in_either_spelling(run: Path) -> None:
    groups = json.loads((run / "parameter_groups.json").read_text(encoding="utf-8"))
    turned = {re.sub(r"/(.*)\+(.*)", r"/\2+\1", node): group for node, group in groups["crossmodal"].items()}
    write_json(run / "parameter_groups.json", {**groups, "crossmodal": turned})
    assert "names other nodes" not in page_of(run).text


def test_distances_that_are_still_missing_leave_blank_cells_and_no_tree(run: Path) -> None:
    path = run / "heterogeneity/unimodal.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["values"][0][1] = content["values"][1][0] = None
    write_json(path, content)
    page = page_of(run)
    assert "Some distances are missing, so there is no tree yet." in page.text
    assert "digits/spectrum – digits/image: not measured" in page.text


def test_the_linkage_is_the_one_the_file_names(run: Path) -> None:
    path = run / "heterogeneity/unimodal.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["settings"]["linkage"] = "complete"
    write_json(path, content)
    assert "(average, complete linkage)" in page_of(run).text


EVIL = "<script>alert(1)</script>&\"'"


def test_text_from_files_cannot_become_markup(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    content["methods"]["highmmt"]["label"] = EVIL
    content["settings"].update({"command": EVIL, EVIL: {EVIL: EVIL}})
    content["versions"] = {EVIL: EVIL}
    content["timings"] = {EVIL: 3.0}
    content["reference"]["digits"]["source"] = EVIL
    content["metric"] = {**METRICS, EVIL: EVIL}
    write_json(run / "metrics.json", content)
    tasks = suite(TASKS)
    tasks["name"] = tasks["tasks"]["digits"]["description"] = tasks["tasks"]["digits"]["area"] = EVIL
    tasks["tasks"][EVIL] = {**copy.deepcopy(tasks["tasks"]["vowels"]), "citation": EVIL, "metric": EVIL}
    tasks["tasks"][EVIL]["modalities"] = {EVIL: {"column": EVIL}}
    (run / "suite.yaml").write_text(yaml.safe_dump(tasks, sort_keys=False), encoding="utf-8")
    html = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in html and html.count("&lt;script&gt;") > 10
    assert "script" not in [tag for tag, _ in Page(html).tags]


def test_a_modality_that_cannot_be_a_keyword_is_passed_by_a_dict(tmp_path: Path) -> None:
    content = suite({"vowels": ["time-series", "text"]})
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert (
        'processor(task="vowels", **{"time-series": ..., "text": ...}, return_tensors="pt")' in page_of(tmp_path).text
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", '{"methods": ', "metrics.json: not valid JSON"),
        ("metrics.json", "[]", "the file must be a mapping, found list"),
        ("metrics.json", '{"methods": {"highmmt": 3}}', "method 'highmmt' must be a mapping, found int"),
        ("metrics.json", '{"history": {"pretrained": [{"score": "high"}]}}', "must be real number, not str"),
        ("heterogeneity/unimodal.json", '{"nodes": ["a/x"]}', "'values' is missing"),
        ("heterogeneity/unimodal.json", '{"nodes": ["a/x"], "values": [[0, 1]]}', "not a matrix of 1 x 1"),
        ("heterogeneity/interaction.json", "{}", "nodes"),
        ("parameter_groups.json", '{"unimodal": {"a/x": 3}}', "numbered 0, 1, 2"),
        ("parameter_groups.json", "\x00", "parameter_groups.json"),
        ("suite.yaml", "tasks: [", "suite.yaml"),
        ("suite.yaml", "tasks: [a]", "tasks must be a mapping, found list"),
    ],
)
def test_a_broken_file_is_named_and_the_former_report_stays(run: Path, name: str, content: str, message: str) -> None:
    report = run / "report.html"
    report.write_text("former", encoding="utf-8")
    (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        write_report(run)
    assert str(run / name) in str(error.value)
    assert report.read_text(encoding="utf-8") == "former"
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_numbers_that_are_not_finite_are_shown_as_missing(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    content["methods"]["random"]["mean"]["digits"] = float("nan")
    content["history"]["pretrained"][3]["validation"]["digits"]["loss"] = float("inf")
    write_json(run / "metrics.json", content)
    html = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"\b(nan|inf)\b", html.lower())


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No run folder at .*nowhere"):
        write_report(tmp_path / "nowhere")


def test_the_same_run_gives_the_same_report(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_the_page_has_no_path_of_the_machine_it_was_made_on(full: Path) -> None:
    assert str(full.parent) not in (full / "report.html").read_text(encoding="utf-8")


def test_reading_a_run_finds_all_its_parts(full: Path) -> None:
    found = read_run(full)
    assert found.tasks == list(TASKS) and found.has_interactions and found.has_model
    assert found.distances["unimodal"].num_pairs == 153 and len(found.distances["interaction"].nodes) == 17
    assert found.groups is not None and found.groups.num_unimodal_groups == 5


def test_pictures_are_saved_as_png_and_svg_and_are_the_same_each_time(full: Path, tmp_path: Path) -> None:
    first, second = (write_pictures(full, tmp_path / name) for name in ("first", "second"))
    names = ["heterogeneity.png", "heterogeneity.svg", "performance.png", "performance.svg"]
    assert [path.name for path in first] == names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")


def test_pictures_of_numbers_that_do_not_exist_are_left_out(run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "parameter_groups.json").unlink()
    assert [path.name for path in write_pictures(run, tmp_path / "out")] == ["heterogeneity.png", "heterogeneity.svg"]
    for kind in ("unimodal", "interaction"):
        (run / "heterogeneity" / f"{kind}.json").unlink()
    with pytest.raises(ValueError, match="neither distances nor average scores"):
        write_pictures(run, tmp_path / "out")
