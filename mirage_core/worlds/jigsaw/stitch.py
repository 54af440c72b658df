"""Stitching: a candidate piece put into the reference's missing quarter, which is what one imagines to compare."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

GAP_PX = 8


def stitch(reference: Image.Image, piece: Image.Image) -> Image.Image:
    """The reference with a piece in its lower right quarter; a piece of another size is scaled to fit."""
    whole = reference.convert("RGB")
    left, top = whole.width // 2, whole.height // 2
    size = (whole.width - left, whole.height - top)
    fitting = piece.convert("RGB")
    if fitting.size != size:
        fitting = fitting.resize(size, Image.Resampling.LANCZOS)
    whole.paste(fitting, (left, top))
    return whole


def stitched(reference: Image.Image, pieces: Sequence[Image.Image]) -> Image.Image:
    """One stitched picture a piece, side by side with a white gap, in the order of the pieces."""
    wholes = [stitch(reference, piece) for piece in pieces]
    width = sum(whole.width for whole in wholes) + GAP_PX * (len(wholes) - 1)
    sheet = Image.new("RGB", (width, wholes[0].height), (255, 255, 255))
    left = 0
    for whole in wholes:
        sheet.paste(whole, (left, 0))
        left += whole.width + GAP_PX
    return sheet
