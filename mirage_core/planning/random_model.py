"""A model with random weights and rows of random text, of a recipe's sizes, for measurements without either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mirage_core.config import ModelSettings
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds
from mirage_core.methods import TRAIN_STAGES
from mirage_core.model.backbone import Backbone
from mirage_core.model.backbones import adapter_class
from mirage_core.model.lora import add_adapters
from mirage_core.planning.batch_shapes import Shape
from mirage_core.planning.sizes import model_config

_SPECIAL = 16
"""Ids at the end of the vocabulary that are reserved as special tokens."""


def random_model(
    settings: ModelSettings, device: torch.device | str, *, layers: int | None = None, seed: int = 0
) -> Backbone:
    """Build the recipe's model with random weights on ``device`` in its dtype; ``layers``: at most that many."""
    config = model_config(settings)
    config._attn_implementation = settings.attention
    if layers is not None:
        text = config.text_config
        text.num_hidden_layers = min(layers, text.num_hidden_layers)
        text.layer_types = (text.layer_types or [])[: text.num_hidden_layers] or None
        config.vision_config.depth, config.vision_config.fullatt_block_indexes = 1, [0]
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
    with _default_dtype(dtype), torch.device(device):
        torch.manual_seed(seed)
        backbone = Backbone(adapter_class(config.model_type).stock_class(config))
    if not settings.train_vision:
        backbone.freeze_vision()
    if settings.lora is not None:
        add_adapters(backbone, settings.lora, placeholder_ids(backbone), seed)
    return backbone.train()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def placeholder_ids(backbone: Backbone) -> TokenIds:
    """Return special ids from the end of the vocabulary; that of image tokens comes from the model's configuration."""
    image_pad = int(backbone.model.config.image_token_id)
    names = (
        "latent_start",
        "latent_pad",
        "latent_end",
        "video_pad",
        "vision_start",
        "vision_end",
        "end_of_turn",
        "pad",
    )
    free = (id_ for id_ in range(backbone.vocab_size - 1, -1, -1) if id_ != image_pad)
    ids: dict[str, Any] = dict(zip(names, free, strict=False))
    return TokenIds(image_pad=image_pad, **ids)


class RandomRows:
    """Rows of random text of a shape; an image is replaced by text of as many tokens.

    ``bottleneck``: what text after a span may attend to.
    """

    def __init__(self, backbone: Backbone, shape: Shape, seed: int = 0, bottleneck: Bottleneck = "none") -> None:
        self._backbone, self._shape, self._bottleneck = backbone, shape, bottleneck
        self.ids = placeholder_ids(backbone)
        self._random = torch.Generator().manual_seed(seed)

    def text(self, length: int) -> Tensor:
        """Return random ids of ordinary tokens [length]."""
        ids = torch.randint(0, self._backbone.vocab_size - _SPECIAL, (length,), generator=self._random)
        return ids.masked_fill(ids == self.ids.image_pad, 0)

    def prompt(self) -> EncodedPrompt:
        """Return a random prompt."""
        return EncodedPrompt(ids=self.text(self._shape.prompt), pixel_values=no_pixels(), grid_thw=no_grids())

    def example(self, name: str) -> EncodedExample:
        """Return an example of a training stage: with a span if it trains latents, with an image for grounding."""
        shape, ids = self._shape, self.ids
        prompt, before, after = self.text(shape.prompt), self.text(shape.before), self.text(shape.after)
        program = TRAIN_STAGES[name].program
        span = [ids.latent_start, *[ids.latent_pad] * shape.num_latents, ids.latent_end] if program.has_latents else []
        answer = torch.cat([before, torch.tensor(span, dtype=torch.long), after])
        features: tuple[Tensor, ...] = ()
        if program.latents == "teacher_forced":
            features = (torch.randn(shape.auxiliary, self._backbone.hidden_size, generator=self._random),)
        # The newline that ends the prompt is a label too.
        labels = torch.cat([torch.full((len(prompt) - 1,), IGNORED), prompt[-1:], answer])
        return EncodedExample(
            ids=torch.cat([prompt, answer]),
            labels=labels.masked_fill(labels == ids.latent_pad, IGNORED),
            pixel_values=no_pixels(),
            grid_thw=no_grids(),
            auxiliary_pixel_values=no_pixels(),
            auxiliary_grid_thw=torch.tensor([[1, 2, 2 * len(image)] for image in features]) if features else no_grids(),
            auxiliary_features=tuple(image.to(self._backbone.dtype) for image in features),
        )

    def batch(self, name: str, count: int) -> LatentBatch:
        """Return ``count`` of them as a batch on the model's device."""
        rows: Sequence[EncodedExample] = [self.example(name) for _ in range(count)]
        program = TRAIN_STAGES[name].program
        align = program.latents == "rolled_out" and not self._shape.blank
        bottleneck = self._bottleneck if program.has_latents else "none"
        batch = collate(rows, self.ids, self._backbone.position_ids, align=align, bottleneck=bottleneck)
        return batch.to(self._backbone.device)
