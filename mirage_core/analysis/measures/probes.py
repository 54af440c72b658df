"""X -> Z by reading: can a linear probe tell facts of the world from latents, and from what else?

Every benchmark is probed apart. Controls: the commonest class of the instance's group, the same probe on labels that
were shuffled within groups, and the same probe on image features and on the state before the span. Legend:
N instances, D numbers of a state, C targets, R label sets (the true one first).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_core.analysis.bootstrap import Floats, bootstrap_mean, share
from mirage_core.analysis.collect import Collected
from mirage_core.analysis.measures.linear_probe import Held, class_hits, class_targets, folds_of, held_out, sign_hits
from mirage_core.analysis.measures.probe_targets import MOST_CLASSES, Fact, facts_of, unit_of
from mirage_core.analysis.results import Estimate, Probe, ProbesResult, header, without_span
from mirage_core.config import AnalysisSettings
from mirage_core.types import Problem

FEWEST = 20
"""Instances below which a probe says nothing."""


def probes(collected: Collected, problems: Sequence[Problem], settings: AnalysisSettings) -> ProbesResult:
    """The measure, of a clean run over ``problems`` (in its order)."""
    used = collected.with_span()
    found: list[Probe] = []
    skipped: dict[str, str] = {}
    for name in sorted({problems[at].benchmark for at in used.tolist()}):
        chosen = np.array([at for at in used.tolist() if problems[at].benchmark == name], dtype=np.int64)
        one, left = benchmark_probes([problems[at] for at in chosen], _states(collected, chosen), settings)
        found += [probe.model_copy(update={"fact": f"{name}: {probe.fact}"}) for probe in one]
        skipped |= {f"{name}: {fact}": why for fact, why in left.items()}
    return ProbesResult(
        header=header(
            "probes",
            problems,
            used,
            num_latents=collected.num_latents,
            seed=settings.seed,
            notes=without_span(len(problems), len(used)),
        ),
        probes=tuple(found),
        skipped=skipped,
    )


def benchmark_probes(
    problems: Sequence[Problem], states: Mapping[str, Floats], settings: AnalysisSettings
) -> tuple[list[Probe], dict[str, str]]:
    """Probes of all facts of problems of one benchmark from states [N, D] by their names; and facts left out, why."""
    folds = folds_of([unit_of(problem) for problem in problems], settings.folds, settings.seed)
    groups = [problem.group for problem in problems]
    found: list[Probe] = []
    skipped: dict[str, str] = {}
    for fact in facts_of(problems):
        why = _unfit(fact, len(problems), folds)
        if why is not None:
            skipped[fact.name] = why
            continue
        found += [probe(fact, name, states[name], groups, folds, settings) for name in states]
    return found, skipped


def probe(
    fact: Fact, name: str, states: Floats, groups: Sequence[str], folds: NDArray[np.int64], settings: AnalysisSettings
) -> Probe:
    """One probe from states [N, D] to a fact, with its controls."""
    targets, classes = (fact.signs, 2) if fact.signs is not None else class_targets(fact.labels)
    hits = sign_hits if fact.signs is not None else class_hits
    orders = [np.arange(len(states)), *_shuffles(groups, settings.shuffles, settings.seed)]
    held = held_out(states, np.stack([targets[order] for order in orders]), folds, settings.penalties, hits)
    shuffled = np.nanmean(held.hits[1:], axis=1)
    accuracy = _accuracy(held, settings)
    at_least = int((shuffled >= float(np.nanmean(held.hits[0])) - 1e-12).sum())
    return Probe(
        fact=fact.name,
        states=name,
        classes=classes,
        train=round(len(states) * (1 - 1 / len(set(folds.tolist())))),
        test=len(states),
        accuracy=accuracy,
        majority=_majority(fact, targets, groups, folds),
        shuffled=Estimate(
            value=float(shuffled.mean()), low=float(shuffled.min()), high=float(shuffled.max()), n=len(shuffled)
        ),
        p_value=(1 + at_least) / (1 + len(shuffled)),
        penalty=float(held.penalty[0]),
    )


def _states(collected: Collected, chosen: NDArray[np.int64]) -> dict[str, Floats]:
    """What is probed [n, D], by name: latents together and one by one, then the states beside them."""
    latents = collected.latents[chosen].double().numpy()
    found = {"latents": latents.reshape(len(latents), -1)}
    found |= {f"latent-{place}": latents[:, place] for place in range(latents.shape[1])}
    found["image-features"] = collected.image_features[chosen].double().numpy()
    pooled = collected.image_pooled[chosen].double().numpy()
    found["image-pooled"] = pooled.reshape(len(pooled), -1)
    found["text-before"] = collected.text_before[chosen].double().numpy()
    return {name: states for name, states in found.items() if states.shape[1]}


def _unfit(fact: Fact, instances: int, folds: NDArray[np.int64]) -> str | None:
    """Why a fact cannot be probed; None where it can."""
    if instances < FEWEST:
        return f"{instances} instances, fewer than {FEWEST}"
    if len(set(folds.tolist())) < 2:
        return "all instances show one picture"
    if fact.signs is not None:
        return None
    classes = len(set(fact.labels))
    if classes < 2:
        return "it is the same in all instances"
    if classes > MOST_CLASSES or classes > instances // 2:
        return f"{classes} classes in {instances} instances: a text, not a category"
    return None


def _shuffles(groups: Sequence[str], times: int, seed: int) -> list[NDArray[np.int64]]:
    """Orders of the labels that keep every label in its group."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(np.array(groups) == group) for group in sorted(set(groups))]
    orders: list[NDArray[np.int64]] = []
    for _ in range(times):
        order = np.arange(len(groups))
        for inside in members:
            order[inside] = generator.permutation(inside)
        orders.append(order)
    return orders


def _accuracy(held: Held, settings: AnalysisSettings) -> Estimate:
    """Held-out accuracy of the true labels: Wilson's interval of whole hits, else the bootstrap's."""
    hits = held.hits[0][np.isfinite(held.hits[0])]
    if np.isin(hits, (0.0, 1.0)).all():
        return share(hits > 0.5)
    return bootstrap_mean(hits, settings.resamples, settings.seed)


def _majority(fact: Fact, targets: Floats, groups: Sequence[str], folds: NDArray[np.int64]) -> float:
    """Held-out accuracy of what is commonest among the other folds' instances of the same group (of all, else)."""
    right = np.full(len(targets), np.nan)
    names = np.array(groups)
    for at in range(len(targets)):
        others = folds != folds[at]
        near = others & (names == names[at])
        taught = targets[near if near.any() else others]
        right[at] = _guess(fact, taught, targets[at])
    return float(np.nanmean(right))


def _guess(fact: Fact, taught: Floats, asked: Floats) -> float:
    """How right the commonest value of ``taught`` [n, C] is for one instance [C]."""
    if fact.signs is None:
        return float(Counter(taught.argmax(1).tolist()).most_common(1)[0][0] == int(asked.argmax()))
    common = np.where(taught.sum(0) >= 0, 1.0, -1.0)
    return float(sign_hits(common, asked))
