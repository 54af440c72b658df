"""Backward passes, clipping and optimizer steps over several processes, behind one protocol; the plain engine.

Both engines take the same AdamW steps on the same gradients and keep their state in the same named
tensors, so that training can go on with another engine, or another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mirage_core.errors import SettingsError
from mirage_core.model.plain_weights import Gather, whole
from mirage_core.training.optimizers import OptimizerKind, make_optimizer
from mirage_core.training.processes import group_rank, group_size
from mirage_core.training.state import MASTER, EngineState, Shard, shapes_of
from mirage_core.training.state_places import Place, put_back, share, take_shard

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine must know."""

    kind: Literal["plain", "deepspeed"]
    zero_stage: int
    weight_decay: float
    max_grad_norm: float
    optimizer: OptimizerKind = "adamw"
    fused: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False


class Root(nn.Module):
    """All trained modules under one root, which runs whatever it is given (DeepSpeed hooks a module's forward)."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)

    def forward(self, work: Callable[[], Result]) -> Result:
        """Do the work."""
        return work()


class Engine(Protocol):
    """How the loop trains. Every process calls the same methods in the same order."""

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass; its result is a tensor, or tensors in tuples and dicts (what DeepSpeed looks into)."""

    def rest(self) -> None:
        """After passes that no backward follows: leave nothing of them under way."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``; gradients add up over calls AND processes."""

    def step(self, learning_rate: float) -> float:
        """Clip by the global norm, take one AdamW step, forget the gradients; returns the norm before clipping."""

    def shard(self) -> Shard:
        """This process's part of everything another engine needs to go on exactly; views, valid until the next step."""

    @property
    def gather(self) -> Gather:
        """Makes chosen weights whole for a block, in every process (ZeRO-3 shards them)."""


def make_engine(root: Root, settings: EngineSettings, restored: EngineState | None) -> Engine:
    """The engine of that kind; it goes on from ``restored`` where given (read, then closed), weights included.

    SettingsError for settings that do not go together; TrainingError for a state of another model.
    """
    _check(settings)
    if restored is not None:
        load_weights(root, restored)
    engine = _kind(settings)(root, settings, restored)
    if restored is not None:
        restored.close()
    return engine


def _kind(settings: EngineSettings) -> Callable[[Root, EngineSettings, EngineState | None], Engine]:
    if settings.kind == "plain":
        return PlainEngine
    from mirage_core.training.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine


def _check(settings: EngineSettings) -> None:
    """Refuse offloading that the engine does not do."""
    sharded = settings.zero_stage if settings.kind == "deepspeed" else 0
    if settings.offload_optimizer and sharded < 1:
        raise SettingsError(
            "runtime.offload_optimizer needs runtime.engine deepspeed with runtime.zero_stage 1, 2 or 3, got "
            f"{settings.kind} with {settings.zero_stage}"
        )
    if settings.offload_parameters and sharded < 3:
        raise SettingsError(
            "runtime.offload_parameters needs runtime.engine deepspeed with runtime.zero_stage 3, got "
            f"{settings.kind} with {settings.zero_stage}"
        )


@torch.no_grad()
def load_weights(root: nn.Module, state: EngineState) -> None:
    """Copy the weights of a state into the module (before an engine shards it)."""
    parameters = dict(trained(root))
    state.check(shapes_of(parameters.items()))
    for name, parameter in parameters.items():
        parameter.copy_(state.whole(MASTER, name))


def trained(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that learn, by name, in a fixed order."""
    return ((name, parameter) for name, parameter in root.named_parameters() if parameter.requires_grad)


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
