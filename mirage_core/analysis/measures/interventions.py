"""Z -> Y by experiment: answers when latents are replaced or patched, under every image access; and dose-response.

Every run feeds a tensor that was computed beforehand, or patches keys and values; nothing else changes, positions
included. Legend: n subjects, k latents, D hidden, S scales.
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
from mirage_core.analysis.collect import CleanRun, span_header
from mirage_core.analysis.donors import Donors, assign_donors, derangement
from mirage_core.analysis.intervened_generation import BatchIntervention, GeneratedAnswer, InterventionRunner
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.image_ablation import donor_states, feed_latents, patch_states, skip_latents
from mirage_core.analysis.measures.intervention_effect import Patching, RunLabel, compare
from mirage_core.analysis.results import Dose, ImageAccess, InterventionsResult, Run
from mirage_core.analysis.subjects import Subjects, select_subjects
from mirage_core.config import AnalysisSettings
from mirage_core.errors import InputError
from mirage_core.evaluation.pictures import Units
from mirage_core.generation.interventions import SpanStates
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent

SAME_AS_FULL_ACCESS = (
    "The model's own bottleneck masks as much as the cut does, so the runs with the cut equal those with the image "
    "present."
)
NO_BOX = "No clean answer opens a box, so there is no first token of an answer and no KL."
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run to generate: its label, the intervention, and the donors where latents are patched."""

    label: RunLabel
    intervene: BatchIntervention
    donors: Donors | None = None


def interventions(
    runner: InterventionRunner,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    settings: AnalysisSettings,
    progress: Progress,
) -> InterventionsResult:
    """Measure all interventions, from a clean run over ``instances`` (in its order)."""
    subjects = select_subjects(runner, clean_run, instances)
    used = len(subjects.problems) > 0
    runs, doses = _all_accesses(runner, subjects, settings, progress) if used else ([], [])
    notes = [SAME_AS_FULL_ACCESS] if used and _is_redundant(ImageAccess.MASKED_AFTER_SPAN, runner, settings) else []
    if used and all(answer.first_token is None for answer in subjects.clean):
        notes.append(NO_BOX)
    return InterventionsResult(
        header=span_header("interventions", clean_run, instances, settings, notes=notes),
        runs=tuple(runs),
        dose=tuple(doses),
        latent_std=replacements.overall_std(subjects.latents) if used else None,
    )


def _all_accesses(
    runner: InterventionRunner, subjects: Subjects, settings: AnalysisSettings, progress: Progress
) -> tuple[list[Run], list[Dose]]:
    """All runs and the dose-response under every image access, in the order of ``settings.views``."""
    states, units = subjects.states(runner), subjects.units
    runs: list[Run] = []
    doses: list[Dose] = []
    for access in map(ImageAccess, settings.views):
        if _is_redundant(access, runner, settings):
            continue
        own = list(subjects.clean)
        if access != ImageAccess.FULL:
            own = subjects.run(runner, feed_latents(runner, access, subjects.latents))
        runs.append(compare(RunLabel(name="own", seen=access), subjects.clean, own, settings, units=units))
        noisy: list[tuple[float, Run, list[GeneratedAnswer]]] = []
        for planned in planned_runs(runner, subjects, states, access, settings):
            answers = subjects.run(runner, planned.intervene)
            donors = planned.donors
            patching = None if donors is None else Patching(subjects.problems, donors, runner.is_correct)
            runs.append(compare(planned.label, own, answers, settings, patching=patching, units=units))
            if planned.label.name == "noise":
                noisy.append((float(planned.label.scale or 0.0), runs[-1], answers))
            progress(_event(runs[-1]))
        doses.append(_dose_response(access, own, noisy, units))
    if _is_redundant(ImageAccess.MASKED_AFTER_SPAN, runner, settings):
        runs += [_as_masked(run) for run in runs if run.seen == ImageAccess.FULL]
        masked = {"seen": ImageAccess.MASKED_AFTER_SPAN}
        doses += [dose.model_copy(update=masked) for dose in doses if dose.seen == ImageAccess.FULL]
    order = settings.views.index
    return sorted(runs, key=lambda run: order(run.seen.value)), sorted(doses, key=lambda dose: order(dose.seen.value))


def _is_redundant(access: ImageAccess, runner: InterventionRunner, settings: AnalysisSettings) -> bool:
    """Whether the model's own bottleneck makes this access the same as full access, which is measured too."""
    masked = access == ImageAccess.MASKED_AFTER_SPAN
    return masked and runner.bottleneck != "none" and {"present", "cut"} <= set(settings.views)


def _as_masked(run: Run) -> Run:
    """A run with full access, labelled as the equal run that is masked after the span."""
    masked = ImageAccess.MASKED_AFTER_SPAN
    return run.model_copy(update={"seen": masked, "against": ImageAccess.FULL if run.name == "own" else masked})


def planned_runs(
    runner: InterventionRunner,
    subjects: Subjects,
    states: Sequence[SpanStates | None],
    access: ImageAccess,
    settings: AnalysisSettings,
) -> Iterator[PlannedRun]:
    """All interventions under one image access."""
    latents, seed = subjects.latents, settings.seed
    fixed = {
        "clamp": replacements.clamped(latents, seed),
        "mean": replacements.mean(latents),
        "zero": latents.new_zeros(latents.shape),
        "noise-only": replacements.noise_only(latents, seed),
    }
    for name, replacement in fixed.items():
        label = RunLabel(name=name, seen=access, against=access)
        yield PlannedRun(label=label, intervene=feed_latents(runner, access, replacement))
    for scale in settings.noise_scales:
        label = RunLabel(name="noise", seen=access, scale=scale, against=access)
        noised = replacements.noised(latents, scale, seed)
        yield PlannedRun(label=label, intervene=feed_latents(runner, access, noised))
    label = RunLabel(name="skip", seen=access, against=access)
    yield PlannedRun(label=label, intervene=skip_latents(runner, access, latents))
    for name, donors in donors_by_run(runner, subjects, seed).items():
        label = RunLabel(name=name, seen=access, way="vectors", against=access)
        patched = replacements.from_donors(latents, donors)
        yield PlannedRun(label=label, intervene=feed_latents(runner, access, patched), donors=donors)
        label = RunLabel(name=name, seen=access, way="states", against=access)
        intervene = patch_states(runner, access, latents, donor_states(states, donors))
        yield PlannedRun(label=label, intervene=intervene, donors=donors)


def donors_by_run(runner: InterventionRunner, subjects: Subjects, seed: int) -> dict[str, Donors]:
    """permute: every subject donates and receives once. swap: from a problem whose answer is wrong for the recipient's,
    and the reverse."""
    return {
        "permute": derangement(subjects.strata, seed, subjects.units),
        "swap": assign_donors(subjects.strata, _answers_differ(runner, subjects.problems), seed, subjects.units),
    }


def _answers_differ(runner: InterventionRunner, problems: Sequence[Problem]) -> Callable[[int, int], bool]:
    """Whether the reference answers of two problems are wrong for each other."""

    def is_suitable(recipient: int, donor: int) -> bool:
        first, second = problems[recipient], problems[donor]
        return not runner.is_correct(first, reference(second)) and not runner.is_correct(second, reference(first))

    return is_suitable


def reference(problem: Problem) -> Prediction:
    """The reference answer to a problem, as a prediction."""
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


def _event(run: Run) -> ProgressEvent:
    figures = {"accuracy": run.accuracy.value, "change": run.change.value}
    metrics = {name: value for name, value in figures.items() if value is not None}
    scale = "" if run.scale is None else f" {run.scale:g}"
    way = "" if run.way is None else f" by {run.way}"
    return ProgressEvent(stage="measure", message=f"{run.name}{scale}{way}, image {run.seen}", metrics=metrics)


def _dose_response(
    access: ImageAccess,
    own: Sequence[GeneratedAnswer],
    noisy: Sequence[tuple[float, Run, list[GeneratedAnswer]]],
    units: Units,
) -> Dose:
    """The dose-response under one image access; scale 0 is the run with own latents."""
    ordered = sorted(noisy, key=lambda entry: entry[0])
    answers = [list(own), *(noised for _, _, noised in ordered)]
    correct = np.array([[answer.score.correct for answer in scale] for scale in answers], dtype=bool).T
    scales = (0.0, *(scale for scale, _, _ in ordered))
    accuracy = correct.mean(0)
    fitted = fit_falling(accuracy)
    clean_kl = 0.0 if any(answer.first_token is not None for answer in own) else None
    return Dose(
        seen=access,
        scales=scales,
        accuracy=tuple(accuracy.tolist()),
        changed=(0.0, *(run.changed.value for _, run, _ in ordered)),
        kl=(clean_kl, *(run.kl.value for _, run, _ in ordered)),
        isotonic=tuple(fitted.tolist()),
        half_scale=half_scale(scales, fitted),
        spearman=rank_correlation(scales, accuracy),
        trend_p=trend_p(correct, units),
    )


def fit_falling(accuracy: Floats) -> Floats:
    """The non-increasing accuracies [S] nearest to these (isotonic regression)."""
    fitted: Floats = np.asarray(isotonic_regression(accuracy, increasing=False).x, dtype=np.float64)
    return fitted


def half_scale(scales: Sequence[float], fitted: Floats) -> float | None:
    """The scale at which a falling curve has lost half of its total loss, by linear interpolation; None: no loss."""
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


def trend_p(correct: NDArray[np.bool_], units: Units | None = None) -> float | None:
    """One-sided p-value of falling accuracy over the scales, of correct [n, S].

    Mantel's extension test with every unit [n] of instances as a stratum (J. Am. Statist. Assoc. 58 (1963) 690-700;
    ``units`` None: each instance is one): without an effect, the numbers of correct answers of a unit are equally
    likely in every order of the scales. Only units that change count, so answers that are always correct or always
    wrong do not weaken it. None for fewer than three scales or two units; 1 where no unit changes.
    """
    scales = correct.shape[1]
    units = np.arange(len(correct)) if units is None else units
    if scales < 3 or int(units.max(initial=-1)) < 1:
        return None
    ranks = np.arange(scales) - (scales - 1) / 2
    right = np.stack([np.bincount(units, weights=column) for column in correct.T], axis=1)
    spread = scales * float((right**2).sum()) - float((right.sum(1) ** 2).sum())  # exact: counts are whole
    variance = spread / (scales - 1) * float((ranks**2).mean())
    if variance == 0:
        return 1.0
    return NormalDist().cdf(float((right * ranks).sum()) / sqrt(variance))
