"""``mirage study``: a grid of runs that share what they can, and the report that sets its cells side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import SetsOption, StoreOption


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="ablation, causal, causal-screening, causal-small, sweep-k, sweep-gamma, paper, ablation-micro, "
            "or the path of a YAML file."
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
    direct: Annotated[bool, typer.Option("--direct", help="Run in this process, without a Prefect server.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells and stages, what is shared and cached; do nothing.")
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the report: of the study that ran, with --dry-run of the newest.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Run a study: several methods or settings on the same data and base, in one table with intervals and tests.

    A cell that fails does not stop the others; run again, only what is missing runs. The report's folder holds
    study.html (one page, no network), study.json, table.md and plots. docs/studies.md says how to write a study.
    """
    from flows.commands import study as command

    chosen = command.Asked(
        name=name,
        seeds=command.seeds_of(seeds),
        cells=command.cells_of(cells),
        sets=tuple(sets or ()),
        parallel=parallel,
    )
    if dry_run:
        command.show_plan(chosen, store, open_page=open_page)
    elif direct:
        command.run_direct(chosen, store, open_page=open_page)
    else:
        command.run_deployment(chosen, store, open_page=open_page)
