"""What a run tells while it goes on: progress events every few seconds, and TensorBoard's curves."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mirage_core.training.logging.curves import TIMING
from mirage_core.training.logging.tensorboard import Board
from mirage_core.training.logging.throughput import Meter
from mirage_core.types import Progress, ProgressEvent

REPORT_EVERY_S = 2.0


class RunLog:
    """Tells of a stage of ``total`` steps; process 0 does, the others' words are not heard."""

    def __init__(self, stage: str, total: int, rank: int, emit: Progress, board: Board, meter: Meter) -> None:
        self._stage, self._total, self._rank = stage, total, rank
        self._emit, self._board, self._meter = emit, board, meter
        self._told: float | None = None

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell of an optimizer step: every few seconds, at the first and at the last, with the speed since."""
        if self._rank != 0:
            return
        now = time.monotonic()
        if self._told is None or step == self._total or now - self._told >= REPORT_EVERY_S:
            speed = self._meter.read()  # that of the first step is not told: it holds what is done once
            figures = {**figures, **(speed if self._told is not None else {})}
            self._told = now
            self._tell(step, figures)
        self._board(step, figures)

    def validated(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell of a validation after ``step``."""
        self.say(f"validation after step {step}: {sentence(figures)}")
        if self._rank == 0:
            self._tell(step, figures)
            self._board(step, figures)

    def say(self, message: str) -> None:
        """Tell of something else than a step: it is always shown."""
        if self._rank == 0:
            self._emit(ProgressEvent(stage=self._stage, message=message))

    def _tell(self, step: int, figures: Mapping[str, float]) -> None:
        shown = {name.removeprefix(TIMING): value for name, value in figures.items()}
        self._emit(
            ProgressEvent(stage=self._stage, message=sentence(shown), step=step, total=self._total, metrics=shown)
        )


def sentence(figures: Mapping[str, float]) -> str:
    """Figures in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
