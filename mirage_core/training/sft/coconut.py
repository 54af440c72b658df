"""Coconut's curriculum (arXiv 2412.06769): stage after stage, one more reasoning step becomes latents.

In stage s the first s steps of a chain's caption are left out, and latents stand in their place; after the last of S
stages no step stays in words. Which stage a step is in, and the layout of every row, are functions of (seed, step,
example): a resumed run goes on exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mirage_core.config import CoconutSettings, LatentSettings
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedExample
from mirage_core.latent.reasoning_steps import reasoning_steps
from mirage_core.training.sft.step_decoder import step_texts
from mirage_core.types import TrainingExample

_STAGE = 3  # beside the purposes of latent_noise.py


@dataclass(frozen=True, slots=True)
class StageSchedule:
    """The stages of a training of ``steps`` steps: 0 (all in words), 1 to S, and S + 1 (no words)."""

    settings: CoconutSettings
    steps: int

    @property
    def begins(self) -> tuple[int, ...]:
        """The step at which each of the stages 1 to S + 1 begins; equal ones where a stage has no step."""
        settings = self.settings
        first = round(settings.first_share * self.steps)
        last = max(first, round((1 - settings.last_share) * self.steps))
        return tuple(first + (last - first) * stage // settings.stages for stage in range(settings.stages + 1))

    def stage(self, step: int) -> int:
        """Return the stage of a step (from 0)."""
        return bisect_right(self.begins, step)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the steps in each of the stages 0 to S + 1."""
        edges = (0, *self.begins, self.steps)
        return tuple((end - begin) / max(1, self.steps) for begin, end in pairwise(edges))

    @property
    def resets(self) -> frozenset[int]:
        """The steps before which the optimizer is reset: where a stage begins, but for the first one."""
        return frozenset(self.begins) - {0} if self.settings.reset_optimizer else frozenset()


def stage_latents(stage: int, steps: int, settings: CoconutSettings, latent: LatentSettings) -> int:
    """Return the latents of a row in a stage from 1, whose chain has so many ``steps``.

    ``latent.length`` fixed: c for each stage, however many steps the chain has (the released code's
    ``pad_latent_to_max``); frames: c for each step that is left out, at most S of them.
    """
    replaced = min(stage, settings.stages)
    return settings.latents_per_step * (replaced if latent.length == "fixed" else min(replaced, steps))


@dataclass(frozen=True)
class Curriculum:
    """The layouts of examples in the order of ``examples``. ``schedule`` None: all rows are of the last stage."""

    settings: CoconutSettings
    latent: LatentSettings
    of: Literal["image", "film"]
    examples: Sequence[TrainingExample]
    encoder: Encoder
    seed: int
    schedule: StageSchedule | None = None
    _targets: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    def reasoning(self, index: int) -> list[str]:
        """Return the reasoning steps of an example."""
        return reasoning_steps(self.examples[index].chain.words, self.of)

    def stage(self, index: int, step: int) -> int:
        """Return the stage of an example's row in a step, from 0 to S + 1; some are drawn (``uniform_prob``)."""
        last = self.settings.stages + 1
        if self.schedule is None:
            return last
        rng = np.random.default_rng([self.seed, step, index, _STAGE])
        if rng.random() < self.settings.uniform_prob:
            return min(int(rng.integers(len(self.reasoning(index)) + 1)), last)
        return self.schedule.stage(step)

    def mean_stage(self, indices: Sequence[int], step: int) -> float:
        """Return the mean stage of the rows of these examples."""
        return sum(self.stage(index, step) for index in indices) / len(indices)

    def row(self, index: int, step: int, example: EncodedExample) -> EncodedExample:
        """Return the row of an example in a step; ``example``: its row of stage 0, all in words."""
        begin = len(example.ids) - len(self._target(index, 0)[0])
        ids, labels = self._target(index, self.stage(index, step))
        return replace(
            example, ids=torch.cat([example.ids[:begin], ids]), labels=torch.cat([example.labels[:begin], labels])
        )

    @property
    def latents_per_step(self) -> int:
        """c, the latents that stand for a step."""
        return self.settings.latents_per_step

    def explained_at(self, index: int, step: int) -> list[str]:
        """Return ``explained`` in the stage that an example's row has in a step."""
        return self.explained(index, self.stage(index, step))

    def explained(self, index: int, stage: int) -> list[str]:
        """Return what the latents of an example's row in a stage stand for, one text for each c of them (SIM-CoT)."""
        steps, last = self.reasoning(index), stage > self.settings.stages
        latents = 0 if stage == 0 else stage_latents(stage, len(steps), self.settings, self.latent)
        answer = f"\\boxed{{{self.examples[index].problem.answer}}}"
        return step_texts(steps, answer, latents // self.settings.latents_per_step, rest=last)

    def all_explained(self) -> set[str]:
        """Return every text that latents of any example in any stage stand for."""
        stages = (self.settings.stages, self.settings.stages + 1)
        return {
            text for index in range(len(self.examples)) for stage in stages for text in self.explained(index, stage)
        }

    def _target(self, index: int, stage: int) -> tuple[Tensor, Tensor]:
        """Return ids and labels [T] after the prompt; they are made once."""
        if (index, stage) not in self._targets:
            self._targets[index, stage] = self._make_target(index, stage)
        return self._targets[index, stage]

    def _make_target(self, index: int, stage: int) -> tuple[Tensor, Tensor]:
        chain, steps = self.examples[index].chain, self.reasoning(index)
        if stage == 0:
            return self.encoder.target(chain.text_before + chain.words + chain.text_after)
        words = "" if stage > self.settings.stages else "".join(steps[stage:])
        latents = stage_latents(stage, len(steps), self.settings, self.latent)
        return self.encoder.target(chain.text_before, latents, words + chain.text_after)
