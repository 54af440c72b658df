"""Token ids and pixels of one prompt or one training example, ready to be collated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

IGNORED = -100  # a label that is not predicted (the convention of torch's cross-entropy)


def no_pixels() -> Tensor:
    """Pixels of no image: [0, 0]."""
    return torch.empty(0, 0)


def no_tokens() -> Tensor:
    """Indices of no token: [0]."""
    return torch.empty(0, dtype=torch.long)


def no_grids() -> Tensor:
    """Grids of no image: [0, 3]."""
    return torch.empty(0, 3, dtype=torch.long)


class ChatMessage(TypedDict):
    """A message: its role, and its parts, as chat templates take them ({"type": "text", "text": ...}, or "image")."""

    role: str
    content: list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt that the model continues; it may end in latent_start.

    ``ids`` [T] int64; ``pixel_values`` [P, C] patches of its images; ``grid_thw`` [N, 3] their grids.
    ``image_features``: [n_i, F] an image (F: backbone.feature_size), if precomputed (there are then no pixels).
    """

    ids: Tensor
    pixel_values: Tensor
    grid_thw: Tensor
    image_features: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExample:
    """A prompt with its answer.

    ``labels`` [T]: the token's own id where it is predicted, else IGNORED (never a latent_pad).
    ``auxiliary_*``: one image a latent span, in order; empty without latents and where no targets are needed
    (relaxation, GRPO). ``image_features``: as in EncodedPrompt; ``auxiliary_features``: the same of the auxiliary
    images, or only their first D columns (all that is used). ``auxiliary_patch_masks``: the merged patches [n] of each
    auxiliary image that targets average; empty: all. ``region_tokens`` [n]: where latents are held to tokens of the
    row's own images, the token of each latent, as an index into all image tokens of the row; else empty. ``observed``
    [T] bool: the tokens of the words that tell what the auxiliary image shows (Monet), whose labels may weigh more;
    None where nothing asks for them.
    """

    ids: Tensor
    labels: Tensor
    pixel_values: Tensor
    grid_thw: Tensor
    auxiliary_pixel_values: Tensor
    auxiliary_grid_thw: Tensor
    image_features: tuple[Tensor, ...] = ()
    auxiliary_features: tuple[Tensor, ...] = ()
    auxiliary_patch_masks: tuple[Tensor, ...] = ()
    region_tokens: Tensor = field(default_factory=no_tokens)
    observed: Tensor | None = None
