"""The plane of components: axes hold the variance they say, labels are tested against labels drawn by lot."""

from __future__ import annotations

import numpy as np
import pytest

from mirage_core.analysis.lens.pca import project
from mirage_core.errors import InputError


def points(apart: float = 0.0, n: int = 60) -> tuple[np.ndarray, list[str]]:
    labels = ["left", "right"] * (n // 2)
    made = np.random.default_rng(0).normal(size=(n, 10))
    made[1::2, 0] += apart
    return made, labels


def test_the_first_axis_is_the_direction_of_most_variance() -> None:
    made, labels = points()
    made[:, 3] *= 30
    plane = project(made, {"side": labels}, 0)
    assert plane.explained[0] > 0.95
    assert abs(np.corrcoef(plane.x, made[:, 3])[0, 1]) > 0.999


def test_labels_that_lie_apart_explain_variance_and_others_do_not() -> None:
    made, labels = points(apart=8.0)
    lot = [str(at % 3) for at in np.random.default_rng(1).permutation(len(made))]
    side, random = project(made, {"side": labels, "lot": lot}, 0).separations
    assert side.share > 0.4 > side.shuffled and side.p_value < 0.01
    assert random.p_value > 0.05


def test_labels_of_one_picture_are_shuffled_together() -> None:
    """Points of 12 pictures, five alike each, with a label a picture: by point any label would explain them."""
    units = np.repeat(np.arange(12), 5)
    clear = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        made = rng.normal(size=(12, 10))[units] + 0.01 * rng.normal(size=(60, 10))
        labels = {"lot": [str(label) for label in (rng.permutation(12) % 2)[units]]}
        together, one_by_one = (project(made, labels, seed, each).separations[0].p_value for each in (units, None))
        clear.append((together < 0.05, one_by_one < 0.05))
    shares = np.mean(clear, axis=0)
    assert shares[0] < 0.15 and shares[1] > 0.4


def test_one_label_or_no_variance_explains_nothing() -> None:
    made, _ = points()
    assert project(made, {"all": ["one"] * len(made)}, 0).separations[0].share is None
    flat = project(np.ones((5, 4)), {"side": list("abcde")}, 0)
    assert flat.separations[0].share is None and set(flat.x) == {0.0}


def test_the_same_points_give_the_same_plane_whatever_the_sign_of_the_decomposition() -> None:
    made, labels = points()
    assert project(made, {"side": labels}, 0) == project(made.copy(order="F"), {"side": labels}, 0)


@pytest.mark.parametrize("broken", [np.ones((2, 4)), np.full((5, 4), np.nan), np.ones(5)])
def test_points_that_make_no_plane_are_refused(broken: np.ndarray) -> None:
    with pytest.raises(InputError, match="three or more finite points"):
        project(broken, {}, 0)


def test_labels_must_be_one_a_point() -> None:
    with pytest.raises(InputError, match="2 labels of side for 60 points"):
        project(points()[0], {"side": ["a", "b"]}, 0)
