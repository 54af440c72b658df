"""The features of pictures, kept by the hash of their files: a picture that was asked about goes not through the tower.

Legend: P patches, C values of a patch, n merged patches, F width of image features.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import no_pixels
from mirage_core.model.backbone import Backbone


@dataclass(slots=True)
class Picture:
    """A picture by the hash of its file: its ``grid`` [1, 3], and ``pixels`` [P, C] or ``features`` [n, F]."""

    name: bytes
    grid: Tensor
    pixels: Tensor
    features: Tensor | None = None


class PictureCache:
    """Keeps the features of the pictures that were used last, up to ``max_bytes``. One thread uses it.

    ``count``: called for every picture that a prompt needs, with whether its features were here.
    """

    def __init__(self, backbone: Backbone, encoder: Encoder, max_bytes: int, count: Callable[[bool], None]) -> None:
        self._backbone, self._encoder, self._max_bytes, self._count = backbone, encoder, max_bytes, count
        self._kept: OrderedDict[bytes, Picture] = OrderedDict()
        self._bytes = 0

    @property
    def size(self) -> int:
        """The bytes of all features that are kept."""
        return self._bytes

    def open(self, data: bytes) -> Picture:
        """Return a picture with its grid; it is decoded where it is not here. DataError if it is broken."""
        name = hashlib.sha256(data).digest()
        if name in self._kept:
            return self._kept[name]
        pixels, grid = self._encoder.pixels((data,), "an image of the request")
        return Picture(name, grid, pixels)

    def features(self, picture: Picture) -> Tensor:
        """Return the features [n, F] of a picture, computed only where it was opened, or lies here, without them."""
        known = self._kept.get(picture.name, picture)
        self._count(known.features is not None)
        if known.features is not None:
            if picture.name in self._kept:
                self._kept.move_to_end(picture.name)
            return known.features
        with torch.inference_mode():
            (features,) = self._backbone.image_features(picture.pixels, picture.grid)
            features = features.clone()  # not a view into what the tower gave
        self._keep(Picture(picture.name, picture.grid, no_pixels(), features), _size(features))
        return features

    def _keep(self, picture: Picture, size: int) -> None:
        """Keep a picture, and let go of those that were used longest ago; one that is larger than all is not kept."""
        if size > self._max_bytes:
            return
        self._kept[picture.name] = picture
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            assert oldest.features is not None
            self._bytes -= _size(oldest.features)


def _size(features: Tensor) -> int:
    return features.numel() * features.element_size()
