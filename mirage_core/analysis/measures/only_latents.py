"""Latents as the only visual input: what answers are worth when the picture is hidden and its latents are fed.

The clean run's latents are fed under a hidden picture: then, text behind the span sees prompt and latents; and, in the
strictest run, nothing but the latents. Beside them other latents under the same, chance, and the picture itself.
Legend: n subjects, k latents, D hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.bootstrap import bootstrap_mean
from mirage_core.analysis.collect import Collected
from mirage_core.analysis.donors import derangement
from mirage_core.analysis.intervened_generation import Asker, Change, fed
from mirage_core.analysis.measures import image_ablation as views
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.intervention_effect import Named, Right, compared
from mirage_core.analysis.measures.interventions import reference
from mirage_core.analysis.results import Chance, OnlyLatentsResult, Run, header, without_span
from mirage_core.analysis.subjects import Subjects, subjects
from mirage_core.config import AnalysisSettings
from mirage_core.generation.interventions import Interventions
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent

_MOST_ANSWERS = 50  # distinct reference answers that are tried on all problems, commonest first
_MOST_OTHERS = 20  # problems that an answer is tried on
_ALL = "all"


def chances(
    problems: Sequence[Problem], clean: Sequence[Prediction], right: Right, settings: AnalysisSettings
) -> tuple[Chance, ...]:
    """Chance of every benchmark and group, and of every benchmark as a whole, from problems and clean answers [N]."""
    rows: list[Chance] = []
    for benchmark in sorted({problem.benchmark for problem in problems}):
        members = [at for at, problem in enumerate(problems) if problem.benchmark == benchmark]
        groups = sorted({problems[at].group for at in members})
        for group in (*groups, _ALL) if len(groups) > 1 else groups:
            inside = [at for at in members if group in (_ALL, problems[at].group)]
            rows.append(_chance(benchmark, group, [problems[at] for at in inside], [clean[at] for at in inside],
                                right, settings))  # fmt: skip
    return tuple(rows)


def _chance(
    benchmark: str,
    group: str,
    problems: Sequence[Problem],
    clean: Sequence[Prediction],
    right: Right,
    settings: AnalysisSettings,
) -> Chance:
    return Chance(
        benchmark=benchmark,
        group=group,
        n=len(problems),
        majority=majority(problems, right),
        shuffled=bootstrap_mean(
            np.array(elsewhere(problems, clean, right, settings.seed)), settings.resamples, settings.seed
        ),
    )


def majority(problems: Sequence[Problem], right: Right) -> float:
    """Accuracy of the reference answer that is right most often, given to all; found on the same problems, so an
    upper bound of what a constant answer gives."""
    counts = Counter(problem.answer for problem in problems)
    tried = [answer for answer, _ in counts.most_common(_MOST_ANSWERS)]
    givers = {problem.answer: problem for problem in problems}
    said = [reference(givers[answer]) for answer in tried]
    return max(sum(right(problem, one) for problem in problems) / len(problems) for one in said)


def elsewhere(problems: Sequence[Problem], clean: Sequence[Prediction], right: Right, seed: int) -> list[float]:
    """How often the answers to other problems are right for each problem [n]; nan for a problem that stands alone."""
    drawn = np.random.default_rng(seed).permutation(len(problems)).tolist()
    steps = range(1, min(_MOST_OTHERS, len(problems) - 1) + 1)
    found = [float("nan")] * len(problems)
    for place, at in enumerate(drawn):
        others = [drawn[(place + step) % len(drawn)] for step in steps]
        if others:
            found[at] = sum(right(problems[at], clean[other]) for other in others) / len(others)
    return found


def only_latents(
    asker: Asker, collected: Collected, instances: Sequence[Problem], settings: AnalysisSettings, progress: Progress
) -> OnlyLatentsResult:
    """The measure, of a clean run over ``instances`` (in its order)."""
    among = subjects(asker, collected, instances)
    used = collected.with_span()
    clean = [one.prediction for one in among.clean]
    return OnlyLatentsResult(
        header=header(
            "only-latents",
            instances,
            used,
            num_latents=collected.num_latents,
            seed=settings.seed,
            notes=without_span(len(instances), len(used)),
        ),
        runs=tuple(_runs(asker, among, settings, progress)) if len(used) else (),
        chance=chances(among.problems, clean, asker.judged, settings),
    )


def _runs(asker: Asker, among: Subjects, settings: AnalysisSettings, progress: Progress) -> list[Run]:
    """Own latents under ever less of the picture, then other latents under a hidden one; all beside the clean run."""
    latents, seed = among.latents, settings.seed
    runs = [compared(Named(name="own", seen="present"), among.clean, among.clean, settings)]
    changes: list[tuple[Named, Change]] = [
        (Named(name="own", seen="cut"), views.feeding(asker, "cut", latents)),
        (Named(name="own", seen="hidden"), views.feeding(asker, "hidden", latents)),
        (Named(name="own-alone", seen="hidden"), _alone(latents)),
        (Named(name="zero", seen="hidden"), views.feeding(asker, "hidden", latents.new_zeros(latents.shape))),
        (
            Named(name="noise-only", seen="hidden"),
            views.feeding(asker, "hidden", replacements.noise_only(latents, seed)),
        ),
    ]
    for named, change in changes:
        runs.append(compared(named, among.clean, among.run(asker, change), settings))
        progress(ProgressEvent(stage="measure", message=f"{named.name}, picture {named.seen}"))
    partners = derangement(among.strata, seed)
    named = Named(name="permute", seen="hidden", way="vectors")
    said = among.run(asker, views.feeding(asker, "hidden", replacements.lent(latents, partners)))
    return [*runs, compared(named, among.clean, said, settings, lent=(among.problems, partners, asker.judged))]


def _alone(latents: Tensor) -> Change:
    """No picture, and text behind the span sees the vectors of the latents alone."""

    def change(index: NDArray[np.int64]) -> Interventions:
        base = Interventions(image="hidden", bottleneck="latent_only")
        return replace(base, latents=fed(latents, index))

    return change
