"""Which examples a step takes, and who computes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import InputError
from mirage_core.training.data import sampler as data
from mirage_core.training.data.sampler import EpochOrder, split_batch, steps_of


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


@pytest.mark.parametrize("alike", ("kinds", "lengths"))
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 3))
def test_batches_of_a_like_still_take_every_example_once_an_epoch(
    alike: str, size: int, batch_size: int, seed: int
) -> None:
    order = EpochOrder(size, batch_size, seed, **{alike: [index % 3 for index in range(size)]})
    taken = [index for step in range(-(-3 * size // batch_size)) for index in order.batch(step)]
    for epoch in range(3):
        assert sorted(taken[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_batches_by_length_hold_examples_of_like_length_in_every_epoch_and_in_another_order() -> None:
    lengths = [(370 * index) % 1001 for index in range(1001)]
    order = EpochOrder(1001, 8, seed=1, lengths=lengths)
    batches = [order.batch(step) for step in range(375)]  # three epochs; 1001 is no multiple of 8
    spreads = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert sum(spread <= 100 for spread in spreads) >= 366  # all but those across epochs, and the ends of windows
    firsts = [lengths[batch[0]] for batch in batches[:12]]
    assert firsts != sorted(firsts)
    assert {frozenset(batch) for batch in batches[:125]}.isdisjoint(frozenset(batch) for batch in batches[126:250])


def test_windows_leave_room_for_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "WINDOW", 2)
    order = EpochOrder(64, 4, seed=1, lengths=list(range(64)))
    spreads = [max(batch) - min(batch) for batch in (order.batch(step) for step in range(16))]
    assert min(spreads) > 3  # sorted among eight drawn by chance, not among all


def test_neighbours_are_dealt_to_one_micro_batch() -> None:
    hands = [split_batch(range(16), rank, 2, 4, neighbours=True) for rank in (0, 1)]
    assert [portion.indices for portion in hands[0]] == [(0, 2, 4, 6), (8, 10, 12, 14)]
    assert [portion.indices for portion in hands[1]] == [(1, 3, 5, 7), (9, 11, 13, 15)]


def test_used_examples_are_those_of_the_first_steps() -> None:
    order = EpochOrder(100, 4, seed=1)
    assert order.used(2) == tuple(sorted(order.batch(0) + order.batch(1)))
    assert order.used(25) == tuple(range(100))


@given(st.integers(1, 20), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 6)), st.booleans())
def test_dealing_gives_every_example_once_and_every_process_as_many_passes(
    size: int, world_size: int, micro_batch_size: int | None, neighbours: bool
) -> None:
    hands = [
        split_batch(range(size), rank, world_size, micro_batch_size, neighbours=neighbours)
        for rank in range(world_size)
    ]
    assert len({len(hand) for hand in hands}) == 1
    used = [index for hand in hands for portion in hand if not portion.filler for index in portion.indices]
    assert sorted(used) == list(range(size))
    if micro_batch_size is not None:
        assert max(len(portion.indices) for hand in hands for portion in hand) <= micro_batch_size


def test_steps_come_from_epochs_where_they_are_not_given() -> None:
    assert steps_of(7, 15, 100, 8) == 7
    assert steps_of(None, 1.5, 100, 8) == 19


def test_no_example_is_an_error() -> None:
    with pytest.raises(InputError, match="no training example"):
        EpochOrder(0, 4, seed=1)
