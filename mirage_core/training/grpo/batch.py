"""Answers of one forward pass of GRPO, laid out after their prompts, with their advantages.

Legend: B rows (answers), T columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest

import torch
from torch import Tensor

from mirage_core.config import LatentSettings
from mirage_core.distributed.collectives import max_over_processes
from mirage_core.latent.collate_answers import AnswerBatch, collate_answers
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt
from mirage_core.model.forward.forward import latent_cells
from mirage_core.model.loading import LoadedModel
from mirage_core.training.engine.lockstep import Widths
from mirage_core.training.grpo.rollouts import Group, Rollout
from mirage_core.types import LatentSpan

Piece = Sequence[tuple[EncodedPrompt, Rollout]]
"""Answers of one forward pass, those to one prompt side by side."""


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Answers of one pass: ``learned`` of them, and perhaps a dummy row last, of which no token is predicted.

    ``advantages`` [B]; ``sampled_log_probs`` [B, T], recorded while sampling, and ``reference_log_probs`` [B, T] (None
    without a KL), at the columns that predict their tokens; ``latents``: as they were fed, [k, D] per span, row by row.
    ``latent_mask`` [B, T]: the columns that predict a latent whose log-density is among the log-probabilities: it was
    sampled, or is judged as it was fed; None: there is none.
    """

    layout: AnswerBatch
    learned: int
    advantages: Tensor
    sampled_log_probs: Tensor
    reference_log_probs: Tensor | None
    latents: tuple[Tensor, ...]
    latent_mask: Tensor | None = None

    @property
    def text_mask(self) -> Tensor:
        """Which columns predict a sampled text token [B, T]."""
        return self.layout.answers.labels != IGNORED

    @property
    def mask(self) -> Tensor:
        """Which columns predict what was sampled: a text token or a latent [B, T]."""
        return self.text_mask if self.latent_mask is None else self.text_mask | self.latent_mask


def split_answers(groups: Sequence[Group], micro_batch_size: int) -> list[Piece]:
    """Split the answers into passes: as many in every process, some of them empty if necessary."""
    answers = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    most = int(max_over_processes({"answers": float(len(answers))})["answers"])
    passes = max(1, math.ceil(most / micro_batch_size))
    size = math.ceil(len(answers) / passes)
    return [answers[part * size : (part + 1) * size] for part in range(passes)]


def block_widths(piece: Piece) -> Widths:
    """Return the widths of the latent blocks of these answers when they are laid out together."""
    widths = [[len(latents) for latents in rollout.latents] for _, rollout in piece]
    return tuple(max(of_span) for of_span in zip_longest(*widths, fillvalue=0))


def policy_batch(
    piece: Piece,
    model: LoadedModel,
    spare: EncodedPrompt,
    widths: Widths | None,
    latent: LatentSettings | None = None,
) -> PolicyBatch:
    """Lay out answers on the model's device.

    Without answers it is a dummy answer to the prompt ``spare``, which keeps its process in step. ``widths``: the
    latent blocks the pass must have; where the answers have others, a dummy answer brings them about. ``latent``:
    the settings that the answers were sampled under; None: the default ones.
    """
    latent = latent or LatentSettings()
    by_prompt = [list(answers) for _, answers in groupby(piece, key=lambda pair: id(pair[0]))]
    groups = [(answers[0][0], [rollout.encoded for _, rollout in answers]) for answers in by_prompt]
    dummies = 0
    if not piece or (widths is not None and widths != block_widths(piece)):
        prompt, encoded = groups[-1] if groups else (spare, [])
        groups = [*groups[:-1], (prompt, [*encoded, _dummy_answer(prompt, widths or (), model)])]
        dummies = 1
    layout = collate_answers(
        groups,
        model.ids,
        model.backbone.position_ids,
        bottleneck=latent.bottleneck,
        span_tokens=model.ids.latent_queries if latent.input == "query" else (),
    )
    rollouts, device = [rollout for _, rollout in piece], model.backbone.device
    layout = layout.to(device)
    densities = _latent_log_probs(rollouts, layout)
    log_probs = _sampled_log_probs(rollouts, layout)
    return PolicyBatch(
        layout=layout,
        learned=len(rollouts),
        advantages=torch.tensor([rollout.advantage for rollout in rollouts] + [0.0] * dummies, device=device),
        sampled_log_probs=log_probs if densities is None else log_probs + densities.nan_to_num(0.0),
        reference_log_probs=None,
        latents=tuple(latent for rollout in rollouts for latent in rollout.latents),
        latent_mask=None if densities is None else ~densities.isnan(),
    )


def _dummy_answer(prompt: EncodedPrompt, widths: Widths, model: LoadedModel) -> EncodedExample:
    """Return an answer from which nothing is learned, with spans of these widths."""
    ids = model.ids
    tokens = [token for _ in widths for token in (ids.latent_start, ids.latent_end)] + [ids.end_of_turn]
    spans = [LatentSpan(position=2 * at + 1, num_latents=width) for at, width in enumerate(widths)]
    return encode_rollout(prompt, tokens, spans, [False] * len(tokens), ids)


def _latent_log_probs(rollouts: Sequence[Rollout], layout: AnswerBatch) -> Tensor | None:
    """Return the log-densities recorded while sampling, at the columns that predict their latents [B, T].

    NaN elsewhere; None where no latent was sampled.
    """
    recorded = [densities for rollout in rollouts for densities in rollout.answer.latent_log_probs]
    if not recorded:
        return None
    rows, columns = latent_cells(layout.answers, [len(densities) for densities in recorded])
    empty = torch.full(layout.answers.labels.shape, torch.nan, device=rows.device)
    return empty.index_put((rows, columns - 1), torch.cat(recorded).to(rows.device))


def with_latent_terms(group: Group, batch: PolicyBatch, terms: Tensor) -> Group:
    """Return a group whose latents have ``terms`` [B, T] of its ``batch`` as their recorded log-densities (VLPO)."""
    lengths = [len(latents) for latents in batch.latents]
    rows, columns = latent_cells(batch.layout.answers, lengths)
    of_spans = iter(terms[rows, columns - 1].cpu().split(lengths))
    rollouts = [
        replace(
            rollout, answer=replace(rollout.answer, latent_log_probs=tuple(next(of_spans) for _ in rollout.latents))
        )
        for rollout in group.rollouts
    ]
    return replace(group, rollouts=tuple(rollouts))


def _sampled_log_probs(rollouts: Sequence[Rollout], layout: AnswerBatch) -> Tensor:
    """Return the log-probabilities recorded while sampling, at the columns that predict their tokens [B, T]."""
    mask = layout.answers.labels != IGNORED
    recorded = torch.tensor(
        [value for rollout in rollouts for value in rollout.log_probs], dtype=torch.float32, device=mask.device
    )
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, recorded)
