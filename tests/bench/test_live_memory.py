"""The bytes of live tensors."""

from __future__ import annotations

import torch

from bench.live_memory import LiveBytes

MIB = 2**20


def test_tensors_count_while_they_live_and_views_do_not_count_twice() -> None:
    with LiveBytes() as live:
        first = torch.zeros(MIB // 4)
        assert live.current == MIB
        view = first.view(-1, 2)[1:]
        second = first + 1
        assert live.current == 2 * MIB
        del first
        assert live.current == 2 * MIB  # the view holds it
        del view
        assert live.current == MIB
        del second
        assert (live.current, live.peak) == (0, 2 * MIB)
        live.restart()
        assert live.peak == 0


def test_what_autograd_keeps_is_alive_until_the_backward_pass() -> None:
    weight = torch.ones(MIB // 4, requires_grad=True)
    with LiveBytes([weight]) as live:
        loss = (weight.exp() * 1.0).sum()
        resident = live.current
        assert resident >= 2 * MIB  # the weight, and what exp gave
        loss.backward()
        assert live.current == 2 * MIB + loss.nbytes  # the weight, and its gradient
    assert weight.grad is not None


def test_memory_used_again_at_one_place_counts_again() -> None:
    with LiveBytes() as live:
        for _ in range(5):
            torch.zeros(MIB // 4)
        assert (live.current, live.peak) == (0, MIB)
