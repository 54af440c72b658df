"""The results of every measure of the causal analysis: frozen records (their files: result_files.py).

X is the input (images and question), Z the latents, Y the answer. Shares lie within 0 and 1, intervals are 95 %, KL and
log-probabilities are in nats. None: the figure is undefined (nothing to count), never zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mirage_core.types import Problem

Way = Literal["vectors", "states"]
"""How latents are patched: the vectors that are fed, or the keys and values that they leave in the cache."""


class ImageAccess(StrEnum):
    """What the answer can attend to of the image; the values are those in stored results and in ``analysis.views``."""

    FULL = "present"
    MASKED_AFTER_SPAN = "cut"  # text after the span attends to nothing before the span
    NONE = "hidden"  # no token attends to an image token


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
    """The instances that a measure was computed on."""

    measure: str
    instances: int = Field(description="Problems that were answered.")
    used: int = Field(description="Those the measure could use: for Z, answers with a whole first span.")
    num_latents: int = Field(description="k; 0 where no answer had a span.")
    seed: int
    groups: dict[str, int] = Field(description="Instances used, by benchmark/group.")
    notes: tuple[str, ...] = Field((), description="For the reader: what was left out, and why.")


# --- X -> Z: similarity -------------------------------------------------------------------------------------------


class IndexSimilarity(Record):
    """States at one position (latent ``index``; the number of a token) compared between instances."""

    index: int
    inter: Estimate = Field(description="Mean off-diagonal pairwise cosine between instances.")
    inter_centred: Estimate = Field(description="The same after subtracting the mean over instances.")
    effective_rank: Estimate = Field(description="exp of the entropy of the normalised singular values, centred.")
    energy_share: Estimate = Field(description="Variance between instances over the mean squared length.")
    group_share: Estimate = Field(description="Share of the variance between instances that their groups explain.")
    group_share_chance: float | None = Field(description="What random groups explain: (groups - 1) / (n - 1).")


class StateSimilarity(Record):
    """One kind of states: latents, or one of their baselines."""

    states: Literal["latents", "text", "image"]
    n: int
    by_index: tuple[IndexSimilarity, ...]
    intra: Estimate = Field(description="Mean off-diagonal cosine between the positions of one instance.")
    intra_centred: Estimate = Field(description="The same after subtracting the mean over instances at each position.")
    intra_matrix: tuple[tuple[float, ...], ...] = Field(description="Mean cosine of position i with position j.")
    instance_share: Estimate = Field(description="Share of all variance that the instance explains (two-way).")
    index_share: Estimate = Field(description="Share of all variance that the position explains, for any input.")
    rest_share: Estimate = Field(description="Share of the interaction of instance and position.")


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
    pictures: int | None = Field(None, description="Different pictures among them; None: every instance has its own.")
    accuracy: Estimate
    majority: float = Field(description="Held-out accuracy of the most frequent class of the training part.")
    shuffled: Estimate = Field(description="The same probe on n sets of shuffled labels: mean, lowest, highest.")
    p_value: float = Field(description="(1 + shuffles at least as good) / (1 + shuffles).")
    penalty: float = Field(description="The ridge penalty chosen on an inner split.")


class ProbesResult(Record):
    """All probes, ordered by fact, then by states."""

    header: Header
    probes: tuple[Probe, ...]
    skipped: dict[str, str] = Field(description="Facts that were not probed, and why.")


# --- Z -> Y -------------------------------------------------------------------------------------------------------


class Run(Record):
    """Answers under one intervention, compared with the clean answers to the same problems.

    The clean answers are those with the instances' own latents and the image access ``against``: that of the run, or
    full access for the runs "own" with less. ``change``: accuracy minus that of the clean answers, Newcombe's paired
    interval; positive where the intervention helps. ``follow``: share of answers that are correct for the DONOR's
    problem; ``follow_clean``: share of the clean answers that are.
    """

    name: str = Field(
        description="own, clamp, mean, zero, noise, noise-only, permute, swap, skip; own-alone: text after the span "
        "attends to nothing but the latents' vectors; blind: the model without the picture; of text chains: own, "
        "other, truncate, shuffle, delete."
    )
    seen: ImageAccess
    way: Way | None = Field(None, description="Of latents patched from a donor.")
    scale: float | None = Field(None, description="noise: in standard deviations of the latents; truncate: share left.")
    against: ImageAccess = ImageAccess.FULL
    n: int
    accuracy: Estimate
    clean_accuracy: float | None
    change: Estimate
    p_value: float | None = Field(description="McNemar's test of the change.")
    only_clean: int = Field(description="Correct in the clean run only.")
    only_here: int = Field(description="Correct under the intervention only.")
    changed: Estimate = Field(description="Share of answers that differ from the clean run's, as parsed.")
    unparsed: Estimate = Field(description="Share of outputs in which the scorer found no answer.")
    kl: Estimate = Field(description="Mean KL(clean || run) of the first answer token; bootstrap interval.")
    follow: Estimate | None = None
    follow_clean: Estimate | None = None


class Dose(Record):
    """Dose-response over the scale of noise added to the latents; the first entry is the clean run, at scale 0."""

    seen: ImageAccess
    scales: tuple[float, ...]
    accuracy: tuple[float | None, ...]
    changed: tuple[float | None, ...]
    kl: tuple[float | None, ...]
    isotonic: tuple[float | None, ...] = Field(description="Accuracy, fitted to be non-increasing.")
    half_scale: float | None = Field(description="Scale of half the total fall; None: no fall.")
    spearman: float | None = Field(description="Rank correlation of scale and accuracy: -1 falls throughout.")
    trend_p: float | None = Field(description="Mantel's one-sided test that accuracy falls as the scale grows.")


class InterventionsResult(Record):
    """All interventions on Z at decoding."""

    header: Header
    runs: tuple[Run, ...]
    dose: tuple[Dose, ...]
    latent_std: float | None = Field(
        description="The unit of the scale: the standard deviation of all numbers of all latents."
    )


# --- mediation ----------------------------------------------------------------------------------------------------


class Cell(Record):
    """One of the four runs: whose input x, whose latents z; judged on the answer to X."""

    x: Literal["own", "other"]
    z: Literal["own", "other"]
    accuracy: Estimate
    probability: Estimate = Field(description="Mean probability of the first token of the clean answer to X.")
    kl: Estimate = Field(description="Mean KL from the first answer token of the clean run.")


class Effects(Record):
    """Natural effects (Pearl 2001) of changing X to X' on one outcome: negative where the outcome falls."""

    outcome: Literal["accuracy", "probability", "kl"]
    total: Estimate = Field(description="Y(X', Z(X')) - Y(X, Z(X)).")
    direct: Estimate = Field(description="Y(X', Z(X)) - Y(X, Z(X)): past the latents.")
    indirect: Estimate = Field(description="Y(X, Z(X')) - Y(X, Z(X)): through the latents.")
    interaction: Estimate = Field(description="total - direct - indirect.")
    share: float | None = Field(description="indirect / total; None where the total effect is not clear of zero.")


class Mediation(Record):
    """The four runs and their effects, for one way of patching latents."""

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
    """Accuracy without any input, for one benchmark and one group or all of them."""

    benchmark: str
    group: str = Field(description='A group, or "all".')
    n: int
    majority: float = Field(description="Accuracy of the single answer that is correct most often.")
    shuffled: Estimate = Field(description="Accuracy of clean answers given to other problems of the group.")


class OnlyLatentsResult(Record):
    """Latents as the only visual input, against chance and against the image.

    ``runs``: own latents under every image access (the clean run first); and, without image access, latents of other
    instances, zeros and noise.
    """

    header: Header
    runs: tuple[Run, ...]
    chance: tuple[Chance, ...]


class TextChainResult(Record):
    """The same interventions on a reasoning chain in words: what the answer does when the chain is edited."""

    header: Header
    runs: tuple[Run, ...]
    mean_words: float | None = Field(description="Mean number of words before the answer.")


# --- the imagined film --------------------------------------------------------------------------------------------


class FilmStep(Record):
    """What was imagined at one step, and what became of the answers whose film left the truth there."""

    index: int
    n: int = Field(description="Answers whose film has a frame of its own at this step.")
    place: Estimate = Field(description="Share of them whose likeliest place is right.")
    kind: Estimate = Field(description="Share of them whose likeliest kind is right.")
    left: int = Field(description="Films that are wrong here for the first time.")
    left_right: Estimate = Field(description="Share of those answers that are right all the same.")
    left_followed: Estimate = Field(description="Share of those answers that are what the imagined film says.")


class BenchmarkFilms(Record):
    """The imagined films of one benchmark's answers, against the truth and against the answers."""

    benchmark: str
    n: int
    steps: tuple[FilmStep, ...]
    whole: Estimate = Field(description="Share of films that are right at every step.")
    whole_right: Estimate = Field(description="Accuracy where the whole film is right.")
    left_right: Estimate = Field(description="Accuracy where it is not.")
    implied_right: Estimate = Field(description="Share of films that say the right answer.")
    followed: Estimate = Field(description="Share of answers that are what their film says.")
    misled: Estimate = Field(description="The same where the film says a wrong answer: the answer goes with it.")


class FilmResult(Record):
    """At which step did imagination leave the truth, and did the answer go with it?"""

    header: Header
    benchmarks: tuple[BenchmarkFilms, ...]


class HandMadeRun(Record):
    """Answers to films that were put together by hand, under one image access, on the same instances throughout."""

    film: Literal["plan", "walk", "outcome"] = Field(description="A way to the goal; a walk past it; another outcome.")
    seen: ImageAccess
    way: Way
    n: int
    follow: Estimate = Field(description="Share of answers that are what the hand-made film says.")
    follow_own: Estimate = Field(description="The same with own latents: the base rate.")
    follow_noise: Estimate = Field(description="The same with noise of the latents' own covariance.")
    accuracy: Estimate
    accuracy_own: Estimate
    accuracy_noise: Estimate
    same: Estimate = Field(description="The OWN film, put together by hand: share of answers that stay.")


class OneLatent(Record):
    """One latent exchanged, those after it rolled out again; ``..._null``: for one of the same place and kind."""

    exchange: Literal["place", "kind"] = Field(description="A neighbouring cell, or another kind at the same cell.")
    n: int
    film: Estimate = Field(description="Share of films that are read otherwise after it.")
    film_null: Estimate
    goes_on: Estimate = Field(description="Share whose next latent follows from the exchanged one, by the rules.")
    goes_on_null: Estimate = Field(description="Share whose next latent does after the null exchange all the same.")
    changed: Estimate = Field(description="Share of answers that change.")
    changed_null: Estimate
    follow: Estimate = Field(description="Share of answers that are what the film says, as it is read now.")


class HandMadeFilms(Record):
    """Films made for one benchmark; ``left_out``: instances without one, by reason."""

    benchmark: str
    runs: tuple[HandMadeRun, ...]
    one_latent: tuple[OneLatent, ...]
    left_out: dict[str, int]


class HandMadeResult(Record):
    """Does the answer follow a film that the model did not imagine?"""

    header: Header
    benchmarks: tuple[HandMadeFilms, ...]


def make_header(
    measure: str,
    problems: Sequence[Problem],
    used: NDArray[np.int64],
    *,
    num_latents: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Header:
    """The header of a measure that could use the instances ``used`` [n] of ``problems`` [N]."""
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
