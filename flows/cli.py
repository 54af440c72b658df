"""The command line ``mirage``: arguments, errors and exit statuses; what a command does is in flows/commands/."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.apps import data, scenes
from mirage_core.errors import MirageError

app = typer.Typer(
    help="Teach a vision-language model to think in latent visual tokens: run the road, judge, ask, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store_app = typer.Typer(help="Look into the store of artifacts.", no_args_is_help=True)
app.add_typer(store_app, name="store")
teacher_app = typer.Typer(help="Try the teacher that writes the chains.", no_args_is_help=True)
app.add_typer(teacher_app, name="teacher")
app.add_typer(data.app, name="data")
app.add_typer(scenes.app, name="scenes")
bench_app = typer.Typer(help="Measure what the parts cost on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="The store: a folder or s3://bucket/prefix. [default: MIRAGE_STORE]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
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
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a YAML file.")] = "tiny",
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the settings and what is cached; do nothing.")
    ] = False,
    direct: Annotated[bool, typer.Option("--direct", help="Run in this process, without a Prefect server.")] = False,
    publish_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Then let NAME stand for the furthest trained model."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Walk the whole road of a recipe: from raw puzzles to an evaluated model and its report."""
    from flows.commands import run as command

    if dry_run:
        command.show_plan(recipe, sets or [], store)
    elif direct:
        command.run_direct(recipe, sets or [], store, publish_as)
    else:
        command.run_deployment(recipe, sets or [], store, publish_as)


@app.command()
def evaluate(
    benchmark: Annotated[
        str, typer.Option(help="The benchmark: vsp-planning, vsp-reasoning, jigsaw, sat, comt, own, or your task.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="A JSONL file of the benchmark's published layout. [default: the test problems]")
    ] = None,
    checkpoint: CheckpointOption = None,
    method: Annotated[str | None, typer.Option(help="How it answers. [default: as the checkpoint was trained]")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a model on a benchmark, with 95 % intervals, a level a row."""
    from flows.commands import evaluate as command

    command.evaluate(benchmark, data, checkpoint, method, store, as_json=as_json)


@app.command()
def answer(
    image: Annotated[Path, typer.Argument(help="The picture, PNG or JPEG.")],
    question: Annotated[str | None, typer.Argument(help="The question. [default: the benchmark's own prompt]")] = None,
    benchmark: Annotated[str, typer.Option(help="Whose prompt and rules apply.")] = "vsp-planning",
    checkpoint: CheckpointOption = None,
    store: StoreOption = None,
) -> None:
    """Ask a model one question about one picture; shows the text and where the latents stood."""
    from flows.commands import answer as command

    command.answer(image, question, benchmark, checkpoint, store)


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


@store_app.command("ls")
def store_ls(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: problems, model, evaluation, ...")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts, newest first."""
    from flows.commands import store as command

    command.list_artifacts(kind, store, as_json=as_json)


@store_app.command("show")
def store_show(
    reference: Annotated[str, typer.Argument(help="An artifact's path, or the start of its digest.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an artifact's files, figures and origin."""
    from flows.commands import store as command

    command.show_artifact(reference, store, as_json=as_json)


@store_app.command("verify")
def store_verify(
    reference: Annotated[str | None, typer.Argument(help="One artifact. [default: all]")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take what is damaged out of use, so that its stage runs again.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Read every byte of one artifact, or of all, against the manifests; exit status 1 where one is damaged."""
    from flows.commands import store as command

    command.verify(reference, store, repair=repair)


@store_app.command("gc")
def store_gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove it. [default: only show it]")] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what was written last so long ago: 2h, 7d. [default: 7d]")
    ] = "7d",
    keep_runs: Annotated[
        int | None, typer.Option(min=1, help="Only that many of the newest runs keep their artifacts. [default: all]")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what nothing needs any more: uploads that were killed, dead checkpoints, artifacts without a run."""
    from flows.commands import store as command

    command.collect(older_than, keep_runs, store, delete=delete, as_json=as_json)


@store_app.command("point")
def store_point(
    name: Annotated[str, typer.Argument(help="The pointer: `nightly` is what mirage-evaluation/nightly evaluates.")],
    reference: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="An artifact's path, or the start of its digest.")
    ],
    store: StoreOption = None,
) -> None:
    """Let a name stand for an artifact from now on."""
    from flows.commands import point as command

    command.point(name, reference, store)


@teacher_app.command("try")
def teacher_try(
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a YAML file.")] = "tiny",
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; may be repeated.")
    ] = None,
    count: Annotated[int, typer.Option("--n", help="How many problems.")] = 3,
    store: StoreOption = None,
) -> None:
    """Let the recipe's teacher write a few chains: the texts, what was wrong with others, and what they cost."""
    from flows.commands import teacher as command

    command.try_out(recipe, sets or [], count, store)


@bench_app.command("latent")
def bench_latent(
    repeats: Annotated[int, typer.Option(help="Measured rounds of each case.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the largest batches.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare training and decoding with latents with plain training and stock generate (about five minutes)."""
    from flows.commands import bench as command

    command.latent(repeats, threads, quick=quick, as_json=as_json)


@bench_app.command("synthesis")
def bench_synthesis(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the samples.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast problems, pictures and chains are made, in one process and in two (about five minutes)."""
    from flows.commands import bench as command

    command.synthesis(quick=quick, as_json=as_json)


@bench_app.command("orchestration")
def bench_orchestration(
    rounds: Annotated[int, typer.Option(help="Measured rounds; one before them does not count.")] = 5,
    seconds: Annotated[float, typer.Option(help="How long each stage waits instead of working.")] = 1.0,
    real: Annotated[bool, typer.Option("--real", help="Run the recipe micro as it is instead of waiting.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the flow's wall time with the sum of its stages, cold and cached (about three minutes)."""
    from flows.commands import bench as command

    command.orchestration(rounds, None if real else seconds, as_json=as_json)


@bench_app.command("store")
def bench_store(
    megabytes: Annotated[int, typer.Option(help="Size of the file.")] = 200,
    rounds: Annotated[int, typer.Option(help="Measured rounds; one before them does not count.")] = 5,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare publishing and fetching a large file on S3 with boto3 (about a minute)."""
    from flows.commands import bench as command
    from tasks.places import store_url

    command.store(store_url(store), megabytes, rounds, as_json=as_json)


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
    except MirageError as problem:
        _fail(str(problem), problem)
    except ModuleNotFoundError as problem:
        _fail(
            f"the Python module {problem.name} is missing: run `make setup`, or pip install -c constraints.txt "
            "'mirage-latent[train,scenes,teacher]' into the environment of this command",
            problem,
        )
    except OSError as problem:
        _fail(f"{type(problem).__name__}: {problem}", problem)


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
