"""GRPO over text that is interleaved with latents. Paper, section 3.3, stage 3.

In rounds: groups of answers are sampled from the current weights, and ``updates_per_rollout`` steps are taken on them
(1: on-policy). Latents are recomputed under the current weights with gradient ("recompute": the exact policy gradient
of the text), or fed as recorded ("replay": cheaper, biased). The reference model always recomputes its own.
Dropout is off throughout: ratios are of the policy that sampled. Legend: B rows (answers), T columns.
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

from mirage_core.benchmarks.judge import Scorer, judge
from mirage_core.config import Settings
from mirage_core.distributed.collectives import sum_over_processes
from mirage_core.distributed.context import current_process
from mirage_core.errors import SettingsError
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import answers_forward, fed_norms, image_features
from mirage_core.model.loading import LoadedModel
from mirage_core.training.data.sampler import EpochOrder
from mirage_core.training.engine.gather_weights import gathered_weights
from mirage_core.training.engine.lockstep import sync_block_widths
from mirage_core.training.grpo.batch import PolicyBatch, block_widths, policy_batch, split_answers, with_latent_terms
from mirage_core.training.grpo.latent_policy import LatentPolicy, latent_log_probs, replayed_log_probs
from mirage_core.training.grpo.log_probs import text_log_probs
from mirage_core.training.grpo.loss import PolicyTerms, policy_terms
from mirage_core.training.grpo.reference_model import ReferenceModel
from mirage_core.training.grpo.rewards import is_learned_from
from mirage_core.training.grpo.rollout_cache import load_rollouts, save_rollouts
from mirage_core.training.grpo.rollouts import Group, Sampler, summed_figures
from mirage_core.training.logging.curves import TIMING
from mirage_core.training.logging.throughput import PADDED_TOKENS
from mirage_core.training.objective import LossParts, MicroBatch
from mirage_core.types import Problem

SAMPLING_THROUGHPUT = f"{TIMING}drawn_tokens_per_second"
"""Text tokens of the answers per second of sampling them."""


@dataclass(frozen=True)
class Round:
    """What this process learns from for ``updates_per_rollout`` steps from ``step`` on."""

    step: int
    batches: tuple[PolicyBatch, ...]


@dataclass(frozen=True)
class Sampled:
    """One process's samples of a round: the groups it learns from, and figures of all groups, summed over answers."""

    learned: list[Group]
    answers: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class PolicyData:
    """A forward pass, and with the first pass of a round what was sampled for it."""

    batch: PolicyBatch
    sampled: Sampled | None


class GRPOObjective:
    """Samples groups of answers and weighs their log-probabilities by their advantages.

    ``micro_batch_size``: answers per forward pass (None: all); ``max_rows``: answers decoded side by side (None: all);
    ``cache_folder`` travels with checkpoints, and is needed where updates_per_rollout is above 1; ``pushed``: as of
    ``Sampler``; ``latents`` "off": the model has none, and its answers may not begin a span.
    """

    def __init__(
        self,
        settings: Settings,
        model: LoadedModel,
        problems: Sequence[Problem],
        seed: int,
        *,
        micro_batch_size: int | None = None,
        max_rows: int | None = None,
        cache_folder: Path | None = None,
        pushed: Path | None = None,
        latents: Literal["on", "off"] = "on",
        scorer: Scorer = judge,
    ) -> None:
        self._settings, self._model, self._problems, self._seed = settings.grpo, model, problems, seed
        self._latent = settings.latent
        answers_per_step = self._settings.prompts_per_step * self._settings.group_size
        self._micro_batch_size = micro_batch_size or self._settings.micro_batch_size or max(1, answers_per_step)
        self._cache_folder = cache_folder
        self._sampler = Sampler(
            model, settings, problems, seed, max_rows=max_rows, latents=latents, scorer=scorer, pushed=pushed
        )
        self._order = EpochOrder(len(problems), self._settings.prompts_per_step, seed)
        # The job's initial weights, also when it goes on from a checkpoint (restored only later).
        self._reference: ReferenceModel | None = None
        if self._settings.kl_weight > 0:
            self._reference = ReferenceModel(model.backbone, offload=settings.runtime.offload_reference)
        # Every pass of sharded weights is a collective: then all processes must make the same passes.
        self._sharded = settings.runtime.engine == "deepspeed" and settings.runtime.zero_stage == 3
        self._round: Round | None = None
        self._gaussian: LatentPolicy | None = None
        if self._settings.latent_sigma and latents == "on":
            gaussian = LatentPolicy(self._settings.latent_sigma, learned=self._settings.latent_sigma_learned)
            self._gaussian = gaussian.to(model.backbone.dtype)
        self._judges_latents = self._settings.latent_term != "none" and latents == "on"

    def modules(self) -> Mapping[str, nn.Module]:
        """Return the deviation of sampled latents if it is learned; else only the backbone is trained."""
        return {} if self._gaussian is None or not self._gaussian.learned else {"latent_policy": self._gaussian}

    def examples(self, step: int) -> Sequence[str]:
        """Return the problems whose answers a step learns from (without those resampled in place of others)."""
        return [self._problems[index].id for index in self._order.batch(self._round_of(step))]

    def micro_batches(self, step: int) -> Sequence[MicroBatch]:
        """Sample this process's share of a round from the current weights, or go on with it; split into passes."""
        self._model.backbone.eval()
        first = self._round_of(step) * self._settings.updates_per_rollout
        sampled = None
        if step == first:
            sampled = self._sample(step)
            if self._judges_latents:
                sampled = replace(sampled, learned=self._with_latent_terms(sampled.learned))
            if self._settings.updates_per_rollout > 1:
                answers = [(group.index, [rollout.answer for rollout in group.rollouts]) for group in sampled.learned]
                save_rollouts(self._required_cache(), step, answers)
            self._round = self._make_round(step, sampled.learned)
        elif self._round is None or self._round.step != first:
            self._round = self._make_round(first, self._restored(first))
        return [
            self._micro_batch(PolicyData(batch, sampled if number == 0 else None))
            for number, batch in enumerate(self._round.batches)
        ]

    def _round_of(self, step: int) -> int:
        return step // self._settings.updates_per_rollout

    def _sample(self, step: int) -> Sampled:
        """Sample this process's groups of a round; groups that teach nothing are resampled if the settings say so."""
        settings, seconds = self._settings, self._sampler.seconds
        wanted = self._order.batch(self._round_of(step))
        spare = self._spare_problems(step, wanted)
        groups: list[Group] = []
        learned: list[Group] = []
        candidates: Sequence[int] = wanted
        sigma = self._sigma()
        with gathered_weights(self._model.backbone):
            for _ in range(1 + settings.max_resamples if settings.zero_variance_groups == "redraw" else 1):
                sampled = self._sampler.sample(step, current_process().share(candidates), sigma)
                groups += sampled
                learned += [group for group in sampled if is_learned_from(group.rewards, settings)]
                if settings.zero_variance_groups != "redraw":
                    break
                missing = len(wanted) - int(sum_over_processes({"groups": float(len(learned))})["groups"])
                candidates, spare = spare[:missing], spare[missing:]
                if not candidates:
                    break
        return self._with_figures(groups, learned, self._sampler.seconds - seconds)

    def _sigma(self) -> float | None:
        """Return the deviation of sampled latents now; None: latents are not sampled."""
        if self._gaussian is None:
            return None
        with gathered_weights(self._gaussian):
            return self._gaussian.sigma()

    def _spare_problems(self, step: int, wanted: Sequence[int]) -> Sequence[int]:
        """Return the problems that may be sampled in place of others, in an order that (seed, round) decides."""
        order = np.random.default_rng([self._seed, self._round_of(step), 1]).permutation(len(self._problems))
        return [int(index) for index in order if int(index) not in set(wanted)]

    def _with_figures(self, groups: Sequence[Group], learned: list[Group], seconds: float) -> Sampled:
        tokens = sum(len(rollout.answer.token_ids) for group in groups for rollout in group.rollouts)
        figures = {**summed_figures(groups), SAMPLING_THROUGHPUT: tokens / max(seconds, 1e-9)}
        if self._settings.zero_variance_groups != "keep" or self._settings.accuracy_filter is not None:
            figures |= {"groups_drawn": float(len(groups)), "groups_learned": float(len(learned))}
        return Sampled(learned, sum(len(group.rollouts) for group in groups), figures)

    def _restored(self, step: int) -> list[Group]:
        """Return this process's share of the groups that were sampled before the run was interrupted."""
        answers = current_process().share(load_rollouts(self._required_cache(), step))
        with gathered_weights(self._model.backbone):
            return self._sampler.judge(answers)

    def _required_cache(self) -> Path:
        if self._cache_folder is None:
            raise SettingsError("grpo.updates_per_rollout above 1 needs a folder for the answers of a round; pass one")
        return self._cache_folder

    @torch.no_grad()
    def _with_latent_terms(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with the terms of their latents under the weights that sampled them (VLPO)."""
        found: list[Group] = []
        with gathered_weights(self._model.backbone):
            for group in groups:
                piece = [(group.prompt, rollout) for rollout in group.rollouts]
                batch = policy_batch(piece, self._model, group.prompt, None, self._latent)
                terms = self._replayed_log_probs(self._model.backbone, batch, self._hidden(self._model.backbone, batch))
                found.append(with_latent_terms(group, batch, terms))
        return found

    def _make_round(self, step: int, groups: Sequence[Group]) -> Round:
        """Lay out the passes of a round, with the log-probabilities of the reference."""
        pieces = split_answers(groups, self._micro_batch_size)
        # Rolling latents out takes a pass per latent; feeding recorded ones or tokens takes one.
        in_lockstep = self._sharded and self._settings.latents == "recompute" and self._latent.rolls_out
        widths = sync_block_widths([block_widths(piece) for piece in pieces]) if in_lockstep else [None] * len(pieces)
        with gathered_weights(self._model.backbone) if self._sharded else nullcontext():
            (spare,) = self._sampler.prompts(self._order.batch(self._round_of(step))[:1])
            batches = [
                policy_batch(piece, self._model, spare, blocks, self._latent)
                for piece, blocks in zip(pieces, widths, strict=True)
            ]
            return Round(step, tuple(self._with_reference(batches)))

    def _with_reference(self, batches: Sequence[PolicyBatch]) -> list[PolicyBatch]:
        if self._reference is None:
            return list(batches)
        with self._reference.loaded() as reference:
            return [
                replace(batch, reference_log_probs=self._log_probs(reference, batch, reference=True))
                for batch in batches
            ]

    def _micro_batch(self, data: PolicyData) -> MicroBatch:
        counts = {
            "rollouts": float(data.batch.learned),
            "drawn": float(data.sampled.answers) if data.sampled is not None else 0.0,
        }
        return MicroBatch(data, counts, work=self._work(data.batch))

    def _work(self, batch: PolicyBatch) -> dict[str, float]:
        """Count answers, and of each one's prompt its share: the same however a group is split.

        Dummy rows do not count.
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
            PADDED_TOKENS: float(batch.learned * answers.input_ids.shape[1]) + share * prompts.input_ids.shape[1],
        }

    def loss(self, backbone: nn.Module, data: PolicyData, totals: Mapping[str, float]) -> LossParts:
        """Return what these answers add to the mean over all answers that the step learns from.

        Figures of samples are means over all sampled answers, with the first update on them alone.
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
        if self._gaussian is not None and self._gaussian.learned:
            parts["latent_sigma"] = self._gaussian().detach().exp() * (data.batch.learned / learned)
        if data.sampled is not None:
            means = _contributions(data.sampled, totals["drawn"])
            parts |= {name: torch.tensor(value) for name, value in means.items()}
        return LossParts(terms.loss.sum() / learned, parts)

    def _terms(self, backbone: nn.Module, batch: PolicyBatch) -> PolicyTerms:
        return policy_terms(
            self._log_probs(backbone, batch),
            batch.sampled_log_probs,
            batch.reference_log_probs,
            batch.advantages,
            batch.mask,
            clip=self._settings.clip,
            clip_high=self._settings.clip_high,
            kl_weight=self._settings.kl_weight,
            text_mask=batch.text_mask,
            dual_clip=self._settings.dual_clip,
        )

    def _log_probs(self, backbone: nn.Module, batch: PolicyBatch, *, reference: bool = False) -> Tensor:
        """Return the log-probabilities [B, T] of what was sampled, under the policy or the ``reference``."""
        if not isinstance(backbone, Backbone):
            raise SettingsError(f"GRPO trains a Backbone, got {type(backbone).__name__}")
        hidden = self._hidden(backbone, batch, reference=reference)
        log_probs = text_log_probs(backbone, batch.layout.answers, hidden, self._sampler.rules)
        if self._judges_latents:
            return log_probs + self._replayed_log_probs(backbone, batch, hidden)
        if self._gaussian is None:
            return log_probs
        return log_probs + self._latent_log_probs(self._gaussian, backbone, batch, hidden, reference=reference)

    def _hidden(self, backbone: Backbone, batch: PolicyBatch, *, reference: bool = False) -> Tensor:
        """Return the hidden states [B, T, D] of the answers, with latents recomputed or replayed."""
        recompute = reference or self._settings.latents == "recompute"
        # Codes are chosen, not computed: no gradient flows through the choice, and the reference judges the same ones.
        # So it is with latents that are sampled, or judged as they were fed.
        chosen = self._latent.input == "code" or self._gaussian is not None or self._judges_latents
        return answers_forward(
            backbone,
            batch.layout,
            None if recompute and not chosen else batch.latents,
            checkpointing=self._settings.gradient_checkpointing,
            blank=self._latent.input in ("blank", "query"),
            feed_norm=self._latent.feed_norm,
        )

    def _latent_log_probs(
        self, gaussian: LatentPolicy, backbone: Backbone, batch: PolicyBatch, hidden: Tensor, *, reference: bool
    ) -> Tensor:
        """Return the log-densities [B, T] of the latents that were sampled; the reference has the first deviation."""
        log_sigma = gaussian.first() if reference else gaussian()
        norms = self._norms(backbone, batch)
        return latent_log_probs(batch.layout.answers, hidden, batch.latents, log_sigma, norms)

    def _replayed_log_probs(self, backbone: Backbone, batch: PolicyBatch, hidden: Tensor) -> Tensor:
        """Return VLPO's terms [B, T] of the latents as they were fed."""
        return replayed_log_probs(
            batch.layout.answers,
            hidden,
            batch.latents,
            self._settings.latent_term_sigma,
            late=self._settings.latent_term == "released",
            norms=self._norms(backbone, batch),
        )

    def _norms(self, backbone: Backbone, batch: PolicyBatch) -> Tensor | None:
        """Return the norms [B] at which the answers' latents are fed; None: their own."""
        if self._latent.feed_norm == "own":
            return None
        prompts = batch.layout.prompts
        with torch.no_grad():
            norms = fed_norms(backbone, prompts, image_features(backbone, prompts), self._latent.feed_norm)
        return None if norms is None else norms.index_select(0, batch.layout.owners)


def _contributions(sampled: Sampled, answers: float) -> dict[str, float]:
    """Return what this process adds to the figures of all samples: shares of means, and plain sums."""
    sums = ("groups_drawn", "groups_learned", SAMPLING_THROUGHPUT)
    return {name: value if name in sums else value / answers for name, value in sampled.figures.items()}
