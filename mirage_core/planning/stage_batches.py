"""The micro-batches that the steps of a training stage are made of: of one kind, or one for each stage of a curriculum.

Legend: S stages of a curriculum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mirage_core.config import CoconutSettings, Settings
from mirage_core.methods import TRAIN_STAGES
from mirage_core.planning.activations import Batch
from mirage_core.planning.batch_shapes import Shape
from mirage_core.training.sft.coconut import StageSchedule, stage_latents


@dataclass(frozen=True, slots=True)
class StageBatch:
    """A batch, the mean number of such batches in a step, and whether its latents are rolled out."""

    per_step: float
    batch: Batch
    rolls_out: bool


def stage_batches(
    shape: Shape,
    count: int,
    *,
    settings: Settings,
    name: str,
    steps: int,
    padded: bool,
    patches: int = 0,
    peak: bool = False,
) -> list[StageBatch]:
    """Return the batches of ``count`` rows of ``shape`` in a step of a training stage of so many ``steps``, on average.

    ``padded``: rows of different lengths share a batch. ``patches``: of a row's images, if the vision tower is trained.
    ``peak``: for memory: batches whose activations are alive at the same time are one, with the passes of all.
    """
    found = _stage_batches(shape, count, settings, name, steps, padded)
    if peak and TRAIN_STAGES[name].program.words == "distilled":
        found = [_together(*found)]
    return [replace(one, batch=replace(one.batch, patches=patches)) for one in found]


def _stage_batches(
    shape: Shape, count: int, settings: Settings, name: str, steps: int, padded: bool
) -> list[StageBatch]:
    program = TRAIN_STAGES[name].program
    if program.words == "distilled":
        words = StageBatch(1.0, shape.in_words(count, padded, shape.caption), rolls_out=False)
        return [words, StageBatch(1.0, shape.batch(name, count, padded), rolls_out=True)]
    if program.words != "replaced":
        return [StageBatch(1.0, shape.batch(name, count, padded), shape.rolls_out(name))]
    section = settings.section(program.name, CoconutSettings)
    shares = _shares(section, shape.steps, steps)
    return [
        StageBatch(share, _batch_of(stage, shape, section, settings, name, count, padded), stage > 0)
        for stage, share in enumerate(shares)
        if share
    ]


def _together(first: StageBatch, second: StageBatch) -> StageBatch:
    """Return both batches as one: a little too large, as if the second's passes read the first's keys and values."""
    one, other = first.batch, second.batch
    return StageBatch(1.0, replace(other, passes=(*one.passes, *other.passes), labels=one.labels + other.labels), True)


def _shares(section: CoconutSettings, reasoning: int, steps: int) -> list[float]:
    """Return the shares of rows in the stages 0 to S + 1; ``reasoning``: the steps of a chain, among which is drawn."""
    scheduled, last = StageSchedule(section, max(1, steps)).shares, section.stages + 1
    drawn = [0.0] * (last + 1)
    for stage in range(reasoning + 1):
        drawn[min(stage, last)] += 1 / (reasoning + 1)
    share = section.uniform_prob
    return [(1 - share) * own + share * other for own, other in zip(scheduled, drawn, strict=True)]


def _batch_of(
    stage: int, shape: Shape, section: CoconutSettings, settings: Settings, name: str, count: int, padded: bool
) -> Batch:
    """Return a batch of a stage of the curriculum: a caption's words are taken to be shared equally by its steps."""
    if stage == 0:
        return shape.in_words(count, padded, shape.caption)
    left = 0 if stage > section.stages else max(0, shape.steps - stage)
    latents = stage_latents(stage, shape.steps, section, settings.latent)
    staged = replace(
        shape,
        after=shape.after + round(shape.caption * left / shape.steps),
        num_latents=latents,
        reread=latents if shape.reread else 0,
    )
    return staged.batch(name, count, padded)
