"""``mirage data``: check and look at data before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check your own data, and look at examples as the model sees them.", no_args_is_help=True)


@app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help="A JSONL file: question, images, answer, auxiliary_image.")],
) -> None:
    """Read every line of a JSONL file and its pictures; every fault is shown with its line (exit status 1)."""
    from flows.commands import data as command

    command.check(file)


@app.command("preview")
def data_preview(
    source: Annotated[str, typer.Argument(help="A JSONL file of your own, or an artifact of examples.")],
    recipe: Annotated[str, typer.Option(help="Whose prompt, latents and tokenizer.")] = "tiny",
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; may be repeated.")
    ] = None,
    count: Annotated[int, typer.Option("--n", min=1, help="How many examples.")] = 3,
    page: Annotated[Path | None, typer.Option("--html", help="Also write a page with the pictures.")] = None,
    store: Annotated[str | None, typer.Option("--store", help="The store. [default: MIRAGE_STORE]")] = None,
) -> None:
    """Show examples as the model will see them: text, latents, label mask, auxiliary image and its target cells."""
    from flows.commands import data as command

    command.show(source, recipe, sets or [], count, page, store)
