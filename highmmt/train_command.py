"""`highmmt train`: its options, from the command line and from a file."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import (
    DATA,
    RESULT,
    TRAINING,
    DataDir,
    Quick,
    ReportTo,
    SuiteArgument,
    Tasks,
    given,
    load_named_suite,
    out,
    prepare_libraries,
    table_of,
    writes_to,
)

OPTIMIZING, SAMPLING, SAFETY = "How to optimize", "What each step sees", "Checkpoints and trouble"
# Options of the command that settings call otherwise.
_SHORT = {"epochs": "num_epochs"}
# Options that are no training setting.
_OWN = (
    *("recipe", "tasks", "groups", "target", "share", "target_weight", "quick", "output_dir", "data_dir"),
    *("resume", "allow_inexact", "report_to"),
)


class Recipe(str, Enum):
    """What `highmmt train` can do."""

    pretrain = "pretrain"
    finetune = "finetune"
    transfer = "transfer"
    few_shot = "few_shot"
    single_task = "single_task"
    retrieval = "retrieval"


def train(
    suite: SuiteArgument,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Folder of the run, made if need be.",
            rich_help_panel=RESULT,
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with any of these options by their long names, and with any other training setting "
            "(optimizer_options, batch_sizes, ...). The command line wins.",
            rich_help_panel=DATA,
        ),
    ] = None,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    recipe: Annotated[
        Recipe | None,
        typer.Option(
            help="pretrain: one shared model. finetune: clones of it, in parameter groups. transfer: on all tasks but "
            "the target, then on the target. few_shot: on all, with few labels of the target. single_task: one model "
            "per task. retrieval: modalities that find each other, next to fusion. Default: pretrain.",
            rich_help_panel=TRAINING,
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="For finetune: file of parameter groups. Default: OUTPUT_DIR/parameter_groups.json.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="For transfer and few_shot: the task it is about.", rich_help_panel=TRAINING)
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="For few_shot: share of the target's rows. Default: 0.1.", rich_help_panel=TRAINING),
    ] = None,
    target_weight: Annotated[
        float | None,
        typer.Option(help="For few_shot: factor of the target's loss. Default: 4.", rich_help_panel=TRAINING),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", "--num-epochs", min=1, help="Epochs. Default: the suite's.", rich_help_panel=TRAINING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of data order, dropout and new parameters. Default: 0.", rich_help_panel=TRAINING),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after so many epochs without a better score. Default: never.", rich_help_panel=TRAINING
        ),
    ] = None,
    mixed_precision: Annotated[
        str | None, typer.Option(help="no, bf16 or fp16 (needs a GPU). Default: no.", rich_help_panel=TRAINING)
    ] = None,
    torch_compile: Annotated[
        bool | None,
        typer.Option(
            "--torch-compile/--no-torch-compile", help="Compile the model for training.", rich_help_panel=TRAINING
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate. Default: the suite's.", rich_help_panel=OPTIMIZING)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay. Default: the suite's.", rich_help_panel=OPTIMIZING)
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="Of torch: adam, adamw, sgd, ... Default: the suite's.", rich_help_panel=OPTIMIZING),
    ] = None,
    lr_scheduler: Annotated[
        str | None,
        typer.Option(
            help="Of transformers: constant, linear, cosine, ... Default: the suite's.", rich_help_panel=OPTIMIZING
        ),
    ] = None,
    warmup_ratio: Annotated[
        float | None,
        typer.Option(help="Share of the steps in which the learning rate rises.", rich_help_panel=OPTIMIZING),
    ] = None,
    max_grad_norm: Annotated[
        float | None, typer.Option(help="Gradients are scaled down to this norm.", rich_help_panel=OPTIMIZING)
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Batches whose gradients make one step. Default: 1.", rich_help_panel=OPTIMIZING),
    ] = None,
    loss_weighting: Annotated[
        str | None,
        typer.Option(
            help="fixed (by the suite) or uncertainty (learned). Default: fixed.", rich_help_panel=OPTIMIZING
        ),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            help="Order of tasks: staggered (the paper's), uniform, proportional, temperature. Default: staggered.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Of that sampling: 1 is proportional, large is uniform.", rich_help_panel=SAMPLING),
    ] = None,
    num_workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read rows ahead; same numbers with any.", rich_help_panel=SAMPLING),
    ] = None,
    skip_bad_rows: Annotated[
        int | None,
        typer.Option(
            min=0, help="Training rows that may be left out as unreadable. Default: 0.", rich_help_panel=SAMPLING
        ),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume",
            help="Go on from the newest whole checkpoint, or begin if there is none.",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    allow_inexact: Annotated[
        bool | None,
        typer.Option(
            "--allow-inexact",
            help="Go on also from a checkpoint that has lost a file, or with other processes; says what is lost.",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    save_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps between checkpoints within an epoch. Default: one per epoch.", rich_help_panel=SAFETY
        ),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Checkpoints that stay. Default: 2.", rich_help_panel=SAFETY)
    ] = None,
    max_non_finite_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps in a row with NaN or infinity that end the run. Default: 10.", rich_help_panel=SAFETY
        ),
    ] = None,
    report_to: ReportTo = None,
    quick: Quick = False,
) -> None:
    """One training recipe on a suite, without the comparison.

    The model goes to OUTPUT_DIR/pretrained, finetuned, retrieval, or RECIPE/TASK, with a metrics.json beside it, and
    replaces an older one there. Every epoch is a line of OUTPUT_DIR/log.jsonl. Prints how the training went, and the
    scores on test data. Ctrl-C and SIGTERM end a run after its step, with a
    checkpoint; the same command with --resume goes on from there, or from the newest checkpoint after a crash, and
    ends as if nothing had happened, to the last bit.

    Example: highmmt train starter --recipe pretrain --output-dir runs/mine --resume

    Then: highmmt train starter --recipe finetune --groups groups.json --output-dir runs/mine

    On several GPUs or machines: accelerate launch -m highmmt.train starter --output-dir runs/mine
    """
    values = given({name: value for name, value in locals().items() if name not in ("suite", "config")})
    if not report_to:
        values.pop("report_to", None)
    if not quick:
        del values["quick"]  # not set, which the file may say otherwise
    if config is not None:
        values = {**_read_config(config), **values}
    folder = values.pop("output_dir", None)
    if folder is None:
        raise typer.BadParameter("name the folder of the run with --output-dir.")
    folder = Path(folder)
    with writes_to(folder, "repeat the command with --resume, which also begins where there is no checkpoint yet"):
        loaded = load_named_suite(suite, values.pop("tasks", None), values.pop("data_dir", None))
        from .train.processes import process_state
        from .training import RecipeOptions, train_recipe

        options: dict[str, Any] = {name: values.pop(name) for name in list(values) if name in _OWN}
        options["recipe"] = Recipe(options.get("recipe", "pretrain")).value
        changes = {_SHORT.get(name, name): value for name, value in values.items()}
        outcome = train_recipe(loaded, folder, RecipeOptions(**options, changes=changes))
        if not process_state().is_main_process:
            return
    for course in outcome.tables:
        out.print(course)
    table = table_of(f"{options['recipe']} on {loaded.name}, test data", "task", "metric", value="right")
    for task, (metric, value) in outcome.scores.items():
        table.add_row(task, metric, f"{value:.3f}")
    out.print(table)


def _read_config(path: Path) -> dict[str, Any]:
    """Options of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no YAML, or an unknown option; the message names file and line.
    """
    prepare_libraries()
    from .suites.lines import read_yaml
    from .train import TrainingSettings

    document = read_yaml(path)
    known = [*_OWN, *_SHORT, *TrainingSettings().to_dict()]
    values = {str(name).replace("-", "_"): value for name, value in document.data.items()}
    for name, value in document.data.items():
        key = str(name).replace("-", "_")
        if key not in known:
            document.check_keys((), {name: value}, known)
    if isinstance(values.get("tasks"), list):
        values["tasks"] = ",".join(map(str, values["tasks"]))
    if "recipe" in values and values["recipe"] not in list(Recipe.__members__):
        raise document.error(("recipe",), f"there is no recipe {values['recipe']!r}; use one of {', '.join(Recipe)}.")
    for name in ("groups", "output_dir", "data_dir"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    # An empty option is one that is not set; an empty setting, as of max_grad_norm, means something.
    return {name: value for name, value in values.items() if value is not None or name not in _OWN}
