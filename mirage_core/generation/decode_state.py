"""The cache and the last hidden states of rows that are decoded step by step: a token, or a latent, at a time.

Prompts are encoded once and repeated for their samples. Legend: P prompts, T columns of the prompts, n rows,
k latents of a span, D hidden, C columns so far, W new columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from mirage_core.config import FeedNorm
from mirage_core.errors import SettingsError
from mirage_core.generation.cache_mask import UNUSED, CacheMask
from mirage_core.generation.interventions import SpanStates, shift_states
from mirage_core.generation.latent_modes import Ints, Mask, StepInput
from mirage_core.generation.reencode_spans import SpanReencoder
from mirage_core.generation.span_buffer import SpanBuffer
from mirage_core.latent.bottleneck import Bottleneck, Segment, attention_table
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone, Rotary
from mirage_core.model.forward.feed_norm import at_norms
from mirage_core.model.forward.forward import bottleneck_mask, fed_norms, image_features
from mirage_core.model.forward.plan import ForwardPass, plan_passes

_BIAS_HEADROOM = 64
_NO_STATES: Mapping[int, SpanStates] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRules:
    """The inputs of spans of at most ``num_latents`` latents, and what may attend to what; by default everything.

    ``span_tokens``: the tokens whose embeddings are the inputs of latents, by number in the span; ``readout``: reads
    what is fed off each hidden state; with neither, hidden states are fed themselves. ``feed_norm``: at which norm.
    ``near``: a span ends after a latent within this mean square of the readout's stop vector; None: by other rules.
    ``hidden_token``: a token of the prompts that no other token may attend to (image_pad). ``start_token``: one that
    counts as a latent, which the bottleneck ``image`` asks of latent_start. ``needs_states``: whether ``span_states``
    are read or replaced.
    """

    num_latents: int
    span_tokens: tuple[int, ...] = ()
    readout: nn.Module | None = None
    feed_norm: FeedNorm = "own"
    near: float | None = None
    bottleneck: Bottleneck = "none"
    hide_latents: bool = False
    hidden_token: int | None = None
    start_token: int | None = None
    needs_states: bool = False

    @property
    def masks_segments(self) -> bool:
        """Whether anything but padding is masked."""
        return self.bottleneck != "none" or self.hide_latents or self.hidden_token is not None


class DecodeState:
    """The cache, and for every row its next position and ``hidden`` [n, 1, D], its last hidden state."""

    def __init__(
        self, backbone: Backbone, batch: LatentBatch, *, samples: int, steps: int, rules: SpanRules | None = None
    ) -> None:
        """Encode the prompts of ``batch``, to be continued by at most ``steps`` columns.

        They are collated (collate_prompts) with the bottleneck of ``rules``.
        """
        self._backbone, self._rules = backbone, rules or SpanRules(num_latents=0)
        (prefill,) = plan_passes(batch.attention_mask, segments=batch.segments, bottleneck=batch.bottleneck)
        self._cache = backbone.decoding_cache()
        hidden_token = self._rules.hidden_token
        masked = None if hidden_token is None else _pass_columns(prefill, batch.input_ids == hidden_token)
        images = image_features(backbone, batch)
        hidden = self._prefill(batch, images, prefill, masked)
        norms = fed_norms(backbone, batch, images, self._rules.feed_norm)
        self._norms = None if norms is None else norms.repeat_interleave(samples)
        self.hidden = hidden.flatten(0, 1)[prefill.last_tokens, None].repeat_interleave(samples, dim=0)
        if samples > 1:
            self._cache.repeat(samples)
        self._positions = (batch.position_ids.amax((0, 2)) + 1).repeat_interleave(samples)
        self._rotary = self._rotary_table(int(self._positions.max()) + steps)
        self._cache_mask: CacheMask | None = None
        self._reencoder: SpanReencoder | None = None
        self._bias: Tensor | None = None
        visible = prefill.token_mask if masked is None else prefill.token_mask & ~masked
        own = int(Segment.BEFORE) if prefill.segments is None else prefill.segments
        segments = torch.where(visible, own, UNUSED).repeat_interleave(samples, dim=0)
        self._setup_mask(segments, steps, padded=prefill.packing is not None)
        self._span_inputs = self._embeddings(self._rules.span_tokens)

    def latent_inputs(self, inputs: StepInput) -> Tensor:
        """The next input of every row [n, D] if it is a latent."""
        if self._rules.span_tokens:
            return self._span_inputs[self._as_tensor(inputs.latent_index)]
        own = self.hidden[:, 0]
        read = own if self._rules.readout is None else self._rules.readout(own)
        return read if self._norms is None else at_norms(read, self._norms)

    def near_stop(self, inputs: StepInput, latents: Tensor) -> Mask:
        """The rows [n] whose latent of this step, from ``latents`` [n, D], is near the stop vector."""
        if self._rules.near is None or not inputs.is_latent.any():
            return np.zeros(len(inputs.is_latent), dtype=bool)
        stop: Tensor = self._rules.readout.stop.weight  # type: ignore[union-attr,assignment]
        near = (latents.float() - stop.float()).square().mean(-1) < self._rules.near
        return np.asarray(near.cpu().numpy() & inputs.is_latent)

    def step(
        self, inputs: StepInput, latents: Tensor | None = None, replaced_states: Mapping[int, SpanStates] = _NO_STATES
    ) -> None:
        """Run one column: every row its token, or its latent, from ``latents`` [n, D] (default ``latent_inputs``).

        ``replaced_states``: by row whose span closes, the states that its latents get (see Interventions.states).
        """
        embedded = self._embed(inputs, self.latent_inputs(inputs) if latents is None else latents)
        for row, states in replaced_states.items():
            self._replace_states(row, states)
        if self._reencoder is not None and inputs.closes_span.any():
            self.hidden = self._reencoder.step(inputs, embedded[:, 0], self._positions, self._rotary)[:, None]
        else:
            rotary = (self._rotary[0][self._positions][:, None], self._rotary[1][self._positions][:, None])
            self.hidden = self._backbone.hidden(embedded, rotary, self._step_bias(inputs), self._cache)
        if self._spans is not None:
            self._spans.append(inputs, embedded[:, 0], self._cache.length)
        self._cache.advance(1)
        self._positions = self._positions + 1

    def span_states(self, row: int) -> SpanStates:
        """The latents of a row's open span, with their keys and values (needs ``rules.needs_states``)."""
        spans = self._span_buffer()
        count = int(spans.counts[row])
        keys, values = self._cache.read(row, self._as_tensor(spans.columns[row, :count]))
        return SpanStates(
            latents=spans.latents(row).clone(), keys=keys, values=values, positions=self._latent_positions(row)
        )

    def select(self, rows: Ints) -> None:
        """Continue with these rows only."""
        index = self._as_tensor(rows)
        self._cache.select(index)
        self.hidden, self._positions = self.hidden[index], self._positions[index]
        self._bias = None if self._bias is None else self._bias[index]
        self._norms = None if self._norms is None else self._norms[index]
        if self._cache_mask is not None:
            self._cache_mask.select(index)
        if self._spans is not None:
            self._spans.select(rows)

    def join(self, other: DecodeState) -> None:
        """Append the rows of ``other``, a state of the same backbone and rules: from now on they run in one column.

        SettingsError under latent_only, whose reencoded latents are in columns that all rows share.
        """
        check_joinable(self._rules.bottleneck)
        front = self._bias_columns(), other._bias_columns()
        fronts = self._cache.join(other._cache)
        self.hidden = torch.cat([self.hidden, other.hidden])
        self._positions = torch.cat([self._positions, other._positions])
        self._rotary = max(self._rotary, other._rotary, key=lambda table: len(table[0]))
        if self._norms is not None and other._norms is not None:
            self._norms = torch.cat([self._norms, other._norms])
        if self._spans is not None:
            self._spans.join(other._span_buffer(), fronts)
        if self._cache_mask is not None and other._cache_mask is not None:
            self._cache_mask.join(other._cache_mask, fronts)
        else:
            hidden = torch.finfo(self._backbone.dtype).min
            self._bias = torch.cat(
                [pad(bias, (number, 0), value=hidden) for bias, number in zip(front, fronts, strict=True)]
            )

    def trim(self) -> None:
        """Drop the columns in front that no row uses: those of rows that have left."""
        if self._cache_mask is not None:
            unused = self._cache_mask.unused_front()
            self._cache_mask.trim(unused)
        elif self._bias is not None:
            unused = int((self._bias == 0).any(0).flatten().int().argmax())
            self._bias = self._bias[..., unused:]
        else:
            return
        self._cache.trim(unused)
        if self._spans is not None:
            self._spans.trim(unused)

    def _bias_columns(self) -> Tensor:
        """The bias [n, 1, 1, C] of the columns so far; zero where there is none."""
        if self._bias is not None:
            return self._bias[..., : self._cache.length]
        return torch.zeros(
            len(self.hidden), 1, 1, self._cache.length, dtype=self._backbone.dtype, device=self._backbone.device
        )

    def _setup_mask(self, segments: Tensor, steps: int, *, padded: bool) -> None:
        """Set up the mask of the following columns; ``segments`` [n, C]: of the prompts' columns."""
        rules = self._rules
        needs_spans = rules.masks_segments or rules.needs_states
        self._spans = SpanBuffer(len(segments), rules.num_latents, rules.start_token) if needs_spans else None
        if self._spans is not None and rules.masks_segments:
            table = attention_table(rules.bottleneck, hide_latents=rules.hide_latents)
            self._cache_mask = CacheMask(segments, table)
            if rules.bottleneck == "latent_only":
                self._reencoder = SpanReencoder(
                    self._backbone, self._cache, self._cache_mask, self._spans, rules.num_latents
                )
        elif padded:
            allowed = pad(segments != UNUSED, (0, steps), value=True)
            self._bias = self._backbone.attention_bias(allowed)[:, None, None]

    def _prefill(self, batch: LatentBatch, images: list[Tensor], prefill: ForwardPass, masked: Tensor | None) -> Tensor:
        """Hidden states of the prompts; to ``masked`` [P, C] columns only they themselves may attend."""
        backbone = self._backbone
        embedded = backbone.embed(batch.input_ids, images)
        rotary, bias = prefill.rotary(backbone.rotary(batch.position_ids)), None
        if masked is not None or prefill.restricted:
            columns = prefill.token_mask.shape[1]
            allowed = torch.ones(columns, columns, dtype=torch.bool, device=backbone.device).tril()[None]
            if masked is not None:
                allowed = allowed & (~masked[:, None] | masked[..., None])
            if prefill.restricted:
                allowed = allowed & bottleneck_mask(batch.bottleneck, [prefill])
            bias = backbone.attention_bias(allowed[:, None])
        hidden = backbone.hidden(prefill.inputs(embedded), rotary, bias, self._cache, packing=prefill.packing)
        self._cache.advance(prefill.token_mask.shape[1])
        return hidden

    def _embed(self, inputs: StepInput, latents: Tensor) -> Tensor:
        """The input embeddings of one column [n, 1, D]."""
        embedded = self._backbone.embed_text(self._as_tensor(inputs.tokens)[:, None])
        if not inputs.is_latent.any():
            return embedded
        return torch.where(self._as_tensor(inputs.is_latent)[:, None, None], latents[:, None], embedded)

    def _step_bias(self, inputs: StepInput) -> Tensor | None:
        """The attention bias of one column [n, 1, 1, C]; None: it attends to everything."""
        if self._cache_mask is None:
            if self._bias is None:
                return None
            missing = self._cache.length + 1 - self._bias.shape[-1]
            if missing > 0:  # rows have joined, and the columns after them are visible
                self._bias = pad(self._bias, (0, missing + _BIAS_HEADROOM))
            return self._bias[..., : self._cache.length + 1]
        segments = self._as_tensor(self._span_buffer().segments(inputs))
        self._cache_mask.append(segments, self._positions)
        allowed = self._cache_mask.allowed(segments[:, None], self._positions[:, None])
        return self._backbone.attention_bias(allowed[:, None])

    def _latent_positions(self, row: int) -> Tensor:
        """The positions [k] of the latents of a row's open span."""
        count = int(self._span_buffer().counts[row])
        return self._positions[row] - torch.arange(count, 0, -1, device=self._positions.device)

    def _replace_states(self, row: int, donor: SpanStates) -> None:
        """Overwrite keys, values and latents of a row's open span by another run's."""
        spans, positions = self._span_buffer(), self._latent_positions(row)
        shifted = shift_states(self._backbone, donor, positions)
        columns = self._as_tensor(spans.columns[row, : len(positions)])
        rows = torch.full_like(columns, row)
        for layer, (keys, values) in enumerate(zip(shifted.keys, shifted.values, strict=True)):
            self._cache.write(layer, rows, columns, keys.transpose(0, 1), values.transpose(0, 1))
        spans.replace(row, shifted.latents)

    def _span_buffer(self) -> SpanBuffer:
        if self._spans is None:
            raise RuntimeError("The latents of spans are not recorded; create the state with rules that need them.")
        return self._spans

    def _embeddings(self, tokens: tuple[int, ...]) -> Tensor:
        """The embeddings of tokens [k, D]."""
        return self._backbone.embed_text(torch.tensor([tokens], dtype=torch.long, device=self._backbone.device))[0]

    def _as_tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._backbone.device)

    def _rotary_table(self, length: int) -> Rotary:
        """Cosines and sines [length, head size] of text positions, whose three parts are equal."""
        positions = torch.arange(length, device=self._backbone.device).expand(3, 1, length)
        cos, sin = self._backbone.rotary(positions)
        return cos[0], sin[0]


def check_joinable(bottleneck: Bottleneck) -> None:
    """SettingsError for a bottleneck under which rows cannot join a running decoding."""
    if bottleneck == "latent_only":
        raise SettingsError(
            "rows cannot join a running decoding under the bottleneck latent_only, which encodes the latents of a span "
            "again in columns that all rows share: decode in batches (mirage evaluate, mirage answer), or train with "
            "latent_kv or none"
        )


def _pass_columns(prefill: ForwardPass, tokens: Tensor) -> Tensor:
    """The columns of the pass [P, C] that hold the tokens of the batch marked in ``tokens`` [P, T]."""
    if prefill.packing is None:
        return tokens
    return prefill.packing.pad(tokens.flatten()[prefill.source][None])
