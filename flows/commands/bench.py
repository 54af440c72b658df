"""``mirage bench``: what the parts cost on this machine, in ratios."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from flows.commands.printing import aside, console

if TYPE_CHECKING:
    from pathlib import Path

    from bench.latent import Row
    from bench.orchestration import Round
    from bench.orchestration import Row as OrchestrationRow
    from bench.store import Round as StoreRound
    from bench.store import Row as StoreRow
    from bench.synthesis import Row as SynthesisRow
    from bench.training import Measured
    from mirage_core.types import ProgressEvent

_BETTER = {"stage1": "less", "stage2": "less", "decode": "more", "group": "more", "answers": "more"}


def latent(repeats: int, threads: int, *, quick: bool, as_json: bool) -> None:
    """Measure the latent engine and print the rows; those that are done meanwhile go to stderr."""
    from bench.latent import measure

    rows = measure(repeats, _tell, quick=quick, threads=threads)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(table(rows))


def orchestration(rounds: int, seconds: float | None, *, as_json: bool) -> None:
    """Measure what Prefect costs on a server of its own; rounds that are done meanwhile go to stderr."""
    from bench.orchestration import measure

    aside.print("starting a temporary Prefect server (15 to 60 s)", markup=False)
    rows = measure(walk, rounds, seconds, _tell_round)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(orchestration_table(rows))


def synthesis(*, quick: bool, as_json: bool) -> None:
    """Measure how fast data is made and print the rows; those that are done meanwhile go to stderr."""
    from bench.synthesis import measure

    rows = measure(_tell_synthesis, quick=quick)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
        return
    shown = Table("kind", "samples", "processes", "samples / s", "seconds", "peak MiB", box=None, pad_edge=False)
    for row in rows:
        seconds = f"{row.problems_s:.1f} + {row.pictures_s:.1f} + {row.chains_s:.1f}"
        figures = (f"{row.samples_per_second:.0f}", seconds, f"{row.peak_mib:.0f}")
        shown.add_row(row.kind, str(row.samples), str(row.processes), *figures)
    console.print(shown)


def grpo(
    model: Path, problems: Path, folder: Path, recipe: str, overrides: list[str], seeds: int, *, as_json: bool
) -> None:
    """Run GRPO with several seeds and print what changed; what is under way goes to stderr."""
    from bench.grpo import measure

    result = measure(
        model,
        problems,
        folder,
        recipe=recipe,
        overrides=overrides,
        seeds=range(1, seeds + 1),
        told=lambda said: aside.print(said, markup=False),
        progress=_tell_progress,
    )
    if as_json:
        console.print_json(json.dumps(asdict(result)))
        return
    shown = Table("on held-out problems", "before", "after", "difference", "95 %", box=None, pad_edge=False)
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
        shown.add_row(name, *figures)
    console.print(shown)


def walk(recipe: str, overrides: list[str], store: str) -> None:
    """The flow ``mirage`` in this process, with this store."""
    from flows.full_pipeline import mirage

    os.environ["MIRAGE_STORE"] = store
    mirage(recipe=recipe, overrides=overrides)


def orchestration_table(rows: list[OrchestrationRow]) -> Table:
    """The rows for people."""
    shown = Table("case", "stages", "wall / stages", "wall ms", "stages ms", "ms a stage", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.3f}", f"{row.wall_ms:.0f}", f"{row.stages_ms:.0f}", f"{row.overhead_ms:.0f}")
        shown.add_row(row.case, str(row.stages), *figures)
    return shown


def store(url: str, megabytes: int, rounds: int, *, as_json: bool) -> None:
    """Measure the store on S3 against boto3; rounds that are done meanwhile go to stderr."""
    from bench.store import measure

    rows = measure(url, megabytes, rounds, _tell_store)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(store_table(rows))


def store_table(rows: list[StoreRow]) -> Table:
    """The rows for people."""
    shown = Table("case", "MB", "ratio", "MB/s", "boto3 MB/s", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.2f}", f"{row.ours_mb_s:.0f}", f"{row.boto3_mb_s:.0f}")
        shown.add_row(row.case, str(row.megabytes), *figures)
    return shown


def table(rows: list[Row]) -> Table:
    """The rows for people."""
    shown = Table("case", "batch", "k", "ratio", "better", "ms", "baseline ms", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.3f}", _BETTER[row.case], f"{row.median_ms:.1f}", f"{row.baseline_ms:.1f}")
        shown.add_row(row.case, str(row.batch), str(row.k), *figures)
    return shown


def training(recipe: str, sets: list[str], cases: list[str], rounds: int, layers: int | None, *, as_json: bool) -> None:
    """Measure a recipe's training steps and print the rows; those that are done meanwhile go to stderr."""
    from bench.training import CASES, measure
    from mirage_core.errors import InputError
    from mirage_core.recipes import load

    unknown = sorted(set(cases) - set(CASES))
    if unknown:
        raise InputError(f"--cases names {', '.join(unknown)}; expected some of {', '.join(CASES)}")
    rows = measure(load(recipe, sets), _tell_training, cases=cases, rounds=rounds, layers=layers)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
        return
    names = (
        "case",
        "rows at once",
        "tokens",
        "recomputed",
        "s a step",
        "over plain",
        "GiB",
        "planned",
        "planned over it",
    )
    shown = Table(*names, box=None, pad_edge=False)
    for row in rows:
        memory = (f"{row.peak_bytes / 2**30:.2f}", f"{row.planned_bytes / 2**30:.2f}", f"{row.planned_ratio:.3f}")
        times = (f"{row.seconds:.3f}", f"{row.ratio:.3f}")
        shown.add_row(row.case, str(row.rows), str(row.tokens), "yes" if row.checkpointing else "no", *times, *memory)
    console.print(shown)


def _tell_training(row: Measured) -> None:
    said = f"{row.case}: {row.seconds:.3f} s a step, {row.peak_bytes / 2**30:.2f} GiB ({row.planned_ratio:.2f} planned)"
    aside.print(said, markup=False)


def _tell(row: Row) -> None:
    aside.print(f"{row.case} batch {row.batch} k {row.k}: {row.ratio:.3f}", markup=False)


def _tell_synthesis(row: SynthesisRow) -> None:
    said = f"{row.kind}, {row.samples} samples, {row.processes} processes: {row.samples_per_second:.0f} a second"
    aside.print(said, markup=False)


def _tell_progress(event: ProgressEvent) -> None:
    if event.step is not None and event.total is not None:
        aside.print(f"{event.stage} {event.step} of {event.total}", markup=False)


def _tell_round(done: Round) -> None:
    said = f"stages {done.direct:.2f} s, the flow {done.cold:.2f} s, cached {done.cached:.2f} s"
    aside.print(said, markup=False)


def _tell_store(done: StoreRound) -> None:
    said = ", ".join(f"{case} {side} {seconds:.2f} s" for (case, side), seconds in sorted(done.seconds.items()))
    aside.print(said, markup=False)
