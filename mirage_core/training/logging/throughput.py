"""How fast a stage trains and how much memory it takes: told while it runs, never kept, for no two runs are alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch

from mirage_core.latent.collate import LatentBatch
from mirage_core.training.logging.curves import TIMING

PLACES = "places"
_GIB = 2**30


def work_of(batch: LatentBatch) -> dict[str, float]:
    """What a batch (on the CPU) holds: examples, tokens (latents among them, and again where they are read again),
    latents; places: padding counted too."""
    return {
        "examples": float(batch.rows),
        "tokens": float(batch.attention_mask.sum()),
        "latents": float(batch.span_lengths.sum()),
        PLACES: float(batch.input_ids.numel()),
    }


class Meter:
    """Counts the steps and their work, and reads as figures a second since it was last read."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device, self._clock = device, clock
        self._work: Counter[str] = Counter()
        self._since = clock()

    def count(self, work: Mapping[str, float]) -> None:
        """Add the work of a step, over all processes."""
        self._work.update({"steps": 1.0, **work})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time in the block is not training's."""
        begun = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - begun

    def read(self) -> dict[str, float]:
        """Steps, examples, tokens and latents a second since the last reading, the padding's share, and the memory."""
        now = self._clock()
        elapsed, work = max(now - self._since, 1e-9), self._work
        self._work, self._since = Counter(), now
        figures = {f"{name}_per_second": amount / elapsed for name, amount in work.items() if name != PLACES}
        if work[PLACES]:
            figures["padding_share"] = 1.0 - work["tokens"] / work[PLACES]
        figures |= memory(self._device)
        return {f"{TIMING}{name}": value for name, value in figures.items()}


def memory(device: torch.device) -> dict[str, float]:
    """GiB of this process: the most its tensors took on a GPU, and what it takes of the main memory now."""
    figures = {"process_memory_gib": psutil.Process().memory_info().rss / _GIB}
    if device.type == "cuda":
        figures["device_memory_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
    return figures
