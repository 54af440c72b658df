"""Heat maps of latents drawn over the pictures they look at, as small pictures for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mirage_core.analysis.lens.lens import LatentLook, PictureLook
from mirage_core.reports.run.page import picture_uri

HEAT = "inferno"
SIGNED = "RdBu_r"
STRENGTH = 0.66
SIDE = 132
Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """One latent over one picture: its own map, the mean latent's, and the centred one, as data URIs, and in words."""

    picture: str
    own: str
    mean: str
    centred: str
    said: str
    nothing: bool


def heat_rows(look: LatentLook, pictures: dict[str, Image.Image], side: int = SIDE) -> list[HeatRow]:
    """The maps of one latent over the pictures that are there, by their names (input, input 2, auxiliary)."""
    return [heat_row(over, pictures[over.picture], side) for over in look.pictures if over.picture in pictures]


def heat_row(look: PictureLook, picture: Image.Image, side: int = SIDE) -> HeatRow:
    """Both raw maps share one scale, so that they can be compared; the centred one has 0 in the middle of its own."""
    raw = np.array([look.cosine, look.mean])
    low, high = float(raw.min()), float(raw.max())
    bound = max(float(np.abs(np.array(look.centred)).max()), 1e-6)
    return HeatRow(
        picture=look.picture,
        own=picture_uri(overlaid(picture, scaled(look.cosine, low, high), HEAT, side), side),
        mean=picture_uri(overlaid(picture, scaled(look.mean, low, high), HEAT, side), side),
        centred=picture_uri(overlaid(picture, scaled(look.centred, -bound, bound), SIGNED, side), side),
        said=said(look),
        nothing=look.shows_nothing,
    )


def said(look: PictureLook) -> str:
    """The look in a sentence; one that shows nothing says so."""
    cosines = [value for row in look.cosine for value in row]
    spread = f"cosines {min(cosines):.2f} to {max(cosines):.2f}"
    if look.like_mean is None:
        return f"{spread}: flat, nothing to compare"
    if look.shows_nothing:
        return f"{spread}; the average latent's map, r = {look.like_mean:.2f}: shows nothing of its own"
    best = look.nearest[0]
    place = f"nearest patch: row {best.row + 1}, column {best.column + 1} (centred cosine {best.cosine:+.2f})"
    return f"{spread}; unlike the average latent's map, r = {look.like_mean:.2f}; {place}"


def scaled(rows: Rows, low: float, high: float) -> NDArray[np.float64]:
    """Values as shares of the way from ``low`` to ``high``."""
    return np.clip((np.array(rows, dtype=np.float64) - low) / max(high - low, 1e-9), 0.0, 1.0)


def overlaid(picture: Image.Image, heat: NDArray[np.float64], colours: str, side: int = SIDE) -> Image.Image:
    """Heat [rows, columns] within 0 and 1 over the greyed picture, ``side`` wide, each patch a plain rectangle."""
    colour = (colormaps[colours](heat)[..., :3] * 255).round().astype(np.uint8)
    height = max(1, round(picture.height * side / picture.width))
    patches = Image.fromarray(colour).resize((side, height), Image.Resampling.NEAREST)
    grey = ImageOps.grayscale(picture).convert("RGB").resize((side, height), Image.Resampling.LANCZOS)
    return Image.blend(grey, patches, STRENGTH)
