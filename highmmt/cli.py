"""The command line: `highmmt run`, a command for each of its stages, and what can be done with a model or a suite."""

from __future__ import annotations

import errno
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from . import __version__
from .console import (
    DATA,
    GROUPING,
    MEASURING,
    RESULT,
    DataDir,
    ModelArgument,
    OutputDir,
    Quick,
    ReportTo,
    RunArgument,
    SuiteArgument,
    Tasks,
    given,
    library_errors,
    load_named_suite,
    out,
    prepare_libraries,
    say,
    table_of,
    tell,
    worker_errors,
    writes_to,
)
from .interrupts import InterruptibleGroup, StoppedError, terminated_like_ctrl_c
from .suite_commands import suite_app
from .train_command import train

ABOUT = "One small model for many modalities and tasks: measure heterogeneity, group parameters, train, predict."
EPILOG = "Start with: highmmt run starter --quick --output-dir runs/quick. More on a command: highmmt COMMAND --help"
# Typer raises errors of click, or of a copy of click that it carries; either way this is their common parent.
UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="highmmt",
    cls=InterruptibleGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=ABOUT,
    epilog=EPILOG,
)
app.add_typer(suite_app, name="suite")


class ProgramFormat(str, Enum):
    """What `highmmt export` can write."""

    onnx = "onnx"
    pt2 = "pt2"


class Method(str, Enum):
    """What `highmmt heterogeneity` can measure."""

    transfer = "transfer"
    random = "random"
    feature = "feature"


class LinkageName(str, Enum):
    """How the distance of two groups follows from their members'."""

    average = "average"
    complete = "complete"
    single = "single"
    weighted = "weighted"


class Scale(str, Enum):
    """Units of heterogeneity."""

    null = "null"
    none = "none"
    metric = "metric"


class Split(str, Enum):
    """The splits of a task."""

    train = "train"
    validation = "validation"
    test = "test"


def _version(value: bool) -> None:
    if value:
        out.print(f"highmmt {__version__}", highlight=False)
        raise typer.Exit


@app.callback(help=ABOUT, epilog=EPILOG)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command()
def run(
    suite: SuiteArgument,
    output_dir: OutputDir,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    quick: Quick = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions of all training; the table then gives mean and deviation.")
    ] = 1,
    measurement_seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs of every heterogeneity entry, which give it an error. Default: what the suite says, or else 1.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    report_to: ReportTo = None,
) -> None:
    """The whole workflow on a suite, with a report at the end.

    Measures heterogeneity, groups parameters, pretrains one shared model, clones it into the groups, fine-tunes, and
    compares the result on test data with sharing everything, nothing, and random groups. Every epoch of these
    trainings is a line of OUTPUT_DIR/log.jsonl. An interrupted run goes on where it was when the same command is given
    again.

    Example: highmmt run starter --output-dir runs/starter --seeds 3
    """
    with writes_to(output_dir):
        loaded = load_named_suite(suite, tasks, data_dir)
        from .analysis import METHODS, run_study

        stages = {
            "heterogeneity": "1/4 Heterogeneity: train on one, transfer to another",
            "groups": "2/4 Parameter groups",
            "training": "3/4 Training: pretrain, clone into groups, fine-tune, and the alternatives",
            "report": "4/4 Report",
        }
        metrics = run_study(
            loaded,
            output_dir,
            quick=quick,
            num_seeds=seeds,
            measurement_seeds=measurement_seeds,
            on_stage=lambda name: say(f"[bold]{stages[name]}[/]"),
            report_to=report_to or (),
        )
    _print_comparison(metrics, METHODS)
    tell(f"\nReport: {output_dir / 'report.html'}\nModel:  {output_dir / 'finetuned'}")


app.command()(train)


@app.command()
def heterogeneity(
    suite: SuiteArgument,
    output_dir: OutputDir,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    share: Annotated[
        float | None,
        typer.Option(
            "--budget",
            "--share",
            help="Share of the pairs that is measured, above 0 and up to 1; the rest is imputed.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of every entry.", rich_help_panel=MEASURING)] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the first run of every entry; further runs count up.", rich_help_panel=MEASURING),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of every run.", rich_help_panel=MEASURING)
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            help="transfer: the paper's. random, feature: what it compares with. Default: transfer.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    loss_scale: Annotated[
        Scale | None,
        typer.Option(
            help="Unit: null (share of what there is to learn), none (loss as it is), metric (percentage points of "
            "the task's metric). Default: null.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say how many runs it takes and how long.", rich_help_panel=MEASURING),
    ] = False,
    quick: Quick = False,
) -> None:
    """How different modalities and their interactions are.

    Writes OUTPUT_DIR/heterogeneity/unimodal.json and interaction.json, prints both, and draws them into
    OUTPUT_DIR/heterogeneity/figures. Every entry is a transfer: train on one, then on the other, and compare with
    training from scratch.

    Example: highmmt heterogeneity starter --budget 0.5 --seeds 3 --output-dir runs/mine
    """
    changes = given(
        {
            "share": share,
            "num_seeds": seeds,
            "seed": seed,
            "num_steps": steps,
            "method": method and method.value,
            "loss_scale": loss_scale and loss_scale.value,
        }
    )
    with writes_to(output_dir):
        loaded = load_named_suite(suite, tasks, data_dir)
        from .commands import costs_of, estimate_suite, is_main_process, measure_suite

        if dry_run:
            _print_estimates(estimate_suite(loaded, output_dir, quick=quick, changes=changes))
            return
        matrices = measure_suite(loaded, output_dir, quick=quick, changes=changes)
    if is_main_process():
        for matrix in matrices.values():
            _print_matrix(matrix)
        tell(f"Cost: {'; '.join(costs_of(output_dir))}")
        tell(f"Figures: {output_dir / 'heterogeneity' / 'figures'}")


@app.command()
def cluster(
    folder: RunArgument,
    k: Annotated[
        int | None, typer.Option(min=2, help="Number of groups of both kinds together.", rich_help_panel=GROUPING)
    ] = None,
    unimodal_groups: Annotated[
        int | None, typer.Option(min=1, help="Number of unimodal groups, |U|.", rich_help_panel=GROUPING)
    ] = None,
    crossmodal_groups: Annotated[
        int | None, typer.Option(min=1, help="Number of crossmodal groups, |C|.", rich_help_panel=GROUPING)
    ] = None,
    max_parameters: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="As many groups as have at most this many parameters in the suite's model, unimodal and crossmodal "
            "together. Heads and embeddings are not counted.",
            rich_help_panel=GROUPING,
        ),
    ] = None,
    linkage: Annotated[
        LinkageName,
        typer.Option(help="How the distance of two groups follows from their members'.", rich_help_panel=GROUPING),
    ] = LinkageName.average,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="File of groups by hand, taken as they are once every node is found in it exactly once.",
            rich_help_panel=GROUPING,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: FOLDER/parameter_groups.json.", rich_help_panel=RESULT),
    ] = None,
) -> None:
    """Parameter groups from measured heterogeneity.

    Reads FOLDER/heterogeneity/unimodal.json and interaction.json. Numbers of groups that are not given are chosen by
    silhouette, whose curve is printed. How often two nodes share a group in bootstrap samples goes to
    FOLDER/parameter_groups.stability.json, pictures of all of it to FOLDER/heterogeneity/figures.

    Example: highmmt cluster runs/mine --k 6
    """
    with writes_to(output.parent if output else folder):
        prepare_libraries()
        from .commands import cluster_folder

        found = cluster_folder(
            folder,
            output,
            by_hand=groups,
            linkage=linkage.value,
            num_unimodal_groups=unimodal_groups,
            num_crossmodal_groups=crossmodal_groups,
            k=k,
            max_parameters=max_parameters,
        )
    _print_grouping(found)


@app.command()
def evaluate(
    model: ModelArgument,
    suite: SuiteArgument,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    split: Annotated[Split, typer.Option(help="Which rows.", rich_help_panel=DATA)] = Split.test,
) -> None:
    """Loss and metric of a saved model on a suite's data.

    Example: highmmt evaluate runs/starter/finetuned starter --split validation
    """
    loaded = load_named_suite(suite, tasks, data_dir)
    from .commands import evaluate_folder

    values = evaluate_folder(model, loaded, split.value)
    title = f"{model} on {loaded.name}, {split.value} data"
    table = table_of(title, "task", rows="right", loss="right", metric="left", value="right")
    for task, found in values.items():
        metric = loaded.task(task).metric
        table.add_row(task, str(int(found["rows"])), f"{found['loss']:.3f}", metric, f"{found[metric]:.3f}")
    out.print(table)


@app.command()
def predict(
    model: ModelArgument,
    task: Annotated[str, typer.Option(help="Which of the model's tasks.", rich_help_panel=DATA, show_default=False)],
    input: Annotated[  # noqa: A002
        Path,
        typer.Option(
            help="Parquet, CSV or JSON-lines file with the task's raw columns; others are ignored. For a task of one "
            "picture, film or sound also such a file, or a folder of them.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Predictions as .parquet, .csv or .jsonl. Default: INPUT's name with .predictions.parquet, here.",
            rich_help_panel=RESULT,
        ),
    ] = None,
) -> None:
    """Predictions of a saved model for a file of rows.

    Writes one row for each row of the file, in its order: the row's number, the predicted class, its probability and
    those of all classes; or, for a regression, the predicted quantities in their own units; or, for a retrieval, the
    rows that match best. A sequence of targets gives lists, one entry for each step.

    Example: highmmt predict runs/starter/finetuned --task digits --input rows.parquet --output digits.csv
    """
    with writes_to(output.parent if output else Path()):
        prepare_libraries()
        from .commands import predict_file

        written, rows = predict_file(model, task, input, output)
    tell(f"{rows} predictions: {written}")


@app.command()
def report(folder: RunArgument) -> None:
    """The page of a run, FOLDER/report.html, from what the folder holds so far.

    Example: highmmt report runs/starter
    """
    with writes_to(folder):
        from .commands import report_folder

        tell(f"Report: {report_folder(folder)}")


@app.command()
def inspect(
    suite: SuiteArgument,
    task: Annotated[
        str | None, typer.Option(help="One task, with a picture; without it, all.", rich_help_panel=DATA)
    ] = None,
    row: Annotated[
        int, typer.Option(min=0, help="Which row of the training split the picture shows.", rich_help_panel=DATA)
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Picture of the row, as given and as the model reads it. Default: SUITE-TASK.png, here.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """What a suite's data looks like: rows, shapes, ranges, missing values, classes.

    With --task it also saves a picture of one row, each modality as it was given and as the model reads it.

    Example: highmmt inspect starter --task liver --output liver.png
    """
    if task is None and output is not None:
        raise ValueError("The picture shows a row of one task; choose it with --task.")
    loaded = load_named_suite(suite, None, data_dir)
    names = [task] if task else list(loaded.tasks)
    specs = [loaded.task(name) for name in names]
    from .commands import draw_task, inspect_task

    for name, spec in zip(names, specs, strict=True):
        summary = inspect_task(loaded, name)
        splits = ", ".join(f"{split} {rows}" for split, rows in summary["rows"].items())
        area = f" ({spec.area})" if spec.area else ""
        out.print(f"[bold]{name}[/]{escape(area)}: {splits}; metric {spec.metric}", highlight=False, soft_wrap=True)
        if spec.description:
            tell(f"  {spec.description}")
        keys = ("kind", "shape", "range", "missing", "absent")
        table = table_of(None, "modality", "kind", "elements x channels", "range", "missing", "absent")
        for modality, values in summary["modalities"].items():
            table.add_row(modality, *(values[key] for key in keys))
        out.print(table)
        tell(f"  target: {summary['target']}\n")
    if task is not None:
        with writes_to(output.parent if output else Path()):
            tell(f"  row {row} of train: {draw_task(loaded, task, row, output)}")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="File that the authors' code saved, such as fhundricmic30.pt.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the model, made if need be.")],
) -> None:
    """A checkpoint of the authors' public code as a model folder for AutoModel.

    The checkpoint is a pickle. It is read as data, and nothing in it is run.

    Example: highmmt convert fhundricmic30.pt models/authors
    """
    with writes_to(folder):
        prepare_libraries()
        from .modeling_highmmt.convert_highmmt_original_to_hf import convert_original_checkpoint

        model = convert_original_checkpoint(checkpoint, folder)
    tell(f"{folder}: {model.num_parameters():,} parameters, tasks {', '.join(model.config.tasks)}.")


@app.command()
def export(
    model: ModelArgument,
    task: Annotated[str, typer.Option(help="Which of the model's tasks.", rich_help_panel=DATA, show_default=False)],
    format: Annotated[  # noqa: A002
        ProgramFormat,
        typer.Option(help="onnx: for any runtime. pt2: for torch.export.load.", rich_help_panel=RESULT),
    ] = ProgramFormat.onnx,
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: TASK.onnx or TASK.pt2, here.", rich_help_panel=RESULT)
    ] = None,
) -> None:
    """One task of a saved model as a program that runs without this package.

    Its inputs are the task's encoded modalities and a mask for each, its output the logits; any batch size, any
    length. The file is written once its logits are the model's.

    Example: highmmt export runs/starter/finetuned --task digits --format onnx --output digits.onnx
    """
    with writes_to(output.parent if output else Path()):
        prepare_libraries()
        from .commands import export_folder

        written, description = export_folder(model, task, format.value, output)
    table = table_of(f"{written}, task {task}", "name", "type", "shape")
    for entry in (*description["inputs"], *description["outputs"]):
        table.add_row(entry["name"], entry["dtype"], " x ".join(map(str, entry["shape"])))
    out.print(table)


@app.command()
def push(
    folder: ModelArgument,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository, made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Add the code, for trust_remote_code=True where highmmt is missing.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, made if need be. Default: main.")] = None,
    commit_message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
) -> None:
    """Upload a model folder to the Hugging Face Hub.

    One commit with configuration, weights, processor, tokenizer and model card. Log in first with `hf auth login`, or
    set HF_TOKEN.

    Example: highmmt push runs/starter/finetuned my-org/highmmt-starter --private
    """
    prepare_libraries()
    from huggingface_hub.utils import disable_progress_bars

    from .hub import push_to_hub

    disable_progress_bars()
    address = push_to_hub(
        folder, repository, private=private, with_code=with_code, revision=revision, commit_message=commit_message
    )
    tell(f"{folder} is at {address}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: success is 0; user errors are one line on stderr and 2, never a traceback.

    Ctrl-C is 130, SIGTERM 143.

    Args:
        arguments: in place of those of the process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    with terminated_like_ctrl_c():
        code = _run(words)
    sys.exit(code)


def _run(words: list[str]) -> int:
    try:
        result = app(words or ["--help"], prog_name="highmmt", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except (StoppedError, KeyboardInterrupt, typer.Abort) as error:
        stopped = error if isinstance(error, StoppedError) else StoppedError(error)
        code = stopped.exit_code
        say(escape(f"{stopped} {_how_to_go_on(words, stopped.has_checkpoint)}".strip()))
    except (BrokenPipeError, SystemExit):
        # The reader of a pipe has seen enough; Rich and Typer turn that into `SystemExit`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except UsageError as error:
        context = getattr(error, "ctx", None)
        message = error.format_message()  # type: ignore[attr-defined]
        end = "" if message.endswith((".", "?")) else "."
        code = _failed(f"{message}{end} See: {context.command_path if context else 'highmmt'} --help")
    except OSError as error:
        code = _failed(_os_message(error))
    except (ValueError, FloatingPointError) as error:
        code = _failed(str(error))
    except worker_errors() as error:
        code = _failed(str(error))
    except library_errors() as error:
        code = _failed(str(error.__cause__ or error))
    return code


def _how_to_go_on(words: list[str], from_checkpoint: bool) -> str:
    command = words[0] if words else ""
    if command in ("run", "heterogeneity"):
        return "The same command goes on from what is finished."
    if command != "train":
        return ""
    same = "The same command" if "--resume" in words else "The same command with --resume"
    return f"{same} goes on from there." if from_checkpoint else f"{same} goes on from its last checkpoint, if any."


def _failed(message: str) -> int:
    """Say in one line what is wrong."""
    say(f"[bold red]Error:[/] {escape(' '.join(message.split()))}")
    return 2


def _os_message(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename}: {error.strerror}. Choose a place where you may write."
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return error.strerror or str(error)


def _print_comparison(metrics: dict[str, Any], labels: dict[str, str]) -> None:
    methods = {name: metrics["methods"][name] for name in labels if name in metrics["methods"]}
    references = metrics.get("reference", {})
    title = f"Suite {metrics['suite']}, test data; every column had the same gradient steps per task"
    table = table_of(title, "task", "metric", **{labels[name].split(" (")[0]: "right" for name in methods})
    if references:
        table.add_column("reference", justify="right", style="dim")
    for task, metric in metrics["metric"].items():
        cells = [_score(entry["mean"][task], entry["std"][task]) for entry in methods.values()]
        if references:
            cells.append(f"{references[task]['value']:.3f}" if task in references else "")
        table.add_row(task, metric, *cells)
    table.add_section()
    table.add_row("average", "", *(_score(entry["average"], entry["average_std"]) for entry in methods.values()))
    table.add_row("parameters", "", *(f"{entry['num_parameters']:,}" for entry in methods.values()))
    out.print(table)


def _score(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ±{deviation:.3f}"


def _print_estimates(estimates: dict[str, Any]) -> None:
    for kind, estimate in estimates.items():
        minutes, seconds = divmod(round(estimate.seconds), 60)
        tell(
            f"{kind}: {estimate.runs} runs, {estimate.finished} of them finished; about {minutes} min {seconds} s for "
            "the rest with one process"
        )
        for reason in estimate.excluded.values():
            tell(f"  without {reason}")


def _print_grouping(found: Any) -> None:
    """The silhouette of every number of groups, the groups with how sure they are, and where it all is."""
    groups = found.groups
    kinds = (
        ("unimodal", "U", groups.unimodal, groups.num_unimodal_groups),
        ("interaction", "C", groups.crossmodal, groups.num_crossmodal_groups),
    )
    numbers = sorted({number for curve in found.curves.values() for number in curve})
    if numbers:
        from .heterogeneity.clustering import SILHOUETTE_THRESHOLD

        tell(f"Mean silhouette by number of groups (* taken; below {SILHOUETTE_THRESHOLD}: no structure)")
        table = table_of(None, groups="right", unimodal="right", crossmodal="right")
        taken = {kind: len(set(stability.groups)) for kind, stability in found.stability.items()}
        for number in numbers:
            cells = []
            for kind, *_ in kinds:
                value = found.curves[kind].get(number)
                mark = "*" if number == taken.get(kind) else " "
                cells.append("" if value is None else f"{value:.3f}{mark}")
            table.add_row(str(number), *cells)
        out.print(table)
    table = table_of(f"Parameter groups, {found.path}", "group", "members", together="right")
    for kind, letter, members, count in kinds:
        stability = found.stability.get(kind)
        support = dict(zip(stability.nodes, stability.support, strict=True)) if stability else {}
        for index in range(count if members else 0):
            nodes = [node for node, group in members.items() if group == index]
            shares = [support[node] for node in nodes if support.get(node) is not None]
            share = f"{100 * sum(shares) / len(shares):.0f} %" if shares else "-"
            table.add_row(f"{letter}{index + 1}", ", ".join(nodes), share)
    out.print(table)
    for kind, stability in found.stability.items():
        tell(f"Together, {kind}: {stability.explanation}")
    if found.figures:
        tell(f"Figures: {found.figures}")


def _print_matrix(matrix: Any) -> None:
    transfers = {
        run: reason for run, reason in matrix.diverged.items() if run.rpartition("#")[0] not in matrix.excluded
    }
    for what, reasons in (("Left out", matrix.excluded), ("Diverged, imputed", transfers)):
        for name, reason in reasons.items():
            say(f"[yellow]{what}:[/] {escape(reason if reason.startswith(name) else f'{name}: {reason}')}")
    if len(matrix.nodes) < 2:
        say(f"Heterogeneity, {matrix.kind}: fewer than two to compare.")
        return
    table = table_of(f"Heterogeneity, {matrix.kind} (imputed in brackets)", "")
    for index in range(len(matrix.nodes)):
        table.add_column(str(index + 1), justify="right")
    for row, node in enumerate(matrix.nodes):
        cells = []
        for column in range(row + 1):
            value = f"{matrix.values[row, column]:.2f}"
            cells.append("-" if row == column else value if matrix.measured[row, column] else f"({value})")
        table.add_row(f"{row + 1} {node}", *cells)
    out.print(table)


if __name__ == "__main__":
    main()
