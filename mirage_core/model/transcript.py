"""An answer's tokens as text, with its latent spans shown where they stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.latent.tokens import TokenIds
from mirage_core.types import LatentSpan


def output_text(tokenizer: Any, ids: TokenIds, token_ids: Sequence[int], spans: Sequence[LatentSpan]) -> str:
    """Write tokens as text, each span as ``<latents:k>`` in its place; its borders and the end of turn are left out."""
    silent = {ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad}
    marks = {span.position: span.num_latents for span in spans}
    parts: list[str] = []
    run: list[int] = []
    for position in range(len(token_ids) + 1):
        if position in marks:
            parts += [tokenizer.decode(run, clean_up_tokenization_spaces=False), f"<latents:{marks[position]}>"]
            run = []
        if position < len(token_ids) and token_ids[position] not in silent:
            run.append(token_ids[position])
    return "".join([*parts, tokenizer.decode(run, clean_up_tokenization_spaces=False)])
