"""The true film of a test problem: what a perfect imagination would show, where it can be drawn.

Legend: n frames, W tokens of the problem's first image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mirage_core.analysis.imagined.records import Place
from mirage_core.benchmarks import mental_rotation, paper_folding, vsp_planning, vsp_reasoning
from mirage_core.config import Settings
from mirage_core.synthesis.film import DRAWN, Film, film_of
from mirage_core.synthesis.labels import CELLS, KINDS, parts_of
from mirage_core.training.stepwise.codebook import Codebook
from mirage_core.training.stepwise.visual_targets import FilmReader
from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, TrainingExample

_DRAWN_FROM = {
    vsp_planning.NAME: "map",
    vsp_reasoning.NAME: "map",
    mental_rotation.NAME: "pattern",
    paper_folding.NAME: "holes",
}
"""The fact without which there is nothing to draw, by benchmark."""


@dataclass(frozen=True, slots=True)
class TrueFilm:
    """For each of the ``frames``: the places that changed (none: unknown) and what is there (None: unknown).

    Of a frame about several places, what is there is the kind of most of them. ``images``: the frames themselves.
    """

    frames: int = 0
    places: tuple[tuple[Place, ...], ...] = ()
    kinds: tuple[str | None, ...] = ()
    images: tuple[bytes, ...] = ()


def drawn_film(problem: Problem, settings: Settings) -> Film | None:
    """Draw the film of a problem; None where it cannot be drawn: no map could be read, or frames are not drawings."""
    if problem.benchmark not in DRAWN or _DRAWN_FROM.get(problem.benchmark, "options") not in problem.facts:
        return None
    images = settings.auxiliary_images
    film = images if images.film != "off" else images.model_copy(update={"film": "forward"})
    return film_of(problem, film, settings.problems.cell_px)


def true_film(problem: Problem, settings: Settings, reader: FilmReader, book: Codebook | None) -> TrueFilm:
    """Return the truth that the heads of ``reader`` are asked for; without frames where no film can be drawn."""
    film = drawn_film(problem, settings)
    if film is None or not film.frames:
        return TrueFilm()
    n, stepwise = len(film.frames), reader.settings
    example = _example(problem, film)
    pointed = stepwise.where_head == "pointer" and bool(problem.images)
    changes = reader.changes(example) if pointed or book is not None else None
    places: tuple[tuple[Place, ...], ...] = ((),) * n
    if pointed and changes is not None:
        _, columns = reader.encoder.token_grid(problem.images[0], f"an image of problem {problem.id}")
        places = tuple(tuple(divmod(at, columns) for at in row.nonzero()[:, 0].tolist()) for row in changes)
    elif stepwise.where_head == "cell" and CELLS in film.labels:
        places = tuple(tuple((row, column) for row, column in parts_of(label)) for label in film.labels[CELLS])
    kinds: tuple[str | None, ...] = (None,) * n
    if stepwise.what_head == "kind" and KINDS in film.labels:
        kinds = tuple(Counter(map(str, parts_of(label))).most_common(1)[0][0] for label in film.labels[KINDS])
    elif book is not None and changes is not None:
        kinds = tuple(
            f"appearance {int(book.nearest(frame).mode().values) + 1}" if len(frame) else None
            for frame in reader.features(example, changes)
        )
    return TrueFilm(n, places, kinds, film.frames)


def _example(problem: Problem, film: Film) -> TrainingExample:
    """The problem with its film, as those that read training examples want it; its chain is not read."""
    image = AuxiliaryImage(
        problem_id=problem.id, image=film.frames[-1], style="film", details=film.details, frames=film.frames
    )
    chain = ReasoningChain(problem_id=problem.id, variant="direct", text_before="", text_after="", teacher="none")
    return TrainingExample(problem=problem, auxiliary_image=image, chain=chain)
