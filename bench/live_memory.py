"""The bytes of tensors that are alive while something runs, and their peak: what a plan's memory is judged by.

On a GPU the allocator knows (torch.cuda.max_memory_allocated); on a CPU nothing does, so every tensor that an
operation gives is followed until its storage is freed. What kernels use inside themselves is not seen.
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
    """Inside the block: ``current`` bytes of tensors made there or named beforehand, ``peak`` the most there were.

    ``known``: tensors that were there before (weights, a batch), which no operation of the block gives.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in known:
            self._follow(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and follow what it gives."""
        given = func(*args, **(kwargs or {}))
        for one in tree_iter(given):
            if isinstance(one, Tensor):
                self._follow(one)
        return given

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.current

    def _follow(self, tensor: Tensor) -> None:
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
    """Parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]
