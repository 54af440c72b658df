"""Rows that go on from their prompts, column by column: a token, or a latent, by default their last hidden state.

Prompts are encoded once and repeated for their samples. Legend: P prompts, T columns of the prompts, n rows carried,
k latents of a span, D hidden, C columns so far, W new columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_core.latent.bottleneck import Bottleneck, Zone, sight
from mirage_core.latent.layout import LatentBatch
from mirage_core.model.backbone import Backbone, Rotary
from mirage_core.model.cache import FixedCache, ReservedColumns
from mirage_core.model.intervention import SpanStates, moved_states
from mirage_core.model.modes import Fed, Ints
from mirage_core.model.open_spans import OpenSpans
from mirage_core.model.packing import Packing
from mirage_core.model.passes import Pass, plan
from mirage_core.model.reading import Reading, reading
from mirage_core.model.rollout import image_features
from mirage_core.model.zoned_columns import NOWHERE, ZonedColumns

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
        held = prefill.held if unseen is None else prefill.held & ~unseen
        held = held.repeat_interleave(samples, dim=0)
        self._zones, self._spans, self._bias = None, None, None
        self._reserved: list[int] = []
        if self._rules.zoned:
            table = sight(self._rules.bottleneck, hide_latents=self._rules.hide_latents)
            self._zones = ZonedColumns(held, table)
        elif prefill.packing is not None:
            self._bias = self._key_bias(held, steps)
        if self._rules.zoned or self._rules.kept:
            self._spans = OpenSpans(len(held), self._rules.longest)
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
        read = self._reading(fed)
        zones = self._zoned(fed, read)
        if read is None:
            bias = self._narrow_bias(zones)
            self.hidden = self._backbone.hidden(embedded, self._turn(self._positions[:, None]), bias, self._cache)
        else:
            self.hidden = self._read(embedded, read, zones)
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

    def _reading(self, fed: Fed) -> Reading | None:
        """What closing rows read again, where text sees latents by their vectors alone."""
        if self._rules.bottleneck != "latent_only" or not fed.closes.any():
            return None
        spans = self._open()
        closing = np.flatnonzero(fed.closes)
        while len(self._reserved) <= int(spans.closed[closing].max()):
            self._reserved.append(self._cache.reserve(self._rules.longest))
            if self._zones is not None:
                self._zones.reserve(self._rules.longest)
        return reading(closing, spans.counts[closing], len(fed.tokens))

    def _zoned(self, fed: Fed, read: Reading | None) -> Tensor | None:
        """Give the new columns their zones, those read included; the zones of the step's tokens [n]."""
        if self._zones is None:
            return None
        zones = self._moved(self._open().zones(fed))
        self._zones.append(zones, self._positions)
        if read is not None:
            rows, columns = self._moved(read.rows), self._moved(self._reserved_columns(read))
            self._zones.write(rows, columns, Zone.READ, self._read_positions(read))
        return zones

    def _narrow_bias(self, zones: Tensor | None) -> Tensor | None:
        """What the step's tokens may see [n, 1, 1, C]; None: everything."""
        if self._zones is None or zones is None:
            return None if self._bias is None else self._bias[..., : self._cache.length + 1]
        return self._backbone.attention_bias(self._zones.allowed(zones[:, None], self._positions[:, None])[:, None])

    def _read(self, embedded: Tensor, read: Reading, zones: Tensor | None) -> Tensor:
        """A pass over the latents read and the step's tokens, whose hidden states [n, 1, D] it returns."""
        if self._zones is None or zones is None:
            raise RuntimeError("Latents are read again only where text is kept from what stands before it.")
        rows, sources, last, places = (self._moved(part) for part in (read.rows, read.sources, read.last, read.read))
        inputs = embedded.new_empty(len(last) + len(places), embedded.shape[-1])
        inputs[last], inputs[places] = embedded[:, 0], self._open().gathered(read.rows, read.index)
        read_positions = self._read_positions(read)
        positions = self._positions.new_empty(len(inputs))
        positions[last], positions[places] = self._positions, read_positions
        in_pass = torch.full(read.held.shape, NOWHERE, device=zones.device)
        in_pass[:, -1], in_pass[rows, sources] = zones, int(Zone.READ)
        at = self._positions[:, None].repeat(1, in_pass.shape[1])
        at[rows, sources] = read_positions
        bias = self._backbone.attention_bias(self._zones.allowed(in_pass, at)[:, None])
        cache = ReservedColumns(self._cache, rows, sources, self._moved(self._reserved_columns(read)))
        packing = Packing(*read.held.shape, self._moved(np.flatnonzero(read.held)))
        hidden = self._backbone.hidden(inputs[None], self._turn(positions[None]), bias, cache, packing=packing)
        return hidden[0, last][:, None]

    def _reserved_columns(self, read: Reading) -> Ints:
        """The cache columns [m] of the latents read."""
        return np.asarray(self._reserved)[self._open().closed[read.rows]] + read.index

    def _read_positions(self, read: Reading) -> Tensor:
        """The positions [m] of the latents read: where they stood, before the token that is due."""
        rows = self._moved(read.rows)
        return self._positions[rows] - self._moved(self._open().counts[read.rows] - read.index)

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

    def _turn(self, positions: Tensor) -> Rotary:
        """Cosines and sines of text positions [B, T]."""
        return self._rotary[0][positions], self._rotary[1][positions]

    def _moved(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
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
