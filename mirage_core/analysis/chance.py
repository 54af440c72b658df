"""What can be had without looking: one answer given to all, and answers given to the wrong problems.

Legend: n problems of one benchmark and group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mirage_core.analysis.comparing import Right
from mirage_core.analysis.interventions import reference
from mirage_core.analysis.resampling import bootstrap_mean
from mirage_core.analysis.result import Chance
from mirage_core.config import AnalysisSettings
from mirage_core.types import Prediction, Problem

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
