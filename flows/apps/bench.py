"""``mirage bench``: measure speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.apps.options import JsonOption, RecipeOption, SetsOption, StoreOption

app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)


@app.command("latent")
def bench_latent(
    repeats: Annotated[int, typer.Option(help="Measured rounds per case.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the largest batches.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare training and decoding with latents with plain training and stock generate (about five minutes)."""
    from flows.commands import bench as command

    command.latent(repeats, threads, quick=quick, as_json=as_json)


@app.command("launches")
def bench_launches(
    layers: Annotated[int, typer.Option(help="Layers of the random model.")] = 8,
    batch: Annotated[int, typer.Option(help="Rows of a step.")] = 4,
    latents: Annotated[int, typer.Option(help="Latents of a span.")] = 4,
    lora: Annotated[bool, typer.Option("--lora", help="Train adapters.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Count on a CPU what a step of training and decoding launches on a GPU, by pass and layer (about a minute)."""
    from flows.commands import bench as command

    command.launches(layers, batch, latents, lora=lora, as_json=as_json)


@app.command("arithmetic")
def bench_arithmetic(
    emulate: Annotated[
        str, typer.Option(help="CPUs that qemu-x86_64 emulates (minutes each): some of EPYC,Haswell,...")
    ] = "",
    recipe: RecipeOption = "tiny",
    steps: Annotated[int, typer.Option(help="Steps after which bits are compared.")] = 2,
    more_steps: Annotated[int, typer.Option(help="Steps more, for the comparison of speed.")] = 40,
    rounds: Annotated[int, typer.Option(help="Rounds of the comparison of speed; 0: none.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Show that runtime.portable_math gives the same bits on other CPUs, and what it costs (about four minutes)."""
    from flows.commands import bench as command

    cpus = [name.strip() for name in emulate.split(",") if name.strip()]
    command.arithmetic(cpus, recipe, steps, more_steps, rounds, as_json=as_json)


@app.command("synthesis")
def bench_synthesis(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the samples.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast problems, images and chains are made, in one process and in two (about five minutes)."""
    from flows.commands import bench as command

    command.synthesis(quick=quick, as_json=as_json)


@app.command("orchestration")
def bench_orchestration(
    rounds: Annotated[int, typer.Option(help="Measured rounds, after one that does not count.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds that each stage waits instead of working.")] = 1.0,
    real: Annotated[bool, typer.Option("--real", help="Run the recipe micro instead of waiting.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the flow's wall time with the sum of its stages, cold and cached (about three minutes)."""
    from flows.commands import bench as command

    command.orchestration(rounds, None if real else seconds, as_json=as_json)


@app.command("grpo")
def bench_grpo(
    model: Annotated[Path, typer.Argument(help="The model folder that GRPO starts from, such as stage 2's.")],
    problems: Annotated[Path, typer.Argument(help="The folder of its problems (problems.parquet).")],
    folder: Annotated[Path, typer.Option(help="The folder of runs, grpo.json and grpo.png; finished runs are reused.")],
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs, with the seeds 1, 2, ...")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Measure whether GRPO raises the sampled reward and keeps the greedy accuracy (minutes per seed)."""
    from flows.commands import bench as command

    command.grpo(model, problems, folder, recipe, sets or [], seeds, as_json=as_json)


@app.command("training")
def bench_training(
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    cases: Annotated[
        str, typer.Option(help="Cases besides direct-sft: some of grounding,relaxation,grpo.")
    ] = "grounding,relaxation,grpo",
    rounds: Annotated[int, typer.Option(help="Measured steps per case, after one that does not count.")] = 3,
    layers: Annotated[int | None, typer.Option(help="Use only this many layers of a model that is too large.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure time and memory of a step of stage 1, stage 2 and GRPO against plain fine-tuning, with random weights."""
    from flows.commands import bench as command

    command.training(recipe, sets or [], cases.split(","), rounds, layers, as_json=as_json)


@app.command("serve")
def bench_serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model: a folder or an artifact. [default: random weights of --recipe]"
        ),
    ] = None,
    recipe: RecipeOption = "tiny",
    rounds: Annotated[int, typer.Option(help="Measured rounds, after one that does not count.")] = 3,
    prompts: Annotated[int, typer.Option(help="Requests of each case and round.")] = 96,
    threads: Annotated[int, typer.Option(help="Threads of torch, on both sides.")] = 1,
    endpoints: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="Also ask this OpenAI-compatible server, such as vLLM with the same weights (key: OPENAI_API_KEY). "
            "May be repeated.",
        ),
    ] = None,
    endpoint_pids: Annotated[
        list[int] | None,
        typer.Option(
            "--endpoint-pid", help="Its process on this machine, for the processor's time; as often as --endpoint."
        ),
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="With --endpoint: the model's name there.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare `mirage serve` under load with answering one prompt after the other (about ten minutes)."""
    from flows.commands import bench as command

    command.serve(
        model, recipe, rounds, prompts, threads, endpoints or [], endpoint_pids or [], endpoint_model, store=store,
        as_json=as_json,
    )  # fmt: skip


@app.command("store")
def bench_store(
    megabytes: Annotated[int, typer.Option(help="Size of the file.")] = 200,
    rounds: Annotated[int, typer.Option(help="Measured rounds, after one that does not count.")] = 5,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare publishing and fetching a large file on S3 with boto3 (about a minute)."""
    from flows.commands import bench as command
    from tasks.paths import store_url

    command.store(store_url(store), megabytes, rounds, as_json=as_json)
