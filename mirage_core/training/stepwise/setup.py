"""Set stepwise grounding up for a job: the heads, and where the targets of its examples come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from mirage_core.config import Settings, StepwiseSettings
from mirage_core.model.loading import LoadedModel
from mirage_core.model.weights import SavedModule
from mirage_core.training.loop import step_seed
from mirage_core.training.stepwise.heads import HEADS_FILE, StepHeads, head_metadata
from mirage_core.training.stepwise.targets import CELLS, KINDS, StepTargets, Vocabulary, label_targets
from mirage_core.types import TrainingExample

_HEADS_SEED = 17


class TargetSource(Protocol):
    """Where the targets of examples come from."""

    def get(self, index: int) -> StepTargets:
        """Return the targets of the example of an index."""


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
    make_targets: Callable[[Sequence[TrainingExample]], TargetSource]

    @property
    def saved(self) -> tuple[SavedModule, ...]:
        """The heads, to be saved beside the model."""
        return (SavedModule(self.heads, HEADS_FILE, head_metadata(self.heads.settings, self.names)),)

    def on(self, examples: Sequence[TrainingExample]) -> Stepwise:
        """The same heads on other examples."""
        return replace(self, targets=self.make_targets(examples))


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


def make_stepwise(
    settings: StepwiseSettings,
    recipe: Settings,
    model: LoadedModel,
    examples: Sequence[TrainingExample],
    seed: int,
) -> Stepwise:
    """Return the heads and targets of a job on its training examples; SettingsError where these lack labels."""
    cells, kinds = Vocabulary.of(examples, CELLS), Vocabulary.of(examples, KINDS)
    latents = recipe.latent.num_latents

    def targets(of: Sequence[TrainingExample]) -> TargetSource:
        return LabelTargets(of, settings, cells, kinds, lambda example: latents)

    backbone = model.backbone
    heads = make_heads(backbone.hidden_size, settings, len(cells.names), len(kinds.names), seed).to(backbone.dtype)
    names = {CELLS: cells.names, KINDS: kinds.names}
    return Stepwise(heads, targets(examples), names, latents, None, targets)


def make_heads(hidden_size: int, settings: StepwiseSettings, places: int, kinds: int, seed: int) -> StepHeads:
    """Return the heads with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0, _HEADS_SEED))
        return StepHeads(hidden_size, settings, places, kinds)
