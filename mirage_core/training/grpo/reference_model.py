"""The reference model of GRPO's KL: the model that the run began with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mirage_core.model.backbone import Backbone
from mirage_core.model.lora import adapters_disabled, has_adapters


class ReferenceModel:
    """The policy without its adapters, where adapters are trained; else a frozen copy, in the model's dtype.

    Made before an engine takes the weights, and before a checkpoint is restored into them. With ``offload`` the copy
    stays in main memory and is on the GPU only in the block of ``loaded``.
    """

    def __init__(self, backbone: Backbone, *, offload: bool = False) -> None:
        self._backbone, self._offload = backbone, offload
        self._copy: Backbone | None = None
        if not has_adapters(backbone):
            self._copy = copy.deepcopy(backbone).requires_grad_(False).eval()
            self._copy.to("cpu" if offload else backbone.device)

    @contextmanager
    def loaded(self) -> Iterator[Backbone]:
        """Yield the reference, for passes without gradient; inside ``gathered_weights`` where weights are sharded."""
        if self._copy is None:
            with torch.no_grad(), adapters_disabled(self._backbone):
                yield self._backbone
            return
        self._copy.to(self._backbone.device)
        try:
            with torch.no_grad():
                yield self._copy
        finally:
            if self._offload:
                self._copy.to("cpu")
