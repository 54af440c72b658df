"""The latent lens: it finds what is near, compares with the mean latent, and says where there is no difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_core.analysis.lens.lens import (
    EncodedImage,
    LatentLens,
    all_match_mean_latent,
    by_embedding,
    correlation,
    cosine_map,
    image_lens,
    nearest_patches,
    word_lenses,
)
from mirage_core.analysis.lens.patch_matching import fits_of, match
from mirage_core.errors import InputError


def patches(rows: int = 2, columns: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows * columns, size, generator=torch.Generator().manual_seed(seed))


def test_the_patch_that_a_latent_copies_is_the_nearest() -> None:
    over = patches()
    cosines = cosine_map(over[4], over, (2, 3))
    best = nearest_patches(cosines, 2)
    assert (best[0].row, best[0].column) == (1, 1)
    assert best[0].cosine == pytest.approx(1.0, abs=1e-4)
    assert best[0].cosine > best[1].cosine


def test_a_grid_of_other_size_is_refused() -> None:
    with pytest.raises(InputError, match="6 patches do not fill a grid of 2 rows and 2 columns"):
        cosine_map(patches()[0], patches(), (2, 2))


def test_what_all_states_share_drowns_a_raw_map_but_not_a_centred_one() -> None:
    common = 50 * torch.nn.functional.normalize(torch.ones(8), dim=0)
    over = patches() + common
    latent, mean = over[3] + 0.1, common + 0.1
    lens = image_lens(latent, mean, EncodedImage(name="input", patches=over, grid=(2, 3)), common)
    assert min(min(row) for row in lens.cosine) > 0.98
    assert (lens.nearest[0].row, lens.nearest[0].column) == (1, 0)
    assert lens.picture == "input"


def test_a_latent_that_is_the_average_shows_nothing_and_another_does() -> None:
    over = EncodedImage(name="input", patches=patches(), grid=(2, 3))
    mean, centre = patches(seed=1)[0], torch.zeros(8)
    average = image_lens(mean * 1.5, mean, over, centre)
    other = image_lens(over.patches[2], mean, over, centre)
    assert average.like_mean == pytest.approx(1.0) and average.matches_mean_latent
    assert not other.matches_mean_latent


def test_a_flat_map_is_compared_with_nothing() -> None:
    flat = np.zeros((2, 2), dtype=np.float32)
    assert correlation(flat, np.eye(2, dtype=np.float32)) is None


def test_words_are_read_by_the_head_and_by_the_embeddings_beside_the_mean() -> None:
    table = torch.eye(6, 8)
    latents = torch.stack([table[[1, 2]], table[[1, 3]]])
    lenses = word_lenses(
        latents, table[[1, 5]], lambda states: 9 * states @ table.T, table, lambda token: f"word{token}"
    )
    assert [lens.head[0].text for lens in lenses[1]] == ["word1", "word3"]
    assert lenses[0][0].matches_mean_latent and not lenses[1][1].matches_mean_latent
    assert lenses[1][1].head_mean[0].text == "word5"
    assert lenses[1][1].embedding[0].text == "word3" and lenses[1][1].embedding[0].score == pytest.approx(1.0)
    assert sum(word.score for word in lenses[0][0].head) <= 1.0 + 1e-6


def test_embeddings_are_compared_by_direction_not_by_length() -> None:
    table = torch.tensor([[100.0, 100.0], [0.0, 0.1]])
    assert by_embedding(torch.tensor([[0.0, 5.0]]), table, str)[0][0].text == "1"


def test_an_answer_shows_nothing_only_where_no_latent_of_it_does() -> None:
    table = torch.eye(6, 8)
    words = word_lenses(table[None, [1, 2]], table[[1, 1]], lambda states: 9 * states @ table.T, table, str)[0]
    lenses = [LatentLens(index=index, pictures=(), words=each) for index, each in enumerate(words)]
    assert all_match_mean_latent(lenses[:1])
    assert not all_match_mean_latent(lenses)


def test_latents_that_hold_their_picture_find_it_and_others_do_not() -> None:
    generator = torch.Generator().manual_seed(3)
    images = [torch.randn(4, 16, generator=generator) for _ in range(12)]
    own = torch.stack([image[2] for image in images])
    lost = torch.randn(12, 16, generator=generator)
    rng = np.random.default_rng(0)
    matching, blind = (match("input", 0, fits_of(latents, images), rng) for latents in (own, lost))
    assert matching.rank.value == 1.0 and matching.p_value == pytest.approx(1 / 1001, abs=1e-4)
    assert blind.p_value > 0.05 and blind.rank.low < 0.5 < blind.rank.high


def test_latents_that_are_all_alike_find_their_pictures_by_lot() -> None:
    same = torch.ones(6, 16)
    images = [torch.randn(4, 16, generator=torch.Generator().manual_seed(at)) for at in range(6)]
    assert match("input", 0, fits_of(same, images), np.random.default_rng(0)).rank.value == 0.5


def test_latents_of_questions_on_one_picture_are_one_observation() -> None:
    """Random latents of 8 pictures, four equal ones each: by question the luck of eight looks like that of 32."""
    units = np.repeat(np.arange(8), 4)
    found = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        images = [torch.randn(4, 16, generator=generator) for _ in range(8)]
        latents = torch.randn(8, 16, generator=generator)
        fits = fits_of(latents[units], [images[unit] for unit in units])
        once = fits_of(latents, images)
        by_picture = match("input", 0, fits, np.random.default_rng(seed), units)
        alone = match("input", 0, once, np.random.default_rng(seed))
        by_question = match("input", 0, fits, np.random.default_rng(seed))
        assert by_picture.rank.value == alone.rank.value  # among latents of other pictures
        assert (by_picture.rank.low, by_picture.rank.high) == (alone.rank.low, alone.rank.high)
        found.append((by_picture.p_value, by_question.p_value))
    by_pictures, by_questions = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    assert (by_pictures < 0.05).mean() < 0.12 < 0.2 < (by_questions < 0.05).mean()


def test_two_pictures_are_too_few_to_match_whatever_is_asked_of_them() -> None:
    fits = np.random.default_rng(0).random((8, 8))
    assert match("input", 0, fits, np.random.default_rng(0), np.repeat([0, 1], 4)).p_value is None


def test_two_instances_are_too_few_to_match() -> None:
    assert match("input", 0, np.ones((2, 2)), np.random.default_rng(0)).rank.value is None
