"""The plain engine: torch alone, for one or several processes that each hold the complete model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mirage_core.distributed.collectives import all_reduce_sum
from mirage_core.model.weights import Gather, no_gather
from mirage_core.training.checkpoint.sharded_state import EngineState, Shard, shapes_of
from mirage_core.training.engine.base import EngineSettings, Result, Root, trained_parameters
from mirage_core.training.engine.optimizer_shards import Fragment, own_part, read_shard, restore
from mirage_core.training.engine.optimizers import make_optimizer


class PlainEngine:
    """The optimizer on whole weights and one all-reduce of the gradients; bfloat16 weights get float32 masters.

    Gradients of several micro-batches are added up in float32, whatever the weights are: in bfloat16 a sum stops
    growing at 256 times an addend.
    """

    def __init__(self, root: Root, settings: EngineSettings, restored: EngineState | None) -> None:
        self._settings = settings
        self._names, self._parameters = map(list, zip(*trained_parameters(root), strict=True))
        self._masters = [_master(parameter) for parameter in self._parameters]
        fused = settings.fuses(self._masters[0].device.type)
        named = dict(zip(self._names, self._masters, strict=True))
        self._optimizer = make_optimizer(named, settings.weight_decay, settings.optimizer, fused=fused)
        self._sums: dict[int, Tensor] = {}  # of earlier micro-batches, by number of a low-precision parameter
        self._steps = 0
        if restored is not None:
            self._steps = restored.steps
            restore(restored, self._fragments(), self._optimizer)

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass."""
        return work()

    def release(self) -> None:
        """Do nothing: no weights are fetched ahead."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` in this process."""
        self._set_aside()
        loss.backward()

    def step(self, learning_rate: float) -> float:
        """Add the gradients of all processes, clip, step; returns the norm before clipping."""
        self._reduce_gradients()
        norm = float(nn.utils.clip_grad_norm_(self._masters, self._settings.max_grad_norm))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._steps += 1
        self._copy_masters()
        return norm

    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments."""
        self._optimizer.state.clear()
        self._steps = 0

    def shard(self) -> Shard:
        """Return an equal part of every tensor, since every process has all of it."""
        shapes = shapes_of(zip(self._names, self._masters, strict=True))
        return read_shard(self._steps, shapes, [own_part(part) for part in self._fragments()], self._optimizer)

    @property
    def gather(self) -> Gather:
        """Do nothing: weights are always complete."""
        return no_gather

    def _fragments(self) -> list[Fragment]:
        named = zip(self._names, self._masters, strict=True)
        return [Fragment(name, 0, master.numel(), master, 0) for name, master in named]

    def _reduce_gradients(self) -> None:
        """Leave the sum over processes in the masters' gradients; a missing gradient counts as zero."""
        if self._sums:
            self._set_aside()
        flat = torch.cat([self._gradient(number).flatten().float() for number in range(len(self._parameters))])
        self._sums.clear()
        all_reduce_sum(flat)
        pieces = flat.split([parameter.numel() for parameter in self._parameters])
        for parameter, master, piece in zip(self._parameters, self._masters, pieces, strict=True):
            parameter.grad = None
            master.grad = piece.view_as(master)

    def _set_aside(self) -> None:
        """Move gradients of low precision to their float32 sums; those in float32 stay, where autograd adds to them."""
        for number, parameter in enumerate(self._parameters):
            if parameter.grad is None or parameter.dtype == torch.float32:
                continue
            if number in self._sums:
                self._sums[number].add_(parameter.grad)
            else:
                self._sums[number] = parameter.grad.float()
            parameter.grad = None

    def _gradient(self, number: int) -> Tensor:
        """Return the gradient of a parameter over all micro-batches of this process."""
        parameter = self._parameters[number]
        gradient = self._sums.get(number, parameter.grad)
        return torch.zeros_like(parameter) if gradient is None else gradient

    def _copy_masters(self) -> None:
        """Copy the masters into the weights, and clear the gradients."""
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            master.grad = None
            if master is not parameter:
                parameter.data.copy_(master)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """Return the float32 weights an optimizer steps on: the parameter itself where it is float32."""
    return parameter if parameter.dtype == torch.float32 else nn.Parameter(parameter.detach().float().clone())
