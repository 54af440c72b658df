"""The oracle teacher: chains written from the solver's knowledge, and labelled so.

It replaces the paper's Qwen2.5-VL-32B where no such model is available: it reads a problem's facts (the map, the right
piece), not its images.
"""

from __future__ import annotations

from collections.abc import Callable

from mirage_core.benchmarks import jigsaw, mental_rotation, paper_folding, task_of, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.custom.task import OwnTask
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.errors import TeacherError
from mirage_core.teacher import puzzle_words
from mirage_core.teacher.phrases import PhrasePicker, Thoughts, cell_text, list_cells
from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, Variant
from mirage_core.worlds.maze import GOAL, HOLE, START, Cell, Maze, Outcome, maze_from_rows, walk

DIRECTIONS = {"U": "up", "D": "down", "L": "left", "R": "right"}


class OracleTeacher:
    """Writes a chain from a problem's facts and answer; deterministic."""

    name = "oracle"

    def chain(self, problem: Problem, auxiliary_image: AuxiliaryImage, variant: Variant) -> ReasoningChain:
        """Write the chain of a problem: only the answer (direct), or also a thought on each side of the image (cot)."""
        if auxiliary_image.problem_id != problem.id:
            raise TeacherError(f"the picture of {auxiliary_image.problem_id} was given for problem {problem.id}")
        before, after = ("", "") if variant == "direct" else _thoughts(problem, auxiliary_image)
        return ReasoningChain(
            problem_id=problem.id,
            variant=variant,
            text_before=_think(before),
            text_after=f"{_think(after)}\\boxed{{{problem.answer}}}",
            teacher=self.name,
        )


def _think(thought: str) -> str:
    return f"<think>{thought}</think>" if thought else ""


def _thoughts(problem: Problem, auxiliary_image: AuxiliaryImage) -> Thoughts:
    task = task_of(problem.benchmark)
    if task is not None:
        return _task_thoughts(task, problem)
    if problem.benchmark not in _WRITERS:
        raise TeacherError(
            f"the oracle knows no solver for benchmark {problem.benchmark!r} (problem {problem.id}); "
            f"it knows {', '.join(_WRITERS)}"
        )
    return _WRITERS[problem.benchmark](problem, auxiliary_image, PhrasePicker(problem.id))


def _task_thoughts(task: OwnTask, problem: Problem) -> Thoughts:
    """Return the thoughts of a user's own task."""
    thoughts = task.chain(problem)
    if thoughts is None:
        raise TeacherError(
            f"the task {task.name!r} has no chain(problem), so the oracle has no thoughts to teach: write one, or take "
            "teacher.variant=direct, or an endpoint (teacher.kind=endpoint)"
        )
    return thoughts


def _maze_of(problem: Problem) -> Maze:
    if "map" not in problem.facts:
        raise TeacherError(f"problem {problem.id} has no map, so the oracle cannot reason about it; use variant direct")
    return maze_from_rows(problem.facts["map"])


def _planning(problem: Problem, auxiliary_image: AuxiliaryImage, phrases: PhrasePicker) -> Thoughts:  # noqa: ARG001
    """Describe the map, then, after the image, the path move by move."""
    maze = _maze_of(problem)
    before = " ".join((_scene(maze, phrases), phrases.pick(
        "I draw the way on the map, one arrow a move.",
        "Let me picture a safe way to the goal with arrows.",
        "Next I imagine the map with the whole route marked on it.",
    )))  # fmt: skip
    cells = walk(maze, problem.answer).cells[1:]
    moves = ", ".join(f"{DIRECTIONS[m]} to {cell_text(c)}" for m, c in zip(problem.answer, cells, strict=True))
    lead = phrases.pick("Following the arrows:", "The route I see goes", "Step by step, the player moves")
    close = phrases.pick(
        "No cell on the way is a hole, and the last one is the goal.",
        "That ends on the goal without touching a hole.",
        "Every cell is safe and the goal is reached.",
    )
    return before, f"{lead} {moves}. {close}"


def _scene(maze: Maze, phrases: PhrasePicker) -> str:
    where = phrases.pick(
        "The player starts at {start} and has to reach {goal}.",
        "The start is {start}; the goal is {goal}.",
        "I see the player at {start} and the goal at {goal}.",
    ).format(start=cell_text(maze.start), goal=cell_text(maze.goal))
    if not maze.holes:
        return f"{where} {phrases.pick('There are no holes.', 'No cell of the map is a hole.')}"
    if len(maze.holes) == 1:
        return f"{where} The only hole is at {list_cells(maze.holes)}."
    return f"{where} {phrases.pick('Holes to avoid:', 'The holes are')} {list_cells(maze.holes)}."


def _reasoning(problem: Problem, auxiliary_image: AuxiliaryImage, phrases: PhrasePicker) -> Thoughts:
    """Describe the moves up to the imagined map, then, after the image, the others and the outcome."""
    maze = _maze_of(problem)
    plan = problem.facts["plan"]
    step = auxiliary_image.details.get("step")
    if type(step) is not int or not 0 < step <= len(plan):
        raise TeacherError(
            f"the picture of problem {problem.id} shows step {step!r}; its details should hold one of 1 to {len(plan)}"
        )
    journey = walk(maze, plan, stop_at_goal=True)
    moves = zip(plan, journey.cells, journey.cells[1:], strict=False)
    sentences = [_move(maze, move, here, there, phrases) for move, here, there in moves]
    before = [
        f"The player starts at {cell_text(maze.start)}.",
        *sentences[:step],
        phrases.pick(
            "I picture the map at this point.",
            "Let me imagine how the map looks now.",
            "Now I see the board before me.",
        ),
    ]
    return " ".join(before), " ".join([*sentences[step:], _ending(journey.outcome, journey.cells[-1], phrases)])


def _move(maze: Maze, move: str, here: Cell, there: Cell, phrases: PhrasePicker) -> str:
    """Describe one move: its target and what is there."""
    if here == there:
        return f"A move {DIRECTIONS[move]} would leave the map, so the player stays at {cell_text(here)}."
    terrain = {
        HOLE: "a hole: the player falls in",
        GOAL: "the goal",
        START: phrases.pick("the start again, which is safe", "safe: it is the start"),
    }.get(maze[there], phrases.pick("safe ice", "ice, so the player is safe", "free of danger"))
    return phrases.pick(
        "Going {way} leads to {cell}, {there}.", "A move {way} to {cell}: {there}.", "Then {way} to {cell}, {there}."
    ).format(way=DIRECTIONS[move], cell=cell_text(there), there=terrain)


def _ending(outcome: Outcome, cell: Cell, phrases: PhrasePicker) -> str:
    return {
        "success": phrases.pick("The goal is reached, so the plan succeeds.", "The plan ends on the goal: success."),
        "hole": phrases.pick(
            f"The plan fails in the hole at {cell_text(cell)}.",
            f"The hole at {cell_text(cell)} ends the game: the plan fails.",
        ),
        "safe": phrases.pick(
            f"The plan ends at {cell_text(cell)}: safe, but not at the goal.",
            f"The player is still safe at {cell_text(cell)}, yet has not reached the goal.",
        ),
    }[outcome]


def _jigsaw(problem: Problem, auxiliary_image: AuxiliaryImage, phrases: PhrasePicker) -> Thoughts:  # noqa: ARG001
    """Describe the missing part, then, after the image, which piece continues across the seams."""
    right = LETTERS.index(problem.answer)
    fits, fails = jigsaw.OPTIONS[right], jigsaw.OPTIONS[1 - right]
    before = " ".join((
        phrases.pick(
            "The first image lacks its lower right quarter.",
            "The lower right corner of the first image is missing.",
        ),
        phrases.pick(
            "I put each piece into the gap and look at the seams.",
            "Let me imagine the first image with each candidate in its place.",
            "I stitch both candidates into the gap, one after the other.",
        ),
    ))  # fmt: skip
    after = phrases.pick(
        f"With {fits} the shapes and colours go on across both seams; with {fails} they break off.",
        f"The edges of {fits} continue those of the first image. Those of {fails} do not.",
        f"At the seams {fails} does not match, while {fits} does.",
    )
    return before, after


_WRITERS: dict[str, Callable[[Problem, AuxiliaryImage, PhrasePicker], Thoughts]] = {
    vsp_planning.NAME: _planning,
    vsp_reasoning.NAME: _reasoning,
    mental_rotation.NAME: puzzle_words.rotation,
    paper_folding.NAME: puzzle_words.folding,
    jigsaw.NAME: _jigsaw,
}
