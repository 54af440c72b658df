"""``mirage bench``: what the parts cost on this machine, in ratios."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from flows.commands.printing import aside, console

if TYPE_CHECKING:
    from benchmarks.latent import Row

_BETTER = {"stage1": "less", "stage2": "less", "decode": "more", "group": "more"}


def latent(repeats: int, threads: int, *, quick: bool, as_json: bool) -> None:
    """Measure the latent engine and print the rows; those that are done meanwhile go to stderr."""
    from benchmarks.latent import measure

    rows = measure(repeats, _tell, quick=quick, threads=threads)
    if as_json:
        console.print_json(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(table(rows))


def table(rows: list[Row]) -> Table:
    """The rows for people."""
    shown = Table("case", "batch", "k", "ratio", "better", "ms", "baseline ms", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row.ratio:.3f}", _BETTER[row.case], f"{row.median_ms:.1f}", f"{row.baseline_ms:.1f}")
        shown.add_row(row.case, str(row.batch), str(row.k), *figures)
    return shown


def _tell(row: Row) -> None:
    aside.print(f"{row.case} batch {row.batch} k {row.k}: {row.ratio:.3f}", markup=False)
