"""GRPO over text that is interleaved with latents. Paper, section 3.3, stage 3.

In rounds: groups of answers are drawn from the current weights, and ``updates_per_rollout`` steps are taken on them
(1: on-policy). Latents are recomputed under the current weights with gradient ("recompute": the exact policy gradient
of the text), or fed as recorded ("replay": cheaper, biased). The reference model always recomputes its own.
Dropout is off throughout: ratios are of the policy that drew. Legend: B rows (answers), T columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mirage_core.config import GRPOSettings, Settings
from mirage_core.distributed.collectives import added
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.oom import answers_at_once, portion_of
from mirage_core.errors import DataError, SettingsError
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import answers_forward
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import load_problems
from mirage_core.training.data.sampler import EpochOrder
from mirage_core.training.engine.gather_weights import whole_weights
from mirage_core.training.engine.lockstep import agreed
from mirage_core.training.grpo.batch import PolicyBatch, cut, policy_batch, widths_of
from mirage_core.training.grpo.loss import PolicyTerms, policy_terms
from mirage_core.training.grpo.reference_model import Reference
from mirage_core.training.grpo.rewards import teaches
from mirage_core.training.grpo.rollout_cache import keep_rollouts, kept_rollouts
from mirage_core.training.grpo.rollouts import Group, Sampler, outcomes
from mirage_core.training.logging.curves import TIMING
from mirage_core.training.logging.throughput import PLACES
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.model_metadata import has_latents
from mirage_core.training.objective import MicroBatch
from mirage_core.training.sft.losses import LossParts, text_log_probs
from mirage_core.training.sft.train import about, load_trainable
from mirage_core.training.validation.metrics import policy_validation
from mirage_core.types import Problem

DRAWING_SPEED = f"{TIMING}drawn_tokens_per_second"
"""Text tokens of the answers over the time it took to draw them."""


def run_grpo(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    """One process of a GRPO job: improves ``inputs["model"]`` on the train split of ``inputs["problems"]``."""
    settings = job.settings
    _check(settings)
    problems = load_problems(job.input("problems"), split="train")
    if not problems:
        raise DataError(f"{job.input('problems')} has no problem of the split train; raise problems.*.train")
    model = load_trainable(job, rank, world_size)
    objective = GRPOObjective(
        settings,
        model,
        problems,
        job.seed,
        portion=portion_of(job),
        at_once=answers_at_once(job),
        kept=job.scratch / "kept",
        latents="on" if has_latents(job) else "off",
    )
    watched = policy_validation(job, model, rank, world_size)
    train(objective, model, _plan(settings.grpo), job, rank, world_size, emit, about(job, model), watched)


def _check(settings: Settings) -> None:
    if settings.grpo.group_size < 2:
        raise SettingsError("grpo.group_size is 1, but advantages compare answers to one prompt; set it to 2 or more")


def _plan(settings: GRPOSettings) -> TrainPlan:
    return TrainPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule="constant",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
    )


@dataclass(frozen=True)
class Round:
    """What this process learns from for ``updates_per_rollout`` steps from ``step`` on."""

    step: int
    batches: tuple[PolicyBatch, ...]


@dataclass(frozen=True)
class Drawn:
    """What this process drew for a round: the groups it learns from, and figures of all groups, summed over answers."""

    learned: list[Group]
    answers: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class PolicyData:
    """One pass, and, with the first pass of a round, what was drawn for it."""

    batch: PolicyBatch
    drawn: Drawn | None


class GRPOObjective:
    """Draws groups of answers and weighs their log-probabilities by what they earned.

    ``portion``: answers a forward pass (None: all); ``at_once``: answers drawn side by side (None: all); ``kept``: the
    folder that travels with checkpoints, needed where updates_per_rollout is above 1; ``latents`` "off": the model has
    none, and its answers may not begin a span.
    """

    def __init__(
        self,
        settings: Settings,
        model: LoadedModel,
        problems: Sequence[Problem],
        seed: int,
        *,
        portion: int | None = None,
        at_once: int | None = None,
        kept: Path | None = None,
        latents: Literal["on", "off"] = "on",
    ) -> None:
        self._settings, self._model, self._problems, self._seed = settings.grpo, model, problems, seed
        self._bottleneck, self._blank = settings.latent.bottleneck, settings.latent.fed == "blank"
        self._portion = portion or self._settings.micro_batch_size
        self._kept = kept
        self._sampler = Sampler(model, settings, problems, seed, at_once=at_once, latents=latents)
        self._order = EpochOrder(len(problems), self._settings.prompts_per_step, seed)
        # The weights the job was given, also when it goes on from a checkpoint (restored only later).
        self._reference: Reference | None = None
        if self._settings.kl_weight > 0:
            self._reference = Reference(model.backbone, offload=settings.runtime.offload_reference)
        # Every pass of sharded weights is a collective: then all processes must make the same passes.
        self._in_step = settings.runtime.engine == "deepspeed" and settings.runtime.zero_stage == 3
        self._chooses = self._settings.silent_groups != "keep" or self._settings.group_accuracy is not None
        self._round: Round | None = None

    def modules(self) -> Mapping[str, nn.Module]:
        """Nothing beside the backbone."""
        return {}

    def examples(self, step: int) -> Sequence[str]:
        """The problems whose answers a step learns from (without those drawn in place of others)."""
        return [self._problems[index].id for index in self._order.batch(self._round_of(step))]

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """Draw this process's share of a round from the current weights, or go on with it; cut into passes."""
        self._model.backbone.eval()
        first = self._round_of(step) * self._settings.updates_per_rollout
        drawn = None
        if step == first:
            drawn = self._draw(step, rank, world_size)
            self._keep(step, rank, world_size, drawn.learned)
            self._round = self._ready(step, drawn.learned)
        elif self._round is None or self._round.step != first:
            self._round = self._ready(first, self._restored(first, rank, world_size))
        return [
            self._micro_batch(PolicyData(batch, None if place else drawn))
            for place, batch in enumerate(self._round.batches)
        ]

    def _round_of(self, step: int) -> int:
        return step // self._settings.updates_per_rollout

    def _draw(self, step: int, rank: int, world_size: int) -> Drawn:
        """This process's part of the groups of a round; prompts that teach nothing are replaced where so set."""
        settings, before = self._settings, self._sampler.seconds
        wanted = self._order.batch(self._round_of(step))
        spare = self._others(step, wanted)
        groups: list[Group] = []
        learned: list[Group] = []
        candidates: Sequence[int] = wanted
        with whole_weights(self._model.backbone):
            for _ in range(1 + settings.redraws if settings.silent_groups == "redraw" else 1):
                found = self._sampler.draw(step, candidates[rank::world_size])
                groups += found
                learned += [one for one in found if self._teaches(one)]
                if settings.silent_groups != "redraw":
                    break
                short = len(wanted) - int(added({"groups": float(len(learned))})["groups"])
                candidates, spare = spare[:short], spare[short:]
                if not candidates:
                    break
        return self._told(groups, learned, self._sampler.seconds - before)

    def _teaches(self, group: Group) -> bool:
        return teaches(group.rewards, self._settings.silent_groups, self._settings.group_accuracy)

    def _others(self, step: int, wanted: Sequence[int]) -> Sequence[int]:
        """The problems that may be drawn in place of others, in an order that (seed, round) decides."""
        order = np.random.default_rng([self._seed, self._round_of(step), 1]).permutation(len(self._problems))
        return [int(index) for index in order if int(index) not in set(wanted)]

    def _told(self, groups: Sequence[Group], learned: list[Group], seconds: float) -> Drawn:
        tokens = sum(len(one.answer.token_ids) for group in groups for one in group.rollouts)
        figures = {**outcomes(groups), DRAWING_SPEED: tokens / max(seconds, 1e-9)}
        if self._chooses:
            figures |= {"groups_drawn": float(len(groups)), "groups_learned": float(len(learned))}
        return Drawn(learned, sum(len(group.rollouts) for group in groups), figures)

    def _keep(self, step: int, rank: int, world_size: int, groups: Sequence[Group]) -> None:
        if self._settings.updates_per_rollout == 1:
            return
        answered = [(group.index, [one.answer for one in group.rollouts]) for group in groups]
        keep_rollouts(self._kept_folder(), step, rank, world_size, answered)

    def _restored(self, step: int, rank: int, world_size: int) -> list[Group]:
        """This process's share of what was drawn before the run was interrupted."""
        answered = kept_rollouts(self._kept_folder(), step)[rank::world_size]
        with whole_weights(self._model.backbone):
            return self._sampler.judged(answered)

    def _kept_folder(self) -> Path:
        if self._kept is None:
            raise SettingsError("grpo.updates_per_rollout above 1 needs a folder for the answers of a round; give one")
        return self._kept

    def _ready(self, step: int, groups: Sequence[Group]) -> Round:
        """The passes of a round, with the log-probabilities of the reference."""
        pieces = cut(groups, self._portion or max(1, self._settings.prompts_per_step * self._settings.group_size))
        # Rolling latents out takes a pass a latent; feeding recorded or blank ones takes one.
        together = self._in_step and self._settings.latents == "recompute" and not self._blank
        widths = agreed([widths_of(piece) for piece in pieces]) if together else [None] * len(pieces)
        sharded = whole_weights(self._model.backbone) if self._in_step else nullcontext()
        with sharded:
            (spare,) = self._sampler.prompts(self._order.batch(self._round_of(step))[:1])
            batches = [
                policy_batch(piece, self._model, spare, blocks, bottleneck=self._bottleneck)
                for piece, blocks in zip(pieces, widths, strict=True)
            ]
            return Round(step, tuple(self._with_reference(batches)))

    def _with_reference(self, batches: Sequence[PolicyBatch]) -> list[PolicyBatch]:
        if self._reference is None:
            return list(batches)
        with self._reference.at_hand() as reference:
            return [
                replace(batch, reference_log_probs=self._log_probs(reference, batch, recompute=True))
                for batch in batches
            ]

    def _micro_batch(self, data: PolicyData) -> MicroBatch:
        counts = {
            "rollouts": float(data.batch.learned),
            "drawn": float(data.drawn.answers) if data.drawn is not None else 0.0,
        }
        return MicroBatch(data, counts, work=self._work(data.batch))

    def _work(self, batch: PolicyBatch) -> dict[str, float]:
        """Answers, and of each one's prompt its share: the same however a group is cut into passes and processes.

        Stand-ins are no work: they learn nothing.
        """
        prompts, answers = batch.layout.prompts, batch.layout.answers
        owners = batch.layout.owners[: batch.learned].cpu()
        share = len(owners) / self._settings.group_size
        spans = answers.span_rows.cpu() < batch.learned
        return {
            "examples": float(batch.learned),
            "tokens": float(answers.attention_mask[: batch.learned].sum())
            + float(prompts.attention_mask.sum(1).cpu()[owners].sum()) / self._settings.group_size,
            "latents": float(answers.span_lengths.cpu()[spans].sum()),
            PLACES: float(batch.learned * answers.input_ids.shape[1]) + share * prompts.input_ids.shape[1],
        }

    def loss(self, backbone: nn.Module, data: PolicyData, totals: Mapping[str, float]) -> LossParts:
        """What these answers add to the mean over all answers that the step learns from.

        Figures of what was drawn are means over all answers that were, with the first update on them alone.
        """
        terms = self._terms(backbone, data.batch)
        learned = max(1.0, totals["rollouts"])
        figures = {
            "kl": terms.kl,
            "clip_fraction": terms.clipped,
            "entropy": terms.entropy,
            "ratio_deviation": terms.ratio_deviation,
        }
        parts = {name: values.sum() / learned for name, values in figures.items()}
        if data.drawn is not None:
            parts |= {name: torch.tensor(value) for name, value in _means(data.drawn, totals["drawn"]).items()}
        return LossParts(terms.loss.sum() / learned, parts)

    def _terms(self, backbone: nn.Module, batch: PolicyBatch) -> PolicyTerms:
        return policy_terms(
            self._log_probs(backbone, batch, recompute=self._settings.latents == "recompute"),
            batch.sampled_log_probs,
            batch.reference_log_probs,
            batch.advantages,
            batch.mask,
            clip=self._settings.clip,
            clip_high=self._settings.clip_high,
            kl_weight=self._settings.kl_weight,
        )

    def _log_probs(self, backbone: nn.Module, batch: PolicyBatch, *, recompute: bool) -> Tensor:
        if not isinstance(backbone, Backbone):
            raise SettingsError(f"GRPO trains a Backbone, got {type(backbone).__name__}")
        latents = None if recompute else batch.latents
        checkpointing = self._settings.gradient_checkpointing
        hidden = answers_forward(backbone, batch.layout, latents, checkpointing=checkpointing, blank=self._blank)
        return text_log_probs(backbone, batch.layout.answers, hidden, self._sampler.rules)


def _means(drawn: Drawn, answers: float) -> dict[str, float]:
    """What this process adds to the figures of what was drawn: shares of means, and plain numbers."""
    plain = ("groups_drawn", "groups_learned", DRAWING_SPEED)
    return {name: value if name in plain else value / answers for name, value in drawn.figures.items()}
