"""The curves of a stage: every figure of every step, as a parquet table (step, name, value)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from mirage_core.store.tables import read_columns, write_table

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
STEP_TOKENS = "step_tokens"
"""Tokens in all processes' forward passes of a step, latents included."""
TIMING = "time/"
"""Prefix of figures that are reported while they happen and not saved: they differ from run to run."""


class Curves:
    """Figures by step, in the order they were added."""

    def __init__(self) -> None:
        self._rows: list[dict[str, int | str | float]] = []

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step (the first is 1; before it, 0), except timings."""
        for name in sorted(figures):
            if not name.startswith(TIMING):
                self._rows.append({"step": step, "name": name, "value": float(figures[name])})

    def points(self, name: str) -> list[tuple[int, float]]:
        """Return the (step, value) of one figure, in the order they were added."""
        return [(int(row["step"]), float(row["value"])) for row in self._rows if row["name"] == name]

    def write(self, path: Path) -> None:
        """Write the table; the same figures give the same bytes."""
        write_table(path, self._rows, SCHEMA)

    @classmethod
    def read(cls, path: Path) -> Curves:
        """Read a table; DataError names a broken file."""
        curves = cls()
        curves._rows = read_columns(path, SCHEMA)
        return curves
