"""What every measure of the causal analysis writes: frozen records, one JSON file a measure.

X is the input (pictures and question), Z the latents, Y the answer. Shares and accuracies lie within 0 and 1, intervals
are of 95 %, KL and log-probabilities are in nats. None: the figure is not defined (nothing to count), never zero.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem

RESULT_FILE = "measure.json"

Seen = Literal["present", "cut", "hidden"]
"""What is left of the picture: all of it; text after the span attends to nothing before the span; no picture at all."""
Way = Literal["vectors", "states"]
"""How latents are exchanged: the vectors that are fed, or the keys and values they leave in the cache."""


class Record(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Estimate(Record):
    """A figure with its 95 % interval and the number of instances behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int


class Header(Record):
    """What a measure was taken on."""

    measure: str
    instances: int = Field(description="Problems that were answered.")
    used: int = Field(description="Those the measure could use: of Z, answers with a whole first span.")
    num_latents: int = Field(description="k; 0 where no answer had a span.")
    seed: int
    groups: dict[str, int] = Field(description="Instances used, by benchmark/group.")
    notes: tuple[str, ...] = Field((), description="What a reader must know: what was left out, and why.")


# --- X -> Z: similarity -------------------------------------------------------------------------------------------


class IndexSimilarity(Record):
    """States at one place (latent ``index``; a token's number) compared between instances."""

    index: int
    inter: Estimate = Field(description="Mean off-diagonal pairwise cosine between instances.")
    inter_centred: Estimate = Field(description="The same after the mean over instances was taken away.")
    effective_rank: Estimate = Field(description="exp of the entropy of the normalised singular values, centred.")
    energy_share: Estimate = Field(description="Variance between instances over the mean squared length.")
    group_share: Estimate = Field(description="Share of the variance between instances that their groups explain.")
    group_share_chance: float | None = Field(description="What groups drawn by lot explain: (groups - 1) / (n - 1).")


class StateSimilarity(Record):
    """One kind of states: latents, or a baseline beside them."""

    states: Literal["latents", "text", "image"]
    n: int
    by_index: tuple[IndexSimilarity, ...]
    intra: Estimate = Field(description="Mean off-diagonal cosine between the places of one instance.")
    intra_centred: Estimate = Field(description="The same after the mean over instances at each place was taken away.")
    intra_matrix: tuple[tuple[float, ...], ...] = Field(description="Mean cosine of place i with place j.")
    instance_share: Estimate = Field(description="Share of all variance that the instance explains (two-way).")
    index_share: Estimate = Field(description="Share of all variance that the place explains, whatever the input.")
    rest_share: Estimate = Field(description="Share left to instance and place together.")


class SimilarityResult(Record):
    """Inter- and intra-instance similarity of latents, text states and image states."""

    header: Header
    states: tuple[StateSimilarity, ...]


# --- X -> Z: probes -----------------------------------------------------------------------------------------------


class Probe(Record):
    """A linear probe from states to one fact: held-out accuracy beside its controls."""

    fact: str
    states: str = Field(
        description="latents (all, end to end), latent-0, latent-1, ..., image-features (mean), image-pooled "
        "(k pooled vectors, as many numbers as the latents), text-before (the state before the span)."
    )
    classes: int
    train: int
    test: int
    accuracy: Estimate
    majority: float = Field(description="Held-out accuracy of the commonest class of the training part.")
    shuffled: Estimate = Field(description="The same probe on shuffled labels: mean, lowest and highest; n of them.")
    p_value: float = Field(description="(1 + shuffles at least as good) / (1 + shuffles).")
    penalty: float = Field(description="The ridge penalty chosen on an inner split.")


class ProbesResult(Record):
    """All probes, facts in their order, states in theirs."""

    header: Header
    probes: tuple[Probe, ...]
    skipped: dict[str, str] = Field(description="Facts that were not probed, and why.")


# --- Z -> Y -------------------------------------------------------------------------------------------------------


class Run(Record):
    """Answers under one intervention, beside the clean answers to the same problems.

    The clean answers are those with the instances' own latents under ``against``: the same view of the picture; of the
    runs "own" with the picture cut or hidden, those with it present.
    ``change``: accuracy minus that of the clean answers, Newcombe's paired interval; positive where it helps.
    ``follow``: answers that are right for the DONOR's problem; ``follow_clean``: clean answers that are so already.
    """

    name: str = Field(
        description="own, clamp, mean, zero, noise, noise-only, permute, swap, skip; own-alone: text behind the span "
        "sees nothing but the latents' vectors; of text chains: own, other, truncate, shuffle, delete."
    )
    seen: Seen
    way: Way | None = Field(None, description="Of exchanges between instances.")
    scale: float | None = Field(None, description="noise: in standard deviations of the latents; truncate: share kept.")
    against: Seen = "present"
    n: int
    accuracy: Estimate
    clean_accuracy: float | None
    change: Estimate
    p_value: float | None = Field(description="McNemar's test of the change.")
    only_clean: int = Field(description="Right in the clean run alone.")
    only_here: int = Field(description="Right under the intervention alone.")
    changed: Estimate = Field(description="Share of answers that are not the clean run's, as read by the scorer.")
    unparsed: Estimate = Field(description="Share of answers in which the scorer found none.")
    kl: Estimate = Field(description="Mean KL(clean || here) of the first token of the answer; bootstrap interval.")
    follow: Estimate | None = None
    follow_clean: Estimate | None = None


class Dose(Record):
    """Dose and response over the scales of noise added to the latents, the clean run at scale 0 first."""

    seen: Seen
    scales: tuple[float, ...]
    accuracy: tuple[float | None, ...]
    changed: tuple[float | None, ...]
    kl: tuple[float | None, ...]
    isotonic: tuple[float | None, ...] = Field(description="Accuracy fitted to fall only.")
    half_scale: float | None = Field(description="Scale at which half of the largest fall is reached; None: no fall.")
    spearman: float | None = Field(description="Rank correlation of scale and accuracy: -1 falls throughout.")
    trend_p: float | None = Field(description="Mantel's trend test: right ever less as the scale grows.")


class InterventionsResult(Record):
    """All interventions on Z at decoding."""

    header: Header
    runs: tuple[Run, ...]
    dose: tuple[Dose, ...]
    latent_std: float | None = Field(
        description="What a scale of 1 means: the standard deviation of all numbers of all latents."
    )


# --- mediation ----------------------------------------------------------------------------------------------------


class Cell(Record):
    """One of the four runs: whose input, whose latents; judged on X's answer."""

    x: Literal["own", "other"]
    z: Literal["own", "other"]
    accuracy: Estimate
    probability: Estimate = Field(description="Mean probability of the first token of the clean answer to X.")
    kl: Estimate = Field(description="Mean KL from the clean run's first token of the answer.")


class Effects(Record):
    """Natural effects (Pearl 2001) on one outcome, X to X': negative where the outcome falls."""

    outcome: Literal["accuracy", "probability", "kl"]
    total: Estimate = Field(description="Y(X', Z(X')) - Y(X, Z(X)).")
    direct: Estimate = Field(description="Y(X', Z(X)) - Y(X, Z(X)): past the latents.")
    indirect: Estimate = Field(description="Y(X, Z(X')) - Y(X, Z(X)): through the latents.")
    interaction: Estimate = Field(description="total - direct - indirect.")
    share: float | None = Field(description="indirect / total; None where the total effect is not clear of zero.")


class Mediation(Record):
    """The four runs and their effects, for one way of exchanging latents."""

    way: Way
    n: int
    cells: tuple[Cell, ...]
    effects: tuple[Effects, ...]


class MediationResult(Record):
    """Total, direct and indirect effect of the input on the answer through the latents."""

    header: Header
    ways: tuple[Mediation, ...]


# --- latents alone; text chains -----------------------------------------------------------------------------------


class Chance(Record):
    """What can be had without seeing anything, for one benchmark and group or all."""

    benchmark: str
    group: str = Field(description='A group, or "all".')
    n: int
    majority: float = Field(description="Accuracy of the one answer that is right most often, given to all.")
    shuffled: Estimate = Field(description="Accuracy of clean answers given to other problems of the group.")


class OnlyLatentsResult(Record):
    """Latents as the only visual input, against chance and against the picture.

    ``runs``: own latents with seen present (the clean run), cut and hidden; and, with the picture hidden, latents
    of other instances, zero and noise-only beside them.
    """

    header: Header
    runs: tuple[Run, ...]
    chance: tuple[Chance, ...]


class TextChainResult(Record):
    """The same questions asked of a chain in words: what the answer does when the chain is edited."""

    header: Header
    runs: tuple[Run, ...]
    mean_words: float | None = Field(description="Words of the chains before the answer.")


Result = SimilarityResult | ProbesResult | InterventionsResult | MediationResult | OnlyLatentsResult | TextChainResult
AnyResult = TypeVar("AnyResult", bound=Record)

RESULTS: dict[str, type[Record]] = {
    "similarity": SimilarityResult,
    "probes": ProbesResult,
    "interventions": InterventionsResult,
    "mediation": MediationResult,
    "only-latents": OnlyLatentsResult,
    "text-chain": TextChainResult,
}
"""The record of every measure, by the measure's name (the stage's parameter ``measure``)."""


def write_result(folder: Path, result: Record) -> None:
    """Write a measure's record as ``measure.json``: the same record, the same bytes."""
    text = json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False)
    (folder / RESULT_FILE).write_text(text + "\n", encoding="utf-8")


def read_result(folder: Path, kind: type[AnyResult]) -> AnyResult:
    """Read a measure's record from its folder. DataError where the file is missing or of another form."""
    file = folder / RESULT_FILE
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise DataError(f"{file} does not hold a {kind.__name__}: {error}; take the measure again") from error


def result_kind(measure: str) -> type[Record]:
    """The record of a measure; InputError names the known ones."""
    if measure not in RESULTS:
        raise InputError(f"got the measure {measure!r}, expected one of {', '.join(RESULTS)}")
    return RESULTS[measure]


def header(
    measure: str,
    problems: Sequence[Problem],
    used: NDArray[np.int64],
    *,
    num_latents: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Header:
    """The head of a measure that could use the instances ``used`` [n] of ``problems`` [N]."""
    groups = Counter(f"{problems[at].benchmark}/{problems[at].group}" for at in used.tolist())
    return Header(
        measure=measure,
        instances=len(problems),
        used=len(used),
        num_latents=num_latents,
        seed=seed,
        groups=dict(sorted(groups.items())),
        notes=tuple(notes),
    )


def without_span(instances: int, used: int) -> list[str]:
    """The note on instances that a measure of latents had to leave out."""
    if used == instances:
        return []
    return [f"{instances - used} of {instances} answers have no whole latent span and are left out."]
