"""Qwen2.5-VL's vision tower over many images: attention batched over equal lengths, plans kept per grid.

A part of the backbone. Stock code splits attention into one Python call a window and image, and plans windows
anew in every pass; the numbers are the same (pinned by a test). Legend: P patches, W windows, D hidden.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

Grid = tuple[int, int, int]
Lengths = tuple[int, ...]
_KEPT = 64  # plans of whole batches kept; grids repeat, batches of mixed sizes seldom do


@dataclass(frozen=True)
class Plan:
    """How the patches of some images are ordered, rotated, and cut into runs that attend to themselves.

    ``order``: merged patches in window order; ``inverse`` puts them back; ``cos``, ``sin`` [P, head size] in window
    order; ``frames``, ``windows``: lengths of the runs in full and in window attention.
    """

    order: Tensor
    inverse: Tensor
    cos: Tensor
    sin: Tensor
    frames: Lengths
    windows: Lengths


class VisionPlans:
    """Plans of a tower, computed by stock code once a grid and joined for a batch."""

    def __init__(self, tower: Any) -> None:
        self._rotary = tower.rotary_pos_emb
        self._merge, self._window, self._patch = tower.spatial_merge_size, tower.window_size, tower.patch_size
        self._single: dict[Grid, Plan] = {}
        self._joined: OrderedDict[tuple[tuple[Grid, ...], torch.device], Plan] = OrderedDict()

    def plan(self, grids: tuple[Grid, ...], device: torch.device) -> Plan:
        """The plan of a batch of images, on ``device``."""
        key = (grids, device)
        if key not in self._joined:
            with torch.inference_mode(False):  # a plan kept from inference must serve training too
                self._joined[key] = self._join(grids, device)
            if len(self._joined) > _KEPT:
                self._joined.popitem(last=False)
        return self._joined[key]

    def _join(self, grids: tuple[Grid, ...], device: torch.device) -> Plan:
        plans = [self._of_grid(grid, device) for grid in grids]
        starts = torch.tensor([0, *(len(plan.order) for plan in plans)]).cumsum(0).tolist()
        order = torch.cat([plan.order + start for plan, start in zip(plans, starts, strict=False)])
        return Plan(
            order=order.to(device),
            inverse=torch.argsort(order).to(device),
            cos=torch.cat([plan.cos for plan in plans]).to(device),
            sin=torch.cat([plan.sin for plan in plans]).to(device),
            frames=tuple(length for plan in plans for length in plan.frames),
            windows=tuple(length for plan in plans for length in plan.windows),
        )

    def _of_grid(self, grid: Grid, device: torch.device) -> Plan:
        if grid not in self._single:
            self._single[grid] = self._computed(grid, device)
        return self._single[grid]

    def _computed(self, grid: Grid, device: torch.device) -> Plan:
        one = torch.tensor([grid])
        order, edges = get_vision_window_index(one, self._merge, self._window, self._patch)
        cos, sin = self._rotary(torch.empty(0, device=device), get_vision_position_ids(one, self._merge).to(device))
        unit = self._merge**2
        rows = (order[:, None] * unit + torch.arange(unit)).flatten()
        lengths = tuple(edges.diff().tolist())
        return Plan(order, order, cos.cpu()[rows], sin.cpu()[rows], (grid[1] * grid[2],) * grid[0], lengths)


def encode_images(tower: Any, plan: Plan, pixel_values: Tensor, *, checkpointing: bool = False) -> Tensor:
    """Merged patch features [P / 4, D] of all images end to end, in raster order."""
    hidden = tower.patch_embed(pixel_values)
    hidden = hidden.view(len(plan.order), tower.spatial_merge_unit, -1)[plan.order].flatten(0, 1)
    for index, block in enumerate(tower.blocks):
        lengths = plan.frames if index in tower.fullatt_block_indexes else plan.windows
        if checkpointing:
            hidden = checkpoint(_block, block, hidden, plan, lengths, use_reentrant=False)
        else:
            hidden = _block(block, hidden, plan, lengths)
    merged: Tensor = tower.merger(hidden)
    return merged[plan.inverse]


def _block(block: Any, hidden: Tensor, plan: Plan, lengths: Lengths) -> Tensor:
    """One stock block on patches [P, D], with its attention batched."""
    hidden = hidden + _attention(block.attn, block.norm1(hidden), plan, lengths)
    result: Tensor = hidden + block.mlp(block.norm2(hidden))
    return result


def _attention(attention: Any, hidden: Tensor, plan: Plan, lengths: Lengths) -> Tensor:
    query, key, value = attention.qkv(hidden).view(len(hidden), 3, attention.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, plan.cos, plan.sin)
    mixed = _attend_in_runs(query, key, value, lengths)
    projected: Tensor = attention.proj(mixed.flatten(1))
    return projected


def _attend_in_runs(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    """Attention [P, heads, size] of consecutive runs to themselves, one call for each length of run."""
    distinct = set(lengths)
    if len(distinct) == 1:
        return _attend(query, key, value, distinct.pop())
    sizes = torch.tensor(lengths)
    of_patch = sizes.repeat_interleave(sizes).to(query.device)
    result = torch.empty_like(query)
    for length in sorted(distinct):
        chosen = (of_patch == length).nonzero().squeeze(1)
        result = result.index_copy(0, chosen, _attend(query[chosen], key[chosen], value[chosen], length))
    return result


def _attend(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """Attention of runs of one length."""
    query, key, value = (tensor.view(-1, length, *tensor.shape[1:]).transpose(1, 2) for tensor in (query, key, value))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)
