"""The states of chosen tokens at every depth: the input embedding, the output of each layer, the normed last state.

Legend: B rows, T columns, L layers, m chosen tokens, n tokens of a pass, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_core.model.backbone import PassStates


class LayerStates:
    """Collects the states of ``cells`` [m], indices among the batch's rows laid end to end, over all passes."""

    def __init__(self, cells: Tensor) -> None:
        self._cells = cells
        self._passes: list[tuple[Tensor, PassStates]] = []

    def of(self, source: Tensor) -> PassStates:
        """Return what collects in a pass over the tokens ``source`` [n] of the batch."""
        tokens = torch.isin(source, self._cells).nonzero().squeeze(1)
        self._passes.append((source.index_select(0, tokens), PassStates(tokens)))
        return self._passes[-1][1]

    def states(self) -> Tensor:
        """Return the states [L + 1, m, D] after the forward, with gradient, row by row and by column."""
        order = torch.cat([source for source, _ in self._passes]).argsort()
        depths = zip(*(found.states for _, found in self._passes), strict=True)
        return torch.stack([torch.cat(parts).index_select(0, order) for parts in depths])
