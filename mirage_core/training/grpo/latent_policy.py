"""The policy of sampled latents: a Gaussian around the hidden state that would else be fed.

A sampled latent is an action like a token (arXiv 2608.19669; as in Monet's VLPO, which adds no noise). It is fed again
as it was, a constant; its mean is computed under the current weights. So the gradient says which latents to imagine
more often, not only what to say after them. ``replayed_log_probs`` judges latents without noise (VLPO).
Legend: B rows (answers), T columns, n latents, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mirage_core.generation.gaussian_latents import gaussian_log_density
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.forward.feed_norm import at_norms
from mirage_core.model.forward.forward import latent_cells


class LatentPolicy(nn.Module):
    """The standard deviation of sampled latents: fixed, or learned by its logarithm, one number.

    The parameter is what is added to the logarithm of the first ``sigma``: near 0 also numbers of 16 bits are fine
    enough. It moves at the rate of the weights.
    """

    def __init__(self, sigma: float, *, learned: bool = False) -> None:
        super().__init__()
        self._first, self.learned = math.log(sigma), learned
        self.offset = nn.Parameter(torch.zeros(1), requires_grad=learned)

    def forward(self) -> Tensor:
        """Return the logarithm of the standard deviation [], in float32."""
        log_sigma: Tensor = self._first + self.offset.float().sum()
        return log_sigma

    def first(self) -> Tensor:
        """Return the logarithm before any update []: that of the reference model."""
        return torch.tensor(self._first)

    @torch.no_grad()
    def sigma(self) -> float:
        """Return the standard deviation; inside ``gathered_weights`` where weights are sharded."""
        return math.exp(float(self()))


def latent_log_probs(
    batch: LatentBatch, hidden: Tensor, latents: Sequence[Tensor], log_sigma: Tensor, norms: Tensor | None = None
) -> Tensor:
    """Return the log-density [B, T] of every latent at the column that predicts it, 0.0 elsewhere.

    ``hidden`` [B, T, D]: with ``latents`` ([k, D] a span) fed as they were. ``norms`` [B]: those at which hidden states
    are fed (``latent.feed_norm``); None: their own. A batch without latents gives zeros that depend on ``log_sigma``,
    so that processes with sharded weights stay in step.
    """
    rows, columns = latent_cells(batch, [len(latent) for latent in latents])
    means = hidden[rows, columns - 1]
    if norms is not None:
        means = at_norms(means, norms.index_select(0, rows))
    fed = torch.cat(list(latents)).to(means) if latents else means
    values = gaussian_log_density(fed, means, log_sigma.to(means.device))
    return torch.zeros(hidden.shape[:2], device=hidden.device).index_put((rows, columns - 1), values)


def replayed_log_probs(
    batch: LatentBatch,
    hidden: Tensor,
    latents: Sequence[Tensor],
    sigma: float,
    *,
    late: bool = False,
    norms: Tensor | None = None,
) -> Tensor:
    """Return VLPO's term [B, T] of latents fed as they were, at the columns that predict them, 0.0 elsewhere.

    -|z - h|^2 / (2 sigma^2), summed over D: log N(z; h, sigma^2 I) without its constant (arXiv 2511.21395).
    ``hidden``, ``latents``, ``norms`` as in ``latent_log_probs``. h is the state that predicts the latent, one column
    before it; ``late``: that at the latent's own column, as in the released code. As latents are the means of the
    policy that made them, the first has no gradient on that policy.
    """
    rows, columns = latent_cells(batch, [len(latent) for latent in latents])
    values = replayed_terms(hidden, latents, (rows, columns if late else columns - 1), sigma, norms)
    return torch.zeros(hidden.shape[:2], device=hidden.device).index_put((rows, columns - 1), values)


def replayed_terms(
    hidden: Tensor, latents: Sequence[Tensor], cells: tuple[Tensor, Tensor], sigma: float, norms: Tensor | None = None
) -> Tensor:
    """Return the terms [n] of latents ([k, D] a span) whose means are the states at ``cells`` (rows, columns [n])."""
    means = hidden[cells]
    if norms is not None:
        means = at_norms(means, norms.index_select(0, cells[0]))
    fed = torch.cat(list(latents)).to(means.device) if latents else means
    return -0.5 * (fed.float() - means.float()).square().sum(-1) / sigma**2
