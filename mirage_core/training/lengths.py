"""The lengths of training examples in tokens, counted once by all processes together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from mirage_core.latent.encoding import Encoder
from mirage_core.training.processes import group_size
from mirage_core.types import TrainingExample


def lengths_of(
    examples: Sequence[TrainingExample], encoder: Encoder, *, with_latents: bool, rank: int, world_size: int
) -> list[int]:
    """Tokens of every example as it is trained on, those of its pictures too; no picture is decoded for that."""
    found = torch.zeros(len(examples), dtype=torch.int64)
    for index in range(rank, len(examples), world_size):
        found[index] = encoder.length(examples[index], with_latents=with_latents)
    if group_size() > 1:
        dist.all_reduce(found)
    lengths: list[int] = found.tolist()
    return lengths
