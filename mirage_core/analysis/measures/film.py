"""Measure ``film``: at which step did imagination leave the truth, and did the answer go with it?

What was imagined is read off the latents of the clean run by the heads of stepwise grounding. A film "says" the answer
that follows from its steps by the rules of the world. Legend: N instances, n films, k latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mirage_core.analysis.bootstrap import bootstrap_mean
from mirage_core.analysis.collect import CleanRun, span_header
from mirage_core.analysis.imagined.implied import implied_answer
from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep, first_wrong, up_to_end
from mirage_core.analysis.intervened_generation import InterventionRunner
from mirage_core.analysis.results import BenchmarkFilms, Estimate, FilmResult, FilmStep
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import Units, picture_units
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent, Score

NO_HEADS = "The model folder has no heads of stepwise grounding, so what its latents imagine cannot be read."


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer: its film up to the end of the true one, the step that leaves the truth, and what the film says."""

    film: tuple[ImaginedStep, ...]
    left: int | None
    right: bool
    implied: bool
    implied_right: bool
    followed: bool


@dataclass(frozen=True, slots=True)
class _Estimator:
    """Means over the answers of one benchmark, with intervals by picture."""

    answers: Sequence[_Answer]
    units: Units
    settings: AnalysisSettings

    def share(self, value: Callable[[_Answer], bool | None], among: Callable[[_Answer], bool]) -> Estimate:
        """The share of answers ``among`` whose ``value`` is true; those without a value do not count."""
        values = [value(answer) if among(answer) else None for answer in self.answers]
        floats = np.array([np.nan if known is None else float(known) for known in values])
        return bootstrap_mean(floats, self.settings.resamples, self.settings.seed, self.units)


def film(
    runner: InterventionRunner,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    settings: AnalysisSettings,
    progress: Progress,
) -> FilmResult:
    """Read the films of a clean run over ``instances`` (in its order); without heads the result says so."""
    reader = None if runner.folder is None else ImaginationReader.of(runner.folder, runner.loaded, runner.settings)
    notes = () if reader is not None else (NO_HEADS,)
    header = span_header("film", clean_run, instances, settings, notes=notes)
    chosen = [] if reader is None else clean_run.with_span().tolist()
    if reader is None or not chosen:
        return FilmResult(header=header, benchmarks=())
    problems = [instances[at] for at in chosen]
    films = reader.read(problems, [clean_run.latents[at] for at in chosen])
    progress(ProgressEvent(stage="measure", message=f"films of {len(films)} answers"))
    answers = [
        _answer(runner, problem, own, clean_run.scored[at])
        for problem, own, at in zip(problems, films, chosen, strict=True)
    ]
    groups: dict[str, list[int]] = {}
    for at, problem in enumerate(problems):
        if any(step.right is not None for step in answers[at].film):
            groups.setdefault(problem.benchmark, []).append(at)
    benchmarks = tuple(
        _benchmark(name, [problems[at] for at in members], [answers[at] for at in members], settings)
        for name, members in sorted(groups.items())
    )
    return FilmResult(header=header, benchmarks=benchmarks)


def _answer(
    runner: InterventionRunner, problem: Problem, imagined: tuple[ImaginedStep, ...], scored: tuple[Prediction, Score]
) -> _Answer:
    prediction, score = scored
    implied = implied_answer(problem, imagined, runner.settings.auxiliary_images.film)
    said = None if implied is None else replace(prediction, output=f"\\boxed{{{implied}}}")
    return _Answer(
        film=up_to_end(imagined),
        left=first_wrong(imagined),
        right=score.correct,
        implied=implied is not None,
        implied_right=said is not None and runner.is_correct(problem, said),
        followed=implied is not None and score.parsed == implied,
    )


def _benchmark(
    name: str, problems: Sequence[Problem], answers: Sequence[_Answer], settings: AnalysisSettings
) -> BenchmarkFilms:
    figures = _Estimator(answers, picture_units(problems), settings)
    longest = max(len(answer.film) for answer in answers)
    return BenchmarkFilms(
        benchmark=name,
        n=len(answers),
        steps=tuple(_step(figures, index) for index in range(longest)),
        whole=figures.share(lambda each: each.left is None, lambda each: True),  # noqa: ARG005
        whole_right=figures.share(lambda each: each.right, lambda each: each.left is None),
        left_right=figures.share(lambda each: each.right, lambda each: each.left is not None),
        implied_right=figures.share(lambda each: each.implied_right, lambda each: each.implied),
        followed=figures.share(lambda each: each.followed, lambda each: each.implied),
        misled=figures.share(lambda each: each.followed, lambda each: each.implied and not each.implied_right),
    )


def _step(figures: _Estimator, index: int) -> FilmStep:
    def has(answer: _Answer) -> bool:
        return index < len(answer.film)

    def left_here(answer: _Answer) -> bool:
        return answer.left == index

    return FilmStep(
        index=index,
        n=sum(map(has, figures.answers)),
        place=figures.share(lambda each: each.film[index].place_right, has),
        kind=figures.share(lambda each: each.film[index].kind_right, has),
        left=sum(map(left_here, figures.answers)),
        left_right=figures.share(lambda each: each.right, left_here),
        left_followed=figures.share(lambda each: each.followed, lambda each: left_here(each) and each.implied),
    )
