"""Counts what a computation would launch on a GPU, on a CPU: the operations that are dispatched, by a written rule.

The rule (``launches_of``): every operation that torch dispatches is one launch, but for

- views, allocations, and what only reads metadata or copies one number to the host: none;
- ``addmm`` and ``baddbmm``: two where what is added must first be copied into the result, as in torch 2.13 on CUDA.
  One, where it is added in place, or is a bias vector, added by the matrix product of cuBLASLt (two rows or more, the
  result contiguous);
- ``rms_norm``, which is one kernel on a GPU and several on a CPU: one; its backward pass: one, and one more for the
  weight where it is trained.

An operation of many tensors at once (``_foreach_``, fused AdamW) and attention are one launch each, also backward; on a
GPU they can be a few. What is computed on the host all the same (plans in numpy) is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_")
_METADATA = ("detach", "detach_", "_unsafe_view", "lift_fresh", "is_same_size", "equal", "_local_scalar_dense")
_MARKS = ("_fused_sdp_choice", "record_stream", "_record_function_enter_new", "_record_function_exit")
_FREE = frozenset((*_ALLOCATIONS, *_METADATA, *_MARKS))
_ADDED = ("addmm", "baddbmm")


def launches_of(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the launches of one dispatched operation (an ``OpOverload``), by the rule of this module."""
    name = operation._schema.name.rpartition("::")[2]
    if name in _FREE or _is_view(operation):
        return 0
    return _launches_of_sum(args, kwargs) if name in _ADDED else 1


def _is_view(operation: Any) -> bool:
    """Whether results are the arguments themselves, seen in another way, and nothing is written."""
    returns = operation._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _launches_of_sum(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the launches of ``beta * added + first @ second``, out of place."""
    added, first, out = args[0], args[1], kwargs.get("out")
    bias = added.dim() == 1 and first.dim() == 2 and len(first) > 1 and (out is None or out.is_contiguous())
    return 1 if bias or kwargs.get("beta", 1) == 0 else 2


class LaunchCounter:
    """Counts launches by the ``part`` of the computation that is running: {part: {operation: launches}}."""

    def __init__(self, part: str = "other") -> None:
        self.part = part
        self.counts: dict[str, Counter[str]] = {}
        self.times: Counter[str] = Counter()
        self.is_paused = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what runs in the block in this thread, backward passes included."""
        with _NormsAsOne(self), _Operations(self):
            yield

    def add(self, operation: str, launches: int) -> None:
        """Count launches of an operation."""
        if launches:
            self.counts.setdefault(self.part, Counter())[operation] += launches

    def total(self, part: str) -> int:
        """Return the launches of a part."""
        return sum(self.counts.get(part, Counter()).values())

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """Count what runs in the block as ``part``, once more."""
        before, self.part = self.part, part
        self.times[part] += 1
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing in the block."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before


class _Operations(TorchDispatchMode):
    """Counts operations, those that consist of others (inference mode shows them too) by their parts."""

    def __init__(self, counter: LaunchCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if not self._counter.is_paused:
            self._counter.add(func._schema.name.rpartition("::")[2], launches_of(func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class _NormsAsOne(TorchFunctionMode):
    """Has torch's ``rms_norm`` counted as the kernel that it is on a GPU."""

    def __init__(self, counter: LaunchCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (functional.rms_norm, torch.rms_norm):
            return _CountedNorm.apply(self._counter, *args, *(kwargs or {}).values())
        return func(*args, **(kwargs or {}))


class _CountedNorm(torch.autograd.Function):
    """``rms_norm`` that counts itself, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, counter: LaunchCounter, values: Tensor, shape: Sequence[int], weight: Tensor, eps: float
    ) -> Tensor:
        counter.add("rms_norm", 1)
        ctx.counter, ctx.shape, ctx.eps = counter, shape, eps
        ctx.save_for_backward(values, weight)
        with counter.paused():
            return torch.rms_norm(values, shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        needed = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        ctx.counter.add("rms_norm_backward", sum(needed))
        with ctx.counter.paused(), torch.enable_grad():
            values, weight = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
            grads = torch.autograd.grad(torch.rms_norm(values, ctx.shape, weight, ctx.eps), (values, weight), gradient)
        of_values, of_weight = (grad if need else None for grad, need in zip(grads, needed, strict=True))
        return None, of_values, None, of_weight, None
