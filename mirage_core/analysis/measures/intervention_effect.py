"""Answers under an intervention beside the answers without it: what a Run tells.

Legend: N instances, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.bootstrap import Floats, bootstrap_mean, share
from mirage_core.analysis.donors import NOBODY, Partners
from mirage_core.analysis.intervened_generation import Said, divergence
from mirage_core.analysis.results import Estimate, Run, Seen, Way
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.statistics import mcnemar_p, paired_interval
from mirage_core.types import Prediction, Problem

Flags = NDArray[np.bool_]
Right = Callable[[Problem, Prediction], bool]
"""Whether an answer is right for a problem, its own or another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a run is called: the intervention, what is left of the picture, how latents are exchanged, how much."""

    name: str
    seen: Seen
    way: Way | None = None
    scale: float | None = None
    against: Seen = "present"


def compared(
    named: Named,
    clean: Sequence[Said],
    here: Sequence[Said],
    settings: AnalysisSettings,
    *,
    lent: tuple[Sequence[Problem], Partners, Right] | None = None,
) -> Run:
    """A run beside the clean answers to the same problems [N].

    ``lent``: all instances, the donor of each answer among them [N], and how answers are judged; then it is counted
    how often the answer is right for the donor. Answers whose donor is nobody are left out of everything.
    """
    kept = [at for at in range(len(here)) if lent is None or lent[1][at] != NOBODY]
    before, after = [clean[at] for at in kept], [here[at] for at in kept]
    was, now = _correct(before), _correct(after)
    only_clean, only_here = int((was & ~now).sum()), int((now & ~was).sum())
    follow = follow_clean = None
    if lent is not None:
        donors = [lent[0][lent[1][at]] for at in kept]
        follow = share([lent[2](donor, one.prediction) for donor, one in zip(donors, after, strict=True)])
        follow_clean = share([lent[2](donor, one.prediction) for donor, one in zip(donors, before, strict=True)])
    return Run(
        name=named.name,
        seen=named.seen,
        way=named.way,
        scale=named.scale,
        against=named.against,
        n=len(kept),
        accuracy=share(now),
        clean_accuracy=float(was.mean()) if len(kept) else None,
        change=_change(was, now),
        p_value=mcnemar_p(only_here, only_clean) if len(kept) else None,
        only_clean=only_clean,
        only_here=only_here,
        changed=share([one.read != other.read for one, other in zip(before, after, strict=True)]),
        unparsed=share([one.score.parsed is None for one in after]),
        kl=bootstrap_mean(divergences(before, after), settings.resamples, settings.seed),
        follow=follow,
        follow_clean=follow_clean,
    )


def divergences(clean: Sequence[Said], here: Sequence[Said]) -> Floats:
    """KL(clean || here) of the first token of each answer [N]; nan where one of the two begins no answer."""
    return np.array([first_divergence(one.first, other.first) for one, other in zip(clean, here, strict=True)])


def first_divergence(clean: Tensor | None, here: Tensor | None) -> float:
    """KL(clean || here) of log-probabilities [V]; nan where either is not known."""
    return float("nan") if clean is None or here is None else divergence(clean, here)


def _correct(said: Sequence[Said]) -> Flags:
    return np.array([one.score.correct for one in said], dtype=bool)


def _change(was: Flags, now: Flags) -> Estimate:
    """Accuracy now minus accuracy before, with Newcombe's paired interval."""
    if not len(was):
        return Estimate(value=None, n=0)
    cells = (int((now & was).sum()), int((now & ~was).sum()), int((was & ~now).sum()), int((~now & ~was).sum()))
    low, high = paired_interval(*cells)
    return Estimate(value=float(now.mean() - was.mean()), low=low, high=high, n=len(was))
