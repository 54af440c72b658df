"""The interface of the engine to a stock model; one subclass for each model family.

The defaults are what stock decoders share, and Qwen's layout and positions. Legend: B rows, T columns,
D hidden, V vocabulary, P patches, N images, F width of image features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mirage_core.errors import SettingsError
from mirage_core.model.backbones.packed import Rotary, run_packed
from mirage_core.model.backbones.positions import multimodal_positions
from mirage_core.model.backbones.vision import Grid
from mirage_core.model.cache import Cache
from mirage_core.model.packing import Packing

ATTENTION = ("sdpa", "eager")


class ModelAdapter(ABC):
    """Access to the parts of one stock model. SettingsError where it does not support latent batches."""

    stock_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, model: Any) -> None:
        self.model = model
        self.text: Any = model.model.language_model
        self.vision: Any = model.model.visual
        self.layers: list[nn.Module] = list(self.text.layers)
        self._check_attention()

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """V, the size of the embedding table."""
        return int(self.model.config.text_config.vocab_size)

    @property
    def image_token(self) -> int:
        """The id of image_pad."""
        return int(self.model.config.image_token_id)

    @property
    def merged_patches(self) -> int:
        """Patches in one token of the text model."""
        return int(self.vision.spatial_merge_unit)

    @property
    def deepstack_layers(self) -> int:
        """Number of first decoder layers that add image features to their output (DeepStack); 0: none."""
        return 0

    @abstractmethod
    def encode_images(self, pixels: Tensor, grids: tuple[Grid, ...], *, checkpointing: bool) -> Tensor:
        """Return features of all images end to end [P / merged_patches, F], in raster order.

        F is D * (1 + deepstack_layers): the input embedding, then what is added after each of those layers.
        """

    def positions(self, ids: Tensor, lengths: Tensor, grid_thw: Tensor) -> Tensor:
        """Return positions [3, n] of rows laid end to end (CPU tensors: ids [n], lengths [B], grid_thw [N, 3])."""
        merge = int(self.model.config.vision_config.spatial_merge_size)
        return torch.from_numpy(
            multimodal_positions(ids.numpy(), lengths.numpy(), grid_thw.numpy(), self.image_token, merge)
        )

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Return embeddings [B, T, D] of ids [B, T]."""
        embedded: Tensor = self.text.embed_tokens(input_ids)
        return embedded

    def rotary(self, position_ids: Tensor) -> Rotary:
        """Return cosines and sines [B, T, head size] of positions [3, B, T]."""
        cos, sin = self.text.rotary_emb(self.text.norm.weight, position_ids)
        return cos, sin

    def run_layer(
        self,
        index: int,
        hidden: Tensor,
        rotary: Rotary,
        bias: Tensor | None,
        cache: Cache | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Run one stock decoder layer on [B, T, D], or, with ``packing``, on packed tokens [1, n, D]."""
        layer: Any = self.layers[index]
        if packing is None:
            output: Tensor = layer(hidden, attention_mask=bias, position_embeddings=rotary, past_key_values=cache)
            return output
        sdpa = self.model.config._attn_implementation == "sdpa"
        return run_packed(layer, hidden, rotary, bias, cache, packing, sdpa=sdpa)

    def norm(self, hidden: Tensor) -> Tensor:
        """Apply the final norm."""
        normed: Tensor = self.text.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., D]."""
        scores: Tensor = self.model.lm_head(hidden)
        return scores

    def _check_attention(self) -> None:
        """Refuse settings that would be silently wrong with the masks of latent batches."""
        attention = self.model.config._attn_implementation
        if attention not in ATTENTION:
            raise SettingsError(
                f"model.attention is {attention!r}; the latent engine needs one of {ATTENTION}, since its batches "
                "have padding between columns. sdpa runs flash kernels itself where no mask is needed."
            )
        kinds = getattr(self.model.config.text_config, "layer_types", None) or ()
        if any(kind != "full_attention" for kind in kinds):
            raise SettingsError(
                "This model uses sliding-window attention (use_sliding_window); the latent engine does not."
            )
