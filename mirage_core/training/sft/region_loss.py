"""The loss of LVR, stage 1: cross-entropy, and the distance of latents to the features of a region (arXiv 2509.24251).

Legend: B rows, T columns, S spans, n latents of all spans, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from mirage_core.config import LvrSettings
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.region import RegionOutput, region_forward
from mirage_core.model.readout import LatentReadout
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.targets import distance_of
from mirage_core.training.sft.text import cross_entropy


def region_loss(
    backbone: Backbone,
    batch: LatentBatch,
    settings: LvrSettings,
    readout: LatentReadout | None = None,
    *,
    latent_end: int,
) -> LossParts:
    """Return the loss: "text", "visual" by ``settings.distance``, and "stop" where something else ends a span.

    ``readout``: the head and the stop vector, where the settings have them; ``latent_end``: the token's id.
    A batch without spans has visual and stop losses of 0.
    """
    output = region_forward(
        backbone,
        batch,
        readout,
        detached=settings.detached,
        checkpointing=settings.gradient_checkpointing,
    )
    parts = {
        "text": cross_entropy(backbone, output.hidden, batch.labels),
        "visual": distance_of(output.predicted, output.targets, settings.distance),
    }
    weights = {"text": 1.0, "visual": settings.grounding_weight}
    if settings.stop != "text":
        parts["stop"] = _stop_loss(backbone, batch, output, latent_end)
        weights["stop"] = settings.stop_weight
    return LossParts.sum(parts, weights)


def _stop_loss(backbone: Backbone, batch: LatentBatch, output: RegionOutput, latent_end: int) -> Tensor:
    """Return the loss of the stop vector, where there is one, else that of the switch."""
    if output.stops is not None:
        states, vectors = output.stops
        return mse_loss(states.float(), vectors.float()) if len(states) else states.sum() * 0.0
    return switch_loss(backbone, batch, output, latent_end)


def switch_loss(backbone: Backbone, batch: LatentBatch, output: RegionOutput, latent_end: int) -> Tensor:
    """Return the cross-entropy of latent_end, yes or no, after latent_start and every latent: mean over all of them.

    Its logit is read off the states that predict latents as the readout gives them, as in the released code.
    """
    ends = batch.span_starts + batch.span_lengths
    last = output.hidden[batch.span_rows, ends - 1]
    states = torch.cat([output.predicted, last])
    if not len(states):
        return states.sum() * 0.0
    scores = backbone.logits(states)[:, latent_end].float()
    ended = torch.zeros_like(scores)
    ended[len(output.predicted) :] = (batch.input_ids[batch.span_rows, ends] == latent_end).float()
    return binary_cross_entropy_with_logits(scores, ended)
