"""Three views of the picture under which latents are changed: present, cut off behind the span, hidden altogether."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.donors import NOBODY, Partners
from mirage_core.analysis.intervened_generation import Asker, Change, fed
from mirage_core.analysis.results import Seen
from mirage_core.generation.interventions import Interventions, SpanStates


def view(asker: Asker, seen: Seen) -> Interventions:
    """What is left of the picture, as interventions of a decoding.

    present: as the model was trained. cut: text behind a span attends to nothing before it (latent_kv, or the model's
    own bottleneck where that is as strict). hidden: no token attends to an image token, from the prompt on.
    """
    if seen == "present":
        return Interventions()
    if seen == "hidden":
        return Interventions(image="hidden")
    return Interventions(bottleneck="latent_kv" if asker.bottleneck == "none" else asker.bottleneck)


def feeding(asker: Asker, seen: Seen, latents: Tensor) -> Change:
    """Feed these latents [N, k, D] under a view of the picture."""
    base = view(asker, seen)

    def change(index: NDArray[np.int64]) -> Interventions:
        return replace(base, latents=fed(latents, index))

    return change


def skipping(asker: Asker, seen: Seen, latents: Tensor) -> Change:
    """Feed these latents, but let no text behind the span see them; every position stays as it is."""
    base = view(asker, seen)

    def change(index: NDArray[np.int64]) -> Interventions:
        return replace(base, hide_latents=True, latents=fed(latents, index))

    return change


def exchanging(asker: Asker, seen: Seen, latents: Tensor, states: Sequence[SpanStates | None]) -> Change:
    """Feed these latents [N, k, D], and let the text behind the span read these keys and values [N] instead."""
    base = view(asker, seen)

    def change(index: NDArray[np.int64]) -> Interventions:
        chosen = [states[at] for at in index.tolist()]
        given = [None if one is None else (one,) for one in chosen]
        return replace(base, latents=fed(latents, index), states=given)

    return change


def lent_states(states: Sequence[SpanStates | None], partners: Partners) -> list[SpanStates | None]:
    """Every instance gets its donor's keys and values; none where it has no donor."""
    return [None if at == NOBODY else states[at] for at in partners.tolist()]
