"""``mirage answer --explain``: one question asked with its latents changed, as a page and in a few lines."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from flows.commands.printing import console
from flows.trained import Checkpoint
from mirage_core.config import Settings
from mirage_core.errors import MirageError
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.store import Store
from mirage_core.store.records import load_problems
from mirage_core.types import Problem, ProgressEvent

OTHERS = 8


def explain(
    problem: Problem, asked: str, chosen: Checkpoint, store: Store, page: Path, *, judged: bool, open_page: bool
) -> None:
    """Ask, write the page, and print what changed."""
    from mirage_core.analysis.explain_question import explained
    from mirage_core.analysis.intervened_generation import open_asker
    from mirage_core.reports.diagnosis.question_page import question_lines, render_question

    asker = open_asker(chosen.folder, chosen.settings)
    auxiliary = auxiliary_of(problem, chosen.settings)
    question = explained(
        asker, chosen.settings, problem, other_problems(store, chosen.settings, problem),
        model=chosen.name, asked=asked, auxiliary=auxiliary, judged=judged,
    )  # fmt: skip
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render_question(question, problem, auxiliary), encoding="utf-8")
    for line in question_lines(question):
        console.print(line, markup=False)
    console.print(f"page: {page.resolve()}", markup=False)
    if open_page:
        webbrowser.open(page.resolve().as_uri())


def other_problems(store: Store, settings: Settings, problem: Problem) -> list[Problem]:
    """Up to eight test problems of the same benchmark that the model's recipe has in the store, else none."""
    from mirage_core.analysis.donors import spread_evenly

    stage = get_stage("problems")
    try:
        found = store.find(stage.kind, stage_fingerprint(stage, settings, {}))
        known = [] if found is None else load_problems(store.fetch(found), split="test")
    except MirageError as fault:
        console.print(f"other problems could not be read, so no latents are exchanged: {fault}", style="yellow")
        return []
    alike = [each for each in known if each.benchmark == problem.benchmark and each.images != problem.images]
    return [alike[at] for at in spread_evenly([each.group for each in alike], OTHERS, 0)]


def auxiliary_of(problem: Problem, settings: Settings) -> bytes | None:
    """The picture that stage 1 would ground in, drawn; None where there is no map to draw it from."""
    from mirage_core.synthesis import draw_auxiliary_images

    if "map" not in problem.facts:
        return None
    pictures = settings.auxiliary_images
    drawn = draw_auxiliary_images([problem], pictures, settings.problems.cell_px, settings.seed, _silent)
    return drawn[0].image if drawn else None


def _silent(event: ProgressEvent) -> None:
    """Progress of one picture, which nobody needs."""
