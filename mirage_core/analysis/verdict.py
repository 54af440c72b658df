"""A plain verdict on each edge, by stated rules: do latents carry the input (X -> Z), and drive the answer (Z -> Y)?

"no" is never the absence of a "yes": it needs an interval that lies within a margin. What is neither is "not shown".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field
from scipy.stats import binom

from mirage_core.analysis.number_format import p_equals, percent, points, shares
from mirage_core.analysis.results import (
    Estimate,
    InterventionsResult,
    Probe,
    ProbesResult,
    Record,
    Run,
    Seen,
    SimilarityResult,
    TextChainResult,
)
from mirage_core.evaluation.statistics import holm, wilson

Outcome = Literal["yes", "no", "not shown"]

LEVEL = 0.05
ANSWER_MARGIN = 0.02
"""Points of accuracy (as a share) within which an exchange of latents is said to change nothing."""
PROBE_MARGIN = 0.05
"""Points of probe accuracy (as a share) above its controls within which latents are said not to hold a fact."""
EXCHANGES = ("permute", "swap")
CONTROLS = ("image-features", "image-pooled", "text-before")
"""States that must show a fact before its absence from the latents means anything."""

SEEN_WORDS: dict[Seen, str] = {
    "present": "with the picture in view",
    "cut": "with the picture cut off after the latents",
    "hidden": "without a picture",
}

RULES = (
    "Z -> Y is “yes” when exchanging latents between problems (permute or swap) lowers accuracy (the 95 % interval of "
    "the change lies below 0, and McNemar's p, by Holm over the exchanges, is below .05) and answers follow the donor: "
    "the interval of the share of answers right for the donor's problem lies above that of the clean answers.",
    "Z -> Y is “no” only when, for every exchange, the whole interval of the change lies within "
    f"±{100 * ANSWER_MARGIN:g} points, and clean accuracy is high enough for a fall to be seen (its interval lies "
    f"above {100 * ANSWER_MARGIN:g} %). Anything else is “not shown by n = ...”.",
    "X -> Z is “yes” when a linear probe reads a fact of the input from the latents: held-out accuracy above every "
    "probe of shuffled labels, and a one-sided binomial test against the better control (majority class, mean of the "
    "shuffled) with p below .05 by Holm over all probes of the latents.",
    f"X -> Z is “no” only when no probe does, every probe's interval ends less than {100 * PROBE_MARGIN:g} points "
    "above both controls (majority and shuffled labels), and for each fact the same probe does read it from the "
    "picture or the text before the latents: an instrument that sees nothing anywhere says nothing about latents. "
    "Anything else is “not shown by n = ...”.",
    "chain -> Y, of a chain in words, follows the rules of Z -> Y; the exchange is another problem's chain (other).",
    "Similarity, mediation, dose-response, looks and the plane of components describe; no verdict hangs on them.",
)


class EdgeVerdict(Record):
    """The verdict on one edge; ``because``: the figures it follows from, in sentences."""

    edge: Literal["X -> Z", "Z -> Y", "chain -> Y"]
    seen: Seen | None = Field(None, description="Of Z -> Y: what was left of the picture.")
    outcome: Outcome
    n: int
    said: str
    because: tuple[str, ...]


class Verdict(Record):
    """The verdicts and the sentence above them; the first edge of each kind is the one the headline speaks of."""

    headline: str
    edges: tuple[EdgeVerdict, ...]
    rules: tuple[str, ...] = RULES

    def edge(self, name: str) -> EdgeVerdict | None:
        """The verdict on an edge, None where nothing was measured."""
        return next((each for each in self.edges if each.edge == name), None)


def judge(
    interventions: InterventionsResult | None,
    probes: ProbesResult | None,
    similarity: SimilarityResult | None = None,
    text_chain: TextChainResult | None = None,
) -> Verdict:
    """The verdict on what was measured; an edge without its measure is left out, and the headline says so."""
    edges: list[EdgeVerdict] = []
    if probes is not None:
        edges.append(carries_input(probes, similarity))
    if interventions is not None:
        present = [seen for seen in SEEN_WORDS if exchanges(interventions.runs, seen)]
        edges += [drives_answer(interventions, seen) for seen in present]
    if text_chain is not None:
        edges.append(chain_drives_answer(text_chain))
    return Verdict(headline=headline(edges), edges=tuple(edges))


def drives_answer(result: InterventionsResult, seen: Seen) -> EdgeVerdict:
    """Z -> Y, with this much of the picture left."""
    runs = exchanges(result.runs, seen)
    outcome, reason = _answer_outcome(runs)
    n = min((run.n for run in runs), default=0)
    words = {
        "yes": f"Latents drive the answer {SEEN_WORDS[seen]}",
        "no": f"Latents do not drive the answer {SEEN_WORDS[seen]}",
        "not shown": f"Not shown by n = {n} that latents drive the answer {SEEN_WORDS[seen]}",
    }
    because = tuple(_exchange_words(run) for run in runs)
    return EdgeVerdict(
        edge="Z -> Y", seen=seen, outcome=outcome, n=n, said=f"{words[outcome]}: {reason}.", because=because
    )


def chain_drives_answer(result: TextChainResult) -> EdgeVerdict:
    """The words before the answer -> Y."""
    runs = [run for run in result.runs if run.name == "other" and run.n > 0]
    outcome, reason = _answer_outcome(runs, "chain")
    n = min((run.n for run in runs), default=0)
    words = {
        "yes": "The chain in words drives the answer",
        "no": "The chain in words does not drive the answer",
        "not shown": f"Not shown by n = {n} that the chain in words drives the answer",
    }
    because = tuple(_exchange_words(run) for run in runs)
    return EdgeVerdict(edge="chain -> Y", outcome=outcome, n=n, said=f"{words[outcome]}: {reason}.", because=because)


def exchanges(runs: Iterable[Run], seen: Seen) -> list[Run]:
    """The runs in which latents were exchanged between problems."""
    return [run for run in runs if run.name in EXCHANGES and run.seen == seen and run.n > 0]


def _answer_outcome(runs: Sequence[Run], what: Literal["latents", "chain"] = "latents") -> tuple[Outcome, str]:
    """The verdict by the rules on exchanges of ``what``, and its reason."""
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
        return "not shown", "the model answers so little right that nothing could fall"
    changes = "change" if what == "latents" else "changes"
    return "no", f"another problem's {what} {changes} accuracy by less than {100 * ANSWER_MARGIN:g} points"


def _follows(run: Run) -> bool:
    """Whether answers are right for the donor more often than clean answers are."""
    if run.follow is None or run.follow_clean is None or run.follow.low is None or run.follow_clean.high is None:
        return False
    return run.follow.low > run.follow_clean.high


def _can_fall(run: Run) -> bool:
    """Whether clean accuracy is above the margin, so that a fall beyond it could have been seen."""
    right = run.clean_accuracy
    return right is not None and wilson(right * run.n, run.n)[0] > ANSWER_MARGIN


def carries_input(result: ProbesResult, similarity: SimilarityResult | None = None) -> EdgeVerdict:
    """X -> Z."""
    probes = latent_probes(result)
    corrected = holm([probe_p(probe) for probe in probes])
    read = [probe for probe, p in zip(probes, corrected, strict=True) if reads(probe, p)]
    outcome, reason = _input_outcome(result, probes, read)
    n = min((probe.test for probe in probes), default=result.header.used)
    words = {
        "yes": "Latents carry the input",
        "no": "Latents do not carry the facts that were probed",
        "not shown": f"Not shown by n = {n} that latents carry the input",
    }
    because = [probe_words(probe, p) for probe, p in zip(probes, corrected, strict=True)]
    return EdgeVerdict(
        edge="X -> Z",
        outcome=outcome,
        n=n,
        said=f"{words[outcome]}: {reason}.",
        because=(*because, *_similarity_words(similarity)),
    )


def latent_probes(result: ProbesResult) -> list[Probe]:
    """The probes that read all latents of an answer together."""
    return [probe for probe in result.probes if probe.states == "latents"]


def reads(probe: Probe, corrected_p: float) -> bool:
    """Whether a probe reads its fact: clear of the better control, and above every probe of shuffled labels."""
    value, highest = probe.accuracy.value, probe.shuffled.high
    return corrected_p < LEVEL and value is not None and (highest is None or value > highest)


def probe_p(probe: Probe) -> float:
    """How likely as many held-out answers would be right at the rate of the better control: exact binomial.

    The share of shuffles at least as good would not do: twenty of them cannot give a p that Holm leaves below .05.
    """
    if probe.accuracy.value is None or probe.test == 0:
        return 1.0
    right = round(probe.accuracy.value * probe.test)
    return float(binom.sf(right - 1, probe.test, control(probe)))


def control(probe: Probe) -> float:
    """The better of a probe's controls: the majority class, and the mean over shuffled labels."""
    return max(probe.majority, probe.shuffled.value or 0.0)


def _input_outcome(result: ProbesResult, probes: Sequence[Probe], read: Sequence[Probe]) -> tuple[Outcome, str]:
    """The verdict by the rules, and its reason."""
    if not probes:
        return "not shown", "no fact could be probed"
    if read:
        best = max(read, key=lambda probe: (probe.accuracy.value or 0.0) - control(probe))
        names = ", ".join(probe.fact for probe in read)
        return "yes", (
            f"a linear probe reads {names} (best: {best.fact}, {percent(best.accuracy.value)} against "
            f"{percent(control(best))} for the better control)"
        )
    if not all(_near_controls(probe) for probe in probes):
        return "not shown", "no probe is clear of its controls, nor close enough to them to exclude an effect"
    unseen = [probe.fact for probe in probes if not _control_reads(result, probe.fact)]
    if unseen:
        return "not shown", f"the probe does not find {', '.join(unseen)} in the picture or the text either"
    return "no", f"every probe ends less than {100 * PROBE_MARGIN:g} points above its controls"


def _near_controls(probe: Probe) -> bool:
    """Whether even the upper end of the interval lies within the margin above both controls."""
    return probe.accuracy.high is not None and probe.accuracy.high - control(probe) < PROBE_MARGIN


def _control_reads(result: ProbesResult, fact: str) -> bool:
    """Whether the same probe finds the fact in any of the states where it must be."""
    found = [probe for probe in result.probes if probe.fact == fact and probe.states in CONTROLS]
    corrected = holm([probe_p(probe) for probe in found])
    return any(reads(probe, p) for probe, p in zip(found, corrected, strict=True))


def headline(edges: Sequence[EdgeVerdict]) -> str:
    """The edges in a sentence or two; of Z -> Y the verdict with the most of the picture left."""
    first = {edge.edge: edge for edge in reversed(edges)}
    carried, drives, chain = first.get("X -> Z"), first.get("Z -> Y"), first.get("chain -> Y")
    said = [] if chain is None else [f"Do the words before the answer drive it? {_capital(chain.outcome)}{_by(chain)}."]
    if carried is not None or drives is not None:
        said.insert(0, _of_latents(carried, drives))
    return " ".join(said) or "Neither edge was measured."


def _of_latents(carried: EdgeVerdict | None, drives: EdgeVerdict | None) -> str:
    carries = "not measured" if carried is None else f"{carried.outcome}{_by(carried)}"
    drive = "not measured" if drives is None else f"{drives.outcome}{_by(drives)}"
    return f"Do latents carry the input? {_capital(carries)}. Do they drive the answer? {_capital(drive)}."


def _by(edge: EdgeVerdict) -> str:
    return f" by n = {edge.n}" if edge.outcome == "not shown" else ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _exchange_words(run: Run) -> str:
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


def probe_words(probe: Probe, corrected_p: float) -> str:
    """The figures of one probe, in a sentence."""
    return (
        f"{probe.fact}: held-out accuracy {shares(probe.accuracy)}, majority class {percent(probe.majority)}, shuffled "
        f"labels {percent(probe.shuffled.value)}, {p_equals(corrected_p)} (Holm), n = {probe.test}"
    )


def _similarity_words(result: SimilarityResult | None) -> list[str]:
    """How alike latents are between instances, as a description."""
    found = [] if result is None else [each for each in result.states if each.states == "latents" and each.by_index]
    if not found:
        return []
    values = [index.inter.value for index in found[0].by_index if index.inter.value is not None]
    if not values:
        return []
    return [
        f"description only: mean cosine between instances {min(values):.2f} to {max(values):.2f} over the latents "
        f"(n = {found[0].n}); the instance explains {percent(found[0].instance_share.value)} of the variance"
    ]


def _below(estimate: Estimate, bound: float) -> bool:
    return estimate.high is not None and estimate.high < bound


def _within(estimate: Estimate, margin: float) -> bool:
    return estimate.low is not None and estimate.high is not None and -margin <= estimate.low <= estimate.high <= margin
