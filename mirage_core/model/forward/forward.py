"""Forwards over a batch with latents: as ordinary tokens, rolled out with gradient (stage 2), or replayed (GRPO).

A forward is one pass over all columns, or one pass after the other to roll latents out. Legend: B rows, T columns of
the batch, C columns of a pass, n tokens of a pass, r latents of a pass, S spans, K latents of the longest span,
D hidden, F width of image features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.config import FeedNorm
from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Bottleneck, Segment, attention_table
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.collate_answers import AnswerBatch
from mirage_core.model.backbone import Backbone, InputEmbeddings
from mirage_core.model.cache import Cache, GrowingCache
from mirage_core.model.forward.feed_norm import at_norms, image_norms
from mirage_core.model.forward.layer_states import LayerStates
from mirage_core.model.forward.plan import ForwardPass, plan_passes
from mirage_core.model.forward.sight import Sight
from mirage_core.model.packing import Packing

LatentTransform = Callable[[Tensor, Tensor], Tensor]
"""(latents [r, D] at the norm they are fed at, their numbers in the batch [r], counted row by row) -> the latents to
use as inputs [r, D]."""
Readout = Callable[[Tensor], Tensor]
"""Last hidden states [..., D] -> what is fed as latents."""


@dataclass(frozen=True, slots=True)
class RelaxationOutput:
    """Stage 2: hidden [B, T, D], and latents [S, K, D] in the order of batch.span_rows, before any transform.

    A span shorter than K has undefined last rows.
    """

    hidden: Tensor
    latents: Tensor


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Keys and values of the prompts that rows continue, and which of their columns hold tokens [B, C].

    ``padded``: whether some do not. ``segments`` [B, C]: of the tokens; None without a bottleneck.
    """

    cache: GrowingCache
    token_mask: Tensor
    padded: bool
    segments: Tensor | None


def text_forward(
    backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False, states: LayerStates | None = None
) -> Tensor:
    """Return hidden states [B, T, D] of an ordinary pass; latent pads, if any, are embedded as ordinary tokens.

    ``states`` collects the states of chosen tokens at every depth.
    """
    embedded = embed_batch(backbone, batch, checkpointing)
    return single_pass(backbone, embedded, batch, checkpointing=checkpointing, states=states)


def blank_forward(
    backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False, states: LayerStates | None = None
) -> RelaxationOutput:
    """Run spans of tokens, blank or learned ones: one parallel pass, in which no hidden state is fed back."""
    hidden = text_forward(backbone, batch, checkpointing=checkpointing, states=states)
    return RelaxationOutput(hidden, span_latents(batch, hidden))


def given_forward(
    backbone: Backbone, batch: LatentBatch, latents: Sequence[Tensor], *, checkpointing: bool = False
) -> RelaxationOutput:
    """Run spans that hold given vectors ([k_s, D] a span), constants: one parallel pass."""
    hidden = replay_forward(backbone, batch, latents, checkpointing=checkpointing)
    return RelaxationOutput(hidden, span_latents(batch, hidden))


def relaxation_forward(
    backbone: Backbone,
    batch: LatentBatch,
    checkpointing: bool = False,
    *,
    readout: Readout | None = None,
    latent_transform: LatentTransform | None = None,
    feed_norm: FeedNorm = "own",
    states: LayerStates | None = None,
) -> RelaxationOutput:
    """Stage 2: every latent is the hidden state one token earlier, with gradient. Paper, Eq. 4.

    One pass for each segment, whose last column gives the first latent, and one for each latent but a block's
    last, which goes with the next segment: k + 1 passes for one span. ``readout``: what is fed of a hidden state (None:
    itself). ``feed_norm``: the norm at which latents become inputs; ``latent_transform`` changes them after that.
    ``states``: also collect the states of all layers. InputError for a batch that is not aligned.
    """
    check_aligned(batch)
    images = image_features(backbone, batch, checkpointing=checkpointing)
    hidden = rollout(
        backbone,
        backbone.embed(batch.input_ids, images),
        batch,
        checkpointing=checkpointing,
        readout=readout,
        latent_transform=latent_transform,
        norms=fed_norms(backbone, batch, images, feed_norm),
        states=states,
    )
    return RelaxationOutput(hidden, span_latents(batch, hidden))


def replay_forward(
    backbone: Backbone, batch: LatentBatch, latents: Sequence[Tensor], *, checkpointing: bool = False
) -> Tensor:
    """Return hidden states [B, T, D] with recorded latents ([k_s, D] a span, in the order of batch.span_rows).

    One parallel pass: cheaper than relaxation_forward, and biased, since no gradient flows through the latents.
    """
    embedded = _with_recorded(embed_batch(backbone, batch, checkpointing), batch, latents)
    return single_pass(backbone, embedded, batch, checkpointing=checkpointing)


def answers_forward(
    backbone: Backbone,
    batch: AnswerBatch,
    latents: Sequence[Tensor] | None = None,
    *,
    checkpointing: bool = False,
    blank: bool = False,
    feed_norm: FeedNorm = "own",
) -> Tensor:
    """Return hidden states [B, T, D] of ``batch.answers``; a prompt is encoded once for all its answers, with gradient.

    Latents are rolled out as in ``relaxation_forward``, or, with ``latents``, replayed as in ``replay_forward``;
    ``blank``: spans hold the tokens of the batch.
    """
    prompts, answers = batch.prompts, batch.answers
    images = image_features(backbone, prompts, checkpointing=checkpointing)
    embedded = backbone.embed(prompts.input_ids, images)
    prefix = encode_prompts(backbone, embedded, prompts, batch.owners, checkpointing=checkpointing)
    embedded = embed_batch(backbone, answers, checkpointing)
    if latents is None and not blank:
        norms = fed_norms(backbone, prompts, images, feed_norm)
        norms = None if norms is None else norms.index_select(0, batch.owners)
        return rollout(backbone, embedded, answers, checkpointing=checkpointing, prefix=prefix, norms=norms)
    if latents is not None and not blank:
        embedded = _with_recorded(embedded, answers, latents)
    return single_pass(backbone, embedded, answers, checkpointing=checkpointing, prefix=prefix)


def image_features(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> list[Tensor]:
    """Return features [n_i, F] of the input images: precomputed, or from their pixels."""
    cached = list(batch.image_features)
    return cached or backbone.image_features(batch.pixel_values, batch.grid_thw, checkpointing=checkpointing)


def fed_norms(backbone: Backbone, batch: LatentBatch, images: Sequence[Tensor], feed_norm: FeedNorm) -> Tensor | None:
    """Return the norms [B] at which the rows' latents are fed, from features [n_i, F] of their images; None: own."""
    return None if feed_norm == "own" else image_norms(batch, [backbone.merged(image) for image in images])


def single_pass(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: EncodedPrompts | None = None,
    sight: Sight | None = None,
    states: LayerStates | None = None,
) -> Tensor:
    """Return hidden states [B, T, D] of ``embedded``, zero at padding.

    ``sight``: who may attend to whom, in the place of the batch's bottleneck. ``states`` collects the states of chosen
    tokens at every depth.
    """
    passes = _plan(backbone, batch, prefix, sight=sight)
    return _run(backbone, embedded, batch, passes, checkpointing, prefix, sight=sight, states=states)


def rollout(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    prefix: EncodedPrompts | None = None,
    readout: Readout | None = None,
    latent_transform: LatentTransform | None = None,
    norms: Tensor | None = None,
    sight: Sight | None = None,
    states: LayerStates | None = None,
) -> Tensor:
    """Return hidden states [B, T, D], zero at padding; every latent is fed back as the next input, with gradient.

    One pass for each segment of text, whose last token gives the first latent, and one for each latent but a
    block's last, which goes with the next segment. Latents are what ``readout`` gives of states (None: the states);
    they become inputs at the ``norms`` [B] of their rows (None: their own), and after that as ``latent_transform``
    changes them. ``sight``, ``states``: as in ``single_pass``.
    """
    passes = _plan(backbone, batch, prefix, roll=True, sight=sight)

    def fed(states: Tensor, current: ForwardPass) -> Tensor:
        own = states if readout is None else readout(states)
        own = own if norms is None else at_norms(own, norms.index_select(0, current.latent_rows))
        return own if latent_transform is None else latent_transform(own, current.latent_numbers)

    return _run(backbone, embedded, batch, passes, checkpointing, prefix, fed, sight, states)


def encode_prompts(
    backbone: Backbone, embedded: InputEmbeddings, batch: LatentBatch, owners: Tensor, *, checkpointing: bool = False
) -> EncodedPrompts:
    """Encode prompts [P, T] once, with gradient, for the rows that continue them: row b continues ``owners[b]``."""
    passes = _plan(backbone, batch)
    (prefill,), (bias,) = passes, _biases(backbone, batch, passes, None, attention_table(batch.bottleneck))
    cache = GrowingCache()
    backbone.hidden(
        prefill.inputs(embedded),
        prefill.rotary(backbone.rotary(batch.position_ids)),
        bias,
        cache,
        checkpointing=checkpointing,
        packing=prefill.packing,
    )
    return EncodedPrompts(
        cache=cache.repeated(owners),
        token_mask=prefill.token_mask.index_select(0, owners),
        padded=prefill.packing is not None,
        segments=None if prefill.segments is None else prefill.segments.index_select(0, owners),
    )


def _run(
    backbone: Backbone,
    embedded: InputEmbeddings,
    batch: LatentBatch,
    passes: list[ForwardPass],
    checkpointing: bool,
    prefix: EncodedPrompts | None,
    fed: Callable[[Tensor, ForwardPass], Tensor] | None = None,
    sight: Sight | None = None,
    states: LayerStates | None = None,
) -> Tensor:
    """Run all passes, each over the cache of those before it; returns hidden states [B, T, D].

    ``fed``: what is fed of the states that precede the latents of a pass (None: these).
    """
    cache: Cache | None = None if prefix is None else prefix.cache
    if prefix is None and len(passes) > 1:
        columns = sum(current.token_mask.shape[1] for current in passes)
        cache = backbone.growing_cache(columns, checkpointing=checkpointing)
    rotary = backbone.rotary(batch.position_ids)
    outputs: list[Tensor] = []
    latents: list[Tensor] = []
    table = attention_table(batch.bottleneck) if sight is None else sight.table
    for current, bias in zip(passes, _biases(backbone, batch, passes, prefix, table), strict=True):
        if outputs:
            own = outputs[-1].index_select(0, current.latent_sources)
            latents.append(own if fed is None else fed(own, current))
        hidden = backbone.hidden(
            current.inputs(embedded, latents),
            current.rotary(rotary),
            bias,
            cache,
            checkpointing=checkpointing,
            packing=current.packing,
            collect=None if states is None else states.of(current.source),
        )
        outputs.append(hidden.flatten(0, 1))
    return _in_batch_columns(batch, passes, outputs)


def _plan(
    backbone: Backbone,
    batch: LatentBatch,
    prefix: EncodedPrompts | None = None,
    *,
    roll: bool = False,
    sight: Sight | None = None,
) -> list[ForwardPass]:
    """Plan one pass over all columns, or the passes that roll latents out."""
    return plan_passes(
        batch.attention_mask,
        batch.blocks if roll else (),
        pack=backbone.sharded,
        segments=batch.segments if sight is None else sight.segments,
        bottleneck=batch.bottleneck,
        after_prompts=prefix is not None,
        table=None if sight is None else sight.table,
    )


def _biases(
    backbone: Backbone, batch: LatentBatch, passes: list[ForwardPass], prefix: EncodedPrompts | None, table: Tensor
) -> Iterator[Tensor | None]:
    """Yield the additive mask of each pass [B or 1, 1, C, columns so far].

    A column attends to every token of earlier passes and causally to its own pass, as far as ``table`` allows.
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
            visible &= segment_mask(table, passes[: index + 1], prefix)
        yield backbone.attention_bias(visible[:, None])


def bottleneck_mask(bottleneck: Bottleneck, passes: Sequence[ForwardPass]) -> Tensor:
    """Return what the columns of the last pass may attend to under a bottleneck [B, C, columns so far]."""
    return segment_mask(attention_table(bottleneck), passes)


def segment_mask(table: Tensor, passes: Sequence[ForwardPass], prefix: EncodedPrompts | None = None) -> Tensor:
    """Return what the columns of the last pass may attend to by their segments [B, C, columns so far]."""
    segments = [current.segments for current in passes if current.segments is not None]
    prompts = [] if prefix is None or prefix.segments is None else [prefix.segments]
    return table.to(segments[-1].device)[segments[-1][:, :, None], torch.cat([*prompts, *segments], dim=1)[:, None]]


def _in_batch_columns(batch: LatentBatch, passes: list[ForwardPass], outputs: list[Tensor]) -> Tensor:
    """Return the hidden states of all passes in the columns of the batch [B, T, D]."""
    rows, columns = batch.input_ids.shape
    if all(current.packing is None for current in passes):
        return torch.cat([hidden.view(rows, -1, hidden.shape[-1]) for hidden in outputs], dim=1)
    packing = Packing(rows, columns, torch.cat([current.source for current in passes]))
    return packing.pad(torch.cat(outputs)[None])


def embed_batch(backbone: Backbone, batch: LatentBatch, checkpointing: bool = False) -> InputEmbeddings:
    return backbone.embed(batch.input_ids, image_features(backbone, batch, checkpointing=checkpointing))


def span_latents(batch: LatentBatch, hidden: Tensor) -> Tensor:
    """Return the latents [S, K, D] of a rollout: each is the hidden state one column earlier."""
    if not len(batch.span_rows):
        return hidden.new_empty(0, 0, hidden.shape[-1])
    # Blocks of aligned spans give K without synchronizing a GPU.
    longest = max(block.width for block in batch.blocks) if batch.blocks else int(batch.span_lengths.max())
    offsets = torch.arange(longest, device=hidden.device)
    columns = (batch.span_starts[:, None] - 1 + offsets).clamp(max=hidden.shape[1] - 1)
    return hidden[batch.span_rows[:, None], columns]


def check_aligned(batch: LatentBatch) -> None:
    if len(batch.span_rows) and not batch.aligned:
        raise InputError("Rolling latents out needs spans in shared columns: collate with align=True.")


def _with_recorded(embedded: InputEmbeddings, batch: LatentBatch, latents: Sequence[Tensor]) -> InputEmbeddings:
    """Return embeddings with recorded latents at the latent positions; InputError where lengths do not match."""
    lengths = [len(latent) for latent in latents]
    if lengths != batch.span_lengths.tolist():
        raise InputError(f"Recorded latents of lengths {lengths} for spans of {batch.span_lengths.tolist()}.")
    if not lengths:
        return embedded
    flat = torch.cat(list(latents)).to(embedded.tokens).detach()
    return copy_to_reencoded(embedded.with_latents(*latent_cells(batch, lengths), flat), batch)


def latent_cells(batch: LatentBatch, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return rows [n] and columns [n] of all latents, span by span; ``lengths``: those of the spans, on the host."""
    rows = batch.span_rows.repeat_interleave(batch.span_lengths)
    offsets = torch.cat([torch.arange(0), *(torch.arange(length) for length in lengths)]).to(rows.device)
    return rows, batch.span_starts.repeat_interleave(batch.span_lengths) + offsets


def copy_to_reencoded(embedded: InputEmbeddings, batch: LatentBatch) -> InputEmbeddings:
    """Return embeddings with the latents also where they are encoded again (bottleneck latent_only)."""
    if batch.bottleneck != "latent_only":
        return embedded
    rows, columns = (batch.segments == Segment.REENCODED).nonzero(as_tuple=True)
    return embedded.with_latents(rows, columns, embedded.tokens[batch.segments == Segment.LATENT])
