"""X -> Z by probing: whether a linear probe predicts facts about the problem from latents, and from other states.

Every benchmark is probed separately, and held out by picture. Controls: the most frequent class of the instance's
group, the same probe on labels shuffled within groups (whole pictures with their labels), and the same probe on image
features and on the state before the span. Legend: N instances, D numbers of a state, C targets, R label sets (the true
one first).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_core.analysis.bootstrap import Floats, bootstrap_mean, share
from mirage_core.analysis.collect import CleanRun, span_header
from mirage_core.analysis.measures.linear_probe import (
    CrossValidation,
    class_hits,
    class_targets,
    cross_validate,
    folds_of,
    sign_hits,
)
from mirage_core.analysis.measures.probe_targets import MOST_CLASSES, Fact, facts_of, unit_names
from mirage_core.analysis.results import Estimate, Probe, ProbesResult
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import Units, exchangeable, exchanged, picture_units, subset
from mirage_core.types import Problem

MIN_INSTANCES = 20
"""Fewer instances are not probed."""


def probes(clean_run: CleanRun, problems: Sequence[Problem], settings: AnalysisSettings) -> ProbesResult:
    """Measure all probes, from a clean run over ``problems`` (in its order)."""
    used = clean_run.with_span().tolist()
    results: list[Probe] = []
    skipped: dict[str, str] = {}
    for name in sorted({problems[at].benchmark for at in used}):
        chosen = np.array([at for at in used if problems[at].benchmark == name], dtype=np.int64)
        states = _states(clean_run, chosen)
        probed, reasons = benchmark_probes([problems[at] for at in chosen], states, settings)
        results += [each.model_copy(update={"fact": f"{name}: {each.fact}"}) for each in probed]
        skipped |= {f"{name}: {fact}": reason for fact, reason in reasons.items()}
    return ProbesResult(
        header=span_header("probes", clean_run, problems, settings), probes=tuple(results), skipped=skipped
    )


def benchmark_probes(
    problems: Sequence[Problem], states: Mapping[str, Floats], settings: AnalysisSettings
) -> tuple[list[Probe], dict[str, str]]:
    """Probes of all facts of one benchmark from named states [N, D]; and the reason for each fact left out."""
    names, units = unit_names(problems), picture_units(problems)
    folds = folds_of(names, settings.folds, settings.seed)
    groups = [problem.group for problem in problems]
    results: list[Probe] = []
    skipped: dict[str, str] = {}
    for fact in facts_of(problems):
        reason = _skip_reason(fact, len(problems), folds)
        if reason is not None:
            skipped[fact.name] = reason
            continue
        results += [probe(fact, name, states[name], groups, folds, settings, units) for name in states]
    return results, skipped


def probe(
    fact: Fact,
    name: str,
    states: Floats,
    groups: Sequence[str],
    folds: NDArray[np.int64],
    settings: AnalysisSettings,
    units: Units | None = None,
) -> Probe:
    """One probe from states [N, D] to a fact, with its controls.

    ``folds`` [N] and ``units`` [N] go by picture: instances of one unit are in one fold (None: each is a unit).
    """
    targets, classes = (fact.signs, 2) if fact.signs is not None else class_targets(fact.labels)
    hits = sign_hits if fact.signs is not None else class_hits
    orders = [np.arange(len(states)), *_shuffles(groups, settings.shuffles, settings.seed, units)]
    label_sets = np.stack([targets[order] for order in orders])
    validated = cross_validate(states, label_sets, folds, settings.penalties, hits)
    shuffled = np.nanmean(validated.hits[1:], axis=1)
    at_least = int((shuffled >= float(np.nanmean(validated.hits[0])) - 1e-12).sum())
    return Probe(
        fact=fact.name,
        states=name,
        classes=classes,
        train=round(len(states) * (1 - 1 / len(set(folds.tolist())))),
        test=len(states),
        accuracy=_accuracy(validated, settings, units),
        pictures=None if units is None else len(set(units.tolist())),
        majority=_majority(fact, targets, groups, folds),
        shuffled=Estimate(
            value=float(shuffled.mean()), low=float(shuffled.min()), high=float(shuffled.max()), n=len(shuffled)
        ),
        p_value=(1 + at_least) / (1 + len(shuffled)),
        penalty=float(validated.penalty[0]),
    )


def _states(clean_run: CleanRun, chosen: NDArray[np.int64]) -> dict[str, Floats]:
    """The states to probe [n, D], by name: latents together and one by one, then the controls."""
    latents = clean_run.latents[chosen].double().numpy()
    pooled = clean_run.image_pooled[chosen].double().numpy()
    states = {
        "latents": latents.reshape(len(latents), -1),
        **{f"latent-{index}": latents[:, index] for index in range(latents.shape[1])},
        "image-features": clean_run.image_features[chosen].double().numpy(),
        "image-pooled": pooled.reshape(len(pooled), -1),
        "text-before": clean_run.text_before[chosen].double().numpy(),
    }
    return {name: each for name, each in states.items() if each.shape[1]}


def _skip_reason(fact: Fact, instances: int, folds: NDArray[np.int64]) -> str | None:
    """Why a fact cannot be probed; None where it can."""
    if instances < MIN_INSTANCES:
        return f"{instances} instances, fewer than {MIN_INSTANCES}"
    if len(set(folds.tolist())) < 2:
        return "all instances show one image"
    if fact.signs is not None:
        return None
    classes = len(set(fact.labels))
    if classes < 2:
        return "it is the same in all instances"
    if classes > MOST_CLASSES or classes > instances // 2:
        return f"{classes} classes in {instances} instances: a text, not a category"
    return None


def _shuffles(groups: Sequence[str], times: int, seed: int, units: Units | None = None) -> list[NDArray[np.int64]]:
    """Random orders of the labels that keep every label in its group, and the labels of a unit together.

    A unit takes the labels of another one with as many instances in the same groups: labels of one picture are alike,
    so moving them one by one would make a probe of pictures look better than chance.
    """
    generator = np.random.default_rng(seed)
    blocks = exchangeable(groups, np.arange(len(groups)) if units is None else units)
    return [exchanged(blocks, generator) for _ in range(times)]


def _accuracy(validated: CrossValidation, settings: AnalysisSettings, units: Units | None) -> Estimate:
    """Held-out accuracy of the true labels, with Wilson's interval where every hit is 0 or 1, else the bootstrap's."""
    known = np.flatnonzero(np.isfinite(validated.hits[0]))
    hits, units = validated.hits[0][known], subset(units, known)
    if np.isin(hits, (0.0, 1.0)).all():
        return share(hits > 0.5, units)
    return bootstrap_mean(hits, settings.resamples, settings.seed, units)


def _majority(fact: Fact, targets: Floats, groups: Sequence[str], folds: NDArray[np.int64]) -> float:
    """Held-out accuracy of the most frequent value in the other folds, within the group where it occurs there."""
    right = np.full(len(targets), np.nan)
    names = np.array(groups)
    for at in range(len(targets)):
        others = folds != folds[at]
        same_group = others & (names == names[at])
        train = targets[same_group if same_group.any() else others]
        right[at] = _majority_hit(fact, train, targets[at])
    return float(np.nanmean(right))


def _majority_hit(fact: Fact, train: Floats, test: Floats) -> float:
    """The score of the most frequent value of ``train`` [n, C] on one instance [C]."""
    if fact.signs is None:
        return float(Counter(train.argmax(1).tolist()).most_common(1)[0][0] == int(test.argmax()))
    common = np.where(train.sum(0) >= 0, 1.0, -1.0)
    return float(sign_hits(common, test))
