"""Cosines, ranks and shares of variance of vectors whose answers are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mirage_core.analysis.bootstrap import resample_weights
from mirage_core.analysis.collect import evenly_spaced
from mirage_core.analysis.measures import geometry

ALL = np.full((1, 4), 0.25)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_equal_vectors_have_cosine_one_and_orthogonal_ones_none() -> None:
    same = geometry.cosines(np.tile(normal(1, 8), (4, 1)))
    assert geometry.mean_between(same, ALL)[0] == pytest.approx(1)
    assert geometry.mean_between(geometry.cosines(np.eye(4)), ALL)[0] == pytest.approx(0)


def test_what_is_left_of_equal_vectors_without_their_mean_has_no_direction() -> None:
    vectors = np.tile(normal(1, 8) * 1e3, (4, 1))
    vectors[1] *= 1 + 1e-9
    left = geometry.cosines(vectors - vectors.mean(0), geometry.root_mean_square(vectors))
    assert np.isnan(geometry.mean_between(left, ALL)[0])


def test_pairs_of_an_instance_with_its_own_copy_do_not_count() -> None:
    pairs = geometry.cosines(np.eye(3))
    assert geometry.mean_between(pairs, np.array([[2 / 3, 1 / 3, 0]]))[0] == pytest.approx(0)
    assert np.isnan(geometry.mean_between(pairs, np.array([[1.0, 0, 0]]))[0])


def test_weights_of_a_resample_give_what_the_copied_rows_give() -> None:
    vectors, groups = normal(6, 5), ["a", "a", "b", "b", "b", "c"]
    weights = resample_weights(6, 1, seed=3)
    copies = np.repeat(np.arange(6), np.round(weights[0] * 6).astype(int))
    even = np.full((1, 6), 1 / 6)
    copied, named = vectors[copies], [groups[at] for at in copies]
    assert geometry.energy_share(vectors, weights) == pytest.approx(geometry.energy_share(copied, even))
    assert geometry.group_share(vectors, groups, weights) == pytest.approx(geometry.group_share(copied, named, even))
    table, copied_table = vectors.reshape(6, 5, 1), copied.reshape(6, 5, 1)
    for one, other in zip(
        geometry.two_way_shares(table, weights), geometry.two_way_shares(copied_table, even), strict=True
    ):
        assert one == pytest.approx(other)


def test_the_effective_rank_counts_directions_that_vary() -> None:
    flat = normal(200, 3) @ normal(3, 40, seed=1)
    assert 2 < geometry.effective_rank(flat) < 3.01
    assert geometry.effective_rank(flat + 5) == pytest.approx(geometry.effective_rank(flat))
    two = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert geometry.effective_rank(two) == pytest.approx(2)
    assert np.isnan(geometry.effective_rank(np.ones((5, 3))))


def test_the_effective_rank_is_the_same_from_rows_and_from_columns() -> None:
    wide = normal(6, 30)
    narrow = np.concatenate([wide, np.zeros((1, 30))])[:6]
    singular = np.linalg.svd(wide - wide.mean(0), compute_uv=False)
    shares = singular[:-1] / singular[:-1].sum()
    assert geometry.effective_rank(narrow) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert geometry.effective_rank(normal(60, 4)) == pytest.approx(3.9, abs=0.15)


def test_the_energy_share_is_all_without_a_mean_and_none_without_variance() -> None:
    vectors = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert geometry.energy_share(vectors, ALL)[0] == pytest.approx(1)
    assert geometry.energy_share(np.ones((4, 2)), ALL)[0] == 0
    assert geometry.energy_share(vectors + 3, ALL)[0] == pytest.approx(1 / 19)


def test_groups_explain_all_variance_that_is_theirs_and_chance_of_what_is_not() -> None:
    means = normal(3, 5)
    names = [name for name in "abc" for _ in range(40)]
    even = np.full((1, 120), 1 / 120)
    grouped = means.repeat(40, axis=0)
    assert geometry.group_share(grouped, names, even)[0] == pytest.approx(1)
    chance = np.mean([geometry.group_share(normal(120, 5, seed=seed), names, even)[0] for seed in range(40)])
    assert chance == pytest.approx(2 / 119, abs=0.006)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_two_way_table_gives_each_cause_its_share(part: int) -> None:
    instance, position = normal(6, 1, 4), normal(1, 3, 4, seed=1)
    rest = normal(6, 3, 4, seed=2)
    rest -= rest.mean(0, keepdims=True)
    rest -= rest.mean(1, keepdims=True)
    table = [np.broadcast_to(instance, (6, 3, 4)), np.broadcast_to(position, (6, 3, 4)), rest][part]
    shares = geometry.two_way_shares(table + 7.0, np.full((1, 6), 1 / 6))
    assert [float(share[0]) for share in shares] == pytest.approx([float(part == at) for at in range(3)], abs=1e-6)


def test_places_are_spread_from_the_first_to_the_last() -> None:
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(4, 4).tolist() == [0, 1, 2, 3]
