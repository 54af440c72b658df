"""The segment of every cached column of every row, and the attention mask of the next columns.

Legend: n rows, C columns so far, W new columns, m columns written into reserved ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mirage_core.latent.bottleneck import Segment

UNUSED = len(Segment)
"""The segment of padding, hidden images and reserved columns: no token attends to it."""

_BEFORE_ALL = -1


class CacheMask:
    """A column is visible to tokens at its position or later whose segment may attend to its segment.

    Columns may be in any order of positions.
    """

    def __init__(self, prompts: Tensor, table: Tensor) -> None:
        """``prompts`` [n, C]: the segments of their columns, UNUSED ones included; ``table``: see attention_table."""
        self._table = pad(table.to(prompts.device), (0, 1, 0, 1), value=False)
        self._segments = prompts
        self._positions = torch.full_like(self._segments, _BEFORE_ALL)

    def append(self, segments: Tensor, positions: Tensor) -> None:
        """Add one column: the segment and the position of every row [n]."""
        self._segments = torch.cat([self._segments, segments[:, None]], dim=1)
        self._positions = torch.cat([self._positions, positions[:, None]], dim=1)

    def reserve(self, columns: int) -> None:
        """Add so many columns, hidden until they are written."""
        self._segments = pad(self._segments, (0, columns), value=UNUSED)
        self._positions = pad(self._positions, (0, columns), value=_BEFORE_ALL)

    def write(self, rows: Tensor, columns: Tensor, segment: Segment, positions: Tensor) -> None:
        """Write tokens of one segment at ``positions`` [m] into reserved ``columns`` [m] of ``rows`` [m]."""
        self._segments[rows, columns] = int(segment)
        self._positions[rows, columns] = positions

    def allowed(self, segments: Tensor, positions: Tensor) -> Tensor:
        """The columns that new ones of these segments and positions [n, W] may attend to: boolean [n, W, C]."""
        columns = self._segments[:, None].expand(-1, segments.shape[1], -1)
        by_segment = self._table[segments].gather(2, columns)
        return by_segment & (self._positions[:, None] <= positions[..., None])

    def join(self, other: CacheMask, fronts: tuple[int, int]) -> None:
        """Append the rows of ``other``, after so many unused columns in front of these rows, and of those."""
        self._segments = torch.cat(
            [pad(self._segments, (fronts[0], 0), value=UNUSED), pad(other._segments, (fronts[1], 0), value=UNUSED)]
        )
        self._positions = torch.cat(
            [
                pad(self._positions, (fronts[0], 0), value=_BEFORE_ALL),
                pad(other._positions, (fronts[1], 0), value=_BEFORE_ALL),
            ]
        )

    def unused_front(self) -> int:
        """The number of columns in front that no row uses."""
        return int((self._segments != UNUSED).any(0).int().argmax())

    def trim(self, columns: int) -> None:
        """Drop so many columns in front."""
        self._segments, self._positions = self._segments[:, columns:], self._positions[:, columns:]

    def select(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        self._segments, self._positions = self._segments[rows], self._positions[rows]
