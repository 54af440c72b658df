"""Auxiliary images, one for each problem: arrows for planning, the map after a step for reasoning, the turned
pattern, the unfolded sheet, stitched pieces.

An image that the data set provides (CoMT's rationale, a user's own image) is used instead of a drawn one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mirage_core.benchmarks import jigsaw, mental_rotation, paper_folding, task_of, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.config import AuxiliaryImageSettings
from mirage_core.errors import InputError
from mirage_core.image_files import read_rgb
from mirage_core.synthesis.film import DRAWN, Film, film_of
from mirage_core.synthesis.maze_images import choose_step, draw_arrows, draw_map_after_step, maze_of
from mirage_core.types import AuxiliaryImage, Problem, Progress, ProgressEvent
from mirage_core.worlds.jigsaw import stitched
from mirage_core.worlds.maze import picture_bytes

_REPORT_EVERY = 100

Draw = Callable[[Problem, AuxiliaryImageSettings, int, int], AuxiliaryImage]


def draw_auxiliary_images(
    problems: Sequence[Problem],
    settings: AuxiliaryImageSettings,
    cell_px: int,
    seed: int,
    progress: Progress,
) -> list[AuxiliaryImage]:
    """Return ``iter_auxiliary_images`` of all problems as a list."""
    return list(iter_auxiliary_images(problems, settings, cell_px, seed, progress, total=len(problems)))


def iter_auxiliary_images(
    problems: Iterable[Problem],
    settings: AuxiliaryImageSettings,
    cell_px: int,
    seed: int,
    progress: Progress,
    existing: Mapping[str, AuxiliaryImage] | None = None,
    total: int | None = None,
) -> Iterator[AuxiliaryImage]:
    """Yield an image for each problem, in order; ``existing``: images by problem id (rendered or provided).

    InputError for a benchmark that has none, DataError without a map. A test problem may have no image, since it is
    not trained on. With ``film`` an image has frames, also where only one is known.
    """
    existing = existing or {}
    for done, problem in enumerate(problems, start=1):
        given = existing.get(problem.id)
        image = given or _drawn(problem, settings, cell_px, seed)
        if image is not None and settings.film != "off":
            drawn = given is None and problem.benchmark in DRAWN
            yield _with_film(image, film_of(problem, settings, cell_px) if drawn else None)
        elif image is not None:
            yield image
        elif problem.split != "test":
            raise InputError(
                f"there is no auxiliary image for benchmark {problem.benchmark!r} (problem {problem.id}) and its data "
                f"set provides none; images are drawn for: {', '.join(_DRAWERS)}; sat needs auxiliary_images.scenes"
            )
        if done % _REPORT_EVERY == 0 or done == total:
            progress(ProgressEvent(stage="auxiliary-images", step=done, total=total))


def _drawn(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage | None:
    """Draw the image of a problem, or let the user's own task draw it; None where nothing can."""
    if problem.benchmark in _DRAWERS:
        return _DRAWERS[problem.benchmark](problem, settings, cell_px, seed)
    task = task_of(problem.benchmark)
    if task is None:
        return None
    images = task.auxiliary_image(problem, seed)
    frames = images if settings.film != "off" else ()
    return AuxiliaryImage(problem_id=problem.id, image=images[-1], style="task", frames=frames)


def _with_film(image: AuxiliaryImage, film: Film | None) -> AuxiliaryImage:
    """Return an image with its film; None: the frames that it came with, or itself as the only frame."""
    film = film or Film(image.frames or (image.image,))
    return replace(image, frames=film.frames, details={**image.details, **film.details})


def _arrows(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage:  # noqa: ARG001
    image = draw_arrows(maze_of(problem), problem.answer, settings, cell_px)
    return AuxiliaryImage(
        problem_id=problem.id, image=picture_bytes(image), style="arrows", details={"plan": problem.answer}
    )


def _map_after_step(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage:
    plan = problem.facts["plan"]
    step = choose_step(problem.id, plan, settings, seed)
    image = draw_map_after_step(maze_of(problem), plan, step, cell_px)
    details = {"step": step, "steps": len(plan)}
    return AuxiliaryImage(problem_id=problem.id, image=picture_bytes(image), style="map-after-step", details=details)


def _last_frame(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage:  # noqa: ARG001
    """Return the end of a puzzle's film: the pattern after all turns, or the unfolded sheet."""
    style = "turned" if problem.benchmark == mental_rotation.NAME else "unfolded"
    return AuxiliaryImage(problem_id=problem.id, image=film_of(problem, settings, cell_px).frames[-1], style=style)


def _stitched(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int, seed: int) -> AuxiliaryImage:  # noqa: ARG001
    reference, *pieces = (read_rgb(image, f"an image of problem {problem.id}") for image in problem.images)
    right = LETTERS.index(problem.answer)
    shown = pieces if settings.jigsaw_layout == "both" else [pieces[right]]
    image = picture_bytes(stitched(reference, shown))
    return AuxiliaryImage(
        problem_id=problem.id, image=image, style="stitched", details={"layout": settings.jigsaw_layout}
    )


_DRAWERS: dict[str, Draw] = {
    vsp_planning.NAME: _arrows,
    vsp_reasoning.NAME: _map_after_step,
    mental_rotation.NAME: _last_frame,
    paper_folding.NAME: _last_frame,
    jigsaw.NAME: _stitched,
}
