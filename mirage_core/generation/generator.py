"""One model answers problems: prompts encoded as in training, answers decoded, written as text, and judged.

Evaluation, validation during training, GRPO's rollouts and analysis all answer through ``Generator``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.benchmarks.judge import Scorer, judge, judged
from mirage_core.config import EvaluationSettings, InferenceSettings, LatentSettings, Settings
from mirage_core.errors import SettingsError
from mirage_core.generation.decode import DecodeSettings, Latents, Observer, decode
from mirage_core.generation.gaussian_latents import GaussianLatents, LatentSampling, with_densities
from mirage_core.generation.interventions import Interventions
from mirage_core.generation.trajectory import Trajectory, output_text
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.features import with_features
from mirage_core.model.loading import LoadedModel
from mirage_core.types import Prediction, Problem, Score, Scored

UniformNumbers = Callable[[Problem], Tensor]
"""The numbers in [0, 1) that decide the sampled answers to a problem: [samples, max_new_tokens]."""


@dataclass(frozen=True, slots=True)
class AnsweredProblem:
    """The answers to one problem, a trajectory a sample, and the prompt that they continue."""

    problem: Problem
    prompt: EncodedPrompt
    trajectories: list[Trajectory]


class Generator:
    """Answers problems with one model; greedy answers, and the samples of one seed, do not depend on the batch.

    ``method`` labels predictions; ``planning_rule`` and ``scorer`` judge them. ``share_features``: compute the image
    features of a prompt once, for its answers and for training on them, if the vision tower is frozen.
    ``interventions``: on every answer that ``generate`` gives.
    """

    def __init__(
        self,
        model: LoadedModel,
        inference: InferenceSettings,
        decoding: DecodeSettings,
        *,
        planning_rule: str,
        scorer: Scorer = judge,
        method: str = "",
        seed: int = 0,
        share_features: bool = False,
        interventions: Interventions | None = None,
    ) -> None:
        self.model, self.inference, self.decoding, self.method, self.seed = model, inference, decoding, method, seed
        self.encoder = Encoder(model.processor, inference.latent, inference.prompt, inference.variant)
        self.planning_rule, self._scorer, self._share_features = planning_rule, scorer, share_features
        self._interventions = interventions

    @classmethod
    def for_evaluation(
        cls,
        model: LoadedModel,
        settings: Settings,
        *,
        method: str,
        latents: Latents = "on",
        seed: int | None = None,
        blind: bool = False,
    ) -> Generator:
        """Generate as evaluation does: the model in evaluation mode, used as its mirage.json says.

        ``blind``: no token attends to the picture's.

        Raises:
            SettingsError: mirage.json holds unknown settings, or several samples are asked for at temperature 0.
        """
        inference = InferenceSettings.from_metadata(model.about, settings)
        model.backbone.eval()
        if settings.runtime.fused:
            model.backbone.fuse()
        return cls(
            model,
            inference,
            evaluation_decoding(settings.evaluation, inference.latent, latents),
            planning_rule=settings.evaluation.planning_rule,
            method=method,
            seed=settings.seed if seed is None else seed,
            interventions=Interventions(image="hidden") if blind else None,
        )

    def prompts(self, problems: Sequence[Problem]) -> list[EncodedPrompt]:
        """The prompts of these problems."""
        prompts = [self.encoder.prompt(problem) for problem in problems]
        backbone = self.model.backbone
        return with_features(backbone, prompts) if self._share_features and not backbone.trains_vision else prompts

    def generate(
        self,
        problems: Sequence[Problem],
        uniform: UniformNumbers | None = None,
        *,
        max_rows: int | None = None,
        sampling: LatentSampling | None = None,
    ) -> list[AnsweredProblem]:
        """Answer problems, in their order.

        ``uniform`` decides sampled tokens; without it (seed, problem, sample) do. ``max_rows``: decode at most so many
        answers side by side (None: all); this limits memory and changes no answer. A prompt is encoded once for its
        samples, or once for every ``max_rows`` of them. ``sampling``: latents are sampled, and their log-densities
        recorded; None: latents are the hidden states.
        """
        at_once = len(problems) if max_rows is None else max(1, max_rows // self.decoding.samples)
        chunks = [problems[first : first + at_once] for first in range(0, len(problems), max(1, at_once))]
        return [answers for chunk in chunks for answers in self._generate(chunk, uniform, max_rows, sampling)]

    def decode(
        self,
        prompts: Sequence[EncodedPrompt],
        *,
        observe: Observer | None = None,
        interventions: Interventions | None = None,
        record_states: bool = False,
    ) -> list[list[Trajectory]]:
        """Continue prompts greedily under interventions: outer list prompts, inner list samples. See ``decode``."""
        return decode(
            self.model.backbone,
            prompts,
            self.model.ids,
            self.decoding,
            observe=observe,
            interventions=interventions,
            record_states=record_states,
            readout=self.model.readout,
        )

    def predictions(self, problems: Sequence[Problem]) -> list[list[Prediction]]:
        """Answer problems as one batch: outer list problems, inner list samples."""
        return [
            [self.prediction(answers.problem, each, sample=sample) for sample, each in enumerate(answers.trajectories)]
            for answers in self.generate(problems)
        ]

    def scored(self, problems: Sequence[Problem]) -> list[Scored]:
        """Answer problems as one batch and judge every answer, problem by problem, sample by sample."""
        return [
            (prediction, self.judge(problem, prediction))
            for problem, predictions in zip(problems, self.predictions(problems), strict=True)
            for prediction in predictions
        ]

    def prediction(
        self, problem: Problem, trajectory: Trajectory, *, sample: int = 0, prefix_text: str = ""
    ) -> Prediction:
        """A trajectory as a prediction, its tokens as text; ``prefix_text``: the part of the answer in its prompt."""
        tokens = trajectory.token_ids
        text = output_text(self.model.processor.tokenizer, self.model.ids, tokens, trajectory.spans)
        return Prediction(
            problem_id=problem.id,
            benchmark=problem.benchmark,
            group=problem.group,
            method=self.method,
            output=prefix_text + text,
            token_ids=tokens,
            spans=trajectory.spans,
            finished=trajectory.finished,
            sample=sample,
        )

    def judge(self, problem: Problem, prediction: Prediction) -> Score:
        """Score a prediction on a problem, its own or another. DataError if the scorer fails."""
        return judged(self._scorer, problem, prediction, self.planning_rule)

    def _generate(
        self,
        problems: Sequence[Problem],
        uniform: UniformNumbers | None,
        max_rows: int | None,
        sampling: LatentSampling | None,
    ) -> list[AnsweredProblem]:
        """Answer one chunk of problems, their samples in portions of at most ``max_rows``."""
        prompts, samples = self.prompts(problems), self.decoding.samples
        numbers = self._uniform_numbers(problems, uniform)
        normal = None if sampling is None else torch.stack([sampling.numbers(problem) for problem in problems])
        width = samples if max_rows is None else min(samples, max_rows)
        trajectories: list[list[Trajectory]] = [[] for _ in problems]
        for first in range(0, samples, width):
            part = None if numbers is None else numbers[:, first : first + width].flatten(0, 1)
            decoding = replace(self.decoding, samples=min(width, samples - first))
            latents = None
            if sampling is not None and normal is not None:
                latents = GaussianLatents(normal[:, first : first + width].flatten(0, 1), sampling.sigma)
            decoded = decode(
                self.model.backbone,
                prompts,
                self.model.ids,
                decoding,
                uniform=part,
                interventions=self._interventions if latents is None else latents.within(self._interventions),
                readout=self.model.readout,
            )
            decoded = decoded if latents is None else with_densities(decoded, latents)
            for answers, added in zip(trajectories, decoded, strict=True):
                answers.extend(added)
        return [AnsweredProblem(*parts) for parts in zip(problems, prompts, trajectories, strict=True)]

    def _uniform_numbers(self, problems: Sequence[Problem], uniform: UniformNumbers | None) -> Tensor | None:
        """What decides sampled tokens [problems, samples, max_new_tokens]; None for greedy answers."""
        if uniform is None and self.decoding.temperature == 0:
            return None
        numbers = [self._seeded_numbers(problem) if uniform is None else uniform(problem) for problem in problems]
        return torch.stack(numbers).to(self.model.backbone.device)

    def _seeded_numbers(self, problem: Problem) -> Tensor:
        """The numbers of one problem's samples [samples, max_new_tokens]."""
        length = self.decoding.max_new_tokens
        return torch.stack(
            [seeded_numbers(self.seed, problem.id, sample, length) for sample in range(self.decoding.samples)]
        )


def evaluation_decoding(evaluation: EvaluationSettings, latent: LatentSettings, latents: Latents) -> DecodeSettings:
    """How an evaluation decodes; SettingsError for several samples at temperature 0, which would all be the same."""
    if evaluation.samples > 1 and evaluation.temperature == 0:
        raise SettingsError(
            f"evaluation.samples is {evaluation.samples} at evaluation.temperature 0, which gives the same answer each "
            "time; set samples to 1, or a temperature above 0 (the released code uses 0.7)"
        )
    return DecodeSettings.of(
        latent,
        max_new_tokens=evaluation.max_new_tokens,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        samples=evaluation.samples,
        latents=latents,
    )


def fixed_batches(problems: Sequence[Problem], batch_size: int) -> list[tuple[int, ...]]:
    """Split problems into batches of similar prompts: indices, the same whatever the number of processes.

    Prompts are similar in length when benchmark, group (the size of the image) and question length agree, so little of
    a batch is padding. No image is decoded for it.
    """
    order = sorted(range(len(problems)), key=lambda index: (*_prompt_size(problems[index]), index))
    return [tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def seeded_numbers(seed: int, problem_id: str, sample: int, length: int) -> Tensor:
    """Numbers in [0, 1) that decide the tokens of one sample [length]: a function of the arguments alone."""
    digest = hashlib.sha256(f"{seed}/{sample}/{problem_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(length, dtype=torch.float64, generator=generator)


def _prompt_size(problem: Problem) -> tuple[str, str, int, int]:
    plan = str(problem.facts.get("plan", ""))
    return (problem.benchmark, problem.group, len(problem.question), len(plan))
