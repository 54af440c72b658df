"""The GRPO loss over text tokens. Legend: B rows (answers), T columns.

L = -1/B sum_i 1/|o_i| sum_t [min(r A, clip(r, 1 - c, 1 + c') A) - beta KL], as GRPO was first published (there c' = c;
a higher c' lets rare tokens grow, arXiv 2503.14476): the mean over the text tokens of each answer, then over the
answers. Latents are not tokens: they are masked out of ratio, KL and |o_i|, unless they were sampled
(latent_policy.py); then each counts as a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyTerms:
    """Per answer [B], each a mean over what was sampled of it: the loss, and figures to log (detached)."""

    loss: Tensor
    kl: Tensor
    clipped: Tensor
    entropy: Tensor
    ratio_deviation: Tensor


def policy_terms(
    log_probs: Tensor,
    sampled_log_probs: Tensor,
    reference_log_probs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float,
    kl_weight: float,
    clip_high: float | None = None,
    text_mask: Tensor | None = None,
    dual_clip: float | None = None,
) -> PolicyTerms:
    """Return the loss of every answer.

    log_probs, sampled_log_probs (when the answer was sampled), reference_log_probs [B, T]; advantages [B]; mask
    [B, T] True at sampled text tokens and latents; ratios are clipped to 1 - clip and 1 + clip_high (None: clip). The
    KL to the reference is estimated by exp(d) - d - 1 with d = reference - current ("low variance", never negative);
    the entropy by -log p of the sampled tokens: text_mask [B, T] (None: mask). ``dual_clip``: with a negative advantage
    a token loses at most so many times -advantage (arXiv 1912.09729); None: any.
    """
    ratio = torch.exp(log_probs - sampled_log_probs)
    gains = advantages[:, None]
    low, high = 1 - clip, 1 + (clip if clip_high is None else clip_high)
    surrogate = torch.minimum(ratio * gains, ratio.clamp(low, high) * gains)
    if dual_clip is not None:
        surrogate = torch.where(gains < 0, torch.maximum(surrogate, dual_clip * gains), surrogate)
    kl = torch.zeros_like(log_probs)
    if reference_log_probs is not None:
        difference = reference_log_probs - log_probs
        kl = torch.exp(difference) - difference - 1
    clipped = ((ratio < low) & (gains < 0)) | ((ratio > high) & (gains > 0))
    return PolicyTerms(
        loss=_row_mean(kl_weight * kl - surrogate, mask),
        kl=_row_mean(kl.detach(), mask),
        clipped=_row_mean(clipped.float(), mask),
        entropy=_row_mean(-log_probs.detach(), mask if text_mask is None else text_mask),
        ratio_deviation=_row_mean((ratio.detach() - 1).abs(), mask),
    )


def _row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each row where the mask is True; 0 for a row without any."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp_min(1)
