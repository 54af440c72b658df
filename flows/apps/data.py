"""``mirage data``, ``teacher`` and ``scenes``: check training data, and try out what makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.apps.options import JsonOption, RecipeOption, SetsOption, StoreOption

data_app = typer.Typer(help="Check your own data, and show examples as the model sees them.", no_args_is_help=True)
teacher_app = typer.Typer(help="Try the teacher that writes the reasoning chains.", no_args_is_help=True)
scenes_app = typer.Typer(help="Render scenes with CogVideoX, and fine-tune it by LoRA.", no_args_is_help=True)

SceneSetsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Settings below auxiliary_images.scenes, such as width=480."),
]


@data_app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help="A JSONL file: question, images, answer, auxiliary_image.")],
    recipe: Annotated[str, typer.Option(help="The recipe whose prompt and processor encode the lines.")] = "tiny",
    sets: SetsOption = None,
) -> None:
    """Read every line of a JSONL file with its images, and encode it as training does.

    Prints every fault with its line (exit status 1), else what should be known of the images.
    """
    from flows.commands import data as command

    command.check(file, recipe, sets)


@data_app.command("probe")
def data_probe(
    benchmark: Annotated[str, typer.Option(help="A benchmark, or visual-cot or monet-sft.")],
    data: Annotated[str, typer.Option(help="A downloaded file or folder, or a hub id.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a published data set holds: files, columns, rows by group, the first row, and what does not fit.

    Example: mirage data probe --benchmark vstar --data /data/vstar_bench
    """
    from flows.commands import probe as command

    command.probe(benchmark, data, as_json=as_json)


@data_app.command("preview")
def data_preview(
    source: Annotated[str, typer.Argument(help="A JSONL file of your own, or an artifact of examples.")],
    recipe: Annotated[str, typer.Option(help="The recipe whose prompt, latents and tokenizer are used.")] = "tiny",
    sets: SetsOption = None,
    count: Annotated[int, typer.Option("--n", min=1, help="Number of examples.")] = 3,
    page: Annotated[Path | None, typer.Option("--html", help="Also write a page with the images.")] = None,
    store: StoreOption = None,
) -> None:
    """Show examples as the model sees them: text, latents, label mask, auxiliary image and its target cells.

    Example: mirage data preview my-data.jsonl --n 1 --html preview.html
    """
    from flows.commands import data as command

    command.show(source, recipe, sets or [], count, page, store)


@teacher_app.command("try")
def teacher_try(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    count: Annotated[int, typer.Option("--n", help="Number of problems.")] = 3,
    store: StoreOption = None,
) -> None:
    """Let the recipe's teacher write a few chains; print them, what was rejected and why, and the cost."""
    from flows.commands import teacher as command

    command.try_out(recipe, sets or [], count, store)


@scenes_app.command("try")
def scenes_try(
    description: Annotated[str, typer.Argument(help="The scene in words.")],
    output: Annotated[Path, typer.Argument(help="The PNG file to write.")],
    sets: SceneSetsOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the noise.")] = 42,
) -> None:
    """Render one frame from a description.

    Example: mirage scenes try "a red cube on a table" cube.png
    """
    from flows.commands import scenes as command

    command.try_out(description, output, sets or [], seed)


@scenes_app.command("finetune")
def scenes_finetune(
    pairs: Annotated[Path, typer.Argument(help="A JSONL file of {description, image}, with the images beside it.")],
    output: Annotated[Path, typer.Argument(help="The folder of the LoRA weights and of the checkpoint.")],
    sets: SceneSetsOption = None,
    seed: Annotated[int, typer.Option(help="The seed of weights, order and noise.")] = 42,
) -> None:
    """Fine-tune CogVideoX by LoRA on descriptions and frames; a run that was killed resumes."""
    from flows.commands import scenes as command

    command.train(pairs, output, sets or [], seed)
