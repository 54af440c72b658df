"""A random Qwen2.5-VL of about 34 million parameters, and random rows for it: nothing is downloaded or trained.

Legend: T tokens, P patches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from mirage_core.config import ArchitectureSettings
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone
from mirage_core.model.loading import scratch_config

VOCABULARY = 8192
_TEXT = VOCABULARY - 16  # ids below are ordinary text
IDS = TokenIds(
    latent_start=_TEXT,
    latent_pad=_TEXT + 1,
    latent_end=_TEXT + 2,
    image_pad=_TEXT + 3,
    video_pad=_TEXT + 4,
    vision_start=_TEXT + 5,
    vision_end=_TEXT + 6,
    end_of_turn=_TEXT + 7,
    pad=_TEXT + 8,
)
SIZES = ArchitectureSettings(
    vocab_size=VOCABULARY,
    hidden_size=512,
    intermediate_size=1536,
    num_layers=8,
    num_heads=8,
    num_kv_heads=2,
    mrope_section=(8, 12, 12),
    vision_depth=4,
    vision_hidden_size=128,
    vision_intermediate_size=256,
    vision_num_heads=4,
)
IMAGE = (12, 16)  # merged patches, rows and columns: 192 image tokens


def random_backbone(seed: int = 0, sizes: ArchitectureSettings = SIZES) -> Backbone:
    """Build the model in float32 on the CPU with a frozen vision tower; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(scratch_config(sizes, IDS))
    backbone = Backbone(model.eval())
    backbone.freeze_vision()
    return backbone


def with_words(row: EncodedExample, count: int) -> EncodedExample:
    """Return a row with ``count`` labelled ordinary tokens in the place of its span and its borders."""
    start, end = (int((row.ids == border).nonzero()[0]) for border in (IDS.latent_start, IDS.latent_end))
    words = torch.arange(count) % _TEXT
    ids, labels = (torch.cat([part[:start], words, part[end + 1 :]]) for part in (row.ids, row.labels))
    return replace(row, ids=ids, labels=labels)


class Rows:
    """Generates prompts and examples from a seed; ``image``: merged patches of an image, rows and columns."""

    def __init__(self, seed: int = 0, image: tuple[int, int] = IMAGE) -> None:
        self._random, self._image = torch.Generator().manual_seed(seed), image

    def text(self, length: int) -> Tensor:
        """Return random ids of ordinary tokens [length]."""
        return torch.randint(0, _TEXT, (length,), generator=self._random)

    def image(self) -> tuple[Tensor, Tensor]:
        """Return patches [P, 1176] and grid [1, 3] of one image."""
        height, width = self._image
        return torch.randn(4 * height * width, 1176, generator=self._random), torch.tensor([[1, 2 * height, 2 * width]])

    def prompt(self, length: int, *, ends_in: tuple[int, ...] = ()) -> EncodedPrompt:
        """Return an image and text of ``length`` tokens in all that end in ``ends_in``."""
        pixels, grid = self.image()
        image = torch.tensor([IDS.vision_start, *[IDS.image_pad] * (self._image[0] * self._image[1]), IDS.vision_end])
        text = self.text(length - len(image) - len(ends_in))
        ids = torch.cat([text[:20], image, text[20:], torch.tensor(ends_in, dtype=torch.long)])
        return EncodedPrompt(ids=ids, pixel_values=pixels, grid_thw=grid)

    def example(self, num_latents: int, before: int, *, prompt: int = 380, answer: int = 180) -> EncodedExample:
        """Return a prompt and an answer of these lengths, with one span after ``before`` tokens of the answer."""
        encoded = self.prompt(prompt)
        span = torch.tensor([IDS.latent_start, *[IDS.latent_pad] * num_latents, IDS.latent_end])
        answer_ids = torch.cat([self.text(before), span, self.text(answer - before - len(span))])
        labels = answer_ids.masked_fill(answer_ids == IDS.latent_pad, IGNORED)
        pixels, grid = self.image()
        return EncodedExample(
            ids=torch.cat([encoded.ids, answer_ids]),
            labels=torch.cat([torch.full_like(encoded.ids, IGNORED), labels]),
            pixel_values=encoded.pixel_values,
            grid_thw=encoded.grid_thw,
            auxiliary_pixel_values=pixels,
            auxiliary_grid_thw=grid,
        )
