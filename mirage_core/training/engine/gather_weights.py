"""Weights that ZeRO-3 has shared out made whole for a while, to use a model outside of a training pass.

Drawing answers shard by shard would be a collective a layer and token, and the processes would have to draw answers of
one length; so the weights are gathered once a round instead. That takes the memory of one whole model, in its own
dtype, in every process (about 7 GiB for Qwen2.5-VL 3B in bfloat16, 16 GiB for 7B), beside the cache of what is drawn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Inside the block every process has whole weights and may compute what it likes, without gradient.

    Every process enters it. Nothing is done where weights are not sharded.
    """
    sharded = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded), _without_hooks(module):
        yield


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """No forward hooks inside the block: DeepSpeed's would let go of a layer's weights as soon as it was used."""
    modules = list(module.modules())
    before = [(part._forward_pre_hooks, part._forward_hooks) for part in modules]
    try:
        for part in modules:
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, (earlier, later) in zip(modules, before, strict=True):
            part._forward_pre_hooks, part._forward_hooks = earlier, later
