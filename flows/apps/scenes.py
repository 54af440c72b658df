"""``mirage scenes``: CogVideoX, tried out and fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Render scenes with CogVideoX, and fine-tune it by LoRA.", no_args_is_help=True)
SetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Settings below auxiliary_images.scenes, as width=480."),
]


@app.command("try")
def scenes_try(
    description: Annotated[str, typer.Argument(help="The scene in words.")],
    output: Annotated[Path, typer.Argument(help="The PNG that is written.")],
    sets: SetsOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the noise.")] = 42,
) -> None:
    """Render one frame from a description."""
    from flows.commands import scenes as command

    command.try_out(description, output, sets or [], seed)


@app.command("finetune")
def scenes_finetune(
    pairs: Annotated[Path, typer.Argument(help="A JSONL file of {description, image}, pictures beside it.")],
    output: Annotated[Path, typer.Argument(help="The folder for the LoRA weights; also holds the checkpoint.")],
    sets: SetsOption = None,
    seed: Annotated[int, typer.Option(help="The seed of weights, order and noise.")] = 42,
) -> None:
    """Fine-tune CogVideoX by LoRA on descriptions and frames; a run that was killed goes on."""
    from flows.commands import scenes as command

    command.train(pairs, output, sets or [], seed)
