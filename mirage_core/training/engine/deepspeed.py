"""The DeepSpeed engine: ZeRO 0 to 3, offloading, torch's AdamW, on CPU (gloo) or GPU, without compiled extensions.

Written against DeepSpeed 0.19.8, which constraints.txt pins: this process's part of the state is located through
DeepSpeed's fragment addresses, since its own checkpoints are pickles bound to the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mirage_core.distributed.collectives import all_reduce_sum
from mirage_core.distributed.context import current_process
from mirage_core.errors import SettingsError
from mirage_core.model.weights import Gather, no_gather
from mirage_core.training.checkpoint.sharded_state import EngineState, Shard, shapes_of
from mirage_core.training.engine.base import EngineSettings, Result, Root, trained_parameters
from mirage_core.training.engine.optimizer_shards import Fragment, own_part, read_shard, restore
from mirage_core.training.engine.optimizers import make_optimizer

UNUSED_EXTENSION = "deepspeed_shm_comm"
WAY_OUT = "install it with `pip install -c constraints.txt .[train]`, or set runtime.engine to plain (same losses)"


class DeepSpeedEngine:
    """DeepSpeed around the root module. Needs an initialised torch process group, also for one process."""

    def __init__(self, root: Root, settings: EngineSettings, restored: EngineState | None) -> None:
        parameters = dict(trained_parameters(root))
        device_type = next(iter(parameters.values())).device.type
        deepspeed = import_deepspeed(device_type)
        self._zero_stage = settings.zero_stage
        self._steps = 0
        self._engine, _, _, _ = deepspeed.initialize(
            model=root,
            optimizer=make_optimizer(
                parameters,
                settings.weight_decay,
                settings.optimizer,
                fused=settings.fuses(device_type),
            ),
            config=_config(settings, parameters),
            dist_init_required=False,
        )
        self._names = list(parameters)
        # Without ZeRO, step() would not return the norm: the gradients are reduced before it instead.
        self._engine.enable_backward_allreduce = self._zero_stage > 0
        if restored is not None:
            self._steps = restored.steps
            restore(restored, self._fragments(), self._adam)

    def compute(self, work: Callable[[], Result]) -> Result:
        """Run a forward pass under DeepSpeed's hooks."""
        result: Result = self._engine(work)
        return result

    def release(self) -> None:
        """Under ZeRO-3, wait for shards fetched ahead for a backward pass, and release them."""
        self._engine.empty_partition_cache()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; DeepSpeed takes the mean over processes, so the loss is scaled to a sum."""
        self._engine.backward(loss * current_process().world_size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, step; returns the norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._reduced_norm() if self._zero_stage == 0 else None
        self._engine.step()
        self._steps += 1
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments: it makes new ones in its next step."""
        self._adam.state.clear()
        self._steps = 0

    def shard(self) -> Shard:
        """Return this process's part; without ZeRO, when each has all of it, an equal part of every tensor."""
        fragments = self._fragments()
        if self._zero_stage == 0:
            fragments = [own_part(fragment) for fragment in fragments]
        return read_shard(self._steps, shapes_of(self._parameters()), fragments, self._adam)

    @property
    def gather(self) -> Gather:
        """Gather the shards of chosen weights, under ZeRO-3."""
        return no_gather if self._zero_stage < 3 else _gathered

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        named = dict(self._engine.module.named_parameters())
        return ((name, named[name]) for name in self._names)

    @property
    def _adam(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        return optimizer

    def _fragments(self) -> list[Fragment]:
        """Return this process's fragment of each parameter."""
        locate = {0: self._whole_parameter, 3: self._zero3_fragment}.get(self._zero_stage, self._zero12_fragment)
        fragments = (locate(name, parameter) for name, parameter in self._parameters())
        return [fragment for fragment in fragments if fragment is not None]

    def _whole_parameter(self, name: str, parameter: Any) -> Fragment:
        return Fragment(name, 0, parameter.numel(), parameter, 0)

    def _zero12_fragment(self, name: str, parameter: Any) -> Fragment | None:
        """ZeRO 1 and 2 step on flat runs of all parameters end to end; a parameter may lie in several processes."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        zero = self._engine.optimizer
        # BF16_Optimizer is ZeRO-1 with gradients in float32.
        flats = getattr(zero, "single_partition_of_fp32_groups", None) or zero.fp32_groups_flat_partition
        flat = flats[mapping.param_group_index]
        local = mapping.hp_fragment_address
        return Fragment(name, mapping.lp_fragment_address.start, local.numel, flat, local.start)

    def _zero3_fragment(self, name: str, parameter: Any) -> Fragment | None:
        """ZeRO-3 cuts every parameter into equal shards, the last one padded."""
        zero = self._engine.optimizer
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        begin = size * current_process().rank
        count = min(size, parameter.ds_numel - begin)
        return Fragment(name, begin, count, zero.fp32_partitioned_groups_flat[group], offset) if count > 0 else None

    def _reduced_norm(self) -> Tensor:
        """Reduce the gradients as ZeRO-1 does (a missing one is zero) and return their norm; stage 0 does neither."""
        gradients = []
        for _, parameter in self._parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            all_reduce_sum(parameter.grad)
            gradients.append(parameter.grad.div_(current_process().world_size))
        return nn.utils.get_total_norm(gradients)


def _config(settings: EngineSettings, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    low_precision = any(parameter.dtype == torch.bfloat16 for parameter in parameters.values())
    if low_precision and settings.zero_stage == 0:
        raise SettingsError(
            "runtime.zero_stage 0 with model.dtype bfloat16 keeps no float32 weights that could be saved. "
            "Set runtime.zero_stage to 1 (or 2, 3), or runtime.engine to plain"
        )
    return {
        "train_micro_batch_size_per_gpu": 1,  # counted by the loop: see managed_gradient_accumulation
        "managed_gradient_accumulation": False,  # every step() ends an accumulation, however many backwards it had
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": low_precision},
        # Otherwise sums over micro-batches are in bfloat16, and stop growing at 256 times an addend.
        "data_types": {"grad_accum_dtype": "fp32"} if low_precision else {},
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": settings.optimizer != "adamw",
        "zero_force_ds_cpu_optimizer": False,  # torch's steps on the CPU need no compiler
        "zero_optimization": _zero_config(settings, parameters),
    }


def _zero_config(settings: EngineSettings, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    elements = sum(parameter.numel() for parameter in parameters.values())
    bucket = min(500_000_000, elements + elements % 2)  # DeepSpeed wants it even
    on_gpu = next(iter(parameters.values())).device.type == "cuda"
    config: dict[str, Any] = {
        "stage": settings.zero_stage,
        "overlap_comm": False,  # gloo has no streams to overlap
        # False: gradients are averaged where they lie, to the same bits; else DeepSpeed copies them out and back.
        "reduce_scatter": on_gpu,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    offload = {"device": "cpu", "pin_memory": on_gpu}
    if settings.offload_optimizer:
        config["offload_optimizer"] = offload
    if settings.offload_parameters:
        config["offload_param"] = offload
    return config


def _gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """Gather weights inside the block, in every process."""
    import deepspeed

    if not parameters:
        return nullcontext()
    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return gathered


def import_deepspeed(device_type: str) -> ModuleType:
    """Import DeepSpeed for "cpu" or "cuda", without its extensions; SettingsError where it cannot be imported."""
    os.environ["DS_ACCELERATOR"] = device_type  # read once, at its first import
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise SettingsError(f"runtime.engine is deepspeed, but it cannot be imported ({error}): {WAY_OUT}") from error
    deepspeed.ops.__compatible_ops__[UNUSED_EXTENSION] = False
    return deepspeed
