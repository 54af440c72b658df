"""The seam to Qwen2.5-VL: the only part that knows its inside (with its siblings positions.py and vision.py).

Legend: B rows, T columns, D hidden, V vocabulary, P patches, N images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2_5_VLForConditionalGeneration

from mirage_core.errors import InputError, SettingsError
from mirage_core.model.cache import Cache, GrowingCache
from mirage_core.model.positions import multimodal_positions
from mirage_core.model.vision import VisionPlans, encode_images

Rotary = tuple[Tensor, Tensor]
ATTENTION = ("sdpa", "eager")


class Backbone(nn.Module):
    """Stock Qwen2.5-VL as the latent engine needs it.

    Nothing here relies on state kept inside the model (rope_deltas): positions are always explicit.
    The vision tower runs without gradient when none of its weights is trained. SettingsError for an
    attention implementation that cannot take the masks of latent batches, and for sliding windows.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        _check_attention(model)
        self.model = model
        self._plans = VisionPlans(model.model.visual)

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """V, rows of the embedding table (it may be padded beyond the tokenizer)."""
        return int(self.model.config.text_config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the language model's weights are."""
        return self._text.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model's weights."""
        return self._text.norm.weight.dtype

    @property
    def _text(self) -> Any:
        return self.model.model.language_model

    @property
    def _vision(self) -> Any:
        return self.model.model.visual

    def freeze_vision(self) -> None:
        """Train the language model only (the paper)."""
        self._vision.requires_grad_(False)

    @property
    def trains_vision(self) -> bool:
        """Whether any weight of the vision tower is trained."""
        return any(weight.requires_grad for weight in self._vision.parameters())

    def image_features(self, pixel_values: Tensor, grid_thw: Tensor, *, checkpointing: bool = False) -> list[Tensor]:
        """Merged patch features [n_i, D] of each image [N], in raster order. pixel_values [P, C], grid_thw [N, 3].

        InputError when the patches do not fit the grids.
        """
        if not len(grid_thw):
            return []
        grids = tuple((int(t), int(h), int(w)) for t, h, w in grid_thw.tolist())
        sizes = [t * h * w for t, h, w in grids]
        if sum(sizes) != len(pixel_values):
            raise InputError(f"{len(pixel_values)} patches for image grids {grids}, which have {sum(sizes)}.")
        trained = self.trains_vision
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            pixels = pixel_values.to(self.device, self.dtype)
            plan = self._plans.plan(grids, pixels.device)
            features = encode_images(self._vision, plan, pixels, checkpointing=checkpointing and trained)
        unit = self._vision.spatial_merge_unit
        return list(features.split([size // unit for size in sizes]))

    def embed(self, input_ids: Tensor, image_features: list[Tensor]) -> Tensor:
        """Input embeddings [B, T, D], image features in place of the image_pad tokens, row by row.

        InputError when there are more or fewer features than image_pad tokens.
        """
        embedded = self.embed_text(input_ids)
        places = (input_ids.flatten() == self.model.config.image_token_id).nonzero().squeeze(1)
        given = sum(len(features) for features in image_features)
        if given != len(places):
            raise InputError(f"{given} image features for {len(places)} image_pad tokens; they must be equal.")
        if not given:
            return embedded
        features = torch.cat(image_features).to(embedded.dtype)
        return embedded.flatten(0, 1).index_copy(0, places, features).view_as(embedded)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embeddings [B, T, D] of text tokens."""
        embedded: Tensor = self._text.embed_tokens(input_ids)
        return embedded

    def position_ids(self, ids: Tensor, lengths: Tensor, grid_thw: Tensor) -> Tensor:
        """3-D positions [3, n] of rows laid end to end (CPU tensors: ids [n], lengths [B], grid_thw [N, 3]).

        InputError for ids the model does not have, and image_pad tokens that do not fit the grids.
        """
        self.check_ids(ids)
        config = self.model.config
        merge = config.vision_config.spatial_merge_size
        positions = multimodal_positions(
            ids.numpy(), lengths.numpy(), grid_thw.numpy(), config.image_token_id, int(merge)
        )
        return torch.from_numpy(positions)

    def check_ids(self, ids: Tensor) -> None:
        """Refuse ids that the embedding table does not have."""
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size):
            raise InputError(
                f"Token ids from {int(ids.min())} to {int(ids.max())} for a model with a vocabulary of "
                f"{self.vocab_size}. Use the tokenizer saved with the model."
            )

    def rotary(self, position_ids: Tensor) -> Rotary:
        """Cosines and sines [B, T, head size] of positions [3, B, T]."""
        cos, sin = self._text.rotary_emb(self._text.norm.weight, position_ids)
        return cos, sin

    def attention_bias(self, allowed: Tensor) -> Tensor:
        """An additive mask from a boolean one (True: may attend); right for sdpa and eager alike.

        Eager attention silently adds a boolean mask to the scores, and sdpa would convert it in every layer.
        """
        bias = torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device)
        return bias.masked_fill_(~allowed, torch.finfo(self.dtype).min)

    def hidden(
        self,
        inputs_embeds: Tensor,
        rotary: Rotary,
        bias: Tensor | None,
        cache: Cache | None = None,
        *,
        checkpointing: bool = False,
    ) -> Tensor:
        """Last hidden states after the final norm [B, T, D]; ``cache`` is extended by the new columns.

        ``bias`` [B, 1, T, columns so far]; None where plain causal attention is meant: without a cache,
        with an empty one, or for a single column. ``checkpointing`` (with a GrowingCache or none)
        recomputes each layer in the backward pass; unlike stock checkpointing it keeps the cache.
        """
        if bias is None and self.model.config._attn_implementation == "eager":
            bias = self._causal_bias(inputs_embeds.shape[1], inputs_embeds.device)
        hidden = inputs_embeds
        for index, layer in enumerate(self._text.layers):
            if checkpointing:
                hidden = _checkpointed(layer, index, hidden, rotary, bias, cache)
            else:
                hidden = _run(layer, hidden, rotary, bias, cache)
        normed: Tensor = self._text.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    def _causal_bias(self, columns: int, device: torch.device) -> Tensor | None:
        """Eager attention knows no causality of its own."""
        if columns == 1:
            return None
        return self.attention_bias(torch.ones(columns, columns, dtype=torch.bool, device=device).tril()[None, None])


def _run(layer: nn.Module, hidden: Tensor, rotary: Rotary, bias: Tensor | None, cache: Cache | None) -> Tensor:
    """One stock decoder layer."""
    output: Tensor = layer(hidden, attention_mask=bias, position_embeddings=rotary, past_key_values=cache)
    return output


def _checkpointed(
    layer: nn.Module, index: int, hidden: Tensor, rotary: Rotary, bias: Tensor | None, cache: Cache | None
) -> Tensor:
    """One decoder layer that keeps only its input and its keys and values.

    The cache of this layer goes in and comes out as plain tensors, so that the recomputation reads what the
    first pass read; a cache that is updated in passing would be updated twice.
    """
    if cache is None:
        return checkpoint(_run, layer, hidden, rotary, bias, None, use_reentrant=False)  # type: ignore[no-any-return]
    if not isinstance(cache, GrowingCache):
        raise SettingsError(f"Checkpointing needs a GrowingCache, got {type(cache).__name__}.")
    output, keys, values = checkpoint(
        _run_with_parts, layer, index, hidden, rotary, bias, *cache.layers.get(index, ()), use_reentrant=False
    )
    cache.layers[index] = (*cache.layers.get(index, ()), keys, values)
    return output  # type: ignore[no-any-return]


def _run_with_parts(
    layer: nn.Module, index: int, hidden: Tensor, rotary: Rotary, bias: Tensor | None, *parts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A decoder layer over cached parts (keys, values, keys, ...): its output, its new keys and values."""
    cache = GrowingCache()
    if parts:
        cache.layers[index] = parts
    output = _run(layer, hidden, rotary, bias, cache)
    return output, *cache.layers[index][-2:]  # type: ignore[return-value]


def _check_attention(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Refuse what would be silently wrong with the masks of latent batches."""
    attention = model.config._attn_implementation
    if attention not in ATTENTION:
        raise SettingsError(
            f"model.attention is {attention!r}; the latent engine needs one of {ATTENTION}, since its batches have "
            "padding between columns. sdpa runs flash kernels itself where no mask is needed."
        )
    if any(kind != "full_attention" for kind in model.config.text_config.layer_types):
        raise SettingsError(
            "This model uses sliding-window attention (use_sliding_window); the latent engine does not."
        )
