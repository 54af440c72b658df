"""``mirage answer --explain``: ask one question again with its latents changed; print the effects and write a page."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from flows.commands.printing import no_progress, print_line
from flows.trained import Checkpoint
from mirage_core.config import Settings
from mirage_core.errors import MirageError
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.store import Store
from mirage_core.store.records import load_problems
from mirage_core.types import Problem

MAX_OTHER_PROBLEMS = 8


def explain(
    problem: Problem, prompt: str, checkpoint: Checkpoint, store: Store, page: Path, *, judged: bool, open_page: bool
) -> None:
    """Ask, write the page, and print what changed."""
    from mirage_core.analysis.explain_question import explain_question
    from mirage_core.analysis.imagined.truth import drawn_film
    from mirage_core.analysis.intervened_generation import load_runner
    from mirage_core.reports.diagnosis.question_page import question_lines, render_question
    from mirage_core.reports.drawings import open_image
    from mirage_core.reports.film_strip import film_gif
    from mirage_core.reports.trajectories import drawn_codes
    from mirage_core.training.data.visual_tokens.code_sheet import CodeSheet

    runner = load_runner(checkpoint.folder, checkpoint.settings)
    auxiliary = draw_auxiliary_image(problem, checkpoint.settings)
    question = explain_question(
        runner, checkpoint.settings, problem, other_problems(store, checkpoint.settings, problem),
        model=checkpoint.name, asked=prompt, auxiliary=auxiliary, judged=judged,
    )  # fmt: skip
    page.parent.mkdir(parents=True, exist_ok=True)
    film = drawn_film(problem, checkpoint.settings)
    frames = () if film is None else film.frames
    codes = drawn_codes(question.output, CodeSheet.load(checkpoint.folder), scale=2)
    page.write_text(render_question(question, problem, auxiliary, frames, codes), encoding="utf-8")
    for line in question_lines(question):
        print_line(line)
    print_line(f"page: {page.resolve()}")
    if question.imagined and problem.images:
        animation = page.with_suffix(".gif")
        animation.write_bytes(film_gif(question.imagined, open_image(problem.images[0], str(page)), frames))
        print_line(f"film: {animation.resolve()}")
    if codes is not None:
        picture = page.with_suffix(".codes.png")
        codes.save(picture)
        print_line(f"codes: {picture.resolve()}")
    if open_page:
        webbrowser.open(page.resolve().as_uri())


def other_problems(store: Store, settings: Settings, problem: Problem) -> list[Problem]:
    """Return up to eight test problems of the same benchmark from the store; none where the recipe has none there."""
    from mirage_core.analysis.donors import stratified_sample

    stage = get_stage("problems")
    try:
        artifact = store.find(stage.kind, stage_fingerprint(stage, settings, {}))
        problems = [] if artifact is None else load_problems(store.fetch(artifact), split="test")
    except MirageError as error:
        print_line(f"other problems could not be read, so no latents are exchanged: {error}", "yellow")
        return []
    others = [each for each in problems if each.benchmark == problem.benchmark and each.images != problem.images]
    return [others[at] for at in stratified_sample([each.group for each in others], MAX_OTHER_PROBLEMS, 0)]


def draw_auxiliary_image(problem: Problem, settings: Settings) -> bytes | None:
    """Draw the auxiliary image that stage 1 would ground in; None for a problem without a map."""
    from mirage_core.synthesis import draw_auxiliary_images

    if "map" not in problem.facts:
        return None
    images = draw_auxiliary_images(
        [problem], settings.auxiliary_images, settings.problems.cell_px, settings.seed, no_progress
    )
    return images[0].image if images else None
