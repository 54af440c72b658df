"""Passes over the columns of a batch: all at once, or one after the other so that latents are rolled out.

A pass takes each row's tokens to the left of its columns, so that the first is plainly causal and only later ones
need a mask; where rows differ in length, everything but attention runs on the tokens alone.
Legend: B rows, T columns of the batch, C columns of a pass, n tokens of a pass, r rows fed a latent, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.latent.layout import LatentBatch, SpanBlock
from mirage_core.model.backbone import Backbone, Embedded, Rotary
from mirage_core.model.cache import GrowingCache
from mirage_core.model.packing import Packing

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pass:
    """The tokens [n] of batch columns [begin, end), row by row.

    ``source``: where they stand in the batch, its rows laid end to end. ``packing``: where they stand in the pass;
    None where no row has padding. ``held`` [B, C]: which columns of the pass hold a token. ``last`` [B]: each row's
    last token. ``fed`` [r]: the tokens that are latents, each the hidden state of token ``leads`` [r] of the pass
    before.
    """

    begin: int
    end: int
    source: Tensor
    packing: Packing | None
    held: Tensor
    last: Tensor
    fed: Tensor
    leads: Tensor

    def inputs(self, embedded: Embedded, before: Tensor | None = None) -> Embedded:
        """What the pass is fed out of a batch: text, and hidden states [n, D] of the pass before as latents."""
        part = embedded.columns(self.begin, self.end)
        if self.packing is not None:
            part = replace(embedded, deep=None if part.deep is None else embedded.deep).packed(self.source)
        if before is None or not len(self.fed):
            return part
        latents, tokens = before.index_select(0, self.leads), part.tokens
        whole = len(self.fed) == len(self.source)
        fed = latents if whole else tokens.flatten(0, 1).index_copy(0, self.fed, latents)
        return replace(part, tokens=fed.view_as(tokens))

    def rotary(self, rotary: Rotary) -> Rotary:
        """The part of a batch's rotation that belongs to what the pass is fed."""
        if self.packing is None:
            return rotary[0][:, self.begin : self.end], rotary[1][:, self.begin : self.end]
        cos, sin = (part.flatten(0, 1).index_select(0, self.source)[None] for part in rotary)
        return cos, sin


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
    passes = plan(batch.attention_mask, pack=backbone.sharded)
    return _run(backbone, embedded, batch, passes, checkpointing, prefix)


def roll_out(
    backbone: Backbone,
    embedded: Embedded,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: Prefix | None = None,
) -> Tensor:
    """Hidden states [B, T, D], zero at padding, with every latent fed back as the next input, under gradient.

    One pass for each segment of text, whose last token gives the first latent, and one for each latent but a
    block's last, which goes with the next segment.
    """
    passes = plan(batch.attention_mask, batch.blocks, pack=backbone.sharded)
    return _run(backbone, embedded, batch, passes, checkpointing, prefix)


def prefix_pass(
    backbone: Backbone, embedded: Embedded, batch: LatentBatch, owners: Tensor, *, checkpointing: bool = False
) -> Prefix:
    """Prompts [P, T] encoded once, as what rows go on from that belong to them: ``owners`` [B], under gradient."""
    (one,) = plan(batch.attention_mask, pack=backbone.sharded)
    cache = GrowingCache()
    rotary = one.rotary(backbone.rotary(batch.position_ids))
    backbone.hidden(one.inputs(embedded), rotary, None, cache, checkpointing=checkpointing, packing=one.packing)
    return Prefix(cache.repeated(owners), one.held.index_select(0, owners), one.packing is not None)


def plan(mask: Tensor, blocks: Sequence[SpanBlock] = (), *, pack: bool = False) -> list[Pass]:
    """The passes over rows with tokens where ``mask`` [B, T] is True. A GPU is asked once, not in every pass.

    ``pack``: also where no row has padding, so that rows of any lengths run the same modules.
    """
    held = mask.cpu().numpy()
    edges = [0, *(column for block in blocks for column in range(block.start, block.start + block.width))]
    passes: list[Pass] = []
    last = np.empty(0, dtype=np.int64)
    for begin, end in pairwise([*edges, held.shape[1]]):
        one, last = _planned(held, begin, end, last, mask.device, pack)
        passes.append(one)
    return passes


def _planned(
    mask: NDArray[np.bool_], begin: int, end: int, before: Ints, device: torch.device, pack: bool
) -> tuple[Pass, Ints]:
    """One pass, and the last token of every row in it; ``before``: that of the pass before."""
    real = mask[:, begin:end]
    rows, columns = real.nonzero()
    counts = real.sum(1)
    width = int(counts.max())
    places = rows * width + (real.cumsum(1) - 1)[rows, columns]
    fed = np.flatnonzero(columns == 0) if begin else np.empty(0, dtype=np.int64)
    last = counts.cumsum() - 1
    leads = before[rows[fed]] if begin else fed

    def moved(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    one = Pass(
        begin=begin,
        end=end,
        source=moved(rows * mask.shape[1] + begin + columns),
        packing=None if not pack and bool(real.all()) else Packing(len(mask), width, moved(places)),
        held=moved(np.arange(width) < counts[:, None]),
        last=moved(last),
        fed=moved(fed),
        leads=moved(leads),
    )
    return one, last


def _run(
    backbone: Backbone,
    embedded: Embedded,
    batch: LatentBatch,
    passes: list[Pass],
    checkpointing: bool,
    prefix: Prefix | None,
) -> Tensor:
    """All passes, each over what those before it left in the cache."""
    cache = prefix.cache if prefix is not None else GrowingCache() if len(passes) > 1 else None
    rotary = backbone.rotary(batch.position_ids)
    found: list[Tensor] = []
    for one, bias in zip(passes, _biases(backbone, passes, prefix), strict=True):
        inputs = one.inputs(embedded, found[-1] if found else None)
        hidden = backbone.hidden(
            inputs, one.rotary(rotary), bias, cache, checkpointing=checkpointing, packing=one.packing
        )
        found.append(hidden.flatten(0, 1))
    return _in_batch(batch, passes, found)


def _biases(backbone: Backbone, passes: list[Pass], prefix: Prefix | None) -> Iterator[Tensor | None]:
    """The mask of each pass: its columns see every token of the passes before, and themselves causally."""
    begun = [] if prefix is None else [prefix.held]
    for index, one in enumerate(passes):
        before = [*begun, *(earlier.held for earlier in passes[:index])]
        padded = any(earlier.packing is not None for earlier in passes[:index])
        padded = padded or (prefix is not None and prefix.padded)
        columns = one.held.shape[1]
        if not before or (columns == 1 and not padded):
            yield None  # plain causal attention: padding stands right of what is seen
            continue
        seen = torch.cat(before, dim=1)
        seen = seen if padded else seen[:1]
        own = torch.ones(columns, columns, dtype=torch.bool, device=seen.device).tril()
        allowed = [seen[:, None].expand(-1, columns, -1), own.expand(len(seen), -1, -1)]
        yield backbone.attention_bias(torch.cat(allowed, dim=-1)[:, None])


def _in_batch(batch: LatentBatch, passes: list[Pass], found: list[Tensor]) -> Tensor:
    """Hidden states of all passes in the columns of the batch [B, T, D]."""
    rows, columns = batch.input_ids.shape
    if all(one.packing is None for one in passes):
        return torch.cat([hidden.view(rows, -1, hidden.shape[-1]) for hidden in found], dim=1)
    whole = Packing(rows, columns, torch.cat([one.source for one in passes]))
    return whole.spread(torch.cat(found)[None])
