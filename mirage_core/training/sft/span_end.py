"""Where a span ends, learned: its last latent is followed by latent_end, no latent before it is.

The text loss has latent_end as a label after the last latent; nothing else tells a model to go on at the others, where
decoding with a free end may stop. Legend: B rows, T columns, D hidden, n latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone


@dataclass(frozen=True, slots=True)
class SpanEnds:
    """The latents of examples: ``rows``, ``columns`` [n] in the batch, ``last`` [n]; ``token``: latent_end."""

    rows: Tensor
    columns: Tensor
    last: Tensor
    token: int

    @classmethod
    def of(cls, batch: LatentBatch, spans: int, token: int) -> SpanEnds:
        """Return those of the first ``spans`` spans of a batch; further ones are of dummy rows."""
        lengths = batch.span_lengths[:spans]
        offsets = torch.cat([torch.arange(0), *(torch.arange(length) for length in lengths.tolist())])
        return cls(
            rows=batch.span_rows[:spans].repeat_interleave(lengths),
            columns=batch.span_starts[:spans].repeat_interleave(lengths) + offsets,
            last=offsets == lengths.repeat_interleave(lengths) - 1,
            token=token,
        )

    def to(self, device: torch.device) -> SpanEnds:
        """The same on ``device``."""
        return replace(self, rows=self.rows.to(device), columns=self.columns.to(device), last=self.last.to(device))

    @property
    def count(self) -> float:
        """The latents after which the span goes on, which "end" is a mean over."""
        return float((~self.last).sum())

    def parts(self, backbone: Backbone, hidden: Tensor) -> dict[str, Tensor]:
        """Return "end", the mean of -log(1 - p(latent_end)) where the span goes on, from hidden states [B, T, D].

        "end_accuracy": the share of latents after which a greedy choice ends the span exactly where it ends.
        """
        logits = backbone.logits(hidden[self.rows, self.columns]).float()
        others = logits.index_fill(-1, torch.tensor([self.token], device=logits.device), float("-inf"))
        surprise = (logits.logsumexp(-1) - others.logsumexp(-1)).masked_fill(self.last, 0.0)
        right = (logits.detach().argmax(-1) == self.token) == self.last
        return {
            "end": surprise.sum() / (~self.last).sum().clamp_min(1),
            "end_accuracy": right.float().sum() / max(1, len(right)),
        }
