"""The model card of a trained folder, made from the suite and the run's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..configuration import HighMMTConfig
from ..modeling_highmmt import HighMMTModel
from ..processing import HighMMTProcessor
from ..suites import Suite

_TASK_TYPES = {
    "single_label_classification": "tabular-classification",
    "multi_label_classification": "tabular-classification",
    "regression": "tabular-regression",
    "retrieval": "feature-extraction",
}
# Metric to its id and its name on the Hub, and what it is called with.
_METRICS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "accuracy": ("accuracy", "Accuracy", None),
    "macro_f1": ("f1", "Macro F1", {"average": "macro"}),
    "auroc": ("roc_auc", "AUROC", None),
    "r2": ("r_squared", "R squared", None),
    "rmse": ("rmse", "Root mean squared error", None),
    "mse": ("mse", "Mean squared error", None),
    "mae": ("mae", "Mean absolute error", None),
    "recall_at_1": ("recall", "Recall at 1, mean of both directions", {"k": 1}),
    "recall_at_5": ("recall", "Recall at 5, mean of both directions", {"k": 5}),
    "recall_at_10": ("recall", "Recall at 10, mean of both directions", {"k": 10}),
}
_STAGES = {
    "pretrained": "homogeneous pretraining: one set of parameters shared by all tasks",
    "single_task": "training on one task alone",
    "transfer": "pretraining on other tasks, then training on the task that the results are of",
    "few_shot": "training on all tasks together, with few labels of the task that the results are of",
    "retrieval": "training on fusion and retrieval together: one set of parameters shared by all tasks",
    "finetuned": "heterogeneity-aware fine-tuning: parameters in groups, cloned from the pretrained model",
}


def model_card(
    suite: Suite,
    model: HighMMTModel,
    processor: HighMMTProcessor,
    test: Mapping[str, float],
    stage: str,
    *,
    seed: int,
    num_seeds: int = 1,
    report: str | None = None,
) -> str:
    """Text of `README.md` for a model folder.

    Args:
        suite: what the model was trained on.
        model: the trained model.
        processor: fitted, as it goes into the folder.
        test: task to its metric on test data.
        stage: `"pretrained"`, `"finetuned"`, `"single_task"`, `"transfer"`, `"few_shot"` or `"retrieval"`.
        seed: of the training that made this model.
        num_seeds: how often the whole comparison was repeated.
        report: path of the run's report, from the model folder; None where there is none.

    Returns:
        Metadata the Hub reads (with `model-index` results) and a description.
    """
    parts = (
        f"---\n{_metadata(suite, model.config, test, stage).to_yaml()}\n---",
        f"# HighMMT, suite `{suite.name}`\n\n{_summary(suite, model, stage)}",
        f"## Results on test data\n\n{_results(suite, model.config, test)}",
        _about_the_run(seed, num_seeds, report),
        f"## Tasks\n\n{_tasks(suite, model.config, processor)}",
        f"## Use\n\n{_usage(suite, next(iter(model.config.tasks)))}",
        f"## Parameter groups\n\n{_groups(model.config)}",
        f"## Data\n\n{_data(suite, model.config)}",
        "## Limits\n\nResearch on sharing parameters between modalities, with small models and small data: not for "
        "decisions about people. A score holds for the test rows of its data set and says nothing about a population "
        "that the rows were not drawn from.",
        "Method: Liang et al., *High-Modality Multimodal Transformer*, Transactions on Machine Learning Research, "
        "05/2023.",
    )
    return "\n\n".join(parts) + "\n"


def _metadata(suite: Suite, config: HighMMTConfig, test: Mapping[str, float], stage: str) -> ModelCardData:
    paths = {name: suite.task(name).source.get("path", "") for name in config.tasks}
    # `user/name` is a data set of the Hub; local paths are absolute, and formats have no slash.
    hub = {
        name: path
        for name, path in paths.items()
        if "/" in path and "://" not in path and not Path(path).is_absolute()
    }
    results = []
    for name, value in test.items():
        metric, label, arguments = _METRICS[suite.task(name).metric]
        results.append(
            EvalResult(
                task_type=_TASK_TYPES[config.tasks[name].problem_type],
                task_name=name,
                dataset_type=hub.get(name, f"{suite.name}-{name}"),
                dataset_name=f"{suite.name}: {name}",
                dataset_split="test",
                metric_type=metric,
                metric_name=label,
                metric_args=arguments,
                metric_value=round(value, 6),
            )
        )
    return ModelCardData(
        model_name=f"highmmt-{suite.name}-{stage.replace('_', '-')}",
        library_name="highmmt",
        datasets=sorted(set(hub.values())) or None,
        tags=["highmmt", "multimodal", "multitask", *sorted(config.modalities)],
        metrics=sorted({_METRICS[suite.task(name).metric][0] for name in test}),
        eval_results=results,
    )


def _summary(suite: Suite, model: HighMMTModel, stage: str) -> str:
    counts, groups = model.num_parameters_by_component(), model.config.groups()
    tasks = ", ".join(f"`{name}`" for name in model.config.tasks)
    parts = [
        f"{counts['unimodal']:,} in {_count(groups.num_unimodal_groups, 'unimodal group')}",
        f"{counts['crossmodal']:,} in {_count(groups.num_crossmodal_groups, 'crossmodal group')}",
        f"{counts['heads'] + counts['embeddings']:,} in heads and embeddings",
    ]
    return (
        f"One model for {_count(len(model.config.tasks), 'task')} ({tasks}) and "
        f"{_count(len(model.config.modalities), 'modality')}. {suite.description}\n\n"
        f"Made by {_STAGES[stage]}. It has {counts['total']:,} parameters: {', '.join(parts)}."
    ).replace(" \n", "\n")


def _results(suite: Suite, config: HighMMTConfig, test: Mapping[str, float]) -> str:
    rows = []
    for name, value in test.items():
        task = suite.task(name)
        reference = f"{task.reference['value']:.3f} ({task.reference['source']})" if task.reference else ""
        rows.append((name, ", ".join(config.tasks[name].modalities), task.metric, f"{value:.3f}", reference))
    header = ("task", "modalities", "metric", "value", "reference")
    if not any(row[-1] for row in rows):
        return _table(header[:-1], [row[:-1] for row in rows])
    return _table(header, rows)


def _about_the_run(seed: int, num_seeds: int, report: str | None) -> str:
    text = f"Seed {seed}; the best epoch was chosen on validation data, and test data was used once, for this table."
    if num_seeds > 1:
        text += f" The scores are those of this model alone; the run repeated everything with {num_seeds} seeds."
    if report:
        text += (
            f" The run's [report]({report}) compares it with models that share all parameters, none, or random groups "
            "of them."
        )
    return text


def _tasks(suite: Suite, config: HighMMTConfig, processor: HighMMTProcessor) -> str:
    targets, inputs = [], []
    for name, task in config.tasks.items():
        labels = list((task.id2label or {}).values())
        shown = [*labels[:8], *([f"and {len(labels) - 8} more"] if len(labels) > 8 else [])]
        outputs = f"{task.num_steps} x {task.num_labels}" if task.num_steps else str(task.num_labels)
        targets.append((name, task.problem_type.replace("_", " "), outputs if labels else "-", ", ".join(shown)))
        for modality, entry in suite.task(name).modalities.items():
            shape = processor.shape(name, modality)
            axes = " x ".join("any" if size is None else str(size) for size in shape.axes)
            channels = "token ids" if shape.num_channels is None else str(shape.num_channels)
            columns = ", ".join(entry.get("columns", [entry.get("column")]))
            inputs.append((name, modality, suite.modalities[modality]["kind"], columns, axes, channels))
    return (
        f"{_table(('task', 'problem', 'outputs', 'names'), targets)}\n\n"
        "The processor turns raw columns into elements along one or more axes, each of some channels:\n\n"
        f"{_table(('task', 'modality', 'kind', 'raw columns', 'elements', 'channels'), inputs)}\n\n"
        "Any modality of a sample may be missing, as long as one is there."
    )


def _usage(suite: Suite, task: str) -> str:
    entries = suite.task(task).modalities.values()
    columns = [column for entry in entries for column in entry.get("columns", [entry.get("column")])]
    variable, read = "sample", f"# One raw sample of {task!r}, a dict of {', '.join(columns)}"
    if suite.task(task).target["problem_type"] == "retrieval":
        variable, read = "samples", f"# Raw samples of {task!r} to search among, a dict of lists, {', '.join(columns)}"
    return f"""```python
import highmmt  # registers the model with the Auto classes
from transformers import AutoModel, AutoProcessor

folder = "path/to/this/folder"
model = AutoModel.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)

{read}
batch = processor(task={task!r}, **{variable})
processor.decode({task!r}, model(**batch).logits[{task!r}])
```

For a file of samples: `highmmt predict path/to/this/folder --task {task} --input samples.parquet`."""


def _groups(config: HighMMTConfig) -> str:
    groups = config.groups()
    rows = []
    for letter, members, number in (
        ("U", groups.unimodal, groups.num_unimodal_groups),
        ("C", groups.crossmodal, groups.num_crossmodal_groups),
    ):
        for index in range(number):
            rows.append((f"{letter}{index + 1}", ", ".join(node for node, group in members.items() if group == index)))
    return "Members of a group use one copy of the parameters: U encodes modalities, C relates two of them.\n\n" + (
        _table(("group", "members"), rows)
    )


def _data(suite: Suite, config: HighMMTConfig) -> str:
    rows = []
    for name in config.tasks:
        task = suite.task(name)
        rows.append((name, task.area or "-", task.licence or "not stated", task.citation or "-"))
    return (
        f"{_table(('task', 'area', 'licence', 'source'), rows)}\n\n"
        "These licences are the data's. This card sets none for the weights: choose one that they allow before you "
        "publish the model."
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(number: int, word: str) -> str:
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"
