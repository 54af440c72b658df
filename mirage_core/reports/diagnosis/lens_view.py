"""The latent lens in HTML: the entry of one answer for a template, and the piece that a report shows of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from mirage_core.analysis.imagined.truth import drawn_film
from mirage_core.analysis.lens.lens import all_match_mean_latent
from mirage_core.analysis.lens.results import INPUT, ShownAnswer, named_images
from mirage_core.config import Settings
from mirage_core.reports.diagnosis.environment import environment
from mirage_core.reports.diagnosis.heatmaps import SIDE, heat_rows
from mirage_core.reports.drawings import open_image
from mirage_core.reports.film_strip import strip_frames
from mirage_core.reports.html import TEMPLATES
from mirage_core.reports.trajectories import pieces
from mirage_core.types import Problem

SAMPLE_SIDE = 96


def images_of(problem: Problem, auxiliary: bytes | None) -> dict[str, Image.Image]:
    """The decoded images of a problem and its auxiliary image, by the names that a lens gives them."""
    images = named_images(problem, auxiliary)
    return {name: open_image(image, f"{problem.id}, {name}") for name, image in images.items()}


def lens_entry(
    shown: ShownAnswer, images: dict[str, Image.Image], side: int = SIDE, frames: Sequence[bytes] = ()
) -> dict[str, Any]:
    """One answer as templates show it, with the maps of its latents drawn over its images, ``side`` pixels wide.

    ``frames``: the true film beside the imagined one, where it is known.
    """
    return {
        "film": strip_frames(shown.imagined, images.get(INPUT), frames),
        "answer": shown,
        "pieces": pieces(shown.output),
        "images": images,
        "latents": [{"lens": lens, "heat": heat_rows(lens, images, side)} for lens in shown.latents],
        "matches_mean": bool(shown.latents) and all_match_mean_latent(shown.latents),
    }


def true_frames(shown: ShownAnswer, problem: Problem, settings: Settings) -> tuple[bytes, ...]:
    """The true film of an answer whose film was read; empty where it cannot be drawn."""
    film = drawn_film(problem, settings) if shown.imagined else None
    return () if film is None else film.frames


def sample_lens_html(shown: ShownAnswer, problem: Problem, auxiliary: bytes | None, settings: Settings) -> Markup:
    """The lens on one answer as a piece of a report; everything from a model or a file is escaped in it."""
    frames = true_frames(shown, problem, settings)
    entry = lens_entry(shown, images_of(problem, auxiliary), SAMPLE_SIDE, frames)
    return Markup(environment().get_template("lens_latents.html").render(entry=entry))


def lens_css() -> Markup:
    """The style that the piece needs on its page."""
    return Markup((TEMPLATES / "lens.css").read_text(encoding="utf-8"))
