"""Processes that shard their weights (ZeRO-3) make the same forward passes, whatever spans their own rows have.

Every pass of a sharded model is a series of collectives, and rolling latents out takes a pass per latent: where one
process has more or longer spans than another, the other adds a dummy row that only brings the missing passes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mirage_core.distributed.collectives import max_over_processes
from mirage_core.latent.examples import IGNORED, EncodedExample, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds

Widths = tuple[int, ...]
"""The largest number of latents in a row's first span, in its second, ..."""


def sync_block_widths(own: Sequence[Widths]) -> list[Widths]:
    """Return, per forward pass, the widest latent blocks of any process; all processes pass equally many."""
    blocks = max_over_processes({"blocks": float(max((len(widths) for widths in own), default=0))})["blocks"]
    names = [f"{part:06d}/{block:06d}" for part in range(len(own)) for block in range(int(blocks))]
    local = {
        f"{part:06d}/{block:06d}": float(width) for part, widths in enumerate(own) for block, width in enumerate(widths)
    }
    widest = max_over_processes({name: local.get(name, 0.0) for name in names})
    synced: list[list[int]] = [[] for _ in own]
    for name in names:
        if widest[name]:
            synced[int(name.partition("/")[0])].append(int(widest[name]))
    return [tuple(widths) for widths in synced]


def dummy_row(widths: Widths, ids: TokenIds, others: Sequence[EncodedExample]) -> EncodedExample:
    """Return a row with spans of these widths and no input image, from which nothing is learned.

    Where the ``others`` in its batch have auxiliary images, one per span, it has one of theirs for each of its spans.
    """
    donor = next((example for example in others if len(example.auxiliary_grid_thw)), None)
    tokens = [token for width in widths for token in (ids.latent_start, *[ids.latent_pad] * width, ids.latent_end)]
    tokens.append(ids.end_of_turn)
    return EncodedExample(
        ids=torch.tensor(tokens),
        labels=torch.full((len(tokens),), IGNORED),
        pixel_values=no_pixels(),
        grid_thw=no_grids(),
        **_auxiliary(donor, len(widths)),
    )


def _auxiliary(donor: EncodedExample | None, copies: int) -> dict[str, Any]:
    """Return an example's first auxiliary image, so many times."""
    if donor is None:
        return {"auxiliary_pixel_values": no_pixels(), "auxiliary_grid_thw": no_grids()}
    grid = donor.auxiliary_grid_thw[:1]
    pixels = donor.auxiliary_pixel_values[: int(grid.prod())]
    return {
        "auxiliary_pixel_values": pixels.repeat(copies, 1),
        "auxiliary_grid_thw": grid.repeat(copies, 1),
        "auxiliary_features": donor.auxiliary_features[:1] * copies,
        "auxiliary_patch_masks": donor.auxiliary_patch_masks[:1] * copies,
    }
