"""Latents of a clean run, sorted by what they imagine: what a film is put together from by hand.

Legend: n instances, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mirage_core.analysis.imagined.implied import kind_of
from mirage_core.analysis.imagined.records import ImaginedStep, Kind, Place
from mirage_core.evaluation.pictures import Units
from mirage_core.generation.interventions import SpanStates, shift_states
from mirage_core.model.backbone import Backbone
from mirage_core.worlds.maze import Maze

Content = tuple[Place | None, str | None]
"""What a latent imagines: a place, and the kind of cell there; None where no head reads it."""

MIN_AT_STEP = 3
"""Latents of other instances at the same step that a mean needs; with fewer, those of all steps are averaged."""


@dataclass(frozen=True)
class LatentBank:
    """Latents [n, k, D], what each of them imagines [n][k], and the units [n] of their instances."""

    latents: Tensor
    contents: Sequence[Sequence[Content]]
    units: Units

    @cached_property
    def _found(self) -> dict[Content, list[tuple[int, int]]]:
        found: dict[Content, list[tuple[int, int]]] = {}
        for at, film in enumerate(self.contents):
            for step, content in enumerate(film):
                found.setdefault(content, []).append((at, step))
        return found

    def sources(self, content: Content, step: int, instance: int) -> list[tuple[int, int]]:
        """Return which latents (instance, step) are averaged for ``instance``: none of its own, or of its picture."""
        others = [each for each in self._found.get(content, ()) if self.units[each[0]] != self.units[instance]]
        here = [each for each in others if each[1] == step]
        return here if len(here) >= MIN_AT_STEP else others

    def latent(self, content: Content, step: int, instance: int) -> Tensor | None:
        """Return the mean latent [D] of others that imagine ``content``; None where none does."""
        sources = self.sources(content, step, instance)
        if not sources:
            return None
        rows, steps = (torch.tensor(numbers) for numbers in zip(*sources, strict=True))
        return self.latents[rows, steps].mean(0)

    def film(self, contents: Sequence[Content], instance: int) -> Tensor | None:
        """Return the latents [k, D] of a film put together by hand; None where one of them is lacking."""
        if not all(self.sources(content, step, instance) for step, content in enumerate(contents)):
            return None
        made = [self.latent(content, step, instance) for step, content in enumerate(contents)]
        return torch.stack([each for each in made if each is not None])

    def span_states(
        self,
        contents: Sequence[Content],
        latents: Tensor,
        instance: int,
        states: Sequence[SpanStates | None],
        backbone: Backbone,
    ) -> SpanStates | None:
        """Return the keys and values of a film of ``latents`` [k, D]; None where one of ``states`` [n] is lacking.

        They are the means of those of the same sources, rotated to the positions of ``instance`` first.
        """
        own, parts = states[instance], []
        for step, content in enumerate(contents):
            chosen = [(states[row], number) for row, number in self.sources(content, step, instance)]
            found = [(span, number) for span, number in chosen if span is not None]
            if own is None or not found:
                return None
            together = SpanStates(
                latents=torch.stack([span.latents[number] for span, number in found]),
                keys=torch.stack([span.keys[:, :, number] for span, number in found], dim=2),
                values=torch.stack([span.values[:, :, number] for span, number in found], dim=2),
                positions=torch.stack([span.positions[number] for span, number in found]),
            )
            parts.append(shift_states(backbone, together, own.positions[step].repeat(len(found))))
        return SpanStates(
            latents=latents,
            keys=torch.stack([part.keys.mean(2) for part in parts], dim=2),
            values=torch.stack([part.values.mean(2) for part in parts], dim=2),
            positions=torch.stack([part.positions[0] for part in parts]),
        )


def content_of(maze: Maze, step: ImaginedStep) -> Content:
    """Return what a step imagines; the kind is that of the map where the heads name no kinds of cells."""
    return step.place, kind_of(maze, step)


def imagined_as(contents: Sequence[Content]) -> tuple[ImaginedStep, ...]:
    """Return the film that latents of these contents imagine, as the heads would read it."""
    return tuple(
        ImaginedStep(index=index, place=place, kinds=() if kind is None else (Kind(name=kind, probability=1.0),))
        for index, (place, kind) in enumerate(contents)
    )
