"""Sampling of the next token: bans, temperature, top-p; the same rules give log-probabilities in training.

Legend: n rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """The distribution of text tokens, before top-p.

    ``banned`` ids have probability 0, as has latent_start after ``max_spans`` spans, and latent_end except with
    ``free_end`` inside a span (after at least one latent), and with ``open_end`` after its last latent. A temperature
    of 0 means greedy, and counts as 1 in log-probabilities. Inside a span that ends freely, every token but latent_end
    means one more latent (``going_on``), up to ``max_latents`` of a span.
    """

    temperature: float
    banned: tuple[int, ...]
    latent_start: int
    latent_end: int
    max_spans: int
    free_end: bool
    open_end: bool = False
    max_latents: int = 0

    def scores(self, logits: Tensor, may_end: Tensor, spans_started: Tensor) -> Tensor:
        """Logits [n, V] in float32, after bans and temperature.

        ``may_end`` [n] bool: rows in a span that the model may end now; ``spans_started`` [n].
        """
        scores = logits.float() / (self.temperature or 1.0)
        minus_inf = float("-inf")
        if self.banned:
            scores = scores.index_fill(-1, torch.tensor(self.banned, device=scores.device), minus_inf)
        columns = torch.tensor([self.latent_start, self.latent_end], device=scores.device)
        forbidden = torch.stack([spans_started >= self.max_spans, ~may_end], dim=-1)
        return scores.index_copy(-1, columns, scores[..., columns].masked_fill(forbidden, minus_inf))

    def going_on(self, scores: Tensor) -> Tensor:
        """Log-probability [n] that a span that may end gets one more latent: of any token but latent_end."""
        others = scores.index_fill(-1, torch.tensor([self.latent_end], device=scores.device), float("-inf"))
        return others.logsumexp(-1) - scores.logsumexp(-1)

    def draw(
        self,
        logits: Tensor,
        may_end: Tensor,
        spans_started: Tensor,
        *,
        top_p: float,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Next ids [n] and log-probabilities [n] of rows with raw logits [n, V], as Trajectory records them."""
        scores = self.scores(logits, may_end, spans_started)
        tokens, log_probs = sample_tokens(scores, self.temperature == 0, top_p, generator, uniform)
        if self.free_end:
            log_probs = torch.where(may_end & (tokens != self.latent_end), self.going_on(scores), log_probs)
        return tokens, log_probs


def sample_tokens(
    scores: Tensor,
    greedy: bool,
    top_p: float,
    generator: torch.Generator | None = None,
    uniform: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Next ids [n] from scores [n, V], and their log-probabilities [n] before top-p.

    ``uniform`` [n] in [0, 1) decides the token of each row; otherwise ``generator`` does for all rows.
    """
    if greedy:
        tokens = scores.argmax(-1)
    else:
        probabilities = torch.softmax(scores if top_p >= 1.0 else _nucleus(scores, top_p), dim=-1)
        if uniform is None:
            tokens = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
        else:
            tokens = _inverse_cdf(probabilities, uniform)
    return tokens, scores.gather(-1, tokens[:, None]).squeeze(-1) - scores.logsumexp(-1)


def _inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The ids [n] at which the cumulative probability first exceeds ``uniform`` [n]; never ones of probability 0."""
    cumulative = probabilities.double().cumsum(-1)
    level = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, level, right=True).squeeze(-1)


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores with all tokens outside the smallest set of probability ``top_p`` at minus infinity."""
    ordered, index = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    outside[..., 0] = False  # the likeliest token always stays, also at top_p 0
    return torch.full_like(scores, float("-inf")).scatter(-1, index, ordered.masked_fill(outside, float("-inf")))
