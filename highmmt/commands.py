"""What the commands do, as functions: the command line only reads options and prints."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from torch import Tensor

from .analysis import (
    KINDS,
    GroupSizes,
    Prepared,
    StudySettings,
    check_matrices,
    choose_groups,
    draw_sample,
    groups_by_hand,
    load_model,
    load_model_folder,
    measure_matrices,
    measuring_costs,
    open_run_folder,
    save_stability,
    write_changed,
    write_figures,
    write_report,
)
from .configuration import ParameterGroups
from .configuration.files import write_bytes
from .heterogeneity import (
    GroupStability,
    HeterogeneityMatrix,
    HeterogeneitySettings,
    SweepEstimate,
    estimate_sweep,
    silhouette_curve,
)
from .heterogeneity.clustering import Linkage
from .heterogeneity.distances import MatrixKind
from .modeling_highmmt import HighMMTModel, labelled
from .modeling_highmmt.export import Format, describe_program, save_program
from .modeling_highmmt.heads import RetrievalHead
from .processing import HighMMTProcessor
from .processing.arrow import is_list, plain_array
from .processing.targets import best_matches, name_matches
from .suites import Suite, load_suite
from .suites.first_version import PICTURES
from .suites.lines import did_you_mean
from .suites.loading import EmptySplitError
from .suites.row_paths import path_columns, with_whole_paths
from .suites.sound_folder import ENDINGS
from .train import MultitaskTrainer, encode_suite, metric_names
from .train.processes import process_state

# How many rows a model reads at a time.
BATCH_SIZE = 256
_READERS = {
    ".parquet": Dataset.from_parquet,
    ".csv": Dataset.from_csv,
    ".json": Dataset.from_json,
    ".jsonl": Dataset.from_json,
}
_WRITTEN = (".parquet", ".csv", ".jsonl")
_RUN_FILES = ("run.json", "suite.yaml", "metrics.json", "parameter_groups.json", "heterogeneity", "finetuned")


def measure_suite(
    suite: Suite, folder: Path, *, quick: bool = False, changes: Mapping[str, Any] | None = None
) -> dict[str, HeterogeneityMatrix]:
    """Both heterogeneity matrices of a suite, measured or read from the run folder where they are there already.

    Their figures are drawn into the folder. A task without training or validation rows is left out.

    Raises:
        ValueError: the folder holds something else, or its matrices were measured with other settings.
    """
    settings = _heterogeneity_settings(suite, quick, changes)
    with process_state().main_process_first():
        open_run_folder(folder, suite)
    prepare = functools.cache(functools.partial(_prepared, suite))
    matrices = measure_matrices(suite, settings, folder / "heterogeneity", prepare)
    if is_main_process():
        write_figures(folder, StudySettings.for_suite(suite).linkage)
    return {kind: matrices[kind] for kind in KINDS}


def costs_of(folder: Path) -> list[str]:
    """What each matrix of a run folder took to measure, in words."""
    costs = measuring_costs(folder / "heterogeneity")
    return [
        f"{kind} {runs} run{'' if runs == 1 else 's'}" + ("" if seconds is None else f" in {seconds:.1f} s")
        for kind, (runs, seconds) in costs.items()
    ]


def estimate_suite(
    suite: Suite, folder: Path, *, quick: bool = False, changes: Mapping[str, Any] | None = None
) -> dict[str, SweepEstimate]:
    """What both matrices of a suite would cost; nothing is written.

    Raises:
        ValueError: the folder holds runs of something else, or nothing can be measured.
    """
    settings = _heterogeneity_settings(suite, quick, changes)
    ready = _prepared(suite)
    runs = folder / "heterogeneity" / "runs"
    estimates: dict[str, SweepEstimate] = {
        kind: estimate_sweep(suite, ready.processor, ready.data, kind, settings, runs, left_out=ready.left_out)
        for kind in KINDS
    }
    if settings.method == "feature":  # the joint models that the first matrix needs serve the second as well
        estimates[KINDS[1]] = dataclasses.replace(estimates[KINDS[1]], runs=0, finished=0, seconds=0.0)
    return estimates


def _heterogeneity_settings(suite: Suite, quick: bool, changes: Mapping[str, Any] | None) -> HeterogeneitySettings:
    """How to measure, once it is clear that there is something to compare."""
    nodes = suite.modality_task_pairs()
    if len(nodes) < 2:
        raise ValueError(
            f"Suite {suite.name!r} has {nodes[0] if nodes else 'no modality'} alone; heterogeneity compares at least "
            "two modality-task pairs. Add a modality or a task."
        )
    return dataclasses.replace(StudySettings.for_suite(suite, quick=quick).heterogeneity, **(changes or {}))


def _prepared(suite: Suite) -> Prepared:
    """Processor and data of the tasks that have rows to train on and to validate with.

    Raises:
        ValueError: no task has.
    """
    left_out = {}
    for task in suite.tasks:
        try:
            suite.load(task)
        except EmptySplitError as error:
            if error.split == "test":  # not needed here, but a suite that no command will take should say so early
                raise
            left_out[task] = str(error)
    if len(left_out) == len(suite.tasks):
        raise ValueError(f"No node can be measured. {' '.join(left_out.values())}")
    part = suite.select([task for task in suite.tasks if task not in left_out]) if left_out else suite
    processor = part.build_processor()
    return Prepared(processor, encode_suite(part, processor), left_out)


def is_main_process() -> bool:
    """Whether this process, if several were launched, is the one that prints."""
    return process_state().is_main_process


@dataclasses.dataclass(frozen=True)
class Grouping:
    """What `cluster_folder` found and wrote.

    Args:
        path: file of the groups.
        groups: these.
        curves: kind of matrix to its silhouette curve.
        stability: kind of matrix to how sure its groups are.
        figures: folder of the figures; None where none were drawn.
    """

    path: Path
    groups: ParameterGroups
    curves: dict[MatrixKind, dict[int, float]]
    stability: dict[MatrixKind, GroupStability]
    figures: Path | None


def cluster_folder(
    folder: Path,
    output: Path | None = None,
    *,
    by_hand: Path | None = None,
    linkage: Linkage = "average",
    **numbers: int | None,
) -> Grouping:
    """Parameter groups from a run folder's matrices, how sure they are, and figures of both.

    Args:
        folder: run folder.
        output: file to write; None for the folder's `parameter_groups.json`. The folder's figures show its own groups.
        by_hand: file of groups to take as they are; without it, groups are clustered.
        linkage: of the clustering.
        numbers: `num_unimodal_groups`, `num_crossmodal_groups`, `k`, `max_parameters`, as `choose_groups` takes them.

    Raises:
        FileNotFoundError: the folder or its matrices are not there.
        ValueError: matrices that do not belong together, impossible numbers of groups, groups by hand that are not
            complete, or the folder's models were trained with other groups than these.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such run folder.")
    path = output or folder / "parameter_groups.json"
    matrices = {kind: HeterogeneityMatrix.from_json_file(folder / "heterogeneity" / f"{kind}.json") for kind in KINDS}
    check_matrices(matrices, folder)
    if by_hand is None:
        groups = choose_groups(matrices, functools.partial(_group_sizes, folder), linkage=linkage, **numbers)
    else:
        if given := [name for name, number in numbers.items() if number is not None]:
            raise ValueError(f"{by_hand} says which groups there are, so {given[0]} cannot be given, too.")
        nodes = {kind: [*matrix.nodes, *matrix.excluded] for kind, matrix in matrices.items()}
        groups = groups_by_hand(by_hand, nodes["unimodal"], nodes["interaction"])
    if output is None and path.exists() and (folder / "methods").exists():
        if ParameterGroups.from_json_file(path) != groups:
            raise ValueError(
                f"{path} holds the groups that the models of {folder} were trained with; name another file with "
                "--output."
            )
    write_changed(path, groups.to_dict())
    stability = save_stability(path, groups, matrices, linkage)
    curves = {kind: silhouette_curve(matrix.values, linkage, matrix.nodes) for kind, matrix in matrices.items()}
    return Grouping(path, groups, curves, stability, None if output else write_figures(folder, linkage))


def _group_sizes(folder: Path) -> GroupSizes:
    """Parameters of a group in the model of the suite that a run folder belongs to."""
    if not (folder / "suite.yaml").exists():
        raise FileNotFoundError(
            f"{folder / 'suite.yaml'}: there is no suite, whose model says how many parameters a group has. Give "
            "numbers of groups instead of --max-parameters."
        )
    suite = load_suite(folder / "suite.yaml")
    return GroupSizes.of(suite, suite.build_processor())


def evaluate_folder(folder: Path, suite: Suite, split: str) -> dict[str, dict[str, float]]:
    """Rows, loss and metric of a saved model for every task of a suite.

    Raises:
        ValueError: the model lacks a task of the suite; the message lists those it has.
    """
    model, processor = load_model_folder(folder)
    for task in suite.tasks:
        if task not in model.config.tasks:
            raise ValueError(
                f"{folder} has no task {task!r} of suite {suite.name!r}; it has {', '.join(model.config.tasks)}. "
                "Choose with --tasks."
            )
    data = {task: {split: processor.encode(task, suite.load(task)[split])} for task in suite.tasks}
    # The loss of a retrieval is one of chunks as large as a training step.
    sizes = {task: spec.batch_size for task, spec in suite.tasks.items()}
    settings = dataclasses.replace(StudySettings.for_suite(suite).finetuning, batch_sizes=sizes)
    trainer = MultitaskTrainer(model, processor, data, metric_names(suite), settings)
    values = trainer.evaluate(split)
    return {task: {"rows": len(data[task][split]), **values[task]} for task in data}


def read_rows(path: Path) -> Dataset:
    """Rows of a Parquet, CSV or JSON-lines file, in memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, one that cannot be read, or one without rows; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'this is a folder, not' if path.is_dir() else 'no such'} file.")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path}: a file of rows ends in {', '.join(_READERS)}.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    with tempfile.TemporaryDirectory() as cache:
        try:
            if suffix == ".parquet" and not pq.read_metadata(path).num_rows:
                raise ValueError("it has no rows")
            rows = _READERS[suffix](str(path), cache_dir=cache, keep_in_memory=True)
        except (DatasetGenerationError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"{path} cannot be read as {suffix[1:]}: {reason}") from error
    if not len(rows):
        raise ValueError(f"{path} has no rows.")
    return rows


@torch.no_grad()
def predict_file(folder: Path, task: str, source: Path, output: Path | None = None) -> tuple[Path, int]:
    """Predictions of a saved model for a file of raw rows, written as a table in the order of the rows.

    Its columns: `row`, the row's index in the file; for a classification `label`, `score` and one
    `probability_<class>` for each class; for several labels `labels` and the probabilities; for a regression one
    column for each quantity, in its original unit. A sequence of targets has a list over its steps in each of these
    columns. A retrieval of the modalities a and b has `b_matches`, the rows of the file whose b suits this row's a
    (at most ten, best first), `b_scores`, their probabilities among all rows, and the same for a by b.

    Args:
        folder: model folder.
        task: one of its tasks.
        source: Parquet, CSV or JSON lines with the task's raw columns; others are ignored. Where the task reads one
            picture, film or recording, also such a file or a folder of them, which then stand in a column `file`.
        output: `.parquet`, `.csv` or `.jsonl`; None for `<source>.predictions.parquet` in the working directory.

    Returns:
        The file written and its number of rows.

    Raises:
        FileNotFoundError: no such model folder or file.
        ValueError: an unknown task, a missing column, a row that cannot be read, an unknown ending, or an output that
            would replace the input.
    """
    output = output or Path(f"{source.stem}.predictions.parquet")
    if output.suffix.lower() not in _WRITTEN:
        raise ValueError(f"{output}: predictions can be written as {', '.join(_WRITTEN)}.")
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file with --output.")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input; name another file with --output.")
    _require_writable(output)
    model, processor = load_model_folder(folder)
    if task not in model.config.tasks:
        raise ValueError(f"{folder} has no task {task!r}{did_you_mean(task, model.config.tasks, 'Tasks')}")
    columns = path_columns(processor.modalities, processor.tasks[task]["modalities"])
    files = _files_of_rows(source, processor, task)
    if files:
        (column,) = columns
        rows = Dataset.from_dict({column: files})
    else:
        rows = with_whole_paths(read_rows(source), columns, [source.resolve().parent], str(source))
    encoded = processor.encode(task, rows, with_labels=False).with_format("arrow")
    retrieval = model.config.tasks[task].problem_type == "retrieval"
    table: list[dict[str, Any]] = []
    embeddings: list[Tensor] = []
    for start in range(0, len(encoded), BATCH_SIZE):
        batch = processor.collate(task, encoded[start : start + BATCH_SIZE])
        rows = batch.pop("row")[task].tolist()
        predicted = model(**batch)
        if retrieval:
            embeddings.append(predicted.multimodal_states[task])
            continue
        decoded = processor.decode(task, predicted.logits[task])
        named = [{"row": row, **({"file": files[row]} if files else {})} for row in rows]
        table += [{**name, **_flat(values)} for name, values in zip(named, decoded, strict=True)]
    if retrieval:
        table = _search(model, task, torch.cat(embeddings))
    write_table(output, table)
    return output, len(table)


def _files_of_rows(source: Path, processor: HighMMTProcessor, task: str) -> list[str]:
    """Paths of the pictures or sounds that a file or a folder is, in alphabetical order; none for a file of rows.

    Raises:
        ValueError: the task does not read one file a row, or the folder has none.
    """
    endings = (*PICTURES, *ENDINGS)
    if not source.is_dir() and (source.suffix.lower() not in endings or not source.is_file()):
        return []
    entries = processor.tasks[task]["modalities"]
    kinds = [processor.modalities[name]["kind"] for name in entries]
    if kinds not in (["image"], ["video"], ["audio"]):
        raise ValueError(
            f"{source}: task {task!r} reads {', '.join(entries)}; a picture, a sound or a folder of them is for a "
            "task of one such modality. Give a file of rows."
        )
    fitting = ENDINGS if kinds == ["audio"] else PICTURES
    found = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [str(path.resolve()) for path in found if path.is_file() and path.suffix.lower() in fitting]
    if not files:
        raise ValueError(f"{source}: there is no {kinds[0]} file ({', '.join(fitting)}) for task {task!r}.")
    return files


def _search(model: HighMMTModel, task: str, embeddings: Tensor) -> list[dict[str, Any]]:
    """For every row of a retrieval's embeddings the best matches among all rows, in both directions."""
    head = cast(RetrievalHead, model.heads[task])
    table: list[dict[str, Any]] = [{"row": row} for row in range(len(embeddings))]
    names, (first, second) = model.config.tasks[task].modalities, embeddings.chunk(2, dim=1)
    for modality, queries, candidates in ((names[1], first, second), (names[0], second, first)):
        for start in range(0, len(table), BATCH_SIZE):
            matches = best_matches(head.similarity(queries[start : start + BATCH_SIZE], candidates))
            for row, found in enumerate(matches, start):
                table[row].update(name_matches(modality, found))
    return table


def export_folder(
    folder: Path, task: str, file_format: Format, output: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """One task of a saved model as a program in a file.

    Args:
        folder: model folder.
        task: one of its tasks.
        file_format: `"onnx"` or `"pt2"`.
        output: file to write; None for `<task>.<file_format>` in the working directory.

    Returns:
        The file written, and what its inputs and outputs are.

    Raises:
        FileNotFoundError: no such model folder.
        ValueError: an unknown task, an output that is a folder, a library of the extra `onnx` that is not installed,
            or a program that does not give the model's logits.
    """
    output = output or Path(f"{task}.{file_format}")
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file with --output.")
    _require_writable(output)
    model = load_model(folder)
    if task not in model.config.tasks:
        raise ValueError(f"{folder} has no task {task!r}{did_you_mean(task, model.config.tasks, 'Tasks')}")
    try:
        return save_program(model, task, output, file_format), describe_program(model, task)
    except ImportError as error:
        raise ValueError(str(error)) from error


def _require_writable(path: Path) -> None:
    """Refuse, before any work, a file that cannot be written in the end."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "no permission to write", str(folder))


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as `.parquet`, `.csv` (lists as JSON) or `.jsonl`, whole or not at all."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return write_bytes(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
    buffer = io.BytesIO()
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), buffer)
    else:
        flat = [
            {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
            for row in rows
        ]
        pa_csv.write_csv(pa.Table.from_pylist(flat), buffer)
    return write_bytes(path, buffer.getvalue())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One decoded prediction as columns: `label`, `score`, then one `probability_<label>` each."""
    flat = {key: value for key, value in row.items() if key != "probabilities"}
    return {**flat, **{f"probability_{label}": value for label, value in row.get("probabilities", {}).items()}}


def report_folder(folder: Path) -> Path:
    """Write a run folder's `report.html` from what the folder holds.

    Raises:
        FileNotFoundError: there is no such folder, or nothing of a run in it.
        ValueError: a file of the run is broken; the message names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such run folder.")
    if not any((folder / name).exists() for name in _RUN_FILES):
        raise FileNotFoundError(f"{folder} holds nothing of a run; name the --output-dir of `highmmt run`.")
    return write_report(folder)


def draw_task(suite: Suite, task: str, row: int, output: Path | None = None) -> Path:
    """A picture of a row of a task's training split, before and after serialization.

    Args:
        suite: has the task.
        task: name of the task.
        row: which row, from 0.
        output: `.png` file; None for `<suite>-<task>.png` in the working directory.

    Returns:
        The file written.

    Raises:
        ValueError: another ending, a folder, or no such row.
    """
    output = output or Path(f"{suite.name}-{task}.png")
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output}: the picture is a PNG; name a file that ends in .png.")
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file with --output.")
    _require_writable(output)
    rows = suite.load(task)["train"]
    if row >= len(rows):
        raise ValueError(f"Task {task!r}: the training split has no row {row}; its rows are 0 to {len(rows) - 1}.")
    return write_bytes(output, draw_sample(suite.select([task]).build_processor(), rows, task, row))


def inspect_task(suite: Suite, task: str) -> dict[str, Any]:
    """What a task's data looks like.

    Returns:
        `rows` of each split; for each modality its kind, encoded shape, range of raw values in the training split,
        share of missing numbers and of absent samples; the target in words. The range of a recording is that of its
        spectrogram, that of a graph its nodes'.
    """
    spec = suite.task(task)
    splits = suite.load(task)
    processor = suite.select([task]).build_processor()
    train = splits["train"].with_format("arrow")[:]
    encoded = processor.encode(task, splits["train"]).with_format("arrow")[:]
    modalities = {}
    for name, options in spec.modalities.items():
        shape = processor.shape(task, name)
        axes = " x ".join("?" if size is None else str(size) for size in shape.axes)
        channels = "token ids" if shape.num_channels is None else str(shape.num_channels)
        lengths = pc.list_value_length(encoded[name]).to_numpy()
        columns = [plain_array(train[column]) for column in options.get("columns", [options.get("column")])]
        value_range, missing = _raw_numbers(_parts(columns, suite.modalities[name]["kind"]))
        statistics = processor.statistics[f"{task}/{name}"]
        if value_range == "-" and "low" in statistics:  # files, of which no number is missing
            value_range, missing = f"{statistics['low']:.4g} to {statistics['high']:.4g}", _share(0)
        modalities[name] = {
            "kind": suite.modalities[name]["kind"],
            "shape": f"{axes} x {channels}",
            "range": value_range,
            "missing": missing,
            "absent": _share((lengths == 0).mean()),
        }
    rows = {split: len(values) for split, values in splits.items()}
    return {"rows": rows, "modalities": modalities, "target": _target_in_words(processor, task, encoded)}


def _share(value: float) -> str:
    return f"{value:.1%}" if value else "0"


def _parts(columns: list[pa.Array], kind: str) -> list[pa.Array]:
    """The columns of a table whose rows are mappings, the nodes of graphs; any others as they are."""
    if kind == "graph" and pa.types.is_struct(columns[0].type):
        return [pc.struct_field(columns[0], "nodes")]
    if kind == "table" and pa.types.is_struct(columns[0].type):
        return [pc.struct_field(columns[0], index) for index in range(columns[0].type.num_fields)]
    return columns[:1] if kind == "graph" else columns


def _raw_numbers(columns: list[pa.Array]) -> tuple[str, str]:
    """Range of the numbers in some columns, and the share of all their values that is missing; dashes for others."""
    parts, total, missing = [np.zeros(0)], 0, 0
    for column in columns:
        array = plain_array(column)
        while is_list(array.type):
            array = plain_array(array.flatten())
        if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
            values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
            parts.append(values[np.isfinite(values)])
            missing += len(values) - len(parts[-1])
        elif len(columns) > 1:  # a table's categories
            missing += array.null_count
        else:
            return "-", "-"
        total += len(array)
    numbers = np.concatenate(parts)
    value_range = f"{numbers.min():.4g} to {numbers.max():.4g}" if len(numbers) else "-"
    return value_range, _share(missing / max(total, 1))


def _target_in_words(processor: HighMMTProcessor, task: str, encoded: pa.Table) -> str:
    """Shares of the classes, or mean and deviation of the quantities, in the training split; a retrieval's items."""
    description = processor.task_configs()[task]
    labels = processor.collate(task, encoded, modalities=[])["labels"][task]
    known = labelled(labels)
    if description["problem_type"] == "retrieval":
        rows = int(known.sum())
        return f"{' by '.join(description['modalities'])} and back, {len(labels[known].unique())} items in {rows} rows"
    names, steps = list(description["id2label"].values()), ""
    if description["num_steps"] is not None:
        steps = f"{description['num_steps']} steps ({float(known.float().mean()):.0%} with a target): "
    if description["problem_type"] == "regression":
        scale = zip(names, *(part.tolist() for part in processor.target_scale(task)), strict=True)
        return steps + ", ".join(f"{name} {mean:.3g} ± {deviation:.3g}" for name, mean, deviation in scale)
    if description["problem_type"] == "single_label_classification":
        shares = torch.bincount(labels[known], minlength=len(names)) / known.sum()
    else:
        shares = labels.flatten(0, -2).nanmean(0)
    return steps + ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares.tolist(), strict=True))
