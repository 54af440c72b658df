"""Set stepwise grounding up for a job: the heads, and where the targets of its examples come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mirage_core.config import Settings, StepwiseSettings
from mirage_core.latent.encoder import Encoder, span_length
from mirage_core.model.loading import LoadedModel
from mirage_core.model.weights import SavedModule
from mirage_core.training.loop import step_seed
from mirage_core.training.stepwise.codebook import Codebook
from mirage_core.training.stepwise.heads import HEADS_FILE, StepHeads, head_metadata
from mirage_core.training.stepwise.targets import CELLS, KINDS, StepTargets, Vocabulary, label_targets
from mirage_core.training.stepwise.visual_targets import (
    FilmReader,
    VisualTargets,
    code_shares,
    mean_features,
    read_films,
    shared_codebook,
)
from mirage_core.types import Split, TrainingExample

_HEADS_SEED = 17


class TargetSource(Protocol):
    """Where the targets of examples come from."""

    def get(self, index: int) -> StepTargets:
        """Return the targets of the example of an index."""


@dataclass(frozen=True)
class FilmData:
    """Examples of a split (without frames), the ``indices`` that are used, the artifact's ``folder`` that holds their
    frames, and a ``scratch`` folder of all processes of a machine."""

    examples: Sequence[TrainingExample]
    split: Split
    indices: Sequence[int]
    folder: Path
    scratch: Path


@dataclass(frozen=True)
class Stepwise:
    """The heads of a job, the targets of its examples, and the names of the heads' classes.

    ``longest``: the most latents of a span; ``image_pad``: the token that a pointer points at, None without one.
    ``make_targets`` returns the targets of other examples (validation).
    """

    heads: StepHeads
    targets: TargetSource
    names: Mapping[str, Any]
    longest: int
    image_pad: int | None
    make_targets: Callable[[FilmData], TargetSource]

    @property
    def saved(self) -> tuple[SavedModule, ...]:
        """The heads, to be saved beside the model."""
        return (SavedModule(self.heads, HEADS_FILE, head_metadata(self.heads.settings, self.names)),)

    def on(self, data: FilmData) -> Stepwise:
        """The same heads on other examples."""
        return replace(self, targets=self.make_targets(data))


@dataclass(frozen=True)
class LabelTargets:
    """Targets from the labels of a world; ``latents`` returns the number of latents of an example."""

    examples: Sequence[TrainingExample]
    settings: StepwiseSettings
    cells: Vocabulary
    kinds: Vocabulary
    latents: Callable[[TrainingExample], int]

    def get(self, index: int) -> StepTargets:
        """Return the targets of the example of an index."""
        example = self.examples[index]
        details, latents = example.auxiliary_image.details, self.latents(example)
        return StepTargets(
            where=label_targets(details, CELLS, self.cells, latents, self.settings),
            what=label_targets(details, KINDS, self.kinds, latents, self.settings),
        )


@dataclass(frozen=True)
class MixedTargets:
    """Targets of which one comes from labels, the other from images."""

    where: TargetSource
    what: TargetSource

    def get(self, index: int) -> StepTargets:
        """Return the targets of the example of an index."""
        return StepTargets(where=self.where.get(index).where, what=self.what.get(index).what)


def make_stepwise(
    settings: StepwiseSettings, recipe: Settings, model: LoadedModel, data: FilmData, seed: int
) -> Stepwise:
    """Return the heads and targets of a job on its training examples.

    SettingsError where no example has the labels that a head needs, DataError where one has no frames.
    """
    maker = _TargetMaker(settings, recipe, model, data, seed)
    backbone, book = model.backbone, maker.book
    heads = make_heads(backbone.hidden_size, settings, maker.cells, maker.kinds, book, seed)
    names = {CELLS: maker.cells.names, KINDS: maker.kinds.names}
    pointer = model.ids.image_pad if settings.where_head == "pointer" else None
    longest = recipe.latent.span_limit
    return Stepwise(heads.to(backbone.dtype), maker(data), names, longest, pointer, maker)


class _TargetMaker:
    """Makes the targets of examples by what was learned from the training examples: label names, codebook."""

    def __init__(
        self, settings: StepwiseSettings, recipe: Settings, model: LoadedModel, data: FilmData, seed: int
    ) -> None:
        self._settings, self._recipe = settings, recipe
        where, what, none = settings.where_head, settings.what_head, Vocabulary(())
        self.cells = Vocabulary.of(data.examples, CELLS) if where == "cell" else none
        self.kinds = Vocabulary.of(data.examples, KINDS) if what == "kind" else none
        encoder = Encoder(model.processor, recipe.latent, recipe.prompt, recipe.teacher.variant)
        self._reader = FilmReader(encoder, model.backbone, settings)
        needs_book = what in ("codebook", "contrastive")
        self.book = shared_codebook(self._reader, data.folder, settings, data.scratch, seed) if needs_book else None

    def __call__(self, data: FilmData) -> TargetSource:
        labels = LabelTargets(data.examples, self._settings, self.cells, self.kinds, self._latents)
        points = self._settings.where_head == "pointer"
        if not points and self.book is None:
            return labels
        files = read_films(self._reader, data.folder, data.split, data.indices, data.scratch, self._describe)
        seen = VisualTargets(files, self._settings, lambda index: self._latents(data.examples[index]))
        return MixedTargets(where=seen if points else labels, what=labels if self.book is None else seen)

    def _latents(self, example: TrainingExample) -> int:
        return span_length(example.auxiliary_image, self._recipe.latent)

    @property
    def _describe(self) -> Callable[[Sequence[Tensor]], Tensor] | None:
        if self.book is None:
            return None
        return (code_shares if self._settings.what_head == "codebook" else mean_features)(self.book)


def make_heads(
    hidden_size: int,
    settings: StepwiseSettings,
    cells: Vocabulary,
    kinds: Vocabulary,
    book: Codebook | None,
    seed: int,
) -> StepHeads:
    """Return the heads with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0, _HEADS_SEED))
        codes, centre = (None, None) if book is None else (book.codes, book.centre)
        return StepHeads(hidden_size, settings, len(cells.names), len(kinds.names), codes, centre)
