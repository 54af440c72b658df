"""The probe reads what is there linearly, nothing where there is nothing, and never its own test part."""

from __future__ import annotations

import numpy as np
import pytest

from mirage_core.analysis.measures.linear_probe import class_hits, class_targets, cross_validate, folds_of, sign_hits
from mirage_core.errors import InputError

PENALTIES = (1e-3, 1e-1, 10.0)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def labelled(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and states [count, 20] that hold them linearly beside much else."""
    labels = np.random.default_rng(seed).integers(classes, size=count)
    states = 3 * normal(classes, 20, seed=seed + 1)[labels] + normal(count, 20, seed=seed + 2)
    return labels, states


def accuracy(states: np.ndarray, labels: np.ndarray, units: np.ndarray | None = None) -> float:
    targets, _ = class_targets(labels.tolist())
    folds = folds_of((np.arange(len(labels)) if units is None else units).tolist(), 5, 0)
    return float(cross_validate(states, targets[None], folds, PENALTIES, class_hits).hits.mean())


def test_a_label_that_is_there_is_read_and_one_that_is_not_is_guessed() -> None:
    labels, states = labelled(150, 5)
    assert accuracy(states, labels) > 0.9
    assert accuracy(normal(150, 20), labels) < 0.32
    assert accuracy(np.ones((150, 20)), labels) < 0.4, "states that never vary hold nothing"


def test_more_numbers_than_instances_are_no_way_to_cheat() -> None:
    labels = np.random.default_rng(0).integers(2, size=60)
    assert accuracy(normal(60, 2000), labels) < 0.7


def test_copies_of_an_instance_stay_on_one_side_of_the_split() -> None:
    labels = np.random.default_rng(3).integers(3, size=40).repeat(4)
    states = normal(40, 30).repeat(4, axis=0)
    assert accuracy(states, labels, np.arange(40).repeat(4)) < 0.6 < accuracy(states, labels)


def test_a_set_of_labels_is_solved_as_if_it_were_alone() -> None:
    labels, states = labelled(60, 3)
    targets, _ = class_targets(labels.tolist())
    other = np.random.default_rng(9).permutation(60)
    folds = folds_of(list(range(60)), 4, 0)
    both = cross_validate(states, np.stack([targets, targets[other]]), folds, PENALTIES, class_hits)
    alone = cross_validate(states, targets[other][None], folds, PENALTIES, class_hits)
    assert (both.hits[1] == alone.hits[0]).all() and both.hits[0].mean() > 0.85 > 0.6 > both.hits[1].mean()


def test_the_dual_solution_is_ridge_regression() -> None:
    states, targets = normal(12, 5), normal(12, 2, seed=1)
    folds = np.array([0] * 6 + [1] * 6)
    seen: list[np.ndarray] = []

    def record_hits(predicted: np.ndarray, asked: np.ndarray) -> np.ndarray:
        seen.append(predicted)
        return np.zeros(predicted.shape[:2])

    cross_validate(states, targets[None], folds, (0.5,), record_hits)
    train, test = states[6:], states[:6]
    mean, deviation = train.mean(0), train.std(0)
    fitted, asked = (train - mean) / deviation, (test - mean) / deviation
    penalty = 0.5 * (fitted**2).sum() / 6
    weights = np.linalg.solve(fitted.T @ fitted + penalty * np.eye(5), fitted.T @ (targets[6:] - targets[6:].mean(0)))
    assert any(np.allclose(one[0], asked @ weights + targets[6:].mean(0)) for one in seen if one.shape[1] == 6)


def test_signs_count_where_an_instance_has_them() -> None:
    predicted = np.array([[[0.2, -3.0, 1.0], [0.1, 0.1, 0.1]]])
    targets = np.array([[[1.0, -1.0, -1.0], [0.0, 0.0, 0.0]]])
    hits = sign_hits(predicted, targets)
    assert hits[0, 0] == pytest.approx(2 / 3) and np.isnan(hits[0, 1])


def test_a_single_fold_is_refused() -> None:
    targets, _ = class_targets(["a", "b"])
    with pytest.raises(InputError, match=r"1 fold"):
        cross_validate(normal(2, 3), targets[None], np.zeros(2, dtype=np.int64), PENALTIES, class_hits)
