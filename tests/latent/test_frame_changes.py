"""Which tokens of a problem's image a frame changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mirage_core.latent.frame_changes import changed_tokens

GRID = (2, 3)


def image(*marked: int, level: int = 200, size: tuple[int, int] = (20, 30)) -> Image.Image:
    """A dark image of 2 x 3 tokens, the marked ones (row by row) bright in one pixel."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    for token in marked:
        pixels[size[0] // 2 * (token // 3) + 3, size[1] // 3 * (token % 3) + 4] = level
    return Image.fromarray(pixels)


def found(*frames: Image.Image, start: Image.Image | None = None, tolerance: float = 0.0) -> list[list[int]]:
    masks = changed_tokens(start or image(), frames, GRID, tolerance)
    assert masks.shape == (len(frames), 6)
    return [np.flatnonzero(mask).tolist() for mask in masks]


def test_a_frame_changes_what_is_new_and_not_what_the_image_shows_again() -> None:
    assert found(image(1), image(4), image(4, 5)) == [[1], [4], [5]]


def test_what_left_the_place_of_the_image_is_new_there() -> None:
    assert found(image(1), image(2), start=image(0)) == [[0, 1], [2]]


def test_a_frame_that_only_takes_away_changes_what_it_takes() -> None:
    assert found(image(1, 2), image(1)) == [[1, 2], [2]]


def test_a_frame_like_the_one_before_keeps_its_tokens_and_one_like_the_image_has_none() -> None:
    assert found(image(), image(3), image(3)) == [[], [3], [3]]


@pytest.mark.parametrize(("tolerance", "expected"), [(1.9, [1]), (2.1, [])])
def test_differences_up_to_the_tolerance_do_not_count(tolerance: float, expected: list[int]) -> None:
    assert found(image(1, level=200), tolerance=tolerance) == [expected]  # one pixel of 10 x 10


def test_tokens_of_uneven_size_cover_the_whole_image() -> None:
    pixels = np.zeros((21, 32, 3), dtype=np.uint8)
    pixels[-1, -1] = 255
    masks = changed_tokens(Image.new("RGB", (32, 21)), [Image.fromarray(pixels)], GRID, 0.0)
    assert np.flatnonzero(masks[0]).tolist() == [5]


def test_a_problem_without_frames_has_no_rows() -> None:
    assert changed_tokens(image(), [], GRID, 0.0).shape == (0, 6)
