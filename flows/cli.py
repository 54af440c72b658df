"""The command line ``mirage``: arguments, errors and exit statuses; what a command does is in flows/commands/."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.apps import analysis, bench, data, models, scenes, scoring, store, studies, teacher
from flows.apps.options import JsonOption, RecipeOption, SetsOption, StoreOption
from mirage_core.errors import MirageError

app = typer.Typer(
    help="Teach a vision-language model to think in latent visual tokens: run the road, judge, ask, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(store.app, name="store")
app.add_typer(teacher.app, name="teacher")
app.add_typer(data.app, name="data")
app.add_typer(scenes.app, name="scenes")
app.add_typer(bench.app, name="bench")

CheckpointOption = Annotated[
    str | None,
    typer.Option(help="A model: an artifact or a folder. [default: the newest run's furthest trained]"),
]


@app.callback()
def common(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Options of every command."""
    if debug:
        sys.tracebacklimit = 1000


@app.command()
def run(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the settings and what is cached; do nothing.")
    ] = False,
    direct: Annotated[bool, typer.Option("--direct", help="Run in this process, without a Prefect server.")] = False,
    publish_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Then let NAME stand for the furthest trained model."),
    ] = None,
    model_folder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the furthest trained model is left, with its card and scores; none: nowhere. "
            "[default: .mirage/models/RECIPE, where the store is on this machine]",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Walk the whole road of a recipe: from raw puzzles to an evaluated model and its report."""
    from flows.commands import run as command

    if dry_run:
        command.show_plan(recipe, sets or [], store)
    elif direct:
        command.run_direct(recipe, sets or [], store, publish_as, model_folder)
    else:
        command.run_deployment(recipe, sets or [], store, publish_as, model_folder)


@app.command()
def plan(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs, one process each. [default: as the recipe says]")] = None,
    gpu_gib: Annotated[float, typer.Option(help="Memory of a GPU, in GiB.")] = 80.0,
    rate: Annotated[float | None, typer.Option(help="What a GPU sustains, in TFLOP/s: gives hours.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the rate here, by a few steps.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a recipe will need before it starts: memory a GPU, steps, tokens, hours, and what to change."""
    from flows.commands import plan as command

    command.show(recipe, sets or [], gpus, gpu_gib, rate, measure=measure, as_json=as_json)


@app.command()
def evaluate(
    benchmark: Annotated[
        str,
        typer.Option(help="The benchmark: vsp-planning, sat, vstar, hr-bench-8k, ..., own, or your task."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Its rows in the published layout: a file, a folder or a hub id. [default: the test problems]"
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    method: Annotated[str | None, typer.Option(help="How it answers. [default: as the checkpoint was trained]")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Judge a model behind an OpenAI-compatible API instead.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --endpoint: the model, as the endpoint names it.")] = None,
    prompt: Annotated[
        str, typer.Option(help="With --endpoint: official (the benchmark's own), benchmark or short (our models').")
    ] = "benchmark",
    variant: Annotated[str, typer.Option(help="With --endpoint: cot asks for a thought first.")] = "cot",
    sets: SetsOption = None,
    save: Annotated[Path | None, typer.Option(help="Keep the judged answers as parquet, for `mirage compare`.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a model on a benchmark, with 95 % intervals, a level a row."""
    if endpoint is not None:
        from flows.commands import hosted

        hosted.evaluate(
            endpoint, model, benchmark, data, prompt=prompt, variant=variant, sets=sets or [], save=save, store=store,
            as_json=as_json,
        )  # fmt: skip
        return
    if sets or model:
        raise typer.BadParameter("--set and --model belong to --endpoint")
    from flows.commands import evaluate as command

    command.evaluate(benchmark, data, checkpoint, method, store, save=save, as_json=as_json)


@app.command()
def answer(
    asked: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] IMAGE [QUESTION]",
            help="A model folder, the picture (PNG or JPEG), and the question. "
            "[default: the newest run's furthest trained model; the benchmark's own prompt]",
        ),
    ],
    benchmark: Annotated[
        str | None, typer.Option(help="Whose prompt and rules apply. [default: what the model was trained on]")
    ] = None,
    checkpoint: CheckpointOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Ask again with the latents changed, and write a page about it.")
    ] = False,
    page: Annotated[Path, typer.Option(help="With --explain: where the page goes.")] = Path("mirage-answer.html"),
    open_page: Annotated[bool, typer.Option("--open", help="With --explain: open the page in a browser.")] = False,
    store: StoreOption = None,
) -> None:
    """Ask a model one question about one picture; shows the text and where the latents stood."""
    from flows.commands import answer as command

    model, image, question = command.asked_what(asked, checkpoint)
    command.answer(image, question, benchmark, model, store, page=page if explain else None, open_page=open_page)


@app.command()
def report(
    as_json: JsonOption = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    run_id: Annotated[str | None, typer.Option("--run", help="A run's id. [default: the newest]")] = None,
    trend: Annotated[str | None, typer.Option(metavar="NAME", help="The nights of a pointer: `nightly`.")] = None,
    store: StoreOption = None,
) -> None:
    """Show the newest run's figures (stages, seconds, scores, its page), or with --trend those of the nights."""
    if trend is not None:
        from flows.commands import trend as nights

        nights.trend(trend, store, as_json=as_json, open_page=open_page)
        return
    from flows.commands import report as command

    command.report(run_id, store, as_json=as_json, open_page=open_page)


app.command()(analysis.diagnose)
app.command()(studies.study)
app.command()(scoring.score)
app.command()(scoring.compare)
app.command()(models.export)
app.command()(models.push)


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="The server's port. [default: 4200]")] = None,
) -> None:
    """Start the local Prefect server and worker in the background, where they do not run yet."""
    from flows.commands import stack as command

    command.up(port)


@app.command()
def down() -> None:
    """Stop the local Prefect worker and server."""
    from flows.commands import stack as command

    command.down()


@app.command()
def deploy(store: StoreOption = None) -> None:
    """Register the deployments of prefect.yaml with the Prefect server."""
    from flows.commands import stack as command

    command.deploy(store)


@app.command("s3-block")
def s3_block(
    name: Annotated[str, typer.Argument(help="What the block is called: lower case letters, digits, dashes.")] = "s3",
) -> None:
    """Save this shell's AWS variables as a Prefect block: flows take an S3 store's keys from it."""
    from flows.commands import stack as command

    command.save_s3_block(name)


@app.command()
def status() -> None:
    """Say what of the local stack runs, and where."""
    from flows.commands import stack as command

    command.status()


def main() -> None:
    """Run the command line; errors become one message on stderr and exit status 1 (2: wrong usage)."""
    try:
        if os.environ.get("MIRAGE_S3_BLOCK"):
            from flows.commands.stack import reach_keys

            reach_keys()
        app()
    except MirageError as error:
        _fail(str(error), error)
    except ModuleNotFoundError as error:
        _fail(
            f"the Python module {error.name} is missing: run `make setup`, or pip install -c constraints.txt "
            "'mirage-latent[train,scenes,teacher]' into the environment of this command",
            error,
        )
    except OSError as error:
        _fail(f"{type(error).__name__}: {error}", error)


def _fail(message: str, problem: BaseException) -> None:
    from rich.console import Console

    if "--debug" in sys.argv[1:]:
        raise problem
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, style="red", markup=False)
    sys.exit(1)


if __name__ == "__main__":
    main()
