"""Progress events and TensorBoard's event files of a stage, written while it trains."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from mirage_core.distributed.context import current_process
from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.training.logging.curves import TIMING
from mirage_core.training.logging.throughput import ThroughputMeter
from mirage_core.types import Progress, ProgressEvent

REPORT_EVERY_S = 2.0
FLUSH_EVERY_S = 10


class ScalarWriter(Protocol):
    """Writes the figures after a step (the first is 1)."""

    def __call__(self, step: int, figures: Mapping[str, float], /) -> None:
        """Write them."""


class RunLog:
    """Reports a stage of ``total`` steps, in process 0 alone."""

    def __init__(
        self, stage: str, total: int, progress: Progress, write_scalars: ScalarWriter, meter: ThroughputMeter
    ) -> None:
        self._stage, self._total = stage, total
        self._progress, self._write_scalars, self._meter = progress, write_scalars, meter
        self._last_report: float | None = None

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Report an optimizer step: every few seconds, at the first and at the last, with the throughput since."""
        if not current_process().is_main:
            return
        now = time.monotonic()
        if self._last_report is None or step == self._total or now - self._last_report >= REPORT_EVERY_S:
            throughput = self._meter.read()  # that of the first step is dropped: it includes what is done once
            figures = {**figures, **(throughput if self._last_report is not None else {})}
            self._last_report = now
            self._report(step, figures)
        self._write_scalars(step, figures)

    def validated(self, step: int, figures: Mapping[str, float]) -> None:
        """Report a validation after ``step``."""
        self.message(f"validation after step {step}: {format_figures(figures)}")
        if current_process().is_main:
            self._report(step, figures)
            self._write_scalars(step, figures)

    def message(self, message: str) -> None:
        """Report something else than a step: it is always shown."""
        if current_process().is_main:
            self._progress(ProgressEvent(stage=self._stage, message=message))

    def _report(self, step: int, figures: Mapping[str, float]) -> None:
        metrics = {name.removeprefix(TIMING): value for name, value in figures.items()}
        text = format_figures(metrics)
        self._progress(ProgressEvent(stage=self._stage, message=text, step=step, total=self._total, metrics=metrics))


def format_figures(figures: Mapping[str, float]) -> str:
    """Return figures in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


@contextmanager
def tensorboard_writer(job: Job, step: int) -> Iterator[ScalarWriter]:
    """Open the TensorBoard writer of a job that goes on after ``step``: later steps of an earlier attempt are purged.

    Only process 0 writes, into the subfolder ``job.label`` of runtime.tensorboard; nothing is written without that
    setting. SettingsError where the package tensorboard is missing.
    """
    folder = job.settings.runtime.tensorboard
    if folder is not None and importlib.util.find_spec("tensorboard") is None:
        raise SettingsError(
            f"runtime.tensorboard is {folder}, but the package tensorboard is not installed: pip install tensorboard, "
            "or set runtime.tensorboard to null"
        )
    if folder is None or not current_process().is_main:
        yield lambda step, figures: None  # noqa: ARG005
        return
    from torch.utils.tensorboard import SummaryWriter

    run_folder = f"{folder.rstrip('/')}/{job.label or job.program}"
    writer = SummaryWriter(run_folder, purge_step=step + 1 if step else 0, flush_secs=FLUSH_EVERY_S)

    def write(at: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            # Names with a group ("validation/loss", "time/steps_per_second") stand under it, others under "training".
            writer.add_scalar(name if "/" in name else f"training/{name}", value, at)

    try:
        yield write
    finally:
        writer.close()
