"""Processes that share out their weights (ZeRO-3) make the same passes, whatever spans their own rows have.

Every pass of a sharded model is a row of collectives, and rolling latents out takes a pass a latent: where the rows of
one process have more or longer spans than those of another, the others get a row that only brings their passes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mirage_core.distributed.collectives import largest
from mirage_core.latent.examples import IGNORED, EncodedExample, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds

Widths = tuple[int, ...]
"""The most latents of a row's first span, of its second, ..."""


def agreed(own: Sequence[Widths]) -> list[Widths]:
    """For every forward pass the widest latent blocks of any process; all processes have as many forward passes."""
    most = largest({"blocks": float(max((len(widths) for widths in own), default=0))})
    names = [f"{part:06d}/{block:06d}" for part in range(len(own)) for block in range(int(most["blocks"]))]
    mine = {f"{part:06d}/{block:06d}": float(width) for part, of in enumerate(own) for block, width in enumerate(of)}
    found = largest({name: mine.get(name, 0.0) for name in names})
    widths: list[list[int]] = [[] for _ in own]
    for name in names:
        if found[name]:
            widths[int(name.partition("/")[0])].append(int(found[name]))
    return [tuple(of_pass) for of_pass in widths]


def stand_in(widths: Widths, ids: TokenIds, beside: Sequence[EncodedExample]) -> EncodedExample:
    """A row with spans of these widths, without an input image, from which nothing is learned.

    Where the rows ``beside`` it have auxiliary images, one a span, it has one of theirs for each of its spans.
    """
    lent = next((example for example in beside if len(example.auxiliary_grid_thw)), None)
    tokens = [token for width in widths for token in (ids.latent_start, *[ids.latent_pad] * width, ids.latent_end)] + [
        ids.end_of_turn
    ]
    return EncodedExample(
        ids=torch.tensor(tokens),
        labels=torch.full((len(tokens),), IGNORED),
        pixel_values=no_pixels(),
        grid_thw=no_grids(),
        **_auxiliary(lent, len(widths)),
    )


def _auxiliary(lent: EncodedExample | None, images: int) -> dict[str, Any]:
    """The first auxiliary image of an example, so many times."""
    if lent is None:
        return {"auxiliary_pixel_values": no_pixels(), "auxiliary_grid_thw": no_grids()}
    grid = lent.auxiliary_grid_thw[:1]
    pixels = lent.auxiliary_pixel_values[: int(grid.prod())]
    return {
        "auxiliary_pixel_values": pixels.repeat(images, 1),
        "auxiliary_grid_thw": grid.repeat(images, 1),
        "auxiliary_features": lent.auxiliary_features[:1] * images,
        "auxiliary_kept": lent.auxiliary_kept[:1] * images,
    }
