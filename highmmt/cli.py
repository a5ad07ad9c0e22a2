"""The command line: `highmmt run | train | heterogeneity | cluster | evaluate | predict | report | inspect`."""

from __future__ import annotations

import errno
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.table import Table

from . import __version__

app = typer.Typer(
    name="highmmt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One small model for many modalities and tasks: measure heterogeneity, group parameters, train, predict.",
    epilog="Start with: highmmt run starter --output-dir runs/starter",
)
out = Console()
err = Console(stderr=True)

SuiteArgument = Annotated[str, typer.Argument(help="Name of a suite of this package (starter) or path of its YAML file.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of the run; made if need be.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few steps and pairs: every stage, within a minute.")]


class Recipe(str, Enum):
    """What `highmmt train` can do."""

    pretrain = "pretrain"
    finetune = "finetune"
    single_task = "single_task"


class Split(str, Enum):
    """The splits of a task."""

    train = "train"
    validation = "validation"
    test = "test"


def _version(value: bool) -> None:
    if value:
        out.print(f"highmmt {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """One small model for many modalities and tasks: measure heterogeneity, group parameters, train, predict."""


@app.command()
def run(
    suite: SuiteArgument,
    output_dir: OutputDir,
    quick: Quick = False,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of all training; the table gives mean and deviation.")] = 1,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the suite, separated by commas.")] = None,
) -> None:
    """The whole workflow: heterogeneity, groups, pretraining, fine-tuning, comparison, report.

    What an earlier, interrupted call of the same command finished is not repeated.

    Example: highmmt run starter --output-dir runs/starter
    """
    loaded = _load_suite(suite, tasks)
    from .analysis import METHODS, run_study

    stages = {
        "heterogeneity": "1/4 Heterogeneity: train on one, transfer to another",
        "groups": "2/4 Parameter groups",
        "training": "3/4 Training: pretrain, clone into groups, fine-tune, and the alternatives",
        "report": "4/4 Report",
    }
    metrics = run_study(
        loaded, output_dir, quick=quick, num_seeds=seeds, on_stage=lambda name: err.print(f"[bold]{stages[name]}[/]")
    )
    _print_comparison(metrics, METHODS)
    out.print(f"\nReport: {output_dir / 'report.html'}\nModel:  {output_dir / 'finetuned'}", highlight=False, soft_wrap=True)


@app.command()
def train(
    suite: SuiteArgument,
    output_dir: OutputDir,
    recipe: Annotated[Recipe, typer.Option(help="pretrain: one shared model. finetune: its clones in parameter groups. single_task: one model per task.")] = Recipe.pretrain,
    quick: Quick = False,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the suite, separated by commas.")] = None,
    groups: Annotated[Path | None, typer.Option(help="finetune: parameter groups; default OUTPUT_DIR/parameter_groups.json.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; default: the suite's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; default: the suite's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data order and new parameters.")] = 0,
) -> None:
    """Train one recipe; the model folder is OUTPUT_DIR/pretrained, /finetuned or /single_task/TASK.

    Example: highmmt train starter --recipe pretrain --output-dir runs/starter
    """
    loaded = _load_suite(suite, tasks)
    from .commands import train_recipe

    changes = {"num_epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    scores = train_recipe(
        loaded,
        output_dir,
        recipe.value,
        quick=quick,
        groups=groups,
        changes={name: value for name, value in changes.items() if value is not None},
    )
    table = Table(title=f"{recipe.value} on {loaded.name}, test data")
    for column in ("task", "metric", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for task, value in scores.items():
        table.add_row(task, loaded.task(task).metric, f"{value:.3f}")
    out.print(table)


@app.command()
def heterogeneity(
    suite: SuiteArgument,
    output_dir: OutputDir,
    quick: Quick = False,
    share: Annotated[float | None, typer.Option(help="Share of the pairs that is measured, 0 to 1; the rest is imputed.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of every entry.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of every run.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the suite, separated by commas.")] = None,
) -> None:
    """Both heterogeneity matrices, as OUTPUT_DIR/heterogeneity/unimodal.json and interaction.json.

    Example: highmmt heterogeneity starter --output-dir runs/starter --share 0.5 --seeds 3
    """
    loaded = _load_suite(suite, tasks)
    from .commands import measure_suite

    changes = {"share": share, "num_seeds": seeds, "num_steps": steps}
    matrices = measure_suite(
        loaded, output_dir, quick=quick, changes={name: value for name, value in changes.items() if value is not None}
    )
    for matrix in matrices.values():
        _print_matrix(matrix)


@app.command()
def cluster(
    folder: Annotated[Path, typer.Argument(help="Run folder with heterogeneity/unimodal.json and interaction.json.")],
    unimodal_groups: Annotated[int | None, typer.Option(min=1, help="Number of unimodal groups |U|.")] = None,
    crossmodal_groups: Annotated[int | None, typer.Option(min=1, help="Number of crossmodal groups |C|.")] = None,
    k: Annotated[int | None, typer.Option(min=2, help="Number of groups of both kinds together.")] = None,
) -> None:
    """Parameter groups from the matrices, as FOLDER/parameter_groups.json. Without numbers they are chosen by silhouette.

    Example: highmmt cluster runs/starter --k 6
    """
    from .commands import cluster_folder

    groups = cluster_folder(
        folder, num_unimodal_groups=unimodal_groups, num_crossmodal_groups=crossmodal_groups, k=k
    )
    table = Table(title=f"Parameter groups, {folder / 'parameter_groups.json'}")
    table.add_column("group")
    table.add_column("members")
    for letter, nodes, count in (
        ("U", groups.unimodal, groups.num_unimodal_groups),
        ("C", groups.crossmodal, groups.num_crossmodal_groups),
    ):
        for index in range(count):
            table.add_row(f"{letter}{index}", ", ".join(node for node, group in nodes.items() if group == index))
    out.print(table)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder, such as runs/starter/finetuned.")],
    suite: SuiteArgument,
    split: Annotated[Split, typer.Option(help="Which rows.")] = Split.test,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
) -> None:
    """Loss and metric of a saved model on a suite's data.

    Example: highmmt evaluate runs/starter/finetuned starter --split validation
    """
    loaded = _load_suite(suite, tasks)
    from .commands import evaluate_folder

    table = Table(title=f"{model} on {loaded.name}, {split.value} data")
    for column in ("task", "rows", "loss", "metric", "value"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task, values in evaluate_folder(model, loaded, split.value).items():
        metric = loaded.task(task).metric
        table.add_row(task, str(int(values["rows"])), f"{values['loss']:.3f}", metric, f"{values[metric]:.3f}")
    out.print(table)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Model folder, such as runs/starter/finetuned.")],
    task: Annotated[str, typer.Option(help="Which of the model's tasks.")],
    input: Annotated[Path, typer.Option(help="Parquet, CSV or JSON-lines file with the task's raw columns.")],  # noqa: A002
    output: Annotated[Path | None, typer.Option(help="Predictions, Parquet, CSV or JSON lines; default: INPUT.predictions.parquet.")] = None,
) -> None:
    """Predictions of a saved model for a file of rows, with probabilities.

    Example: highmmt predict runs/starter/finetuned --task digits --input rows.parquet --output digits.csv
    """
    _quiet_libraries()
    from .commands import predict_file

    written, rows = predict_file(model, task, input, output)
    out.print(f"{rows} predictions: {written}", highlight=False, soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write FOLDER/report.html from what the run folder holds.

    Example: highmmt report runs/starter
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder.")
    from .analysis import write_report

    out.print(f"Report: {write_report(folder)}", highlight=False, soft_wrap=True)


@app.command()
def inspect(
    suite: SuiteArgument,
    task: Annotated[str | None, typer.Option(help="One task; without it, all in short.")] = None,
) -> None:
    """What a suite's tasks look like: rows, shapes, ranges, missing values, classes.

    Example: highmmt inspect starter --task liver
    """
    loaded = _load_suite(suite, None)
    from .commands import inspect_task

    for name in [task] if task else list(loaded.tasks):
        summary = inspect_task(loaded, name)
        spec = loaded.task(name)
        splits = ", ".join(f"{split} {rows}" for split, rows in summary["rows"].items())
        out.print(f"[bold]{name}[/] ({spec.area}): {splits}; metric {spec.metric}", highlight=False)
        if spec.description:
            out.print(f"  {spec.description}", highlight=False, soft_wrap=True)
        table = Table()
        for column in ("modality", "kind", "elements x channels", "range", "missing", "absent"):
            table.add_column(column)
        for modality, values in summary["modalities"].items():
            table.add_row(modality, values["kind"], values["shape"], values["range"], values["missing"], values["absent"])
        out.print(table)
        out.print(f"  target: {summary['target']}\n", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: user errors are one line and exit code 2, never a traceback."""
    code = 0
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        code = _stopped()
    except KeyboardInterrupt:
        code = _stopped()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        # The reader of a pipe has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        code = _failed(_os_message(error))
    except (ValueError, FloatingPointError) as error:
        code = _failed(str(error))
    except _strict_error() as error:
        code = _failed(str(error.__cause__ or error))
    sys.exit(code)


def _strict_error() -> type[Exception]:
    from huggingface_hub.errors import StrictDataclassError

    return StrictDataclassError


def _failed(message: str) -> int:
    err.print(f"[bold red]Error:[/] {_plain(message)}", highlight=False, soft_wrap=True)
    return 2


def _stopped() -> int:
    err.print("Stopped. The same command goes on from what is finished.", highlight=False)
    return 130


def _plain(message: str) -> str:
    """One line, with nothing rich would read as markup."""
    from rich.markup import escape

    return escape(" ".join(message.split()))


def _os_message(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"No space left on the disk{f' for {error.filename}' if error.filename else ''}. Nothing was left half-written."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename}: not allowed to write or read there ({error.strerror})."
    return str(error)


def _quiet_libraries() -> None:
    """Keep the libraries' own progress bars off: ours say what happens."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _load_suite(name: str, tasks: str | None) -> Any:
    _quiet_libraries()
    from .suites import load_suite

    suite = load_suite(name)
    return suite.select([task.strip() for task in tasks.split(",")]) if tasks else suite


def _print_comparison(metrics: dict[str, Any], labels: dict[str, str]) -> None:
    methods = {name: metrics["methods"][name] for name in labels if name in metrics["methods"]}
    references = metrics.get("reference", {})
    table = Table(title=f"Suite {metrics['suite']}, test data; every column had the same gradient steps per task")
    table.add_column("task")
    table.add_column("metric")
    for name in methods:
        table.add_column(labels[name].split(" (")[0], justify="right")
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


def _print_matrix(matrix: Any) -> None:
    table = Table(title=f"Heterogeneity, {matrix.kind} (imputed in brackets)")
    table.add_column("")
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
