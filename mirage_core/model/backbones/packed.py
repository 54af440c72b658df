"""A stock decoder layer on packed tokens, which are padded for attention only.

Its modules are the stock ones, called in the stock order (tests compare with unpacked rows).
Legend: B rows, T columns, n tokens, D hidden, H heads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from mirage_core.model.cache import Cache
from mirage_core.model.packing import Packing

Rotary = tuple[Tensor, Tensor]


def run_packed(
    layer: Any,
    tokens: Tensor,
    rotary: Rotary,
    bias: Tensor | None,
    cache: Cache | None,
    packing: Packing,
    *,
    sdpa: bool,
) -> Tensor:
    """Run a layer on tokens [1, n, D] with their rotary [1, n, head size]; ``bias``: the mask of the padded columns."""
    attend = _attention if sdpa else _stock_attention
    tokens = tokens + attend(layer.self_attn, layer.input_layernorm(tokens), rotary, bias, cache, packing)
    result: Tensor = tokens + layer.mlp(layer.post_attention_layernorm(tokens))
    return result


def _attention(
    attention: Any, tokens: Tensor, rotary: Rotary, bias: Tensor | None, cache: Cache | None, packing: Packing
) -> Tensor:
    """Self-attention [1, n, D] with every projection on packed tokens."""
    names = ("q_proj", "k_proj", "v_proj")
    query, key, value = (
        getattr(attention, name)(tokens).unflatten(-1, (-1, attention.head_dim)) for name in names
    )  # [1, n, H, head size]
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = apply_rotary_pos_emb(query, key, *rotary, unsqueeze_dim=2)
    query, key, value = (packing.pad(part).transpose(1, 2) for part in (query, key, value))
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    dropout = attention.attention_dropout if attention.training else 0.0
    mixed, _ = sdpa_attention_forward(attention, query, key, value, bias, dropout, attention.scaling)
    projected: Tensor = attention.o_proj(packing.unpad(mixed).flatten(2))
    return projected


def _stock_attention(
    attention: Any, tokens: Tensor, rotary: Rotary, bias: Tensor | None, cache: Cache | None, packing: Packing
) -> Tensor:
    """Self-attention [1, n, D] by the stock module, on padded columns."""
    mixed, _ = attention(
        hidden_states=packing.pad(tokens),
        attention_mask=bias,
        position_embeddings=(packing.pad(rotary[0]), packing.pad(rotary[1])),
        past_key_values=cache,
    )
    return packing.unpad(mixed)
