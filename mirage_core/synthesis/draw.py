"""The pictures chains imagine, one a problem: arrows for planning, the map after a step for reasoning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import AuxiliaryImageSettings
from mirage_core.errors import DataError, InputError
from mirage_core.synthesis.arrows import draw_arrows
from mirage_core.synthesis.map_after_step import choose_step, draw_map_after_step
from mirage_core.types import AuxiliaryImage, Problem, Progress, ProgressEvent
from mirage_core.worlds.maze import Maze, maze_from_rows, picture_bytes

_REPORT_EVERY = 100

Draw = Callable[[Problem, AuxiliaryImageSettings, int, int], AuxiliaryImage]


def draw_auxiliary_images(
    problems: Sequence[Problem],
    settings: AuxiliaryImageSettings,
    cell_px: int,
    seed: int,
    progress: Progress,
) -> list[AuxiliaryImage]:
    """A picture for each problem, in order; InputError for a benchmark that has none, DataError without a map."""
    drawn = []
    for problem in problems:
        if problem.benchmark not in _DRAWERS:
            raise InputError(
                f"no auxiliary image is known for benchmark {problem.benchmark!r} (problem {problem.id}); "
                f"known: {', '.join(_DRAWERS)}"
            )
        drawn.append(_DRAWERS[problem.benchmark](problem, settings, cell_px, seed))
        if len(drawn) % _REPORT_EVERY == 0 or len(drawn) == len(problems):
            progress(ProgressEvent(stage="auxiliary-images", step=len(drawn), total=len(problems)))
    return drawn


def _arrows(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage:  # noqa: ARG001
    picture = draw_arrows(_maze(problem), problem.answer, settings, cell_px)
    return AuxiliaryImage(
        problem_id=problem.id, image=picture_bytes(picture), style="arrows", details={"plan": problem.answer}
    )


def _map_after_step(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage:
    plan = problem.facts["plan"]
    step = choose_step(problem.id, plan, settings, seed)
    picture = draw_map_after_step(_maze(problem), plan, step, cell_px)
    details = {"step": step, "steps": len(plan)}
    return AuxiliaryImage(problem_id=problem.id, image=picture_bytes(picture), style="map-after-step", details=details)


def _maze(problem: Problem) -> Maze:
    if "map" not in problem.facts:
        raise DataError(
            f"problem {problem.id} has no map (its picture could not be read as a maze), so nothing can be drawn for it"
        )
    return maze_from_rows(problem.facts["map"])


_DRAWERS: dict[str, Draw] = {vsp_planning.NAME: _arrows, vsp_reasoning.NAME: _map_after_step}
