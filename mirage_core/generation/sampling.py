"""Which token comes next: bans, temperature, top-p. The same rules serve decoding and its log-probabilities.

Legend: n rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """The distribution text tokens are drawn from, before top-p.

    ``banned`` ids never come; latent_start not once ``max_spans`` spans were started; latent_end only where
    ``free_end`` and inside a span (after at least one latent). A temperature of 0 means greedy, and
    counts as 1 in log-probabilities.
    """

    temperature: float
    banned: tuple[int, ...]
    latent_start: int
    latent_end: int
    max_spans: int
    free_end: bool

    def scores(self, logits: Tensor, in_span: Tensor, spans_started: Tensor) -> Tensor:
        """float32 logits [n, V] after the bans and over the temperature. in_span [n] bool, spans_started [n]."""
        scores = logits.float() / (self.temperature or 1.0)
        minus_inf = float("-inf")
        if self.banned:
            scores = scores.index_fill(-1, torch.tensor(self.banned, device=scores.device), minus_inf)
        no_end = ~in_span if self.free_end else torch.ones_like(in_span)
        columns = torch.tensor([self.latent_start, self.latent_end], device=scores.device)
        forbidden = torch.stack([spans_started >= self.max_spans, no_end], dim=-1)
        return scores.index_copy(-1, columns, scores[..., columns].masked_fill(forbidden, minus_inf))


def draw(
    scores: Tensor,
    greedy: bool,
    top_p: float,
    generator: torch.Generator | None = None,
    uniform: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Next ids [n] from scores [n, V], and their log-probabilities [n] before top-p.

    ``uniform`` [n] in [0, 1) decides every row's draw by itself; otherwise ``generator`` draws for all rows.
    """
    if greedy:
        chosen = scores.argmax(-1)
    else:
        probabilities = torch.softmax(scores if top_p >= 1.0 else _nucleus(scores, top_p), dim=-1)
        if uniform is None:
            chosen = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
        else:
            chosen = _decided(probabilities, uniform)
    return chosen, scores.gather(-1, chosen[:, None]).squeeze(-1) - scores.logsumexp(-1)


def _decided(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The id [n] at which the cumulated probability first exceeds ``uniform``; never one of probability zero."""
    cumulated = probabilities.double().cumsum(-1)
    level = uniform.to(cumulated)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, level, right=True).squeeze(-1)


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores with everything outside the smallest set of probability ``top_p`` at minus infinity."""
    ordered, index = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    outside[..., 0] = False  # the likeliest token always stays, also at top_p 0
    return torch.full_like(scores, float("-inf")).scatter(-1, index, ordered.masked_fill(outside, float("-inf")))
