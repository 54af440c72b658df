"""A toy whose text is frozen: which ways of reinforcing latents can move them at all, and do they find the optimum?

A span of two latents of length sqrt(D) is fed; the token after it has the second latent as its logits; one of the four
tokens pays. Only what makes the latents is trained, by the loss and the log-probabilities of the product. The best
second latent is sqrt(3) at the paying token and -1 / sqrt(3) at the three others.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mirage_core.training.grpo.latent_policy import latent_log_probs, replayed_log_probs
from mirage_core.training.grpo.loss import policy_terms

Way = Literal["recompute", "replay", "aligned", "released", "gaussian"]
SIZE, PAYING, ANSWERS, STEPS, SIGMA, SPAN = 4, 2, 256, 150, 0.3, 2
OPTIMUM = math.exp(math.sqrt(3)) / (math.exp(math.sqrt(3)) + 3 * math.exp(-1 / math.sqrt(3)))
ROWS = torch.arange(ANSWERS)
LAYOUT: Any = SimpleNamespace(  # what of a LatentBatch says where latents are: columns 1 and 2, after latent_start
    span_rows=ROWS, span_starts=torch.ones_like(ROWS), span_lengths=torch.full_like(ROWS, SPAN)
)


def latents_of(weight: Tensor) -> Tensor:
    return math.sqrt(SIZE) * normalize(weight, dim=-1)


def pay(weight: Tensor) -> float:
    return float(latents_of(weight.detach())[-1].softmax(-1)[PAYING])


def trained(way: Way, updates: int = 1) -> tuple[float, float]:
    """The probability of the paying token before and after; latents of answers are fed as means, but for Gaussians."""
    random = torch.Generator().manual_seed(5)
    weight = torch.full((SPAN, SIZE), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer, begin = torch.optim.Adam([weight], lr=0.05), pay(weight)
    for _ in range(STEPS):
        fed = latents_of(weight.detach()).expand(ANSWERS, -1, -1)
        if way == "gaussian":
            fed = fed + SIGMA * torch.randn(fed.shape, generator=random, dtype=torch.float64)
        tokens = torch.multinomial(fed[:, -1].softmax(-1), 1, generator=random)[:, 0]
        rewards = (tokens == PAYING).double()
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        old = log_probs(way, weight.detach(), fed, tokens)
        everything = torch.ones_like(old, dtype=torch.bool)
        for _ in range(updates):
            now = log_probs(way, weight, fed, tokens)
            terms = policy_terms(now, old, None, advantages, everything, clip=0.2, kl_weight=0.0)
            optimizer.zero_grad()
            terms.loss.mean().backward()
            optimizer.step()
    return begin, pay(weight)


def log_probs(way: Way, weight: Tensor, fed: Tensor, tokens: Tensor) -> Tensor:
    """The log-probabilities [B, 3] at the columns that predict the latents, if these are actions, and the token."""
    means = latents_of(weight).expand(ANSWERS, -1, -1)
    seen = (means if way == "recompute" else fed)[:, -1:]
    hidden = torch.cat([means, seen], dim=1)  # the state that predicts each latent, and the token
    of_tokens = seen[:, 0].log_softmax(-1).gather(1, tokens[:, None])
    found = torch.cat([torch.zeros(ANSWERS, SPAN), of_tokens], dim=1) + 0.0 * means.sum()
    if way == "gaussian":
        return found + latent_log_probs(LAYOUT, hidden, list(fed), torch.tensor(math.log(SIGMA)))
    if way in ("aligned", "released"):
        return found + replayed_log_probs(LAYOUT, hidden, list(fed), SIGMA, late=way == "released")
    return found


@pytest.mark.parametrize("way", ["recompute", "gaussian"])
def test_a_gradient_through_latents_and_sampled_latents_find_the_optimum(way: Way) -> None:
    before, after = trained(way)
    assert before == pytest.approx(0.25)
    assert after == pytest.approx(OPTIMUM, abs=0.02)


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("way", ["replay", "aligned"])
def test_recorded_latents_alone_and_vlpo_without_noise_move_nothing(way: Way, updates: int) -> None:
    before, after = trained(way, updates)
    assert after == pytest.approx(before, abs=1e-9)


def test_the_released_term_cannot_tell_good_answers_from_bad_ones() -> None:
    """It compares a latent with the next one's mean, the same in all answers: advantages, whose sum is 0, cancel.

    What is left is rounding; where the latents are equal it is nothing at all.
    """
    gradients = []
    for apart in (0.0, 1.0):
        weight = torch.full((SPAN, SIZE), 0.5, dtype=torch.float64)
        weight[0, 0] += apart
        weight.requires_grad_()
        fed = latents_of(weight.detach()).expand(ANSWERS, -1, -1)
        values = log_probs("released", weight, fed, torch.zeros(ANSWERS, dtype=torch.long))
        advantages = torch.randn(ANSWERS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        advantages -= advantages.mean()
        (whole,) = torch.autograd.grad((advantages[:, None] * values).mean(), weight, retain_graph=True)
        (one,) = torch.autograd.grad(values[0].sum(), weight)
        gradients.append((float(whole.abs().max()), float(one.abs().max())))
    assert gradients[0] == (0.0, 0.0)
    assert gradients[1][0] < 1e-6 < 1e-2 < gradients[1][1]
    assert trained("released")[1] == pytest.approx(0.25, abs=1e-9)
