"""Cutting an image: the reference without its lower right quarter, the right piece, and a wrong one.

Sizes are in pixels. A wrong piece must not look like the right one, so they differ by a mean of at least
``MIN_DIFFERENCE`` grey levels (of 255); an image without such a piece after many attempts gives no jigsaw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

MIN_DIFFERENCE = 12.0
MAX_OVERLAP = 0.25
_ATTEMPTS = 32


@dataclass(frozen=True, slots=True)
class Jigsaw:
    """A cut image: ``reference`` [side, side] with a black lower right quarter, the two pieces [side/2, side/2]."""

    reference: Image.Image
    right: Image.Image
    wrong: Image.Image


def cut_jigsaw(image: Image.Image, side_px: int, wrong: Image.Image) -> Jigsaw:
    """Cut an image, with a given wrong piece; ``side_px`` is even."""
    square = centred_square(image, side_px)
    half = side_px // 2
    reference = square.copy()
    reference.paste((0, 0, 0), (half, half, side_px, side_px))
    return Jigsaw(reference, correct_piece(square), wrong)


def centred_square(image: Image.Image, side_px: int) -> Image.Image:
    """Return the largest centred square of an image, scaled to ``side_px``, as RGB."""
    return ImageOps.fit(image.convert("RGB"), (side_px, side_px), Image.Resampling.LANCZOS)


def correct_piece(square: Image.Image) -> Image.Image:
    """Return the lower right quarter of a square image."""
    half = square.width // 2
    return square.crop((half, half, 2 * half, 2 * half))


def same_piece(rng: np.random.Generator, square: Image.Image) -> Image.Image | None:
    """Return a wrong piece from elsewhere in the same square image; None if all look like the right piece.

    It overlaps the right piece by at most ``MAX_OVERLAP`` of its area.
    """
    half, right = square.width // 2, correct_piece(square)
    for _ in range(_ATTEMPTS):
        left, top = (int(offset) for offset in rng.integers(0, half + 1, size=2))
        if left * top > MAX_OVERLAP * half * half:  # the overlap is left x top pixels
            continue
        piece = square.crop((left, top, left + half, top + half))
        if difference(piece, right) >= MIN_DIFFERENCE:
            return piece
    return None


def near_piece(square: Image.Image, other: Image.Image) -> Image.Image | None:
    """Return the lower right quarter of another square image as wrong piece; None if it looks like the right one."""
    piece = correct_piece(other)
    return piece if difference(piece, correct_piece(square)) >= MIN_DIFFERENCE else None


def difference(first: Image.Image, second: Image.Image) -> float:
    """Return the mean absolute difference of two images of one size, in grey levels of 255."""
    return float(np.abs(np.asarray(first, dtype=np.int16) - np.asarray(second, dtype=np.int16)).mean())
