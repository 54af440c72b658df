"""One question asked again and again with its latents changed: what one answer can show of them.

Legend: N runs of the question, M other problems, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mirage_core.analysis.intervened_generation import Asker, Change, Said, divergence
from mirage_core.analysis.lens.collect import latent_looks, material_of, pictures_seen, words_of
from mirage_core.analysis.lens.lens import LatentLook, Word
from mirage_core.analysis.measures import image_ablation as views
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.results import Record, Seen, Way
from mirage_core.config import Settings
from mirage_core.generation.interventions import Interventions
from mirage_core.types import Problem

WORDS = 5
CAN = (
    "It shows what this answer does when these latents are changed: an answer that stays although the latents are "
    "another problem's was not decided by their content, here.",
    "An answer that becomes the other problem's own answer followed its latents, here.",
)
CANNOT = (
    "One answer says nothing about the next one: whether the latents of this model matter has to be counted over many "
    "questions, with intervals and controls. `mirage diagnose` does that.",
    "An answer that changes under zeros, the mean or noise may change because such latents are strange to the model.",
    "With the picture in view the model can read it again past its latents: an answer that stays does not mean that "
    "the latents hold nothing.",
)


class QuestionRun(Record):
    """The question once more, with something changed; ``same``: the answer, as read, is the clean one."""

    name: str = Field(description="As in Run: own, permute, mean, zero, noise, noise-only, skip.")
    seen: Seen
    way: Way | None = None
    scale: float | None = None
    answers: tuple[str, ...] = Field(description="As read by the scorer; several where several others lent latents.")
    same: int = Field(description="How many of them are the clean answer.")
    donors: int = Field(0, description="Of these, how many are the lender's own clean answer and not the asked one's.")
    kl: float | None = Field(description="Mean KL from the clean run's first token of the answer, in nats.")
    first: tuple[Word, ...] = Field(description="The likeliest first tokens of the answer, of the first run.")


class Question(Record):
    """A question, its clean answer, the looks at its latents, and what changing them does."""

    model: str
    asked: str
    output: str
    read: str
    verdict: Literal["right", "wrong", "unparsed", "unjudged"]
    num_latents: int
    others: int = Field(description="Other problems behind the mean, the noise and the exchanges; 0: none was at hand.")
    first: tuple[Word, ...]
    runs: tuple[QuestionRun, ...]
    latents: tuple[LatentLook, ...]


@dataclass(frozen=True, slots=True)
class _Named:
    """What is changed in a run, and whose latents (a Said an answer) are lent."""

    name: str
    seen: Seen
    change: Change
    times: int = 1
    way: Way | None = None
    scale: float | None = None
    lenders: tuple[Said, ...] = ()


def explained(
    asker: Asker,
    settings: Settings,
    problem: Problem,
    others: Sequence[Problem],
    *,
    model: str,
    asked: str,
    auxiliary: bytes | None,
    judged: bool,
) -> Question:
    """Ask one question with its latents as they are and changed.

    ``others``: problems of the same kind, whose latents give the mean, the noise and the exchanges; without any, those
    runs are left out and the mean is over the answer's own latents. ``judged``: the right answer is known.
    """
    clean = asker.ask([problem], record_states=True)[0]
    lenders = [said for said in asker.ask(others, record_states=True) if _alike(said, clean)] if others else []
    return Question(
        model=model,
        asked=asked,
        output=clean.prediction.output,
        read=clean.read,
        verdict=_verdict(clean) if judged else "unjudged",
        num_latents=0 if clean.latents is None else len(clean.latents),
        others=len(lenders),
        first=_first_words(asker, clean.first),
        runs=tuple(_run(asker, problem, clean, named) for named in _changes(asker, clean, lenders)),
        latents=_looks(asker, settings, problem, auxiliary, clean, lenders),
    )


def _changes(asker: Asker, clean: Said, lenders: Sequence[Said]) -> list[_Named]:
    """What is tried, the most telling first."""
    if clean.latents is None:
        return [_Named("own", "hidden", _unfed(asker, "hidden"))]
    among = torch.stack([_latents(said) for said in (clean, *lenders)])
    own = among[:1]
    tried: list[_Named] = []
    if lenders:
        lent, states = among[1:], [said.states for said in lenders]
        tried = [
            _Named("permute", "present", views.feeding(asker, "present", lent), len(lent), "vectors", None,
                   tuple(lenders)),
            _Named("permute", "present", views.exchanging(asker, "present", lent, states), len(lent), "states", None,
                   tuple(lenders)),
            _Named("mean", "present", views.feeding(asker, "present", among.mean(0)[None])),
        ]  # fmt: skip
    spread = replacements.spread(among)
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    return [
        *tried,
        _Named("zero", "present", views.feeding(asker, "present", torch.zeros_like(own))),
        _Named("noise", "present", views.feeding(asker, "present", own + spread * noise), scale=1.0),
        _Named("noise", "present", views.feeding(asker, "present", own + 4 * spread * noise), scale=4.0),
        _Named("skip", "present", views.skipping(asker, "present", own)),
        _Named("own", "cut", views.feeding(asker, "cut", own)),
        _Named("own", "hidden", views.feeding(asker, "hidden", own)),
    ]


def _run(asker: Asker, problem: Problem, clean: Said, named: _Named) -> QuestionRun:
    said = asker.ask([problem] * named.times, named.change)
    gaps = [divergence(clean.first, one.first) for one in said if clean.first is not None and one.first is not None]
    followed = sum(one.read == lender.read != clean.read for one, lender in zip(said, named.lenders, strict=False))
    return QuestionRun(
        name=named.name,
        seen=named.seen,
        way=named.way,
        scale=named.scale,
        answers=tuple(one.read for one in said),
        same=sum(one.read == clean.read for one in said),
        donors=followed,
        kl=round(sum(gaps) / len(gaps), 4) + 0.0 if gaps else None,
        first=_first_words(asker, said[0].first),
    )


def _looks(
    asker: Asker, settings: Settings, problem: Problem, auxiliary: bytes | None, clean: Said, lenders: Sequence[Said]
) -> tuple[LatentLook, ...]:
    """The looks at the answer's latents, the mean being that of all answers there are."""
    if clean.latents is None:
        return ()
    loaded = asker.loaded
    with torch.inference_mode():
        seen = [pictures_seen(loaded, settings, problem, auxiliary)]
        stacked = torch.stack([_latents(said) for said in (clean, *lenders)]).to(loaded.backbone.device)
        material = material_of(stacked, seen, mean=_mean(stacked))
        return latent_looks(material, 0, words_of(loaded, material.latents[:1], material.mean)[0])


def _alike(said: Said, clean: Said) -> bool:
    """Whether an answer has latents that can stand in the place of the clean one's."""
    return said.latents is not None and clean.latents is not None and said.latents.shape == clean.latents.shape


def _latents(said: Said) -> Tensor:
    """An answer's latents [k, D] on the CPU, float32; none where it has none."""
    return torch.zeros(0, 0) if said.latents is None else said.latents.float().cpu()


def _unfed(asker: Asker, seen: Seen) -> Change:
    """A view of the picture alone: nothing is fed."""
    base = views.view(asker, seen)

    def change(index: NDArray[np.int64]) -> Interventions:  # noqa: ARG001 (the same for all)
        return base

    return change


def _mean(latents: Tensor) -> Tensor:
    """The mean latent [k, D] of all instances; of a single one the mean of its own latents at every place."""
    floats = latents.float()
    return floats.mean(0) if len(floats) > 1 else floats.mean((0, 1)).expand_as(floats[0])


def _first_words(asker: Asker, first: Tensor | None) -> tuple[Word, ...]:
    """The likeliest first tokens of an answer with their probabilities."""
    if first is None:
        return ()
    best = first.float().exp().topk(min(WORDS, len(first)))
    tokenizer: Any = asker.loaded.processor.tokenizer
    return tuple(
        Word(text=str(tokenizer.decode([token])), score=round(value, 4))
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def _verdict(said: Said) -> Literal["right", "wrong", "unparsed"]:
    return "right" if said.score.correct else "unparsed" if said.score.parsed is None else "wrong"
