"""What ``mirage serve`` tells of its model at /v1/models, and of an answer on request, so that evaluation can use it.

Both are extensions of the API, in fields named ``mirage`` and ``trajectory``, which other clients ignore.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.types import Variant


class ServedModel(BaseModel):
    """How the model was trained to be asked, and how its own evaluation asks it.

    ``method``: the label of its predictions; ``latents``: whether it may imagine; ``prompt``: the form of its prompts.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    latents: Literal["on", "off"]
    prompt: Literal["benchmark", "short"]
    variant: Variant
    planning_rule: Literal["mirage", "vsp"]
    max_tokens: int = Field(gt=0)
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)


class ServedSpan(BaseModel):
    """``num_latents`` latents in front of the text token at ``position``."""

    model_config = ConfigDict(frozen=True)

    position: int = Field(ge=0)
    num_latents: int = Field(gt=0)


class ServedTrajectory(BaseModel):
    """A whole answer as predictions record it: text with marks of spans, text tokens, and where the latents were."""

    model_config = ConfigDict(frozen=True)

    output: str
    token_ids: tuple[int, ...]
    spans: tuple[ServedSpan, ...]
