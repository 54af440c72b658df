"""Compression of patch features to target latents."""

from __future__ import annotations

import pytest
import torch

from mirage_core.errors import InputError
from mirage_core.latent.compress import changed_patches, compress, compress_all


def test_even_runs_use_every_patch() -> None:
    features = torch.arange(10.0)[:, None].expand(10, 2)
    assert compress(features, 4, "even")[:, 0].tolist() == [1.0, 4.0, 6.5, 8.5]


def test_drop_tail_leaves_the_trailing_patches_out() -> None:
    features = torch.arange(10.0)[:, None]
    assert compress(features, 4, "drop_tail")[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]


def test_targets_carry_no_gradient() -> None:
    features = torch.randn(8, 3, requires_grad=True)
    assert not compress(features, 2, "even").requires_grad


def test_images_of_different_sizes_do_not_mix() -> None:
    images = [torch.randn(9, 3), torch.randn(12, 3), torch.randn(9, 3)]
    together = compress_all(images, 4, "even")
    for image, latents in zip(images, together, strict=True):
        torch.testing.assert_close(latents, compress(image, 4, "even"))


def test_images_of_one_size_are_compressed_as_alone() -> None:
    images = [torch.randn(9, 3) for _ in range(3)]
    torch.testing.assert_close(compress_all(images, 4, "even")[1], compress(images[1], 4, "even"))


@pytest.mark.parametrize("mode", ["even", "drop_tail"])
def test_more_latents_than_patches_is_an_error_that_names_both(mode: str) -> None:
    with pytest.raises(InputError, match=r"5 latents .* 4 merged patches"):
        compress(torch.randn(4, 2), 5, mode)  # type: ignore[arg-type]


def test_the_changed_patches_are_those_that_differ_by_any_pixel() -> None:
    image = torch.randn(12, 3)  # 3 merged patches of 4
    auxiliary = image.clone()
    auxiliary[5, 2] += 1.0
    auxiliary[11, 0] += 1.0
    assert changed_patches(auxiliary, image, 4).tolist() == [False, True, True]
    assert changed_patches(image, image, 4).tolist() == [True] * 3, "nothing differs: the whole picture"
    assert changed_patches(torch.randn(16, 3), image, 4).tolist() == [True] * 4, "another size: the whole picture"


def test_where_fewer_patches_changed_than_there_are_latents_neighbours_share_one() -> None:
    features = torch.arange(3.0)[:, None]
    assert compress(features, 8, "changed_patches")[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert compress(features, 3, "changed_patches")[:, 0].tolist() == [0, 1, 2]
    more = torch.arange(10.0)[:, None]
    torch.testing.assert_close(compress(more, 4, "changed_patches"), compress(more, 4, "even"))


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(InputError, match="even, drop_tail, changed"):
        compress(torch.randn(4, 2), 2, "max")  # type: ignore[arg-type]
