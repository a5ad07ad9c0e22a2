"""The model card of a trained folder, made from the suite and the run's numbers."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCardData

from ..modeling_highmmt import HighMMTModel
from ..suites import Suite

# What each metric is called in the Hub's model-index.
_TASK_TYPE = {
    "single_label_classification": "tabular-classification",
    "multi_label_classification": "tabular-classification",
    "regression": "tabular-regression",
}
_STAGES = {
    "pretrained": "homogeneous pretraining: one set of parameters shared by all tasks",
    "single_task": "training on one task alone",
    "finetuned": "heterogeneity-aware fine-tuning: parameters in groups, cloned from the pretrained model",
}


def model_card(suite: Suite, model: HighMMTModel, test: Mapping[str, float], stage: str) -> str:
    """Text of `README.md` for a model folder.

    Args:
        suite: what the model was trained on.
        model: the trained model.
        test: task to its metric on test data.
        stage: `"pretrained"`, `"finetuned"` or `"single_task"`.

    Returns:
        Metadata the Hub reads (with `model-index` results) and a description.
    """
    data = ModelCardData(
        model_name=f"highmmt-{suite.name}-{stage}",
        library_name="highmmt",
        license="apache-2.0",
        tags=["highmmt", "multimodal", "multitask", *sorted(model.config.modalities)],
        metrics=sorted({suite.task(name).metric for name in test}),
        eval_results=[
            EvalResult(
                task_type=_TASK_TYPE[model.config.tasks[name].problem_type],
                dataset_type=f"{suite.name}-{name}",
                dataset_name=f"{suite.name}: {name}",
                dataset_split="test",
                metric_type=suite.task(name).metric,
                metric_value=round(value, 6),
            )
            for name, value in test.items()
        ],
    )
    counts = model.num_parameters_by_component()
    groups = model.config.groups()
    first = next(iter(model.config.tasks))
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# HighMMT, suite `{suite.name}`",
        "",
        f"{suite.description} Trained by {_STAGES[stage]}.",
        "",
        f"{counts['total']:,} parameters: {counts['unimodal']:,} in {groups.num_unimodal_groups} unimodal group(s), "
        f"{counts['crossmodal']:,} in {groups.num_crossmodal_groups} crossmodal group(s), "
        f"{counts['heads'] + counts['embeddings']:,} in heads and embeddings.",
        "",
        "## Results on test data",
        "",
        "| task | modalities | metric | value |",
        "|---|---|---|---|",
        *(
            f"| {name} | {', '.join(model.config.tasks[name].modalities)} | {suite.task(name).metric} | {value:.3f} |"
            for name, value in test.items()
        ),
        "",
        "One run; the best epoch was chosen on validation data.",
        "",
        "## Use",
        "",
        "```python",
        "import highmmt  # registers the model with the Auto classes",
        "from transformers import AutoModel, AutoProcessor",
        "",
        'model = AutoModel.from_pretrained("path/to/this/folder").eval()',
        'processor = AutoProcessor.from_pretrained("path/to/this/folder")',
        f"# row: one sample of {first!r} as a dict of its raw columns",
        f"batch = processor(task={first!r}, **row)",
        f"processor.decode({first!r}, model(**batch).logits[{first!r}])",
        "```",
        "",
        "## Parameter groups",
        "",
        "| group | members |",
        "|---|---|",
        *(_group_row(f"U{index}", groups.unimodal, index) for index in range(groups.num_unimodal_groups)),
        *(_group_row(f"C{index}", groups.crossmodal, index) for index in range(groups.num_crossmodal_groups)),
        "",
        "## Data",
        "",
        "| task | area | licence |",
        "|---|---|---|",
        *(f"| {name} | {suite.task(name).area} | {suite.task(name).licence} |" for name in model.config.tasks),
        "",
        "## Limits",
        "",
        "Trained on small data sets for research on sharing parameters between modalities; not for decisions about "
        "people. Health tasks hold sampled or confounded groups, so no score here is a rate of a population.",
        "",
        "Method: Liang et al., High-Modality Multimodal Transformer, TMLR 05/2023.",
        "",
    ]
    return "\n".join(lines)


def _group_row(name: str, groups: Mapping[str, int], index: int) -> str:
    return f"| {name} | {', '.join(node for node, group in groups.items() if group == index)} |"
