"""Figures to judge a loss of latents by: cosines to their targets, and the norms of what is fed.

Legend: B rows, S spans, K latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.compress import Compression, compress_all
from mirage_core.model.forward.feed_norm import image_norms
from mirage_core.model.forward.grounding import GroundingOutput, select_patches


@torch.no_grad()
def norm_figures(
    batch: LatentBatch, latents: Tensor, images: Sequence[Tensor], spans: int | None = None
) -> dict[str, Tensor]:
    """Return "latent_norm", the mean norm of hidden states that are latents, and "image_norm", of their image tokens.

    ``latents`` [S, K, D]: as ``span_latents`` returns them; ``spans``: how many of them, from the first, count (None:
    all). Both are means over latents, "image_norm" over those of problems with an image; 0 without any.
    """
    lengths, rows = batch.span_lengths[:spans], batch.span_rows[:spans]
    inside = torch.arange(latents.shape[1], device=latents.device) < lengths[:, None]
    norms = latents[:spans].float().norm(dim=-1)
    of_images = image_norms(batch, images)[rows]
    seen = lengths * (of_images > 0)
    return {
        "latent_norm": (norms * inside).sum() / lengths.sum().clamp_min(1),
        "image_norm": (of_images * seen).sum() / seen.sum().clamp_min(1),
    }


@torch.no_grad()
def cosine_diagnostics(
    batch: LatentBatch, grounded: GroundingOutput, compression: Compression | None
) -> dict[str, Tensor]:
    """Return cosines to judge grounding by: alone, a high one may mean nothing (features are anisotropic).

    "cosine": predicted against target; "cosine_<j>": the same, latent j alone; "cosine_constant": the best
    constant vector of each latent index against this batch's targets (absent for one span, whose own target that
    would be); "cosine_input": the row's first input image, compressed alike (absent where one is missing or too
    small, and for targets that are not compressed: None). Empty without spans.
    """
    if not grounded.targets.numel():
        return {}
    targets = normalize(grounded.targets.float(), dim=-1)
    by_index = cosine_similarity(grounded.predicted.float(), targets, dim=-1).mean(0)
    figures = {"cosine": by_index.mean()}
    figures |= {f"cosine_{index}": value for index, value in enumerate(by_index)}
    if len(targets) > 1:
        figures["cosine_constant"] = targets.mean(0).norm(dim=-1).mean()
    inputs = None if compression is None else _input_latents(batch, grounded, compression)
    if inputs is not None:
        figures["cosine_input"] = cosine_similarity(inputs.float(), targets, dim=-1).mean()
    return figures


def _input_latents(batch: LatentBatch, grounded: GroundingOutput, compression: Compression) -> Tensor | None:
    """Compress the first input image of each span's row to [S, K, D]; None where that is impossible."""
    first = {row: image for image, row in reversed(list(enumerate(batch.image_rows.tolist())))}
    rows, num_latents = batch.span_rows.tolist(), grounded.targets.shape[1]
    if any(row not in first for row in rows):
        return None
    features = [grounded.image_features[first[row]] for row in rows]
    if batch.auxiliary_patch_masks:  # all patches count of an input of another size than the auxiliary image
        masks = [
            mask if len(mask) == len(image) else torch.ones(len(image), dtype=torch.bool)
            for mask, image in zip(batch.auxiliary_patch_masks[: len(rows)], features, strict=True)
        ]
        features = select_patches(features, masks)
    if compression != "changed_patches" and min(len(image) for image in features) < num_latents:
        return None
    return compress_all(features, num_latents, compression)
