"""Measure ``hand-made``: does the answer follow a film that the model did not imagine?

A film of a path that the model did not choose is put together from the latents of other instances and fed in place of
its own, at the same positions. Each latent is the mean of those that the heads of stepwise grounding read as the wanted
place and kind. Legend: n instances, k latents, D hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.analysis.bootstrap import share
from mirage_core.analysis.collect import CleanRun, span_header
from mirage_core.analysis.imagined.latent_bank import Content, LatentBank, content_of
from mirage_core.analysis.imagined.other_paths import OtherPath, other_paths
from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep
from mirage_core.analysis.intervened_generation import GeneratedAnswer, InterventionRunner
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.film import NO_HEADS
from mirage_core.analysis.measures.image_ablation import feed_latents, patch_states
from mirage_core.analysis.measures.one_latent import one_latent
from mirage_core.analysis.results import Estimate, HandMadeFilms, HandMadeResult, HandMadeRun, ImageAccess, Way
from mirage_core.analysis.subjects import Subjects, select_subjects
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import AnalysisSettings
from mirage_core.generation.interventions import SpanStates
from mirage_core.types import Problem, Progress, ProgressEvent
from mirage_core.worlds.maze import maze_from_rows

NO_MAP = "no map is known, so no other path is"
NO_PLACE = "no head reads the place, which a plan needs"
TOKENS = "a token of the image is no cell of the map"
SEVERAL = "a frame of the film is about several places"
LAST = "all latents hold one frame, which says no plan"
NO_PATH = "the map has no other path as short as the span"
NO_LATENTS = "no other instance imagined what a latent would have to"
NO_SPAN = "no whole latent span"
FROM_MAP = "The heads name no kinds of cells, so a latent counts as of the kind that its map has at its place."


@dataclass(frozen=True, slots=True)
class _Made:
    """A film made for one instance: its path and latents [k, D]; ``rebuilt`` [k, D]: the own film, made likewise."""

    at: int
    path: OtherPath
    latents: Tensor
    rebuilt: Tensor | None


@dataclass(frozen=True, slots=True)
class _Makeable:
    """Instances [n] of one benchmark, their latents by what they imagine, and their keys and values [n]."""

    runner: InterventionRunner
    subjects: Subjects
    bank: LatentBank
    states: Sequence[SpanStates | None]

    def latents_or_own(self, latents: Tensor | None, at: int) -> Tensor:
        """Latents [k, D]; the own ones of instance ``at`` where there are none."""
        return self.subjects.latents[at] if latents is None else latents

    def states_of(self, contents: Sequence[Content], latents: Tensor, at: int) -> SpanStates | None:
        """The keys and values of a film made for instance ``at``."""
        return self.bank.span_states(contents, latents, at, self.states, self.runner.loaded.backbone)


def hand_made(
    runner: InterventionRunner,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    settings: AnalysisSettings,
    progress: Progress,
) -> HandMadeResult:
    """Feed hand-made films, and exchange one latent in the middle; without heads the result says so."""
    reader = None if runner.folder is None else ImaginationReader.of(runner.folder, runner.loaded, runner.settings)
    subjects = select_subjects(runner, clean_run, instances)
    if reader is None or not subjects.problems:
        notes = (NO_HEADS,) if reader is None else ()
        header = span_header("hand-made", clean_run, instances, settings, notes=notes)
        return HandMadeResult(header=header, benchmarks=())
    films = reader.read(subjects.problems, list(subjects.latents))
    progress(ProgressEvent(stage="measure", message=f"films of {len(films)} answers"))
    named = reader.stepwise.what_head != "kind"
    benchmarks = tuple(
        _benchmark(runner, reader, _part(subjects, films, name), settings, progress)
        for name in sorted({problem.benchmark for problem in subjects.problems})
    )
    missing = Counter(problem.benchmark for problem in instances)
    missing.subtract(problem.benchmark for problem in subjects.problems)
    benchmarks = tuple(_without_span(each, missing[each.benchmark]) for each in benchmarks)
    header = span_header("hand-made", clean_run, instances, settings, notes=(FROM_MAP,) if named else ())
    return HandMadeResult(header=header, benchmarks=benchmarks)


def _part(
    subjects: Subjects, films: Sequence[tuple[ImaginedStep, ...]], name: str
) -> tuple[Subjects, list[tuple[ImaginedStep, ...]]]:
    chosen = [at for at, problem in enumerate(subjects.problems) if problem.benchmark == name]
    return subjects.subset(chosen), [films[at] for at in chosen]


def _without_span(films: HandMadeFilms, missing: int) -> HandMadeFilms:
    left_out = {**films.left_out, **({NO_SPAN: missing} if missing else {})}
    return films.model_copy(update={"left_out": left_out})


def _benchmark(
    runner: InterventionRunner,
    reader: ImaginationReader,
    part: tuple[Subjects, list[tuple[ImaginedStep, ...]]],
    settings: AnalysisSettings,
    progress: Progress,
) -> HandMadeFilms:
    subjects, films = part
    reasons: list[str | None] = [
        _impossible(problem, film, reader, runner.settings.auxiliary_images.film)
        for problem, film in zip(subjects.problems, films, strict=True)
    ]
    usable = [at for at, reason in enumerate(reasons) if reason is None]
    left_out = Counter(reason for reason in reasons if reason is not None)
    subjects, films = subjects.subset(usable), [films[at] for at in usable]
    mazes = [maze_from_rows(problem.facts["map"]) for problem in subjects.problems]
    contents = [[content_of(maze, step) for step in film] for maze, film in zip(mazes, films, strict=True)]
    bank = LatentBank(subjects.latents, contents, subjects.units)
    made = [_made(runner, reader, bank, subjects, at, settings) for at in range(len(usable))]
    left_out.update(each for each in made if isinstance(each, str))
    known = [each for each in made if isinstance(each, _Made)]
    parts = _Makeable(runner, subjects, bank, subjects.states(runner) if known else ())
    runs = tuple(
        run
        for film in ("plan", "walk", "outcome")
        for run in _runs(parts, [each for each in known if each.path.film == film], settings, progress)
    )
    progress(ProgressEvent(stage="measure", message="one latent exchanged"))
    return HandMadeFilms(
        benchmark=part[0].problems[0].benchmark,
        runs=runs,
        one_latent=one_latent(runner, reader, subjects, films, bank, settings),
        left_out=dict(sorted(left_out.items())),
    )


def _impossible(problem: Problem, film: Sequence[ImaginedStep], reader: ImaginationReader, order: str) -> str | None:
    """Why no film can be made for a problem, whatever latents there are; None: one can."""
    planning = problem.benchmark == vsp_planning.NAME
    if "map" not in problem.facts or problem.benchmark not in (vsp_planning.NAME, vsp_reasoning.NAME):
        return NO_MAP
    if planning and order in ("wave", "search"):
        return SEVERAL
    if planning and reader.stepwise.frames == "last":
        return LAST
    level = len(problem.facts["map"])
    if any(step.places and (len(step.places), len(step.places[0])) != (level, level) for step in film):
        return TOKENS
    return NO_PLACE if planning and any(step.place is None for step in film) else None


def _made(
    runner: InterventionRunner,
    reader: ImaginationReader,
    bank: LatentBank,
    subjects: Subjects,
    at: int,
    settings: AnalysisSettings,
) -> _Made | str:
    """The first path whose latents there are, and its film; else why there is none."""
    order, stepwise = runner.settings.auxiliary_images.film, reader.stepwise
    answer = subjects.clean[at].score.parsed
    reason, latents = NO_PATH, subjects.latents.shape[1]
    for path in other_paths(subjects.problems[at], answer, latents, order, stepwise, settings.seed):
        made = bank.film(path.contents, at)
        if made is not None:
            return _Made(at, path, made, bank.film(bank.contents[at], at))
        reason = NO_LATENTS
    return reason


def _runs(parts: _Makeable, made: Sequence[_Made], settings: AnalysisSettings, progress: Progress) -> list[HandMadeRun]:
    """The films of one kind, in both ways under every image access, in the order of ``settings.views``."""
    if not made:
        return []
    runner, chosen = parts.runner, parts.subjects.subset([each.at for each in made])
    noise = replacements.own_covariance_noise(parts.subjects.latents, settings.seed)[[each.at for each in made]]
    films = _films(parts, made, [each.latents for each in made], [each.path.contents for each in made])
    rebuilt = [number for number, each in enumerate(made) if each.rebuilt is not None]
    again = [made[number] for number in rebuilt]
    own_films = _films(
        parts, again, [parts.latents_or_own(each.rebuilt, each.at) for each in again],
        [parts.bank.contents[each.at] for each in again],
    )  # fmt: skip
    runs: list[HandMadeRun] = []
    for access in map(ImageAccess, settings.views):
        own = list(chosen.clean)
        if access != ImageAccess.FULL:
            own = chosen.run(runner, feed_latents(runner, access, chosen.latents))
        disturbed = chosen.run(runner, feed_latents(runner, access, noise))
        for way in ("vectors", "states"):
            fed = films.answers(runner, chosen, access, way)
            new = own_films.answers(runner, chosen.subset(rebuilt), access, way) if rebuilt else []
            stays = [own[number].text == answer.text for number, answer in zip(rebuilt, new, strict=True)]
            same = share(stays, chosen.subset(rebuilt).units)
            runs.append(_run((access, way), made, chosen, (fed, own, disturbed), same))
        progress(ProgressEvent(stage="measure", message=f"hand-made films ({made[0].path.film}), image {access}"))
    return runs


@dataclass(frozen=True, slots=True)
class _Films:
    """Films to feed: vectors [n, k, D], and their keys and values [n] beside the own vectors [n, k, D]."""

    vectors: Tensor
    own: Tensor
    states: list[SpanStates | None]

    def answers(
        self, runner: InterventionRunner, subjects: Subjects, access: ImageAccess, way: Way
    ) -> list[GeneratedAnswer]:
        """Return the answers [n] with these films, fed as ``interventions`` feeds a donor's."""
        if way == "vectors":
            return subjects.run(runner, feed_latents(runner, access, self.vectors))
        return subjects.run(runner, patch_states(runner, access, self.own, self.states))


def _films(
    parts: _Makeable, made: Sequence[_Made], latents: Sequence[Tensor], contents: Sequence[Sequence[Content]]
) -> _Films:
    own = parts.subjects.latents[[each.at for each in made]]
    states = [
        parts.states_of(content, vectors, each.at)
        for each, vectors, content in zip(made, latents, contents, strict=True)
    ]
    return _Films(torch.stack(list(latents)) if made else own, own, states)


def _run(
    label: tuple[ImageAccess, Way],
    made: Sequence[_Made],
    subjects: Subjects,
    answers: tuple[Sequence[GeneratedAnswer], Sequence[GeneratedAnswer], Sequence[GeneratedAnswer]],
    same: Estimate,
) -> HandMadeRun:
    """The figures of answers to hand-made films, own latents and noise."""
    (access, way), units = label, subjects.units

    def follow(given: Sequence[GeneratedAnswer]) -> Estimate:
        return share([answer.score.parsed == each.path.says for answer, each in zip(given, made, strict=True)], units)

    def accuracy(given: Sequence[GeneratedAnswer]) -> Estimate:
        return share([answer.score.correct for answer in given], units)

    fed, own, noise = answers
    return HandMadeRun(
        film=made[0].path.film,
        seen=access,
        way=way,
        n=len(made),
        follow=follow(fed),
        follow_own=follow(own),
        follow_noise=follow(noise),
        accuracy=accuracy(fed),
        accuracy_own=accuracy(own),
        accuracy_noise=accuracy(noise),
        same=same,
    )
