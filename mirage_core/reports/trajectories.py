"""Sample trajectories of a report: the text, the images and the explanation of one answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mirage_core.benchmarks import get, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.latent.visual_codes import code_runs
from mirage_core.reports.drawings import NEUTRAL_COLOUR, RIGHT_COLOUR, WRONG_COLOUR, draw_plan, open_image
from mirage_core.training.data.visual_tokens.code_sheet import CodeSheet
from mirage_core.types import Problem, Scored, Variant
from mirage_core.worlds.maze import MOVES, maze_from_rows, walk

LATENTS = re.compile(r"<latents:(\d+)>")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an output: text, ``num_latents`` latents (then the text is empty), or ``codes`` (listed as text)."""

    text: str
    num_latents: int = 0
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer with everything needed to judge it; ``images``: RGB images and their names, in the order shown.

    ``codes``: the patches of the codes that it wrote, side by side; None where it wrote none.
    """

    problem: Problem
    scored: Scored
    pieces: tuple[Piece, ...]
    verdict: str
    explanation: str
    images: tuple[tuple[str, Any], ...]
    codes: Any = None

    @property
    def text(self) -> str:
        """The output without its latents."""
        return "".join(piece.text for piece in self.pieces)


def sample(problem: Problem, scored: Scored, auxiliary_image: bytes | None, sheet: CodeSheet | None = None) -> Sample:
    """Build the sample that a page shows of one answer; ``sheet``: of the codes that its model writes, if any."""
    prediction, score = scored
    verdict = "right" if score.correct else "unparsed" if score.parsed is None else "wrong"
    return Sample(
        problem=problem,
        scored=scored,
        pieces=pieces(prediction.output),
        verdict=verdict,
        explanation=explain(problem, scored),
        images=tuple(_images(problem, scored, auxiliary_image)),
        codes=drawn_codes(prediction.output, sheet),
    )


def pieces(output: str) -> tuple[Piece, ...]:
    """Split an output at its ``<latents:k>`` marks and its visual tokens, in order; empty text is left out."""
    marks = [(mark.start(), mark.end(), Piece("", int(mark.group(1)))) for mark in LATENTS.finditer(output)]
    marks += [(run.begin, run.end, Piece(_listed(run.codes), codes=run.codes)) for run in code_runs(output)]
    parts: list[Piece] = []
    at = 0
    for begin, end, piece in sorted(marks, key=lambda mark: mark[0]):
        parts += [Piece(output[at:begin]), piece]
        at = end
    parts.append(Piece(output[at:]))
    return tuple(piece for piece in parts if piece.text or piece.num_latents)


def _listed(codes: tuple[int, ...]) -> str:
    return f"[codes {' '.join(map(str, codes))}]" if codes else "[no codes]"


def drawn_codes(output: str, sheet: CodeSheet | None, scale: int = 1) -> Any:
    """Return the patches of all codes in an output, side by side; None without a sheet or a code."""
    codes = [code for run in code_runs(output) for code in run.codes]
    return sheet.strip(codes, scale) if sheet is not None and codes else None


def explain(problem: Problem, scored: Scored) -> str:
    """The reason for the verdict, in one sentence."""
    prediction, score = scored
    if score.parsed is None:
        limit = "" if prediction.finished else " before the length limit"
        return f"No answer could be read{limit}: it counts as wrong, and as unparsed."
    if not _has_map(problem) or problem.benchmark != vsp_planning.NAME:
        return f"Answered {score.parsed}, the reference is {problem.answer}."
    steps = walk(maze_from_rows(problem.facts["map"]), score.parsed, stop_at_goal=score.rule == "vsp")
    row, column = steps.cells[-1]
    cell = f"row {row + 1}, column {column + 1}"
    ends = {
        "success": "reaches the goal",
        "hole": f"falls into the hole in {cell}",
        "safe": f"ends on safe ice in {cell}, not at the goal",
    }
    return f"The plan {score.parsed} {ends[steps.outcome]}; a shortest one is {problem.answer}."


def question_text(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """The prompt as the model saw it, with a placeholder for the image."""
    return get(problem.benchmark).prompt(problem, form, variant).replace("<image>", "[image]").strip()


def _has_map(problem: Problem) -> bool:
    return "map" in problem.facts


def _images(problem: Problem, scored: Scored, auxiliary_image: bytes | None) -> list[tuple[str, Any]]:
    """The input, the auxiliary image (the truth, hidden from the model), and the plan it answered or had to judge."""
    shown = [("input", open_image(image, f"{problem.id}, input image")) for image in problem.images]
    first = shown[0][1]
    if auxiliary_image is not None:
        truth = open_image(auxiliary_image, f"{problem.id}, auxiliary image")
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
    """The plan of a planning answer; None where there is no plan, or no map to draw it on."""
    plan = scored[1].parsed
    if problem.benchmark != vsp_planning.NAME or not _has_map(problem) or not plan or set(plan) - set(MOVES):
        return None
    return plan
