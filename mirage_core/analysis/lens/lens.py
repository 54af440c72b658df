"""The latent lens: the image patches and the words nearest to each latent, compared with those of the mean latent.

All hidden states of one model point in similar directions (a constant vector has a cosine of .9 to everything), so a
map of cosines or a word means nothing by itself: every lens includes the same lens on the mean latent of all instances.
Legend: N instances, K latents, D hidden, P merged patches of an image, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mirage_core.analysis.results import Record
from mirage_core.errors import InputError

NUM_PATCHES = 3
NUM_WORDS = 5
SAME_MAP = 0.9
"""Correlation with the mean latent's map from which a map counts as the same."""

Map = NDArray[np.float32]
TokenText = Callable[[int], str]
"""The text of a token by its id."""


class Patch(Record):
    """One merged patch of an image, its row and column counted from 0, and its cosine to a latent."""

    row: int
    column: int
    cosine: float


class ImageLens(Record):
    """The cosine of one latent to every patch of one image, and that of the mean latent."""

    picture: str = Field(description='"input", "input 2", ..., or "auxiliary": what stage 1 grounds in.')
    cosine: tuple[tuple[float, ...], ...] = Field(description="To each merged patch, [rows][columns].")
    centred: tuple[tuple[float, ...], ...] = Field(
        description="The same after subtracting the mean latent and the mean patch of all images."
    )
    mean: tuple[tuple[float, ...], ...] = Field(description="The mean latent's cosine to each patch: the baseline.")
    nearest: tuple[Patch, ...] = Field(description="Highest centred cosines first.")
    like_mean: float | None = Field(description="Correlation of `cosine` with `mean` over the patches.")

    @property
    def matches_mean_latent(self) -> bool:
        """Whether the map is that of the mean latent."""
        return self.like_mean is not None and self.like_mean >= SAME_MAP


class Word(Record):
    """A token of the vocabulary, and its probability (by the head) or cosine (to its embedding)."""

    text: str
    score: float


class WordLens(Record):
    """The words nearest to one latent, and to the mean latent."""

    head: tuple[Word, ...] = Field(description="The output head on the latent (logit lens): probabilities.")
    head_mean: tuple[Word, ...] = Field(description="The same of the mean latent.")
    embedding: tuple[Word, ...] = Field(description="Nearest rows of the embedding table: cosines.")
    embedding_mean: tuple[Word, ...] = Field(description="The same of the mean latent.")

    @property
    def matches_mean_latent(self) -> bool:
        """Whether the head's first word is that of the mean latent."""
        return bool(self.head) and bool(self.head_mean) and self.head[0].text == self.head_mean[0].text


class LatentLens(Record):
    """The lens on one latent of one answer: over every image, and in words."""

    index: int
    pictures: tuple[ImageLens, ...]
    words: WordLens


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """The vision tower's output for an image: merged patches [P, D] in raster order, and their grid (rows, columns)."""

    name: str
    patches: Tensor
    grid: tuple[int, int]


def image_lens(latent: Tensor, mean: Tensor, image: EncodedImage, mean_patch: Tensor) -> ImageLens:
    """The lens on one latent [D] over one image.

    ``mean`` [D]: the mean latent of all instances at its index; ``mean_patch`` [D]: the mean patch of all images.
    """
    own, baseline = cosine_map(latent, image.patches, image.grid), cosine_map(mean, image.patches, image.grid)
    centred = cosine_map(latent - mean, image.patches - mean_patch, image.grid)
    return ImageLens(
        picture=image.name,
        cosine=_rounded(own),
        centred=_rounded(centred),
        mean=_rounded(baseline),
        nearest=nearest_patches(centred, NUM_PATCHES),
        like_mean=correlation(own, baseline),
    )


def cosine_map(vector: Tensor, patches: Tensor, grid: tuple[int, int]) -> Map:
    """Cosines of a vector [D] to patches [P, D], as [rows, columns]; 0 where either has length 0.

    InputError where the grid does not have P cells.
    """
    rows, columns = grid
    if rows * columns != len(patches):
        raise InputError(f"{len(patches)} patches do not fill a grid of {rows} rows and {columns} columns.")
    cosines = torch.nn.functional.cosine_similarity(vector.float()[None], patches.float(), dim=-1)
    return cosines.reshape(rows, columns).cpu().numpy()


def nearest_patches(cosines: Map, count: int) -> tuple[Patch, ...]:
    """The patches of the highest cosines in a map, highest first; ties in raster order."""
    order = np.argsort(-cosines, axis=None, kind="stable")[:count]
    return tuple(
        Patch(row=int(at) // cosines.shape[1], column=int(at) % cosines.shape[1], cosine=_round(cosines.flat[at]))
        for at in order
    )


def correlation(first: Map, second: Map) -> float | None:
    """Pearson's correlation of two maps over their patches; None where one of them is constant."""
    a, b = first.astype(np.float64).ravel() - first.mean(), second.astype(np.float64).ravel() - second.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    if first.size < 2 or min(float(np.ptp(first)), float(np.ptp(second))) < 1e-6:
        return None
    return _round(float(a @ b) / length)


def word_lenses(
    latents: Tensor, mean: Tensor, logits: Callable[[Tensor], Tensor], table: Tensor, token_text: TokenText
) -> list[list[WordLens]]:
    """The words nearest to latents [N, K, D] and to the mean latents [K, D] of their indices: N lists of K lenses.

    ``logits``: the model's output head, [n, D] to [n, V]; latents are last hidden states after the final norm, which is
    the input of the head. ``table`` [V, D]: the embeddings of all tokens.
    """
    num_latents = latents.shape[1]
    states = torch.cat([mean, latents.flatten(0, 1)])
    head, nearest = by_head(logits(states), token_text), by_embedding(states, table, token_text)
    lenses = [
        WordLens(head=head[at], head_mean=head[index], embedding=nearest[at], embedding_mean=nearest[index])
        for at, index in ((at, at % num_latents) for at in range(num_latents, len(states)))
    ]
    return [lenses[at : at + num_latents] for at in range(0, len(lenses), num_latents)]


def by_head(logits: Tensor, token_text: TokenText) -> list[tuple[Word, ...]]:
    """The most likely tokens under logits [n, V], with their probabilities."""
    return _top(logits.float().softmax(-1), token_text)


def by_embedding(latents: Tensor, table: Tensor, token_text: TokenText) -> list[tuple[Word, ...]]:
    """The tokens whose embeddings (rows of ``table`` [V, D]) have the highest cosine to latents [n, D]."""
    unit = torch.nn.functional.normalize(table.float(), dim=-1)
    return _top(torch.nn.functional.normalize(latents.float(), dim=-1) @ unit.T, token_text)


def _top(scores: Tensor, token_text: TokenText) -> list[tuple[Word, ...]]:
    best = scores.topk(min(NUM_WORDS, scores.shape[-1]), dim=-1)
    return [
        tuple(
            Word(text=token_text(int(token)), score=_round(float(score)))
            for token, score in zip(ids, values, strict=True)
        )
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _rounded(cosines: Map) -> tuple[tuple[float, ...], ...]:
    """A map rounded to four digits, so that the bytes of a page do not depend on the last bits of a sum."""
    return tuple(tuple(_round(value) for value in row) for row in cosines.tolist())


def _round(value: float) -> float:
    return round(float(value), 4) + 0.0  # no -0.0


def all_match_mean_latent(lenses: Sequence[LatentLens]) -> bool:
    """Whether no lens on an answer's latents shows anything that the mean latent does not show."""
    return all(
        lens.words.matches_mean_latent and all(image.matches_mean_latent for image in lens.pictures) for lens in lenses
    )
