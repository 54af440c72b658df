"""The norm at which a model's own latents are fed (``latent.feed_norm``): their own, or that of its image tokens.

Image features are several times as long as last hidden states, so a latent that is fed as it is reaches the first
layer at another scale than what it was grounded in. Legend: B rows, N images, r latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mirage_core.latent.collate import LatentBatch

_SMALLEST = 1e-12


def image_norms(batch: LatentBatch, images: Sequence[Tensor]) -> Tensor:
    """Return the mean Euclidean norm of the image tokens of each row [B], in float32; 0 for a row without an image.

    ``images`` [n_i, D]: the merged features of the batch's N input images, in order.
    """
    means = torch.zeros(batch.rows, device=batch.input_ids.device)
    if not images:
        return means
    sizes = torch.tensor([len(image) for image in images], device=means.device)
    norms = torch.cat(list(images)).float().norm(dim=-1)
    rows = batch.image_rows.repeat_interleave(sizes, output_size=len(norms))
    counts = torch.zeros_like(means).index_add(0, rows, torch.ones_like(norms))
    return means.index_add(0, rows, norms) / counts.clamp_min(1)


def at_norms(latents: Tensor, norms: Tensor) -> Tensor:
    """Return latents [r, D] rescaled to ``norms`` [r], with gradient through the scale; where a norm is 0, as they are.

    A problem without an image has nothing that sets a norm.
    """
    own = latents.float().norm(dim=-1).clamp_min(_SMALLEST)
    scale = torch.where(norms > 0, norms / own, torch.ones_like(own))
    return (latents.float() * scale[:, None]).to(latents.dtype)


def own_norms(latents: Tensor, norm_weight: Tensor) -> Tensor:
    """Return the last hidden states [..., D] that ``latents`` [..., D] were rescaled from, in float32.

    ``norm_weight`` [D]: of the final norm, which gives every state the root mean square 1 before it is multiplied by
    the weight: so the direction decides the length.
    """
    floats, weight = latents.float(), norm_weight.detach().to(latents.device).float()
    return floats / (floats / weight).square().mean(-1, keepdim=True).sqrt().clamp_min(_SMALLEST)
