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

Compression = Literal["even", "drop_tail"]


def compress(features_PD: Tensor, num_latents: int, mode: Compression) -> Tensor:
    """Average runs of patches, in raster order, to [K, D], detached.

    ``even``: every patch counts, runs differ by one patch at most, longer ones first. ``drop_tail``: the
    released code's rule, equal runs, up to K - 1 trailing patches dropped. InputError when K > P.
    """
    return _average(features_PD.detach(), num_latents, mode)


def compress_all(features: Sequence[Tensor], num_latents: int, mode: Compression) -> Tensor:
    """Compress N images of any sizes to [N, K, D], detached; images never mix."""
    sizes = {image.shape[0] for image in features}
    if len(sizes) != 1:
        return torch.stack([compress(image, num_latents, mode) for image in features])
    return _average(torch.stack(list(features)).detach(), num_latents, mode)


def _average(features: Tensor, num_latents: int, mode: Compression) -> Tensor:
    """Averages [..., K, D] of features [..., P, D], summed in float32 whatever their type."""
    weights = _weights(features.shape[-2], num_latents, mode).to(features.device)
    return (weights @ features.float()).to(features.dtype)


@lru_cache(maxsize=256)
def _weights(patches: int, num_latents: int, mode: Compression) -> Tensor:
    """The averaging matrix [K, P]; a normal tensor even when first needed in inference mode."""
    if num_latents > patches:
        raise InputError(
            f"{num_latents} latents were asked of an image of {patches} merged patches. "
            f"Set latent.num_latents to {patches} or less, or give larger auxiliary images (prompt.image_scale)."
        )
    if mode not in ("even", "drop_tail"):
        raise InputError(f"Unknown compression {mode!r}; known: even, drop_tail.")
    used = patches if mode == "even" else patches - patches % num_latents
    weights = np.zeros((num_latents, patches), dtype=np.float32)
    for row, run in enumerate(np.array_split(np.arange(used), num_latents)):
        weights[row, run] = 1.0 / len(run)
    with torch.inference_mode(False):
        return torch.from_numpy(weights)
