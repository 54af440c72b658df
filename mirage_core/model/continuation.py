"""Rows that go on from their prompts, column by column: a token, or their own last hidden state.

Prompts are encoded once and repeated for their samples. Legend: P prompts, n rows carried, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_core.latent.layout import LatentBatch
from mirage_core.model.backbone import Backbone
from mirage_core.model.cache import FixedCache
from mirage_core.model.modes import Fed, Ints
from mirage_core.model.passes import plan
from mirage_core.model.rollout import image_features


class Continuation:
    """The cache, and for every row its next position and ``hidden`` [n, 1, D], its last hidden state."""

    def __init__(self, backbone: Backbone, batch: LatentBatch, *, samples: int, steps: int) -> None:
        """Encode the prompts of ``batch`` (collate_prompts); at most ``steps`` columns will be fed."""
        self._backbone = backbone
        (prefill,) = plan(batch.attention_mask)
        embedded = backbone.embed(batch.input_ids, image_features(backbone, batch))
        rotary = prefill.rotary(backbone.rotary(batch.position_ids))
        self._cache = FixedCache()
        hidden = backbone.hidden(prefill.inputs(embedded), rotary, None, self._cache, packing=prefill.packing)
        self._cache.advance(prefill.held.shape[1])
        self.hidden = hidden.flatten(0, 1)[prefill.last, None].repeat_interleave(samples, dim=0)
        if samples > 1:
            self._cache.repeat(samples)
        self._positions = (batch.position_ids.amax((0, 2)) + 1).repeat_interleave(samples)
        self._rotary = self._rotary_table(int(self._positions.max()) + steps)
        held = prefill.held.repeat_interleave(samples, dim=0)
        self._bias = None if prefill.packing is None else self._key_bias(held, steps)

    def feed(self, fed: Fed) -> None:
        """One column: every row its token, or its own hidden state."""
        device = self._backbone.device
        embedded = self._backbone.embed_text(torch.from_numpy(fed.tokens).to(device)[:, None])
        if fed.latent.any():
            latent = torch.from_numpy(fed.latent).to(device)
            embedded = torch.where(latent[:, None, None], self.hidden, embedded)
        rotary = (self._rotary[0][self._positions][:, None], self._rotary[1][self._positions][:, None])
        bias = None if self._bias is None else self._bias[..., : self._cache.length + 1]
        self.hidden = self._backbone.hidden(embedded, rotary, bias, self._cache)
        self._cache.advance(1)
        self._positions = self._positions + 1

    def keep(self, rows: Ints) -> None:
        """Go on with these rows only."""
        kept = torch.from_numpy(rows).to(self._backbone.device)
        self._cache.select(kept)
        self.hidden, self._positions = self.hidden[kept], self._positions[kept]
        self._bias = None if self._bias is None else self._bias[kept]

    def _rotary_table(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [length, head size] of text positions, whose three parts are equal."""
        positions = torch.arange(length, device=self._backbone.device).expand(3, 1, length)
        cos, sin = self._backbone.rotary(positions)
        return cos[0], sin[0]

    def _key_bias(self, held: Tensor, steps: int) -> Tensor:
        """What new tokens may see [B, 1, 1, columns]: the prompt without its padding, and all that follows."""
        allowed = torch.nn.functional.pad(held, (0, steps), value=True)
        return self._backbone.attention_bias(allowed)[:, None, None]
