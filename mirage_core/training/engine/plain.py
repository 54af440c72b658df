""""""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mirage_core.distributed.collectives import group_rank, group_size
from mirage_core.model.weights import Gather, whole
from mirage_core.training.checkpoint.optimizer_shards import Place, put_back, share, take_shard
from mirage_core.training.checkpoint.sharded_state import EngineState, Shard, shapes_of
from mirage_core.training.engine.base import EngineSettings, Result, Root, trained
from mirage_core.training.engine.optimizers import make_optimizer


class PlainEngine:
    """torch's AdamW and one all-reduce of the gradients; bfloat16 weights get float32 masters."""

    def __init__(self, root: Root, settings: EngineSettings, restored: EngineState | None) -> None:
        self._root, self._settings = root, settings
        self._names, self._parameters = map(list, zip(*trained(root), strict=True))
        self._masters = [_master(parameter) for parameter in self._parameters]
        self._optimizer = make_optimizer(
            self._masters, settings.weight_decay, settings.optimizer, fused=settings.fused and _on_gpu(self._masters)
        )
        self._steps = 0
        if restored is not None:
            self._steps = restored.steps
            put_back(restored, self._places(), self._optimizer)

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass."""
        result: Result = self._root(work)
        return result

    def rest(self) -> None:
        """Nothing is ever under way here."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` in this process."""
        loss.backward()

    def step(self, learning_rate: float) -> float:
        """Add the gradients of all processes, clip, step; returns the norm before clipping."""
        self._collect_gradients()
        norm = float(nn.utils.clip_grad_norm_(self._masters, self._settings.max_grad_norm))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._steps += 1
        self._publish_weights()
        return norm

    def shard(self) -> Shard:
        """Every process has all of it: each gives an equal part of every tensor."""
        places = [share(place, group_rank(), group_size()) for place in self._places()]
        return take_shard(self._steps, shapes_of(zip(self._names, self._masters, strict=True)), places, self._optimizer)

    @property
    def gather(self) -> Gather:
        """Weights are always whole here."""
        return whole

    def _places(self) -> list[Place]:
        return [
            Place(name, 0, master.numel(), master, 0) for name, master in zip(self._names, self._masters, strict=True)
        ]

    def _collect_gradients(self) -> None:
        """Leave the sum over processes in the masters' gradients; what got none in this process counts as zero."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self._parameters
        ]
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        if group_size() > 1:
            dist.all_reduce(flat)
        pieces = flat.split([parameter.numel() for parameter in self._parameters])
        for parameter, master, piece in zip(self._parameters, self._masters, pieces, strict=True):
            parameter.grad = None
            master.grad = piece.view_as(master)

    def _publish_weights(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            master.grad = None
            if master is not parameter:
                parameter.data.copy_(master)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """The float32 weights an optimizer steps on: the parameter itself where it is float32."""
    return parameter if parameter.dtype == torch.float32 else nn.Parameter(parameter.detach().float().clone())


def _on_gpu(parameters: list[nn.Parameter]) -> bool:
    return parameters[0].device.type == "cuda"
