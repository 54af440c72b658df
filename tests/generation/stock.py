"""What transformers' own ``generate`` answers, with latents as its custom loop."""

from __future__ import annotations

from typing import Any

from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.backbone import Backbone
from tests.latent.tiny import IDS


def stock_answer(
    backbone: Backbone, prompt: EncodedPrompt, custom: Any, max_new_tokens: int
) -> tuple[Any, tuple[int, ...]]:
    """What it returns for one prompt, and the tokens of the answer that are no latents."""
    found = backbone.model.generate(
        input_ids=prompt.ids[None],
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.grid_thw,
        mm_token_type_ids=(prompt.ids == IDS.image_pad).long()[None],
        custom_generate=custom,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
    )
    answer = found.sequences[0, len(prompt.ids) :].tolist()
    return found, tuple(token for token in answer if token != IDS.latent_pad)
