"""Image features computed once and cached, for a frozen vision tower.

Legend: n merged patches, F width of image features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mirage_core.errors import SettingsError
from mirage_core.latent.examples import EncodedPrompt, no_pixels
from mirage_core.model.backbone import Backbone


def with_features(backbone: Backbone, prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """Return the prompts with image features in place of pixels.

    It pays where an image is used more than once: GRPO decodes a prompt and recomputes every sample of it.
    SettingsError when the vision tower is trained: cached features carry no gradient.
    """
    if backbone.trains_vision:
        raise SettingsError(
            "Image features cannot be cached while the vision tower is trained; set train_vision to false."
        )
    with torch.inference_mode(False), torch.no_grad():  # usable in training, wherever they are computed
        features = iter(_features(backbone, prompts))
        return [
            replace(prompt, pixel_values=no_pixels(), image_features=tuple(next(features) for _ in prompt.grid_thw))
            for prompt in prompts
        ]


def _features(backbone: Backbone, prompts: Sequence[EncodedPrompt]) -> list[Tensor]:
    """Return features [n, F] of the images of all prompts, in order."""
    with_images = [prompt for prompt in prompts if len(prompt.grid_thw)]
    if not with_images:
        return []
    pixels = torch.cat([prompt.pixel_values for prompt in with_images])
    return backbone.image_features(pixels, torch.cat([prompt.grid_thw for prompt in with_images]))
