"""CapImagine: a caption in place of the auxiliary image (arXiv 2602.22766).

Captions are checked: they may not contain structure of a chain (tags, boxes), and must agree with the details of the
image where these are known (mazes). Rejected examples are left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mirage_core.benchmarks import jigsaw, mental_rotation, paper_folding, task_of, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.config import CaptionSettings
from mirage_core.errors import TeacherError
from mirage_core.latent.reasoning_steps import FRAME_END
from mirage_core.synthesis.labels import CELLS, KINDS, parts_of
from mirage_core.teacher import puzzle_words
from mirage_core.teacher.checks import Fault, faults_of
from mirage_core.teacher.oracle import DIRECTIONS
from mirage_core.teacher.phrases import PhrasePicker, cell_text
from mirage_core.types import Problem, Rejection, TrainingExample
from mirage_core.worlds.maze import maze_from_rows, walk

_STRUCTURE = re.compile(r"</?think>|\\boxed|<\|[^<>|]*\|>|<(?:image|output_image|auxiliary_image|video|latents:\d+)>")
_CELL = re.compile(r"\((\d+),\s*(\d+)\)")


def oracle_caption(example: TrainingExample, settings: CaptionSettings) -> str:
    """Write the caption of an image, or of a film, from its details; TeacherError where they are not known."""
    benchmark = example.problem.benchmark
    if settings.of == "film":
        return _film(example)
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
    return _WRITERS[benchmark](example, PhrasePicker(f"caption/{example.problem.id}"))


def with_caption(example: TrainingExample, caption: str) -> TrainingExample:
    """Return the example with a caption in place of the image."""
    return replace(example, chain=replace(example.chain, caption=caption))


def caption_faults(example: TrainingExample, settings: CaptionSettings) -> list[Fault]:
    """Return all faults of an example with a caption, those of the caption first; a data set's may be of any length."""
    caption = example.chain.caption
    faults = [Fault("structure", f"the caption holds {mark}") for mark in _STRUCTURE.findall(caption)]
    if example.chain.marked:
        return [*faults, *faults_of(example.chain, example.problem)]
    if not settings.shortest <= len(caption) <= settings.longest:
        faults.append(
            Fault(
                "length", f"the caption has {len(caption)} letters, expected {settings.shortest} to {settings.longest}"
            )
        )
    conflicts = [] if settings.of == "film" else _conflicts(example)
    return [*faults, *conflicts, *faults_of(example.chain, example.problem)]


def _conflicts(example: TrainingExample) -> list[Fault]:
    """Return the fault of a maze's caption with cells that the image does not show, or of a wrong option letter."""
    problem, caption = example.problem, example.chain.caption
    if problem.benchmark == vsp_planning.NAME and "map" in problem.facts:
        shown = [cell_text(cell) for cell in walk(maze_from_rows(problem.facts["map"]), problem.answer).cells]
        named_cells = [f"({row},{column})" for row, column in _CELL.findall(caption)]
        if named_cells and (named_cells[-1] != shown[-1] or not set(named_cells) <= set(shown)):
            return [Fault("conflict", f"the caption names the cells {named_cells}, the picture shows {shown}")]
    named = {letter.upper() for letter in re.findall(r"\(([A-Za-z])\)", caption)}
    if "options" in problem.facts and named and problem.answer not in named:
        return [Fault("conflict", f"the caption names {sorted(named)}, the right option is {problem.answer}")]
    return _ambiguities(problem, named)


def _ambiguities(problem: Problem, named: set[str]) -> list[Fault]:
    if "options" in problem.facts and len(named & set(LETTERS[: len(problem.facts["options"])])) > 1:
        return [Fault("ambiguous", f"the caption names several options: {sorted(named)}")]
    return []


def _film(example: TrainingExample) -> str:
    """Say the place and the kind of every frame, in as few words as possible."""
    details = example.auxiliary_image.details
    if not {CELLS, KINDS} <= details.keys():
        raise TeacherError(
            f"captions.of is film, but the auxiliary image of problem {example.problem.id} has no labels of places and "
            "kinds: mazes, rotations and foldings have them with auxiliary_images.film; set captions.of to image for "
            "other data"
        )
    return FRAME_END.join(map(_frame, details[CELLS], details[KINDS]))


def _frame(cells: Any, kinds: Any) -> str:
    """Say the labels of a frame: "(0,1) ice", joined by "and" for several places."""
    labels = zip(parts_of(cells), parts_of(kinds), strict=True)
    return " and ".join(f"{cell_text(tuple(cell))} {kind}" for cell, kind in labels)


def _planning(example: TrainingExample, phrases: PhrasePicker) -> str:
    """Describe the arrows, one after the other."""
    cells = [
        cell_text(cell) for cell in walk(maze_from_rows(example.problem.facts["map"]), example.problem.answer).cells
    ]
    moves = [DIRECTIONS[move] for move in example.problem.answer]
    arrows = ", ".join(f"{move} to {cell}" for move, cell in zip(moves, cells[1:], strict=True))
    lead = phrases.pick(
        "In my mind's picture, red arrows lead from {start}: {arrows}.",
        "I picture the map with arrows drawn on it. From {start} they go {arrows}.",
        "The imagined map shows the route in red, from {start}: {arrows}.",
    )
    return lead.format(start=cells[0], arrows=arrows)


def _reasoning(example: TrainingExample, phrases: PhrasePicker) -> str:
    """Describe the position of the player after the drawn step."""
    plan, step = example.problem.facts["plan"], int(example.auxiliary_image.details["step"])
    maze = maze_from_rows(example.problem.facts["map"])
    journey = walk(maze, plan[:step], stop_at_goal=True)
    where = cell_text(journey.cells[-1])
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


def _jigsaw(example: TrainingExample, phrases: PhrasePicker) -> str:
    """Describe the seams of the stitched images."""
    right = LETTERS.index(example.problem.answer)
    fits, fails = jigsaw.OPTIONS[right], jigsaw.OPTIONS[1 - right]
    return phrases.pick(
        "I picture both pieces in the gap: lines and colours run on into {fits}, and stop short at {fails}.",
        "With {fits} in the corner the picture I imagine is whole; with {fails} there it shows two hard edges.",
    ).format(fits=fits, fails=fails)


_WRITERS: dict[str, Callable[[TrainingExample, PhrasePicker], str]] = {
    vsp_planning.NAME: _planning,
    vsp_reasoning.NAME: _reasoning,
    mental_rotation.NAME: puzzle_words.rotation_caption,
    paper_folding.NAME: puzzle_words.folding_caption,
    jigsaw.NAME: _jigsaw,
}


def rejection_of(example: TrainingExample, faults: list[Fault], writer: str, attempt: int = 1) -> Rejection:
    """Return the record of a captioned chain that was left out."""
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
        faults="; ".join(fault.message for fault in faults),
        answer=example.chain.text_before + example.chain.caption + example.chain.text_after,
        left_out=True,
    )
