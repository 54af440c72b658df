"""What is quantised of an auxiliary image, as the base model's vision tower sees it.

Legend: m patches, k codes of an example (as many as it would have latents), D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from mirage_core.config import InferenceSettings, LatentSettings, Settings, StepwiseSettings
from mirage_core.image_files import read_rgb
from mirage_core.latent.compress import compress
from mirage_core.latent.encoder import Encoder, span_length
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.grounding import select_patches
from mirage_core.model.loading import LoadedModel
from mirage_core.training.stepwise.visual_targets import FilmReader
from mirage_core.types import TrainingExample


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """Features of an example's auxiliary image, or of all frames of its film, in float32 on the CPU.

    ``patches`` [m, D]: the merged patches that count; ``places`` [m, 2]: the picture (0, or the number of the frame)
    and the token of each, in raster order; ``pooled`` [k, D]: what is quantised.
    """

    patches: Tensor
    places: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Reads auxiliary images by one model, at the settings of one recipe."""

    encoder: Encoder
    backbone: Backbone
    latent: LatentSettings

    @classmethod
    def of(cls, model: LoadedModel, settings: Settings) -> PictureReader:
        """Return the reader of a recipe."""
        used = InferenceSettings.of(settings)
        encoder = Encoder(model.processor, used.latent, used.prompt, used.variant)
        return cls(encoder, model.backbone, used.latent)

    def read(self, example: TrainingExample) -> PictureFeatures:
        """Return the features of an example; of a film the tokens that each frame changes, pooled by frame.

        A picture's patches are pooled as ``latent.compression`` says. A film has one code a frame, then the last
        frame's, up to k; frames after the k-th are left out. DataError for a broken image, InputError for more codes
        than patches.
        """
        length = span_length(example.auxiliary_image, self.latent)
        return self._film(example, length) if example.film else self._picture(example, length)

    @torch.no_grad()
    def _picture(self, example: TrainingExample, length: int) -> PictureFeatures:
        encoded = self.encoder.example(example, with_latents=True)
        pixels = encoded.auxiliary_pixel_values.to(self.backbone.device)
        (image,) = self.backbone.image_features(pixels, encoded.auxiliary_grid_thw)
        tokens = torch.arange(len(image))[:, None]
        (patches,) = select_patches([self.backbone.merged(image).float().cpu()], encoded.auxiliary_patch_masks)
        (tokens,) = select_patches([tokens], encoded.auxiliary_patch_masks)
        places = torch.cat([torch.zeros_like(tokens), tokens], dim=1)
        return PictureFeatures(patches, places, compress(patches, length, self.latent.compression))

    def _film(self, example: TrainingExample, length: int) -> PictureFeatures:
        film = FilmReader(self.encoder, self.backbone, StepwiseSettings())
        changes = film.changes(example)
        changes = changes | ~changes.any(1, keepdim=True)  # of a frame that changes nothing, all of it counts
        frames = film.features(example, changes)
        places = torch.cat(
            [
                torch.stack([torch.full_like(tokens, number), tokens], dim=1)
                for number, tokens in enumerate(_counted(changes, frames))
            ]
        )
        numbers = torch.arange(length).clamp_max(len(frames) - 1)
        return PictureFeatures(torch.cat(frames), places, torch.stack([frame.mean(0) for frame in frames])[numbers])

    def tile(self, example: TrainingExample, place: tuple[int, int]) -> Image.Image:
        """Return the part of a picture that a merged patch covers, at the picture's own resolution."""
        pictures = example.film or (example.auxiliary_image.image,)
        what = f"the auxiliary image of problem {example.problem.id}"
        shown, token = pictures[place[0]], place[1]
        is_film_of_image = bool(example.film and example.problem.images)
        rows, columns = self.encoder.token_grid(example.problem.images[0] if is_film_of_image else shown, what)
        image, (row, column) = read_rgb(shown, what), divmod(token, columns)
        left, right = (round(at * image.width / columns) for at in (column, column + 1))
        top, bottom = (round(at * image.height / rows) for at in (row, row + 1))
        return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _counted(changes: Tensor, frames: list[Tensor]) -> list[Tensor]:
    """Return the tokens of each frame that count; all of them where there is no image to compare it with."""
    if not changes.shape[1]:
        return [torch.arange(len(frame)) for frame in frames]
    return [change.nonzero()[:, 0] for change in changes]
