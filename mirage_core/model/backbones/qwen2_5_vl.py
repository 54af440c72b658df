"""Qwen2.5-VL: most vision layers attend within windows of 112 pixels, so the tower runs on patches in window order.

Legend: P patches, W windows, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from mirage_core.model.backbones.adapter import ModelAdapter
from mirage_core.model.backbones.vision import Grid, Lengths, Plans, run_blocks


class Qwen25VL(ModelAdapter):
    """Adapter of Qwen2.5-VL."""

    stock_class = Qwen2_5_VLForConditionalGeneration

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._plans = WindowPlans(self.vision)

    def encode_images(self, pixels: Tensor, grids: tuple[Grid, ...], *, checkpointing: bool) -> Tensor:
        """Return merged patch features [P / 4, D] of all images end to end, in raster order."""
        tower, plan = self.vision, self._plans.plan(grids, pixels.device)
        hidden = tower.patch_embed(pixels)
        hidden = hidden.view(len(plan.order), tower.spatial_merge_unit, -1)[plan.order].flatten(0, 1)
        full = set(tower.fullatt_block_indexes)
        blocks = ((block, plan.frames if i in full else plan.windows) for i, block in enumerate(tower.blocks))
        for output in run_blocks(blocks, hidden, (plan.cos, plan.sin), checkpointing=checkpointing):
            hidden = output
        merged: Tensor = tower.merger(hidden)
        return merged[plan.inverse]


@dataclass(frozen=True)
class WindowPlan:
    """Order, rotary embedding and attention runs of the patches of some images.

    ``order``: merged patches in window order; ``inverse``: the inverse; ``cos``, ``sin`` [P, head size] in window
    order; ``frames``, ``windows``: lengths of the runs in full and in window attention.
    """

    order: Tensor
    inverse: Tensor
    cos: Tensor
    sin: Tensor
    frames: Lengths
    windows: Lengths


class WindowPlans(Plans[WindowPlan]):
    """Window plans by stock code, cached."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self._rotary = tower.rotary_pos_emb
        self._merge, self._window, self._patch = tower.spatial_merge_size, tower.window_size, tower.patch_size

    def compute(self, grid: Grid, device: torch.device) -> WindowPlan:
        """Compute the plan of one image; its ``inverse`` must not be used."""
        grid_thw = torch.tensor([grid])
        order, edges = get_vision_window_index(grid_thw, self._merge, self._window, self._patch)
        cos, sin = self._rotary(
            torch.empty(0, device=device), get_vision_position_ids(grid_thw, self._merge).to(device)
        )
        unit = self._merge**2
        rows = (order[:, None] * unit + torch.arange(unit)).flatten()
        lengths = tuple(edges.diff().tolist())
        return WindowPlan(order, order, cos.cpu()[rows], sin.cpu()[rows], (grid[1] * grid[2],) * grid[0], lengths)

    def join(self, plans: Sequence[WindowPlan], device: torch.device) -> WindowPlan:
        """Join the plans of several images end to end."""
        starts = torch.tensor([0, *(len(plan.order) for plan in plans)]).cumsum(0).tolist()
        order = torch.cat([plan.order + start for plan, start in zip(plans, starts, strict=False)])
        return WindowPlan(
            order=order.to(device),
            inverse=torch.argsort(order).to(device),
            cos=torch.cat([plan.cos for plan in plans]).to(device),
            sin=torch.cat([plan.sin for plan in plans]).to(device),
            frames=tuple(length for plan in plans for length in plan.frames),
            windows=tuple(length for plan in plans for length in plan.windows),
        )
