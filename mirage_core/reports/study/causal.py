"""Do a cell's latents matter? Its runs with exchanged latents, over the seeds: means, intervals, the causal effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirage_core.analysis.results import Estimate as Measured
from mirage_core.analysis.results import InterventionsResult, Run
from mirage_core.evaluation.statistics import PairedTest, mcnemar_p
from mirage_core.reports.study.seeds import Estimate, difference, share


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRuns:
    """One seed's interventions with the picture present. Exchanges are of keys and values, which nothing can repair.

    ``instances``: problems that were answered; the runs are of those whose answer has a whole first span.
    """

    seed: int
    instances: int
    own: Run
    permuted: Run
    swapped: Run | None
    zero: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Causal:
    """A cell's interventions over its seeds. ``change``: accuracy with permuted latents minus that with its own.

    ``follow``: swapped answers that are right for the donor; ``follow_clean``: own answers that are so already, the
    base rate; None where nothing could be swapped.
    """

    by_seed: tuple[SeedRuns, ...]
    own: Estimate
    permuted: Estimate
    change: Estimate
    zero: Estimate
    follow: Estimate | None
    follow_clean: Estimate | None

    @property
    def effect(self) -> Estimate:
        """The causal effect: accuracy with its own latents minus that with another problem's."""
        low, high = self.change.interval
        values = tuple(0.0 - value for value in self.change.values)  # 0 - 0 has no sign, where -0 would show one
        return Estimate(mean=0.0 - self.change.mean, interval=(0.0 - high, 0.0 - low), values=values)


def causal_of(results: Mapping[int, InterventionsResult], *, same_problems: bool) -> Causal | None:
    """What the interventions of each seed say together; None where no answer had latents to exchange."""
    found = [one for seed, result in results.items() if (one := _runs(seed, result)) is not None]
    if not found:
        return None
    swapped = [one.swapped for one in found if one.swapped is not None]
    follows = [run.follow for run in swapped if run.follow is not None]
    base = [run.follow_clean for run in swapped if run.follow_clean is not None]
    return Causal(
        by_seed=tuple(found),
        own=_share([one.own.accuracy for one in found], same_problems=same_problems),
        permuted=_share([one.permuted.accuracy for one in found], same_problems=same_problems),
        change=difference([_paired(one.permuted) for one in found], same_problems=same_problems),
        zero=_share([one.zero.accuracy for one in found], same_problems=same_problems),
        follow=_share(follows, same_problems=same_problems) if follows else None,
        follow_clean=_share(base, same_problems=same_problems) if base else None,
    )


def _runs(seed: int, result: InterventionsResult) -> SeedRuns | None:
    """The runs that the page shows; None where no answer had latents, or nobody to exchange them with."""
    present = {(run.name, run.way): run for run in result.runs if run.seen == "present" and run.n}
    own, zero, permuted = (present.get(key) for key in (("own", None), ("zero", None), ("permute", "states")))
    if own is None or zero is None or permuted is None:
        return None
    return SeedRuns(
        seed=seed,
        instances=result.header.instances,
        own=own,
        permuted=permuted,
        swapped=present.get(("swap", "states")),
        zero=zero,
    )


def _share(figures: Sequence[Measured], *, same_problems: bool) -> Estimate:
    """The mean of measured shares over the seeds."""
    return share(
        [(one.value or 0.0) * one.n for one in figures], [one.n for one in figures], same_problems=same_problems
    )


def _paired(run: Run) -> PairedTest:
    """A run beside the answers it is compared with, problem by problem; the first is the run."""
    both = round((run.accuracy.value or 0.0) * run.n) - run.only_here
    return PairedTest(
        first=run.name,
        second="own",
        n=run.n,
        both=both,
        only_first=run.only_here,
        only_second=run.only_clean,
        neither=run.n - both - run.only_here - run.only_clean,
        p_value=mcnemar_p(run.only_here, run.only_clean),
    )
