"""The shape of what a stage computes at once, from the lengths of a recipe's rows.

Legend: k latents a span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirage_core.config import Settings
from mirage_core.planning.activations import Batch, rolled_out
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.token_counts import RecipeRows

WARMUP_FRAME = 16
"""Tokens of a warm-up's exercise beside its picture and answer (training/warmup.py)."""
AUXILIARY_LABELS = 20
"""Tokens that label the pictures where the auxiliary one is an input (benchmarks/auxiliary_input.py)."""
ROLLED_OUT = ("relaxation", "without-stage-1")
"""The supervised stages whose latents are always the model's own; those of grounding with a horizon above 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The figures of a row that stands for all: its longest or its mean (rounded).

    ``read``: latents that the text after them reads again; ``blank``: blank tokens stand in a span, and nothing is
    rolled out; ``led``: grounding feeds targets alone.
    """

    prompt: int
    image: int
    before: int
    after: int
    caption: int
    auxiliary: int
    num_latents: int
    read: int = 0
    blank: bool = False
    led: bool = True

    @classmethod
    def most(cls, rows: RecipeRows, settings: Settings) -> Shape:
        """As long as any in every part."""
        return cls(**_spans(settings) | {name: rows.most(name) for name in _PARTS})

    @classmethod
    def mean(cls, rows: RecipeRows, settings: Settings) -> Shape:
        """As long as they are on average."""
        return cls(**_spans(settings) | {name: round(rows.mean(name)) for name in _PARTS})

    def batch(self, name: str, count: int, padded: bool) -> Batch:
        """So many rows of it for a training stage; ``padded``: rows of several lengths come together."""
        differ = padded and count > 1
        text = self.before + self.after
        if name in ("direct-sft", "auxiliary-input", "capimagine"):
            caption = self.caption if name == "capimagine" else 0
            shown = self.auxiliary if name == "auxiliary-input" else 0
            length = self.prompt + text + caption + (shown + AUXILIARY_LABELS if shown else 0)
            given = self.image + shown
            return Batch(rows=count, passes=(length,), labels=text + caption + 1, padded=differ, fed=given)
        begun, labels = self.prompt + self.before + 1, text + 3
        given = self.image + (0 if name in ROLLED_OUT else self.auxiliary)
        if self.rolls_out(name):
            passes = self._passes(begun, self.after + 1)
            return Batch(rows=count, passes=passes, labels=labels, padded=differ, fed=given)
        length = begun + self.num_latents + self.read + 1 + self.after
        return Batch(rows=count, passes=(length,), labels=labels, padded=differ, fed=given)

    def rolls_out(self, name: str) -> bool:
        """Whether a stage takes a pass a latent."""
        return name in ROLLED_OUT or (name == "grounding" and not self.led)

    def answers(self, prompts: int, count: int, tokens: int) -> Batch:
        """So many answers of ``tokens`` text tokens with one span, to ``prompts`` prompts that are encoded once."""
        begun = 2 + min(self.before, tokens // 2)
        passes = self._passes(begun, tokens - begun + 1)
        return Batch(
            rows=count,
            passes=passes,
            labels=tokens,
            prompts=prompts,
            prompt=self.prompt - 1,
            padded=count > 1,
            fed=self.image,
        )

    def _passes(self, begun: int, after: int) -> tuple[int, ...]:
        """The columns of the passes of rows with one span, between so many tokens up to latent_start and after it."""
        if self.blank:
            return (begun + self.num_latents + self.read + after,)
        return rolled_out(begun, self.read + after, self.num_latents)


def _spans(settings: Settings) -> dict[str, Any]:
    """What a recipe has in a span, and behind it."""
    latent = settings.latent
    again = latent.num_latents if latent.bottleneck == "latent_only" else 0
    blank = latent.fed == "blank"
    led = blank or settings.grounding.horizon == 1
    return {"num_latents": latent.num_latents, "read": again, "blank": blank, "led": led}


_PARTS = ("prompt", "image", "before", "after", "caption", "auxiliary")


def exercises(sizes: ModelSizes, level: int, count: int) -> Batch:
    """So many warm-up exercises of a level: a picture, and its map in symbols."""
    answer = level * (level + 1) + 3
    return Batch(
        rows=count,
        passes=(level**2 + WARMUP_FRAME + answer,),
        labels=answer,
        patches=sizes.merged_patches * level**2,
    )
