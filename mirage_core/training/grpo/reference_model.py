"""The model a GRPO run began with, which its KL holds the policy near."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mirage_core.model.backbone import Backbone
from mirage_core.model.lora import has_adapters, without_adapters


class Reference:
    """The policy without its adapters, where adapters are what learns; else a frozen copy, in the model's dtype.

    Made before an engine takes the weights, and before a checkpoint is restored into them. With ``offload`` the copy
    stays in main memory and is lent to the GPU for the block of ``at_hand`` alone.
    """

    def __init__(self, backbone: Backbone, *, offload: bool = False) -> None:
        self._backbone, self._offload = backbone, offload
        self._copy: Backbone | None = None
        if not has_adapters(backbone):
            self._copy = copy.deepcopy(backbone).requires_grad_(False).eval()
            self._copy.to("cpu" if offload else backbone.device)

    @contextmanager
    def at_hand(self) -> Iterator[Backbone]:
        """The reference, for passes without gradient; inside ``whole_weights`` where weights are sharded."""
        if self._copy is None:
            with torch.no_grad(), without_adapters(self._backbone):
                yield self._backbone
            return
        self._copy.to(self._backbone.device)
        try:
            with torch.no_grad():
                yield self._copy
        finally:
            if self._offload:
                self._copy.to("cpu")
