"""Answers drawn from the current policy, judged, and laid out as examples to learn from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.benchmarks import get
from mirage_core.config import Settings
from mirage_core.latent.encoded import EncodedExample, EncodedPrompt
from mirage_core.latent.encoding import Encoder, encode_rollout
from mirage_core.model.base import LoadedModel
from mirage_core.model.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.model.features import with_features
from mirage_core.model.sampling import SamplingRules
from mirage_core.model.transcript import output_text
from mirage_core.training.loop import step_seed
from mirage_core.training.rewards import Reward, group_advantages, is_silent, reward
from mirage_core.types import Problem


@dataclass(frozen=True)
class Rollout:
    """One drawn answer: laid out, judged, and compared to its group.

    ``log_probs``: of its sampled tokens when they were drawn; ``latents``: what was fed, [k, D] a span.
    """

    encoded: EncodedExample
    log_probs: Tensor
    latents: tuple[Tensor, ...]
    reward: Reward
    advantage: float
    length: int
    finished: bool
    group_spread: float
    group_silent: bool


class Sampler:
    """Draws groups of answers to problems; what is drawn depends on (seed, step, problem) and the weights alone."""

    def __init__(self, model: LoadedModel, settings: Settings, seed: int, *, keep_features: bool) -> None:
        self._model, self._settings, self._seed, self._keep_features = model, settings, seed, keep_features
        self._encoder = Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
        grpo, latent = settings.grpo, settings.latent
        self._decoding = DecodeSettings(
            max_new_tokens=grpo.max_new_tokens,
            num_latents=latent.num_latents,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
            end=latent.end,
            max_latents=latent.max_latents,
            max_spans=latent.max_spans,
            samples=grpo.group_size,
        )
        self.tokens_per_second = 0.0

    @property
    def rules(self) -> SamplingRules:
        """The distribution answers are drawn from, before top-p."""
        return sampling_rules(self._model.ids, self._decoding)

    def draw(self, step: int, problems: Sequence[Problem]) -> list[Rollout]:
        """``group_size`` answers to every problem, group by group."""
        begun = time.monotonic()
        prompts = [self._encoder.prompt(problem) for problem in problems]
        if self._keep_features:
            prompts = with_features(self._model.backbone, prompts)
        uniform = torch.cat([self._uniform(step, problem) for problem in problems]).to(self._model.backbone.device)
        groups = decode(self._model.backbone, prompts, self._model.ids, self._decoding, uniform=uniform)
        drawn = sum(len(answer.token_ids) for group in groups for answer in group)
        self.tokens_per_second = drawn / max(time.monotonic() - begun, 1e-9)
        return [
            rollout
            for problem, prompt, group in zip(problems, prompts, groups, strict=True)
            for rollout in self._judged(problem, prompt, group)
        ]

    def _uniform(self, step: int, problem: Problem) -> Tensor:
        """Random numbers that decide one problem's answers, [group, tokens]."""
        name = int.from_bytes(problem.id.encode(), "big")
        generator = torch.Generator().manual_seed(step_seed(self._seed, step, name))
        return torch.rand(self._decoding.samples, self._decoding.max_new_tokens, generator=generator)

    def _judged(self, problem: Problem, prompt: EncodedPrompt, group: Sequence[Trajectory]) -> list[Rollout]:
        rewards = [self._reward(problem, answer) for answer in group]
        totals = [found.total for found in rewards]
        spread = float(torch.tensor(totals, dtype=torch.float64).std()) if len(totals) > 1 else 0.0
        return [
            Rollout(
                encoded=encode_rollout(prompt, answer.token_ids, answer.spans, answer.sampled, self._model.ids),
                log_probs=torch.tensor(
                    [value for value, own in zip(answer.log_probs, answer.sampled, strict=True) if own]
                ),
                latents=answer.latents,
                reward=found,
                advantage=advantage,
                length=len(answer.token_ids),
                finished=answer.finished,
                group_spread=spread,
                group_silent=is_silent(totals),
            )
            for answer, found, advantage in zip(group, rewards, group_advantages(totals), strict=True)
        ]

    def _reward(self, problem: Problem, answer: Trajectory) -> Reward:
        settings = self._settings
        output = output_text(self._model.processor.tokenizer, self._model.ids, answer.token_ids, answer.spans)
        return reward(
            output,
            is_correct(problem, output, settings.evaluation.planning_rule),
            settings.teacher.variant,
            accuracy_reward=settings.grpo.accuracy_reward,
            format_reward=settings.grpo.format_reward,
        )


def is_correct(problem: Problem, output: str, planning_rule: str) -> bool:
    """The verdict of the problem's benchmark, by the rule of the evaluation where the benchmark has that choice."""
    benchmark = get(problem.benchmark)
    rule = planning_rule if planning_rule in benchmark.rules else benchmark.rules[0]
    return benchmark.score(problem, output, rule=rule).correct
