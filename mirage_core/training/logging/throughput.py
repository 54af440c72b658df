"""Throughput and memory of a training: reported while it runs, saved nowhere, since no two runs agree."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch

from mirage_core.latent.collate import LatentBatch
from mirage_core.training.logging.curves import TIMING

PADDED_TOKENS = "places"
_GIB = 2**30


def work_of(batch: LatentBatch) -> dict[str, float]:
    """Return how many examples, tokens (latents included, and again where they are re-encoded) and latents a batch has.

    ``PADDED_TOKENS`` counts padding too. The batch is on the CPU.
    """
    return {
        "examples": float(batch.rows),
        "tokens": float(batch.attention_mask.sum()),
        "latents": float(batch.span_lengths.sum()),
        PADDED_TOKENS: float(batch.input_ids.numel()),
    }


class ThroughputMeter:
    """Counts steps and their work, and returns them as figures per second since the last reading."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device, self._clock = device, clock
        self._work: Counter[str] = Counter()
        self._since = clock()

    def count(self, work: Mapping[str, float]) -> None:
        """Add the work of a step, over all processes."""
        self._work.update({"steps": 1.0, **work})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        start = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - start

    def read(self) -> dict[str, float]:
        """Return steps, examples, tokens and latents per second since the last reading, share of padding, memory."""
        now = self._clock()
        elapsed, work = max(now - self._since, 1e-9), self._work
        self._work, self._since = Counter(), now
        figures = {f"{name}_per_second": amount / elapsed for name, amount in work.items() if name != PADDED_TOKENS}
        if work[PADDED_TOKENS]:
            figures["padding_share"] = 1.0 - work["tokens"] / work[PADDED_TOKENS]
        figures |= memory(self._device)
        return {f"{TIMING}{name}": value for name, value in figures.items()}


def memory(device: torch.device) -> dict[str, float]:
    """Return GiB of this process: the peak of its tensors on a GPU, and its main memory now."""
    figures = {"process_memory_gib": psutil.Process().memory_info().rss / _GIB}
    if device.type == "cuda":
        figures["device_memory_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
    return figures
