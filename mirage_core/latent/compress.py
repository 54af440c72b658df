"""Compress the patch features of an auxiliary image to k target vectors. Paper, section 3.2.

Legend: P patches, K latents, D hidden, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mirage_core.errors import InputError

Compression = Literal["even", "drop_tail", "changed_patches"]


def compress(features_PD: Tensor, num_latents: int, mode: Compression) -> Tensor:
    """Average runs of patches, in raster order, to [K, D], detached.

    ``even``: all patches, in runs that differ by one patch at most, longer ones first. ``drop_tail``: the released
    code's rule, equal runs, up to K - 1 trailing patches dropped. InputError when K > P in both. ``changed_patches``:
    as ``even``, of the patches selected by ``changed_patches``; if they are fewer than K, neighbouring latents share
    one.
    """
    return _average(features_PD.detach(), num_latents, mode)


def compress_all(features: Sequence[Tensor], num_latents: int, mode: Compression) -> Tensor:
    """Compress N images of any sizes to [N, K, D], detached, each by itself."""
    sizes = {image.shape[0] for image in features}
    if len(sizes) != 1:
        return torch.stack([compress(image, num_latents, mode) for image in features])
    return _average(torch.stack(list(features)).detach(), num_latents, mode)


def changed_patches(auxiliary_PC: Tensor, image_PC: Tensor, merged: int) -> Tensor:
    """Mask [P / merged] of the merged patches in which an auxiliary image differs from another image.

    Both are patches of pixels [P, C]; the ``merged`` patches of one merged patch are adjacent. All True if the images
    have different sizes or do not differ.
    """
    patches = len(auxiliary_PC) // merged
    if auxiliary_PC.shape != image_PC.shape:
        return torch.ones(patches, dtype=torch.bool)
    differs = (auxiliary_PC != image_PC).reshape(patches, -1).any(1)
    return differs if bool(differs.any()) else ~differs


def _average(features: Tensor, num_latents: int, mode: Compression) -> Tensor:
    """Average features [..., P, D] to [..., K, D], in float32 whatever their type."""
    weights = _weights(features.shape[-2], num_latents, mode).to(features.device)
    return (weights @ features.float()).to(features.dtype)


@lru_cache(maxsize=256)
def _weights(patches: int, num_latents: int, mode: Compression) -> Tensor:
    """Return the averaging matrix [K, P]; a normal tensor also when first computed in inference mode."""
    if mode not in ("even", "drop_tail", "changed_patches"):
        raise InputError(f"Unknown compression {mode!r}; known: even, drop_tail, changed_patches.")
    if mode == "changed_patches" and num_latents > patches:
        shared = np.eye(patches, dtype=np.float32)[np.arange(num_latents) * patches // num_latents]
        with torch.inference_mode(False):
            return torch.from_numpy(shared)
    if num_latents > patches:
        raise InputError(
            f"{num_latents} latents cannot be averages of an image of {patches} merged patches. "
            f"Set latent.num_latents to {patches} or less, or give larger auxiliary images (prompt.image_scale)."
        )
    used = patches - patches % num_latents if mode == "drop_tail" else patches
    weights = np.zeros((num_latents, patches), dtype=np.float32)
    for row, run in enumerate(np.array_split(np.arange(used), num_latents)):
        weights[row, run] = 1.0 / len(run)
    with torch.inference_mode(False):
        return torch.from_numpy(weights)
