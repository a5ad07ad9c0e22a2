"""What the commands do, as functions: the command line only reads options and prints."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from .analysis import StudySettings, model_card
from .configuration import ParameterGroups
from .configuration.files import write_bytes, write_json
from .heterogeneity import HeterogeneityMatrix, cluster_parameter_groups, measure_heterogeneity
from .modeling_highmmt import HighMMTModel
from .processing import HighMMTProcessor
from .suites import Suite, load_suite
from .train import (
    MultitaskTrainer,
    TrainingSettings,
    encode_suite,
    finetune,
    metric_names,
    pretrain,
    save_model_folder,
    single_task,
)


def open_run_folder(folder: Path, suite: Suite) -> None:
    """Make the folder and put the suite into it, or see that it is a folder of that suite.

    Raises:
        ValueError: the folder holds a run of another suite, or something else.
    """
    kept = folder / "suite.yaml"
    if kept.exists():
        if load_suite(kept).fingerprint != suite.fingerprint:
            raise ValueError(
                f"{folder} holds a run of suite {load_suite(kept).name!r} with other data, tasks or options than "
                f"{suite.name!r} has now. Choose another --output-dir."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder and holds no run; choose another --output-dir.")
    folder.mkdir(parents=True, exist_ok=True)
    suite.save(kept)


def train_recipe(
    suite: Suite,
    folder: Path,
    recipe: str,
    *,
    quick: bool = False,
    groups: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train one recipe and save its model folders.

    Args:
        suite: what to train on.
        folder: run folder; models go to `pretrained`, `finetuned` or `single_task/<task>` in it.
        recipe: `"pretrain"`, `"finetune"` (needs `pretrained` and parameter groups) or `"single_task"`.
        quick: few epochs.
        groups: file of parameter groups; None for the run folder's own.
        changes: training settings that replace the suite's.

    Returns:
        Task to its metric on test data.

    Raises:
        FileNotFoundError: fine-tuning without a pretrained model or without parameter groups.
    """
    settings = StudySettings.for_suite(suite, quick=quick)
    first, second = (
        dataclasses.replace(phase, **(changes or {})) for phase in (settings.pretraining, settings.finetuning)
    )
    map_file = groups or folder / "parameter_groups.json"
    if recipe == "finetune":
        if not (folder / "pretrained" / "config.json").exists():
            raise FileNotFoundError(
                f"{folder / 'pretrained'} holds no model to clone. First: highmmt train {suite.name} --recipe pretrain "
                f"--output-dir {folder}"
            )
        if not map_file.exists():
            raise FileNotFoundError(
                f"{map_file}: no parameter groups. Name a file with --groups, or make one: highmmt heterogeneity "
                f"{suite.name} --output-dir {folder}, then highmmt cluster {folder}"
            )
    open_run_folder(folder, suite)
    if recipe == "finetune":
        processor = HighMMTProcessor.from_pretrained(folder / "pretrained")
        shared = HighMMTModel.from_pretrained(folder / "pretrained")
        model, _, test = finetune(
            shared, ParameterGroups.from_json_file(map_file), suite, processor, encode_suite(suite, processor), second
        )
        save_model_folder(folder / "finetuned", model, processor, model_card(suite, model, test, "finetuned"))
        return test
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    if recipe == "pretrain":
        model, _, test = pretrain(suite, processor, data, first)
        save_model_folder(folder / "pretrained", model, processor, model_card(suite, model, test, "pretrained"))
        return test
    scores = {}
    for task in suite.tasks:
        model, _, test = single_task(task, suite, processor, data, [first, second])
        card = model_card(suite, model, test, "single_task")
        save_model_folder(folder / "single_task" / task, model, processor, card)
        scores.update(test)
    return scores


def measure_suite(
    suite: Suite, folder: Path, *, quick: bool = False, changes: Mapping[str, Any] | None = None
) -> dict[str, HeterogeneityMatrix]:
    """Both heterogeneity matrices of a suite, measured or read from the run folder where they are there already.

    Raises:
        ValueError: the folder's matrices were measured with other settings.
    """
    settings = dataclasses.replace(StudySettings.for_suite(suite, quick=quick).heterogeneity, **(changes or {}))
    open_run_folder(folder, suite)
    processor = suite.build_processor()
    data = encode_suite(suite, processor)
    matrices = {}
    for kind in ("unimodal", "interaction"):
        path = folder / "heterogeneity" / f"{kind}.json"
        if path.exists():
            found = HeterogeneityMatrix.from_json_file(path)
            if found.settings != settings.to_dict():
                raise ValueError(f"{path} was measured with other settings; choose another --output-dir, or delete it.")
            matrices[kind] = found
            continue
        matrices[kind] = measure_heterogeneity(suite, processor, data, kind, settings, path.parent / "runs")
        matrices[kind].to_json_file(path)
    return matrices


def cluster_folder(folder: Path, **counts: int | None) -> ParameterGroups:
    """Parameter groups from a run folder's matrices, written to its `parameter_groups.json`.

    Args:
        folder: run folder.
        counts: `num_unimodal_groups`, `num_crossmodal_groups` or `k`, as `cluster_parameter_groups` takes them.

    Raises:
        FileNotFoundError: the matrices are not there.
    """
    matrices = [
        HeterogeneityMatrix.from_json_file(folder / "heterogeneity" / f"{kind}.json")
        for kind in ("unimodal", "interaction")
    ]
    groups = cluster_parameter_groups(*matrices, **counts)
    write_json(folder / "parameter_groups.json", groups.to_dict())
    return groups


def load_model(folder: Path) -> tuple[HighMMTModel, HighMMTProcessor]:
    """Model, ready to predict, and processor of a model folder.

    Raises:
        FileNotFoundError: the folder is not there, or holds no model or no processor.
    """
    for name in ("config.json", "model.safetensors", "processor_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no model folder: it has no {name}.")
    return HighMMTModel.from_pretrained(folder).eval(), HighMMTProcessor.from_pretrained(folder)


def evaluate_folder(folder: Path, suite: Suite, split: str) -> dict[str, dict[str, float]]:
    """Rows, loss and metric of a saved model for every task of a suite.

    Raises:
        ValueError: the model lacks a task of the suite; the message lists those it has.
    """
    model, processor = load_model(folder)
    data = {}
    for task in suite.tasks:
        if task not in model.config.tasks:
            raise ValueError(
                f"{folder} has no task {task!r}; it has {', '.join(model.config.tasks)}. Choose with --tasks."
            )
        data[task] = {split: processor.encode(task, suite.load(task)[split])}
    trainer = MultitaskTrainer(model, processor, data, metric_names(suite), TrainingSettings())
    values = trainer.evaluate(split)
    return {task: {"rows": len(data[task][split]), **values[task]} for task in data}


def read_rows(path: Path) -> Dataset:
    """Rows of a Parquet, CSV or JSON-lines file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or one that cannot be read; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    readers = {".parquet": Dataset.from_parquet, ".csv": Dataset.from_csv, ".json": Dataset.from_json, ".jsonl": Dataset.from_json}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a file of rows ends in {', '.join(readers)}.")
    try:
        rows = readers[path.suffix.lower()](str(path))
    except (DatasetGenerationError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error.__cause__ or error}") from error
    if not len(rows):
        raise ValueError(f"{path} has no rows.")
    return rows


@torch.no_grad()
def predict_file(folder: Path, task: str, source: Path, output: Path | None = None) -> tuple[Path, int]:
    """Predictions of a saved model for a file of raw rows, written as a table of one row each.

    Args:
        folder: model folder.
        task: one of its tasks.
        source: Parquet, CSV or JSON lines with the task's raw columns; others are ignored.
        output: `.parquet`, `.csv` or `.jsonl`; None for `<source>.predictions.parquet` in the working directory.

    Returns:
        The file written and its number of rows.

    Raises:
        ValueError: an unknown task, a missing column, a row that cannot be read, or an unknown ending.
    """
    output = output or Path(f"{source.stem}.predictions.parquet")
    if output.suffix.lower() not in (".parquet", ".csv", ".jsonl"):
        raise ValueError(f"{output}: predictions can be written as .parquet, .csv or .jsonl.")
    model, processor = load_model(folder)
    if task not in model.config.tasks:
        raise ValueError(f"{folder} has no task {task!r}; it has {', '.join(model.config.tasks)}.")
    encoded = processor.encode(task, read_rows(source), with_labels=False).with_format("arrow")
    decoded: list[dict[str, Any]] = []
    for start in range(0, len(encoded), 256):
        batch = processor.collate(task, encoded[start : start + 256])
        batch.pop("row", None)
        decoded += processor.decode(task, model(**batch).logits[task])
    write_table(output, pa.Table.from_pylist([_flat(row) for row in decoded]))
    return output, len(decoded)


def write_table(path: Path, table: pa.Table) -> Path:
    """Write a table as `.parquet`, `.csv` or `.jsonl`, whole or not at all."""
    buffer = io.BytesIO()
    if path.suffix.lower() == ".parquet":
        pq.write_table(table, buffer)
    elif path.suffix.lower() == ".csv":
        pa_csv.write_csv(table, buffer)
    else:
        table.to_pandas().to_json(buffer, orient="records", lines=True)
    return write_bytes(path, buffer.getvalue())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One decoded prediction as columns: `label`, `score`, then one `probability_<label>` each."""
    flat = {key: value for key, value in row.items() if key != "probabilities"}
    return {**flat, **{f"probability_{label}": value for label, value in row.get("probabilities", {}).items()}}


def inspect_task(suite: Suite, task: str) -> dict[str, Any]:
    """What a task's data looks like.

    Returns:
        `rows` of each split; for each modality its kind, encoded shape, range of raw values in the training split,
        share of missing numbers and of absent samples; the target in words.
    """
    spec = suite.task(task)
    splits = suite.load(task)
    processor = suite.select([task]).build_processor()
    train = splits["train"]
    modalities = {}
    for name, options in spec.modalities.items():
        column = train.with_format("arrow")[:][options["column"]].combine_chunks()
        shape = processor.shape(task, name)
        axes = " x ".join("?" if size is None else str(size) for size in shape.axes)
        channels = "token ids" if shape.num_channels is None else str(shape.num_channels)
        encoded = processor.encode(task, train).with_format("arrow")[:][name].combine_chunks()
        absent = pc.mean(pc.equal(pc.list_value_length(encoded), 0).cast(pa.float64())).as_py()
        value_range, missing = _raw_numbers(column)
        modalities[name] = {
            "kind": suite.modalities[name]["kind"],
            "shape": f"{axes} x {channels}",
            "range": value_range,
            "missing": missing,
            "absent": f"{absent:.1%}" if absent else "0",
        }
    rows = {split: len(values) for split, values in splits.items()}
    return {"rows": rows, "modalities": modalities, "target": _target_in_words(processor, task, train, spec.target)}


def _raw_numbers(column: pa.Array) -> tuple[str, str]:
    """Range of a column's numbers, and the share of them that is missing."""
    while pa.types.is_nested(column.type) and not pa.types.is_struct(column.type):
        column = column.flatten()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return "-", "-"
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    finite = values[np.isfinite(values)]
    share = 1 - len(finite) / max(len(values), 1)
    return (f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else "-"), f"{share:.1%}" if share else "0"


def _target_in_words(processor: HighMMTProcessor, task: str, train: Dataset, target: Mapping[str, Any]) -> str:
    names = list(processor.task_configs()[task]["id2label"].values())
    labels = processor.collate(task, processor.encode(task, train).with_format("arrow")[:], modalities=[])["labels"][task]
    if target["problem_type"] == "single_label_classification":
        counts = torch.bincount(labels, minlength=len(names)).tolist()
        return ", ".join(f"{name} {count / len(labels):.0%}" for name, count in zip(names, counts, strict=True))
    if target["problem_type"] == "multi_label_classification":
        return ", ".join(f"{name} {share:.0%}" for name, share in zip(names, labels.mean(0).tolist(), strict=True))
    mean, deviation = processor.target_scale(task)
    return ", ".join(f"{name} {m:.3g} ± {d:.3g}" for name, m, d in zip(names, mean.tolist(), deviation.tolist(), strict=True))
