"""Stage ``looks``: the latent lens over a clean run, and on the answers that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import Settings
from mirage_core.evaluation.sample_selection import select_samples
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.measure import collect_identity
from mirage_core.store.records import load_auxiliary_images, load_predictions, load_problems
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem, Scored

MAZES = (vsp_planning.NAME, vsp_reasoning.NAME)
MEAN_LATENT_ANSWERS = 100
"""Answers behind the mean latent, where no clean run is an input."""


def lens_identity(settings: Settings) -> dict[str, Any]:
    """Return how a clean run is collected, how auxiliary images are drawn, and which answers are shown."""
    return {
        **collect_identity(settings),
        "auxiliary_images": settings.auxiliary_images.model_dump(mode="json"),
        "cell_px": settings.problems.cell_px,
        "seed": settings.seed,
        "trajectories": settings.report.trajectories,
    }


def run_lens(context: StageContext) -> dict[str, Any]:
    """Apply the lens to a clean run, an input or collected here; the summary counts its latents."""
    from mirage_core.analysis.collect import collect, load_clean_run, select_instances
    from mirage_core.analysis.imagined.reading import ImaginationReader
    from mirage_core.analysis.intervened_generation import load_runner
    from mirage_core.analysis.lens.collect import collect_lens, with_shown_answers
    from mirage_core.analysis.lens.results import write_lens

    settings, paths = context.settings, context.input_paths
    problems = load_problems(paths["problems"], split="test")
    runner = load_runner(paths["model"], settings)
    if "collected" in paths:
        collected = load_clean_run(paths["collected"])
    else:
        count = min(settings.analysis.instances, MEAN_LATENT_ANSWERS)
        instances = select_instances(problems, count, settings.analysis.seed)
        collected = collect(runner, instances, context.progress)
    instances = collected.instances(problems)
    reader = ImaginationReader.of(paths["model"], runner.loaded, settings)
    images = auxiliary_images_of(context, instances)
    lens = collect_lens(runner.loaded, settings, collected, instances, images, reader)
    if "evaluation" in paths:
        chosen = shown_by_report(load_predictions(paths["evaluation"]), problems, settings)
        lens = with_shown_answers(
            lens, runner, settings, collected, instances, chosen, auxiliary_images_of(context, chosen), reader
        )
    write_lens(context.output, lens)
    return {"used": lens.used, "shown": len(lens.shown)}


def shown_by_report(answers: Sequence[Scored], problems: Sequence[Problem], settings: Settings) -> list[Problem]:
    """Return the problems of the answers that a report shows of one method, by its rule."""
    known = {problem.id: problem for problem in problems}
    shown: list[Problem] = []
    for benchmark in dict.fromkeys(prediction.benchmark for prediction, _ in answers):
        candidates = [pair for pair in answers if pair[0].benchmark == benchmark and pair[0].problem_id in known]
        samples = select_samples(candidates, settings.report.trajectories, settings.seed)
        shown += [known[prediction.problem_id] for prediction, _ in samples]
    return shown


def auxiliary_images_of(context: StageContext, problems: Sequence[Problem]) -> dict[str, bytes]:
    """Return the auxiliary images of problems by id: those of the inputs; others drawn again where possible."""
    folder = context.input_paths.get("auxiliary_images") if problems else None
    images = {}
    if folder is not None:
        images = {each.problem_id: each.image for each in load_auxiliary_images(folder, frames=False)}
    missing = [
        problem
        for problem in problems
        if problem.id not in images and (problem.benchmark not in MAZES or "map" in problem.facts)
    ]
    settings = context.settings
    drawn = draw_auxiliary_images(
        missing, settings.auxiliary_images, settings.problems.cell_px, settings.seed, context.progress
    )
    return {problem.id: images[problem.id] for problem in problems if problem.id in images} | {
        image.problem_id: image.image for image in drawn
    }


LENS = Stage(
    name="looks",
    version=1,
    kind="looks",
    inputs=None,  # model, problems; collected, evaluation, auxiliary_images if any
    identity=lens_identity,
    run=run_lens,
    params=("method",),
    gpu=True,
)
