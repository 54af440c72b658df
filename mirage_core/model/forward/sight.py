"""Who may attend to whom in a forward, where the batch's own bottleneck does not say it.

Legend: B rows, T columns, n segments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sight:
    """``segments`` [B, T]: each token's; ``table`` [n, n]: whether a token of segment q may attend to one of k.

    Causally: to itself and to earlier tokens of its row. ``table`` lies on the CPU.
    """

    segments: Tensor
    table: Tensor

    def until(self, column: int) -> Sight:
        """Return the sight of the columns before ``column``."""
        return replace(self, segments=self.segments[:, :column])

    def to(self, device: torch.device) -> Sight:
        """Return a copy with its segments on ``device``."""
        return replace(self, segments=self.segments.to(device, non_blocking=True))
