"""The image tokens that a box of an image touches: what the latents of LVR are held to (arXiv 2509.24251).

Legend: n tokens of a region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mirage_core import benchmarks
from mirage_core.benchmarks.regions import Box, Region, cropped
from mirage_core.types import Problem


def box_tokens(box: Box, grid_thw: Sequence[int], merge: int) -> Tensor:
    """Return the merged tokens [n] that a box touches, in raster order, as indices into the image's tokens.

    Its edges are rounded outwards to patches, then to merged tokens of ``merge`` x ``merge`` patches, as in the
    released code of LVR. ``grid_thw``: frames, height and width of the image in patches.
    """
    _, height, width = grid_thw
    left, top, right, bottom = box
    columns = torch.arange(*_covered(left, right, width, merge))
    rows = torch.arange(*_covered(top, bottom, height, merge))
    return (rows[:, None] * (width // merge) + columns).flatten()


def region_tokens(region: Region, grid_thw: Sequence[int], merge: int) -> Tensor:
    """Return the merged tokens [n] of a region: those of its boxes, one box after the other."""
    return torch.cat([box_tokens(box, grid_thw, merge) for box in region])


def region_lengths(problem: Problem, grid: Callable[[bytes], tuple[int, int]], *, crop: bool) -> list[int]:
    """Return the merged tokens of each region of a problem, without its pixels but for a ``crop``, encoded anew.

    ``grid``: rows and columns of the merged tokens of an image file. DataError for a problem without regions.
    """
    regions = benchmarks.get(problem.benchmark).regions(problem)
    if crop:
        return [math.prod(grid(cropped(problem.images[0], region))) for region in regions]
    size = (1, *grid(problem.images[0]))
    return [len(region_tokens(region, size, 1)) for region in regions]


def _covered(low: float, high: float, patches: int, merge: int) -> tuple[int, int]:
    """Return the first merged token between two edges, and the one after the last."""
    first = min(math.floor(low * patches), patches - 1)
    return first // merge, math.ceil(min(math.ceil(high * patches), patches) / merge)
