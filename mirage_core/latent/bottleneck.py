"""What the text after a latent span may attend to: everything, the latents' keys and values, or their vectors alone.

Without a bottleneck a model may answer from the picture and leave its latents unread, which is what arXiv 2602.22766
found. Tokens of a row stand in zones, and a table says which zone sees which; within what it sees, a token sees what
stands before it. Rows without a span stand in zone BEFORE as a whole.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

Bottleneck = Literal["none", "latent_kv", "latent_only"]
"""none: text after a span sees all that stands before it. latent_kv: of what stands before the first latent it sees
nothing, but it sees the keys and values of the latents, which themselves saw the picture. latent_only: it sees the
latents' vectors, encoded a second time without anything that stands before them."""


class Zone(IntEnum):
    """Where a token stands in its row."""

    BEFORE = 0
    """Prompt, pictures, text up to the first latent_start, and that."""
    LATENT = 1
    """Latents, as they are rolled out: they see everything before them but READ."""
    AFTER = 2
    """Text after the first span, latent_end included, and the latent_start of later spans."""
    READ = 3
    """The same latents encoded again for the text after them, at the same positions (latent_only)."""


def sight(bottleneck: Bottleneck, *, hide_latents: bool = False) -> Tensor:
    """Whether a token of zone q may attend to one of zone k that is not behind it: boolean [q, k].

    ``hide_latents``: the text after a span sees no latent either, though every position stays as it is; what is left
    of an answer then owes nothing to them.
    """
    table = torch.ones(len(Zone), len(Zone), dtype=torch.bool)
    table[: Zone.AFTER, Zone.READ] = False
    if bottleneck != "none":
        table[Zone.AFTER :, Zone.BEFORE] = False
    if bottleneck == "latent_only":
        table[Zone.AFTER :, Zone.LATENT] = False
    if hide_latents:
        table[Zone.AFTER, Zone.LATENT] = table[Zone.AFTER, Zone.READ] = False
    return table
