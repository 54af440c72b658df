"""The effect of an intervention: answers under it, compared with the answers without it.

Legend: N instances, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.bootstrap import Floats, bootstrap_mean, share
from mirage_core.analysis.donors import NO_DONOR, Donors
from mirage_core.analysis.intervened_generation import GeneratedAnswer, kl_divergence
from mirage_core.analysis.results import Estimate, ImageAccess, Run, Way
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import Units, has_shared, subset
from mirage_core.evaluation.statistics import mcnemar_p, paired_interval
from mirage_core.types import Prediction, Problem

Flags = NDArray[np.bool_]
IsCorrect = Callable[[Problem, Prediction], bool]
"""Whether an answer is correct for a problem, its own or another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLabel:
    """The part of a Run that is known before it: the intervention, its image access, how and how much it changes."""

    name: str
    seen: ImageAccess
    way: Way | None = None
    scale: float | None = None
    against: ImageAccess = ImageAccess.FULL


class Patching(NamedTuple):
    """All instances [N], the donor of each of them [N], and how answers are judged."""

    problems: Sequence[Problem]
    donors: Donors
    is_correct: IsCorrect


def compare(
    label: RunLabel,
    clean: Sequence[GeneratedAnswer],
    patched: Sequence[GeneratedAnswer],
    settings: AnalysisSettings,
    *,
    patching: Patching | None = None,
    units: Units | None = None,
) -> Run:
    """Compare answers under an intervention with the clean answers to the same problems [N].

    ``units`` [N] (``evaluation/pictures.py``): what counts as an independent observation; None: every instance does.

    With ``patching``, count also how often an answer is correct for its donor's problem; instances without a donor are
    left out of every figure.
    """
    used = [at for at in range(len(patched)) if patching is None or patching.donors[at] != NO_DONOR]
    before, after = [clean[at] for at in used], [patched[at] for at in used]
    was, now, units = _correct(before), _correct(after), subset(units, used)
    only_clean, only_here = int((was & ~now).sum()), int((now & ~was).sum())
    follow = follow_clean = None
    if patching is not None:
        donors = [patching.problems[patching.donors[at]] for at in used]
        follow, follow_clean = (
            share(
                [patching.is_correct(donor, each.prediction) for donor, each in zip(donors, answers, strict=True)],
                units,
            )
            for answers in (after, before)
        )
    return Run(
        name=label.name,
        seen=label.seen,
        way=label.way,
        scale=label.scale,
        against=label.against,
        n=len(used),
        accuracy=share(now, units),
        clean_accuracy=float(was.mean()) if len(used) else None,
        change=_accuracy_change(was, now, settings, units),
        p_value=_change_p(was, now, units) if len(used) else None,
        only_clean=only_clean,
        only_here=only_here,
        changed=share([old.text != new.text for old, new in zip(before, after, strict=True)], units),
        unparsed=share([answer.score.parsed is None for answer in after], units),
        kl=bootstrap_mean(kl_divergences(before, after), settings.resamples, settings.seed, units),
        follow=follow,
        follow_clean=follow_clean,
    )


def kl_divergences(clean: Sequence[GeneratedAnswer], patched: Sequence[GeneratedAnswer]) -> Floats:
    """KL(clean || patched) of the first token of each answer [N]; nan where either output has no answer."""
    return np.array([kl_or_nan(old.first_token, new.first_token) for old, new in zip(clean, patched, strict=True)])


def kl_or_nan(clean: Tensor | None, patched: Tensor | None) -> float:
    """KL(clean || patched) of log-probabilities [V]; nan where either is None."""
    return float("nan") if clean is None or patched is None else kl_divergence(clean, patched)


def _correct(answers: Sequence[GeneratedAnswer]) -> Flags:
    return np.array([answer.score.correct for answer in answers], dtype=bool)


def _change_p(was: Flags, now: Flags, units: Units | None) -> float:
    """McNemar's p; where instances share units, the same sign test on units that gain against units that lose."""
    changes = now.astype(np.int64) - was
    if units is not None and has_shared(units):
        changes = np.bincount(units, weights=changes).round().astype(np.int64)
    return mcnemar_p(int((changes > 0).sum()), int((changes < 0).sum()))


def _accuracy_change(was: Flags, now: Flags, settings: AnalysisSettings, units: Units | None) -> Estimate:
    """Accuracy now minus accuracy before, with Newcombe's paired interval; the bootstrap's where units are shared."""
    if not len(was):
        return Estimate(value=None, n=0)
    if has_shared(units):
        return bootstrap_mean(now.astype(np.float64) - was, settings.resamples, settings.seed, units)
    cells = (int((now & was).sum()), int((now & ~was).sum()), int((was & ~now).sum()), int((~now & ~was).sum()))
    low, high = paired_interval(*cells)
    return Estimate(value=float(now.mean() - was.mean()), low=low, high=high, n=len(was))
