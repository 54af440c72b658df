"""Random images for jigsaws without photographs: a shaded background crossed by shapes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_SHAPES = 14


def draw_image(rng: np.random.Generator, side_px: int) -> Image.Image:
    """Draw a square image [side_px, side_px]: a two-colour shading crossed by bands, discs and polygons."""
    image = _shading(rng, side_px)
    draw = ImageDraw.Draw(image)
    for _ in range(_SHAPES):
        _shape(rng, draw, side_px)
    return image


def _shading(rng: np.random.Generator, side_px: int) -> Image.Image:
    """Return a linear shading between two colours, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    across = np.linspace(-1, 1, side_px)
    ramp = np.cos(angle) * across[None, :] + np.sin(angle) * across[:, None]
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    first, second = rng.integers(0, 256, size=(2, 3))
    shaded = first + ramp[:, :, None] * (second - first)
    return Image.fromarray(shaded.astype(np.uint8), mode="RGB")


def _shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side_px: int) -> None:
    """Draw one band, disc or polygon, anywhere in the image."""
    color = tuple(int(part) for part in rng.integers(0, 256, size=3))
    kind = int(rng.integers(3))
    if kind == 0:
        ends = rng.integers(0, side_px, size=4)
        draw.line([int(end) for end in ends], fill=color, width=int(rng.integers(2, max(3, side_px // 12))))
    elif kind == 1:
        radius = int(rng.integers(max(2, side_px // 16), max(3, side_px // 4)))
        x, y = (int(position) for position in rng.integers(0, side_px, size=2))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    else:
        corners = rng.integers(0, side_px, size=(int(rng.integers(3, 6)), 2))
        center = corners.mean(axis=0)
        draw.polygon([(float(x), float(y)) for x, y in center + (corners - center) * 0.6], fill=color)
