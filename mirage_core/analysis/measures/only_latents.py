"""Latents as the only visual input: accuracy without image access, but with the latents of the clean run.

The clean run's latents are fed without image access: first, text after the span attends to prompt and latents; then,
in the strictest run, to nothing but the latents. Compared with other latents, with the same model without the picture
(latents of its own, then), with chance, and with full image access.
Legend: n subjects, k latents, D hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.bootstrap import bootstrap_mean
from mirage_core.analysis.collect import CleanRun, span_header
from mirage_core.analysis.donors import derangement
from mirage_core.analysis.intervened_generation import BatchIntervention, InterventionRunner, replace_latents
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.image_ablation import feed_latents
from mirage_core.analysis.measures.intervention_effect import IsCorrect, Patching, RunLabel, compare
from mirage_core.analysis.measures.interventions import reference
from mirage_core.analysis.results import Chance, ImageAccess, OnlyLatentsResult, Run
from mirage_core.analysis.subjects import Subjects, select_subjects
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import picture_units
from mirage_core.generation.interventions import Interventions
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent

_MAX_CONSTANT_ANSWERS = 50  # distinct reference answers that are tried on all problems, the most frequent first
_MAX_OTHERS = 20  # other problems whose answer is tried on a problem
_ALL = "all"


def only_latents(
    runner: InterventionRunner,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    settings: AnalysisSettings,
    progress: Progress,
) -> OnlyLatentsResult:
    """Measure the runs and chance, from a clean run over ``instances`` (in its order)."""
    subjects = select_subjects(runner, clean_run, instances)
    clean = [answer.prediction for answer in subjects.clean]
    return OnlyLatentsResult(
        header=span_header("only-latents", clean_run, instances, settings),
        runs=tuple(_runs(runner, subjects, settings, progress)) if subjects.problems else (),
        chance=chance_baselines(subjects.problems, clean, runner.is_correct, settings),
    )


def _runs(runner: InterventionRunner, subjects: Subjects, settings: AnalysisSettings, progress: Progress) -> list[Run]:
    """Own latents with less and less image access, then other latents without, and the model without the picture."""
    latents, seed, units = subjects.latents, settings.seed, subjects.units
    full, masked, none = ImageAccess
    runs = [compare(RunLabel(name="own", seen=full), subjects.clean, subjects.clean, settings, units=units)]
    noise = replacements.noise_only(latents, seed)
    planned: list[tuple[RunLabel, BatchIntervention]] = [
        (RunLabel(name="own", seen=masked), feed_latents(runner, masked, latents)),
        (RunLabel(name="own", seen=none), feed_latents(runner, none, latents)),
        (RunLabel(name="own-alone", seen=none), _latents_alone(latents)),
        (RunLabel(name="zero", seen=none), feed_latents(runner, none, latents.new_zeros(latents.shape))),
        (RunLabel(name="noise-only", seen=none), feed_latents(runner, none, noise)),
        (RunLabel(name="blind", seen=none), lambda index: Interventions(image="hidden")),  # noqa: ARG005
    ]
    for label, intervene in planned:
        runs.append(compare(label, subjects.clean, subjects.run(runner, intervene), settings, units=units))
        progress(ProgressEvent(stage="measure", message=f"{label.name}, image {label.seen}"))
    donors = derangement(subjects.strata, seed, units)
    answers = subjects.run(runner, feed_latents(runner, none, replacements.from_donors(latents, donors)))
    label = RunLabel(name="permute", seen=none, way="vectors")
    patching = Patching(subjects.problems, donors, runner.is_correct)
    return [*runs, compare(label, subjects.clean, answers, settings, patching=patching, units=units)]


def _latents_alone(latents: Tensor) -> BatchIntervention:
    """Feed these latents [N, k, D]; text after the span attends to nothing but their vectors."""

    def intervene(index: NDArray[np.int64]) -> Interventions:
        return Interventions(image="hidden", bottleneck="latent_only", latents=replace_latents(latents, index))

    return intervene


def chance_baselines(
    problems: Sequence[Problem], clean: Sequence[Prediction], is_correct: IsCorrect, settings: AnalysisSettings
) -> tuple[Chance, ...]:
    """Chance for each group of a benchmark and each benchmark as a whole, from problems and clean answers [n]."""
    rows: list[Chance] = []
    for benchmark in sorted({problem.benchmark for problem in problems}):
        members = [at for at, problem in enumerate(problems) if problem.benchmark == benchmark]
        groups = sorted({problems[at].group for at in members})
        for group in (*groups, _ALL) if len(groups) > 1 else groups:
            inside = [at for at in members if group in (_ALL, problems[at].group)]
            asked, answers = [problems[at] for at in inside], [clean[at] for at in inside]
            shuffled = np.array(shuffled_accuracy(asked, answers, is_correct, settings.seed))
            rows.append(
                Chance(
                    benchmark=benchmark,
                    group=group,
                    n=len(asked),
                    majority=majority_accuracy(asked, is_correct),
                    shuffled=bootstrap_mean(shuffled, settings.resamples, settings.seed, picture_units(asked)),
                )
            )
    return tuple(rows)


def majority_accuracy(problems: Sequence[Problem], is_correct: IsCorrect) -> float:
    """Accuracy of the reference answer that is correct most often, given to all problems.

    The answer is chosen on the same problems, so this is an upper bound for a constant answer.
    """
    counts = Counter(problem.answer for problem in problems)
    by_answer = {problem.answer: problem for problem in problems}
    constants = [reference(by_answer[answer]) for answer, _ in counts.most_common(_MAX_CONSTANT_ANSWERS)]
    return max(sum(is_correct(problem, answer) for problem in problems) / len(problems) for answer in constants)


def shuffled_accuracy(
    problems: Sequence[Problem], clean: Sequence[Prediction], is_correct: IsCorrect, seed: int
) -> list[float]:
    """For each problem [n] the share of other problems' answers that are correct for it; nan for a single problem."""
    order = np.random.default_rng(seed).permutation(len(problems)).tolist()
    steps = range(1, min(_MAX_OTHERS, len(problems) - 1) + 1)
    accuracy = [float("nan")] * len(problems)
    for position, at in enumerate(order):
        others = [order[(position + step) % len(order)] for step in steps]
        if others:
            accuracy[at] = sum(is_correct(problems[at], clean[other]) for other in others) / len(others)
    return accuracy
