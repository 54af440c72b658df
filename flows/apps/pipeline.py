"""``mirage run``, ``plan``, ``report``, ``study``: run a recipe or a study, plan it, and show its results."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import DirectOption, JsonOption, RecipeOption, SetsOption, StoreOption


def run(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the settings and what is cached; run nothing.")
    ] = False,
    direct: DirectOption = False,
    publish_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Afterwards, point NAME at the furthest trained model."),
    ] = None,
    model_folder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The folder that gets the furthest trained model, with its card and scores; none: no folder. "
            "[default: .mirage/models/RECIPE, where the store is on this machine]",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Run the whole pipeline of a recipe: from raw puzzles to an evaluated model and its report.

    Finished stages are not run again. Example: mirage run --recipe micro --set seed=7 --direct
    """
    from flows.commands import run as command

    if dry_run:
        command.show_plan(recipe, sets or [], store)
    elif direct:
        command.run_direct(recipe, sets or [], store, publish_as, model_folder)
    else:
        command.run_deployment(recipe, sets or [], store, publish_as, model_folder)


def plan(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs, one process each. [default: the recipe's]")] = None,
    gpu_gib: Annotated[float, typer.Option(help="Memory of a GPU, in GiB.")] = 80.0,
    rate: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s of a GPU, from which hours are computed.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the rate here, in a few steps.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a recipe needs before it starts: memory per GPU, steps, tokens, hours, and what to change.

    Example: mirage plan --recipe qwen2.5-vl-7b --gpus 8 --rate 200
    """
    from flows.commands import plan as command

    command.show(recipe, sets or [], gpus, gpu_gib, rate, measure=measure, as_json=as_json)


def report(
    as_json: JsonOption = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    run_id: Annotated[str | None, typer.Option("--run", help="The id of a run. [default: the newest]")] = None,
    trend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show the nightly evaluations of a pointer instead: `nightly`.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Show the stages, seconds, scores and report page of a run.

    Example: mirage report --open
    """
    from flows.commands import report as command

    if trend is not None:
        command.report_trend(trend, store, as_json=as_json, open_page=open_page)
    else:
        command.report(run_id, store, as_json=as_json, open_page=open_page)


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="ablation, causal, causal-screening, causal-small, imagination, imagination-dependence, "
            "imagination-reasoning, imagination-screening, methods, sweep-k, sweep-gamma, paper, ablation-micro, or "
            "the path of a YAML file."
        ),
    ],
    seeds: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="Repeats of every cell. [default: the study's own]")
    ] = None,
    cells: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these cells, and the baseline. [default: all]")
    ] = None,
    sets: SetsOption = None,
    parallel: Annotated[int, typer.Option(min=1, help="Cells at a time; a stage that two share runs once.")] = 1,
    direct: DirectOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells and stages, what is shared and cached; run nothing.")
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the report: of this study, with --dry-run of the newest one.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Run a study: several methods or settings on the same data, in one table with intervals and tests.

    A cell that fails does not stop the others; a second run runs only what is missing. The report's folder holds
    study.html (one page, no network), study.json, table.md and plots. docs/studies.md describes how to write a study.
    """
    from flows.commands import study as command

    request = command.StudyRequest(
        name=name,
        seeds=command.parse_seeds(seeds),
        cells=command.parse_cells(cells),
        sets=tuple(sets or ()),
        parallel=parallel,
    )
    if dry_run:
        command.show_plan(request, store, open_page=open_page)
    elif direct:
        command.run_direct(request, store, open_page=open_page)
    else:
        command.run_deployment(request, store, open_page=open_page)
