"""Donors: no instance donates to itself or across strata, and the seed alone decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mirage_core.analysis.donors import NO_DONOR, assign_donors, derangement, recipients_of, stratified_sample

STRATA = ["a"] * 5 + ["b"] * 2 + ["alone"] + ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_a_derangement_is_a_permutation_within_strata_without_a_fixed_point(seed: int) -> None:
    donors = derangement(STRATA, seed)
    paired = [at for at in range(len(STRATA)) if STRATA[at] != "alone"]
    assert donors[7] == NO_DONOR and sorted(donors[paired].tolist()) == paired
    assert all(donors[at] != at and STRATA[donors[at]] == STRATA[at] for at in paired)
    assert (recipients_of(donors)[donors[paired]] == paired).all() and recipients_of(donors)[7] == NO_DONOR


def test_the_seed_decides_and_different_seeds_differ() -> None:
    assert (derangement(["a"] * 20, 1) == derangement(["a"] * 20, 1)).all()
    assert (derangement(["a"] * 20, 1) != derangement(["a"] * 20, 2)).any()


def test_donors_are_suitable_and_come_from_all_that_are() -> None:
    letters = "ABABABAB"

    def is_suitable(recipient: int, donor: int) -> bool:
        return letters[recipient] != letters[donor]

    drawn = [assign_donors(["x"] * 8, is_suitable, seed) for seed in range(30)]
    assert all(is_suitable(at, int(by)) for donors in drawn for at, by in enumerate(donors))
    assert len({int(donors[0]) for donors in drawn}) == 4
    assert (assign_donors(["x"] * 8, lambda recipient, donor: False, 0) == NO_DONOR).all()


def test_instances_are_spread_evenly_and_keep_their_order() -> None:
    strata = ["a"] * 50 + ["b"] * 10 + ["c"] * 2
    chosen = stratified_sample(strata, 12, seed=0)
    assert chosen == sorted(chosen) and Counter(strata[at] for at in chosen) == {"a": 5, "b": 5, "c": 2}
    assert stratified_sample(strata, 1000, seed=0) == list(range(62))
    assert not np.array_equal(chosen, stratified_sample(strata, 12, seed=1))
