"""Stage ``looks``: what the latents of a collected run look like, by the model that made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import Settings
from mirage_core.stages.collect import collect_identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.store.records import load_auxiliary_images, load_problems
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem

MAZES = (vsp_planning.NAME, vsp_reasoning.NAME)


def looks_identity(settings: Settings) -> dict[str, Any]:
    """How a clean run was collected, how auxiliary pictures are drawn, and the seed that chooses what is shown."""
    return {
        **collect_identity(settings),
        "auxiliary_images": settings.auxiliary_images.model_dump(mode="json"),
        "cell_px": settings.problems.cell_px,
        "seed": settings.seed,
    }


def run_looks(context: StageContext) -> dict[str, Any]:
    """Look at the collected latents; the summary says at how many."""
    from mirage_core.analysis.collected import load_collected
    from mirage_core.analysis.looks_collect import collect_looks, write_looks
    from mirage_core.analysis.opening import open_asker

    collected = load_collected(context.input_paths["collected"])
    instances = collected.instances(load_problems(context.input_paths["problems"], split="test"))
    loaded = open_asker(context.input_paths["model"], context.settings).loaded
    looks = collect_looks(loaded, context.settings, collected, instances, auxiliary_pictures(context, instances))
    write_looks(context.output, looks)
    return {"used": looks.used, "shown": len(looks.shown)}


def auxiliary_pictures(context: StageContext, problems: Sequence[Problem]) -> dict[str, bytes]:
    """The auxiliary pictures of problems by id: those the context was given, others drawn again where they can be."""
    given = context.input_paths.get("auxiliary_images")
    found = {} if given is None else {each.problem_id: each.image for each in load_auxiliary_images(given)}
    wanted = [
        each for each in problems if each.id not in found and (each.benchmark not in MAZES or "map" in each.facts)
    ]
    settings = context.settings
    drawn = draw_auxiliary_images(
        wanted, settings.auxiliary_images, settings.problems.cell_px, settings.seed, context.progress
    )
    return {problem.id: found[problem.id] for problem in problems if problem.id in found} | {
        each.problem_id: each.image for each in drawn
    }


LOOKS = Stage(
    name="looks",
    version=1,
    kind="looks",
    inputs=None,  # model, problems, collected; auxiliary_images where there are any
    identity=looks_identity,
    run=run_looks,
    gpu=True,
)
