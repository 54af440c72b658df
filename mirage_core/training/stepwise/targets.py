"""What each latent of an example must tell about its frame, from the labels of a world.

Legend: L latents of an example, n frames, W places, C kinds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_core.config import StepwiseSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.synthesis.labels import parts_of
from mirage_core.types import TrainingExample


@dataclass(frozen=True, slots=True)
class StepTargets:
    """Targets of an example's latents: ``where`` [L, W] and ``what`` [L, C].

    A row holds the weight of each class (several where a frame changed in several places); zeros: no target. The
    classes of a pointer are the tokens of the problem's first image. ``what`` of a contrastive head are features
    [L, D] instead.
    """

    where: Tensor
    what: Tensor


def frames_of_latents(frames: int, latents: int, settings: StepwiseSettings) -> list[int | None]:
    """Return the frame that each latent is held to; None for one that is held to nothing."""
    if settings.frames == "last":
        return [frames - 1] * latents
    if settings.pace == "frame":
        after_end = None if settings.after_end == "free" else frames - 1
        return [latent if latent < frames else after_end for latent in range(latents)]
    return [-(-(latent + 1) * frames // latents) - 1 for latent in range(latents)]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names of a world's labels, each a class of a head."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, examples: Iterable[TrainingExample], key: str) -> Vocabulary:
        """Return the names that the examples use; SettingsError where none has labels."""
        labels = (label for example in examples for label in example.auxiliary_image.details.get(key, ()))
        names = {_name(part) for label in labels for part in parts_of(label)}
        if not names:
            raise SettingsError(
                f"stepwise grounding by labels needs {key} in the details of auxiliary images, and no training example "
                "has any: mazes have them with auxiliary_images.film; elsewhere use where: pointer, what: codebook"
            )
        return cls(tuple(sorted(names)))

    def weights_of(self, labels: Sequence[Any]) -> Tensor:
        """Return how often each name is in a label [L, names]; zeros for a name that no training example has."""
        numbers = _numbers(self.names)
        classes = np.zeros((len(labels), len(self.names)), dtype=np.float32)
        for row, label in enumerate(labels):
            for part in parts_of(label):
                number = numbers.get(_name(part))
                if number is not None:
                    classes[row, number] += 1.0
        return torch.from_numpy(classes)


def label_targets(
    details: Mapping[str, Any], key: str, vocabulary: Vocabulary, latents: int, settings: StepwiseSettings
) -> Tensor:
    """Return the target of each latent [L, names] from the labels of a film; zeros for a film without them.

    DataError where a film has not one label a frame.
    """
    labels, frames = details.get(key), details.get("frames", 0)
    if labels is None:
        return torch.zeros(latents, len(vocabulary.names))
    if len(labels) != frames or not labels:
        raise DataError(f"an auxiliary image has {len(labels)} {key} for {frames} frames, expected one a frame")
    return rows_of_frames(vocabulary.weights_of(labels), frames_of_latents(frames, latents, settings))


def rows_of_frames(targets: Tensor, frames: Sequence[int | None]) -> Tensor:
    """Return the targets [L, C] of latents from those of frames [n, C]; zeros for a latent without a frame."""
    rows = targets[torch.tensor([frame or 0 for frame in frames], dtype=torch.long)]
    return rows * torch.tensor([frame is not None for frame in frames])[:, None]


@lru_cache(maxsize=8)
def _numbers(names: tuple[str, ...]) -> dict[str, int]:
    """Return the number of each name: every example of every step asks for them."""
    return {name: number for number, name in enumerate(names)}


def _name(label: Any) -> str:
    return json.dumps(label)
