"""Backward passes, clipping and optimizer steps over several processes, behind one protocol; the plain engine.

Both engines take the same AdamW steps on the same gradients and keep their state in the same named
tensors, so that training can go on with another engine, or another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mirage_core.errors import TrainingError
from mirage_core.training.processes import group_size

Result = TypeVar("Result")

MASTER, MEAN, SQUARE = "master", "exp_avg", "exp_avg_sq"
"""State by kind: weights in float32, Adam's mean of gradients and of their squares."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine must know."""

    kind: Literal["plain", "deepspeed"]
    zero_stage: int
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class EngineState:
    """Optimizer steps done, and "kind/parameter" -> whole float32 tensor (``MASTER``, ``MEAN``, ``SQUARE``)."""

    steps: int
    tensors: Mapping[str, Tensor]

    def of(self, kind: str, name: str, like: Tensor) -> Tensor:
        """One tensor; TrainingError where the state is of another model."""
        found = self.tensors.get(f"{kind}/{name}")
        if found is None or found.shape != like.shape:
            got = "nothing" if found is None else list(found.shape)
            raise TrainingError(
                f"the checkpoint holds {got} for {kind}/{name}, expected {list(like.shape)}: it is of another model. "
                "Delete the checkpoints of this run, then run again"
            )
        return found


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

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``; gradients add up over calls AND processes."""

    def step(self, learning_rate: float) -> float:
        """Clip by the global norm, take one AdamW step, forget the gradients; returns the norm before clipping."""

    def state(self) -> EngineState:
        """Everything another engine needs to go on exactly (whole tensors, in every process)."""

    def whole(self) -> AbstractContextManager[None]:
        """Inside the block every process sees whole weights (ZeRO-3 shards them)."""


def make_engine(root: Root, settings: EngineSettings, restored: EngineState | None) -> Engine:
    """The engine of that kind; it goes on from ``restored`` where given, weights included."""
    if restored is not None:
        load_weights(root, restored)
    if settings.kind == "plain":
        return PlainEngine(root, settings, restored)
    from mirage_core.training.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(root, settings, restored)


def load_weights(root: nn.Module, state: EngineState) -> None:
    """Copy the weights of a state into the module (before an engine shards it)."""
    with torch.no_grad():
        for name, parameter in trained(root):
            parameter.copy_(state.of(MASTER, name, parameter))


def trained(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that learn, by name, in a fixed order."""
    return ((name, parameter) for name, parameter in root.named_parameters() if parameter.requires_grad)


def make_optimizer(parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, as in the Hugging Face Trainer; the rate is set at every step."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)


def adam_state(steps: int, mean: Tensor, square: Tensor) -> dict[str, Tensor]:
    """What torch's AdamW keeps of a parameter."""
    return {"step": torch.tensor(float(steps)), MEAN: mean, SQUARE: square}


class PlainEngine:
    """torch's AdamW and one all-reduce of the gradients; bfloat16 weights get float32 masters."""

    def __init__(self, root: Root, settings: EngineSettings, restored: EngineState | None) -> None:
        self._root, self._settings = root, settings
        self._names, self._parameters = map(list, zip(*trained(root), strict=True))
        self._masters = [_master(parameter) for parameter in self._parameters]
        self._optimizer = make_optimizer(self._masters, settings.weight_decay)
        self._steps = 0
        if restored is not None:
            self._restore(restored)

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass."""
        result: Result = self._root(work)
        return result

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

    def state(self) -> EngineState:
        """Masters and Adam's moments by parameter."""
        tensors: dict[str, Tensor] = {}
        for name, master in zip(self._names, self._masters, strict=True):
            kept = self._optimizer.state.get(master, {})
            tensors[f"{MASTER}/{name}"] = master.detach()
            for kind in (MEAN, SQUARE):
                tensors[f"{kind}/{name}"] = kept[kind] if kept else torch.zeros_like(master)
        return EngineState(self._steps, tensors)

    def whole(self) -> AbstractContextManager[None]:
        """Weights are always whole here."""
        return nullcontext()

    def _restore(self, state: EngineState) -> None:
        self._steps = state.steps
        for name, master in zip(self._names, self._masters, strict=True):
            master.data.copy_(state.of(MASTER, name, master))
            moments = [state.of(kind, name, master).clone().to(master.device) for kind in (MEAN, SQUARE)]
            self._optimizer.state[master] = adam_state(state.steps, *moments)

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
