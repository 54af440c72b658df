"""Total, direct and indirect effect of the input on the answer: what goes through the latents, what goes past them.

Four runs a pair of problems X and X' of one group: (X, Z(X)), (X', Z(X)), (X, Z(X')), (X', Z(X')), all judged by what
is right for X. Natural effects: Pearl, Direct and indirect effects (UAI 2001), Definitions 3-5; here for a change from
X to X', with Z set to what it would be. Legend: n pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mirage_core.analysis.bootstrap import Floats, bootstrap_mean, share
from mirage_core.analysis.collect import Collected
from mirage_core.analysis.donors import NOBODY, Partners, derangement, inverse
from mirage_core.analysis.intervened_generation import Asker, Change, Said
from mirage_core.analysis.measures import image_ablation as views
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.intervention_effect import first_divergence
from mirage_core.analysis.results import Cell, Effects, Estimate, Mediation, MediationResult, Way, header, without_span
from mirage_core.analysis.subjects import Subjects, subjects
from mirage_core.config import AnalysisSettings
from mirage_core.generation.interventions import SpanStates
from mirage_core.types import Problem, Progress, ProgressEvent

Whose = Literal["own", "other"]
Place = tuple[Whose, Whose]
"""Whose input, whose latents."""
Outcome = Literal["accuracy", "probability", "kl"]

PLACES: tuple[Place, ...] = (("own", "own"), ("other", "own"), ("own", "other"), ("other", "other"))
WAYS: tuple[Way, ...] = ("vectors", "states")


def mediation(
    asker: Asker, collected: Collected, instances: Sequence[Problem], settings: AnalysisSettings, progress: Progress
) -> MediationResult:
    """The measure, of a clean run over ``instances`` (in its order)."""
    among = subjects(asker, collected, instances)
    used = collected.with_span()
    partners = derangement(among.strata, settings.seed)
    found: list[Mediation] = []
    if (partners != NOBODY).any():
        states = among.states(asker)
        for way in WAYS:
            found.append(_one_way(asker, among, partners, states, way, settings))
            progress(ProgressEvent(stage="measure", message=f"the four runs, latents exchanged by {way}"))
    return MediationResult(
        header=header(
            "mediation",
            instances,
            used,
            num_latents=collected.num_latents,
            seed=settings.seed,
            notes=without_span(len(instances), len(used)),
        ),
        ways=tuple(found),
    )


def _one_way(
    asker: Asker,
    among: Subjects,
    partners: Partners,
    states: Sequence[SpanStates | None],
    way: Way,
    settings: AnalysisSettings,
) -> Mediation:
    """The four runs with latents exchanged in one way. X' of instance i is ``partners[i]``."""
    takers = inverse(partners)

    def change(whose: Partners) -> Change:
        if way == "vectors":
            return views.feeding(asker, "present", replacements.lent(among.latents, whose))
        return views.exchanging(asker, "present", among.latents, views.lent_states(states, whose))

    other_latents = among.run(asker, change(partners))  # (X_i, Z(X_partner))
    lent_out = among.run(asker, change(takers))  # (X_j, Z(X_taker of j)): for i with partner j, (X'_i, Z(X_i))
    pairs = np.flatnonzero(partners != NOBODY).tolist()
    said: dict[Place, list[Said]] = {
        ("own", "own"): [among.clean[at] for at in pairs],
        ("other", "own"): [lent_out[partners[at]] for at in pairs],
        ("own", "other"): [other_latents[at] for at in pairs],
        ("other", "other"): [among.clean[partners[at]] for at in pairs],
    }
    problems = [among.problems[at] for at in pairs]
    outcomes = {place: outcomes_on(asker, problems, said[("own", "own")], said[place]) for place in PLACES}
    return Mediation(
        way=way,
        n=len(pairs),
        cells=tuple(_cell(place, outcomes[place], settings) for place in PLACES),
        effects=effects(outcomes, settings),
    )


def outcomes_on(
    asker: Asker, problems: Sequence[Problem], clean: Sequence[Said], said: Sequence[Said]
) -> dict[Outcome, Floats]:
    """Of answers, whoever they were given to: right for these problems, how probable the clean answer's first token
    is, and KL from the clean run; nan where one begins no answer."""
    right = [asker.judged(problem, one.prediction) for problem, one in zip(problems, said, strict=True)]
    probable = [
        float("nan") if one.first is None or own.first is None else float(one.first[own.first.argmax()].exp())
        for own, one in zip(clean, said, strict=True)
    ]
    apart = [first_divergence(own.first, one.first) for own, one in zip(clean, said, strict=True)]
    return {
        "accuracy": np.array(right, dtype=np.float64),
        "probability": np.array(probable),
        "kl": np.array(apart),
    }


def effects(outcomes: Mapping[Place, Mapping[Outcome, Floats]], settings: AnalysisSettings) -> tuple[Effects, ...]:
    """Effects on every outcome, pair by pair, with paired bootstrap intervals."""
    return tuple(
        _effects(outcome, {place: found[outcome] for place, found in outcomes.items()}, settings)
        for outcome in outcomes[("own", "own")]
    )


def _effects(outcome: Outcome, cells: Mapping[Place, Floats], settings: AnalysisSettings) -> Effects:
    own = cells[("own", "own")]
    total = cells[("other", "other")] - own
    direct = cells[("other", "own")] - own
    indirect = cells[("own", "other")] - own
    whole, through = _mean(total, settings), _mean(indirect, settings)
    return Effects(
        outcome=outcome,
        total=whole,
        direct=_mean(direct, settings),
        indirect=through,
        interaction=_mean(total - direct - indirect, settings),
        share=_share(through, whole),
    )


def _share(through: Estimate, whole: Estimate) -> float | None:
    """The indirect effect over the total one, where the total one is clear of zero."""
    if through.value is None or whole.value is None or whole.low is None or whole.high is None:
        return None
    return through.value / whole.value if whole.low * whole.high > 0 else None


def _mean(values: Floats, settings: AnalysisSettings) -> Estimate:
    return bootstrap_mean(values, settings.resamples, settings.seed)


def _cell(place: Place, outcomes: Mapping[Outcome, Floats], settings: AnalysisSettings) -> Cell:
    return Cell(
        x=place[0],
        z=place[1],
        accuracy=share(outcomes["accuracy"] > 0),
        probability=_mean(outcomes["probability"], settings),
        kl=_mean(outcomes["kl"], settings),
    )
