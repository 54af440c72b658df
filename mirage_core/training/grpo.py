"""GRPO over text that is interleaved with latents. Paper, section 3.3, stage 3.

On-policy: groups of answers are drawn from the current weights, and one step is taken on them. Latents are recomputed
under the current weights with gradient ("recompute": the exact policy gradient of the text), or fed as recorded
("replay": cheaper, biased). The reference model always recomputes its own.
Legend: B rows (answers), T columns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mirage_core.config import GRPOSettings, Settings
from mirage_core.errors import DataError, SettingsError
from mirage_core.latent.encoded import IGNORED
from mirage_core.latent.layout import LatentBatch, collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.base import LoadedModel
from mirage_core.model.rollout import relaxed_forward, replayed_forward
from mirage_core.store.records import load_problems
from mirage_core.training.curves import TIMING
from mirage_core.training.data import EpochOrder, deal
from mirage_core.training.events import EventWriter
from mirage_core.training.job import Job
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.losses import LossParts, text_log_probs
from mirage_core.training.memory import portion_of
from mirage_core.training.objective import MicroBatch
from mirage_core.training.policy_loss import PolicyTerms, policy_terms
from mirage_core.training.rollouts import Rollout, Sampler
from mirage_core.training.supervised import about, load_trainable
from mirage_core.types import Problem


def run_grpo(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    """One process of a GRPO job: improves ``inputs["model"]`` on the train split of ``inputs["problems"]``."""
    settings = job.settings
    _check(settings)
    problems = load_problems(job.input("problems"), split="train")
    if not problems:
        raise DataError(f"{job.input('problems')} has no problem of the split train; raise problems.*.train")
    model = load_trainable(job, rank, world_size)
    objective = GRPOObjective(settings, model, problems, job.seed, portion_of(job))
    train(objective, model, _plan(settings.grpo), job, rank, world_size, emit, about(job, model))


def _check(settings: Settings) -> None:
    if settings.grpo.group_size < 2:
        raise SettingsError("grpo.group_size is 1, but advantages compare answers to one prompt; set it to 2 or more")
    if settings.runtime.engine == "deepspeed" and settings.runtime.zero_stage == 3:
        # Every pass of a sharded model is a collective, and processes draw answers of different lengths.
        raise SettingsError(
            "GRPO draws answers, which weights sharded by ZeRO-3 do not allow; set runtime.zero_stage to 2 or less"
        )


def _plan(settings: GRPOSettings) -> TrainPlan:
    return TrainPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule="constant",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


@dataclass(frozen=True)
class PolicyBatch:
    """Answers of one forward pass: who they are, and their layout."""

    rollouts: tuple[Rollout, ...]
    layout: LatentBatch
    sampled_log_probs: Tensor
    tokens_per_second: float


class GRPOObjective:
    """Draws groups of answers and weighs their log-probabilities by what they earned."""

    def __init__(
        self,
        settings: Settings,
        model: LoadedModel,
        problems: Sequence[Problem],
        seed: int,
        portion: int | None = None,
    ) -> None:
        self._portion = portion or settings.grpo.micro_batch_size
        self._settings, self._model, self._problems = settings.grpo, model, problems
        frozen = not settings.model.train_vision
        self._sampler = Sampler(model, settings, seed, keep_features=frozen)
        self._order = EpochOrder(len(problems), self._settings.prompts_per_step, seed)
        # The weights the job was given, also when it goes on from a checkpoint (restored only later).
        self._reference = _frozen_copy(model.backbone) if self._settings.kl_weight > 0 else None

    def modules(self) -> Mapping[str, nn.Module]:
        """Nothing beside the backbone."""
        return {}

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """Draw this process's share of the step's groups from the current weights, and cut them into passes."""
        indices = self._order.batch(step)
        (mine,) = deal(indices, rank, world_size, None)
        rollouts = self._sampler.draw(step, [self._problems[index] for index in mine.indices])
        most = math.ceil(len(indices) / world_size) * self._settings.group_size
        passes = math.ceil(most / (self._portion or most))
        pieces = [rollouts[part::passes] for part in range(passes)]
        speed = self._sampler.tokens_per_second / passes
        return [self._micro_batch(piece or rollouts[:1], mine.filler or not piece, speed) for piece in pieces]

    def _micro_batch(self, rollouts: Sequence[Rollout], filler: bool, speed: float) -> MicroBatch:
        layout = collate([one.encoded for one in rollouts], self._model.ids, self._model.backbone.position_ids)
        layout = layout.to(self._model.backbone.device)
        data = PolicyBatch(tuple(rollouts), layout, _sampled_log_probs(rollouts, layout), speed)
        return MicroBatch(data, {"rollouts": float(len(rollouts))}, filler)

    def loss(self, backbone: nn.Module, data: PolicyBatch, totals: Mapping[str, float]) -> LossParts:
        """What these answers add to the mean over all answers of the step."""
        terms = self._terms(backbone, data)
        rewards = _outcomes(data.rollouts)
        figures = {
            "kl": terms.kl,
            "clip_fraction": terms.clipped,
            "entropy": terms.entropy,
            "ratio_deviation": terms.ratio_deviation,
            **{name: torch.tensor(values) for name, values in rewards.items()},
        }
        parts = {name: values.sum() / totals["rollouts"] for name, values in figures.items()}
        parts[f"{TIMING}tokens_per_second"] = torch.tensor(data.tokens_per_second)
        return LossParts(terms.loss.sum() / totals["rollouts"], parts)

    def _terms(self, backbone: nn.Module, data: PolicyBatch) -> PolicyTerms:
        mask = data.layout.labels != IGNORED
        advantages = torch.tensor([one.advantage for one in data.rollouts], device=mask.device)
        return policy_terms(
            self._log_probs(backbone, data, recompute=self._settings.latents == "recompute"),
            data.sampled_log_probs,
            self._reference_log_probs(data),
            advantages,
            mask,
            clip=self._settings.clip,
            kl_weight=self._settings.kl_weight,
        )

    def _log_probs(self, backbone: nn.Module, data: PolicyBatch, *, recompute: bool) -> Tensor:
        if not isinstance(backbone, Backbone):
            raise SettingsError(f"GRPO trains a Backbone, got {type(backbone).__name__}")
        if recompute:
            hidden = relaxed_forward(backbone, data.layout).hidden
        else:
            latents = [latent.clone() for one in data.rollouts for latent in one.latents]
            hidden = replayed_forward(backbone, data.layout, latents)
        return text_log_probs(backbone, data.layout, hidden, self._sampler.rules)

    @torch.no_grad()
    def _reference_log_probs(self, data: PolicyBatch) -> Tensor | None:
        if self._reference is None:
            return None
        return self._log_probs(self._reference, data, recompute=True)


def _frozen_copy(backbone: Backbone) -> Backbone:
    return copy.deepcopy(backbone).requires_grad_(False)


def _sampled_log_probs(rollouts: Sequence[Rollout], layout: LatentBatch) -> Tensor:
    """The log-probabilities recorded while drawing, at the columns that predict their tokens [B, T]."""
    mask = layout.labels != IGNORED
    recorded = torch.cat([one.log_probs for one in rollouts]).to(mask.device)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, recorded)


def _outcomes(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """The figures of each answer whose mean over all answers of the step is logged (groups are of one size)."""
    return {
        "reward": [one.reward.total for one in rollouts],
        "reward_spread": [one.group_spread for one in rollouts],
        "accuracy": [float(one.reward.correct) for one in rollouts],
        "well_formed_share": [float(one.reward.well_formed) for one in rollouts],
        "latent_share": [float(bool(one.latents)) for one in rollouts],
        "num_latents": [float(sum(len(latent) for latent in one.latents)) for one in rollouts],
        "completion_length": [float(one.length) for one in rollouts],
        "finished_share": [float(one.finished) for one in rollouts],
        "silent_groups": [float(one.group_silent) for one in rollouts],
    }
