"""Total, direct and indirect effect of the input on the answer: what goes through the latents, what goes past them.

Four runs for each pair of problems X and X' of one group: (X, Z(X)), (X', Z(X)), (X, Z(X')), (X', Z(X')), all judged by
the answer to X. Natural effects: Pearl, Direct and indirect effects (UAI 2001), Definitions 3-5; here for a change from
X to X', with Z set to the value it would take. Legend: n pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mirage_core.analysis.bootstrap import Floats, bootstrap_mean, share
from mirage_core.analysis.collect import CleanRun, span_header
from mirage_core.analysis.donors import NO_DONOR, Donors, derangement, recipients_of
from mirage_core.analysis.intervened_generation import BatchIntervention, GeneratedAnswer, InterventionRunner
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.image_ablation import donor_states, feed_latents, patch_states
from mirage_core.analysis.measures.intervention_effect import kl_or_nan
from mirage_core.analysis.results import Cell, Effects, Estimate, ImageAccess, Mediation, MediationResult, Way
from mirage_core.analysis.subjects import Subjects, select_subjects
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import Units, subset
from mirage_core.generation.interventions import SpanStates
from mirage_core.types import Problem, Progress, ProgressEvent

Origin = Literal["own", "other"]
CellKey = tuple[Origin, Origin]
"""The origin of the input, and of the latents."""
Outcome = Literal["accuracy", "probability", "kl"]

CELLS: tuple[CellKey, ...] = (("own", "own"), ("other", "own"), ("own", "other"), ("other", "other"))
WAYS: tuple[Way, ...] = ("vectors", "states")


def mediation(
    runner: InterventionRunner,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    settings: AnalysisSettings,
    progress: Progress,
) -> MediationResult:
    """Measure the effects, from a clean run over ``instances`` (in its order)."""
    subjects = select_subjects(runner, clean_run, instances)
    donors = derangement(subjects.strata, settings.seed, subjects.units)
    ways: list[Mediation] = []
    if (donors != NO_DONOR).any():
        states = subjects.states(runner)
        for way in WAYS:
            ways.append(_mediation_by(way, runner, subjects, donors, states, settings))
            progress(ProgressEvent(stage="measure", message=f"the four runs, latents exchanged by {way}"))
    return MediationResult(header=span_header("mediation", clean_run, instances, settings), ways=tuple(ways))


def _mediation_by(
    way: Way,
    runner: InterventionRunner,
    subjects: Subjects,
    donors: Donors,
    states: Sequence[SpanStates | None],
    settings: AnalysisSettings,
) -> Mediation:
    """The four runs with latents patched in one way. X' of instance i is ``donors[i]``."""

    def patch(sources: Donors) -> BatchIntervention:
        if way == "vectors":
            return feed_latents(runner, ImageAccess.FULL, replacements.from_donors(subjects.latents, sources))
        return patch_states(runner, ImageAccess.FULL, subjects.latents, donor_states(states, sources))

    received = subjects.run(runner, patch(donors))  # (X_i, Z(X_donor of i))
    donated = subjects.run(runner, patch(recipients_of(donors)))  # (X_j, Z(X_recipient of j)): (X'_i, Z(X_i))
    pairs = np.flatnonzero(donors != NO_DONOR).tolist()
    answers: dict[CellKey, list[GeneratedAnswer]] = {
        ("own", "own"): [subjects.clean[at] for at in pairs],
        ("other", "own"): [donated[donors[at]] for at in pairs],
        ("own", "other"): [received[at] for at in pairs],
        ("other", "other"): [subjects.clean[donors[at]] for at in pairs],
    }
    problems, units = [subjects.problems[at] for at in pairs], subset(subjects.units, pairs)
    outcomes = {cell: outcomes_on(runner, problems, answers[("own", "own")], answers[cell]) for cell in CELLS}
    return Mediation(
        way=way,
        n=len(pairs),
        cells=tuple(_cell(cell, outcomes[cell], settings, units) for cell in CELLS),
        effects=effects(outcomes, settings, units),
    )


def outcomes_on(
    runner: InterventionRunner,
    problems: Sequence[Problem],
    clean: Sequence[GeneratedAnswer],
    answers: Sequence[GeneratedAnswer],
) -> dict[Outcome, Floats]:
    """The outcomes [n] of answers, judged on these problems: whether each is correct, its probability of the clean
    answer's first token, and KL from the clean run; nan where either output has no answer."""
    correct = [runner.is_correct(problem, answer.prediction) for problem, answer in zip(problems, answers, strict=True)]
    pairs = [(own.first_token, answer.first_token) for own, answer in zip(clean, answers, strict=True)]
    probability = [
        float("nan") if first is None or own is None else float(first[own.argmax()].exp()) for own, first in pairs
    ]
    return {
        "accuracy": np.array(correct, dtype=np.float64),
        "probability": np.array(probability),
        "kl": np.array([kl_or_nan(own, first) for own, first in pairs]),
    }


def effects(
    outcomes: Mapping[CellKey, Mapping[Outcome, Floats]], settings: AnalysisSettings, units: Units | None = None
) -> tuple[Effects, ...]:
    """The effects on every outcome, computed pair by pair, with bootstrap intervals over pairs.

    ``units`` [n] of the pairs' recipients (None: every pair is one).
    """
    return tuple(
        _effects(outcome, {key: cell[outcome] for key, cell in outcomes.items()}, settings, units)
        for outcome in outcomes[("own", "own")]
    )


def _effects(
    outcome: Outcome, cells: Mapping[CellKey, Floats], settings: AnalysisSettings, units: Units | None
) -> Effects:
    own = cells[("own", "own")]
    total = cells[("other", "other")] - own
    direct = cells[("other", "own")] - own
    indirect = cells[("own", "other")] - own
    total_mean, indirect_mean = _mean(total, settings, units), _mean(indirect, settings, units)
    return Effects(
        outcome=outcome,
        total=total_mean,
        direct=_mean(direct, settings, units),
        indirect=indirect_mean,
        interaction=_mean(total - direct - indirect, settings, units),
        share=_share(indirect_mean, total_mean),
    )


def _share(indirect: Estimate, total: Estimate) -> float | None:
    """The indirect effect over the total effect; None where the interval of the total effect includes zero."""
    if indirect.value is None or total.value is None or total.low is None or total.high is None:
        return None
    return indirect.value / total.value if total.low * total.high > 0 else None


def _mean(values: Floats, settings: AnalysisSettings, units: Units | None) -> Estimate:
    return bootstrap_mean(values, settings.resamples, settings.seed, units)


def _cell(key: CellKey, outcomes: Mapping[Outcome, Floats], settings: AnalysisSettings, units: Units | None) -> Cell:
    return Cell(
        x=key[0],
        z=key[1],
        accuracy=share(outcomes["accuracy"] > 0, units),
        probability=_mean(outcomes["probability"], settings, units),
        kl=_mean(outcomes["kl"], settings, units),
    )
