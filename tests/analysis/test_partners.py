"""Exchanges: nobody gives to itself, nobody crosses a group, and the seed alone decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mirage_core.analysis.donors import NOBODY, derangement, donors, inverse, spread_evenly

STRATA = ["a"] * 5 + ["b"] * 2 + ["alone"] + ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_a_derangement_is_a_permutation_within_strata_without_a_fixed_point(seed: int) -> None:
    partners = derangement(STRATA, seed)
    paired = [at for at in range(len(STRATA)) if STRATA[at] != "alone"]
    assert partners[7] == NOBODY and sorted(partners[paired].tolist()) == paired
    assert all(partners[at] != at and STRATA[partners[at]] == STRATA[at] for at in paired)
    assert (inverse(partners)[partners[paired]] == paired).all() and inverse(partners)[7] == NOBODY


def test_the_seed_decides_and_different_seeds_differ() -> None:
    assert (derangement(["a"] * 20, 1) == derangement(["a"] * 20, 1)).all()
    assert (derangement(["a"] * 20, 1) != derangement(["a"] * 20, 2)).any()


def test_donors_suit_and_come_from_all_who_do() -> None:
    letters = "ABABABAB"

    def suits(receiver: int, donor: int) -> bool:
        return letters[receiver] != letters[donor]

    drawn = [donors(["x"] * 8, suits, seed) for seed in range(30)]
    assert all(suits(at, int(by)) for partners in drawn for at, by in enumerate(partners))
    assert len({int(partners[0]) for partners in drawn}) == 4
    assert (donors(["x"] * 8, lambda receiver, donor: False, 0) == NOBODY).all()


def test_instances_are_spread_evenly_and_keep_their_order() -> None:
    strata = ["a"] * 50 + ["b"] * 10 + ["c"] * 2
    chosen = spread_evenly(strata, 12, seed=0)
    assert chosen == sorted(chosen) and Counter(strata[at] for at in chosen) == {"a": 5, "b": 5, "c": 2}
    assert spread_evenly(strata, 1000, seed=0) == list(range(62))
    assert not np.array_equal(chosen, spread_evenly(strata, 12, seed=1))
