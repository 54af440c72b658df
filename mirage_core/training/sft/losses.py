"""The losses of the three supervised stages, log-probabilities for GRPO, and the cosines to watch.

Legend: B rows, T columns, S spans, K latents, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from torch.nn.functional import cross_entropy as token_cross_entropy

from mirage_core.config import GroundingSettings, LatentSettings
from mirage_core.errors import InputError
from mirage_core.generation.sampling import SamplingRules
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.compress import Compression, compress_all
from mirage_core.latent.examples import IGNORED
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import (
    Grounded,
    blank_forward,
    grounding_forward,
    image_features,
    kept_of,
    relaxed_forward,
    target_latents,
    text_forward,
)
from mirage_core.model.forward.passes import Disturb


@dataclass(frozen=True, slots=True)
class LossParts:
    """``total`` to go backward on, and its parts.

    "text" (mean over labelled tokens) and "visual" (mean over latents) keep their gradient, so that a loop can weigh
    micro-batches by what they hold (``counts``); every other part is a figure to log.
    """

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How latents that were rolled out are held against their auxiliary images, which the batch then holds.

    ``weight``: of "visual", 1 - mean cosine, beside the text loss; ``figures``: tell those of ``cosine_diagnostics``;
    ``spans``: how many of the batch's spans, from the first, count (None: all).
    """

    compression: Compression
    weight: float = 0.0
    figures: bool = True
    spans: int | None = None


def counts(batch: LatentBatch) -> dict[str, float]:
    """What each part is a mean over: labelled tokens ("text") and latents ("visual")."""
    return {"text": float((batch.labels != IGNORED).sum()), "visual": float(batch.span_lengths.sum())}


def cross_entropy(backbone: Backbone, hidden: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the (already shifted) labels [B, T]; logits only where labels are. 0 without a label."""
    chosen = labels != IGNORED
    targets = labels[chosen]
    if not len(targets):
        return hidden.sum() * 0.0
    return token_cross_entropy(backbone.logits(hidden[chosen]).float(), targets)


def text_loss(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> LossParts:
    """Plain supervised loss: direct and CoT SFT, and the text of the warm-up."""
    text = cross_entropy(backbone, text_forward(backbone, batch, checkpointing=checkpointing), batch.labels)
    return LossParts(text, {"text": text})


def grounding_loss(
    backbone: Backbone,
    batch: LatentBatch,
    settings: GroundingSettings,
    latent: LatentSettings,
    *,
    diagnostics: bool = False,
) -> LossParts:
    """Stage 1: (1 - mean cosine) + gamma * cross-entropy. Paper, Eq. 2-3; gamma weighs the TEXT loss, as released.

    ``diagnostics`` adds the figures of ``cosine_diagnostics``. A batch without spans has a visual loss of 0.
    """
    grounded = grounding_forward(
        backbone,
        batch,
        latent.compression,
        checkpointing=settings.gradient_checkpointing,
        blank=latent.fed == "blank",
        horizon=settings.horizon,
    )
    text = cross_entropy(backbone, grounded.hidden, batch.labels)
    visual = visual_loss(grounded)
    parts = {"text": text, "visual": visual}
    if diagnostics:
        parts |= cosine_diagnostics(batch, grounded, latent.compression)
    return LossParts(visual + settings.text_weight * text, parts)


def visual_loss(grounded: Grounded) -> Tensor:
    """1 - mean cosine of predicted and target latents over all spans. Paper, Eq. 2."""
    if not grounded.targets.numel():
        return grounded.hidden.sum() * 0.0
    return 1.0 - cosine_similarity(grounded.predicted.float(), grounded.targets.float(), dim=-1).mean()


def relaxation_loss(
    backbone: Backbone,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    compared: Compared | None = None,
    blank: bool = False,
    disturb: Disturb | None = None,
) -> LossParts:
    """Stage 2: cross-entropy alone, with latents rolled out under gradient. Paper, Eq. 4.

    ``compared`` holds the latents as they were rolled out against their targets, for figures or as a part of the loss:
    the spans are then of one length. ``blank``: blank tokens stand in the spans, and nothing is rolled out.
    ``disturb``: what becomes of latents before they are fed.
    """
    if blank:
        relaxed = blank_forward(backbone, batch, checkpointing=checkpointing)
    else:
        relaxed = relaxed_forward(backbone, batch, checkpointing, disturb=disturb)
    text = cross_entropy(backbone, relaxed.hidden, batch.labels)
    if compared is None:
        return LossParts(text, {"text": text})
    parts = {"text": text}
    images = [backbone.merged(image) for image in image_features(backbone, batch)]
    targets = target_latents(backbone, batch, compared.compression)[: compared.spans]
    grounded = Grounded(relaxed.hidden, relaxed.latents[: compared.spans], targets, images)
    if compared.weight:
        parts["visual"] = visual_loss(grounded)
    if compared.figures:
        counted = replace(batch, span_rows=batch.span_rows[: compared.spans])
        parts |= cosine_diagnostics(counted, grounded, compared.compression)
    return LossParts(relaxation_total(parts, compared.weight), parts)


def relaxation_total(parts: Mapping[str, Tensor], grounding_weight: float) -> Tensor:
    """The text loss, with what remains of grounding beside it where that has a weight."""
    return parts["text"] + grounding_weight * parts["visual"] if grounding_weight else parts["text"]


def text_log_probs(backbone: Backbone, batch: LatentBatch, hidden: Tensor, rules: SamplingRules) -> Tensor:
    """Log-probability [B, T] of every label under the rules it was sampled by, 0.0 where there is no label.

    ``hidden``: of relaxed_forward (gradient flows through the latents) or replayed_forward. The rules are
    ``decode.sampling_rules(ids, settings)``; top-p is left out, as in Trajectory.log_probs. InputError for a label
    that the rules never let be sampled.
    """
    chosen = batch.labels != IGNORED
    started = (batch.input_ids == rules.latent_start).cumsum(1)
    scores = rules.scores(backbone.logits(hidden[chosen]), _latent_columns(batch)[chosen], started[chosen])
    values = scores.gather(-1, batch.labels[chosen][:, None]).squeeze(-1) - scores.logsumexp(-1)
    if not bool(torch.isfinite(values.detach()).all()):
        raise InputError(
            "A labelled token has probability zero under the sampling rules. Label only tokens that were sampled "
            "under the same rules (encode_rollout does), not forced or banned ones."
        )
    return torch.zeros_like(hidden[..., 0], dtype=torch.float32).masked_scatter(chosen, values)


def _latent_columns(batch: LatentBatch) -> Tensor:
    """Which columns hold latents [B, T]."""
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    begin, end = batch.span_starts[:, None], (batch.span_starts + batch.span_lengths)[:, None]
    inside = ((columns >= begin) & (columns < end)).to(torch.uint8)
    none = torch.zeros(batch.input_ids.shape, dtype=torch.uint8, device=batch.input_ids.device)
    return none.index_add(0, batch.span_rows, inside).bool()


@torch.no_grad()
def cosine_diagnostics(batch: LatentBatch, grounded: Grounded, compression: Compression) -> dict[str, Tensor]:
    """Cosines to judge grounding by; without them a high cosine may mean nothing (features are anisotropic).

    "cosine": predicted against target; "cosine_<j>": the same, latent j alone; "cosine_constant": the best
    constant vector of each latent index against this batch's targets (absent for one span, whose own target that
    would be); "cosine_input": the row's first input image, compressed alike (absent where one is missing or too
    small). Empty without spans.
    """
    if not grounded.targets.numel():
        return {}
    targets = normalize(grounded.targets.float(), dim=-1)
    by_index = cosine_similarity(grounded.predicted.float(), targets, dim=-1).mean(0)
    figures = {"cosine": by_index.mean()}
    figures |= {f"cosine_{index}": value for index, value in enumerate(by_index)}
    if len(targets) > 1:
        figures["cosine_constant"] = targets.mean(0).norm(dim=-1).mean()
    inputs = _input_latents(batch, grounded, compression)
    if inputs is not None:
        figures["cosine_input"] = cosine_similarity(inputs.float(), targets, dim=-1).mean()
    return figures


def _input_latents(batch: LatentBatch, grounded: Grounded, compression: Compression) -> Tensor | None:
    """The first input image of each span's row, compressed to [S, K, D]; None where it cannot be."""
    first = {row: image for image, row in reversed(list(enumerate(batch.image_rows.tolist())))}
    rows, num_latents = batch.span_rows.tolist(), grounded.targets.shape[1]
    if any(row not in first for row in rows):
        return None
    features = [grounded.image_features[first[row]] for row in rows]
    if batch.auxiliary_kept:  # all patches count of an input of another size than the auxiliary image
        kept = batch.auxiliary_kept[: len(rows)]
        sizes = [len(image) for image in features]
        features = kept_of(
            features,
            [
                chosen if len(chosen) == size else torch.ones(size, dtype=torch.bool)
                for chosen, size in zip(kept, sizes, strict=True)
            ],
        )
    if compression != "changed" and min(len(image) for image in features) < num_latents:
        return None
    return compress_all(features, num_latents, compression)
