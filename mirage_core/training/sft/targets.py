"""The targets of latents, compressed auxiliary images or a pooler's vectors, and how latents are compared with them.

Legend: S spans, K latents, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.compress import Compression
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.grounding import target_latents
from mirage_core.training.sft.pooler import Pooler, pooled_latents

Distance = Literal["cosine", "l2"]


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
