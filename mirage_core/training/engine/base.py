"""What the training loop needs of an engine (the protocol ``Engine``), its settings, and the module it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mirage_core.config import OptimizerName
from mirage_core.model.weights import Gather
from mirage_core.training.checkpoint.sharded_state import MASTER, EngineState, Shard, shapes_of

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Kind of the engine, sharding, optimizer and offloading.

    ``fused``: AdamW in one kernel on a GPU; ``fused_on_cpu``: there too, which takes its square roots without oneMKL,
    whose own differ between CPUs (``runtime.portable_math``).
    """

    kind: Literal["plain", "deepspeed"]
    zero_stage: int
    weight_decay: float
    max_grad_norm: float
    optimizer: OptimizerName = "adamw"
    fused: bool = False
    fused_on_cpu: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False

    def fuses(self, device_type: str) -> bool:
        """Whether AdamW is one kernel on such a device."""
        return self.fused if device_type == "cuda" else self.fused_on_cpu


class Root(nn.Module):
    """All trained modules under one root, whose forward calls a function (DeepSpeed hooks a module's forward)."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)

    def forward(self, work: Callable[[], Result]) -> Result:
        """Call ``work``."""
        return work()


class Engine(Protocol):
    """Backward passes and optimizer steps. Every process calls the same methods in the same order."""

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass; its result is a tensor, or tensors in tuples and dicts (what DeepSpeed looks into)."""

    def release(self) -> None:
        """Release what forward passes without a backward have fetched ahead."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``; gradients add up over calls AND processes."""

    def step(self, learning_rate: float) -> float:
        """Clip by the global norm, take one optimizer step, clear the gradients; returns the norm before clipping."""

    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments and their number of steps, as before the first step."""

    def shard(self) -> Shard:
        """Return this process's part of the state, from which any engine can go on; views until the next step."""

    @property
    def gather(self) -> Gather:
        """Return a context manager in which chosen weights are complete in every process (ZeRO-3 shards them)."""


@torch.no_grad()
def load_weights(root: nn.Module, state: EngineState) -> None:
    """Copy the weights of a state into the module (before an engine shards it)."""
    parameters = dict(trained_parameters(root))
    state.check(shapes_of(parameters.items()))
    for name, parameter in parameters.items():
        parameter.copy_(state.tensor(MASTER, name))


def trained_parameters(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that require gradients, by name, in a fixed order."""
    return ((name, parameter) for name, parameter in root.named_parameters() if parameter.requires_grad)
