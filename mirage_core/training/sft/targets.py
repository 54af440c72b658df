"""The targets of latents, compressed auxiliary images or a pooler's vectors, and how latents are compared with them.

Legend: S spans, K latents, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import cosine_similarity, l1_loss, mse_loss

from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.compress import Compression
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.grounding import target_latents
from mirage_core.training.sft.pooler import Pooler, pooled_latents

Distance = Literal["cosine", "l2", "l1"]


def distance_of(predicted: Tensor, targets: Tensor, distance: Distance) -> Tensor:
    """Return the distance of vectors [..., D] in float32, mean over latents (and dimensions); 0 without any.

    cosine: 1 - cosine similarity; l2: squared difference; l1: absolute one.
    """
    found, wanted = predicted.float(), targets.float()
    if not targets.numel():
        return found.sum() * 0.0
    if distance == "cosine":
        return 1.0 - cosine_similarity(found, wanted, dim=-1).mean()
    return mse_loss(found, wanted) if distance == "l2" else l1_loss(found, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetComparison:
    """How rolled-out latents are compared with their auxiliary images, which the batch then has.

    ``pooler``: makes the targets in the place of ``compression``. ``weight``: of "visual", their ``distance``, beside
    the text loss; ``diagnostics``: add the figures of ``cosine_diagnostics``; ``spans``: how many of the batch's spans,
    from the first, count (None: all).
    """

    compression: Compression
    pooler: Pooler | None = None
    weight: float = 0.0
    distance: Distance = "cosine"
    diagnostics: bool = True
    spans: int | None = None

    def targets(self, backbone: Backbone, batch: LatentBatch) -> Tensor:
        """Return the targets [S, K, D] of those spans, detached."""
        return targets_of(backbone, batch, self.compression, self.pooler)[: self.spans]


def targets_of(backbone: Backbone, batch: LatentBatch, compression: Compression, pooler: Pooler | None) -> Tensor:
    """Return the targets [S, K, D] of a batch's latents, detached: compressed auxiliary images, or a pooler's vectors.

    InputError as for ``grounding_forward``.
    """
    if pooler is None:
        return target_latents(backbone, batch, compression)
    return pooled_latents(pooler, backbone, batch).detach()
