"""Answers drawn from the current policy, judged, and laid out as examples to learn from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mirage_core.benchmarks import get
from mirage_core.config import Settings
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.generation.sampling import SamplingRules
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.encoder import Encoder, encode_rollout
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.model.features import with_features
from mirage_core.model.loading import LoadedModel
from mirage_core.training.grpo.rewards import Reward, group_advantages, is_silent, reward, spread
from mirage_core.training.loop import step_seed
from mirage_core.types import Problem


@dataclass(frozen=True)
class Rollout:
    """One drawn answer: laid out, judged, and compared to its group.

    ``answer``: as it was drawn, with the log-probabilities of its sampled tokens and the latents that were fed.
    """

    encoded: EncodedExample
    answer: Trajectory
    reward: Reward
    advantage: float

    @property
    def log_probs(self) -> list[float]:
        """Of its sampled tokens, when they were drawn."""
        return [value for value, own in zip(self.answer.log_probs, self.answer.sampled, strict=True) if own]

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """What was fed, [k, D] a span."""
        return self.answer.latents


@dataclass(frozen=True)
class Group:
    """All answers to one prompt. ``index``: of the problem; ``spread``: the standard deviation of their rewards."""

    index: int
    prompt: EncodedPrompt
    rollouts: tuple[Rollout, ...]
    spread: float
    silent: bool

    @property
    def rewards(self) -> list[Reward]:
        """What each answer earned."""
        return [one.reward for one in self.rollouts]


class Sampler:
    """Draws groups of answers to problems; what is drawn depends on (seed, step, problem) and the weights alone.

    ``at_once``: so many answers are drawn side by side (None: all): the memory this takes grows with it, the answers
    are the same. A prompt is encoded once for its group, or once a portion where a group does not fit into one.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: Settings,
        problems: Sequence[Problem],
        seed: int,
        *,
        at_once: int | None = None,
        latents: Literal["on", "off"] = "on",
    ) -> None:
        self._model, self._settings, self._problems, self._seed = model, settings, problems, seed
        self._encoder = Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
        grpo, latent = settings.grpo, settings.latent
        self._at_once = at_once
        self._decoding = DecodeSettings(
            max_new_tokens=grpo.max_new_tokens,
            num_latents=latent.num_latents,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
            latents=latents,
            end=latent.end,
            max_latents=latent.max_latents,
            max_spans=latent.max_spans,
            samples=grpo.group_size,
            bottleneck=latent.bottleneck,
            fed=latent.fed,
        )
        self.seconds = 0.0
        """Time spent on drawing so far."""

    @property
    def rules(self) -> SamplingRules:
        """The distribution answers are drawn from, before top-p."""
        return sampling_rules(self._model.ids, self._decoding)

    def draw(self, step: int, indices: Sequence[int]) -> list[Group]:
        """``group_size`` answers to every problem of these indices, judged, group by group."""
        begun = time.monotonic()
        drawn = [
            (index, prompt, answers)
            for portion in self._portions(indices)
            for index, prompt, answers in self._answered(step, portion)
        ]
        self.seconds += time.monotonic() - begun
        return [self._judged(*one) for one in drawn]

    def judged(self, answers: Sequence[tuple[int, Sequence[Trajectory]]]) -> list[Group]:
        """Groups out of answers that were drawn before: (index of the problem, its answers)."""
        prompts = self.prompts([index for index, _ in answers])
        return [self._judged(index, prompt, given) for (index, given), prompt in zip(answers, prompts, strict=True)]

    def prompts(self, indices: Sequence[int]) -> list[EncodedPrompt]:
        """The prompts of these problems; with the features of their pictures where the vision tower is frozen."""
        prompts = [self._encoder.prompt(self._problems[index]) for index in indices]
        return prompts if self._model.backbone.trains_vision else with_features(self._model.backbone, prompts)

    def _portions(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        """The problems that are answered side by side."""
        most = len(indices) if self._at_once is None else max(1, self._at_once // self._decoding.samples)
        return (indices[first : first + most] for first in range(0, len(indices), max(1, most)))

    def _answered(self, step: int, indices: Sequence[int]) -> list[tuple[int, EncodedPrompt, list[Trajectory]]]:
        """The answers to the problems of one portion."""
        prompts = self.prompts(indices)
        uniform = torch.stack([self._uniform(step, self._problems[index]) for index in indices])
        samples = self._decoding.samples
        width = samples if self._at_once is None else min(samples, self._at_once)
        answers: list[list[Trajectory]] = [[] for _ in indices]
        for first in range(0, samples, width):
            chances = uniform[:, first : first + width]
            settings = replace(self._decoding, samples=chances.shape[1])
            device = self._model.backbone.device
            found = decode(
                self._model.backbone, prompts, self._model.ids, settings, uniform=chances.flatten(0, 1).to(device)
            )
            for mine, drawn in zip(answers, found, strict=True):
                mine.extend(drawn)
        return list(zip(indices, prompts, answers, strict=True))

    def _uniform(self, step: int, problem: Problem) -> Tensor:
        """Random numbers that decide one problem's answers, [group, tokens]."""
        name = int.from_bytes(problem.id.encode(), "big")
        generator = torch.Generator().manual_seed(step_seed(self._seed, step, name))
        return torch.rand(self._decoding.samples, self._decoding.max_new_tokens, generator=generator)

    def _judged(self, index: int, prompt: EncodedPrompt, answers: Sequence[Trajectory]) -> Group:
        rewards = [self._reward(self._problems[index], answer) for answer in answers]
        totals = [found.total for found in rewards]
        rollouts = tuple(
            Rollout(
                encoded=encode_rollout(prompt, answer.token_ids, answer.spans, answer.sampled, self._model.ids),
                answer=answer,
                reward=found,
                advantage=advantage,
            )
            for answer, found, advantage in zip(
                answers, rewards, group_advantages(totals, self._settings.grpo.advantage), strict=True
            )
        )
        return Group(index, prompt, rollouts, spread(totals), is_silent(totals))

    def _reward(self, problem: Problem, answer: Trajectory) -> Reward:
        settings = self._settings
        output = output_text(self._model.processor.tokenizer, self._model.ids, answer.token_ids, answer.spans)
        return reward(
            output,
            is_correct(problem, output, settings.evaluation.planning_rule),
            settings.teacher.variant,
            accuracy_value=settings.grpo.accuracy_reward,
            format_value=settings.grpo.format_reward,
        )


def is_correct(problem: Problem, output: str, planning_rule: str) -> bool:
    """The verdict of the problem's benchmark, by the rule of the evaluation where the benchmark has that choice."""
    benchmark = get(problem.benchmark)
    rule = planning_rule if planning_rule in benchmark.rules else benchmark.rules[0]
    return benchmark.score(problem, output, rule=rule).correct


def outcomes(groups: Sequence[Group]) -> dict[str, float]:
    """Figures of drawn answers, each summed over the answers: divided by their number they are means.

    A figure of a group counts once an answer, so that means hold where groups are of one size, as they are.
    """
    figures = [figure for group in groups for figure in _figures(group)]
    return {name: math.fsum(figure[name] for figure in figures) for name in FIGURES}


FIGURES = (
    "reward",
    "reward_accuracy",
    "reward_format",
    "reward_spread",
    "accuracy",
    "well_formed_share",
    "latent_share",
    "num_latents",
    "completion_length",
    "finished_share",
    "silent_groups",
)
"""What is logged of the answers that were drawn, learned from or not."""


def _figures(group: Group) -> Iterator[dict[str, float]]:
    """The figures of each answer of a group."""
    for one in group.rollouts:
        yield {
            "reward": one.reward.total,
            "reward_accuracy": one.reward.accuracy,
            "reward_format": one.reward.format,
            "reward_spread": group.spread,
            "accuracy": float(one.reward.correct),
            "well_formed_share": float(one.reward.well_formed),
            "latent_share": float(bool(one.latents)),
            "num_latents": float(sum(len(latent) for latent in one.latents)),
            "completion_length": float(len(one.answer.token_ids)),
            "finished_share": float(one.answer.finished),
            "silent_groups": float(group.silent),
        }
