"""``mirage bench``: measure speed and memory on this machine; results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from flows.commands.printing import console, stderr

if TYPE_CHECKING:
    from bench.arithmetic import Row as ArithmeticRow
    from bench.latent import Row
    from bench.launches import Row as LaunchRow
    from bench.orchestration import Round
    from bench.orchestration import Row as OrchestrationRow
    from bench.serving import Row as ServingRow
    from bench.store import Round as StoreRound
    from bench.store import Row as StoreRow
    from bench.synthesis import Row as SynthesisRow
    from bench.training import Measured
    from mirage_core.types import ProgressEvent

AnyRow = TypeVar("AnyRow")

_BETTER = {"stage1": "less", "stage2": "less", "decode": "more", "group": "more", "answers": "more"}


def latent(repeats: int, threads: int, *, quick: bool, as_json: bool) -> None:
    """Compare training and decoding with latents to plain training and stock generate."""
    from bench.latent import measure

    rows = measure(repeats, _log_latent, quick=quick, threads=threads)
    _show(rows, latent_table, as_json=as_json)


def launches(layers: int, batch: int, latents: int, *, lora: bool, as_json: bool) -> None:
    """Count what a step launches on a GPU."""
    from bench.launches import measure

    _show(measure(layers=layers, batch=batch, latents=latents, lora=lora), launches_table, as_json=as_json)


def launches_table(rows: list[LaunchRow]) -> Table:
    """Return one row per case and part, with stock layers and with ``runtime.fused`` side by side."""
    table = Table("case", "part", "times", "launches", "a layer", "fused", "a layer", box=None, pad_edge=False)
    fused = {(row.case, row.part): row for row in rows if row.fused}
    for row in (row for row in rows if not row.fused):
        other = fused[row.case, row.part]
        figures = (f"{number:g}" for each in (row, other) for number in (each.launches, each.per_layer))
        table.add_row(row.case, row.part, str(row.times), *figures)
    return table


def orchestration(rounds: int, seconds: float | None, *, as_json: bool) -> None:
    """Compare the flow's wall time with the sum of its stages, on a temporary Prefect server."""
    from bench.orchestration import measure

    _log("starting a temporary Prefect server (15 to 60 s)")
    rows = measure(run_flow, rounds, seconds, _log_round)
    _show(rows, orchestration_table, as_json=as_json)


def arithmetic(cpus: Sequence[str], recipe: str, steps: int, more_steps: int, rounds: int, *, as_json: bool) -> None:
    """Compare the bits of a short training over CPUs, and the speed of portable arithmetic."""
    from bench.arithmetic import measure

    rows = measure(cpus, _log, recipe=recipe, steps=steps, more_steps=more_steps, rounds=rounds)
    _show(rows, arithmetic_table, as_json=as_json)


def arithmetic_table(rows: list[ArithmeticRow]) -> Table:
    """Return one row per CPU and case; equal digests are equal weights."""
    table = Table("CPU", "case", "arithmetic", "film", "direct SFT", "seconds / native", box=None, pad_edge=False)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.cpu, row.case, row.arithmetic, row.film, row.direct_sft, ratio)
    return table


def synthesis(*, quick: bool, as_json: bool) -> None:
    """Measure how fast problems, images and chains are made."""
    from bench.synthesis import measure

    rows = measure(_log_synthesis, quick=quick)
    _show(rows, synthesis_table, as_json=as_json)


def synthesis_table(rows: list[SynthesisRow]) -> Table:
    """Return one row per kind and number of processes."""
    table = Table("kind", "samples", "processes", "samples / s", "seconds", "peak MiB", box=None, pad_edge=False)
    for row in rows:
        seconds = f"{row.problems_s:.1f} + {row.pictures_s:.1f} + {row.chains_s:.1f}"
        figures = (f"{row.samples_per_second:.0f}", seconds, f"{row.peak_mib:.0f}")
        table.add_row(row.kind, str(row.samples), str(row.processes), *figures)
    return table


def grpo(
    model: Path, problems: Path, folder: Path, recipe: str, overrides: list[str], seeds: int, *, as_json: bool
) -> None:
    """Run GRPO with several seeds, and print reward and accuracy before and after."""
    from bench.grpo import measure

    result = measure(
        model,
        problems,
        folder,
        recipe=recipe,
        overrides=overrides,
        seeds=range(1, seeds + 1),
        log=_log,
        progress=_log_progress,
    )
    if as_json:
        console.print_json(json.dumps(asdict(result)))
        return
    table = Table("on held-out problems", "before", "after", "difference", "95 %", box=None, pad_edge=False)
    changes = {
        "sampled reward": result.sampled_reward,
        "sampled accuracy": result.sampled_accuracy,
        "greedy accuracy": result.greedy_accuracy,
    }
    for name, change in changes.items():
        low, high = change.interval
        figures = (
            f"{change.before:.3f}",
            f"{change.after:.3f}",
            f"{change.difference:+.3f}",
            f"{low:+.3f} {high:+.3f}",
        )
        table.add_row(name, *figures)
    console.print(table)


def run_flow(recipe: str, overrides: list[str], store: str) -> None:
    """Run the flow ``mirage`` in this process, with this store."""
    from flows.full_pipeline import mirage

    os.environ["MIRAGE_STORE"] = store
    mirage(recipe=recipe, overrides=overrides)


def orchestration_table(rows: list[OrchestrationRow]) -> Table:
    """Return one row per case."""
    table = Table("case", "stages", "wall / stages", "wall ms", "stages ms", "ms a stage", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.3f}", f"{row.wall_ms:.0f}", f"{row.stages_ms:.0f}", f"{row.overhead_ms:.0f}")
        table.add_row(row.case, str(row.stages), *figures)
    return table


def store(url: str, megabytes: int, rounds: int, *, as_json: bool) -> None:
    """Compare publishing and fetching on S3 with boto3."""
    from bench.store import measure

    rows = measure(url, megabytes, rounds, _log_store)
    _show(rows, store_table, as_json=as_json)


def store_table(rows: list[StoreRow]) -> Table:
    """Return one row per case."""
    table = Table("case", "MB", "ratio", "MB/s", "boto3 MB/s", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.2f}", f"{row.ours_mb_s:.0f}", f"{row.boto3_mb_s:.0f}")
        table.add_row(row.case, str(row.megabytes), *figures)
    return table


def serve(
    model: str | None,
    recipe: str,
    rounds: int,
    prompts: int,
    threads: int,
    endpoints: Sequence[str],
    endpoint_pids: Sequence[int],
    endpoint_model: str | None,
    *,
    store: str | None,
    as_json: bool,
) -> None:
    """Compare a server under load with decoding one prompt after the other."""
    from bench.serving import NAME, measure, random_folder
    from bench.serving import endpoints as targets
    from flows.commands.serve import generator_of, serve_command
    from flows.trained import find_checkpoint
    from mirage_core.recipes import load
    from tasks.paths import open_store

    others = targets(endpoints, endpoint_pids, endpoint_model, os.environ.get("OPENAI_API_KEY"))
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        if model is None:
            model = f"{folder}/{recipe}"
            with redirect_stdout(sys.stderr):  # libraries that it imports write there
                random_folder(Path(model), load(recipe))
        checkpoint = find_checkpoint(model, None, open_store(store))
        rows = measure(
            generator_of(checkpoint), checkpoint.settings, serve_command(str(checkpoint.folder), "--name", NAME),
            os.environ, rounds, _log_served, prompts=prompts, threads=threads, others=others,
        )  # fmt: skip
    _show(rows, serving_table, as_json=as_json)


def serving_table(rows: list[ServingRow]) -> Table:
    """Return one row per case and concurrency."""
    table = Table(
        "case", "clients", "requests / s", "tokens / s", "ratio", "of processor time", "first token p50", "p95", "same",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        cpu = "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}"
        first = ["" if ms is None else f"{ms:.0f} ms" for ms in (row.first_token_p50_ms, row.first_token_p95_ms)]
        rates = (f"{row.requests_per_s:.1f}", f"{row.text_tokens_per_s:.0f}", f"{row.ratio:.2f}")
        table.add_row(row.case, str(row.concurrency), *rates, cpu, *first, f"{row.same:.0%}")
    return table


def latent_table(rows: list[Row]) -> Table:
    """Return one row per case, batch and k."""
    table = Table("case", "batch", "k", "ratio", "better", "ms", "baseline ms", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.3f}", _BETTER[row.case], f"{row.median_ms:.1f}", f"{row.baseline_ms:.1f}")
        table.add_row(row.case, str(row.batch), str(row.k), *figures)
    return table


def training(recipe: str, sets: list[str], cases: list[str], rounds: int, layers: int | None, *, as_json: bool) -> None:
    """Measure a recipe's training steps against plain fine-tuning."""
    from bench.training import CASES, measure
    from mirage_core.errors import InputError
    from mirage_core.recipes import load

    unknown = sorted(set(cases) - set(CASES))
    if unknown:
        raise InputError(f"--cases names {', '.join(unknown)}; expected some of {', '.join(CASES)}")
    rows = measure(load(recipe, sets), _log_training, cases=cases, rounds=rounds, layers=layers)
    _show(rows, training_table, as_json=as_json)


def training_table(rows: list[Measured]) -> Table:
    """Return one row per case."""
    table = Table(
        "case", "micro-batch", "tokens", "recomputed", "s / step", "ratio to plain", "GiB", "planned", "planned ratio",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        memory = (f"{row.peak_bytes / 2**30:.2f}", f"{row.planned_bytes / 2**30:.2f}", f"{row.planned_ratio:.3f}")
        times = (f"{row.seconds:.3f}", f"{row.ratio:.3f}")
        table.add_row(row.case, str(row.rows), str(row.tokens), "yes" if row.checkpointing else "no", *times, *memory)
    return table


def _log_training(row: Measured) -> None:
    _log(f"{row.case}: {row.seconds:.3f} s a step, {row.peak_bytes / 2**30:.2f} GiB ({row.planned_ratio:.2f} planned)")


def _log_latent(row: Row) -> None:
    _log(f"{row.case} batch {row.batch} k {row.k}: {row.ratio:.3f}")


def _log_synthesis(row: SynthesisRow) -> None:
    _log(f"{row.kind}, {row.samples} samples, {row.processes} processes: {row.samples_per_second:.0f} a second")


def _log_served(number: int) -> None:
    _log(f"round {number} of all cases is over" if number else "the warm-up round is over")


def _log_progress(event: ProgressEvent) -> None:
    if event.step is not None and event.total is not None:
        _log(f"{event.stage} {event.step} of {event.total}")


def _log_round(done: Round) -> None:
    _log(f"stages {done.direct:.2f} s, the flow {done.cold:.2f} s, cached {done.cached:.2f} s")


def _log_store(done: StoreRound) -> None:
    _log(", ".join(f"{case} {side} {seconds:.2f} s" for (case, side), seconds in sorted(done.seconds.items())))


def _show(rows: list[AnyRow], table: Callable[[list[AnyRow]], Table], *, as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))  # type: ignore[call-overload]
    else:
        console.print(table(rows))


def _log(message: str) -> None:
    stderr.print(message, markup=False)
