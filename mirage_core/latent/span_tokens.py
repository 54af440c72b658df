"""What this project and other authors call a latent and the tokens round a span, and how their models are used.

No torch is needed to ask.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mirage_core.config import LatentSettings, identity
from mirage_core.errors import InputError

LATENT_START = "<|latent_start|>"
LATENT_PAD = "<|latent_pad|>"
LATENT_END = "<|latent_end|>"

SPAN_TOKENS: Mapping[str, Mapping[str, str]] = {
    "mirage": {"latent_start": LATENT_START, "latent_pad": LATENT_PAD, "latent_end": LATENT_END},
    "lvr": {"latent_pad": "<|lvr|>", "latent_start": "<|lvr_start|>", "latent_end": "<|lvr_end|>"},
    "monet": {
        "latent_pad": "<abs_vis_token_pad>",
        "latent_start": "<abs_vis_token>",
        "latent_end": "</abs_vis_token>",
    },
}
"""What authors call a latent and the tokens round a span, by the project whose models have them."""


def span_family(vocabulary: Collection[str]) -> str | None:
    """Return whose names for the tokens of spans a vocabulary has (``SPAN_TOKENS``); None: nobody's."""
    return next((family for family, tokens in SPAN_TOKENS.items() if set(tokens.values()) <= set(vocabulary)), None)


def family_of_folder(folder: Path) -> str | None:
    """Return whose names the tokenizer of a model folder has for the tokens of spans; None: nobody's.

    InputError for a file of the tokenizer that is not JSON.
    """
    added: set[str] = set()
    for name, key in (("tokenizer_config.json", "added_tokens_decoder"), ("tokenizer.json", "added_tokens")):
        file = folder / name
        try:
            listed = json.loads(file.read_text(encoding="utf-8")).get(key, ()) if file.is_file() else ()
        except ValueError as error:
            raise InputError(f"{file} is not JSON ({error}): take the folder as it was saved") from error
        tokens = listed.values() if isinstance(listed, Mapping) else listed
        added |= {str(token.get("content")) for token in tokens if isinstance(token, Mapping)}
    return span_family(added)


_RELEASED: Mapping[str, tuple[list[str], LatentSettings]] = {
    "lvr": (["base", "lvr"], LatentSettings(num_latents=8, end="open")),
    "monet": (["base", "monet-warmup", "monet"], LatentSettings(num_latents=10, max_latents=10, end="free")),
}
"""The programs that made a model, and how it is decoded. LVR: 4, 8 or 16 latents, then any token. Monet: the model ends
the span, after at most 10 (12, 16) latents."""
_RECIPE = "qwen2.5-vl-7b"


def authors_metadata(family: str | None) -> dict[str, Any]:
    """Return what mirage.json would say of a released model with tokens of this family; nothing of an ordinary one."""
    if family is None or family not in _RELEASED:
        return {}
    programs, latent = _RELEASED[family]
    return {"source": family, "recipe": _RECIPE, "stages": programs, "latent": identity(latent)}
