"""Looks at latents: what lies near is found, the average latent stands beside it, and nothing is called nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_core.analysis.lens.lens import (
    LatentLook,
    Seen,
    by_embedding,
    correlation,
    cosine_map,
    nearest_patches,
    picture_look,
    shows_nothing,
    word_looks,
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
    look = picture_look(latent, mean, Seen(name="input", patches=over, grid=(2, 3)), common)
    assert min(min(row) for row in look.cosine) > 0.98
    assert (look.nearest[0].row, look.nearest[0].column) == (1, 0)
    assert look.picture == "input"


def test_a_latent_that_is_the_average_shows_nothing_and_another_does() -> None:
    over = Seen(name="input", patches=patches(), grid=(2, 3))
    mean, centre = patches(seed=1)[0], torch.zeros(8)
    average = picture_look(mean * 1.5, mean, over, centre)
    other = picture_look(over.patches[2], mean, over, centre)
    assert average.like_mean == pytest.approx(1.0) and average.shows_nothing
    assert not other.shows_nothing


def test_a_flat_map_is_compared_with_nothing() -> None:
    flat = np.zeros((2, 2), dtype=np.float32)
    assert correlation(flat, np.eye(2, dtype=np.float32)) is None


def test_words_are_read_by_the_head_and_by_the_embeddings_beside_the_mean() -> None:
    table = torch.eye(6, 8)
    latents = torch.stack([table[[1, 2]], table[[1, 3]]])
    looks = word_looks(latents, table[[1, 5]], lambda states: 9 * states @ table.T, table, lambda token: f"word{token}")
    assert [look.head[0].text for look in looks[1]] == ["word1", "word3"]
    assert looks[0][0].shows_nothing and not looks[1][1].shows_nothing
    assert looks[1][1].head_mean[0].text == "word5"
    assert looks[1][1].embedding[0].text == "word3" and looks[1][1].embedding[0].score == pytest.approx(1.0)
    assert sum(word.score for word in looks[0][0].head) <= 1.0 + 1e-6


def test_embeddings_are_compared_by_direction_not_by_length() -> None:
    table = torch.tensor([[100.0, 100.0], [0.0, 0.1]])
    assert by_embedding(torch.tensor([[0.0, 5.0]]), table, str)[0][0].text == "1"


def test_an_answer_shows_nothing_only_where_no_latent_of_it_does() -> None:
    table = torch.eye(6, 8)
    words = word_looks(table[None, [1, 2]], table[[1, 1]], lambda states: 9 * states @ table.T, table, str)[0]
    looks = [LatentLook(index=index, pictures=(), words=each) for index, each in enumerate(words)]
    assert shows_nothing(looks[:1])
    assert not shows_nothing(looks)


def test_latents_that_hold_their_picture_find_it_and_others_do_not() -> None:
    generator = torch.Generator().manual_seed(3)
    pictures = [torch.randn(4, 16, generator=generator) for _ in range(12)]
    own = torch.stack([picture[2] for picture in pictures])
    lost = torch.randn(12, 16, generator=generator)
    rng = np.random.default_rng(0)
    found, blind = (match("input", 0, fits_of(latents, pictures), rng) for latents in (own, lost))
    assert found.rank.value == 1.0 and found.p_value == pytest.approx(1 / 1001, abs=1e-4)
    assert blind.p_value > 0.05 and blind.rank.low < 0.5 < blind.rank.high


def test_latents_that_are_all_alike_find_their_pictures_by_lot() -> None:
    same = torch.ones(6, 16)
    pictures = [torch.randn(4, 16, generator=torch.Generator().manual_seed(at)) for at in range(6)]
    assert match("input", 0, fits_of(same, pictures), np.random.default_rng(0)).rank.value == 0.5


def test_two_instances_are_too_few_to_match() -> None:
    assert match("input", 0, np.ones((2, 2)), np.random.default_rng(0)).rank.value is None
