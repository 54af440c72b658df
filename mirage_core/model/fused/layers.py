"""Stock decoder layers, run on one token a row in at most 12 operations with gradient, and 10 in decoding.

Their modules give the weights and are not called. With gradient: norm, projection of queries, keys and values, rotation
into the cache, attention, output, sum; norm, gate and up, SiLU, product, down, sum. In decoding sums are in place.
Legend: B rows, L layers, G groups of H heads, d head size, D hidden, C columns so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from mirage_core.errors import SettingsError
from mirage_core.model.cache import Cache, FixedCache
from mirage_core.model.fused.caches import ColumnCache, Kinds, SpilledCache, by_group, rotations, split_heads
from mirage_core.model.fused.projections import Projection, lay_out
from mirage_core.model.packing import Packing

Rotary = tuple[Tensor, Tensor]
_PREFERRED = ("v", "k", "q")  # SpilledCache needs it; an engine may have laid them out as they are named
_NAMED = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Turn:
    """How a pass rotates: ``matrices`` [B, d, d] of its positions, and ``grouped`` [B * G, d, d]."""

    matrices: Tensor
    grouped: Tensor


class FusedLayer:
    """One stock layer."""

    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.scale, self.size, self.sharing = attention.scaling, attention.head_dim, attention.num_key_value_groups
        self.orders = {
            order: Projection([getattr(attention, f"{kind}_proj") for kind in order]) for order in (_PREFERRED, _NAMED)
        }
        self.order = _PREFERRED
        self.output = Projection([attention.o_proj])
        self.gate_up = Projection([layer.mlp.gate_proj, layer.mlp.up_proj])
        self.down = Projection([layer.mlp.down_proj])

    @property
    def heads(self) -> Projection:
        """The projection of queries, keys and values."""
        return self.orders[self.order]

    @property
    def kinds(self) -> Kinds:
        """The kind of each group of heads, in the order of the projection."""
        return tuple(kind for part in self.order for kind in (part,) * (self.sharing if part == "q" else 1))

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All projections."""
        return self.heads, self.output, self.gate_up, self.down

    @property
    def spills(self) -> bool:
        """Whether it can decode in place: without adapters, values before keys before queries."""
        return self.order == _PREFERRED and not any(projection.adapters for projection in self.projections)

    def lay_out(self) -> None:
        """Move the weights that are used together behind each other."""
        for projection in (self.orders[_PREFERRED], self.gate_up):
            for group in projection.groups:
                lay_out(group)

    def find(self) -> bool:
        """Look where the weights lie now; whether those that are used together lie behind each other."""
        if not self.heads.find():
            self.order = _NAMED if self.order == _PREFERRED else _PREFERRED
        return self.heads.find() and all(projection.find() for projection in self.projections[1:])

    def norm(self, which: int, values: Tensor) -> Tensor:
        """Apply one of both norms."""
        norm: Any = self.norms[which]
        return rms_norm(values, norm.weight.shape, norm.weight, norm.variance_epsilon)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Return attention [B, heads * d] of queries [B, heads, d] over keys and values [B, H, C, d]."""
        if bias is None and (queries.device.type == "cpu" or queries.dtype != torch.float32):
            mixed = scaled_dot_product_attention(queries[:, :, None], keys, values, scale=self.scale, enable_gqa=True)
        else:  # torch has no fused kernel for grouped queries with a mask, nor in float32 on a GPU
            packed = queries.unflatten(1, (keys.shape[1], self.sharing))
            mixed = scaled_dot_product_attention(packed, keys, values, attn_mask=bias, scale=self.scale)
        return mixed.reshape(len(queries), -1)

    def run(self, index: int, hidden: Tensor, turn: Turn, bias: Tensor | None, cache: Cache | None) -> Tensor:
        """Run the layer on hidden states [B, D]; ``index``: its number in the cache."""
        memo = cache.weights if isinstance(cache, ColumnCache) else {}
        raw = self._project(self.heads, "heads", index, memo, self.norm(0, hidden))
        if isinstance(cache, ColumnCache):
            queries, keys, values = cache.rotate(raw, turn.grouped, index)
        else:
            rotated = torch.bmm(raw.view(len(turn.grouped), -1, self.size), turn.grouped)
            queries, key, value = split_heads(rotated.unflatten(0, (len(hidden), -1)), self.kinds)
            keys, values = key[:, :, None], value[:, :, None]
            if cache is not None:
                keys, values = cache.update(keys, values, index)
        attended = self.attend(queries, keys, values, bias)
        hidden = hidden + self._project(self.output, "output", index, memo, attended)
        gate, up = self._project(self.gate_up, "gate_up", index, memo, self.norm(1, hidden)).chunk(2, dim=-1)
        return hidden + self._project(self.down, "down", index, memo, silu(gate) * up)

    def decode(self, index: int, hidden: Tensor, turn: Turn, bias: Tensor | None, cache: SpilledCache) -> None:
        """Run the layer on hidden states [B, D], in place, without gradient and adapters."""
        cache.raw(index).addmm_(self.norm(0, hidden), self.heads.plain[0].T, beta=1 if self.heads.biases else 0)
        queries, keys, values = cache.rotate(index, turn.matrices)
        hidden.addmm_(self.attend(queries, keys, values, bias), self.output.plain[0].T)
        gate, up = (self.norm(1, hidden) @ self.gate_up.plain[0].T).chunk(2, dim=-1)
        hidden.addmm_(silu(gate) * up, self.down.plain[0].T)

    def _project(self, projection: Projection, name: str, index: int, memo: dict[Any, Any], values: Tensor) -> Tensor:
        weights = memo.get((index, name))
        if weights is None:
            weights = memo[index, name] = projection.trained()
        return projection(values, weights)


class FusedLayers:
    """All decoder layers of a stock model.

    SettingsError for layers of another form: with norms of queries and keys (Qwen3-VL), eager attention, another
    activation than SiLU.
    """

    def __init__(self, layers: Sequence[nn.Module], config: Any) -> None:
        """Move the weights that are used together behind each other; ``config``: the stock model's."""
        _check(layers[0], config)
        self._layers = [FusedLayer(layer) for layer in layers]
        self._places: tuple[int, ...] = ()
        self._fault: str | None = None
        for layer in self._layers:
            layer.lay_out()

    def find(self) -> str | None:
        """Look where the weights lie now; returns why the layers cannot be run, or None.

        An engine or a device moves those of all layers, so the ends are looked at in every pass, all where they moved.
        """
        ends = (self._layers[0], self._layers[-1])
        places = tuple(place for layer in ends for projection in layer.projections for place in projection.places)
        if places != self._places:
            self._places, self._fault = places, self._look()
        return self._fault

    def _look(self) -> str | None:
        faults = (projection.fault for layer in self._layers for projection in layer.projections)
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is None and not all(layer.find() for layer in self._layers):
            return "the training engine has moved the weights that are used together apart (ZeRO-3 shards them)"
        return fault

    @property
    def kinds(self) -> Kinds:
        """The kind of each group of heads, in the order of the projection."""
        return self._layers[0].kinds

    def column_cache(self, columns: int) -> ColumnCache:
        """Return a cache for passes with gradient, of at most so many columns."""
        return ColumnCache(columns, self.kinds)

    def decoding_cache(self) -> FixedCache:
        """Return a cache for decoding."""
        spills = self.find() is None and all(layer.spills for layer in self._layers)
        return SpilledCache(len(self._layers), self.kinds) if spills else FixedCache()

    def turn(self, rotary: Rotary) -> Turn:
        """Return how passes at one position a row, of cosines and sines [B, 1, d], rotate."""
        matrices = rotations(*(part[:, 0] for part in rotary))
        return Turn(matrices, by_group(matrices, self.kinds))

    def run_layer(
        self,
        index: int,
        hidden: Tensor,
        turn: Turn,
        bias: Tensor | None,
        cache: Cache | None,
        _: Packing | None = None,
    ) -> Tensor:
        """Run one layer on hidden states [B, 1, D]; one token a row is never packed."""
        layer = self._layers[index]
        if not isinstance(cache, SpilledCache) or torch.is_grad_enabled() or not layer.spills:
            return layer.run(index, hidden[:, 0], turn, bias, cache)[:, None]
        if index == 0:
            hidden = hidden.clone()  # the only sums that are not the caller's to change
            cache.start(self._biases())
        layer.decode(index, hidden[:, 0], turn, bias, cache)
        return hidden

    def _biases(self) -> Tensor | None:
        """The biases of the projections of queries, keys and values of all layers [L, G * H * d]."""
        biases = [layer.heads.plain[1] for layer in self._layers]
        return torch.stack([bias for bias in biases if bias is not None]) if biases[0] is not None else None


def _check(layer: Any, config: Any) -> None:
    found = {
        "model.attention is not sdpa": config._attn_implementation != "sdpa",
        "its layers norm queries and keys": hasattr(layer.self_attn, "q_norm"),
        f"its activation is {config.get_text_config().hidden_act}": config.get_text_config().hidden_act != "silu",
    }
    for reason, applies in found.items():
        if applies:
            raise SettingsError(
                f"runtime.fused is true, but {reason}: it needs Qwen2.5-VL's layers with sdpa. "
                "Set runtime.fused to false."
            )
