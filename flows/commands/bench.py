"""``mirage bench``: what the parts cost on this machine, in ratios."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from flows.commands.printing import aside, console

if TYPE_CHECKING:
    from benchmarks.latent import Row
    from benchmarks.orchestration import Round
    from benchmarks.orchestration import Row as OrchestrationRow
    from benchmarks.store import Round as StoreRound
    from benchmarks.store import Row as StoreRow
    from benchmarks.synthesis import Row as SynthesisRow

_BETTER = {"stage1": "less", "stage2": "less", "decode": "more", "group": "more"}


def latent(repeats: int, threads: int, *, quick: bool, as_json: bool) -> None:
    """Measure the latent engine and print the rows; those that are done meanwhile go to stderr."""
    from benchmarks.latent import measure

    rows = measure(repeats, _tell, quick=quick, threads=threads)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(table(rows))


def orchestration(rounds: int, seconds: float | None, *, as_json: bool) -> None:
    """Measure what Prefect costs on a server of its own; rounds that are done meanwhile go to stderr."""
    from benchmarks.orchestration import measure

    aside.print("starting a temporary Prefect server (15 to 60 s)", markup=False)
    rows = measure(walk, rounds, seconds, _tell_round)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(orchestration_table(rows))


def synthesis(*, quick: bool, as_json: bool) -> None:
    """Measure how fast data is made and print the rows; those that are done meanwhile go to stderr."""
    from benchmarks.synthesis import measure

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
    from benchmarks.store import measure

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


def _tell(row: Row) -> None:
    aside.print(f"{row.case} batch {row.batch} k {row.k}: {row.ratio:.3f}", markup=False)


def _tell_synthesis(row: SynthesisRow) -> None:
    said = f"{row.kind}, {row.samples} samples, {row.processes} processes: {row.samples_per_second:.0f} a second"
    aside.print(said, markup=False)


def _tell_round(done: Round) -> None:
    said = f"stages {done.direct:.2f} s, the flow {done.cold:.2f} s, cached {done.cached:.2f} s"
    aside.print(said, markup=False)


def _tell_store(done: StoreRound) -> None:
    said = ", ".join(f"{case} {side} {seconds:.2f} s" for (case, side), seconds in sorted(done.seconds.items()))
    aside.print(said, markup=False)
