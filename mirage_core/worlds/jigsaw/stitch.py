"""Stitching: a candidate piece pasted into the reference's missing quarter, as one imagines it to compare pieces."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

GAP_PX = 8


def stitch(reference: Image.Image, piece: Image.Image) -> Image.Image:
    """Return the reference with a piece in its lower right quarter, scaled to fit."""
    image = reference.convert("RGB")
    left, top = image.width // 2, image.height // 2
    size = (image.width - left, image.height - top)
    scaled = piece.convert("RGB")
    if scaled.size != size:
        scaled = scaled.resize(size, Image.Resampling.LANCZOS)
    image.paste(scaled, (left, top))
    return image


def stitched(reference: Image.Image, pieces: Sequence[Image.Image]) -> Image.Image:
    """Return one stitched image for each piece, side by side with a white gap, in the order of the pieces."""
    images = [stitch(reference, piece) for piece in pieces]
    width = sum(image.width for image in images) + GAP_PX * (len(images) - 1)
    sheet = Image.new("RGB", (width, images[0].height), (255, 255, 255))
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + GAP_PX
    return sheet
