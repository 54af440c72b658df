"""The states of all layers at chosen tokens, gathered while a forward runs its passes.

Legend: L layers, m chosen tokens, n tokens of a pass, T columns of the batch, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor


class LayerStates:
    """Collects the states at ``cells`` [m]: row * T + column of each chosen token in the batch."""

    def __init__(self, cells: Tensor) -> None:
        self._cells = cells
        self._sources: list[Tensor] = []
        self._passes: list[list[Tensor]] = []

    def next_pass(self, source: Tensor) -> list[Tensor]:
        """Return the list that ``Backbone.hidden`` is to fill in a pass over the batch's tokens ``source`` [n]."""
        self._sources.append(source)
        self._passes.append([])
        return self._passes[-1]

    def gathered(self) -> Tensor:
        """Return the states [L + 1, m, D]: the input embedding, then each layer's output, the last one normed."""
        places = (torch.cat(self._sources)[None] == self._cells[:, None]).int().argmax(1)
        layers = zip(*self._passes, strict=True)
        return torch.stack(
            [torch.cat([states.flatten(0, 1) for states in layer]).index_select(0, places) for layer in layers]
        )
