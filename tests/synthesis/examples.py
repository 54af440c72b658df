"""Training examples that tests make by hand."""

from __future__ import annotations

from mirage_core.benchmarks import vsp_planning
from mirage_core.types import AuxiliaryImage, ReasoningChain, TrainingExample
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])


def planning_example(text_before: str, text_after: str) -> TrainingExample:
    """A planning problem of level 3 with a chain of these texts; the picture to imagine is the map itself."""
    image = picture_bytes(render(MAZE, 64))
    problem = vsp_planning.make_problem("p", "train", MAZE, image, answer="RRDD")
    return TrainingExample(
        problem=problem,
        auxiliary_image=AuxiliaryImage(problem_id="p", image=image, style="arrows"),
        chain=ReasoningChain(
            problem_id="p", variant="cot", text_before=text_before, text_after=text_after, teacher="test"
        ),
    )
