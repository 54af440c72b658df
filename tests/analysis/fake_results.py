"""Constructed results of every measure, for tests of verdicts and pages: figures as one wants them, no model."""

from __future__ import annotations

import numpy as np

from mirage_core.analysis.imagined.records import ImaginedStep, Kind
from mirage_core.analysis.lens.lens import ImageLens, LatentLens, Patch, Word, WordLens
from mirage_core.analysis.lens.patch_matching import match
from mirage_core.analysis.lens.pca import project
from mirage_core.analysis.lens.results import LensResult, PositionSummary, ShownAnswer
from mirage_core.analysis.results import (
    BenchmarkFilms,
    Cell,
    Chance,
    Dose,
    Effects,
    Estimate,
    FilmResult,
    FilmStep,
    HandMadeFilms,
    HandMadeResult,
    HandMadeRun,
    Header,
    IndexSimilarity,
    InterventionsResult,
    Mediation,
    MediationResult,
    OneLatent,
    OnlyLatentsResult,
    Probe,
    ProbesResult,
    Record,
    Run,
    SimilarityResult,
    StateSimilarity,
    TextChainResult,
)
from mirage_core.evaluation.statistics import mcnemar_p, paired_interval, wilson


def share(successes: float, n: int) -> Estimate:
    low, high = wilson(successes, n)
    return Estimate(value=successes / n if n else None, low=low, high=high, n=n)


def figure(value: float | None, half: float = 0.05, n: int = 200) -> Estimate:
    if value is None:
        return Estimate(value=None, n=0)
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def header(measure: str, n: int = 200, notes: tuple[str, ...] = ()) -> Header:
    return Header(
        measure=measure, instances=n, used=n, num_latents=4, seed=0, groups={"vsp-planning/level-3": n}, notes=notes
    )


def run(
    name: str,
    *,
    n: int = 200,
    clean: int = 160,
    only_clean: int = 0,
    only_here: int = 0,
    changed: int | None = None,
    follow: int | None = None,
    follow_clean: int = 12,
    seen: str = "present",
    way: str | None = None,
    scale: float | None = None,
    kl: float = 0.1,
) -> Run:
    """A run of n problems, ``clean`` of them right in the clean run, ``only_*`` right in one of the two alone."""
    both = clean - only_clean
    low, high = paired_interval(both, only_here, only_clean, n - both - only_here - only_clean)
    moved = only_clean + only_here if changed is None else changed
    return Run(
        name=name,
        seen=seen,
        way=way,
        scale=scale,
        n=n,
        accuracy=share(both + only_here, n),
        clean_accuracy=clean / n,
        change=Estimate(value=(only_here - only_clean) / n, low=low, high=high, n=n),
        p_value=mcnemar_p(only_here, only_clean),
        only_clean=only_clean,
        only_here=only_here,
        changed=share(moved, n),
        unparsed=share(0, n),
        kl=figure(kl, kl / 3, n),
        follow=None if follow is None else share(follow, n),
        follow_clean=None if follow is None else share(follow_clean, n),
    )


CAUSAL = {"only_clean": 150, "changed": 190, "follow": 155}
USELESS = {"only_clean": 1, "only_here": 1, "changed": 4, "follow": 12}


def interventions(*exchanges: Run, n: int = 200) -> InterventionsResult:
    others = (
        run("zero", n=n, only_clean=2),
        run("mean", n=n, only_clean=1),
        run("noise", n=n, scale=1.0, only_clean=3),
        run("noise", n=n, scale=4.0, only_clean=9),
        run("noise-only", n=n, only_clean=5),
    )
    dose = Dose(
        seen="present", scales=(0.0, 1.0, 4.0), accuracy=(0.8, 0.785, 0.755), changed=(0.0, 0.02, 0.05),
        kl=(0.0, 0.05, 0.2), isotonic=(0.8, 0.785, 0.755), half_scale=2.0, spearman=-1.0, trend_p=0.01,
    )  # fmt: skip
    return InterventionsResult(
        header=header("interventions", n), runs=(*exchanges, *others), dose=(dose,), latent_std=1.25
    )


def probe(fact: str, right: int, test: int = 200, majority: float = 0.4, states: str = "latents") -> Probe:
    return Probe(
        fact=fact,
        states=states,
        classes=4,
        train=test,
        test=test,
        accuracy=share(right, test),
        majority=majority,
        shuffled=Estimate(value=majority - 0.02, low=majority - 0.05, high=majority + 0.02, n=20),
        p_value=1 / 21,
        penalty=1.0,
    )


def probes(*found: Probe) -> ProbesResult:
    return ProbesResult(header=header("probes"), probes=found, skipped={"outcome": "only one class"})


def similarity() -> SimilarityResult:
    def states(name: str, inter: float, n: int = 200) -> StateSimilarity:
        by_index = tuple(
            IndexSimilarity(
                index=index, inter=figure(inter - 0.02 * index, 0.01), inter_centred=figure(-0.005, 0.001),
                effective_rank=figure(6.5, 0.4), energy_share=figure(0.12, 0.01), group_share=figure(0.3),
                group_share_chance=0.01,
            )
            for index in range(4)
        )  # fmt: skip
        return StateSimilarity(
            states=name, n=n, by_index=by_index, intra=figure(0.8), intra_centred=figure(0.3),
            intra_matrix=tuple(tuple(1.0 if i == j else 0.7 for j in range(4)) for i in range(4)),
            instance_share=figure(0.2), index_share=figure(0.5), rest_share=figure(0.3),
        )  # fmt: skip

    return SimilarityResult(
        header=header("similarity"), states=(states("latents", 0.97), states("text", 0.9), states("image", 0.8))
    )


def mediation() -> MediationResult:
    cells = tuple(
        Cell(x=x, z=z, accuracy=share(160 if x == "own" else 12, 200), probability=figure(0.7), kl=figure(0.1))
        for x in ("own", "other")
        for z in ("own", "other")
    )
    effects = tuple(
        Effects(outcome=outcome, total=figure(-0.74), direct=figure(-0.73), indirect=figure(-0.01),
                interaction=figure(0.0), share=0.0135)
        for outcome in ("accuracy", "probability", "kl")
    )  # fmt: skip
    return MediationResult(
        header=header("mediation"), ways=(Mediation(way="vectors", n=200, cells=cells, effects=effects),)
    )


def only_latents() -> OnlyLatentsResult:
    chance = Chance(benchmark="vsp-planning", group="all", n=200, majority=0.06, shuffled=share(12, 200))
    return OnlyLatentsResult(
        header=header("only-latents"),
        runs=(
            run("own"),
            run("own", seen="cut", only_clean=120),
            run("own", seen="hidden", only_clean=150),
            run("permute", seen="hidden", way="vectors", only_clean=152, follow=11),
        ),
        chance=(chance,),
    )


def text_chain() -> TextChainResult:
    return TextChainResult(
        header=header("text-chain"), runs=(run("own"), run("other", only_clean=140, follow=130)), mean_words=31.5
    )


def films() -> FilmResult:
    def step(index: int, left: int) -> FilmStep:
        return FilmStep(index=index, n=200 - 40 * index, place=share(190, 200), kind=share(180, 200), left=left,
                        left_right=figure(0.5), left_followed=figure(0.8))  # fmt: skip

    return FilmResult(
        header=header("film"),
        benchmarks=(
            BenchmarkFilms(
                benchmark="vsp-planning", n=200, steps=(step(0, 5), step(1, 25)), whole=share(170, 200),
                whole_right=share(160, 170), left_right=share(6, 30), implied_right=share(172, 200),
                followed=share(180, 200), misled=share(21, 28),
            ),
        ),
    )  # fmt: skip


def hand_made() -> HandMadeResult:
    def made(way: str, follow: int) -> HandMadeRun:
        return HandMadeRun(
            film="outcome", seen="present", way=way, n=200, follow=share(follow, 200), follow_own=share(4, 200),
            follow_noise=share(20, 200), accuracy=share(40, 200), accuracy_own=share(190, 200),
            accuracy_noise=share(100, 200), same=share(150, 160),
        )  # fmt: skip

    one = OneLatent(
        exchange="place", n=150, film=share(120, 150), film_null=share(9, 150), goes_on=figure(0.7),
        goes_on_null=figure(0.02), changed=share(60, 150), changed_null=share(3, 150), follow=figure(0.8),
    )  # fmt: skip
    films = HandMadeFilms(
        benchmark="vsp-reasoning", runs=(made("vectors", 160), made("states", 24)), one_latent=(one,),
        left_out={"no map is known, so no other path is": 7},
    )  # fmt: skip
    return HandMadeResult(header=header("hand-made"), benchmarks=(films,))


def everything(*exchanges: Run) -> dict[str, Record]:
    """A result of every measure, by name."""
    return {
        "similarity": similarity(),
        "probes": probes(
            probe("next-move", 150), probe("start", 80), probe("next-move", 190, states="image-features"),
            probe("start", 190, states="image-features"), probe("next-move", 120, states="latent-0"),
        ),
        "interventions": interventions(*exchanges),
        "mediation": mediation(),
        "only-latents": only_latents(),
        "text-chain": text_chain(),
        "film": films(),
        "hand-made": hand_made(),
    }  # fmt: skip


def lens(*problem_ids: str, num_latents: int = 2) -> LensResult:
    """The lens on answers to the given problems: over a grid of 3 x 3, on the input and the auxiliary image."""

    def image(name: str, like: float) -> ImageLens:
        rows = tuple(tuple(round(0.1 * (row + column), 2) for column in range(3)) for row in range(3))
        centred = tuple(tuple(round(0.1 * (row - column), 2) for column in range(3)) for row in range(3))
        nearest = (Patch(row=2, column=0, cosine=0.2),)
        return ImageLens(picture=name, cosine=rows, centred=centred, mean=rows, nearest=nearest, like_mean=like)

    def words(text: str) -> WordLens:
        word = (Word(text=text, score=0.5),)
        return WordLens(head=word, head_mean=(Word(text="the", score=0.4),), embedding=word, embedding_mean=word)

    def answer(name: str) -> ShownAnswer:
        latents = tuple(
            LatentLens(
                index=index,
                pictures=(image("input", 0.97), image("auxiliary", 0.2)),
                words=words("<script>alert(1)</script>" if index else "the"),
            )
            for index in range(num_latents)
        )
        film = tuple(
            ImaginedStep(
                index=index,
                places=((0.1, 0.9),) * 2,
                place=(0, 1),
                true_places=((0, index),),
                kinds=(Kind(name="<i>ice</i>", probability=0.75),),
                true_kind="ice",
                frame=0,
            )
            for index in range(num_latents)
        )
        return ShownAnswer(
            problem_id=name, benchmark="vsp-planning", group="level-3",
            output="<latents:2><b>{{ settings }}</b>\\boxed{R}", verdict="right", latents=latents, imagined=film,
        )  # fmt: skip

    rng = np.random.default_rng(0)
    labels = {"answer start": ["UDLR"[at % 4] for at in range(40)], "verdict": ["right"] * 40}
    return LensResult(
        instances=200,
        used=198,
        num_latents=num_latents,
        shown=tuple(answer(name) for name in problem_ids),
        summary=tuple(
            PositionSummary(index=index, n=198, same_word=share(190, 198), distinct_words=3, common_word=" the",
                         common_share=0.96, like_mean={"input": 0.98, "auxiliary": None})
            for index in range(num_latents)
        ),
        matches=tuple(match("input", index, rng.random((30, 30)), rng) for index in range(num_latents)),
        projection=project(rng.normal(size=(40, 8)), labels, 0),
    )  # fmt: skip
