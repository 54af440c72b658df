"""The interface of the latent engine to a stock model of any supported type.

What differs between models is in backbones/, the only place that depends on their structure. Legend: B rows, T columns,
D hidden, V vocabulary, P patches, N images, F width of image features (D, or more with DeepStack).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mirage_core.errors import InputError, SettingsError
from mirage_core.model.backbones import ModelAdapter, adapter_class
from mirage_core.model.backbones.adapter import Rotary
from mirage_core.model.cache import Cache, FixedCache, GrowingCache
from mirage_core.model.fused.caches import ColumnCache
from mirage_core.model.fused.layers import FusedLayers
from mirage_core.model.packing import InputEmbeddings, Packing
from mirage_core.model.stock_generate import guard_generate

__all__ = ["Backbone", "InputEmbeddings", "PassStates", "Rotary"]


@dataclass(frozen=True, slots=True)
class PassStates:
    """Collects ``states`` [m, D] of some tokens of a pass at every depth; ``tokens`` [m]: their indices in the pass."""

    tokens: Tensor
    states: list[Tensor] = field(default_factory=list)

    def add(self, hidden: Tensor) -> None:
        """Add the next depth: hidden states of the pass [B, T, D], or [1, n, D] where they are packed."""
        self.states.append(hidden.flatten(0, 1).index_select(0, self.tokens))


class Backbone(nn.Module):
    """A stock model as the latent engine uses it, by the adapter for its ``config.model_type``.

    Nothing depends on state stored in the model (rope_deltas): positions are always explicit.
    The vision tower runs without gradient when none of its weights is trained. SettingsError for an unknown type,
    an attention implementation that cannot take the masks of latent batches, and for sliding windows.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._adapter: ModelAdapter = adapter_class(model.config.model_type)(model)
        self.model = model
        self._fused: FusedLayers | None = None
        self._fault: str | None = None
        guard_generate(model)

    def fuse(self) -> None:
        """Run passes of one token a row in fewer operations from now on, equal up to rounding (``runtime.fused``).

        Call it with the model on its device: weights that are used together are moved behind each other; their names,
        shapes and files stay. Where an engine moves them apart later (ZeRO-3), and under adapters with dropout, stock
        layers run, with a warning. SettingsError for a model whose layers have another form.
        """
        self._fused = FusedLayers(self.layers, self.model.config)

    def growing_cache(self, columns: int, *, checkpointing: bool = False) -> GrowingCache | ColumnCache:
        """Return a differentiable cache for passes of ``columns`` columns in all."""
        if checkpointing or not self._runs_fused():
            return GrowingCache()
        assert self._fused is not None
        return self._fused.column_cache(columns)

    def decoding_cache(self) -> FixedCache:
        """Return a cache for decoding."""
        return self._fused.decoding_cache() if self._fused is not None and self._runs_fused() else FixedCache()

    @property
    def hidden_size(self) -> int:
        """D."""
        return self._adapter.hidden_size

    @property
    def feature_size(self) -> int:
        """F."""
        return self.hidden_size * (1 + self._adapter.deepstack_layers)

    @property
    def vocab_size(self) -> int:
        """V, the size of the embedding table (it may be padded beyond the tokenizer)."""
        return self._adapter.vocab_size

    @property
    def device(self) -> torch.device:
        """Device of the language model's weights."""
        return self.norm_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model's weights."""
        return self.norm_weight.dtype

    @property
    def norm_weight(self) -> Tensor:
        """The weight [D] of the language model's final norm."""
        weight: Tensor = self._adapter.text.norm.weight
        return weight

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded over processes (ZeRO-3): all must then run the same modules in the same order."""
        return hasattr(self.norm_weight, "ds_id")

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers of the language model, in order."""
        return list(self._adapter.layers)

    @property
    def vision(self) -> nn.Module:
        """The vision tower, merger included."""
        tower: nn.Module = self._adapter.vision
        return tower

    def freeze_vision(self) -> None:
        """Train the language model only (the paper)."""
        self._adapter.vision.requires_grad_(False)

    @property
    def trains_vision(self) -> bool:
        """Whether any weight of the vision tower is trained."""
        return any(weight.requires_grad for weight in self._adapter.vision.parameters())

    def image_features(self, pixel_values: Tensor, grid_thw: Tensor, *, checkpointing: bool = False) -> list[Tensor]:
        """Return features [n_i, F] of each image [N] in raster order, for ``embed``; ``merged`` selects D of F.

        pixel_values [P, C], grid_thw [N, 3]. InputError when the patches do not fit the grids.
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
            features = self._adapter.encode_images(pixels, grids, checkpointing=checkpointing and trained)
        return list(features.split([size // self._adapter.merged_patches for size in sizes]))

    def image_tokens(self, grid_thw: Tensor) -> list[int]:
        """Return the number of tokens of each image [N]."""
        return [int(patches) // self._adapter.merged_patches for patches in grid_thw.prod(-1)]

    def merged(self, features: Tensor) -> Tensor:
        """Return the input embeddings [n, D] within features [n, F] of an image: the space of the latents."""
        return features[..., : self.hidden_size]

    def embed(self, input_ids: Tensor, image_features: list[Tensor]) -> InputEmbeddings:
        """Return inputs [B, T, D] with image features in place of the image_pad tokens, row by row.

        InputError when there are more or fewer features than image_pad tokens.
        """
        tokens = self.embed_text(input_ids)
        index = (input_ids.flatten() == self._adapter.image_token).nonzero().squeeze(1)
        num_features = sum(len(features) for features in image_features)
        if num_features != len(index):
            raise InputError(f"{num_features} image features for {len(index)} image_pad tokens; they must be equal.")
        if not num_features:
            return InputEmbeddings(tokens)
        features = torch.cat(image_features).to(tokens.dtype)
        flat = tokens.flatten(0, 1).index_copy(0, index, self.merged(features))
        return InputEmbeddings(flat.view_as(tokens), *self._deep(features, index, tokens.shape))

    def _deep(self, features: Tensor, index: Tensor, shape: torch.Size) -> tuple[Tensor | None, int]:
        """Return what images add to the first layers [L, B, T, D], and the column after the last image."""
        layers, size = self._adapter.deepstack_layers, self.hidden_size
        if not layers:
            return None, 0
        added = features[:, size:].unflatten(1, (layers, size)).transpose(0, 1)
        zeros = features.new_zeros(layers, shape[0] * shape[1], size)
        deep = zeros.index_copy(1, index, added).unflatten(1, shape[:2])
        return deep, int((index % shape[1]).max()) + 1

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Return embeddings [B, T, D] of text tokens."""
        return self._adapter.embed_text(input_ids)

    def position_ids(self, ids: Tensor, lengths: Tensor, grid_thw: Tensor) -> Tensor:
        """Return 3-D positions [3, n] of rows laid end to end (CPU tensors: ids [n], lengths [B], grid_thw [N, 3]).

        InputError for ids the model does not have, and image_pad tokens that do not fit the grids.
        """
        self.check_ids(ids)
        return self._adapter.positions(ids, lengths, grid_thw)

    def check_ids(self, ids: Tensor) -> None:
        """Refuse ids that the embedding table does not have."""
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size):
            raise InputError(
                f"Token ids from {int(ids.min())} to {int(ids.max())} for a model with a vocabulary of "
                f"{self.vocab_size}. Use the tokenizer saved with the model."
            )

    def rotary(self, position_ids: Tensor) -> Rotary:
        """Return cosines and sines [B, T, head size] of positions [3, B, T]."""
        return self._adapter.rotary(position_ids)

    def attention_bias(self, allowed: Tensor) -> Tensor:
        """Return an additive mask of a boolean one (True: may attend), valid for sdpa and eager.

        Eager attention silently adds a boolean mask to the scores, and sdpa would convert it in every layer.
        """
        bias = torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device)
        return bias.masked_fill_(~allowed, torch.finfo(self.dtype).min)

    def hidden(
        self,
        inputs: Tensor | InputEmbeddings,
        rotary: Rotary,
        bias: Tensor | None,
        cache: Cache | None = None,
        *,
        checkpointing: bool = False,
        packing: Packing | None = None,
        collect: PassStates | None = None,
    ) -> Tensor:
        """Return the last hidden states after the final norm [B, T, D]; extends ``cache`` by the new columns.

        ``inputs``: from ``embed``, or a tensor [B, T, D] of text and latents without an image. ``bias`` [B, 1, T,
        columns so far]; None means plain causal attention: without a cache, with an empty one, or for one column.
        ``checkpointing`` (with a GrowingCache or none) recomputes each layer in the backward pass; unlike stock
        checkpointing it supports the cache. With ``packing``, inputs, rotary and result are packed tokens
        [1, n, ...]; bias and cache are of the padded columns. ``collect`` takes the input, the output of every layer
        but the last, and the result.
        """
        embedded = inputs if isinstance(inputs, InputEmbeddings) else InputEmbeddings(inputs)
        adapter, hidden = self._adapter, embedded.tokens
        if bias is None and self.model.config._attn_implementation == "eager":
            bias = self._causal_bias(hidden.shape[1] if packing is None else packing.columns, hidden.device)
        deep = () if embedded.deep is None else embedded.deep
        layers: Any = adapter
        turned: Any = rotary
        if self._fused is not None and packing is None and hidden.shape[1] == 1 and self._runs_fused():
            layers, turned = self._fused, self._fused.turn(rotary)
        for index in range(len(adapter.layers)):
            if collect is not None:
                collect.add(hidden)
            if checkpointing:
                hidden = _checkpointed(layers, index, hidden, turned, bias, cache, packing)
            else:
                hidden = layers.run_layer(index, hidden, turned, bias, cache, packing)
            if index < len(deep):
                hidden = hidden + deep[index]
        hidden = adapter.norm(hidden)
        if collect is not None:
            collect.add(hidden)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., D]."""
        return self._adapter.logits(hidden)

    def _runs_fused(self) -> bool:
        """Whether passes of one token a row can be run in fewer operations now; warns where they no longer can."""
        fault = None if self._fused is None else self._fused.find()
        if fault is not None and fault != self._fault:
            warnings.warn(f"runtime.fused is true, but stock layers are run: {fault}.", RuntimeWarning, stacklevel=3)
        self._fault = fault
        return self._fused is not None and fault is None

    def _causal_bias(self, columns: int, device: torch.device) -> Tensor | None:
        """Return the causal mask, which eager attention does not apply itself."""
        if columns == 1:
            return None
        return self.attention_bias(torch.ones(columns, columns, dtype=torch.bool, device=device).tril()[None, None])


def _checkpointed(
    layers: Any,
    index: int,
    hidden: Tensor,
    rotary: Any,
    bias: Tensor | None,
    cache: Cache | None,
    packing: Packing | None,
) -> Tensor:
    """Run one decoder layer that saves only its input and its keys and values for the backward pass.

    The layer's cache is passed in and out as tensors, so that the recomputation reads what the first pass read; a
    cache updated as a side effect would be updated twice.
    """
    if cache is None:
        return checkpoint(  # type: ignore[no-any-return]
            layers.run_layer, index, hidden, rotary, bias, None, packing, use_reentrant=False
        )
    if not isinstance(cache, GrowingCache):
        raise SettingsError(f"Checkpointing needs a GrowingCache, got {type(cache).__name__}.")
    parts = cache.layers.get(index, ())
    output, keys, values = checkpoint(
        _run_with_parts, layers, index, hidden, rotary, bias, packing, *parts, use_reentrant=False
    )
    cache.layers[index] = (*parts, keys, values)
    return output  # type: ignore[no-any-return]


def _run_with_parts(
    layers: Any,
    index: int,
    hidden: Tensor,
    rotary: Any,
    bias: Tensor | None,
    packing: Packing | None,
    *parts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a decoder layer over cached parts (keys, values, keys, ...); returns output, new keys, new values."""
    cache = GrowingCache()
    if parts:
        cache.layers[index] = parts
    output = layers.run_layer(index, hidden, rotary, bias, cache, packing)
    return output, *cache.layers[index][-2:]  # type: ignore[return-value]
