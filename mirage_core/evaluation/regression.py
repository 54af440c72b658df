"""Two evaluations of the same problems: what one gets right that the other did not, and whether chance explains it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirage_core.evaluation.metrics import ALL
from mirage_core.evaluation.statistics import PairedTest, holm, mcnemar
from mirage_core.types import Problem, Scored

NOW, BEFORE = "now", "before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one benchmark (``all``: every problem) went from one evaluation to the next; ``difference`` is now - before.

    Accuracies are those of the first samples, which the test is about. ``p_corrected`` is Holm's over all rows of one
    comparison; the interval (95 %) is of this row alone.
    """

    benchmark: str
    n: int
    before: float
    now: float
    right_then_wrong: int
    wrong_then_right: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_corrected: float

    def is_drop(self, alpha: float) -> bool:
        """Whether it is worse now, by more than chance explains at the level ``alpha``."""
        return self.difference < 0 and self.p_corrected < alpha


def compare(before: Sequence[Scored], now: Sequence[Scored]) -> list[Change]:
    """Compare two evaluations, a row a benchmark and, where there are several, one over all problems.

    Every row can raise the alarm, so all of them are corrected for: an unchanged model is called worse on any of them
    with a probability of at most the level. Of several samples the first one counts. Raises InputError when the
    problems are not the same.
    """
    benchmarks = sorted({prediction.benchmark for prediction, _ in now})
    chosen = [*benchmarks, ALL] if len(benchmarks) > 1 else benchmarks
    tests = [mcnemar(NOW, _right(now, name), BEFORE, _right(before, name)) for name in chosen]
    corrected = holm([test.p_value for test in tests])
    return [_change(name, test, p) for name, test, p in zip(chosen, tests, corrected, strict=True)]


def problems_digest(problems: Iterable[Problem]) -> str:
    """One sha256 of what a model is asked and judged by: ids, questions, pictures and answers, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        pictures = [hashlib.sha256(image).hexdigest() for image in problem.images]
        told = (problem.id, problem.benchmark, problem.group, problem.question, problem.answer, *pictures)
        digest.update(repr(told).encode())
    return digest.hexdigest()


def _right(scored: Sequence[Scored], benchmark: str) -> dict[str, bool]:
    return {
        prediction.problem_id: score.correct
        for prediction, score in scored
        if prediction.sample == 0 and benchmark in (ALL, prediction.benchmark)
    }


def _change(benchmark: str, test: PairedTest, p_corrected: float) -> Change:
    return Change(
        benchmark=benchmark,
        n=test.n,
        before=(test.both + test.only_second) / test.n,
        now=(test.both + test.only_first) / test.n,
        right_then_wrong=test.only_second,
        wrong_then_right=test.only_first,
        difference=test.difference,
        interval=test.interval,
        p_value=test.p_value,
        p_corrected=p_corrected,
    )
