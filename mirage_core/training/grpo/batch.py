"""Answers of one forward pass of GRPO, laid out beside their prompts, and what they weigh.

Legend: B rows (answers), T columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from mirage_core.distributed.collectives import largest
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate_answers import AnswerBatch, collate_answers
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt
from mirage_core.model.loading import LoadedModel
from mirage_core.training.engine.lockstep import Widths
from mirage_core.training.grpo.rollouts import Group, Rollout
from mirage_core.types import LatentSpan

Piece = Sequence[tuple[EncodedPrompt, Rollout]]
"""Answers of one forward pass, those to one prompt side by side."""


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Answers of one pass: ``learned`` of them, and perhaps a stand-in last, of which no token is predicted.

    ``advantages`` [B]; ``sampled_log_probs`` [B, T], recorded while drawing, and ``reference_log_probs`` [B, T] (None
    without a KL), at the columns that predict their tokens; ``latents``: what was fed, [k, D] a span, row by row.
    """

    layout: AnswerBatch
    learned: int
    advantages: Tensor
    sampled_log_probs: Tensor
    reference_log_probs: Tensor | None
    latents: tuple[Tensor, ...]

    @property
    def mask(self) -> Tensor:
        """Which columns predict a sampled text token [B, T]."""
        return self.layout.answers.labels != IGNORED


def cut(groups: Sequence[Group], portion: int) -> list[Piece]:
    """The answers in passes of at most ``portion``: as many passes in every process, empty ones where need be."""
    answers = [(group.prompt, one) for group in groups for one in group.rollouts]
    most = int(largest({"answers": float(len(answers))})["answers"])
    passes = max(1, math.ceil(most / portion))
    size = math.ceil(len(answers) / passes)
    return [answers[part * size : (part + 1) * size] for part in range(passes)]


def widths_of(piece: Piece) -> Widths:
    """The latent blocks that these answers take when they are laid out together."""
    blocks = max((len(one.latents) for _, one in piece), default=0)
    return tuple(max(len(one.latents[at]) for _, one in piece if at < len(one.latents)) for at in range(blocks))


def policy_batch(
    piece: Piece,
    model: LoadedModel,
    spare: EncodedPrompt,
    widths: Widths | None,
    *,
    bottleneck: Bottleneck = "none",
) -> PolicyBatch:
    """Lay out a piece on the model's device.

    A piece without answers becomes a stand-in to the prompt ``spare``, which keeps its process in step. ``widths``:
    the latent blocks the pass is to have; where the answers have others, a stand-in brings them about. ``bottleneck``:
    what text after a span may attend to, as when the answers were drawn.
    """
    groups = [
        (prompt, [one.encoded for _, one in answers])
        for prompt, answers in ((found[0][0], found) for found in _by_prompt(piece))
    ]
    stand_ins = 0
    if not piece or (widths is not None and widths != widths_of(piece)):
        prompt, held = groups[-1] if groups else (spare, [])
        groups = [*groups[:-1], (prompt, [*held, _stand_in(prompt, widths or (), model)])]
        stand_ins = 1
    layout = collate_answers(groups, model.ids, model.backbone.position_ids, bottleneck=bottleneck)
    rollouts, device = [one for _, one in piece], model.backbone.device
    layout = layout.to(device)
    return PolicyBatch(
        layout=layout,
        learned=len(rollouts),
        advantages=torch.tensor([one.advantage for one in rollouts] + [0.0] * stand_ins, device=device),
        sampled_log_probs=_sampled_log_probs(rollouts, layout),
        reference_log_probs=None,
        latents=tuple(latent for one in rollouts for latent in one.latents),
    )


def _by_prompt(piece: Piece) -> list[list[tuple[EncodedPrompt, Rollout]]]:
    """The answers of each prompt."""
    return [list(found) for _, found in groupby(piece, key=lambda pair: id(pair[0]))]


def _stand_in(prompt: EncodedPrompt, widths: Widths, model: LoadedModel) -> EncodedExample:
    """An answer that nothing is learned from, with spans of these widths."""
    ids = model.ids
    tokens = [token for _ in widths for token in (ids.latent_start, ids.latent_end)] + [ids.end_of_turn]
    spans = [LatentSpan(position=2 * at + 1, num_latents=width) for at, width in enumerate(widths)]
    return encode_rollout(prompt, tokens, spans, [False] * len(tokens), ids)


def _sampled_log_probs(rollouts: Sequence[Rollout], layout: AnswerBatch) -> Tensor:
    """The log-probabilities recorded while drawing, at the columns that predict their tokens [B, T]."""
    mask = layout.answers.labels != IGNORED
    recorded = torch.tensor(
        [value for one in rollouts for value in one.log_probs], dtype=torch.float32, device=mask.device
    )
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, recorded)
