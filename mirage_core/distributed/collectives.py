"""The processes of one training job as a group: joining, adding up, waiting for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the launcher notices silence long before
_HERE: dict[str, int] = {}
"""This process's place on its host, where it was said."""


@contextmanager
def joined(rank: int, world_size: int, rendezvous: Path | None) -> Iterator[None]:
    """Be process ``rank`` of ``world_size`` inside the block; they meet at a file, which must be new.

    Without one they meet where the environment says (MASTER_ADDR and MASTER_PORT, as torchrun sets them).

    After an error the group is left as it is: taking it down could wait for processes that are gone.
    """
    device = process_device(rank, world_size)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        init_method="env://" if rendezvous is None else rendezvous.absolute().as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    yield
    dist.destroy_process_group()


def on_this_host(rank: int, size: int) -> None:
    """Say which process of this host this is, of how many; until then all processes are taken to be of this host."""
    _HERE.update(rank=rank, size=size)


def process_device(rank: int, world_size: int) -> torch.device:
    """A GPU of its own for every process where this host has enough of them, else the CPU for all."""
    number = _HERE.get("rank", rank)
    if torch.cuda.device_count() < _HERE.get("size", world_size):
        return torch.device("cpu")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def group_rank() -> int:
    """The number of this process in the group; 0 outside of one."""
    return dist.get_rank() if dist.is_initialized() else 0


def group_size() -> int:
    """The number of processes in the group; 1 outside of one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def added(values: Mapping[str, float]) -> dict[str, float]:
    """Each value's sum over all processes, in double precision, for the same keys everywhere."""
    names = sorted(values)
    if group_size() == 1:
        return {name: float(values[name]) for name in names}
    sums = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
    dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def largest(values: Mapping[str, float]) -> dict[str, float]:
    """Each value's maximum over all processes, for the same keys everywhere."""
    names = sorted(values)
    if group_size() == 1:
        return {name: float(values[name]) for name in names}
    most = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return dict(zip(names, most.tolist(), strict=True))


def wait_for_all() -> None:
    """Return when every process has come here."""
    if group_size() > 1:
        dist.barrier()
