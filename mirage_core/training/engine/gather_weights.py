"""Weights that ZeRO-3 has sharded, gathered for a while to use a model outside of a training pass.

Decoding with sharded weights would be a collective per layer and token, and all processes would have to decode answers
of one length; so the weights are gathered once a round instead. That takes the memory of one complete model, in its own
dtype, in every process (about 7 GiB for Qwen2.5-VL 3B in bfloat16, 16 GiB for 7B), beside the cache of the decoding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def gathered_weights(module: nn.Module) -> Iterator[None]:
    """Give every process all weights inside the block, to compute without gradients as it likes.

    Every process enters the block. Nothing is done where weights are not sharded.
    """
    sharded = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded), _without_hooks(module):
        yield


@contextmanager
def gathered_parameter(parameter: Any, *, modified: bool) -> Iterator[None]:
    """Gather one parameter inside the block; with ``modified`` what process 0 writes to it reaches all processes."""
    if not hasattr(parameter, "ds_shape"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modified else None):
        yield


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Remove forward hooks inside the block: DeepSpeed's would release a layer's weights as soon as it was used."""
    modules = list(module.modules())
    hooks = [(part._forward_pre_hooks, part._forward_hooks) for part in modules]
    try:
        for part in modules:
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, (pre_hooks, forward_hooks) in zip(modules, hooks, strict=True):
            part._forward_pre_hooks, part._forward_hooks = pre_hooks, forward_hooks
