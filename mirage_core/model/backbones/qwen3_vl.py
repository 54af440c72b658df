"""Qwen3-VL: learned vision positions resampled to the grid, and DeepStack.

DeepStack: some vision layers have a merger of their own, whose output is added at the image's tokens after the first
decoder layers. Interleaved M-RoPE is part of the stock rotary module. Legend: P patches, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from mirage_core.model.backbones.adapter import ModelAdapter
from mirage_core.model.backbones.vision import Grid, Lengths, Plans, run_blocks


class Qwen3VL(ModelAdapter):
    """Adapter of Qwen3-VL (dense)."""

    stock_class = Qwen3VLForConditionalGeneration

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._plans = ResamplingPlans(self.vision)

    @property
    def deepstack_layers(self) -> int:
        """The number of vision layers with a merger of their own."""
        return len(self.vision.deepstack_visual_indexes)

    def encode_images(self, pixels: Tensor, grids: tuple[Grid, ...], *, checkpointing: bool) -> Tensor:
        """Return merged features [P / 4, D * (1 + deepstack_layers)] of all images end to end, in raster order."""
        tower, plan = self.vision, self._plans.plan(grids, pixels.device)
        hidden = tower.patch_embed(pixels)
        learned = (tower.pos_embed(plan.taps) * plan.weights[:, :, None]).sum(1)
        hidden = hidden + learned.to(hidden.dtype)
        mergers = dict(zip(tower.deepstack_visual_indexes, tower.deepstack_merger_list, strict=True))
        deep: dict[int, Tensor] = {}
        blocks = ((block, plan.frames) for block in tower.blocks)
        outputs = run_blocks(blocks, hidden, (plan.cos, plan.sin), checkpointing=checkpointing)
        for i, output in enumerate(outputs):
            hidden = output
            if i in mergers:
                deep[i] = mergers[i](hidden)
        return torch.cat([tower.merger(hidden), *(deep[i] for i in tower.deepstack_visual_indexes)], dim=-1)


@dataclass(frozen=True)
class ResamplingPlan:
    """Interpolation of learned positions (``taps``, ``weights`` [P, 4]), rotary (``cos``, ``sin`` [P, head size]).

    ``frames``: lengths of the runs of patches that attend to themselves.
    """

    taps: Tensor
    weights: Tensor
    cos: Tensor
    sin: Tensor
    frames: Lengths


class ResamplingPlans(Plans[ResamplingPlan]):
    """Resampling plans by stock code, cached."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self._tower = tower

    def compute(self, grid: Grid, device: torch.device) -> ResamplingPlan:
        """Compute the plan of one image."""
        tower, grid_thw = self._tower, torch.tensor([grid])
        taps, weights = get_vision_interpolation_indices_and_weights(
            grid_thw,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.spatial_merge_size,
        )
        positions = get_vision_position_ids(grid_thw, tower.spatial_merge_size).to(device)
        cos, sin = tower.rotary_pos_emb(torch.empty(0, device=device), positions)
        return ResamplingPlan(taps, weights, cos.cpu(), sin.cpu(), (grid[1] * grid[2],) * grid[0])

    def join(self, plans: Sequence[ResamplingPlan], device: torch.device) -> ResamplingPlan:
        """Join the plans of several images end to end."""
        return ResamplingPlan(
            taps=torch.cat([plan.taps for plan in plans]).to(device),
            weights=torch.cat([plan.weights for plan in plans]).to(device),
            cos=torch.cat([plan.cos for plan in plans]).to(device),
            sin=torch.cat([plan.sin for plan in plans]).to(device),
            frames=tuple(length for plan in plans for length in plan.frames),
        )
