"""Similarity and spread of vectors: cosines, effective rank, shares of variance.

All figures are computed from inner products of instances, so that a resample needs no pass over the vectors. Legend:
N instances, J positions (latent indices), D numbers of a vector, R resamples; weights [R, N] have rows of sum 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mirage_core.analysis.bootstrap import Floats
from mirage_core.errors import InputError

ROUNDING = 1e-5
"""A difference this much shorter than the vectors it was computed from is rounding error, and has no direction."""


def cosines(vectors: Floats, size: float | None = None) -> Floats:
    """Cosines of all pairs [..., J, J] of vectors [..., J, D]; nan for vectors without a direction.

    ``size``: the root mean square length of the vectors before a mean was subtracted.
    """
    lengths = np.linalg.norm(vectors, axis=-1)
    reference = float(np.sqrt((lengths**2).mean())) if size is None else size
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.where((lengths > ROUNDING * reference)[..., None], vectors / lengths[..., None], np.nan)
    result: Floats = known @ known.swapaxes(-1, -2)
    return result


def root_mean_square(vectors: Floats) -> float:
    """The root mean square length of vectors [..., D]."""
    return float(np.sqrt((vectors**2).sum(-1).mean())) if vectors.size else 0.0


def mean_between(pairs: Floats, weights: Floats) -> Floats:
    """Mean off-diagonal entry of pairs [N, N] under weights [R, N]; pairs of an instance with a copy of itself and
    undefined pairs are left out: [R], nan where no pair is left."""
    known = np.isfinite(pairs) & ~np.eye(len(pairs), dtype=bool)
    total = ((weights @ np.where(known, pairs, 0.0)) * weights).sum(1)
    count = ((weights @ known) * weights).sum(1)
    return _over(total, count)


def mean_within(pairs: Floats) -> Floats:
    """Mean off-diagonal entry of each instance's own pairs [N, J, J]: [N], nan where J is 1 or nothing is defined."""
    known = np.isfinite(pairs) & ~np.eye(pairs.shape[-1], dtype=bool)
    return _over(np.where(known, pairs, 0.0).sum((1, 2)), known.sum((1, 2)).astype(np.float64))


def effective_rank(vectors: Floats) -> float:
    """exp of the entropy of the normalised singular values of vectors [N, D], centred.

    Roy and Vetterli, The effective rank (EUSIPCO 2007), Definition 1. At most min(N - 1, D); nan where nothing varies.
    """
    centred = vectors - vectors.mean(0)
    product = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    values = np.sqrt(np.clip(np.linalg.eigvalsh(product), 0, None))
    if values.sum() <= ROUNDING * root_mean_square(vectors) * np.sqrt(len(vectors)):
        return float("nan")
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def energy_share(vectors: Floats, weights: Floats) -> Floats:
    """Variance between instances over the mean squared length, of vectors [N, D]: [R], 0 where all are equal."""
    products = vectors @ vectors.T
    squares = weights @ np.diagonal(products)
    return _over(_positive(squares - _mean_squared(products, weights), squares), squares)


def group_share(vectors: Floats, groups: Sequence[str], weights: Floats) -> Floats:
    """Share of the variance between instances that their groups explain (eta squared): [R]; nan where none varies."""
    products = vectors @ vectors.T
    squares = weights @ np.diagonal(products)
    overall = _mean_squared(products, weights)
    between = np.zeros(len(weights))
    for group in sorted(set(groups)):
        inside = weights * (np.array(groups) == group)
        mass = inside.sum(1)
        between += np.where(mass > 0, mass * _over(_mean_squared(products, inside), mass**2, empty=0.0), 0.0)
    return _over(_positive(between - overall, squares), _positive(squares - overall, squares))


def two_way_shares(vectors: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Shares of all variance of vectors [N, J, D] due to instance, position and their interaction: [R] each.

    The two-way table without replicates: z_nj = mean + instance_n + position_j + rest_nj. nan where nothing varies.
    """
    if vectors.ndim != 3:
        raise InputError(f"got vectors of shape {vectors.shape}, expected instances, positions, numbers")
    positions = vectors.shape[1]
    own = vectors.mean(1)
    own_products = own @ own.T
    squares = weights @ (vectors**2).sum(-1).mean(1)
    pairs = np.ndindex(positions, positions)
    means = [_mean_squared_across(vectors[:, i], vectors[:, j], weights) for i, j in pairs]
    grid = np.stack(means).reshape(positions, positions, -1)
    overall = grid.mean((0, 1))  # |mean of everything|^2
    by_position = np.stack([grid[j, j] for j in range(positions)]).mean(0)
    by_instance = weights @ np.diagonal(own_products)
    total = _positive(squares - overall, squares)
    instance = _over(_positive(by_instance - overall, squares), total)
    position = _over(_positive(by_position - overall, squares), total)
    return instance, position, 1 - instance - position


def _mean_squared(products: Floats, weights: Floats) -> Floats:
    """|sum w_n z_n|^2 [R] from inner products [N, N]."""
    result: Floats = ((weights @ products) * weights).sum(1)
    return result


def _mean_squared_across(first: Floats, second: Floats, weights: Floats) -> Floats:
    """The inner product of two weighted means [R], of vectors [N, D] each."""
    return _mean_squared(first @ second.T, weights)


def _positive(values: Floats, scale: Floats) -> Floats:
    """Zero where a difference is rounding error of the squares it was computed from."""
    return np.where(values > ROUNDING**2 * scale, values, 0.0)


def _over(numbers: Floats, by: Floats, empty: float = float("nan")) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(by > 0, numbers / by, empty)
