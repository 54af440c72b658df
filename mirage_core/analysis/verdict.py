"""The verdict on each edge, by stated rules: do latents carry the input (X -> Z), and drive the answer (Z -> Y)?

"no" is not the absence of a "yes": it needs an interval that lies within a margin. Anything else is "not shown".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field
from scipy.stats import binom

from mirage_core.analysis.number_format import p_equals, percent, points, shares
from mirage_core.analysis.results import (
    Estimate,
    ImageAccess,
    InterventionsResult,
    Probe,
    ProbesResult,
    Record,
    Run,
    SimilarityResult,
    TextChainResult,
)
from mirage_core.evaluation.statistics import holm, wilson

Outcome = Literal["yes", "no", "not shown"]

LEVEL = 0.05
ANSWER_MARGIN = 0.02
"""Change of accuracy (as a share) within which patching latents counts as no change."""
PROBE_MARGIN = 0.05
"""Probe accuracy (as a share) above its controls below which latents count as not encoding a fact."""
EXCHANGES = ("permute", "swap")
"""The runs that patch the latents of a donor."""
CONTROLS = ("image-features", "image-pooled", "text-before")
"""States from which a fact must be readable before its absence from the latents means anything."""

ACCESS_PHRASES: dict[ImageAccess, str] = {
    ImageAccess.FULL: "with the image in view",
    ImageAccess.MASKED_AFTER_SPAN: "with the image cut off after the latents",
    ImageAccess.NONE: "without an image",
}

RULES = (
    "Z -> Y is “yes” when exchanging latents between problems (permute or swap) lowers accuracy (the 95 % interval of "
    "the change lies below 0, and McNemar's p, Holm-corrected over the exchanges, is below .05) and answers follow the "
    "donor: the interval of the share of answers right for the donor's problem lies above that of the clean answers.",
    "Z -> Y is “no” only when, for every exchange, the whole interval of the change lies within "
    f"±{100 * ANSWER_MARGIN:g} points, and clean accuracy is high enough to detect a fall (its interval lies above "
    f"{100 * ANSWER_MARGIN:g} %). Anything else is “not shown by n = ...”.",
    "X -> Z is “yes” when a linear probe reads a fact about the input from the latents: held-out accuracy above every "
    "probe of shuffled labels, and a one-sided binomial test against the better control (majority class, mean of the "
    "shuffled) with p below .05, Holm-corrected over all probes of the latents.",
    f"X -> Z is “no” only when no probe does, every probe's interval ends less than {100 * PROBE_MARGIN:g} points "
    "above both controls (majority and shuffled labels), and for each fact the same probe does read it from the "
    "image or the text before the latents: a probe that finds a fact nowhere says nothing about latents. Anything else "
    "is “not shown by n = ...”.",
    "chain -> Y, for a reasoning chain in words, follows the rules of Z -> Y; the exchange is another problem's chain "
    "(other).",
    "Similarity, mediation, dose-response, the latent lens and PCA are descriptions; no verdict depends on them.",
)


class EdgeVerdict(Record):
    """The verdict on one edge: ``said`` in one sentence, ``because``: the figures it follows from, in sentences."""

    edge: Literal["X -> Z", "Z -> Y", "chain -> Y"]
    seen: ImageAccess | None = Field(None, description="For Z -> Y: the image access.")
    outcome: Outcome
    n: int
    said: str
    because: tuple[str, ...]


class Verdict(Record):
    """The verdicts and their headline, which is about the first edge of each kind."""

    headline: str
    edges: tuple[EdgeVerdict, ...]
    rules: tuple[str, ...] = RULES

    def edge(self, name: str) -> EdgeVerdict | None:
        """The verdict on an edge; None where it was not measured."""
        return next((each for each in self.edges if each.edge == name), None)


def derive_verdict(
    interventions: InterventionsResult | None,
    probes: ProbesResult | None,
    similarity: SimilarityResult | None = None,
    text_chain: TextChainResult | None = None,
) -> Verdict:
    """The verdict from the measures taken; an edge without its measure is left out, and the headline says so."""
    edges: list[EdgeVerdict] = []
    if probes is not None:
        edges.append(carries_input(probes, similarity))
    if interventions is not None:
        measured = [access for access in ImageAccess if exchange_runs(interventions.runs, access)]
        edges += [drives_answer(interventions, access) for access in measured]
    if text_chain is not None:
        edges.append(chain_drives_answer(text_chain))
    return Verdict(headline=headline(edges), edges=tuple(edges))


def drives_answer(result: InterventionsResult, access: ImageAccess) -> EdgeVerdict:
    """The verdict on Z -> Y under one image access."""
    runs = exchange_runs(result.runs, access)
    outcome, reason = _answer_outcome(runs)
    n, phrase = min((run.n for run in runs), default=0), ACCESS_PHRASES[access]
    claims = {
        "yes": f"Latents drive the answer {phrase}",
        "no": f"Latents do not drive the answer {phrase}",
        "not shown": f"Not shown by n = {n} that latents drive the answer {phrase}",
    }
    because = tuple(_exchange_sentence(run) for run in runs)
    return EdgeVerdict(
        edge="Z -> Y", seen=access, outcome=outcome, n=n, said=f"{claims[outcome]}: {reason}.", because=because
    )


def chain_drives_answer(result: TextChainResult) -> EdgeVerdict:
    """The verdict on chain -> Y: the words before the answer."""
    runs = [run for run in result.runs if run.name == "other" and run.n > 0]
    outcome, reason = _answer_outcome(runs, "chain")
    n = min((run.n for run in runs), default=0)
    claims = {
        "yes": "The chain in words drives the answer",
        "no": "The chain in words does not drive the answer",
        "not shown": f"Not shown by n = {n} that the chain in words drives the answer",
    }
    because = tuple(_exchange_sentence(run) for run in runs)
    return EdgeVerdict(edge="chain -> Y", outcome=outcome, n=n, said=f"{claims[outcome]}: {reason}.", because=because)


def exchange_runs(runs: Iterable[Run], access: ImageAccess) -> list[Run]:
    """The runs in which latents were exchanged between problems, under one image access."""
    return [run for run in runs if run.name in EXCHANGES and run.seen == access and run.n > 0]


def _answer_outcome(runs: Sequence[Run], what: Literal["latents", "chain"] = "latents") -> tuple[Outcome, str]:
    """The outcome by the rules for exchanges of ``what``, and its reason."""
    if not runs:
        return "not shown", f"no exchange of {'latents' if what == 'latents' else 'chains'} was measured"
    verb = "give" if what == "latents" else "gives"
    corrected = holm([1.0 if run.p_value is None else run.p_value for run in runs])
    falls = [run for run, p in zip(runs, corrected, strict=True) if _below(run.change, 0.0) and p < LEVEL]
    if any(_follows(run) for run in falls):
        return "yes", f"another problem's {what} {verb} another problem's answer"
    if falls:
        return "not shown", "accuracy falls, but answers do not follow the donor, as with any disturbance"
    if not all(_within(run.change, ANSWER_MARGIN) for run in runs):
        return "not shown", f"the change is neither clear of 0 nor within ±{100 * ANSWER_MARGIN:g} points"
    if not all(_can_fall(run) for run in runs):
        return "not shown", "the model is right too rarely for accuracy to fall"
    changes = "change" if what == "latents" else "changes"
    return "no", f"another problem's {what} {changes} accuracy by less than {100 * ANSWER_MARGIN:g} points"


def _follows(run: Run) -> bool:
    """Whether answers are correct for the donor more often than clean answers are."""
    if run.follow is None or run.follow_clean is None or run.follow.low is None or run.follow_clean.high is None:
        return False
    return run.follow.low > run.follow_clean.high


def _can_fall(run: Run) -> bool:
    """Whether clean accuracy is above the margin, so that a fall beyond it can be detected."""
    accuracy = run.clean_accuracy
    return accuracy is not None and wilson(accuracy * run.n, run.n)[0] > ANSWER_MARGIN


def carries_input(result: ProbesResult, similarity: SimilarityResult | None = None) -> EdgeVerdict:
    """The verdict on X -> Z."""
    probes = latent_probes(result)
    corrected = holm([probe_p(probe) for probe in probes])
    decodable = [probe for probe, p in zip(probes, corrected, strict=True) if is_decodable(probe, p)]
    outcome, reason = _input_outcome(result, probes, decodable)
    n = min((probe.test for probe in probes), default=result.header.used)
    claims = {
        "yes": "Latents carry the input",
        "no": "Latents do not carry the facts that were probed",
        "not shown": f"Not shown by n = {n} that latents carry the input",
    }
    because = [probe_sentence(probe, p) for probe, p in zip(probes, corrected, strict=True)]
    return EdgeVerdict(
        edge="X -> Z",
        outcome=outcome,
        n=n,
        said=f"{claims[outcome]}: {reason}.",
        because=(*because, *_similarity_sentence(similarity)),
    )


def latent_probes(result: ProbesResult) -> list[Probe]:
    """The probes of all latents of an answer together."""
    return [probe for probe in result.probes if probe.states == "latents"]


def is_decodable(probe: Probe, corrected_p: float) -> bool:
    """Whether a probe reads its fact: significantly above the better control, and above all shuffled labels."""
    value, highest = probe.accuracy.value, probe.shuffled.high
    return corrected_p < LEVEL and value is not None and (highest is None or value > highest)


def probe_p(probe: Probe) -> float:
    """The exact binomial p-value of a probe's held-out hits at the rate of the better control, counted by picture.

    A permutation p-value over twenty shuffles cannot stay below .05 after Holm's correction.
    """
    if probe.accuracy.value is None or probe.test == 0:
        return 1.0
    observations = probe.pictures or probe.test
    right = round(probe.accuracy.value * observations)
    return float(binom.sf(right - 1, observations, control_accuracy(probe)))


def control_accuracy(probe: Probe) -> float:
    """The accuracy of the better control: the majority class, or the mean over shuffled labels."""
    return max(probe.majority, probe.shuffled.value or 0.0)


def _input_outcome(result: ProbesResult, probes: Sequence[Probe], decodable: Sequence[Probe]) -> tuple[Outcome, str]:
    """The outcome by the rules, and its reason."""
    if not probes:
        return "not shown", "no fact could be probed"
    if decodable:
        best = max(decodable, key=lambda probe: (probe.accuracy.value or 0.0) - control_accuracy(probe))
        names = ", ".join(probe.fact for probe in decodable)
        return "yes", (
            f"a linear probe reads {names} (best: {best.fact}, {percent(best.accuracy.value)} against "
            f"{percent(control_accuracy(best))} for the better control)"
        )
    if not all(_near_controls(probe) for probe in probes):
        return "not shown", "no probe is clear of its controls, nor close enough to them to exclude an effect"
    missing = [probe.fact for probe in probes if not _controls_have(result, probe.fact)]
    if missing:
        return "not shown", f"the probe does not find {', '.join(missing)} in the image or the text either"
    return "no", f"every probe ends less than {100 * PROBE_MARGIN:g} points above its controls"


def _near_controls(probe: Probe) -> bool:
    """Whether even the upper end of the interval lies within the margin above both controls."""
    return probe.accuracy.high is not None and probe.accuracy.high - control_accuracy(probe) < PROBE_MARGIN


def _controls_have(result: ProbesResult, fact: str) -> bool:
    """Whether the same probe reads the fact from any of the control states."""
    controls = [probe for probe in result.probes if probe.fact == fact and probe.states in CONTROLS]
    corrected = holm([probe_p(probe) for probe in controls])
    return any(is_decodable(probe, p) for probe, p in zip(controls, corrected, strict=True))


def headline(edges: Sequence[EdgeVerdict]) -> str:
    """The edges in a sentence or two; for Z -> Y the verdict with the most image access."""
    first = {edge.edge: edge for edge in reversed(edges)}
    carries, drives, chain = first.get("X -> Z"), first.get("Z -> Y"), first.get("chain -> Y")
    sentences: list[str] = []
    if carries is not None or drives is not None:
        sentences += [f"Do latents carry the input? {_reply(carries)}.", f"Do they drive the answer? {_reply(drives)}."]
    if chain is not None:
        sentences.append(f"Do the words before the answer drive it? {_reply(chain)}.")
    return " ".join(sentences) or "Neither edge was measured."


def _reply(edge: EdgeVerdict | None) -> str:
    """The outcome of an edge in a headline."""
    if edge is None:
        return "Not measured"
    return f"Not shown by n = {edge.n}" if edge.outcome == "not shown" else edge.outcome.capitalize()


def _exchange_sentence(run: Run) -> str:
    """The figures of one exchange, in a sentence."""
    way = {"vectors": " (vectors)", "states": " (keys and values)", None: ""}[run.way]
    followed = ""
    if run.follow is not None and run.follow_clean is not None:
        followed = f"; right for the donor's problem {shares(run.follow)} (clean answers: {shares(run.follow_clean)})"
    return (
        f"{run.name}{way}: accuracy {percent(run.clean_accuracy)} -> {percent(run.accuracy.value)}, change "
        f"{points(run.change)}, {p_equals(run.p_value)}, n = {run.n}; answers changed {shares(run.changed)}"
        f"{followed}"
    )


def probe_sentence(probe: Probe, corrected_p: float) -> str:
    """The figures of one probe, in a sentence."""
    return (
        f"{probe.fact}: held-out accuracy {shares(probe.accuracy)}, majority class {percent(probe.majority)}, shuffled "
        f"labels {percent(probe.shuffled.value)}, {p_equals(corrected_p)} (Holm), n = {probe.test}"
    )


def _similarity_sentence(result: SimilarityResult | None) -> list[str]:
    """The similarity of latents between instances, in a sentence, where it was measured."""
    latents = next((each for each in result.states if each.states == "latents"), None) if result is not None else None
    values = [index.inter.value for index in latents.by_index if index.inter.value is not None] if latents else []
    if latents is None or not values:
        return []
    return [
        f"description only: mean cosine between instances {min(values):.2f} to {max(values):.2f} over the latents "
        f"(n = {latents.n}); the instance explains {percent(latents.instance_share.value)} of the variance"
    ]


def _below(estimate: Estimate, bound: float) -> bool:
    return estimate.high is not None and estimate.high < bound


def _within(estimate: Estimate, margin: float) -> bool:
    return estimate.low is not None and estimate.high is not None and -margin <= estimate.low <= estimate.high <= margin
