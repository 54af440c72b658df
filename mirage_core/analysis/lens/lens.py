"""What latents look like: the image patches and the words nearest to each, beside those of the average latent.

States of one model all point much the same way (a constant vector has a cosine of .9 to everything), so a map of
cosines or a word means nothing by itself: every look stands beside the same look at the mean latent of all instances.
Legend: K latents, D hidden, P merged patches of a picture, V vocabulary.
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

NEAREST = 3
WORDS = 5
ALIKE = 0.9
"""Correlation with the mean latent's map from which a map is said to show nothing of its own."""

Map = NDArray[np.float32]
Decoded = Callable[[int], str]
"""A token's text by its id."""


class Patch(Record):
    """One merged patch of a picture, counted from 0, and its cosine to a latent."""

    row: int
    column: int
    cosine: float


class PictureLook(Record):
    """One latent over one picture."""

    picture: str = Field(description='"input", "input 2", ..., or "auxiliary": what stage 1 grounds in.')
    cosine: tuple[tuple[float, ...], ...] = Field(description="To each merged patch, [rows][columns].")
    centred: tuple[tuple[float, ...], ...] = Field(
        description="The same after the mean latent and the mean patch of all pictures were taken away."
    )
    mean: tuple[tuple[float, ...], ...] = Field(description="The mean latent's cosine to each patch: the baseline.")
    nearest: tuple[Patch, ...] = Field(description="Highest centred cosines first.")
    like_mean: float | None = Field(description="Correlation of `cosine` with `mean` over the patches.")

    @property
    def shows_nothing(self) -> bool:
        """Whether the map is the mean latent's."""
        return self.like_mean is not None and self.like_mean >= ALIKE


class Word(Record):
    """A token of the vocabulary, and its probability (by the head) or cosine (to its embedding)."""

    text: str
    score: float


class WordLook(Record):
    """What one latent would say as a word, and what the mean latent would."""

    head: tuple[Word, ...] = Field(description="The output head on the latent (logit lens): probabilities.")
    head_mean: tuple[Word, ...] = Field(description="The same of the mean latent.")
    embedding: tuple[Word, ...] = Field(description="Nearest rows of the embedding table: cosines.")
    embedding_mean: tuple[Word, ...] = Field(description="The same of the mean latent.")

    @property
    def shows_nothing(self) -> bool:
        """Whether the head reads the same first word in the mean latent."""
        return bool(self.head) and bool(self.head_mean) and self.head[0].text == self.head_mean[0].text


class LatentLook(Record):
    """One latent of one answer: over every picture, and in words."""

    index: int
    pictures: tuple[PictureLook, ...]
    words: WordLook


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A picture as the model's vision tower sees it: merged patches [P, D] in raster order, and their grid."""

    name: str
    patches: Tensor
    grid: tuple[int, int]


def picture_look(latent: Tensor, mean: Tensor, seen: Seen, centre: Tensor) -> PictureLook:
    """Look at one picture with one latent [D]; ``mean`` [D] is the mean of all instances at its place, ``centre`` [D]
    the mean patch of all pictures.
    """
    own, baseline = cosine_map(latent, seen.patches, seen.grid), cosine_map(mean, seen.patches, seen.grid)
    centred = cosine_map(latent - mean, seen.patches - centre, seen.grid)
    return PictureLook(
        picture=seen.name,
        cosine=_rounded(own),
        centred=_rounded(centred),
        mean=_rounded(baseline),
        nearest=nearest_patches(centred, NEAREST),
        like_mean=correlation(own, baseline),
    )


def cosine_map(vector: Tensor, patches: Tensor, grid: tuple[int, int]) -> Map:
    """Cosines of a vector [D] to patches [P, D], as [rows, columns]; 0 where either has no length.

    InputError when the grid does not have P places.
    """
    rows, columns = grid
    if rows * columns != len(patches):
        raise InputError(f"{len(patches)} patches do not fill a grid of {rows} rows and {columns} columns.")
    cosines = torch.nn.functional.cosine_similarity(vector.float()[None], patches.float(), dim=-1)
    return cosines.reshape(rows, columns).cpu().numpy()


def nearest_patches(cosines: Map, count: int) -> tuple[Patch, ...]:
    """The patches of the highest cosines in a map, the highest first; of equals the first in raster order."""
    order = np.argsort(-cosines, axis=None, kind="stable")[:count]
    return tuple(
        Patch(row=int(at) // cosines.shape[1], column=int(at) % cosines.shape[1], cosine=_round(cosines.flat[at]))
        for at in order
    )


def correlation(one: Map, other: Map) -> float | None:
    """Pearson's correlation of two maps over their patches; None where one of them is flat."""
    a, b = one.astype(np.float64).ravel() - one.mean(), other.astype(np.float64).ravel() - other.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    if one.size < 2 or min(float(np.ptp(one)), float(np.ptp(other))) < 1e-6:
        return None
    return _round(float(a @ b) / length)


def word_looks(
    latents: Tensor, mean: Tensor, logits: Callable[[Tensor], Tensor], table: Tensor, decoded: Decoded
) -> list[list[WordLook]]:
    """The words nearest to latents [N, K, D] and to the mean latents [K, D] of their places: N lists of K looks.

    ``logits``: the model's own head, [n, D] to [n, V]; latents are last hidden states after the final norm, which is
    what the head reads. ``table`` [V, D]: the embeddings of all tokens.
    """
    places = latents.shape[1]
    states = torch.cat([mean, latents.flatten(0, 1)])
    head, near = by_head(logits(states), decoded), by_embedding(states, table, decoded)
    looks = [
        WordLook(head=head[at], head_mean=head[place], embedding=near[at], embedding_mean=near[place])
        for at, place in ((at, at % places) for at in range(places, len(states)))
    ]
    return [looks[at : at + places] for at in range(0, len(looks), places)]


def by_head(logits: Tensor, decoded: Decoded) -> list[tuple[Word, ...]]:
    """The likeliest tokens under logits [n, V], with their probabilities."""
    return _top(logits.float().softmax(-1), decoded)


def by_embedding(latents: Tensor, table: Tensor, decoded: Decoded) -> list[tuple[Word, ...]]:
    """The tokens whose embeddings (rows of ``table`` [V, D]) have the highest cosine to latents [n, D]."""
    unit = torch.nn.functional.normalize(table.float(), dim=-1)
    return _top(torch.nn.functional.normalize(latents.float(), dim=-1) @ unit.T, decoded)


def _top(scores: Tensor, decoded: Decoded) -> list[tuple[Word, ...]]:
    best = scores.topk(min(WORDS, scores.shape[-1]), dim=-1)
    return [
        tuple(
            Word(text=decoded(int(token)), score=_round(float(score))) for token, score in zip(ids, values, strict=True)
        )
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _rounded(cosines: Map) -> tuple[tuple[float, ...], ...]:
    """Four digits: a page's bytes must not hang on the last bits of a sum."""
    return tuple(tuple(_round(value) for value in row) for row in cosines.tolist())


def _round(value: float) -> float:
    return round(float(value), 4) + 0.0  # no -0.0


def shows_nothing(looks: Sequence[LatentLook]) -> bool:
    """Whether no look at an answer's latents shows anything that the average latent does not."""
    over = [picture.shows_nothing for look in looks for picture in look.pictures]
    return all(over) and all(look.words.shows_nothing for look in looks)
