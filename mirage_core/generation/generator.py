"""Answers of a loaded model: the problem encoded as in training, decoded, written as text, judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from mirage_core.benchmarks.judge import judge
from mirage_core.config import EvaluationSettings, LatentSettings, PromptSettings, Settings
from mirage_core.errors import SettingsError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.encoder import Encoder
from mirage_core.model.loading import LoadedModel
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent, Scored, Variant

Latents = Literal["on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How a model is to be used: the prompt, the latents and the variant it was trained with."""

    prompt: PromptSettings
    latent: LatentSettings
    variant: Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A prediction with the latents that were fed, [k, D] a span."""

    prediction: Prediction
    latents: tuple[Tensor, ...]


def use_of(loaded: LoadedModel, settings: Settings) -> Use:
    """Read from mirage.json how a model is to be used; a model this project did not make is used as the recipe says.

    Raises:
        SettingsError: mirage.json holds settings this version does not know.
    """
    about = loaded.about
    try:
        return Use(
            prompt=PromptSettings.model_validate(about["prompt"]) if "prompt" in about else settings.prompt,
            latent=LatentSettings.model_validate(about["latent"]) if "latent" in about else settings.latent,
            variant=about.get("variant", settings.teacher.variant),
        )
    except ValidationError as error:
        raise SettingsError(
            f"mirage.json of the model holds prompt or latent settings this version does not know: {error}; "
            "train it again, or use the version that made it"
        ) from error


def decode_settings(evaluation: EvaluationSettings, latent: LatentSettings, latents: Latents) -> DecodeSettings:
    """Put together how answers are drawn. Several samples at temperature 0 would be one answer many times: refused."""
    if evaluation.samples > 1 and evaluation.temperature == 0:
        raise SettingsError(
            f"evaluation.samples is {evaluation.samples} at evaluation.temperature 0, which gives the same answer each "
            "time; set samples to 1, or a temperature above 0 (the released code uses 0.7)"
        )
    return DecodeSettings(
        max_new_tokens=evaluation.max_new_tokens,
        num_latents=latent.num_latents,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        latents=latents,
        end=latent.end,
        max_latents=latent.max_latents,
        max_spans=latent.max_spans,
        samples=evaluation.samples,
        bottleneck=latent.bottleneck,
        fed=latent.fed,
    )


class Answerer:
    """Answers problems with one model: the same problem, sample and seed give the same answer in any batch."""

    def __init__(
        self, loaded: LoadedModel, settings: Settings, *, method: str, latents: Latents = "on", seed: int | None = None
    ) -> None:
        use = use_of(loaded, settings)
        self.loaded = loaded
        self.method = method
        self.seed = settings.seed if seed is None else seed
        self.rule = settings.evaluation.planning_rule
        self.batch_size = settings.evaluation.batch_size
        self.drawing = decode_settings(settings.evaluation, use.latent, latents)
        self.encoder = Encoder(loaded.processor, use.latent, use.prompt, use.variant)
        loaded.backbone.eval()

    def answer(self, problem: Problem) -> Answer:
        """Answer one problem once, whatever the number of samples is."""
        return self.batch([problem])[0][0]

    def batch(self, problems: Sequence[Problem]) -> list[list[Answer]]:
        """Answer a batch: outer list problems, inner list samples."""
        prompts = [self.encoder.prompt(problem) for problem in problems]
        drawn = decode(self.loaded.backbone, prompts, self.loaded.ids, self.drawing, uniform=self._chances(problems))
        return [
            [self._answer(problem, trajectory, sample) for sample, trajectory in enumerate(trajectories)]
            for problem, trajectories in zip(problems, drawn, strict=True)
        ]

    def scored(self, problems: Sequence[Problem]) -> list[Scored]:
        """Answer a batch and judge every answer, problem by problem, sample by sample."""
        answers = self.batch(problems)
        return [
            (answer.prediction, judge(problem, answer.prediction, self.rule))
            for problem, samples in zip(problems, answers, strict=True)
            for answer in samples
        ]

    def _chances(self, problems: Sequence[Problem]) -> Tensor | None:
        """What decides sampled tokens, [problems * samples, max_new_tokens]; None where nothing is left to chance."""
        if self.drawing.temperature == 0:
            return None
        rows = [
            chances(self.seed, problem.id, sample, self.drawing.max_new_tokens)
            for problem in problems
            for sample in range(self.drawing.samples)
        ]
        return torch.stack(rows).to(self.loaded.backbone.device)

    def _answer(self, problem: Problem, trajectory: Trajectory, sample: int) -> Answer:
        tokens = trajectory.token_ids
        prediction = Prediction(
            problem_id=problem.id,
            benchmark=problem.benchmark,
            group=problem.group,
            method=self.method,
            output=output_text(self.loaded.processor.tokenizer, self.loaded.ids, tokens, trajectory.spans),
            token_ids=tokens,
            spans=trajectory.spans,
            finished=trajectory.finished,
            sample=sample,
        )
        return Answer(prediction=prediction, latents=trajectory.latents)


def predict(answerer: Answerer, problems: Sequence[Problem], progress: Progress) -> list[Scored]:
    """Answer and judge problems in this process, in their order (``mirage answer`` and other small files)."""
    found: dict[str, list[Scored]] = {}
    batches = fixed_batches(problems, answerer.batch_size)
    for number, indices in enumerate(batches, start=1):
        for pair in answerer.scored([problems[index] for index in indices]):
            found.setdefault(pair[0].problem_id, []).append(pair)
        progress(ProgressEvent(stage="evaluation", step=number, total=len(batches)))
    return [pair for problem in problems for pair in found[problem.id]]


def fixed_batches(problems: Sequence[Problem], batch_size: int) -> list[tuple[int, ...]]:
    """Cut problems into batches of like prompts: indices, the same whatever the number of processes.

    Prompts are alike in length when benchmark, group (the picture's size) and question length agree, so little of a
    batch is padding; no picture needs decoding for that.
    """
    order = sorted(range(len(problems)), key=lambda index: (*_size(problems[index]), index))
    return [tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def chances(seed: int, problem_id: str, sample: int, length: int) -> Tensor:
    """Numbers in [0, 1) that decide the tokens of one sample, [length]: a function of the arguments alone."""
    digest = hashlib.sha256(f"{seed}/{sample}/{problem_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(length, dtype=torch.float64, generator=generator)


def _size(problem: Problem) -> tuple[str, str, int, int]:
    plan = str(problem.facts.get("plan", ""))
    return (problem.benchmark, problem.group, len(problem.question), len(plan))
