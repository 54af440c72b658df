"""CapImagine: what the auxiliary image shows, in words, in the place where it stood (arXiv 2602.22766).

A caption is checked before it is taught: it may hold no structure of a chain, and where the picture's own details say
what it shows (mazes), the caption must say the same. What is not accepted is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from mirage_core.benchmarks import jigsaw, task_of, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.config import CaptionSettings
from mirage_core.errors import TeacherError
from mirage_core.teacher.checks import Fault, faults_of
from mirage_core.teacher.oracle import DIRECTIONS, Phrases, at
from mirage_core.types import Problem, Rejection, TrainingExample
from mirage_core.worlds.maze import maze_from_rows, walk

_STRUCTURE = re.compile(r"</?think>|\\boxed|<\|[^<>|]*\|>|<(?:image|output_image|auxiliary_image|video|latents:\d+)>")
_CELL = re.compile(r"\((\d+),\s*(\d+)\)")


def oracle_caption(example: TrainingExample) -> str:
    """The caption of a picture from its own details; TeacherError for a benchmark the oracle knows nothing of."""
    benchmark = example.problem.benchmark
    task = task_of(benchmark)
    caption = task.caption(example.problem) if task else None
    if caption is not None:
        return caption
    if benchmark not in _WRITERS:
        raise TeacherError(
            f"the oracle cannot say what the picture of problem {example.problem.id} ({benchmark}) shows; it knows "
            f"{', '.join(_WRITERS)}, and a task of your own that has a caption(problem). Let an endpoint write the "
            "captions: teacher.kind=endpoint"
        )
    return _WRITERS[benchmark](example, Phrases(f"caption/{example.problem.id}"))


def with_caption(example: TrainingExample, caption: str) -> TrainingExample:
    """The example with its caption where the picture stood."""
    return replace(example, chain=replace(example.chain, caption=caption))


def caption_faults(example: TrainingExample, settings: CaptionSettings) -> list[Fault]:
    """Everything that keeps an example with a caption from being taught, the caption's conflicts first."""
    caption = example.chain.caption
    found = [Fault("structure", f"the caption holds {mark}") for mark in _STRUCTURE.findall(caption)]
    if not settings.shortest <= len(caption) <= settings.longest:
        found.append(
            Fault(
                "length", f"the caption has {len(caption)} letters, expected {settings.shortest} to {settings.longest}"
            )
        )
    return [*found, *_conflicts(example), *faults_of(example.chain, example.problem)]


def _conflicts(example: TrainingExample) -> list[Fault]:
    """Where a maze's caption names other cells than the picture shows, and where an option letter is named wrongly."""
    problem, caption = example.problem, example.chain.caption
    if problem.benchmark == vsp_planning.NAME and "map" in problem.facts:
        shown = [at(cell) for cell in walk(maze_from_rows(problem.facts["map"]), problem.answer).cells]
        told = [f"({row},{column})" for row, column in _CELL.findall(caption)]
        if told and (told[-1] != shown[-1] or not set(told) <= set(shown)):
            return [Fault("conflict", f"the caption names the cells {told}, the picture shows {shown}")]
    named = {letter.upper() for letter in re.findall(r"\(([A-Za-z])\)", caption)}
    if "options" in problem.facts and named and problem.answer not in named:
        return [Fault("conflict", f"the caption names {sorted(named)}, the right option is {problem.answer}")]
    return _ambiguities(problem, named)


def _ambiguities(problem: Problem, named: set[str]) -> list[Fault]:
    if "options" in problem.facts and len(named & set(LETTERS[: len(problem.facts["options"])])) > 1:
        return [Fault("ambiguous", f"the caption names several options: {sorted(named)}")]
    return []


def _planning(example: TrainingExample, phrases: Phrases) -> str:
    """The arrows, one after the other."""
    cells = [at(cell) for cell in walk(maze_from_rows(example.problem.facts["map"]), example.problem.answer).cells]
    moves = [DIRECTIONS[move] for move in example.problem.answer]
    arrows = ", ".join(f"{move} to {cell}" for move, cell in zip(moves, cells[1:], strict=True))
    lead = phrases.pick(
        "In my mind's picture, red arrows lead from {start}: {arrows}.",
        "I picture the map with arrows drawn on it. From {start} they go {arrows}.",
        "The imagined map shows the route in red, from {start}: {arrows}.",
    )
    return lead.format(start=cells[0], arrows=arrows)


def _reasoning(example: TrainingExample, phrases: Phrases) -> str:
    """Where the player stands after the step that is drawn."""
    plan, step = example.problem.facts["plan"], int(example.auxiliary_image.details["step"])
    maze = maze_from_rows(example.problem.facts["map"])
    journey = walk(maze, plan[:step], stop_at_goal=True)
    where = at(journey.cells[-1])
    state = {
        "hole": f"the player has fallen into the hole at {where}",
        "success": f"the player stands on the goal at {where}",
    }
    shown = state.get(journey.outcome, f"the player stands at {where}")
    return phrases.pick(
        "In my mind's picture of the map after {steps}, {shown}.",
        "I picture the board after {steps}: {shown}.",
        "The imagined map, after {steps}, shows this: {shown}.",
    ).format(steps="1 move" if step == 1 else f"{step} moves", shown=shown)


def _jigsaw(example: TrainingExample, phrases: Phrases) -> str:
    """What the stitched pictures show at the seams."""
    right = LETTERS.index(example.problem.answer)
    fits, fails = jigsaw.OPTIONS[right], jigsaw.OPTIONS[1 - right]
    return phrases.pick(
        "I picture both pieces in the gap: lines and colours run on into {fits}, and stop short at {fails}.",
        "With {fits} in the corner the picture I imagine is whole; with {fails} there it shows two hard edges.",
    ).format(fits=fits, fails=fails)


_WRITERS: dict[str, Callable[[TrainingExample, Phrases], str]] = {
    vsp_planning.NAME: _planning,
    vsp_reasoning.NAME: _reasoning,
    jigsaw.NAME: _jigsaw,
}


def rejected(example: TrainingExample, faults: list[Fault], writer: str, attempt: int = 1) -> Rejection:
    """The record of a captioned chain that was left out."""
    problem = example.problem
    return Rejection(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        split=problem.split,
        group=problem.group,
        variant=example.chain.variant,
        teacher=writer,
        attempt=attempt,
        reason=faults[0].reason,
        faults="; ".join(fault.says for fault in faults),
        answer=example.chain.text_before + example.chain.caption + example.chain.text_after,
        left_out=True,
    )
