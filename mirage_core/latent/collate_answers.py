"""Collate answers apart from their prompts, so that a prompt is encoded once for all its answers.

Legend: P prompts, B answers, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import LatentBatch, Positions, collate, collate_prompts
from mirage_core.latent.examples import EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerBatch:
    """``prompts``: P rows, each a prompt without its last token. ``answers``: B rows, each the last token of its prompt
    and the answer, at the positions after the prompt. ``owners`` [B]: the row of each answer's prompt."""

    prompts: LatentBatch
    answers: LatentBatch
    owners: Tensor

    def to(self, device: torch.device | str) -> AnswerBatch:
        """The batch on ``device``."""
        return AnswerBatch(
            prompts=self.prompts.to(device), answers=self.answers.to(device), owners=self.owners.to(device)
        )


def collate_answers(
    groups: Sequence[tuple[EncodedPrompt, Sequence[EncodedExample]]],
    ids: TokenIds,
    positions: Positions,
    *,
    bottleneck: Bottleneck = "none",
    span_tokens: Sequence[int] = (),
) -> AnswerBatch:
    """Collate groups of answers to one prompt each; every answer is encoded with its prompt (``encode_rollout``).

    ``positions``: ``backbone.position_ids``; ``span_tokens``: as for ``collate``. InputError for an empty batch, a
    prompt of fewer than two tokens, and an answer that does not begin with its prompt.
    """
    _check_groups(groups)
    shared = [replace(prompt, ids=prompt.ids[:-1]) for prompt, _ in groups]
    prompts = collate_prompts(shared, ids, positions, bottleneck=bottleneck)
    without_prompts = [_without_prompt(prompt, answer) for prompt, group in groups for answer in group]
    answers = collate(without_prompts, ids, positions, bottleneck=bottleneck, span_tokens=span_tokens)
    owners = torch.tensor([row for row, (_, group) in enumerate(groups) for _ in group])
    offsets = (prompts.position_ids.amax((0, 2)) + 1)[owners]
    position_ids = (answers.position_ids + offsets[:, None]).masked_fill(~answers.attention_mask, 0)
    return AnswerBatch(prompts=prompts, answers=replace(answers, position_ids=position_ids), owners=owners)


def _without_prompt(prompt: EncodedPrompt, answer: EncodedExample) -> EncodedExample:
    """Keep the last token of the prompt and the answer; the images stay with the prompt."""
    first = len(prompt.ids) - 1
    return replace(
        answer,
        ids=answer.ids[first:],
        labels=answer.labels[first:],
        pixel_values=no_pixels(),
        grid_thw=no_grids(),
        image_features=(),
    )


def _check_groups(groups: Sequence[tuple[EncodedPrompt, Sequence[EncodedExample]]]) -> None:
    for row, (prompt, answers) in enumerate(groups):
        length = len(prompt.ids)
        if length < 2:
            raise InputError(f"Prompt {row} has {length} tokens; it needs two to be shared by its answers.")
        if any(not torch.equal(answer.ids[:length], prompt.ids) for answer in answers):
            raise InputError(f"An answer to prompt {row} does not begin with it. Encode answers with encode_rollout.")
