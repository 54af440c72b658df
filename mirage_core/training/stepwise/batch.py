"""The targets of a micro-batch, beside its layout: which hidden states are read, and what they must tell.

Legend: B rows, T columns, n latents with targets, W places, C kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import pad

from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.training.stepwise.targets import StepTargets


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Targets of the latents of a batch.

    ``rows``, ``columns`` [n]: where the hidden state of a latent stands in the batch; ``steps`` [n]: its number in its
    span. ``where`` [n, W], ``what`` [n, C]: the targets. ``image_columns`` [B, W]: of the tokens of each row's first
    image, -1 after the last one; [B, 0] without a pointer.
    """

    rows: Tensor
    columns: Tensor
    steps: Tensor
    where: Tensor
    what: Tensor
    image_columns: Tensor

    def to(self, device: torch.device | str) -> StepBatch:
        """The batch on ``device``."""
        return StepBatch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def counts(self, longest: int) -> dict[str, float]:
        """Return how many latents have a target, in all ("where") and by their number in the span ("where_0", ...)."""
        counts: dict[str, float] = {}
        for name, targets in (("where", self.where), ("what", self.what)):
            by_step = torch.bincount(self.steps[targets.any(-1)], minlength=longest)
            counts |= {f"{name}_{step}": float(count) for step, count in enumerate(by_step[:longest].tolist())}
            counts[name] = float(by_step.sum())
        return counts


def step_batch(
    batch: LatentBatch, targets: Sequence[StepTargets], image_pad: int | None, widths: tuple[int, int]
) -> StepBatch:
    """Lay out the targets of the first rows of a batch, one each; further rows (dummy rows) have none.

    ``image_pad``: the token of images, for a pointer; None: places are labels. ``widths``: those of the targets of the
    heads (``StepHeads.widths``). InputError where a row has another number of latents than its targets.
    """
    counts = torch.bincount(batch.span_rows, batch.span_lengths, minlength=batch.rows).long()
    for row, target in enumerate(targets):
        if len(target.where) != int(counts[row]):
            raise InputError(f"row {row} has {int(counts[row])} latents and targets for {len(target.where)} of them")
    real = batch.span_rows < len(targets)
    lengths = batch.span_lengths[real]
    starts = batch.span_starts[real].repeat_interleave(lengths)
    steps = torch.cat([torch.arange(0), *(torch.arange(length) for length in lengths.tolist())])
    rows = batch.span_rows[real].repeat_interleave(lengths)
    return _laid_out(batch, targets, (rows, starts - 1 + steps, steps), image_pad, widths)


def token_batch(
    batch: LatentBatch,
    targets: Sequence[StepTargets],
    columns: Sequence[Sequence[int]],
    image_pad: int | None,
    widths: tuple[int, int],
) -> StepBatch:
    """Lay out targets of text tokens in the ``columns`` of each row, not of latents; else as ``step_batch``."""
    counts = [len(each) for each in columns]
    if counts != [len(target.where) for target in targets]:
        raise InputError(f"rows have {[len(target.where) for target in targets]} targets for {counts} tokens")
    rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
    flat = torch.tensor([column for each in columns for column in each], dtype=torch.long)
    steps = torch.tensor([step for count in counts for step in range(count)], dtype=torch.long)
    return _laid_out(batch, targets, (rows, flat, steps), image_pad, widths)


def _laid_out(
    batch: LatentBatch,
    targets: Sequence[StepTargets],
    read: tuple[Tensor, Tensor, Tensor],
    image_pad: int | None,
    widths: tuple[int, int],
) -> StepBatch:
    """Put the targets beside what is ``read``: rows, columns and steps, [n] each."""
    (rows, columns, steps), (places, kinds) = read, widths
    width = places if image_pad is None else max((1, *(target.where.shape[1] for target in targets)))
    return StepBatch(
        rows=rows,
        columns=columns,
        steps=steps,
        where=_stacked([target.where for target in targets], width),
        what=_stacked([target.what for target in targets], kinds),
        image_columns=_image_columns(batch, targets, image_pad, width),
    )


def _stacked(targets: Sequence[Tensor], width: int) -> Tensor:
    """Return the targets of all rows one below the other [n, width], as float32."""
    padded = [pad(target.float(), (0, width - target.shape[1])) for target in targets]
    return torch.cat([torch.zeros(0, width), *padded])


def _image_columns(batch: LatentBatch, targets: Sequence[StepTargets], image_pad: int | None, width: int) -> Tensor:
    if image_pad is None:
        return torch.empty(batch.rows, 0, dtype=torch.long)
    found = torch.full((batch.rows, width), -1)
    for row, target in enumerate(targets):
        tokens = (batch.input_ids[row] == image_pad).nonzero()[:, 0][: target.where.shape[1]]
        found[row, : len(tokens)] = tokens
    return found
