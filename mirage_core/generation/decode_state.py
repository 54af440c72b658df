"""Rows that go on from their prompts, column by column: a token, or a latent, by default their last hidden state.

Prompts are encoded once and repeated for their samples. Legend: P prompts, T columns of the prompts, n rows carried,
k latents of a span, D hidden, C columns so far, W new columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.generation.cache_mask import ZonedColumns
from mirage_core.generation.interventions import SpanStates, moved_states
from mirage_core.generation.latent_modes import Fed, Ints
from mirage_core.generation.reencode_spans import Reader
from mirage_core.generation.span_buffer import OpenSpans
from mirage_core.latent.bottleneck import Bottleneck, sight
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone, Rotary
from mirage_core.model.cache import FixedCache
from mirage_core.model.forward.forward import image_features
from mirage_core.model.forward.plan import Pass, plan

_NOTHING: Mapping[int, SpanStates] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRules:
    """What stands in spans of at most ``longest`` latents, and what sees what; by default nothing is hidden.

    ``blank``: the token whose embedding is fed at latents; None: hidden states. ``hidden``: a token of the prompts
    that nothing else may attend to (image_pad). ``kept``: whether ``states`` are asked for, or exchanged.
    """

    longest: int
    blank: int | None = None
    bottleneck: Bottleneck = "none"
    hide_latents: bool = False
    hidden: int | None = None
    kept: bool = False

    @property
    def zoned(self) -> bool:
        """Whether anything but padding is hidden from anything."""
        return self.bottleneck != "none" or self.hide_latents or self.hidden is not None


class Continuation:
    """The cache, and for every row its next position and ``hidden`` [n, 1, D], its last hidden state."""

    def __init__(
        self, backbone: Backbone, batch: LatentBatch, *, samples: int, steps: int, rules: SpanRules | None = None
    ) -> None:
        """Encode the prompts of ``batch`` (collate_prompts); at most ``steps`` columns will be fed."""
        self._backbone, self._rules = backbone, rules or SpanRules(longest=0)
        (prefill,) = plan(batch.attention_mask)
        self._cache = FixedCache()
        unseen = None if self._rules.hidden is None else _places(prefill, batch.input_ids == self._rules.hidden)
        hidden = self._prefilled(batch, prefill, unseen)
        self.hidden = hidden.flatten(0, 1)[prefill.last, None].repeat_interleave(samples, dim=0)
        if samples > 1:
            self._cache.repeat(samples)
        self._positions = (batch.position_ids.amax((0, 2)) + 1).repeat_interleave(samples)
        self._rotary = self._rotary_table(int(self._positions.max()) + steps)
        self._zones: ZonedColumns | None = None
        self._reader: Reader | None = None
        self._bias: Tensor | None = None
        held = prefill.held if unseen is None else prefill.held & ~unseen
        self._see(held.repeat_interleave(samples, dim=0), steps, padded=prefill.packing is not None)
        self._blank = None if self._rules.blank is None else self._embedding(self._rules.blank)

    def vectors(self) -> Tensor:
        """What rows are fed next if they are fed a latent [n, D]."""
        return self.hidden[:, 0] if self._blank is None else self._blank.expand(len(self.hidden), -1)

    def feed(self, fed: Fed, vectors: Tensor | None = None, exchanged: Mapping[int, SpanStates] = _NOTHING) -> None:
        """One column: every row its token, or its latent, of ``vectors`` [n, D] where these are given.

        ``exchanged``: of rows that close their span now, whose states its latents get (as in Interventions.states).
        """
        embedded = self._embedded(fed, self.vectors() if vectors is None else vectors)
        for row, states in exchanged.items():
            self._exchange(row, states)
        if self._reader is not None and fed.closes.any():
            self.hidden = self._reader.feed(fed, embedded[:, 0], self._positions, self._rotary)[:, None]
        else:
            rotary = (self._rotary[0][self._positions][:, None], self._rotary[1][self._positions][:, None])
            self.hidden = self._backbone.hidden(embedded, rotary, self._narrow_bias(fed), self._cache)
        if self._spans is not None:
            self._spans.feed(fed, embedded[:, 0], self._cache.length)
        self._cache.advance(1)
        self._positions = self._positions + 1

    def states(self, row: int) -> SpanStates:
        """What a row was fed in the span it is in, and the keys and values of that (with ``rules.kept``)."""
        spans = self._open()
        count = int(spans.counts[row])
        keys, values = self._cache.read(row, self._moved(spans.columns[row, :count]))
        return SpanStates(
            latents=spans.latents(row).clone(), keys=keys, values=values, positions=self._latent_positions(row)
        )

    def keep(self, rows: Ints) -> None:
        """Go on with these rows only."""
        kept = self._moved(rows)
        self._cache.select(kept)
        self.hidden, self._positions = self.hidden[kept], self._positions[kept]
        self._bias = None if self._bias is None else self._bias[kept]
        if self._zones is not None:
            self._zones.keep(kept)
        if self._spans is not None:
            self._spans.keep(rows)

    def _see(self, held: Tensor, steps: int, *, padded: bool) -> None:
        """Set up what hides columns from each other; of the prompts, those ``held`` [n, C] may be seen."""
        rules = self._rules
        self._spans = OpenSpans(len(held), rules.longest) if rules.zoned or rules.kept else None
        if self._spans is not None and rules.zoned:
            self._zones = ZonedColumns(held, sight(rules.bottleneck, hide_latents=rules.hide_latents))
            if rules.bottleneck == "latent_only":
                self._reader = Reader(self._backbone, self._cache, self._zones, self._spans, rules.longest)
        elif padded:
            self._bias = self._key_bias(held, steps)

    def _prefilled(self, batch: LatentBatch, prefill: Pass, unseen: Tensor | None) -> Tensor:
        """Hidden states of the prompts; columns ``unseen`` [P, C] are seen by each other only."""
        backbone = self._backbone
        embedded = backbone.embed(batch.input_ids, image_features(backbone, batch))
        rotary, bias = prefill.rotary(backbone.rotary(batch.position_ids)), None
        if unseen is not None:
            columns = unseen.shape[1]
            causal = torch.ones(columns, columns, dtype=torch.bool, device=unseen.device).tril()
            bias = backbone.attention_bias((causal & (~unseen[:, None] | unseen[..., None]))[:, None])
        hidden = backbone.hidden(prefill.inputs(embedded), rotary, bias, self._cache, packing=prefill.packing)
        self._cache.advance(prefill.held.shape[1])
        return hidden

    def _embedded(self, fed: Fed, vectors: Tensor) -> Tensor:
        """The inputs of one column [n, 1, D]."""
        embedded = self._backbone.embed_text(self._moved(fed.tokens)[:, None])
        if not fed.latent.any():
            return embedded
        return torch.where(self._moved(fed.latent)[:, None, None], vectors[:, None], embedded)

    def _narrow_bias(self, fed: Fed) -> Tensor | None:
        """What the step's tokens may see [n, 1, 1, C]; None: everything."""
        if self._zones is None:
            return None if self._bias is None else self._bias[..., : self._cache.length + 1]
        zones = self._moved(self._open().zones(fed))
        self._zones.append(zones, self._positions)
        return self._backbone.attention_bias(self._zones.allowed(zones[:, None], self._positions[:, None])[:, None])

    def _latent_positions(self, row: int) -> Tensor:
        """The positions [k] of the latents of a row's open span."""
        count = int(self._open().counts[row])
        return self._positions[row] - torch.arange(count, 0, -1, device=self._positions.device)

    def _exchange(self, row: int, donor: SpanStates) -> None:
        """Put another run's keys, values and vectors over those of the span that a row closes."""
        spans, positions = self._open(), self._latent_positions(row)
        moved = moved_states(self._backbone, donor, positions)
        columns = self._moved(spans.columns[row, : len(positions)])
        rows = torch.full_like(columns, row)
        for layer, (keys, values) in enumerate(zip(moved.keys, moved.values, strict=True)):
            self._cache.write(layer, rows, columns, keys.transpose(0, 1), values.transpose(0, 1))
        spans.replace(row, moved.latents)

    def _open(self) -> OpenSpans:
        if self._spans is None:
            raise RuntimeError("Latents of spans were not kept; make the continuation with rules that keep them.")
        return self._spans

    def _embedding(self, token: int) -> Tensor:
        """The embedding of one token [D]."""
        return self._backbone.embed_text(torch.tensor([[token]], device=self._backbone.device))[0, 0]

    def _moved(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._backbone.device)

    def _rotary_table(self, length: int) -> Rotary:
        """Cosines and sines [length, head size] of text positions, whose three parts are equal."""
        positions = torch.arange(length, device=self._backbone.device).expand(3, 1, length)
        cos, sin = self._backbone.rotary(positions)
        return cos[0], sin[0]

    def _key_bias(self, held: Tensor, steps: int) -> Tensor:
        """What new tokens may see [n, 1, 1, columns]: the prompt without its padding, and all that follows."""
        allowed = torch.nn.functional.pad(held, (0, steps), value=True)
        return self._backbone.attention_bias(allowed)[:, None, None]


def _places(prefill: Pass, chosen: Tensor) -> Tensor:
    """Which columns of the pass [P, C] hold tokens ``chosen`` [P, T] of the batch."""
    if prefill.packing is None:
        return chosen
    return prefill.packing.spread(chosen.flatten()[prefill.source][None])
