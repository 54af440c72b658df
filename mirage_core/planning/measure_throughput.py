"""The speed of this device, measured by a few steps of the recipe's model, reduced to a few layers.

Weights and text are random: the speed depends on sizes alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from mirage_core.config import Settings
from mirage_core.model.backbone import Backbone
from mirage_core.model.cache import FixedCache
from mirage_core.planning.batch_shapes import Shape
from mirage_core.planning.flops import Rates, training
from mirage_core.planning.random_model import RandomRows, random_model
from mirage_core.planning.sizes import sizes_of
from mirage_core.planning.stages import compute_config
from mirage_core.planning.token_counts import RecipeRows
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.losses import relaxation_loss, text_loss

LAYERS = 4
ROUNDS = 3
ROWS_DRAWN = 8
COPIED = 2**26
"""Elements of the tensor that is copied to measure the memory bandwidth (256 MiB)."""


def measured_rates(settings: Settings, rows: RecipeRows, device: torch.device) -> Rates:
    """Measure the rates of ``device`` for the recipe's model; takes seconds on a GPU, about a minute on a CPU."""
    backbone = random_model(settings.model, device, layers=LAYERS)
    latent = settings.latent
    random_rows = RandomRows(backbone, Shape.mean(rows, settings), bottleneck=latent.bottleneck)
    count = _rows_at_once(settings)
    plain, rolled = random_rows.batch("direct-sft", count), random_rows.batch("relaxation", count)

    def relaxation() -> LossParts:
        return relaxation_loss(backbone, rolled, blank=not latent.rolls_out)

    return Rates(
        training=_rate(settings, rows, backbone, "direct-sft", count, lambda: text_loss(backbone, plain)),
        rolling=_rate(settings, rows, backbone, "relaxation", count, relaxation),
        memory=_memory(device),
        launch_ms=_column(backbone),
        measured=True,
    )


def _rows_at_once(settings: Settings) -> int:
    """Return the micro-batch of a process in stage 2."""
    local_batch = max(1, settings.relaxation.batch_size // settings.runtime.world_size)
    return min(settings.relaxation.micro_batch_size or local_batch, local_batch)


def _rate(
    settings: Settings, rows: RecipeRows, backbone: Backbone, name: str, count: int, loss: Callable[[], LossParts]
) -> float:
    """Measure the TFLOP/s of forward and backward pass."""

    def step() -> None:
        backbone.zero_grad(set_to_none=True)
        loss().total.backward()

    batch = Shape.mean(rows, settings).batch(name, count, padded=False)
    _, operations = training(sizes_of(backbone.model.config), batch, compute_config(settings.model, False))
    return operations / seconds_of(step, backbone.device) / 1e12


@torch.no_grad()
def _column(backbone: Backbone) -> float:
    """Measure the milliseconds that a layer takes for one decoding step."""
    cache, positions = FixedCache(), torch.zeros(3, ROWS_DRAWN, 1, dtype=torch.long, device=backbone.device)
    rotary = backbone.rotary(positions)
    inputs = torch.zeros(ROWS_DRAWN, 1, backbone.hidden_size, dtype=backbone.dtype, device=backbone.device)

    def column() -> None:
        backbone.hidden(inputs, rotary, None, cache)
        cache.advance(1)

    return seconds_of(column, backbone.device) * 1e3 / len(backbone.layers)


def _memory(device: torch.device) -> float:
    """Measure the GB/s of copying."""
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * COPIED / seconds_of(lambda: target.copy_(source), device) / 1e9


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the median time of ``work`` after one warm-up round."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
