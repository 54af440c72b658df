"""One latent in the middle exchanged: does what is imagined after it change accordingly, and does the answer?

Latents after the exchanged one are the model's own continuation of it: they are rolled out again. The image is seen as
in training. Legend: n instances, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.bootstrap import share
from mirage_core.analysis.imagined.implied import implied_answer
from mirage_core.analysis.imagined.latent_bank import Content, LatentBank, content_of
from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep, Place, up_to_end
from mirage_core.analysis.intervened_generation import GeneratedAnswer, InterventionRunner, replace_latent
from mirage_core.analysis.results import Estimate, OneLatent
from mirage_core.analysis.subjects import Subjects
from mirage_core.benchmarks import vsp_reasoning
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import subset
from mirage_core.generation.interventions import Interventions
from mirage_core.synthesis.film import KIND_NAMES
from mirage_core.types import Problem
from mirage_core.worlds.maze import GOAL, HOLE, MOVES, SAFE, START, Maze, maze_from_rows, step

Exchange = Literal["place", "kind"]
_ENDS = (KIND_NAMES[HOLE], KIND_NAMES[GOAL])
_KINDS = (*_ENDS, KIND_NAMES[SAFE], KIND_NAMES[START])  # an end of the walk first: it decides an outcome


@dataclass(frozen=True, slots=True)
class _Exchanged:
    """One instance: the latent that is exchanged, what it imagines then, its vector [D], and that of the null [D]."""

    at: int
    index: int
    content: Content
    vector: Tensor
    null: Tensor


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one exchange did to the films and answers of n instances; nan: undefined."""

    film: list[bool]
    goes_on: NDArray[np.float64]
    changed: list[bool]
    follow: NDArray[np.float64]


def one_latent(
    runner: InterventionRunner,
    reader: ImaginationReader,
    subjects: Subjects,
    films: Sequence[tuple[ImaginedStep, ...]],
    bank: LatentBank,
    settings: AnalysisSettings,
) -> tuple[OneLatent, ...]:
    """Exchange the middle latent of each film [n]: for a neighbouring cell's, and for another kind's."""
    results: list[OneLatent] = []
    exchanges: tuple[Exchange, ...] = ("place", "kind")
    for exchange in exchanges:
        made = [
            each
            for at, film in enumerate(films)
            if (each := _exchanged(exchange, subjects.problems[at], film, bank, at, settings.seed)) is not None
        ]
        if made:
            results.append(_measured(exchange, runner, reader, subjects, films, made))
    return tuple(results)


def middle(film: Sequence[ImaginedStep]) -> int | None:
    """Return the index of the middle step of a film that others follow; None for a film of one step."""
    steps = len(up_to_end(film))
    return None if steps < 2 else (steps - 1) // 2


def _exchanged(
    exchange: Exchange, problem: Problem, film: Sequence[ImaginedStep], bank: LatentBank, at: int, seed: int
) -> _Exchanged | None:
    """The first content, drawn by the seed, of which other instances have latents; None where there is none.

    The own next latent must not follow from it, so that one which does is no chance.
    """
    index = middle(film)
    if index is None:
        return None
    own = bank.contents[at][index]
    null = bank.latent(own, index, at)
    if null is None:
        return None
    maze, rng = maze_from_rows(problem.facts["map"]), np.random.default_rng([seed, *problem.id.encode()])
    then = bank.contents[at][index + 1][0]
    for content in _neighbours(maze, own, rng) if exchange == "place" else _kinds(own):
        vector = bank.latent(content, index, at)
        if vector is not None and (then is None or not _goes_on(problem, maze, content, index, then)):
            return _Exchanged(at, index, content, vector, null)
    return None


def _neighbours(maze: Maze, own: Content, rng: np.random.Generator) -> list[Content]:
    """The neighbours of a place that the map gives the same kind, in an order drawn by ``rng``."""
    place, kind = own
    if place is None or max(place) >= maze.level:
        return []
    around = [step(maze, place, "UDLR"[at]) for at in rng.permutation(4).tolist()]
    return [(cell, kind) for cell in around if cell != place and KIND_NAMES[maze[cell]] == kind]


def _kinds(own: Content) -> list[Content]:
    return [(own[0], kind) for kind in _KINDS if own[1] is not None and kind != own[1]]


def _measured(
    exchange: Exchange,
    runner: InterventionRunner,
    reader: ImaginationReader,
    subjects: Subjects,
    films: Sequence[tuple[ImaginedStep, ...]],
    made: Sequence[_Exchanged],
) -> OneLatent:
    chosen, own = subjects.subset([each.at for each in made]), [films[each.at] for each in made]

    def outcome(vectors: Sequence[Tensor]) -> _Outcome:
        numbers = np.array([each.index for each in made], dtype=np.int64)

        def intervene(index: NDArray[np.int64]) -> Interventions:
            return Interventions(latents=replace_latent(torch.stack(list(vectors)), numbers, index))

        answers = chosen.run(runner, intervene)
        return _outcome(runner, reader, chosen, own, made, answers)

    def known(values: NDArray[np.float64]) -> Estimate:
        finite = np.flatnonzero(np.isfinite(values))
        return share([bool(value) for value in values[finite]], subset(chosen.units, finite))

    after, null = outcome([each.vector for each in made]), outcome([each.null for each in made])
    return OneLatent(
        exchange=exchange,
        n=len(made),
        film=share(after.film, chosen.units),
        film_null=share(null.film, chosen.units),
        goes_on=known(after.goes_on),
        goes_on_null=known(null.goes_on),
        changed=share(after.changed, chosen.units),
        changed_null=share(null.changed, chosen.units),
        follow=known(after.follow),
    )


def _outcome(
    runner: InterventionRunner,
    reader: ImaginationReader,
    subjects: Subjects,
    own: Sequence[tuple[ImaginedStep, ...]],
    made: Sequence[_Exchanged],
    answers: Sequence[GeneratedAnswer],
) -> _Outcome:
    """Read the films of the new answers, and compare them with the own ones from the exchanged step on."""
    spans = [was if new.latents is None else new.latents for was, new in zip(subjects.latents, answers, strict=True)]
    read = reader.read(subjects.problems, spans)
    order = runner.settings.auxiliary_images.film
    one_each = reader.stepwise.pace == "frame" and reader.stepwise.frames == "film"
    film, goes_on, follow = [], [], []
    for number, each in enumerate(made):
        problem, maze = subjects.problems[number], maze_from_rows(subjects.problems[number].facts["map"])
        before, now = (
            [content_of(maze, step) for step in up_to_end(steps)][each.index + 1 :]
            for steps in (own[number], read[number])
        )
        film.append(before != now)
        place = now[0][0] if now and one_each else None
        goes_on.append(np.nan if place is None else float(_goes_on(problem, maze, each.content, each.index, place)))
        says = implied_answer(problem, read[number], order)
        follow.append(np.nan if says is None else float(answers[number].score.parsed == says))
    changed = [was.text != new.text for was, new in zip(subjects.clean, answers, strict=True)]
    return _Outcome(film, np.array(goes_on), changed, np.array(follow))


def _goes_on(problem: Problem, maze: Maze, content: Content, index: int, then: Place) -> bool:
    """Whether a place follows from the content of a latent: by the next planned move, after the last one by none; for a
    plan of its own, by any.
    """
    place, kind = content
    if place is None:
        return False
    if problem.benchmark == vsp_reasoning.NAME:
        move = problem.facts["plan"][index + 1 : index + 2]
        return then == (place if kind in _ENDS or not move else step(maze, place, move))
    return then != place and then in {step(maze, place, move) for move in MOVES}
