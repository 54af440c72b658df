"""Stage ``auxiliary-images``: for every problem, the picture a chain imagines."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.store.records import AUXILIARY_IMAGES_FILE, load_problems, save_auxiliary_images


def auxiliary_images_identity(settings: Settings) -> dict[str, Any]:
    """The style of the pictures, the size of a cell, and the seed (which step of a plan is drawn)."""
    return {
        "auxiliary_images": identity(settings.auxiliary_images),
        "cell_px": settings.problems.cell_px,
        "seed": settings.seed,
    }


def run_auxiliary_images(context: StageContext) -> dict[str, Any]:
    """Draw one picture a problem; the summary counts them by style."""
    from mirage_core.synthesis import draw_auxiliary_images

    settings = context.settings
    problems = load_problems(context.input_paths["problems"])
    drawn = draw_auxiliary_images(
        problems, settings.auxiliary_images, settings.problems.cell_px, settings.seed, context.progress
    )
    save_auxiliary_images(context.output / AUXILIARY_IMAGES_FILE, drawn)
    return {"pictures": len(drawn), **dict(sorted(Counter(image.style for image in drawn).items()))}


AUXILIARY_IMAGES = Stage(
    name="auxiliary-images",
    version=1,
    kind="auxiliary-images",
    inputs=("problems",),
    identity=auxiliary_images_identity,
    run=run_auxiliary_images,
)
