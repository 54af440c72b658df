"""Sample trajectories of a report: which ones are shown, and what of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirage_core.benchmarks import get, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.reports.drawings import NEUTRAL_COLOUR, RIGHT_COLOUR, WRONG_COLOUR, draw_plan, open_picture
from mirage_core.types import Problem, Scored, Variant
from mirage_core.worlds.maze import MOVES, maze_from_rows, walk

LATENTS = re.compile(r"<latents:(\d+)>")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of an output: text, or ``num_latents`` latents (then the text is empty)."""

    text: str
    num_latents: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer with everything needed to judge it; ``pictures`` are named RGB pictures in the order shown."""

    problem: Problem
    scored: Scored
    pieces: tuple[Piece, ...]
    verdict: str
    explanation: str
    pictures: tuple[tuple[str, Any], ...]

    @property
    def text(self) -> str:
        """The output without its latents."""
        return "".join(piece.text for piece in self.pieces)


def sample(problem: Problem, scored: Scored, auxiliary_image: bytes | None) -> Sample:
    """Build what a page shows of one answer."""
    prediction, score = scored
    verdict = "right" if score.correct else "unparsed" if score.parsed is None else "wrong"
    return Sample(
        problem=problem,
        scored=scored,
        pieces=pieces(prediction.output),
        verdict=verdict,
        explanation=explain(problem, scored),
        pictures=tuple(_pictures(problem, scored, auxiliary_image)),
    )


def pieces(output: str) -> tuple[Piece, ...]:
    """Split an output at its ``<latents:k>`` marks, keeping the order; empty text is left out."""
    found: list[Piece] = []
    at = 0
    for mark in LATENTS.finditer(output):
        found += [Piece(output[at : mark.start()]), Piece("", int(mark.group(1)))]
        at = mark.end()
    found.append(Piece(output[at:]))
    return tuple(piece for piece in found if piece.text or piece.num_latents)


def explain(problem: Problem, scored: Scored) -> str:
    """Say in one sentence why the verdict is what it is."""
    prediction, score = scored
    if score.parsed is None:
        cut = "" if prediction.finished else " before the length limit cut it"
        return f"No answer could be read{cut}: it counts as wrong, and as unparsed."
    if not _has_map(problem) or problem.benchmark != vsp_planning.NAME:
        return f"Answered {score.parsed}, the reference is {problem.answer}."
    steps = walk(maze_from_rows(problem.facts["map"]), score.parsed, stop_at_goal=score.rule == "vsp")
    row, column = steps.cells[-1]
    place = f"row {row + 1}, column {column + 1}"
    ends = {
        "success": "reaches the goal",
        "hole": f"falls into the hole in {place}",
        "safe": f"ends on safe ice in {place}, not at the goal",
    }
    return f"The plan {score.parsed} {ends[steps.outcome]}; a shortest one is {problem.answer}."


def question_text(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """The prompt as the model saw it, the picture shown as a word."""
    asked = get(problem.benchmark).prompt(problem, form, variant)
    return asked.replace("<image>", "[picture]").strip()


def by_id(problems: Sequence[Problem]) -> Mapping[str, Problem]:
    """Problems by their id."""
    return {problem.id: problem for problem in problems}


def _has_map(problem: Problem) -> bool:
    return "map" in problem.facts


def _pictures(problem: Problem, scored: Scored, auxiliary_image: bytes | None) -> list[tuple[str, Any]]:
    """Input, auxiliary image (the truth, which the model never saw), and the plan it answered or had to judge."""
    shown = [("input", open_picture(image, f"{problem.id}, input picture")) for image in problem.images]
    first = shown[0][1]
    if auxiliary_image is not None:
        truth = open_picture(auxiliary_image, f"{problem.id}, auxiliary image")
        shown.append(("auxiliary image", truth))
    plan = _plan_to_draw(problem, scored)
    if plan is not None:
        maze = maze_from_rows(problem.facts["map"])
        steps = walk(maze, plan, stop_at_goal=scored[1].rule == "vsp")
        colour = RIGHT_COLOUR if steps.outcome == "success" else WRONG_COLOUR
        shown.append(("the model's plan", draw_plan(first, steps.cells, (maze.level, maze.level), colour)))
    if problem.benchmark == vsp_reasoning.NAME and _has_map(problem):
        maze = maze_from_rows(problem.facts["map"])
        steps = walk(maze, problem.facts["plan"], stop_at_goal=True)
        shown.append(("the plan to judge", draw_plan(first, steps.cells, (maze.level, maze.level), NEUTRAL_COLOUR)))
    return shown


def _plan_to_draw(problem: Problem, scored: Scored) -> str | None:
    """The plan a planning answer names, None where there is none or no map to draw it on."""
    plan = scored[1].parsed
    if problem.benchmark != vsp_planning.NAME or not _has_map(problem) or not plan or set(plan) - set(MOVES):
        return None
    return plan
