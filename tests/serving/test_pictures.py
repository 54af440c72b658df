"""The features of pictures that were asked about are used again, and no others."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from mirage_core.generation.generator import Generator
from mirage_core.serving.pictures import PictureCache


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64 + 64 * (number % 2), 64), (40 * number, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def computed(generator: Generator, data: bytes) -> torch.Tensor:
    """The features as a prefill computes them."""
    pixels, grid = generator.encoder.pixels((data,), "a picture")
    with torch.no_grad():
        return generator.model.backbone.image_features(pixels, grid)[0]


def test_features_are_those_of_the_tower_whether_kept_or_not(generator: Generator) -> None:
    found: list[bool] = []
    cache = PictureCache(generator.model.backbone, generator.encoder, 2**20, found.append)
    for number in (0, 1, 2, 1, 0):
        data = picture(number)
        opened = cache.open(data)
        assert torch.equal(opened.grid, generator.encoder.pixels((data,), "a picture")[1])
        torch.testing.assert_close(cache.features(opened), computed(generator, data), atol=0, rtol=0)
    assert found == [False, False, False, True, True]


def test_two_that_were_opened_before_either_was_kept_are_computed_once(generator: Generator) -> None:
    found: list[bool] = []
    cache = PictureCache(generator.model.backbone, generator.encoder, 2**20, found.append)
    first, second = cache.open(picture(0)), cache.open(picture(0))
    assert cache.features(first) is cache.features(second)
    assert found == [False, True]


@pytest.mark.parametrize("room", [0, 1, 2])
def test_those_used_last_are_kept_within_the_limit(generator: Generator, room: int) -> None:
    size = computed(generator, picture(0)).numel() * 4
    found: list[bool] = []
    cache = PictureCache(generator.model.backbone, generator.encoder, room * size + size // 2, found.append)
    for number in (0, 2, 0, 4, 0, 2):  # three of one size; 0 is used again and again
        cache.features(cache.open(picture(number)))
        assert cache.size <= room * size + size // 2
    assert found == [False, False, room == 2, False, room == 2, False]
    assert cache.size == room * size


def test_a_picture_that_makes_room_while_its_prompt_is_prepared_keeps_its_features(generator: Generator) -> None:
    size = computed(generator, picture(0)).numel() * 4
    found: list[bool] = []
    cache = PictureCache(generator.model.backbone, generator.encoder, size, found.append)
    cache.features(cache.open(picture(0)))
    other, known = cache.open(picture(2)), cache.open(picture(0))
    cache.features(other)
    torch.testing.assert_close(cache.features(known), computed(generator, picture(0)), atol=0, rtol=0)
    assert found == [False, False, True] and cache.size == size
