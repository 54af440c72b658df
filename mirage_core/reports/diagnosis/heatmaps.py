"""Heat maps of the cosines of latents to image patches, drawn over the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mirage_core.analysis.lens.lens import ImageLens, LatentLens
from mirage_core.reports.drawings import image_uri

HEAT = "inferno"
SIGNED = "RdBu_r"
STRENGTH = 0.66
SIDE = 132
Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """One latent over one image: its own map, the mean latent's and the centred one, as data URIs, and a caption."""

    image: str
    own: str
    mean: str
    centred: str
    caption: str


def heat_rows(lens: LatentLens, images: dict[str, Image.Image], side: int = SIDE) -> list[HeatRow]:
    """The maps of one latent over the images that are there, by their names (input, input 2, auxiliary)."""
    return [heat_row(each, images[each.picture], side) for each in lens.pictures if each.picture in images]


def heat_row(lens: ImageLens, image: Image.Image, side: int = SIDE) -> HeatRow:
    """Draw the maps of one latent over one image.

    The own and the mean map share one scale, so that they can be compared; the centred map has 0 in the middle.
    """
    raw = np.array([lens.cosine, lens.mean])
    low, high = float(raw.min()), float(raw.max())
    bound = max(float(np.abs(np.array(lens.centred)).max()), 1e-6)
    return HeatRow(
        image=lens.picture,
        own=image_uri(overlaid(image, scaled(lens.cosine, low, high), HEAT, side), side),
        mean=image_uri(overlaid(image, scaled(lens.mean, low, high), HEAT, side), side),
        centred=image_uri(overlaid(image, scaled(lens.centred, -bound, bound), SIGNED, side), side),
        caption=caption(lens),
    )


def caption(lens: ImageLens) -> str:
    """The lens on one image in a sentence, which says where the map is that of the mean latent."""
    cosines = [value for row in lens.cosine for value in row]
    spread = f"cosines {min(cosines):.2f} to {max(cosines):.2f}"
    if lens.like_mean is None:
        return f"{spread}: flat, nothing to compare"
    if lens.matches_mean_latent:
        return f"{spread}; the average latent's map, r = {lens.like_mean:.2f}: shows nothing of its own"
    best = lens.nearest[0]
    patch = f"nearest patch: row {best.row + 1}, column {best.column + 1} (centred cosine {best.cosine:+.2f})"
    return f"{spread}; unlike the average latent's map, r = {lens.like_mean:.2f}; {patch}"


def scaled(rows: Rows, low: float, high: float) -> NDArray[np.float64]:
    """Values rescaled from [low, high] to [0, 1], and clipped."""
    return np.clip((np.array(rows, dtype=np.float64) - low) / max(high - low, 1e-9), 0.0, 1.0)


def overlaid(image: Image.Image, heat: NDArray[np.float64], colours: str, side: int = SIDE) -> Image.Image:
    """Heat [rows, columns] in [0, 1] over the image in grey, ``side`` pixels wide, each patch a plain rectangle."""
    colour = (colormaps[colours](heat)[..., :3] * 255).round().astype(np.uint8)
    height = max(1, round(image.height * side / image.width))
    patches = Image.fromarray(colour).resize((side, height), Image.Resampling.NEAREST)
    grey = ImageOps.grayscale(image).convert("RGB").resize((side, height), Image.Resampling.LANCZOS)
    return Image.blend(grey, patches, STRENGTH)
