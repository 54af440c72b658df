"""The DeepSpeed engine: ZeRO 0 to 3 with torch's AdamW, on CPU (gloo) or GPU, without compiled parts.

Written against DeepSpeed 0.19.8, which constraints.txt pins: the state is gathered and restored by parameter
through its fragment addresses, since its own checkpoints are pickles bound to the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mirage_core.errors import SettingsError
from mirage_core.training.engine import (
    MASTER,
    MEAN,
    SQUARE,
    EngineSettings,
    EngineState,
    Root,
    adam_state,
    make_optimizer,
    trained,
)
from mirage_core.training.extensions import import_deepspeed
from mirage_core.training.processes import group_size

Result = TypeVar("Result")


class DeepSpeedEngine:
    """One DeepSpeed engine round the root module. Needs an initialised process group (one process too)."""

    def __init__(self, root: Root, settings: EngineSettings, restored: EngineState | None) -> None:
        parameters = dict(trained(root))
        deepspeed = import_deepspeed(next(iter(parameters.values())).device.type)
        self._zero = settings.zero_stage
        self._max_grad_norm = settings.max_grad_norm
        self._steps = 0
        self._engine, _, _, _ = deepspeed.initialize(
            model=root,
            optimizer=make_optimizer(list(parameters.values()), settings.weight_decay),
            config=_config(settings, parameters),
            dist_init_required=False,
        )
        self._names = list(parameters)
        # Without ZeRO, step() would not tell the norm: the gradients are reduced before it instead.
        self._engine.enable_backward_allreduce = self._zero > 0
        if restored is not None:
            self._restore(restored)

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass under DeepSpeed's hooks."""
        result: Result = self._engine(work)
        return result

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; DeepSpeed takes the mean over processes, so the loss is scaled to a sum."""
        self._engine.backward(loss * group_size(), scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, step; returns the norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._reduced_norm() if self._zero == 0 else None
        self._engine.step()
        self._steps += 1
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def state(self) -> EngineState:
        """Masters and moments, gathered by parameter in every process."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters():
            for kind in (MASTER, MEAN, SQUARE):
                tensors[f"{kind}/{name}"] = self._gathered(parameter, kind)
        return EngineState(self._steps, tensors)

    def whole(self) -> AbstractContextManager[None]:
        """Gather sharded weights for the block, under ZeRO-3."""
        return nullcontext() if self._zero < 3 else _gathered_weights(self._engine.module)

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        named = dict(self._engine.module.named_parameters())
        return ((name, named[name]) for name in self._names)

    @property
    def _adam(self) -> torch.optim.Optimizer:
        found: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        return found

    def _stepped(self) -> list[Tensor]:
        """The tensors that AdamW steps on in this process: parameters (ZeRO-0), or flat shards of them."""
        if self._zero == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [tensor for group in self._adam.param_groups for tensor in group["params"]]

    def _reduced_norm(self) -> Tensor:
        """Reduce the gradients as ZeRO-1 does (none counts as zero) and take their norm, which stage 0 leaves to us."""
        gradients = []
        for _, parameter in self._parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            gradients.append(parameter.grad.div_(group_size()))
        return nn.utils.get_total_norm(gradients)

    def _gathered(self, parameter: Any, kind: str) -> Tensor:
        """One whole float32 tensor of a parameter, assembled from the processes that hold pieces of it."""
        if self._zero == 3:
            return self._gathered_from_shards(parameter, kind)
        whole = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
        piece = self._piece(parameter, kind)
        if piece is not None:
            begin, values = piece
            whole[begin : begin + values.numel()] = values
        if self._zero > 0:
            dist.all_reduce(whole)
        return whole.view(parameter.shape)

    def _gathered_from_shards(self, parameter: Any, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if kind == MASTER:
            return safe_get_full_fp32_param(parameter).clone()
        if self._steps == 0:
            return torch.zeros(parameter.ds_shape)
        return safe_get_full_optimizer_state(parameter, kind).clone()

    def _piece(self, parameter: Any, kind: str) -> tuple[int, Tensor] | None:
        """The part of a tensor that this process keeps (ZeRO 0 to 2): where it begins, and a flat view of it."""
        if self._zero == 0:
            return 0, self._kept(parameter, parameter.data, kind).view(-1)
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        flat = self._engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        here = mapping.hp_fragment_address
        values = self._kept(flat, flat.data, kind).narrow(0, here.start, here.numel)
        return mapping.lp_fragment_address.start, values

    def _kept(self, key: Tensor, weights: Tensor, kind: str) -> Tensor:
        """Weights or a moment of one tensor the optimizer steps on; moments begin as zeros."""
        if kind == MASTER:
            return weights
        if not self._adam.state[key]:
            self._adam.state[key].update(_zero_moments(self._steps, key))
        found: Tensor = self._adam.state[key][kind]
        return found

    def _restore(self, state: EngineState) -> None:
        self._steps = state.steps
        for tensor in self._stepped():
            self._adam.state[tensor].update(_zero_moments(state.steps, tensor))
        for name, parameter in self._parameters():
            like = torch.empty(getattr(parameter, "ds_shape", parameter.shape), device="meta")
            for kind in (MASTER, MEAN, SQUARE):
                self._scatter(parameter, kind, state.of(kind, name, like))

    def _scatter(self, parameter: Any, kind: str, whole: Tensor) -> None:
        """Keep this process's part of a whole tensor."""
        if self._zero == 3:
            _scatter_to_shard(parameter, kind, whole)
            return
        piece = self._piece(parameter, kind)
        if piece is not None:
            begin, values = piece
            values.copy_(whole.reshape(-1)[begin : begin + values.numel()])


def _zero_moments(steps: int, tensor: Tensor) -> dict[str, Tensor]:
    return adam_state(steps, torch.zeros_like(tensor.data), torch.zeros_like(tensor.data))


def _config(settings: EngineSettings, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    low_precision = any(parameter.dtype == torch.bfloat16 for parameter in parameters.values())
    if low_precision and settings.zero_stage == 0:
        raise SettingsError(
            "runtime.zero_stage 0 with model.dtype bfloat16 keeps no float32 weights that could be saved. "
            "Set runtime.zero_stage to 1 (or 2, 3), or runtime.engine to plain"
        )
    elements = sum(parameter.numel() for parameter in parameters.values())
    bucket = min(500_000_000, elements + elements % 2)  # DeepSpeed wants it even
    return {
        "train_micro_batch_size_per_gpu": 1,  # ours to count: see managed_gradient_accumulation
        "managed_gradient_accumulation": False,  # every step() ends an accumulation, however many backwards it had
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": low_precision},
        "steps_per_print": 10**9,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "overlap_comm": False,  # gloo has no streams to overlap
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
    }


def _scatter_to_shard(parameter: Any, kind: str, whole: Tensor) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = parameter.ds_tensor.numel()  # shards are equal, the last one padded
    flat = torch.zeros(size * group_size(), dtype=torch.float32, device=parameter.device)
    flat[: whole.numel()] = whole.reshape(-1)
    shard = flat.narrow(0, size * dist.get_rank(), size)
    if kind == MASTER:
        safe_set_local_fp32_param(parameter, shard)
    else:
        safe_set_local_optimizer_state(parameter, shard, kind)


@contextmanager
def _gathered_weights(module: nn.Module) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(module.parameters())):
        yield
