"""Collectives of a job's processes: join the torch process group, sum, take the maximum, wait for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mirage_core.distributed.context import current_process

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the launcher notices a silent process long before


@contextmanager
def torch_process_group(rendezvous: Path | None) -> Iterator[None]:
    """Join the current process with the others of its job inside the block; they meet at a file, which must be new.

    Without a file they meet at MASTER_ADDR and MASTER_PORT, as torchrun sets them. After an error the group stays as it
    is: taking it down could wait for processes that are gone.
    """
    process = current_process()
    dist.init_process_group(
        "gloo" if process_device().type == "cpu" else "cpu:gloo,cuda:nccl",
        init_method="env://" if rendezvous is None else rendezvous.absolute().as_uri(),
        rank=process.rank,
        world_size=process.world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    yield
    dist.destroy_process_group()


def process_device() -> torch.device:
    """Return this process's own GPU where the host has one for each of its processes, else the CPU."""
    process = current_process()
    if torch.cuda.device_count() < process.local_size:
        return torch.device("cpu")
    torch.cuda.set_device(process.local_rank)
    return torch.device("cuda", process.local_rank)


def sum_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Return each value's sum over all processes, in double precision; every process passes the same keys."""
    return _reduced(values, dist.ReduceOp.SUM)


def max_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Return each value's maximum over all processes; every process passes the same keys."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: Mapping[str, float], operation: dist.ReduceOp.RedOpType) -> dict[str, float]:
    names = sorted(values)
    if not _in_group():
        return {name: float(values[name]) for name in names}
    reduced = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
    dist.all_reduce(reduced, op=operation)
    return dict(zip(names, reduced.tolist(), strict=True))


def all_reduce_sum(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all processes, in place."""
    if _in_group():
        dist.all_reduce(tensor)


def wait_for_all() -> None:
    """Return when every process has called this."""
    if _in_group():
        dist.barrier()


def _in_group() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
