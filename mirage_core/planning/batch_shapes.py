"""The shape of a stage's micro-batch, from the token counts of a recipe's rows.

Legend: k latents a span.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mirage_core.config import Settings
from mirage_core.methods import TRAIN_STAGES
from mirage_core.planning.activations import Batch, rollout_passes
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.token_counts import RecipeRows

WARMUP_FRAME = 16
"""Tokens of a warm-up example besides its image and answer (training/warmup/tasks.py)."""
AUXILIARY_LABELS = 20
"""Tokens that label the images where the auxiliary image is an input (benchmarks/auxiliary_input.py)."""


def sees_auxiliary(name: str) -> bool:
    """Return whether a training stage reads auxiliary images: as an input, as targets that are fed, or to pool them."""
    stage = TRAIN_STAGES[name]
    program = stage.program
    return program.reads_auxiliary or program.shows_auxiliary or stage.data == "auxiliary-examples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Token counts of one row that represents all rows: the maximum of each part, or its rounded mean.

    ``regions``: the tokens of all spans where regions of the image are their latents, ``crops``: those encoded anew;
    ``spans``: the spans of ``num_latents`` where each auxiliary image of a chain has one.
    ``reread``: latents that are encoded a second time for the text after them; ``blank``: spans hold tokens or given
    vectors, so there is no rollout; ``teacher_forced``: grounding feeds target latents only.
    """

    prompt: int
    image: int
    before: int
    after: int
    caption: int
    auxiliary: int
    steps: int = 1
    regions: int = 0
    crops: int = 0
    spans: int = 1
    num_latents: int
    reread: int = 0
    blank: bool = False
    teacher_forced: bool = True

    @classmethod
    def longest(cls, rows: RecipeRows, settings: Settings) -> Shape:
        """The maximum of every part."""
        return cls(**_spans(settings) | {name: rows.max(name) for name in _PARTS})

    @classmethod
    def mean(cls, rows: RecipeRows, settings: Settings) -> Shape:
        """The mean of every part."""
        return cls(**_spans(settings) | {name: round(rows.mean(name)) for name in _PARTS})

    def batch(self, name: str, count: int, padded: bool) -> Batch:
        """Return ``count`` rows for a training stage; ``padded``: rows of different lengths share a batch."""
        mixed_lengths = padded and count > 1
        stage = TRAIN_STAGES[name]
        if stage.program.targets == "regions" and self.regions:
            reread = self.regions if self.reread else 0
            own = replace(self, num_latents=self.regions, reread=reread, image=self.image + self.crops, regions=0)
            return own.batch(name, count, padded)
        if stage.program.observes and self.spans > 1:
            borders = (self.spans - 1) * 2 * (stage.latents + stage.program.shows_auxiliary)
            latents = self.spans * self.num_latents
            return replace(self, num_latents=latents, before=self.before + borders, spans=1).batch(name, count, padded)
        caption, text = self.caption if stage.data == "captions" else 0, self.before + self.after
        if not stage.latents:
            caption = self.num_latents + 2 if stage.data == "visual-codes" else caption  # codes and their borders
            return self.in_words(count, padded, caption, self.auxiliary if sees_auxiliary(name) else 0)
        observed = caption if stage.program.observes else 0
        prefix, labels = self.prompt + self.before + 1, text + observed + 3
        prefix += self.auxiliary + 2 if stage.program.shows_auxiliary else 0
        labels = self.after if stage.program.pooler == "trained" else labels
        features = self.image + (self.auxiliary if sees_auxiliary(name) else 0)
        if stage.program.teacher != "none":  # up to the last latent, then all again in parallel
            passes = (*self._passes(prefix, 1), prefix + self.num_latents + 1 + caption + self.after)
        elif self.rolls_out(name):
            passes = self._passes(prefix, self.after + 1)
        else:
            passes = (prefix + self.num_latents + self.reread + 1 + self.after,)
        return Batch(rows=count, passes=passes, labels=labels, padded=mixed_lengths, image_features=features)

    def in_words(self, count: int, padded: bool, caption: int, shown: int = 0) -> Batch:
        """Return ``count`` rows without latents; ``shown``: tokens of the auxiliary image as an input."""
        text = self.before + self.after + caption
        return Batch(
            rows=count,
            passes=(self.prompt + text + (shown + AUXILIARY_LABELS if shown else 0),),
            labels=text + 1,
            padded=padded and count > 1,
            image_features=self.image + shown,
        )

    def rolls_out(self, name: str) -> bool:
        """Return whether a stage runs one forward pass for each latent."""
        program = TRAIN_STAGES[name].program
        if program.pooler == "trained":
            return False
        fed = self.teacher_forced or program.targets == "regions"
        return program.latents == "rolled_out" or (program.latents == "teacher_forced" and not fed)

    def answers(self, prompts: int, count: int, tokens: int) -> Batch:
        """Return ``count`` answers of ``tokens`` text tokens and one span to ``prompts`` prompts, encoded once."""
        prefix = 2 + min(self.before, tokens // 2)
        passes = self._passes(prefix, tokens - prefix + 1)
        return Batch(
            rows=count,
            passes=passes,
            labels=tokens,
            prompts=prompts,
            prompt=self.prompt - 1,
            padded=count > 1,
            image_features=self.image,
        )

    def _passes(self, prefix: int, after: int) -> tuple[int, ...]:
        """Return the columns of each pass: ``prefix`` tokens up to latent_start, one span, ``after`` tokens."""
        if self.blank:
            return (prefix + self.num_latents + self.reread + after,)
        return rollout_passes(prefix, self.reread + after, self.num_latents)


def _spans(settings: Settings) -> dict[str, Any]:
    """Return the latents of a span, those encoded again after it, and how they are fed."""
    latent = settings.latent
    span = latent.num_latents if latent.length == "fixed" else latent.max_latents  # the longest, for frames
    reread = span if latent.bottleneck == "latent_only" else 0
    blank = not latent.rolls_out
    teacher_forced = blank or settings.grounding.horizon == 1
    return {"num_latents": span, "reread": reread, "blank": blank, "teacher_forced": teacher_forced}


_PARTS = ("prompt", "image", "before", "after", "caption", "auxiliary", "steps", "regions", "crops", "spans")


def exercises(sizes: ModelSizes, level: int, count: int) -> Batch:
    """Return ``count`` warm-up examples of a level: an image, and its map as symbols."""
    answer = level * (level + 1) + 3
    return Batch(
        rows=count,
        passes=(level**2 + WARMUP_FRAME + answer,),
        labels=answer,
        patches=sizes.merged_patches * level**2,
    )
