"""``mirage diagnose``: do a model's latents matter?"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import JsonOption, RecipeOption, SetsOption, StoreOption


def diagnose(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model: an artifact, the start of its digest, or a pointer. [default: the recipe's]",
        ),
    ] = None,
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    method: Annotated[
        str | None, typer.Option(help="Whose model of the recipe. [default: the furthest with latents]")
    ] = None,
    problems: Annotated[str | None, typer.Option(help="Problems: an artifact. [default: the model's own]")] = None,
    measures: Annotated[
        str | None, typer.Option(metavar="A,B", help="Measures to take. [default: those of analysis.measures]")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Run in this process, without a Prefect server.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether latents carry the input and drive the answer, with intervals and controls; writes a page."""
    from flows.commands import diagnose as command

    command.diagnose(
        model, recipe, sets or [], method, problems, measures, store, direct=direct, as_json=as_json,
        open_page=open_page,
    )  # fmt: skip
