"""The GRPO loss: its gradient, its clipping, its KL, and a bandit with a known optimum."""

from __future__ import annotations

import torch

from mirage_core.training.grpo.loss import policy_terms
from mirage_core.training.grpo.rewards import group_advantages

MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_on_policy_the_gradient_is_advantage_times_the_mean_score_of_each_answer() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, 9.0], [-0.5, 9.0, 9.0]], requires_grad=True)
    advantages = torch.tensor([2.0, -1.0])
    terms = policy_terms(log_probs, log_probs.detach(), None, advantages, MASK, clip=0.2, kl_weight=0.0)
    terms.loss.sum().backward()
    assert log_probs.grad is not None
    assert torch.allclose(log_probs.grad, torch.tensor([[-1.0, -1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert torch.allclose(terms.entropy, torch.tensor([1.5, 0.5]))


def test_a_ratio_beyond_the_clip_gives_no_gradient_where_it_would_gain() -> None:
    log_probs = torch.tensor([[0.5, -0.5, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True]])
    terms = policy_terms(log_probs, torch.zeros(1, 3), None, torch.tensor([1.0]), mask, clip=0.2, kl_weight=0.0)
    terms.loss.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0, 0] == 0 and log_probs.grad[0, 1] < 0 and log_probs.grad[0, 2] < 0
    assert torch.allclose(terms.clipped, torch.tensor([1 / 3]))


def test_a_higher_clip_lets_what_pays_grow_further_and_leaves_what_does_not_alone() -> None:
    ratios = torch.tensor([[1.25, 1.35, 0.75]])
    mask = torch.ones(1, 3, dtype=torch.bool)

    def gradient(advantage: float) -> list[bool]:
        log_probs = ratios.log().requires_grad_()
        gain = torch.tensor([advantage])
        terms = policy_terms(log_probs, torch.zeros(1, 3), None, gain, mask, clip=0.2, clip_high=0.3, kl_weight=0.0)
        terms.loss.sum().backward()
        assert log_probs.grad is not None
        return [bool(value != 0) for value in log_probs.grad[0]]

    assert gradient(1.0) == [True, False, True]
    assert gradient(-1.0) == [True, True, False]


def test_the_kl_is_zero_at_the_reference_and_never_negative() -> None:
    log_probs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    reference = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    none = torch.zeros(2)
    same = policy_terms(log_probs, log_probs, log_probs, none, MASK, clip=0.2, kl_weight=1.0)
    other = policy_terms(log_probs, log_probs, reference, none, MASK, clip=0.2, kl_weight=1.0)
    assert torch.equal(same.kl, torch.zeros(2))
    assert (other.kl > 0).all() and torch.allclose(other.loss, other.kl)


def bandit(kl_weight: float) -> torch.Tensor:
    """Probabilities a softmax policy over four arms ends in; the third arm pays 1, the others nothing."""
    logits = torch.zeros(4, requires_grad=True)
    reference = torch.full((4,), 0.25).log()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        probabilities = logits.softmax(0)
        arms = torch.multinomial(probabilities.detach(), 8, replacement=True, generator=generator)
        advantages = torch.tensor(group_advantages([float(arm == 2) for arm in arms]))
        log_probs = probabilities.log()[arms][:, None]
        terms = policy_terms(
            log_probs,
            log_probs.detach(),
            reference[arms][:, None],
            advantages,
            torch.ones(8, 1, dtype=torch.bool),
            clip=0.2,
            kl_weight=kl_weight,
        )
        optimizer.zero_grad()
        terms.loss.mean().backward()
        optimizer.step()
    return logits.detach().softmax(0)


def test_a_bandit_finds_the_arm_that_pays() -> None:
    assert bandit(0.0)[2] > 0.95


def test_a_bandit_held_by_the_kl_ends_at_its_known_optimum() -> None:
    """Where p_a (r_a - mean r) = beta (p_a - q_a) for every arm: there the reward and the KL balance.

    The groups are of all arms by their probabilities, so that nothing is left to chance; advantages are not divided.
    """
    rewards, reference, beta = torch.tensor([0.0, 0.2, 1.0, 0.5]), torch.tensor([0.4, 0.3, 0.2, 0.1]), 0.7
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=0.5)
    for _ in range(2000):
        probabilities = logits.softmax(0)
        log_probs = probabilities.log()[:, None]
        drawn = probabilities.detach()
        terms = policy_terms(
            log_probs,
            log_probs.detach(),
            reference.double().log()[:, None],
            rewards.double() - (drawn * rewards).sum(),
            torch.ones(4, 1, dtype=torch.bool),
            clip=0.2,
            kl_weight=beta,
        )
        optimizer.zero_grad()
        (terms.loss * drawn).sum().backward()
        optimizer.step()
    found = logits.detach().softmax(0)
    gain = found * (rewards - (found * rewards).sum())
    assert torch.allclose(gain, beta * (found - reference), atol=1e-6)
    assert (found * rewards).sum() > (reference * rewards).sum() + 0.1


def test_a_heavy_kl_holds_the_bandit_near_its_reference() -> None:
    assert bandit(20.0)[2] < 0.5
