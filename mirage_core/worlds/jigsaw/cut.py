"""Cutting a picture: the reference without its lower right quarter, the right piece, and a wrong one.

Sizes in pixels. A wrong piece that looks like the right one would make a question without an answer, so pieces must
differ by a mean of ``MIN_DIFFERENCE`` grey levels (of 255); where many draws give none there is no jigsaw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

MIN_DIFFERENCE = 12.0
MAX_OVERLAP = 0.25
_DRAWS = 32


@dataclass(frozen=True, slots=True)
class Jigsaw:
    """A cut picture: ``reference`` [side, side] with a black lower right quarter, the two pieces [side/2, side/2]."""

    reference: Image.Image
    right: Image.Image
    wrong: Image.Image


def cut_jigsaw(picture: Image.Image, side_px: int, wrong: Image.Image) -> Jigsaw:
    """Cut a picture, with a wrong piece that was chosen before; ``side_px`` is even."""
    whole = squared(picture, side_px)
    half = side_px // 2
    reference = whole.copy()
    reference.paste((0, 0, 0), (half, half, side_px, side_px))
    return Jigsaw(reference, right_piece(whole), wrong)


def squared(picture: Image.Image, side_px: int) -> Image.Image:
    """The largest centred square of a picture, as RGB of this side."""
    return ImageOps.fit(picture.convert("RGB"), (side_px, side_px), Image.Resampling.LANCZOS)


def right_piece(whole: Image.Image) -> Image.Image:
    """The lower right quarter of a square picture."""
    half = whole.width // 2
    return whole.crop((half, half, 2 * half, 2 * half))


def same_piece(rng: np.random.Generator, whole: Image.Image) -> Image.Image | None:
    """A wrong piece from elsewhere in the same square picture; None where every place looks like the right piece.

    It overlaps the right piece by at most ``MAX_OVERLAP`` of its area.
    """
    half, right = whole.width // 2, right_piece(whole)
    for _ in range(_DRAWS):
        left, top = (int(place) for place in rng.integers(0, half + 1, size=2))
        if left * top > MAX_OVERLAP * half * half:  # the overlap is left x top pixels
            continue
        piece = whole.crop((left, top, left + half, top + half))
        if difference(piece, right) >= MIN_DIFFERENCE:
            return piece
    return None


def near_piece(whole: Image.Image, other: Image.Image) -> Image.Image | None:
    """The lower right quarter of another square picture as the wrong piece; None where it looks like the right one."""
    piece = right_piece(other)
    return piece if difference(piece, right_piece(whole)) >= MIN_DIFFERENCE else None


def difference(first: Image.Image, second: Image.Image) -> float:
    """The mean absolute difference of two equally large pictures, in grey levels of 255."""
    return float(np.abs(np.asarray(first, dtype=np.int16) - np.asarray(second, dtype=np.int16)).mean())
