"""A stage's figures as TensorBoard's event files, written while it trains."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.training.logging.curves import TIMING

FLUSH_EVERY_S = 10


class Board(Protocol):
    """Takes the figures after a step (the first is 1)."""

    def __call__(self, step: int, figures: Mapping[str, float], /) -> None:
        """Write them."""


@contextmanager
def board(job: Job, rank: int, step: int) -> Iterator[Board]:
    """The board of a job that goes on after ``step``: what an earlier attempt wrote beyond it no longer shows.

    Only process 0 writes, into the subfolder ``job.label`` of runtime.tensorboard; nobody without that setting.
    SettingsError where the package tensorboard is missing.
    """
    folder = job.settings.runtime.tensorboard
    if folder is None:
        yield _ignored
        return
    if importlib.util.find_spec("tensorboard") is None:
        raise SettingsError(
            f"runtime.tensorboard is {folder}, but the package tensorboard is not installed: pip install tensorboard, "
            "or set runtime.tensorboard to null"
        )
    if rank != 0:
        yield _ignored
        return
    from torch.utils.tensorboard import SummaryWriter

    place = f"{folder.rstrip('/')}/{job.label or job.program}"
    writer = SummaryWriter(place, purge_step=step + 1 if step else 0, flush_secs=FLUSH_EVERY_S)

    def write(at: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(_tag(name), value, at)

    try:
        yield write
    finally:
        writer.close()


def _tag(name: str) -> str:
    """Names with a group ("validation/loss", "time/steps_per_second") stand under it, all others under "training"."""
    return name if name.startswith(TIMING) or "/" in name else f"training/{name}"


def _ignored(step: int, figures: Mapping[str, float]) -> None:
    """Nothing is written."""
