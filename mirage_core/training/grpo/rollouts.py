"""Answers sampled from the current policy, judged, and encoded as examples to learn from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mirage_core.benchmarks.judge import Scorer, judge
from mirage_core.config import InferenceSettings, Settings
from mirage_core.errors import SettingsError, TrainingError
from mirage_core.generation.decode import DecodeSettings, Trajectory, sampling_rules
from mirage_core.generation.gaussian_latents import LatentSampling
from mirage_core.generation.generator import AnsweredProblem, Generator
from mirage_core.generation.sampling import SamplingRules
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.model.loading import LoadedModel
from mirage_core.training.grpo.rewards import Reward, group_advantages, has_zero_variance, make_reward, reward_std
from mirage_core.training.grpo.served import ServedRollouts
from mirage_core.training.loop import step_seed
from mirage_core.types import Problem

_LATENTS_SEED = 31


@dataclass(frozen=True)
class Rollout:
    """A sampled answer: encoded, judged, and compared with its group.

    ``answer``: as it was sampled, with the log-probabilities of its tokens and the latents that were fed.
    """

    encoded: EncodedExample
    answer: Trajectory
    reward: Reward
    advantage: float

    @property
    def log_probs(self) -> list[float]:
        """Those of its sampled tokens, not of forced ones."""
        return [value for value, sampled in zip(self.answer.log_probs, self.answer.sampled, strict=True) if sampled]

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """The latents that were fed, [k, D] per span."""
        return self.answer.latents


@dataclass(frozen=True)
class Group:
    """All answers to one prompt. ``index``: of the problem; ``std``: the standard deviation of their rewards."""

    index: int
    prompt: EncodedPrompt
    rollouts: tuple[Rollout, ...]
    std: float
    zero_variance: bool

    @property
    def rewards(self) -> list[Reward]:
        """The reward of each answer."""
        return [rollout.reward for rollout in self.rollouts]


class Sampler:
    """Samples groups of answers to problems; they depend on (seed, step, problem) and the weights alone.

    ``max_rows``: answers that are decoded side by side (None: all). ``scorer`` judges them. ``pushed``: a folder for
    weights on their way to the engine that samples in place of this process, if grpo.rollouts is served.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: Settings,
        problems: Sequence[Problem],
        seed: int,
        *,
        max_rows: int | None = None,
        latents: Literal["on", "off"] = "on",
        scorer: Scorer = judge,
        pushed: Path | None = None,
    ) -> None:
        self._model, self._settings, self._problems, self._seed = model, settings, problems, seed
        self._max_rows = max_rows
        grpo = settings.grpo
        self._generator = Generator(
            model,
            InferenceSettings.of(settings),
            DecodeSettings.of(
                settings.latent,
                max_new_tokens=grpo.max_new_tokens,
                temperature=grpo.temperature,
                top_p=grpo.top_p,
                samples=grpo.group_size,
                latents=latents,
            ),
            planning_rule=settings.evaluation.planning_rule,
            scorer=scorer,
            share_features=True,
        )
        self._served: ServedRollouts | None = None
        if grpo.rollouts == "served":
            if pushed is None:
                raise SettingsError("grpo.rollouts served needs a folder for the weights of a round; pass one")
            self._served = ServedRollouts(model, settings, self._generator.decoding, pushed)
        self._weights: tuple[int, str] = (-1, "")
        self.seconds = 0.0
        """Time spent on generation so far."""

    @property
    def rules(self) -> SamplingRules:
        """The distribution that answers are sampled from, before top-p."""
        return sampling_rules(self._model.ids, self._generator.decoding)

    def sample(self, step: int, indices: Sequence[int], sigma: float | None = None) -> list[Group]:
        """Sample ``group_size`` answers to every problem of these indices, and judge them.

        ``sigma``: latents are sampled too, with this standard deviation; None: they are the hidden states.
        """
        start = time.monotonic()
        problems = [self._problems[index] for index in indices]
        if self._served is not None:
            generated = self._served_answers(self._served, step, problems)
        else:
            generated = self._generator.generate(
                problems,
                partial(self._uniform, step),
                max_rows=self._max_rows,
                sampling=None if sigma is None else LatentSampling(partial(self._normal, step), sigma),
            )
        self.seconds += time.monotonic() - start
        return [
            self._group(index, answers.prompt, answers.trajectories)
            for index, answers in zip(indices, generated, strict=True)
        ]

    def _served_answers(self, served: ServedRollouts, step: int, problems: list[Problem]) -> list[AnsweredProblem]:
        """Return the engine's answers; before the first of a step every process takes part in pushing the weights."""
        if self._weights[0] != step:
            self._weights = (step, served.push(step))
        samples = range(self._generator.decoding.samples)
        seeds = [
            [step_seed(self._seed, step, _number_of(problem), sample) for sample in samples] for problem in problems
        ]
        prompts = self._generator.prompts(problems)
        answered = served.answers(problems, prompts, seeds, self._weights[1])
        return [AnsweredProblem(*parts) for parts in zip(problems, prompts, answered, strict=True)]

    def judge(self, answered: Sequence[tuple[int, Sequence[Trajectory]]]) -> list[Group]:
        """Return the groups of answers that were sampled before: (index of the problem, its answers)."""
        prompts = self.prompts([index for index, _ in answered])
        return [self._group(index, prompt, answers) for (index, answers), prompt in zip(answered, prompts, strict=True)]

    def prompts(self, indices: Sequence[int]) -> list[EncodedPrompt]:
        """Encode the prompts of these problems, with the features of their images if the vision tower is frozen."""
        return self._generator.prompts([self._problems[index] for index in indices])

    def _uniform(self, step: int, problem: Problem) -> Tensor:
        """Return the random numbers that decide one problem's answers, [group, tokens]."""
        decoding = self._generator.decoding
        generator = torch.Generator().manual_seed(step_seed(self._seed, step, _number_of(problem)))
        return torch.rand(decoding.samples, decoding.max_new_tokens, generator=generator)

    def _normal(self, step: int, problem: Problem) -> Tensor:
        """Return the random numbers that decide the latents of one problem's answers, [group, latents, hidden size]."""
        decoding, size = self._generator.decoding, self._model.backbone.hidden_size
        generator = torch.Generator().manual_seed(step_seed(self._seed, step, _number_of(problem), _LATENTS_SEED))
        return torch.randn(decoding.samples, decoding.max_spans * decoding.span_limit, size, generator=generator)

    def _group(self, index: int, prompt: EncodedPrompt, answers: Sequence[Trajectory]) -> Group:
        rewards = [self._reward(self._problems[index], answer) for answer in answers]
        totals = [reward.total for reward in rewards]
        advantages = group_advantages(totals, self._settings.grpo.advantage)
        rollouts = tuple(
            Rollout(
                encoded=encode_rollout(prompt, answer.token_ids, answer.spans, answer.sampled, self._model.ids),
                answer=answer,
                reward=reward,
                advantage=advantage,
            )
            for answer, reward, advantage in zip(answers, rewards, advantages, strict=True)
        )
        return Group(index, prompt, rollouts, reward_std(totals), has_zero_variance(totals))

    def _reward(self, problem: Problem, answer: Trajectory) -> Reward:
        prediction = self._generator.prediction(problem, answer)
        score = self._generator.judge(problem, prediction)
        reward = make_reward(
            prediction.output,
            score.correct,
            self._settings.teacher.variant,
            accuracy_value=self._settings.grpo.accuracy_reward,
            format_value=self._settings.grpo.format_reward,
            parsed=score.parsed is not None,
        )
        if not math.isfinite(reward.total):
            raise TrainingError(
                f"problem {problem.id} of {problem.benchmark}: the scorer's verdict (rule {score.rule}, correct "
                f"{score.correct}) makes a reward of {reward.total}, expected a finite number: correct the scorer, or "
                "grpo.accuracy_reward and grpo.format_reward"
            )
        return reward


def _number_of(problem: Problem) -> int:
    return int.from_bytes(problem.id.encode(), "big")


def summed_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Return figures of answers, each summed over the answers: divided by their number they are means.

    A figure of a group counts once per answer, so the means are right where groups are of one size, as they are.
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
"""Figures of all sampled answers, learned from or not."""


def _figures(group: Group) -> Iterator[dict[str, float]]:
    """Yield the figures of each answer of a group."""
    for rollout in group.rollouts:
        yield {
            "reward": rollout.reward.total,
            "reward_accuracy": rollout.reward.accuracy,
            "reward_format": rollout.reward.format,
            "reward_spread": group.std,
            "accuracy": float(rollout.reward.correct),
            "well_formed_share": float(rollout.reward.well_formed),
            "latent_share": float(bool(rollout.latents)),
            "num_latents": float(sum(len(latent) for latent in rollout.latents)),
            "completion_length": float(len(rollout.answer.token_ids)),
            "finished_share": float(rollout.answer.finished),
            "silent_groups": float(group.zero_variance),
        }
