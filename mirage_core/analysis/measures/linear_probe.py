"""A linear probe: ridge regression on class indicators, every instance held out once, penalties chosen inside.

Ridge in its dual form has a closed solution, so the probe is deterministic, wide states cost no more than narrow ones,
and shuffled labels are solved with the same factors. Alain and Bengio, arXiv 1610.01644 (linear probes); Hewitt and
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
"""(predicted [R, n, C], targets [R, n, C]) -> how right each instance is [R, n], within 0 and 1 (nan: not counted)."""


@dataclass(frozen=True, slots=True)
class Held:
    """How right every instance is when held out [R, N], and the commonest of the chosen penalties [R]."""

    hits: Floats
    penalty: Floats


def class_targets(labels: Sequence[Any]) -> tuple[Floats, int]:
    """Indicators [N, C] of labels, and their number C; classes in the order of their text."""
    classes = sorted({str(label) for label in labels})
    index = np.array([classes.index(str(label)) for label in labels])
    return np.eye(len(classes))[index], len(classes)


def class_hits(predicted: Floats, targets: Floats) -> Floats:
    """1 where the largest prediction is the instance's class."""
    return (predicted.argmax(-1) == targets.argmax(-1)).astype(np.float64)


def sign_hits(predicted: Floats, targets: Floats) -> Floats:
    """Share of an instance's targets, -1 or 1 (0: it has none), whose sign is predicted; nan without any."""
    known = targets != 0
    right = (np.sign(predicted) == targets) & known
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known.any(-1), right.sum(-1) / known.sum(-1), np.nan)


def folds_of(units: Sequence[Any], folds: int, seed: int) -> Rows:
    """The fold of each instance [N]; instances of one unit (the same map) stay together."""
    names = sorted({str(unit) for unit in units})
    drawn = np.random.default_rng(seed).permutation(len(names)) % folds
    fold = dict(zip(names, drawn.tolist(), strict=True))
    return np.array([fold[str(unit)] for unit in units], dtype=np.int64)


def held_out(states: Floats, targets: Floats, folds: Rows, penalties: Sequence[float], hits: Hits) -> Held:
    """Probe states [N, D] for targets [R, N, C], every fold by what the others teach.

    The penalty (in units of the mean variance of a state's numbers, times N) is the one that does best on an inner
    fold of the training part, chosen anew for every set of labels. InputError for a single fold.
    """
    check_rows(states, targets[0], folds)
    numbers = sorted(set(folds.tolist()))
    if len(numbers) < 2:
        raise InputError(f"got {len(numbers)} fold(s), expected two or more: there are too few different instances")
    found = np.full(targets.shape[:2], np.nan)
    chosen = np.zeros((len(numbers), len(targets)), dtype=np.int64)
    for place, fold in enumerate(numbers):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        chosen[place] = _best(states, targets, folds, train, penalties, hits)
        solved = _solve(states, targets, train, test, penalties)
        picked = solved[chosen[place], np.arange(len(targets))]
        found[:, test] = hits(picked, targets[:, test])
    common = [np.bincount(column, minlength=len(penalties)).argmax() for column in chosen.T]
    return Held(found, np.array(penalties)[common])


def _best(states: Floats, targets: Floats, folds: Rows, train: Rows, penalties: Sequence[float], hits: Hits) -> Rows:
    """The index of the best penalty for each set of labels [R]; the strongest of equals."""
    inner = folds[train]
    numbers = sorted(set(inner.tolist()))
    if len(numbers) > 1:
        hold = inner == numbers[0]
    else:  # one training fold alone: every second instance
        hold = np.arange(len(train)) % 2 == 0
    solved = _solve(states, targets, train[~hold], train[hold], penalties)
    right = np.stack([np.nanmean(hits(one, targets[:, train[hold]]), axis=1) for one in solved])
    return len(penalties) - 1 - right[::-1].argmax(0)


def _solve(states: Floats, targets: Floats, train: Rows, test: Rows, penalties: Sequence[float]) -> Floats:
    """Predictions [penalties, R, test, C] of ridge regression; states are standardised by the training part."""
    fitted, asked = _standardised(states, train, test)
    kernel, across = fitted @ fitted.T, asked @ fitted.T
    values, vectors = np.linalg.eigh(kernel)
    values = np.clip(values, 0, None)
    mean = targets[:, train].mean(1, keepdims=True)
    turned = vectors.T @ (targets[:, train] - mean)  # [R, train, C]
    reach = across @ vectors  # [test, train]
    unit = max(float(np.trace(kernel)) / len(train), 1e-12)
    return np.stack([reach @ (turned / (values + one * unit)[None, :, None]) + mean for one in penalties])


def _standardised(states: Floats, train: Rows, test: Rows) -> tuple[Floats, Floats]:
    """Training and test states by the mean and deviation of the training part; numbers that never vary are zero."""
    mean, deviation = states[train].mean(0), states[train].std(0)
    scale = np.where(deviation > 1e-9 * max(float(np.abs(states).max()), 1e-30), deviation, np.inf)
    return (states[train] - mean) / scale, (states[test] - mean) / scale
