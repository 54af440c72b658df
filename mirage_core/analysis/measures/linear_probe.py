"""A linear probe: ridge regression on class indicators, cross-validated, with the penalty chosen on an inner split.

Ridge in its dual form has a closed solution, so the probe is deterministic, wide states cost no more than narrow ones,
and shuffled labels reuse the same factors. Alain and Bengio, arXiv 1610.01644 (linear probes); Hewitt and
Liang, arXiv 1909.03369 (control tasks). Legend: N instances, D numbers of a state, C targets, R sets of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_core.analysis.bootstrap import Floats, check_rows
from mirage_core.errors import InputError

Rows = NDArray[np.int64]
Hits = Callable[[Floats, Floats], Floats]
"""(predicted [R, n, C], targets [R, n, C]) -> score of each instance [R, n], within 0 and 1 (nan: not counted)."""


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """The score of every instance when held out [R, N], and the penalty chosen most often [R]."""

    hits: Floats
    penalty: Floats


def class_targets(labels: Sequence[Any]) -> tuple[Floats, int]:
    """Indicators [N, C] of labels, and the number of classes C; classes are sorted by their text."""
    classes = sorted({str(label) for label in labels})
    index = np.array([classes.index(str(label)) for label in labels])
    return np.eye(len(classes))[index], len(classes)


def class_hits(predicted: Floats, targets: Floats) -> Floats:
    """1 where the largest prediction is that of the instance's class, else 0."""
    return (predicted.argmax(-1) == targets.argmax(-1)).astype(np.float64)


def sign_hits(predicted: Floats, targets: Floats) -> Floats:
    """Share of an instance's targets (-1, 1, or 0 for none) whose sign is predicted; nan without targets."""
    known = targets != 0
    right = (np.sign(predicted) == targets) & known
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known.any(-1), right.sum(-1) / known.sum(-1), np.nan)


def folds_of(units: Sequence[Any], folds: int, seed: int) -> Rows:
    """The fold of each instance [N]; instances of one unit (the same map) share a fold."""
    names = sorted({str(unit) for unit in units})
    drawn = np.random.default_rng(seed).permutation(len(names)) % folds
    fold = dict(zip(names, drawn.tolist(), strict=True))
    return np.array([fold[str(unit)] for unit in units], dtype=np.int64)


def cross_validate(
    states: Floats, targets: Floats, folds: Rows, penalties: Sequence[float], hits: Hits
) -> CrossValidation:
    """Predict targets [R, N, C] from states [N, D], each fold with a probe trained on the others.

    The penalty (in units of the mean variance of a state's numbers, times N) is the best on an inner split of the
    training part, for every set of labels. InputError for a single fold.
    """
    check_rows(states, targets[0], folds)
    numbers = sorted(set(folds.tolist()))
    if len(numbers) < 2:
        raise InputError(f"got {len(numbers)} fold(s), expected two or more: there are too few different instances")
    scores = np.full(targets.shape[:2], np.nan)
    chosen = np.zeros((len(numbers), len(targets)), dtype=np.int64)
    for number, fold in enumerate(numbers):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        chosen[number] = _best_penalty(states, targets, folds, train, penalties, hits)
        predicted = _predict(states, targets, train, test, penalties)
        scores[:, test] = hits(predicted[chosen[number], np.arange(len(targets))], targets[:, test])
    common = [np.bincount(column, minlength=len(penalties)).argmax() for column in chosen.T]
    return CrossValidation(scores, np.array(penalties)[common])


def _best_penalty(
    states: Floats, targets: Floats, folds: Rows, train: Rows, penalties: Sequence[float], hits: Hits
) -> Rows:
    """The index of the best penalty for each set of labels [R]; the largest in a tie."""
    inner = folds[train]
    numbers = sorted(set(inner.tolist()))
    if len(numbers) > 1:
        validation = inner == numbers[0]
    else:  # a single training fold: every second instance
        validation = np.arange(len(train)) % 2 == 0
    predicted = _predict(states, targets, train[~validation], train[validation], penalties)
    scores = np.stack([np.nanmean(hits(each, targets[:, train[validation]]), axis=1) for each in predicted])
    return len(penalties) - 1 - scores[::-1].argmax(0)


def _predict(states: Floats, targets: Floats, train: Rows, test: Rows, penalties: Sequence[float]) -> Floats:
    """Predictions [penalties, R, test, C] of ridge regression on states standardised by the training part."""
    train_states, test_states = _standardised(states, train, test)
    kernel, across = train_states @ train_states.T, test_states @ train_states.T
    values, vectors = np.linalg.eigh(kernel)
    values = np.clip(values, 0, None)
    mean = targets[:, train].mean(1, keepdims=True)
    rotated = vectors.T @ (targets[:, train] - mean)  # [R, train, C]
    projection = across @ vectors  # [test, train]
    unit = max(float(np.trace(kernel)) / len(train), 1e-12)
    return np.stack([projection @ (rotated / (values + penalty * unit)[None, :, None]) + mean for penalty in penalties])


def _standardised(states: Floats, train: Rows, test: Rows) -> tuple[Floats, Floats]:
    """Both parts, standardised by the mean and deviation of the training part; constant numbers become zero."""
    mean, deviation = states[train].mean(0), states[train].std(0)
    scale = np.where(deviation > 1e-9 * max(float(np.abs(states).max()), 1e-30), deviation, np.inf)
    return (states[train] - mean) / scale, (states[test] - mean) / scale
