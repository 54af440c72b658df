"""Shared code of vision towers: attention batched over runs of equal length, and plans cached per grid.

Stock code makes one attention call a run and plans again in every pass; the numbers are equal (tested).
Legend: P patches, N images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

Grid = tuple[int, int, int]  # time, height, width in patches
Lengths = tuple[int, ...]
Plan = TypeVar("Plan")
_MAX_CACHED = 64  # plans of whole batches; grids repeat, batches of mixed sizes seldom do


class Plans(ABC, Generic[Plan]):
    """Plans of a tower: computed once for each grid and joined for a batch, both cached."""

    def __init__(self) -> None:
        self._single: dict[Grid, Plan] = {}
        self._joined: OrderedDict[tuple[tuple[Grid, ...], torch.device], Plan] = OrderedDict()

    def plan(self, grids: tuple[Grid, ...], device: torch.device) -> Plan:
        """Return the plan of a batch of images, on ``device``."""
        key = (grids, device)
        if key not in self._joined:
            with torch.inference_mode(False):  # a plan cached during inference must serve training too
                self._joined[key] = self.join([self._of_grid(grid, device) for grid in grids], device)
            if len(self._joined) > _MAX_CACHED:
                self._joined.popitem(last=False)
        return self._joined[key]

    @abstractmethod
    def compute(self, grid: Grid, device: torch.device) -> Plan:
        """Compute the plan of one image on ``device``; its tensors are on the CPU."""

    @abstractmethod
    def join(self, plans: Sequence[Plan], device: torch.device) -> Plan:
        """Join the plans of several images end to end, on ``device``."""

    def _of_grid(self, grid: Grid, device: torch.device) -> Plan:
        if grid not in self._single:
            self._single[grid] = self.compute(grid, device)
        return self._single[grid]


def run_block(block: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], lengths: Lengths) -> Tensor:
    """Run one stock block of Qwen's towers on patches [P, D], attention batched over runs of ``lengths``."""
    attention, normed = block.attn, block.norm1(hidden)
    query, key, value = attention.qkv(normed).view(len(hidden), 3, attention.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *rotary)
    hidden = hidden + attention.proj(_attend_in_runs(query, key, value, lengths).flatten(1))
    result: Tensor = hidden + block.mlp(block.norm2(hidden))
    return result


def run_blocks(
    blocks: Iterable[tuple[Any, Lengths]], hidden: Tensor, rotary: tuple[Tensor, Tensor], *, checkpointing: bool
) -> Iterator[Tensor]:
    """Yield the output of each block; with ``checkpointing`` each is recomputed in the backward pass."""
    for block, lengths in blocks:
        if checkpointing:
            hidden = checkpoint(run_block, block, hidden, rotary, lengths, use_reentrant=False)
        else:
            hidden = run_block(block, hidden, rotary, lengths)
        yield hidden


def _attend_in_runs(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> Tensor:
    """Return attention [P, heads, size] of consecutive runs to themselves, one call for each length."""
    distinct = set(lengths)
    if len(distinct) == 1:
        return _attend(query, key, value, distinct.pop())
    sizes = torch.tensor(lengths)
    run_length = sizes.repeat_interleave(sizes).to(query.device)
    result = torch.empty_like(query)
    for length in sorted(distinct):
        selected = (run_length == length).nonzero().squeeze(1)
        result = result.index_copy(0, selected, _attend(query[selected], key[selected], value[selected], length))
    return result


def _attend(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """Return attention [P, heads, size] of runs of one length."""
    query, key, value = (tensor.view(-1, length, *tensor.shape[1:]).transpose(1, 2) for tensor in (query, key, value))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)
