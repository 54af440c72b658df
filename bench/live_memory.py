"""The bytes of live tensors and their peak on a CPU, to compare a plan's memory with.

A GPU's allocator reports its peak (torch.cuda.max_memory_allocated); on a CPU every tensor that an operation returns
is tracked until its storage is freed. Memory inside kernels is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Tracks inside its block the ``current`` bytes of live tensors and their ``peak``.

    ``known``: tensors that exist before (weights, a batch), which no operation of the block returns.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in known:
            self._track(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and track the tensors that it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                self._track(leaf)
        return result

    def restart(self) -> None:
        """Reset the peak to the current bytes."""
        self.peak = self.current

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not size or (key in self._alive and self._alive[key]() is not None):
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._freed(key, size))
        self.current += size
        self.peak = max(self.peak, self.current)

    def _freed(self, key: int, size: int) -> None:
        self._alive.pop(key, None)
        self.current -= size


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]
