"""One question answered again and again with its latents changed: what one answer can show of them.

Legend: N runs of the question, M other problems, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep
from mirage_core.analysis.intervened_generation import (
    BatchIntervention,
    GeneratedAnswer,
    InterventionRunner,
    kl_divergence,
)
from mirage_core.analysis.lens.collect import encode_images, latent_lenses, lens_inputs, nearest_words
from mirage_core.analysis.lens.lens import LatentLens, Word
from mirage_core.analysis.measures import replacements
from mirage_core.analysis.measures.image_ablation import ablate_image, feed_latents, patch_states, skip_latents
from mirage_core.analysis.results import ImageAccess, Record, Way
from mirage_core.config import Settings
from mirage_core.types import Problem

NUM_WORDS = 5
CAN = (
    "It shows what this answer does when these latents are changed: an answer that stays although the latents are "
    "another problem's was not decided by their content, here.",
    "An answer that becomes the other problem's own answer followed its latents, here.",
)
CANNOT = (
    "One answer says nothing about the next one: whether the latents of this model matter has to be counted over many "
    "questions, with intervals and controls. `mirage diagnose` does that.",
    "An answer that changes under zeros, the mean or noise may change because the model never met such latents.",
    "With the image in view the model can read it again past its latents: an answer that stays does not mean that "
    "the latents hold nothing.",
)


class QuestionRun(Record):
    """Answers to the question under one intervention."""

    name: str = Field(description="As in Run: own, permute, mean, zero, noise, noise-only, skip.")
    seen: ImageAccess
    way: Way | None = None
    scale: float | None = None
    answers: tuple[str, ...] = Field(description="As parsed; one for each donor where latents are patched.")
    same: int = Field(description="How many of them are the clean answer.")
    donors: int = Field(0, description="How many are the donor's clean answer and not this question's.")
    kl: float | None = Field(description="Mean KL from the first answer token of the clean run, in nats.")
    first: tuple[Word, ...] = Field(description="The most likely first tokens of the first answer.")


class Question(Record):
    """A question, its clean answer, the lens on its latents, and the answers under interventions on them."""

    model: str
    asked: str
    output: str
    read: str
    verdict: Literal["right", "wrong", "unparsed", "unjudged"]
    num_latents: int
    others: int = Field(description="Number of other problems behind the mean, the noise and the patching.")
    first: tuple[Word, ...]
    runs: tuple[QuestionRun, ...]
    latents: tuple[LatentLens, ...]
    imagined: tuple[ImaginedStep, ...] = ()


@dataclass(frozen=True, slots=True)
class _PlannedRun:
    """One intervention to run: its name, image access and way, how often, and the donors whose latents it patches."""

    name: str
    seen: ImageAccess
    intervene: BatchIntervention
    times: int = 1
    way: Way | None = None
    scale: float | None = None
    donors: tuple[GeneratedAnswer, ...] = ()


def explain_question(
    runner: InterventionRunner,
    settings: Settings,
    problem: Problem,
    others: Sequence[Problem],
    *,
    model: str,
    asked: str,
    auxiliary: bytes | None,
    judged: bool,
) -> Question:
    """Answer one question with its own latents and under interventions on them.

    ``others``: problems of the same kind, whose latents give the mean, the noise and the patching; without any, those
    runs are left out and the mean is over the answer's own latents. ``judged``: the correct answer is known.
    """
    clean = runner.generate([problem], record_states=True)[0]
    answers = runner.generate(others, record_states=True) if others else []
    donors = [answer for answer in answers if _same_shape(answer, clean)]
    runner = runner.of_length(0 if clean.latents is None else len(clean.latents))
    return Question(
        model=model,
        asked=asked,
        output=clean.prediction.output,
        read=clean.text,
        verdict=_verdict(clean) if judged else "unjudged",
        num_latents=0 if clean.latents is None else len(clean.latents),
        others=len(donors),
        first=_first_words(runner, clean.first_token),
        runs=tuple(_run(runner, problem, clean, planned) for planned in _planned_runs(runner, clean, donors)),
        latents=_lenses(runner, settings, problem, auxiliary, clean, donors),
        imagined=imagined_film(runner, problem, clean),
    )


def imagined_film(runner: InterventionRunner, problem: Problem, clean: GeneratedAnswer) -> tuple[ImaginedStep, ...]:
    """What an answer's latents imagine; nothing where the model has no heads to read them."""
    reader = None if runner.folder is None else ImaginationReader.of(runner.folder, runner.loaded, runner.settings)
    return () if reader is None or clean.latents is None else reader.read([problem], [clean.latents])[0]


def _planned_runs(
    runner: InterventionRunner, clean: GeneratedAnswer, donors: Sequence[GeneratedAnswer]
) -> list[_PlannedRun]:
    """The interventions, the most informative first."""
    full, masked, none = ImageAccess
    if clean.latents is None:
        ablation = ablate_image(runner, none)
        return [_PlannedRun("own", none, lambda index: ablation)]  # noqa: ARG005 (the same for every batch)
    latents = torch.stack([_latents(answer) for answer in (clean, *donors)])
    own = latents[:1]
    planned: list[_PlannedRun] = []
    if donors:
        patched, states = latents[1:], [donor.states for donor in donors]
        ways: dict[Way, BatchIntervention] = {
            "vectors": feed_latents(runner, full, patched),
            "states": patch_states(runner, full, patched, states),
        }
        planned = [
            _PlannedRun("permute", full, intervene, len(patched), way, donors=tuple(donors))
            for way, intervene in ways.items()
        ]
        planned.append(_PlannedRun("mean", full, feed_latents(runner, full, latents.mean(0)[None])))
    std = replacements.overall_std(latents)
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    return [
        *planned,
        _PlannedRun("zero", full, feed_latents(runner, full, torch.zeros_like(own))),
        _PlannedRun("noise", full, feed_latents(runner, full, own + std * noise), scale=1.0),
        _PlannedRun("noise", full, feed_latents(runner, full, own + 4 * std * noise), scale=4.0),
        _PlannedRun("skip", full, skip_latents(runner, full, own)),
        _PlannedRun("own", masked, feed_latents(runner, masked, own)),
        _PlannedRun("own", none, feed_latents(runner, none, own)),
    ]


def _run(runner: InterventionRunner, problem: Problem, clean: GeneratedAnswer, planned: _PlannedRun) -> QuestionRun:
    answers = runner.generate([problem] * planned.times, planned.intervene)
    tokens = [answer.first_token for answer in answers if answer.first_token is not None]
    divergences = [] if clean.first_token is None else [kl_divergence(clean.first_token, token) for token in tokens]
    pairs = zip(answers, planned.donors, strict=False)
    return QuestionRun(
        name=planned.name,
        seen=planned.seen,
        way=planned.way,
        scale=planned.scale,
        answers=tuple(answer.text for answer in answers),
        same=sum(answer.text == clean.text for answer in answers),
        donors=sum(answer.text == donor.text != clean.text for answer, donor in pairs),
        kl=round(sum(divergences) / len(divergences), 4) + 0.0 if divergences else None,
        first=_first_words(runner, answers[0].first_token),
    )


def _lenses(
    runner: InterventionRunner,
    settings: Settings,
    problem: Problem,
    auxiliary: bytes | None,
    clean: GeneratedAnswer,
    donors: Sequence[GeneratedAnswer],
) -> tuple[LatentLens, ...]:
    """The lens on the answer's latents; the mean latents are those of all answers, its own and the donors'."""
    if clean.latents is None:
        return ()
    loaded = runner.loaded
    with torch.inference_mode():
        images = [encode_images(loaded, settings, problem, auxiliary)]
        latents = torch.stack([_latents(answer) for answer in (clean, *donors)]).to(loaded.backbone.device)
        inputs = lens_inputs(latents, images, mean=_mean(latents))
        return latent_lenses(inputs, 0, nearest_words(loaded, inputs.latents[:1], inputs.mean)[0])


def _same_shape(answer: GeneratedAnswer, clean: GeneratedAnswer) -> bool:
    """Whether the latents of an answer can replace those of the clean one."""
    return answer.latents is not None and clean.latents is not None and answer.latents.shape == clean.latents.shape


def _latents(answer: GeneratedAnswer) -> Tensor:
    """The latents [k, D] of an answer on the CPU, float32; an empty tensor without latents."""
    return torch.zeros(0, 0) if answer.latents is None else answer.latents.float().cpu()


def _mean(latents: Tensor) -> Tensor:
    """The mean latents [k, D] of all instances; of a single one the mean of its own latents at every index."""
    floats = latents.float()
    return floats.mean(0) if len(floats) > 1 else floats.mean((0, 1)).expand_as(floats[0])


def _first_words(runner: InterventionRunner, log_probs: Tensor | None) -> tuple[Word, ...]:
    """The most likely first tokens of an answer with their probabilities, from log-probabilities [V]."""
    if log_probs is None:
        return ()
    best = log_probs.float().exp().topk(min(NUM_WORDS, len(log_probs)))
    tokenizer: Any = runner.loaded.processor.tokenizer
    return tuple(
        Word(text=str(tokenizer.decode([token])), score=round(value, 4))
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def _verdict(answer: GeneratedAnswer) -> Literal["right", "wrong", "unparsed"]:
    return "right" if answer.score.correct else "unparsed" if answer.score.parsed is None else "wrong"
