"""Passes over the columns of a batch: all at once, or one after the other so that latents are rolled out.

Legend: B rows, T columns of the batch, C columns of a pass, n tokens of a pass, r rows fed a latent, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.latent.bottleneck import sight
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone, Embedded
from mirage_core.model.cache import GrowingCache
from mirage_core.model.forward.plan import Pass, plan
from mirage_core.model.packing import Packing

__all__ = ["Disturb", "Prefix", "one_pass", "plan", "prefix_pass", "roll_out"]

Disturb = Callable[[Tensor, Tensor], Tensor]
"""(latents [r, D], which of the batch's latents they are [r], counted row by row) -> the latents as they are fed."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What rows go on from: keys and values of their prompts, and which of their columns hold tokens [B, C].

    ``padded``: whether some do not.
    """

    cache: GrowingCache
    held: Tensor
    padded: bool


def one_pass(
    backbone: Backbone,
    embedded: Embedded,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: Prefix | None = None,
) -> Tensor:
    """Hidden states [B, T, D] of what ``embedded`` holds, zero at padding."""
    passes = _planned(backbone, batch)
    return _run(backbone, embedded, batch, passes, checkpointing, prefix)


def roll_out(
    backbone: Backbone,
    embedded: Embedded,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: Prefix | None = None,
    disturb: Disturb | None = None,
) -> Tensor:
    """Hidden states [B, T, D], zero at padding, with every latent fed back as the next input, under gradient.

    One pass for each segment of text, whose last token gives the first latent, and one for each latent but a
    block's last, which goes with the next segment. ``disturb``: what becomes of latents before they are fed.
    """
    passes = _planned(backbone, batch, roll=True)
    return _run(backbone, embedded, batch, passes, checkpointing, prefix, disturb)


def prefix_pass(
    backbone: Backbone, embedded: Embedded, batch: LatentBatch, owners: Tensor, *, checkpointing: bool = False
) -> Prefix:
    """Prompts [P, T] encoded once, as what rows go on from that belong to them: ``owners`` [B], under gradient."""
    (one,) = plan(batch.attention_mask, pack=backbone.sharded)
    cache = GrowingCache()
    rotary = one.rotary(backbone.rotary(batch.position_ids))
    backbone.hidden(one.inputs(embedded), rotary, None, cache, checkpointing=checkpointing, packing=one.packing)
    return Prefix(cache.repeated(owners), one.held.index_select(0, owners), one.packing is not None)


def _planned(backbone: Backbone, batch: LatentBatch, *, roll: bool = False) -> list[Pass]:
    """All columns in one pass, or in those that roll latents out."""
    return plan(
        batch.attention_mask,
        batch.blocks if roll else (),
        pack=backbone.sharded,
        zones=batch.zones,
        bottleneck=batch.bottleneck,
    )


def _run(
    backbone: Backbone,
    embedded: Embedded,
    batch: LatentBatch,
    passes: list[Pass],
    checkpointing: bool,
    prefix: Prefix | None,
    disturb: Disturb | None = None,
) -> Tensor:
    """All passes, each over what those before it left in the cache."""
    cache = prefix.cache if prefix is not None else GrowingCache() if len(passes) > 1 else None
    rotary = backbone.rotary(batch.position_ids)
    found: list[Tensor] = []
    fed: list[Tensor] = []
    for one, bias in zip(passes, _biases(backbone, batch, passes, prefix), strict=True):
        if found:
            latents = found[-1].index_select(0, one.leads)
            fed.append(latents if disturb is None else disturb(latents, one.numbers))
        inputs = one.inputs(embedded, fed)
        hidden = backbone.hidden(
            inputs, one.rotary(rotary), bias, cache, checkpointing=checkpointing, packing=one.packing
        )
        found.append(hidden.flatten(0, 1))
    return _in_batch(batch, passes, found)


def _biases(
    backbone: Backbone, batch: LatentBatch, passes: list[Pass], prefix: Prefix | None
) -> Iterator[Tensor | None]:
    """The mask of each pass: its columns see every token of the passes before, and themselves causally; of these what
    the bottleneck lets them see."""
    begun = [] if prefix is None else [prefix.held]
    for index, one in enumerate(passes):
        before = [*begun, *(earlier.held for earlier in passes[:index])]
        padded = any(earlier.packing is not None for earlier in passes[:index])
        padded = padded or (prefix is not None and prefix.padded)
        columns = one.held.shape[1]
        if not one.hides and (not before or (columns == 1 and not padded)):
            yield None  # plain causal attention: padding stands right of what is seen
            continue
        rows = batch.rows if padded or one.hides else 1
        own = torch.ones(columns, columns, dtype=torch.bool, device=one.held.device).tril()
        allowed = [*(held[:rows, None].expand(-1, columns, -1) for held in before), own.expand(rows, -1, -1)]
        visible = torch.cat(allowed, dim=-1)
        if one.hides:
            visible &= _sight(batch, [*passes[: index + 1]], prefix)
        yield backbone.attention_bias(visible[:, None])


def _sight(batch: LatentBatch, passes: list[Pass], prefix: Prefix | None) -> Tensor:
    """What the columns of the last of ``passes`` may see of all columns up to them, by their zones [B, C, columns].

    Prompts stand before every span.
    """
    zones = [one.zones for one in passes if one.zones is not None]
    begun = [] if prefix is None else [torch.zeros_like(prefix.held, dtype=zones[-1].dtype)]
    table = sight(batch.bottleneck).to(zones[-1].device)
    return table[zones[-1][:, :, None], torch.cat([*begun, *zones], dim=1)[:, None]]


def _in_batch(batch: LatentBatch, passes: list[Pass], found: list[Tensor]) -> Tensor:
    """Hidden states of all passes in the columns of the batch [B, T, D]."""
    rows, columns = batch.input_ids.shape
    if all(one.packing is None for one in passes):
        return torch.cat([hidden.view(rows, -1, hidden.shape[-1]) for hidden in found], dim=1)
    whole = Packing(rows, columns, torch.cat([one.source for one in passes]))
    return whole.spread(torch.cat(found)[None])
