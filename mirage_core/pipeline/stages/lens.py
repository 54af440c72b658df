"""Stage ``looks``: what a model's latents look like, over a clean run; and at the answers that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import Settings
from mirage_core.evaluation.sample_selection import choose
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.measure import collect_identity
from mirage_core.store.records import load_auxiliary_images, load_predictions, load_problems
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem, Scored

MAZES = (vsp_planning.NAME, vsp_reasoning.NAME)
ENOUGH = 100
"""Answers behind the average latent, where no clean run was given."""


def looks_identity(settings: Settings) -> dict[str, Any]:
    """How a clean run is collected, how auxiliary pictures are drawn, and which answers are shown."""
    return {
        **collect_identity(settings),
        "auxiliary_images": settings.auxiliary_images.model_dump(mode="json"),
        "cell_px": settings.problems.cell_px,
        "seed": settings.seed,
        "trajectories": settings.report.trajectories,
    }


def run_looks(context: StageContext) -> dict[str, Any]:
    """Look at the latents of a clean run, given or made here; the summary says at how many."""
    from mirage_core.analysis.collect import chosen_instances, collect, load_collected
    from mirage_core.analysis.intervened_generation import open_asker
    from mirage_core.analysis.lens.collect import collect_looks, shown_anew
    from mirage_core.analysis.lens.results import write_looks

    settings, paths = context.settings, context.input_paths
    problems = load_problems(paths["problems"], split="test")
    asker = open_asker(paths["model"], settings)
    if "collected" in paths:
        collected = load_collected(paths["collected"])
    else:
        wanted = min(settings.analysis.instances, ENOUGH)
        instances = chosen_instances(problems, wanted, settings.analysis.seed)
        collected = collect(asker, instances, context.progress)
    instances = collected.instances(problems)
    looks = collect_looks(asker.loaded, settings, collected, instances, auxiliary_pictures(context, instances))
    if "evaluation" in paths:
        chosen = shown_by_report(load_predictions(paths["evaluation"]), problems, settings)
        looks = shown_anew(looks, asker, settings, collected, instances, chosen, auxiliary_pictures(context, chosen))
    write_looks(context.output, looks)
    return {"used": looks.used, "shown": len(looks.shown)}


def shown_by_report(answers: Sequence[Scored], problems: Sequence[Problem], settings: Settings) -> list[Problem]:
    """The problems of the answers that a report shows of one method, by its rule."""
    known = {problem.id: problem for problem in problems}
    shown: list[Problem] = []
    for benchmark in dict.fromkeys(prediction.benchmark for prediction, _ in answers):
        mine = [pair for pair in answers if pair[0].benchmark == benchmark and pair[0].problem_id in known]
        shown += [known[pair[0].problem_id] for pair in choose(mine, settings.report.trajectories, settings.seed)]
    return shown


def auxiliary_pictures(context: StageContext, problems: Sequence[Problem]) -> dict[str, bytes]:
    """The auxiliary pictures of problems by id: those the context was given, others drawn again where they can be."""
    given = context.input_paths.get("auxiliary_images") if problems else None
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
    inputs=None,  # model, problems; collected, evaluation, auxiliary_images where there are any
    identity=looks_identity,
    run=run_looks,
    params=("method",),
    gpu=True,
)
