"""Where tokens stand among padded columns: attention needs columns, everything else runs on the tokens alone.

Legend: B rows, T columns, n tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """``index`` [n]: the columns that hold tokens, among ``rows`` times ``columns`` laid end to end."""

    rows: int
    columns: int
    index: Tensor

    def spread(self, tokens: Tensor) -> Tensor:
        """Tokens [1, n, ...] in their columns [B, T, ...], zero elsewhere."""
        empty = tokens.new_zeros(self.rows * self.columns, *tokens.shape[2:])
        return empty.index_copy(0, self.index, tokens[0]).unflatten(0, (self.rows, self.columns))

    def gather(self, columns: Tensor) -> Tensor:
        """The tokens [1, n, ...] of columns [B, T, ...]."""
        return columns.flatten(0, 1).index_select(0, self.index)[None]
