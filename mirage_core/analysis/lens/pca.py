"""Latents of many answers on their first two principal components, and how far labels of the answers separate them.

PCA rather than t-SNE: it has no settings, and its axes have a known share of the variance. Legend: N points, D numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mirage_core.analysis.results import Record
from mirage_core.errors import InputError
from mirage_core.evaluation.pictures import Units, exchangeable, exchanged

SHUFFLES = 200
Points = NDArray[np.float64]


class Separation(Record):
    """The share of the variance between points, in all dimensions, that labels explain; and that shuffled labels do."""

    by: str
    share: float | None = Field(description="Variance between labels over total variance; None without variance.")
    shuffled: float | None = Field(description="Mean share of shuffled labels.")
    p_value: float | None = Field(description="(1 + shuffles at least as high) / (1 + shuffles).")


class Projection(Record):
    """Points on their first two principal components; ``labels``: by the name of each labelling, a label per point."""

    n: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    explained: tuple[float, float] = Field(description="Share of the variance along x and y.")
    labels: dict[str, tuple[str, ...]]
    separations: tuple[Separation, ...]


def project(points: Points, labels: Mapping[str, Sequence[str]], seed: int, units: Units | None = None) -> Projection:
    """Points [N, D] on their first two principal components.

    ``units`` [N]: points of one picture, whose labels are shuffled together (None: each is of its own).
    The largest loading of an axis is positive, so that the same points give the same image. InputError for fewer than
    three points, points that are not finite, and a wrong number of labels.
    """
    if points.ndim != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise InputError(f"a projection needs three or more finite points, got an array of shape {points.shape}")
    for name, each in labels.items():
        if len(each) != len(points):
            raise InputError(f"{len(each)} labels of {name} for {len(points)} points: give one a point")
    centred = points - points.mean(0)
    coordinates, explained = _components(centred)
    return Projection(
        n=len(points),
        x=tuple(round(float(value), 5) for value in coordinates[:, 0]),
        y=tuple(round(float(value), 5) for value in coordinates[:, 1]),
        explained=(round(explained[0], 5), round(explained[1], 5)),
        labels={name: tuple(each) for name, each in labels.items()},
        separations=tuple(separation(name, centred, each, seed, units) for name, each in labels.items()),
    )


def separation(name: str, points: Points, labels: Sequence[str], seed: int, units: Units | None = None) -> Separation:
    """The share of the variance of points [N, D] that labels explain, and that shuffled labels explain.

    ``units`` [N]: points whose labels are shuffled together (None: each by itself).
    """
    centred = points - points.mean(0)
    total = float((centred**2).sum())
    if total <= 1e-12 or len(set(labels)) < 2:
        return Separation(by=name, share=None, shuffled=None, p_value=None)
    coded = np.unique(np.array(labels), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    share = _between(centred, coded) / total
    blocks = exchangeable([""] * len(coded), np.arange(len(coded)) if units is None else units)
    chance = [_between(centred, coded[exchanged(blocks, rng)]) / total for _ in range(SHUFFLES)]
    p = (1 + sum(value >= share - 1e-12 for value in chance)) / (1 + SHUFFLES)
    return Separation(by=name, share=round(share, 4), shuffled=round(float(np.mean(chance)), 4), p_value=round(p, 4))


def _components(centred: Points) -> tuple[Points, tuple[float, float]]:
    """Coordinates [N, 2] and the shares of the variance; a second axis of zeros where points lie on a line."""
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    total = float((values**2).sum())
    coordinates, shares = np.zeros((len(centred), 2)), [0.0, 0.0]
    for axis in np.flatnonzero(values[:2] ** 2 > 1e-12 * max(total, 1e-300)).tolist():
        sign = np.sign(right[axis, np.argmax(np.abs(right[axis]))])
        coordinates[:, axis] = sign * left[:, axis] * values[axis]
        shares[axis] = float(values[axis] ** 2 / total)
    return coordinates, (shares[0], shares[1])


def _between(centred: Points, coded: NDArray[np.intp]) -> float:
    """The sum of squares between the labels of centred points."""
    counts = np.bincount(coded)
    sums = np.zeros((len(counts), centred.shape[1]))
    np.add.at(sums, coded, centred)
    return float(((sums**2).sum(1) / np.maximum(counts, 1)).sum())
