"""Z -> Y by experiment: what answers do when latents are set by hand, the picture present, cut off, or hidden.

Every run feeds a tensor that was decided beforehand, or exchanges keys and values; nothing else changes, positions
included. Legend: n subjects, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from mirage_core.analysis.bootstrap import Floats
from mirage_core.analysis.collect import Collected
from mirage_core.analysis.donors import Partners, derangement, donors
from mirage_core.analysis.intervened_generation import Asker, Change, Said
from mirage_core.analysis.measures import image_ablation as views
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.intervention_effect import Named, compared
from mirage_core.analysis.results import Dose, InterventionsResult, Run, Seen, header, without_span
from mirage_core.analysis.subjects import Subjects, subjects
from mirage_core.config import AnalysisSettings
from mirage_core.errors import InputError
from mirage_core.generation.interventions import SpanStates
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent

_ROUNDING = 1e-9


def falling(accuracy: Floats) -> Floats:
    """The accuracies [S] nearest to these that only fall (isotonic regression)."""
    fitted: Floats = np.asarray(isotonic_regression(accuracy, increasing=False).x, dtype=np.float64)
    return fitted


def half_scale(scales: Sequence[float], fitted: Floats) -> float | None:
    """The scale at which a falling curve has lost half of all it loses, between two scales on a straight line.

    None where it loses nothing.
    """
    if len(scales) != len(fitted):
        raise InputError(f"got {len(scales)} scales for {len(fitted)} accuracies, expected one each")
    lost = float(fitted[0] - fitted[-1])
    if lost <= _ROUNDING:
        return None
    half = float(fitted[0]) - lost / 2
    after = int(np.flatnonzero(fitted <= half)[0])
    before = after - 1
    step = float(fitted[before] - fitted[after])
    return float(scales[before] + (scales[after] - scales[before]) * (float(fitted[before]) - half) / step)


def rank_correlation(scales: Sequence[float], accuracy: Floats) -> float | None:
    """Spearman's rank correlation of scale and accuracy; None where the accuracy never changes."""
    if len(scales) < 3 or np.ptp(accuracy) == 0:
        return None
    return float(spearmanr(scales, accuracy).statistic)


def trend_p(correct: NDArray[np.bool_]) -> float | None:
    """Test that answers are right ever less from scale to scale: correct [N, S], p of one side.

    Mantel's extension test with every instance a stratum (J. Am. Statist. Assoc. 58 (1963) 690-700): under no effect
    each instance's right answers lie at any of the scales alike. It counts instances that change alone, so answers
    that are right, or wrong, throughout do not weaken it. None for fewer than three scales or two instances; 1 where
    no instance ever changes.
    """
    scales = correct.shape[1]
    if scales < 3 or len(correct) < 2:
        return None
    ranks = np.arange(scales) - (scales - 1) / 2
    right = correct.sum(1)
    variance = float((right * (scales - right)).sum()) / (scales - 1) * float((ranks**2).mean())
    if variance == 0:
        return 1.0
    return NormalDist().cdf(float((correct * ranks).sum()) / sqrt(variance))


SAME_AS_PRESENT = (
    "The model's own bottleneck hides as much as the cut does: its runs are those with the picture present."
)
NO_BOX = "No clean answer opens a box, so there is no first token of an answer and no KL."


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run before it is made: its name, the change, and who lends to whom, where anybody does."""

    named: Named
    change: Change
    partners: Partners | None = None


def interventions(
    asker: Asker, collected: Collected, instances: Sequence[Problem], settings: AnalysisSettings, progress: Progress
) -> InterventionsResult:
    """The measure, of a clean run over ``instances`` (in its order)."""
    among = subjects(asker, collected, instances)
    used = collected.with_span()
    notes = without_span(len(instances), len(used))
    runs, doses = ([], []) if not len(used) else _all_views(asker, among, settings, progress)
    if len(used) and _repeats("cut", asker, settings):
        notes.append(SAME_AS_PRESENT)
    if len(used) and all(one.first is None for one in among.clean):
        notes.append(NO_BOX)
    return InterventionsResult(
        header=header(
            "interventions",
            instances,
            used,
            num_latents=collected.num_latents,
            seed=settings.seed,
            notes=notes,
        ),
        runs=tuple(runs),
        dose=tuple(doses),
        latent_std=replacements.spread(among.latents) if len(used) else None,
    )


def _all_views(
    asker: Asker, among: Subjects, settings: AnalysisSettings, progress: Progress
) -> tuple[list[Run], list[Dose]]:
    """All runs under every view of the picture, and the dose-response of each view."""
    states = among.states(asker)
    runs: list[Run] = []
    doses: list[Dose] = []
    for seen in settings.views:
        if _repeats(seen, asker, settings):
            continue
        own = list(among.clean)
        if seen != "present":
            own = among.run(asker, views.feeding(asker, seen, among.latents))
        runs.append(compared(Named(name="own", seen=seen), among.clean, own, settings))
        noisy: list[tuple[float, Run, list[Said]]] = []
        for planned in planned_runs(asker, among, states, seen, settings):
            said = among.run(asker, planned.change)
            runs.append(_compared(asker, among, planned, own, said, settings))
            if planned.named.name == "noise":
                noisy.append((float(planned.named.scale or 0.0), runs[-1], said))
            progress(_event(runs[-1]))
        doses.append(_dose(seen, own, noisy))
    if _repeats("cut", asker, settings):
        runs += [_as_cut(run) for run in runs if run.seen == "present"]
        doses += [dose.model_copy(update={"seen": "cut"}) for dose in doses if dose.seen == "present"]
    order = settings.views.index
    return sorted(runs, key=lambda run: order(run.seen)), sorted(doses, key=lambda dose: order(dose.seen))


def _repeats(seen: Seen, asker: Asker, settings: AnalysisSettings) -> bool:
    """Whether a view is, under the model's own bottleneck, one that is measured anyway."""
    return seen == "cut" and asker.bottleneck != "none" and {"present", "cut"} <= set(settings.views)


def _as_cut(run: Run) -> Run:
    """A run with the picture present as that with the picture cut, where these are the same."""
    return run.model_copy(update={"seen": "cut", "against": "present" if run.name == "own" else "cut"})


def planned_runs(
    asker: Asker, among: Subjects, states: Sequence[SpanStates | None], seen: Seen, settings: AnalysisSettings
) -> Iterator[Planned]:
    """All interventions under one view of the picture."""
    latents, seed = among.latents, settings.seed
    fixed = {
        "clamp": replacements.clamped(latents, seed),
        "mean": replacements.mean(latents),
        "zero": latents.new_zeros(latents.shape),
        "noise-only": replacements.noise_only(latents, seed),
    }
    for name, given in fixed.items():
        yield Planned(named=_named(name, seen), change=views.feeding(asker, seen, given))
    for scale in settings.noise_scales:
        given = replacements.noised(latents, scale, seed)
        named = Named(name="noise", seen=seen, scale=scale, against=seen)
        yield Planned(named=named, change=views.feeding(asker, seen, given))
    yield Planned(named=_named("skip", seen), change=views.skipping(asker, seen, latents))
    for name, partners in exchanges(asker, among, seed).items():
        given = replacements.lent(latents, partners)
        vectors = Named(name=name, seen=seen, way="vectors", against=seen)
        yield Planned(named=vectors, change=views.feeding(asker, seen, given), partners=partners)
        whole = Named(name=name, seen=seen, way="states", against=seen)
        change = views.exchanging(asker, seen, latents, views.lent_states(states, partners))
        yield Planned(named=whole, change=change, partners=partners)


def exchanges(asker: Asker, among: Subjects, seed: int) -> dict[str, Partners]:
    """permute: everyone gives and takes once. swap: from a problem whose answer is wrong here, and the reverse."""
    return {
        "permute": derangement(among.strata, seed),
        "swap": donors(among.strata, _other_answer(asker, among.problems), seed),
    }


def _other_answer(asker: Asker, problems: Sequence[Problem]) -> Callable[[int, int], bool]:
    """Whether the reference answers of two problems are wrong for each other."""

    def suits(receiver: int, donor: int) -> bool:
        one, other = problems[receiver], problems[donor]
        return not asker.judged(one, reference(other)) and not asker.judged(other, reference(one))

    return suits


def reference(problem: Problem) -> Prediction:
    """The reference answer to a problem, as if it had been said."""
    return Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method="reference",
        output=f"\\boxed{{{problem.answer}}}",
        token_ids=(),
        spans=(),
        finished=True,
    )


def _compared(
    asker: Asker,
    among: Subjects,
    planned: Planned,
    own: Sequence[Said],
    said: Sequence[Said],
    settings: AnalysisSettings,
) -> Run:
    if planned.partners is None:
        return compared(planned.named, own, said, settings)
    return compared(planned.named, own, said, settings, lent=(among.problems, planned.partners, asker.judged))


def _dose(seen: Seen, own: Sequence[Said], noisy: Sequence[tuple[float, Run, list[Said]]]) -> Dose:
    """Dose and response of one view; scale 0 is the run with the latents as they are."""
    ordered = sorted(noisy, key=lambda one: one[0])
    answers = [list(own), *(said for _, _, said in ordered)]
    correct = np.array([[one.score.correct for one in said] for said in answers], dtype=bool).T
    scales = (0.0, *(scale for scale, _, _ in ordered))
    accuracy = correct.mean(0)
    fitted = falling(accuracy)
    return Dose(
        seen=seen,
        scales=scales,
        accuracy=tuple(accuracy.tolist()),
        changed=(0.0, *(run.changed.value for _, run, _ in ordered)),
        kl=(0.0 if any(one.first is not None for one in own) else None, *(run.kl.value for _, run, _ in ordered)),
        isotonic=tuple(fitted.tolist()),
        half_scale=half_scale(scales, fitted),
        spearman=rank_correlation(scales, accuracy),
        trend_p=trend_p(correct),
    )


def _named(name: str, seen: Seen) -> Named:
    return Named(name=name, seen=seen, against=seen)


def _event(run: Run) -> ProgressEvent:
    told = {"accuracy": run.accuracy.value, "change": run.change.value}
    metrics = {name: value for name, value in told.items() if value is not None}
    scale = "" if run.scale is None else f" {run.scale:g}"
    way = "" if run.way is None else f" by {run.way}"
    return ProgressEvent(stage="measure", message=f"{run.name}{scale}{way}, picture {run.seen}", metrics=metrics)
