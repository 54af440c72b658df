"""A toy whose text is frozen: which ways of reinforcing latents can move them at all, and do they find the optimum?

One latent of length sqrt(D) is fed; the token after it has the logits z itself; one of the four tokens pays. Only what
makes the latent is trained. The best latent is sqrt(3) at the paying token and -1 / sqrt(3) at the three others.
"""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mirage_core.generation.gaussian_latents import gaussian_log_density
from mirage_core.training.grpo.latent_policy import replayed_terms
from mirage_core.training.grpo.loss import policy_terms

Way = Literal["recompute", "replay", "vlpo", "gaussian"]
SIZE, PAYING, ANSWERS, STEPS, SIGMA = 4, 2, 256, 150, 0.3
OPTIMUM = math.exp(math.sqrt(3)) / (math.exp(math.sqrt(3)) + 3 * math.exp(-1 / math.sqrt(3)))


def latent_of(weight: Tensor) -> Tensor:
    return math.sqrt(SIZE) * normalize(weight, dim=-1)


def trained(way: Way, updates: int = 1) -> tuple[float, float]:
    """The probability of the paying token before and after; latents of answers are fed as means."""
    random = torch.Generator().manual_seed(5)
    weight = torch.full((SIZE,), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)
    begin = float(latent_of(weight.detach()).softmax(-1)[PAYING])
    for _ in range(STEPS):
        mean = latent_of(weight.detach())
        noise = torch.randn(ANSWERS, SIZE, generator=random, dtype=torch.float64)
        fed = mean + SIGMA * noise if way == "gaussian" else mean.expand(ANSWERS, -1)
        tokens = torch.multinomial(fed.softmax(-1), 1, generator=random)[:, 0]
        rewards = (tokens == PAYING).double()
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        old = log_probs(way, weight.detach(), fed, tokens)
        for _ in range(updates):
            terms = policy_terms(
                log_probs(way, weight, fed, tokens),
                old,
                None,
                advantages,
                torch.ones_like(old).bool(),
                clip=0.2,
                kl_weight=0.0,
            )
            optimizer.zero_grad()
            terms.loss.mean().backward()
            optimizer.step()
    return begin, float(latent_of(weight.detach()).softmax(-1)[PAYING])


def log_probs(way: Way, weight: Tensor, fed: Tensor, tokens: Tensor) -> Tensor:
    """The log-probabilities [B, 2] of the latent, where it is an action, and of the token."""
    means = latent_of(weight).expand(ANSWERS, -1)
    seen = means if way == "recompute" else fed
    of_tokens = seen.log_softmax(-1).gather(1, tokens[:, None])
    of_latents = torch.zeros_like(of_tokens) + 0.0 * means.sum()
    if way == "gaussian":
        of_latents = gaussian_log_density(fed, means, torch.tensor(math.log(SIGMA)))[:, None].double()
    elif way == "vlpo":
        hidden, rows = means[:, None], torch.arange(ANSWERS)
        cells = (rows, torch.zeros_like(rows))
        of_latents = replayed_terms(hidden, list(fed[:, None]), cells, SIGMA)[:, None].double()
    return torch.cat([of_latents, of_tokens], dim=1)


@pytest.mark.parametrize("way", ["recompute", "gaussian"])
def test_a_gradient_through_latents_and_sampled_latents_find_the_optimum(way: Way) -> None:
    before, after = trained(way)
    assert before == pytest.approx(0.25)
    assert after == pytest.approx(OPTIMUM, abs=0.02)


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("way", ["replay", "vlpo"])
def test_recorded_latents_alone_and_vlpo_without_noise_move_nothing(way: Way, updates: int) -> None:
    before, after = trained(way, updates)
    assert after == pytest.approx(before, abs=1e-9)
