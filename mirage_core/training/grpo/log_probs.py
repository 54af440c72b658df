"""Log-probabilities of sampled tokens under the rules that they were sampled by. Paper, section 3.3.

Legend: B rows, T columns, S spans, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.generation.sampling import SamplingRules
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.examples import IGNORED
from mirage_core.model.backbone import Backbone


def text_log_probs(backbone: Backbone, batch: LatentBatch, hidden: Tensor, rules: SamplingRules) -> Tensor:
    """Return the log-probability [B, T] of every label under the rules it was sampled by, 0.0 where there is no label.

    ``hidden``: of relaxation_forward (gradient flows through the latents) or replay_forward. The rules are
    ``decode.sampling_rules(ids, settings)``; top-p is left out, as in Trajectory.log_probs. Where spans end freely,
    that of latent_end is of the span's length: the sum over the choices to go on and the one to end. InputError for a
    label that the rules never let be sampled.
    """
    labelled = batch.labels != IGNORED
    choices = _span_choices(batch, rules) if rules.free_end else None
    columns = labelled if choices is None else labelled | choices.going_on
    started = (batch.input_ids == rules.latent_start).cumsum(1)
    may_end = _columns_that_may_end(batch, rules)
    scores = rules.scores(backbone.logits(hidden[columns]), may_end[columns], started[columns])
    tokens = batch.labels[columns].clamp_min(0)
    values = scores.gather(-1, tokens[:, None]).squeeze(-1) - scores.logsumexp(-1)
    if choices is not None:
        values = torch.where(choices.going_on[columns], rules.going_on(scores), values)
        values = values.masked_fill(choices.forced[columns], 0.0)
    if not bool(torch.isfinite(values.detach()).all()):
        raise InputError(
            "A labelled token has probability zero under the sampling rules. Label only tokens that were sampled "
            "under the same rules (encode_rollout does), not forced or banned ones."
        )
    found = torch.zeros_like(hidden[..., 0], dtype=torch.float32).masked_scatter(columns, values)
    return found if choices is None else choices.summed(found)


@dataclass(frozen=True, slots=True)
class _SpanChoices:
    """Where labelled spans chose their length: ``going_on`` [B, T] at latents after which the span could have ended;
    ``forced`` [B, T] at the last latent of a span as long as may be; ``ends`` [S, 2]: row and column of the last one;
    ``owners`` [C]: the span of each column of ``going_on``, row by row."""

    going_on: Tensor
    forced: Tensor
    ends: Tensor
    owners: Tensor

    def summed(self, log_probs: Tensor) -> Tensor:
        """Return log-probabilities [B, T] with those of going on added to their span's end."""
        sums = log_probs.new_zeros(len(self.ends)).index_add(0, self.owners, log_probs[self.going_on])
        rows, columns = self.ends.unbind(1)
        return log_probs.masked_fill(self.going_on, 0.0).index_put((rows, columns), sums, accumulate=True)


def _span_choices(batch: LatentBatch, rules: SamplingRules) -> _SpanChoices:
    """Return the choices of the spans whose end is labelled."""
    rows, ends = batch.span_rows, batch.span_starts + batch.span_lengths - 1
    labelled = batch.labels[rows, ends] == rules.latent_end
    numbers = torch.full(batch.labels.shape, -1)  # laid out on the CPU, so that a GPU is not synchronized at each span
    forced = torch.zeros(batch.labels.shape, dtype=torch.bool)
    spans = zip(labelled.tolist(), rows.tolist(), ends.tolist(), batch.span_lengths.tolist(), strict=True)
    for number, (chosen, row, end, length) in enumerate(spans):
        if chosen:
            numbers[row, end - length + 1 : end] = number
            forced[row, end] = length == rules.max_latents
    device = batch.labels.device
    numbers, forced = numbers.to(device), forced.to(device)
    going_on = numbers >= 0
    return _SpanChoices(going_on, forced, torch.stack([rows, ends], dim=1), numbers[going_on])


def _columns_that_may_end(batch: LatentBatch, rules: SamplingRules) -> Tensor:
    """Return at which columns a span may be ended [B, T]: at all latents, at the last ones, or nowhere."""
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    end = (batch.span_starts + batch.span_lengths)[:, None]
    begin = batch.span_starts[:, None] if rules.free_end else end - 1 if rules.open_end else end
    inside = ((columns >= begin) & (columns < end)).to(torch.uint8)
    none = torch.zeros(batch.input_ids.shape, dtype=torch.uint8, device=batch.input_ids.device)
    return none.index_add(0, batch.span_rows, inside).bool()
