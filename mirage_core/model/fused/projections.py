"""Linear layers that share their input, computed as one: their weights lie behind each other in memory.

The layers stay what they are (names, shapes, gradients, files): only where their weights lie is changed.
Legend: n tokens, D inputs, O outputs of all layers, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@torch.no_grad()
def lay_out(tensors: Sequence[Tensor]) -> None:
    """Move tensors [o, ...] of one width behind each other into one buffer; their names and values stay."""
    buffer = torch.cat([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, buffer.split([len(tensor) for tensor in tensors]), strict=True):
        tensor.data = part


def joined(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return a view [O, ...] of contiguous tensors that lie behind each other; None where they do not."""
    first = tensors[0].detach()
    if len(tensors) == 1:
        return first
    end = first.data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != end or not tensor.is_contiguous():
            return None
        end += tensor.numel() * tensor.element_size()
    if end > first.untyped_storage().data_ptr() + first.untyped_storage().nbytes():
        return None  # neighbours by chance, of two buffers
    rows = sum(len(tensor) for tensor in tensors)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


class _Joined(torch.autograd.Function):
    """The view of all weights, whose gradient is cut into theirs."""

    @staticmethod
    def forward(ctx: Any, view: Tensor, *weights: Tensor) -> Tensor:
        ctx.rows = [len(weight) for weight in weights]
        return view.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return None, *gradient.split(ctx.rows)


class _AdaptedLinear(torch.autograd.Function):
    """A frozen linear layer with adapters on parts of its outputs: x W^T + b, plus scale (x A^T) B^T in each part.

    Forward: one product for the layer, one for all A, one for each B. ``parts``: (first output, outputs, scale) each.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, parts: Any, *matrices: Tensor) -> Tensor:
        downs, ups = matrices[: len(parts)], matrices[len(parts) :]
        down = joined(downs)
        down = torch.cat(downs) if down is None else down
        low = values @ down.T
        output = linear(values, weight, bias)
        for (start, width, scale), up, part in zip(parts, ups, _ranks(low, downs), strict=True):
            output[:, start : start + width].addmm_(part, up.T, alpha=scale)
        ctx.save_for_backward(values, weight, down, low, *ups)
        ctx.parts, ctx.ranks = parts, [len(one) for one in downs]
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        values, weight, down, low, *ups = ctx.saved_tensors
        of_low = torch.empty_like(low)
        of_ups = []
        lows, targets = low.split(ctx.ranks, dim=1), of_low.split(ctx.ranks, dim=1)
        for (start, width, scale), up, part, target in zip(ctx.parts, ups, lows, targets, strict=True):
            own = gradient[:, start : start + width]
            target.addmm_(own, up, beta=0, alpha=scale)
            of_ups.append(torch.addmm(up, own.T, part, beta=0, alpha=scale))
        of_values = (gradient @ weight).addmm_(of_low, down) if ctx.needs_input_grad[0] else None
        return of_values, None, None, None, *(of_low.T @ values).split(ctx.ranks), *of_ups


def _ranks(low: Tensor, downs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return low.split([len(down) for down in downs], dim=1)


class Projection:
    """Layers ``modules`` on one input: linear ones, or peft's with adapters, whose base weights are frozen."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = list(modules)
        bases = [getattr(module, "base_layer", module) for module in modules]
        self.weights: list[nn.Parameter] = [base.weight for base in bases]
        self.biases: list[nn.Parameter] = [base.bias for base in bases if base.bias is not None]
        self._places: tuple[int, ...] = ()
        self._views: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """The tensors that must lie behind each other."""
        return [group for group in (self.weights, self.biases) if group]

    @property
    def places(self) -> tuple[int, ...]:
        """Where the weights and biases lie now."""
        return tuple(tensor.data_ptr() for group in self.groups for tensor in group)

    def find(self) -> bool:
        """Look where the weights lie now; returns whether they lie behind each other."""
        places = self.places
        if places != self._places:
            views = [joined(group) for group in self.groups]
            self._places = () if any(view is None for view in views) else places
            self._views = (views[0], views[1] if len(views) > 1 else None)
        return bool(self._places)

    @property
    def fault(self) -> str | None:
        """Why the layers cannot be computed as one; None where they can."""
        if len(self.biases) not in (0, len(self.weights)):
            return "some of its layers have a bias and some do not"
        adapted = [module for module in self.modules if hasattr(module, "base_layer")]
        if any(not isinstance(module.lora_dropout["default"], nn.Identity) for module in adapted):
            return "model.lora.dropout is not 0"
        if adapted and any(weight.requires_grad for weight in self.weights):
            return "its adapters stand beside trained weights"
        return None

    @property
    def adapters(self) -> list[tuple[int, Any]]:
        """The number of each layer whose adapter is on, and the layer."""
        found = enumerate(self.modules)
        return [(at, one) for at, one in found if hasattr(one, "base_layer") and not one.disable_adapters]

    @property
    def plain(self) -> tuple[Tensor, Tensor | None]:
        """Views of all weights [O, D] and biases [O], without gradient."""
        weight, bias = self._views
        assert weight is not None  # ``find`` was true
        return weight, bias

    def trained(self) -> tuple[Tensor, Tensor | None]:
        """All weights [O, D] and biases [O], with gradient where it is needed."""
        weight, bias = self.plain
        if torch.is_grad_enabled():
            weight = _with_gradient(weight, self.weights)
            bias = None if bias is None else _with_gradient(bias, self.biases)
        return weight, bias

    def __call__(self, values: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        """Return the outputs [n, O] of all layers for inputs [n, D]; ``weights``: of ``trained``."""
        adapters = self.adapters
        if not adapters:
            return linear(values, *weights)
        widths = [len(weight) for weight in self.weights]
        parts = [(sum(widths[:at]), widths[at], float(module.scaling["default"])) for at, module in adapters]
        downs, ups = ([getattr(one, name)["default"].weight for _, one in adapters] for name in ("lora_A", "lora_B"))
        adapted: Tensor = _AdaptedLinear.apply(values, *weights, parts, *downs, *ups)
        return adapted


def _with_gradient(view: Tensor, tensors: Sequence[nn.Parameter]) -> Tensor:
    if not any(tensor.requires_grad for tensor in tensors):
        return view
    return tensors[0] if len(tensors) == 1 else _Joined.apply(view, *tensors)  # type: ignore[no-any-return]
