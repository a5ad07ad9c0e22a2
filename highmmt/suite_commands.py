"""`highmmt suite`: what comes before the first run on a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import load_named_suite, out, prepare_libraries, table_of, tell

suite_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Before the first run: see which data files are there, try a suite on synthetic ones.",
)


@suite_app.command()
def prepare(
    suite: Annotated[
        str, typer.Argument(help="Suite of this package (multibench-large, ...) or path of a suite's YAML file.")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with data that the suite does not carry.", show_default=False)
    ] = None,
) -> None:
    """Which data files of a suite are there, and what is missing.

    Lists every file with its size and SHA-256 (of many files: of all their hashes), and for what is missing where its
    owners say to get it. Ends with 1 where something is missing.

    Example: highmmt suite prepare multibench-large --data-dir data/multibench
    """
    from .suites.prepare import prepare_suite

    loaded = load_named_suite(suite)
    found = prepare_suite(loaded, data_dir)
    table = table_of(f"Data of {loaded.name}", "task", "files", "found", size="right", sha256="left")
    for entry in found:
        table.add_row(entry.task, entry.pattern, entry.found, entry.size_text, entry.sha256[:16])
    out.print(table)
    missing: dict[tuple[str, str], list[str]] = {}
    for entry in found:
        if not entry.count:
            missing.setdefault((entry.task, entry.source), []).append(entry.pattern)
    for (task, source), patterns in missing.items():
        tell(f"Missing for {task}: {', '.join(patterns)}\n  from {source}.")
    if missing:
        raise typer.Exit(1)
    tell("All files are there.")


@suite_app.command()
def twins(
    folder: Annotated[Path, typer.Argument(help="Data folder, made if need be.")],
    data: Annotated[
        str | None, typer.Option(help="Only these data sets, separated by commas: mimic,avmnist. Default: all eight.")
    ] = None,
    scale: Annotated[int, typer.Option(min=1, help="How many times as many rows; 1 is about a hundred each.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of all numbers; the same seed gives the same files.")] = 0,
) -> None:
    """Synthetic twins of the MultiBench files: same formats and shapes, few rows, something to learn.

    They hold nothing of the real data; with them every suite can be tried before the real files are there.

    Example: highmmt suite twins data/twins

    Then: highmmt run multibench-large --data-dir data/twins --quick --output-dir runs/twins
    """
    from .suites.multibench.twins import write_twins

    names = None if data is None else [name.strip() for name in data.split(",") if name.strip()]
    for name, written in write_twins(folder, names, scale=scale, seed=seed).items():
        tell(f"{name}: {written}")


@suite_app.command()
def init(
    file: Annotated[Path, typer.Argument(help="YAML file to write.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Parquet, CSV or JSON file, a folder of them, of pictures or sounds, or a Hub data set (owner/name).",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None, typer.Option(help="Column to predict. Default: one called label, target or the like.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """A first version of a suite file, from the columns of some data.

    Numbers and few different texts become a table, lists series, spectra or pictures by their shape, longer texts
    text. What is guessed or left out stands there as a comment.

    Example: highmmt suite init my_suite.yaml --from patients.parquet --target outcome
    """
    from .configuration.files import write_text
    from .suites.first_version import first_version

    if file.exists() and not force:
        raise ValueError(f"{file} is there already; replace it with --force.")
    prepare_libraries()
    write_text(file, first_version(source, file, target))
    suite = load_named_suite(str(file))
    tell(f"{file}: {', '.join(suite.modality_task_pairs())}\nLook at it, then: highmmt inspect {file}")


@suite_app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: print it.", show_default=False)
    ] = None,
) -> None:
    """The JSON schema of suite files, with which editors check and complete them.

    Example: highmmt suite schema --output suite.schema.json

    Then, as the first line of a suite: # yaml-language-server: $schema=suite.schema.json
    """
    import json

    from .configuration.files import write_json
    from .suites.json_schema import suite_json_schema

    if output is None:
        typer.echo(json.dumps(suite_json_schema(), indent=2))
    else:
        write_json(output, suite_json_schema())
        tell(str(output))
