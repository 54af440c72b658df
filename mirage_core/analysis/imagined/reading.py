"""Read the latents of an answer with the heads that they were trained with, beside the true film where one is known.

Legend: k latents, D hidden, W tokens of the problem's first image, C codes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mirage_core.analysis.collect import image_states
from mirage_core.analysis.imagined.records import ImaginedStep, Kind, Place
from mirage_core.analysis.imagined.truth import TrueFilm, true_film
from mirage_core.config import InferenceSettings, Settings, StepwiseSettings
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.forward.feed_norm import own_norms
from mirage_core.model.loading import LoadedModel
from mirage_core.synthesis.labels import CELLS, KINDS
from mirage_core.training.stepwise.heads import AppearanceHead, PointerHead, StepHeads, load_heads
from mirage_core.training.stepwise.targets import frames_of_latents
from mirage_core.training.stepwise.visual_targets import FilmReader
from mirage_core.types import Problem

Grid = tuple[tuple[float, ...], ...]
NUM_KINDS = 3
_BATCH = 32


@dataclass(frozen=True, slots=True)
class SeenImage:
    """What a pointer can point at: the last hidden ``states`` [W, D] of the first image's tokens, row by row."""

    states: Tensor
    rows: int
    columns: int


@dataclass(frozen=True)
class ImaginationReader:
    """The heads of one model and the names of their classes; ``settings``: the recipe that films are drawn by."""

    heads: StepHeads
    names: dict[str, Any]
    loaded: LoadedModel
    settings: Settings

    @classmethod
    def of(cls, folder: Path, loaded: LoadedModel, settings: Settings) -> ImaginationReader | None:
        """The reader of a model folder; None where it has no heads, or feeds no hidden states that they could read."""
        latent = InferenceSettings.from_metadata(loaded.about, settings).latent
        if not (folder / HEADS_FILE).is_file() or not latent.rolls_out:
            return None
        heads, names = load_heads(folder, loaded.backbone.hidden_size)
        return cls(heads.eval(), names, loaded, settings)

    @property
    def stepwise(self) -> StepwiseSettings:
        """The settings that the heads were trained with."""
        return self.heads.settings

    @cached_property
    def _encoder(self) -> Encoder:
        inference = InferenceSettings.from_metadata(self.loaded.about, self.settings)
        return Encoder(self.loaded.processor, inference.latent, inference.prompt, inference.variant)

    def read(self, problems: Sequence[Problem], latents: Sequence[Tensor]) -> list[tuple[ImaginedStep, ...]]:
        """Return what was imagined in each answer's latents [k, D]: a step a latent."""
        films: list[tuple[ImaginedStep, ...]] = []
        for first in range(0, len(problems), _BATCH):
            part = problems[first : first + _BATCH]
            seen = self.seen([self._encoder.prompt(each) for each in part]) if self._points else [None] * len(part)
            films += [
                self.film(problem, own, image)
                for problem, own, image in zip(part, latents[first : first + _BATCH], seen, strict=True)
            ]
        return films

    def seen(self, prompts: Sequence[EncodedPrompt]) -> list[SeenImage | None]:
        """What the latents of answers to these prompts can point at; None without a pointer, or without an image."""
        if not self._points:
            return [None] * len(prompts)
        states = image_states(self.loaded, prompts)
        return [self._seen(prompt, own.states) for prompt, own in zip(prompts, states, strict=True)]

    def _seen(self, prompt: EncodedPrompt, states: Tensor) -> SeenImage | None:
        if not len(prompt.grid_thw):
            return None
        merge = int(self.loaded.processor.image_processor.merge_size)
        rows, columns = (int(size) // merge for size in prompt.grid_thw[0, 1:])
        return SeenImage(states[: rows * columns], rows, columns)

    @torch.no_grad()
    def film(self, problem: Problem, latents: Tensor, image: SeenImage | None) -> tuple[ImaginedStep, ...]:
        """Return what latents [k, D] of an answer, as they were fed, imagine: a step a latent.

        The truth is that of the problem's first k frames.
        """
        (truth, frames), states = self.truth(problem, len(latents)), self._states(latents)
        one_each = self.stepwise.pace == "frame" and self.stepwise.frames == "film"
        places, kinds = self._places(problem, states, image), self._kinds(states)
        return tuple(
            ImaginedStep(
                index=index,
                places=places[index][0] if places else (),
                place=places[index][1] if places else None,
                kinds=kinds[index] if kinds else (),
                true_places=() if frame is None or not places else truth.places[frame],
                true_kind=None if frame is None or not kinds else truth.kinds[frame],
                frame=frame,
                after_end=one_each and 0 < truth.frames <= index,
            )
            for index, frame in enumerate(frames)
        )

    @property
    def _points(self) -> bool:
        return self.stepwise.where_head == "pointer"

    def _states(self, latents: Tensor) -> Tensor:
        """The last hidden states [k, D], which the heads read, of latents [k, D] as they were fed."""
        states = latents.float().cpu()
        return own_norms(states, self.loaded.backbone.norm_weight) if self._rescaled else states

    @cached_property
    def _rescaled(self) -> bool:
        return InferenceSettings.from_metadata(self.loaded.about, self.settings).latent.feed_norm != "own"

    def truth(self, problem: Problem, count: int) -> tuple[TrueFilm, list[int | None]]:
        """Return the true film of a problem, and the frame that each of ``count`` latents is held to; None: nothing."""
        reader = FilmReader(self._encoder, self.loaded.backbone, self.stepwise)
        truth = true_film(problem, self.settings, reader, self.heads.book)
        return truth, frames_of_latents(truth.frames, count, self.stepwise) if truth.frames else [None] * count

    def _places(self, problem: Problem, latents: Tensor, image: SeenImage | None) -> list[tuple[Grid, Place]]:
        """The probabilities of places, and the likeliest, of each latent; none without a head or an image to point at.

        What the problem's map does not have is left out of the probabilities, and can still be the likeliest.
        """
        where = self.heads.where
        if isinstance(where, PointerHead):
            if image is None:
                return []
            rows, columns = image.rows, image.columns
            cells = [divmod(token, columns) for token in range(rows * columns)]
            scores = where(latents, image.states[None], torch.zeros(len(latents), dtype=torch.long))
        elif where is not None:
            cells = [tuple(json.loads(name)) for name in self.names[CELLS]]
            rows, columns = _shape(problem, cells)
            scores = where(latents)
        else:
            return []
        shares = scores.softmax(-1)
        grids = torch.zeros(len(latents), rows, columns)
        for at, (row, column) in enumerate(cells):
            if row < rows and column < columns:
                grids[:, row, column] = shares[:, at]
        rounded = [tuple(tuple(round(value, 4) + 0.0 for value in row) for row in grid) for grid in grids.tolist()]
        return [(grid, cells[at]) for grid, at in zip(rounded, scores.argmax(-1).tolist(), strict=True)]

    def _kinds(self, latents: Tensor) -> list[tuple[Kind, ...]]:
        """The likeliest kinds of each latent; none without the head."""
        what, codes = self.heads.what, self.heads.codes
        if what is None:
            return []
        if isinstance(what, AppearanceHead) and codes is not None:
            query = normalize(what.query(latents).float(), dim=-1)
            scores = query @ normalize(codes.float(), dim=-1).T / what.temperature
        else:
            scores = what(latents)
        names = [json.loads(name) for name in self.names.get(KINDS, ())] or [
            f"appearance {code + 1}" for code in range(scores.shape[1])
        ]
        best = scores.float().softmax(-1).topk(min(NUM_KINDS, scores.shape[1]))
        return [
            tuple(Kind(name=str(names[at]), probability=round(value, 4)) for at, value in zip(row, values, strict=True))
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _shape(problem: Problem, cells: Sequence[Place]) -> tuple[int, int]:
    """Rows and columns of the problem's map; of all cells without one."""
    known = problem.facts.get("map")
    return (len(known), len(known[0])) if known else (max(row for row, _ in cells) + 1, max(at for _, at in cells) + 1)
