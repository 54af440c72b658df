"""Interventions in decoding: on latents, on their keys and values, and on attention. No position changes.

Legend: m latents, k latents of a span, L layers, H heads, d head
size, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.generation.latent_modes import Ints
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.model.backbone import Backbone

LatentReplacement = Callable[[Ints, Ints, Tensor], Tensor]
"""(rows [m], index [m], latents [m, D]) -> latents [m, D]. Rows are prompt * samples + sample; ``index`` is the number
of the latent in its row's answer, counted from 0 over all spans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanStates:
    """One decoded span: its ``latents`` [k, D], their ``keys`` (rotated by position) and ``values`` [L, H, k, d], and
    ``positions`` [k]."""

    latents: Tensor
    keys: Tensor
    values: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Interventions:
    """Interventions on all rows of one decoding; ``latents`` and ``states`` act on each row by itself.

    ``latents``: replaces the latents (whatever is fed, at the norm it is fed at) before they are input, recorded, and
    reencoded under ``latent_only``; called once a step, for the rows whose next input is a latent.
    ``bottleneck``: replaces the one of the model; None: does not. "latent_kv" on a model trained without one: the text
    after the span cannot attend to image and prompt.
    ``hide_latents``: the text after a span cannot attend to its latents; positions stay.
    ``states``: for row i (prompt * samples + sample) the ``Trajectory.span_states`` of another run, or None. When the
    row's s-th span closes, the keys and values of its latents are replaced by those of ``states[i][s]``, if there is
    one, rotated to the row's own positions, before any text after them is computed. The recorded latents stay. Unlike
    after a replacement of vectors alone, later latents of the span cannot compensate. Under ``latent_only`` the text
    reads vectors, so the other run's vectors are reencoded; its keys and values reach later spans only.
    ``image``: "hidden": no token but image tokens may attend to image tokens, in the prompt too. Only their number
    matters then, since it decides positions; with feed_norm image, their mean norm too.
    """

    latents: LatentReplacement | None = None
    bottleneck: Bottleneck | None = None
    hide_latents: bool = False
    states: Sequence[Sequence[SpanStates] | None] | None = None
    image: Literal["visible", "hidden"] = "visible"

    def check(self, rows: int) -> None:
        """InputError if ``states`` do not have one entry a row."""
        if self.states is not None and len(self.states) != rows:
            raise InputError(
                f"Interventions.states has {len(self.states)} entries for {rows} rows (prompts * samples); give one a "
                "row, None where nothing is replaced."
            )

    def donor(self, row: int, span: int) -> SpanStates | None:
        """The states that replace those of a row's span; None: none do."""
        spans = None if self.states is None else self.states[row]
        return None if spans is None or span >= len(spans) else spans[span]

    def replace_latents(self, rows: Ints, index: Ints, latents: Tensor) -> Tensor:
        """Return what replaces ``latents`` [m, D]; InputError for another shape."""
        if self.latents is None:
            return latents
        replacement = self.latents(rows, index, latents)
        if replacement.shape != latents.shape:
            raise InputError(
                f"Interventions.latents returned {tuple(replacement.shape)} for latents of {tuple(latents.shape)}; it "
                "must return the same shape."
            )
        return replacement.to(latents)


def shift_states(backbone: Backbone, donor: SpanStates, positions: Tensor) -> SpanStates:
    """Shift ``donor`` to ``positions`` [k]; InputError if its span has another length.

    Keys are rotated by their position, so they are rotated further by the difference; without one they stay bit for
    bit.
    """
    if len(donor.positions) != len(positions):
        raise InputError(
            f"Got keys and values of a span of {len(donor.positions)} latents for a span of {len(positions)}; replace "
            "spans by ones of the same length (decode with end='exact')."
        )
    shift = positions - donor.positions.to(positions.device)
    keys = donor.keys.to(backbone.device, backbone.dtype)
    if bool(shift.any()):
        keys = _rotate(backbone, keys, shift)
    return SpanStates(
        latents=donor.latents.to(backbone.device, backbone.dtype),
        keys=keys,
        values=donor.values.to(backbone.device, backbone.dtype),
        positions=positions,
    )


def _rotate(backbone: Backbone, keys: Tensor, shift: Tensor) -> Tensor:
    """Rotate keys [L, H, k, d] by ``shift`` [k] text positions, whose three parts are equal."""
    shifts = torch.stack([shift, torch.zeros_like(shift)])  # the rotation by 0 is the scale of long-context rotations
    cos, sin = backbone.rotary(shifts.expand(3, 2, len(shift)))
    cos, sin = cos[0] / cos[1], sin[0] / cos[1]
    first, second = keys.chunk(2, dim=-1)
    return keys * cos + torch.cat([-second, first], dim=-1) * sin
