"""What a caller may change while answers are decoded: latents, their keys and values, and what sees what.

Every position stays as it is under any of them. Legend: m latents, k latents of a span, L layers, H heads, d head
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

ReplaceLatents = Callable[[Ints, Ints, Tensor], Tensor]
"""(rows [m], index [m], vectors [m, D]) -> vectors [m, D]. Rows are prompt * samples + sample; ``index`` is the number
of the latent in its row's answer, counted from 0 over all spans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanStates:
    """What a span left behind: ``latents`` [k, D] that were fed, ``keys`` (rotated by position) and ``values``
    [L, H, k, d] of their columns, and ``positions`` [k]."""

    latents: Tensor
    keys: Tensor
    values: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Interventions:
    """What is changed in all rows of one decoding, or, by ``latents`` and ``states``, in each row for itself.

    ``latents``: what it returns is fed in place of the hidden states (or of the blank embedding), is recorded as the
    answer's latents, and is what ``latent_only`` reads; called once a step for the rows that are fed a latent then.
    ``bottleneck``: in place of the one the model was trained with; None: that one. "latent_kv" on a model trained
    without: attention of the text after the span to picture and prompt is cut.
    ``hide_latents``: text after a span sees none of its latents, though it keeps its positions: the span is skipped.
    ``states``: of row (prompt * samples + sample) i, ``states[i]`` are another run's ``Trajectory.span_states``, or
    None. As the row's s-th span closes, keys and values of its latents become those of ``states[i][s]``, where there
    is one, turned to the row's own positions, before any text after them is computed. What was fed stays recorded.
    Later latents cannot repair this, as they can where vectors alone are exchanged. Under ``latent_only`` the text
    reads vectors, so there the other run's vectors are read in place of the row's own; its keys and values are seen
    by the latents of later spans only.
    ``image``: "hidden": no token may attend to one of an image, from the prompt on, but image tokens themselves, which
    nobody then sees. Nothing of the pictures enters but their number of tokens, and with it all positions.
    """

    latents: ReplaceLatents | None = None
    bottleneck: Bottleneck | None = None
    hide_latents: bool = False
    states: Sequence[Sequence[SpanStates] | None] | None = None
    image: Literal["kept", "hidden"] = "kept"

    def check(self, rows: int) -> None:
        """InputError where ``states`` are not those of so many rows."""
        if self.states is not None and len(self.states) != rows:
            raise InputError(
                f"Interventions.states has {len(self.states)} entries for {rows} rows (prompts * samples); give one a "
                "row, None where nothing is exchanged."
            )

    def donor(self, row: int, span: int) -> SpanStates | None:
        """What is put in place of the states of a row's span; None: nothing."""
        given = None if self.states is None else self.states[row]
        return None if given is None or span >= len(given) else given[span]

    def fed(self, rows: Ints, index: Ints, vectors: Tensor) -> Tensor:
        """What is fed in place of ``vectors`` [m, D]; InputError for another shape."""
        if self.latents is None:
            return vectors
        changed = self.latents(rows, index, vectors)
        if changed.shape != vectors.shape:
            raise InputError(
                f"Interventions.latents returned {tuple(changed.shape)} for latents of {tuple(vectors.shape)}; it must "
                "return as many vectors of that size."
            )
        return changed.to(vectors)


def moved_states(backbone: Backbone, donor: SpanStates, positions: Tensor) -> SpanStates:
    """``donor`` as if it stood at ``positions`` [k]; InputError where its span is of another length.

    A key is rotated by its position, so it is turned on by the difference; by none it stays bit for bit.
    """
    if len(donor.positions) != len(positions):
        raise InputError(
            f"Keys and values of a span of {len(donor.positions)} latents for one of {len(positions)}; exchange spans "
            "of one length (decode with end='exact')."
        )
    by = positions - donor.positions.to(positions.device)
    keys = donor.keys.to(backbone.device, backbone.dtype)
    if bool(by.any()):
        keys = _turned(backbone, keys, by)
    return SpanStates(
        latents=donor.latents.to(backbone.device, backbone.dtype),
        keys=keys,
        values=donor.values.to(backbone.device, backbone.dtype),
        positions=positions,
    )


def _turned(backbone: Backbone, keys: Tensor, by: Tensor) -> Tensor:
    """Keys [L, H, k, d] turned on by so many positions [k]; text positions, whose three parts are equal."""
    turn = torch.stack([by, torch.zeros_like(by)])  # a turn by 0 tells the scale that long-context rotations carry
    cos, sin = backbone.rotary(turn.expand(3, 2, len(by)))
    cos, sin = cos[0] / cos[1], sin[0] / cos[1]
    first, second = keys.chunk(2, dim=-1)
    return keys * cos + torch.cat([-second, first], dim=-1) * sin
