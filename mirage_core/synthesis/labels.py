"""The labels of a film: what a world knows about each frame, in the details of an auxiliary image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CELLS, KINDS = "cells", "kinds"
"""The keys of the labels: the place that a frame is about, (row, column), and the name of what is there."""


def parts_of(label: Any) -> Sequence[Any]:
    """Return the labels of a frame: of one place (a name, or row and column), or of several in a list."""
    several = isinstance(label, (list, tuple)) and len(label) and not isinstance(label[0], int)
    return label if several else [label]
