"""Set stepwise grounding up for a job: the heads, and where the targets of its examples come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mirage_core.config import Settings, StepwiseSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.latent.encoder import Encoder, span_length
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.loading import LoadedModel
from mirage_core.model.weights import SavedModule
from mirage_core.synthesis.labels import CELLS, KINDS
from mirage_core.training.loop import step_seed
from mirage_core.training.stepwise.codebook import Codebook
from mirage_core.training.stepwise.heads import StepHeads, head_metadata
from mirage_core.training.stepwise.plan_tokens import PlanTokens
from mirage_core.training.stepwise.targets import StepTargets, Vocabulary, label_targets
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
_OTHERS_SEED = 19


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
    ``make_targets`` returns the targets of other examples (validation). ``plans``: what is held are the tokens of a
    plan, of which it knows the columns; None: latents.
    """

    heads: StepHeads
    targets: TargetSource
    names: Mapping[str, Any]
    longest: int
    image_pad: int | None
    make_targets: Callable[[FilmData], TargetSource]
    plans: PlanTokens | None = None

    @property
    def saved(self) -> tuple[SavedModule, ...]:
        """The heads, to be saved beside the model that thinks in latents."""
        if self.plans is not None:
            return ()
        return (SavedModule(self.heads, HEADS_FILE, head_metadata(self.heads.settings, self.names)),)

    def on(self, data: FilmData) -> Stepwise:
        """The same heads on other examples."""
        plans = None if self.plans is None else replace(self.plans, examples=data.examples)
        return replace(self, targets=self.make_targets(data), plans=plans)


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


@dataclass(frozen=True)
class OtherFilms:
    """The targets of other examples in the place of the own ones: a control. ``others``: by index."""

    source: TargetSource
    others: Mapping[int, int]

    def get(self, index: int) -> StepTargets:
        """Return the targets of the example whose film stands in for that of this one."""
        return self.source.get(self.others[index])


def others(data: FilmData, seed: int) -> dict[int, int]:
    """Return another example for each, of the same benchmark and level, in an order that depends on the seed alone.

    DataError where a level has one example only.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index in data.indices:
        problem = data.examples[index].problem
        groups.setdefault((problem.benchmark, problem.group), []).append(index)
    chosen: dict[int, int] = {}
    for (benchmark, group), indices in groups.items():
        if len(indices) < 2:
            raise DataError(f"{benchmark} {group} has one {data.split} example; stepwise.frames other needs two")
        order = np.random.default_rng([seed, _OTHERS_SEED, len(indices)]).permutation(indices).tolist()
        chosen |= dict(zip(order, [*order[1:], order[0]], strict=True))
    return chosen


def make_stepwise(
    settings: StepwiseSettings, recipe: Settings, model: LoadedModel, data: FilmData, seed: int, *, latents: bool = True
) -> Stepwise:
    """Return the heads and targets of a job on its training examples; ``latents`` False: of the tokens of a plan.

    SettingsError where no example has the labels that a head needs, DataError where one has no frames.
    """
    maker = _TargetMaker(settings, recipe, model, data, seed, latents)
    backbone, book = model.backbone, maker.book
    heads = make_heads(backbone.hidden_size, settings, maker.cells, maker.kinds, book, seed)
    names = {CELLS: maker.cells.names, KINDS: maker.kinds.names}
    pointer = model.ids.image_pad if settings.where_head == "pointer" else None
    longest = recipe.latent.span_limit if latents else recipe.problems.plan_length_max
    plans = None if latents else PlanTokens(data.examples, model.processor.tokenizer)
    return Stepwise(heads.to(backbone.dtype), maker(data), names, longest, pointer, maker, plans)


class _TargetMaker:
    """Makes the targets of examples by what was learned from the training examples: label names, codebook."""

    def __init__(
        self,
        settings: StepwiseSettings,
        recipe: Settings,
        model: LoadedModel,
        data: FilmData,
        seed: int,
        latents: bool = True,
    ) -> None:
        self._settings, self._recipe, self._seed, self._of_latents = settings, recipe, seed, latents
        if settings.frames == "other" and (recipe.latent.length != "fixed" or not latents):
            raise SettingsError(
                "stepwise.frames is other, and another film has another length: set latent.length to fixed; the tokens "
                "of a plan (direct_sft.stepwise) cannot be held to it"
            )
        if not latents and recipe.auxiliary_images.film != "forward":
            raise SettingsError(
                f"direct_sft.stepwise holds the moves of a plan in their order, and auxiliary_images.film is "
                f"{recipe.auxiliary_images.film}: set it to forward"
            )
        where, what, none = settings.where_head, settings.what_head, Vocabulary(())
        self.cells = Vocabulary.of(data.examples, CELLS) if where == "cell" else none
        self.kinds = Vocabulary.of(data.examples, KINDS) if what == "kind" else none
        encoder = Encoder(model.processor, recipe.latent, recipe.prompt, recipe.teacher.variant)
        self._reader = FilmReader(encoder, model.backbone, settings)
        needs_book = what in ("codebook", "contrastive")
        self.book = shared_codebook(self._reader, data.folder, settings, data.scratch, seed) if needs_book else None

    def __call__(self, data: FilmData) -> TargetSource:
        source = self._own_films(data)
        return source if self._settings.frames != "other" else OtherFilms(source, others(data, self._seed))

    def _own_films(self, data: FilmData) -> TargetSource:
        labels = LabelTargets(data.examples, self._settings, self.cells, self.kinds, self._latents)
        points = self._settings.where_head == "pointer"
        if not points and self.book is None:
            return labels
        files = read_films(self._reader, data.folder, data.split, data.indices, data.scratch, self._describe)
        seen = VisualTargets(files, self._settings, lambda index: self._latents(data.examples[index]))
        return MixedTargets(where=seen if points else labels, what=labels if self.book is None else seen)

    def _latents(self, example: TrainingExample) -> int:
        """How many latents an example has; moves, where the tokens of the plan are held."""
        if not self._of_latents:
            return int(example.auxiliary_image.details.get("frames", 0))
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
