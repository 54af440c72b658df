"""Causal effect of a cell's latents: its runs with replaced latents over the seeds, with means and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirage_core.analysis.results import Estimate as Measured
from mirage_core.analysis.results import InterventionsResult, Run
from mirage_core.evaluation.statistics import PairedTest, mcnemar_p
from mirage_core.reports.study.seeds import Estimate, difference, share


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRuns:
    """One seed's interventions with the image visible. Keys and values of latents are replaced.

    ``instances``: answered problems; the runs include those whose answer has a complete first span.
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

    ``follow``: share of answers with swapped latents that are right for the donor; ``follow_clean``: the same share of
    unchanged answers, the base rate; None where nothing could be swapped.
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
        values = tuple(0.0 - value for value in self.change.values)  # 0 - x, since -x would print -0 for 0
        return Estimate(mean=0.0 - self.change.mean, interval=(0.0 - high, 0.0 - low), values=values)


def causal_of(results: Mapping[int, InterventionsResult], *, same_problems: bool) -> Causal | None:
    """Combine the interventions of all seeds; None where no answer had latents."""
    seeds = [run for seed, result in results.items() if (run := _runs(seed, result)) is not None]
    if not seeds:
        return None
    swapped = [run.swapped for run in seeds if run.swapped is not None]
    follows = [run.follow for run in swapped if run.follow is not None]
    base = [run.follow_clean for run in swapped if run.follow_clean is not None]
    return Causal(
        by_seed=tuple(seeds),
        own=_share([run.own.accuracy for run in seeds], same_problems=same_problems),
        permuted=_share([run.permuted.accuracy for run in seeds], same_problems=same_problems),
        change=difference([_paired(run.permuted) for run in seeds], same_problems=same_problems),
        zero=_share([run.zero.accuracy for run in seeds], same_problems=same_problems),
        follow=_share(follows, same_problems=same_problems) if follows else None,
        follow_clean=_share(base, same_problems=same_problems) if base else None,
    )


def _runs(seed: int, result: InterventionsResult) -> SeedRuns | None:
    """Return the runs of one seed; None where no answer had latents, or there was no donor."""
    runs = {(run.name, run.way): run for run in result.runs if run.seen == "present" and run.n}
    own, zero, permuted = (runs.get(key) for key in (("own", None), ("zero", None), ("permute", "states")))
    if own is None or zero is None or permuted is None:
        return None
    return SeedRuns(
        seed=seed,
        instances=result.header.instances,
        own=own,
        permuted=permuted,
        swapped=runs.get(("swap", "states")),
        zero=zero,
    )


def _share(estimates: Sequence[Measured], *, same_problems: bool) -> Estimate:
    """Return the mean of measured shares over the seeds."""
    return share(
        [(item.value or 0.0) * item.n for item in estimates],
        [item.n for item in estimates],
        same_problems=same_problems,
    )


def _paired(run: Run) -> PairedTest:
    """Return the paired test of a run (first) and the unchanged answers (second)."""
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
