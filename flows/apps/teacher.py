"""``mirage teacher``: the teacher that writes the chains, tried out."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.apps.options import RecipeOption, SetsOption, StoreOption

app = typer.Typer(help="Try the teacher that writes the chains.", no_args_is_help=True)


@app.command("try")
def teacher_try(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    count: Annotated[int, typer.Option("--n", help="How many problems.")] = 3,
    store: StoreOption = None,
) -> None:
    """Let the recipe's teacher write a few chains: the texts, what was wrong with others, and what they cost."""
    from flows.commands import teacher as command

    command.try_out(recipe, sets or [], count, store)
