"""Muon: the matrices of hidden layers step along the orthogonalised momentum of their gradients, all else by AdamW.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), and arXiv 2502.16982, whose
scale (its Eq. 4) makes an update as large as AdamW's, so that rates and decay carry over. torch.optim.Muon is the same
in bfloat16, one matrix after the other. Here matrices of one shape are iterated together, in float32: every machine has
the same precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mirage_core.training.checkpoint.sharded_state import MEAN

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that Newton and Schulz's iteration applies to the singular values."""
UPDATE_RMS = 0.2
"""Root mean square of an update at rate 1: that of AdamW's is 0.2 to 0.4 (arXiv 2502.16982)."""
STACK_LIMIT = 1 << 24
"""Elements that are orthogonalised at a time: 64 MiB, and some copies of it."""


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a matrix of a numbered layer: no embedding, no output layer, no head beside."""
    return parameter.ndim == 2 and any(part.isdecimal() for part in name.split("."))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return about U V^T of each matrix U S V^T of [n, rows, columns].

    Singular values of 0.02 of the Frobenius norm and more come to between 0.6 and 1.25.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    first, second, third = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        wide = torch.baddbmm(wide, polynomial, wide, beta=first)
    return wide.mT if tall else wide


class Muon(torch.optim.Optimizer):
    """Muon on hidden matrices, ``adamw`` on its own parameters, if there are any; one list of groups, one state.

    Steps on whole matrices: an optimizer that holds a shard of a matrix cannot be given to it.
    """

    def __init__(self, matrices: list[nn.Parameter], weight_decay: float, adamw: torch.optim.AdamW | None) -> None:
        super().__init__([{"params": matrices, "weight_decay": weight_decay}], {"lr": 0.0})
        self.adamw, self._matrices = adamw, self.param_groups[0]
        if adamw is not None:
            adamw.state = self.state
            self.param_groups.extend(adamw.param_groups)

    def orthogonalises(self, tensor: Tensor) -> bool:
        """Return whether a tensor is stepped on by Muon."""
        return any(tensor is matrix for matrix in self._matrices["params"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step of both."""
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before the step")
        if self.adamw is not None:
            self.adamw.step()
        given = [matrix for matrix in self._matrices["params"] if matrix.grad is not None]
        decayed = 1 - self._matrices["lr"] * self._matrices["weight_decay"]
        for stack in _stacks(given):
            updates = orthogonalised(torch.stack([self._ahead(matrix) for matrix in stack]))
            scale = self._matrices["lr"] * UPDATE_RMS * max(stack[0].shape) ** 0.5
            for matrix, update in zip(stack, updates, strict=True):
                matrix.mul_(decayed).add_(update.to(matrix.dtype), alpha=-scale)

    def _ahead(self, matrix: nn.Parameter) -> Tensor:
        """Return Nesterov's momentum of a matrix, in float32, after adding its gradient to the momentum."""
        gradient = matrix.grad.float()  # type: ignore[union-attr]
        state = self.state[matrix]
        if MEAN not in state:
            state[MEAN] = torch.zeros_like(gradient)
        momentum: Tensor = state[MEAN].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def split_parameters(named: Mapping[str, nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that Muon steps on, and all others, in their order."""
    hidden = [parameter for name, parameter in named.items() if is_hidden_matrix(name, parameter)]
    others = [parameter for name, parameter in named.items() if not is_hidden_matrix(name, parameter)]
    return hidden, others


def _stacks(matrices: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield matrices of one shape together, at most STACK_LIMIT elements of them."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    for matrix in matrices:
        by_shape.setdefault(matrix.shape, []).append(matrix)
    for shape, alike in by_shape.items():
        count = max(1, STACK_LIMIT // shape.numel())
        yield from (alike[first : first + count] for first in range(0, len(alike), count))
