"""Run passes over the columns of a batch: all columns at once, or one pass after the other to roll latents out.

Legend: B rows, T columns of the batch, C columns of a pass, n tokens of a pass, r latents of a pass, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.latent.bottleneck import attention_table
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone, InputEmbeddings
from mirage_core.model.cache import GrowingCache
from mirage_core.model.forward.plan import ForwardPass, plan_passes
from mirage_core.model.packing import Packing

LatentTransform = Callable[[Tensor, Tensor], Tensor]
"""(latents [r, D], their numbers in the batch [r], counted row by row) -> the latents to use as inputs [r, D]."""


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Keys and values of the prompts that rows continue, and which of their columns hold tokens [B, C].

    ``padded``: whether some do not.
    """

    cache: GrowingCache
    token_mask: Tensor
    padded: bool


def single_pass(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: EncodedPrompts | None = None,
) -> Tensor:
    """Return hidden states [B, T, D] of ``embedded``, zero at padding."""
    return _run(backbone, embedded, batch, _plan(backbone, batch), checkpointing, prefix)


def rollout(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: EncodedPrompts | None = None,
    latent_transform: LatentTransform | None = None,
) -> Tensor:
    """Return hidden states [B, T, D], zero at padding; every latent is fed back as the next input, with gradient.

    One pass for each segment of text, whose last token gives the first latent, and one for each latent but a
    block's last, which goes with the next segment. ``latent_transform`` changes latents before they become inputs.
    """
    passes = _plan(backbone, batch, roll=True)
    return _run(backbone, embedded, batch, passes, checkpointing, prefix, latent_transform)


def encode_prompts(
    backbone: Backbone, embedded: InputEmbeddings, batch: LatentBatch, owners: Tensor, *, checkpointing: bool = False
) -> EncodedPrompts:
    """Encode prompts [P, T] once, with gradient, for the rows that continue them: row b continues ``owners[b]``."""
    (prefill,) = plan_passes(batch.attention_mask, pack=backbone.sharded)
    cache = GrowingCache()
    backbone.hidden(
        prefill.inputs(embedded),
        prefill.rotary(backbone.rotary(batch.position_ids)),
        None,
        cache,
        checkpointing=checkpointing,
        packing=prefill.packing,
    )
    return EncodedPrompts(
        cache.repeated(owners), prefill.token_mask.index_select(0, owners), prefill.packing is not None
    )


def _plan(backbone: Backbone, batch: LatentBatch, *, roll: bool = False) -> list[ForwardPass]:
    """Plan one pass over all columns, or the passes that roll latents out."""
    return plan_passes(
        batch.attention_mask,
        batch.blocks if roll else (),
        pack=backbone.sharded,
        segments=batch.segments,
        bottleneck=batch.bottleneck,
    )


def _run(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    passes: list[ForwardPass],
    checkpointing: bool,
    prefix: EncodedPrompts | None,
    latent_transform: LatentTransform | None = None,
) -> Tensor:
    """Run all passes, each over the cache of those before it; returns hidden states [B, T, D]."""
    cache = prefix.cache if prefix is not None else GrowingCache() if len(passes) > 1 else None
    rotary = backbone.rotary(batch.position_ids)
    outputs: list[Tensor] = []
    latents: list[Tensor] = []
    for current, bias in zip(passes, _biases(backbone, batch, passes, prefix), strict=True):
        if outputs:
            own = outputs[-1].index_select(0, current.latent_sources)
            latents.append(own if latent_transform is None else latent_transform(own, current.latent_numbers))
        hidden = backbone.hidden(
            current.inputs(embedded, latents),
            current.rotary(rotary),
            bias,
            cache,
            checkpointing=checkpointing,
            packing=current.packing,
        )
        outputs.append(hidden.flatten(0, 1))
    return _in_batch_columns(batch, passes, outputs)


def _biases(
    backbone: Backbone, batch: LatentBatch, passes: list[ForwardPass], prefix: EncodedPrompts | None
) -> Iterator[Tensor | None]:
    """Yield the additive mask of each pass [B or 1, 1, C, columns so far].

    A column attends to every token of earlier passes and causally to its own pass, as far as the bottleneck allows.
    """
    prompt_masks = [] if prefix is None else [prefix.token_mask]
    for index, current in enumerate(passes):
        earlier_masks = [*prompt_masks, *(earlier.token_mask for earlier in passes[:index])]
        padded = any(earlier.packing is not None for earlier in passes[:index])
        padded = padded or (prefix is not None and prefix.padded)
        columns = current.token_mask.shape[1]
        if not current.restricted and (not earlier_masks or (columns == 1 and not padded)):
            yield None  # plain causal attention: padding is to the right of every token
            continue
        rows = batch.rows if padded or current.restricted else 1
        causal = torch.ones(columns, columns, dtype=torch.bool, device=current.token_mask.device).tril()
        allowed = [*(mask[:rows, None].expand(-1, columns, -1) for mask in earlier_masks), causal.expand(rows, -1, -1)]
        visible = torch.cat(allowed, dim=-1)
        if current.restricted:
            visible &= _bottleneck_mask(batch, passes[: index + 1], prefix)
        yield backbone.attention_bias(visible[:, None])


def _bottleneck_mask(batch: LatentBatch, passes: list[ForwardPass], prefix: EncodedPrompts | None) -> Tensor:
    """Return what the columns of the last pass may attend to by their segments [B, C, columns so far].

    Prompts precede every span.
    """
    segments = [current.segments for current in passes if current.segments is not None]
    prompts = [] if prefix is None else [torch.zeros_like(prefix.token_mask, dtype=segments[-1].dtype)]
    table = attention_table(batch.bottleneck).to(segments[-1].device)
    return table[segments[-1][:, :, None], torch.cat([*prompts, *segments], dim=1)[:, None]]


def _in_batch_columns(batch: LatentBatch, passes: list[ForwardPass], outputs: list[Tensor]) -> Tensor:
    """Return the hidden states of all passes in the columns of the batch [B, T, D]."""
    rows, columns = batch.input_ids.shape
    if all(current.packing is None for current in passes):
        return torch.cat([hidden.view(rows, -1, hidden.shape[-1]) for hidden in outputs], dim=1)
    packing = Packing(rows, columns, torch.cat([current.source for current in passes]))
    return packing.pad(torch.cat(outputs)[None])
