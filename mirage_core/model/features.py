"""Image features computed once and kept, as long as the vision tower is frozen.

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
    """The same prompts with the features of their images in place of pixels.

    Worth it wherever a picture is seen more than once: GRPO decodes a prompt and recomputes every sample of it.
    SettingsError when the vision tower is trained: kept features would carry no gradient.
    """
    if backbone.trains_vision:
        raise SettingsError(
            "Image features cannot be kept while the vision tower is trained; set train_vision to false."
        )
    with torch.inference_mode(False), torch.no_grad():  # kept for training, wherever they are computed
        found = iter(_features(backbone, prompts))
        return [
            replace(prompt, pixel_values=no_pixels(), image_features=tuple(next(found) for _ in prompt.grid_thw))
            for prompt in prompts
        ]


def _features(backbone: Backbone, prompts: Sequence[EncodedPrompt]) -> list[Tensor]:
    """Features [n, F] of the images of all prompts, in order."""
    present = [prompt for prompt in prompts if len(prompt.grid_thw)]
    if not present:
        return []
    pixels = torch.cat([prompt.pixel_values for prompt in present])
    return backbone.image_features(pixels, torch.cat([prompt.grid_thw for prompt in present]))
