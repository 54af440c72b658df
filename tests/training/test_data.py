"""Which examples a step takes, and who computes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import InputError
from mirage_core.training.data import EpochOrder, deal, steps_of


def test_every_epoch_takes_every_example_once_in_another_order() -> None:
    order = EpochOrder(10, 5, seed=3)
    epochs = [order.batch(step) + order.batch(step + 1) for step in (0, 2, 4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len(set(epochs)) == 3


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 30))
def test_a_batch_is_a_function_of_seed_and_step_alone(size: int, batch_size: int, step: int) -> None:
    fresh, used = EpochOrder(size, batch_size, seed=1), EpochOrder(size, batch_size, seed=1)
    for other in range(3):
        used.batch(other)
    assert fresh.batch(step) == used.batch(step)
    assert len(fresh.batch(step)) == batch_size


def test_examples_of_a_kind_share_batches_and_every_example_still_comes_once() -> None:
    kinds = [0] * 9 + [1] * 7
    order = EpochOrder(16, 4, seed=1, kinds=kinds)
    batches = [order.batch(step) for step in range(4)]
    assert sorted(index for batch in batches for index in batch) == list(range(16))
    assert sum(len({kinds[index] for index in batch}) == 1 for batch in batches) == 3


def test_used_examples_are_those_of_the_first_steps() -> None:
    order = EpochOrder(100, 4, seed=1)
    assert order.used(2) == tuple(sorted(order.batch(0) + order.batch(1)))
    assert order.used(25) == tuple(range(100))


@given(st.integers(1, 20), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 6)))
def test_dealing_gives_every_example_once_and_every_process_as_many_passes(
    size: int, world_size: int, micro_batch_size: int | None
) -> None:
    hands = [deal(range(size), rank, world_size, micro_batch_size) for rank in range(world_size)]
    assert len({len(hand) for hand in hands}) == 1
    counted = [index for hand in hands for portion in hand if not portion.filler for index in portion.indices]
    assert sorted(counted) == list(range(size))
    if micro_batch_size is not None:
        assert max(len(portion.indices) for hand in hands for portion in hand) <= micro_batch_size


def test_steps_come_from_epochs_where_they_are_not_given() -> None:
    assert steps_of(7, 15, 100, 8) == 7
    assert steps_of(None, 1.5, 100, 8) == 19


def test_no_example_is_an_error() -> None:
    with pytest.raises(InputError, match="no training example"):
        EpochOrder(0, 4, seed=1)
