"""The processes of one training job as a group: joining, adding up, waiting for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the launcher notices silence long before


@contextmanager
def joined(rank: int, world_size: int, rendezvous: Path) -> Iterator[None]:
    """Be process ``rank`` of ``world_size`` inside the block; they meet at a file, which must be new.

    After an error the group is left as it is: taking it down could wait for processes that are gone.
    """
    device = process_device(rank, world_size)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        init_method=rendezvous.absolute().as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    yield
    dist.destroy_process_group()


def process_device(rank: int, world_size: int) -> torch.device:
    """A GPU of its own for every process where there are enough of them, else the CPU for all."""
    if torch.cuda.device_count() < world_size:
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


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


def wait_for_all() -> None:
    """Return when every process has come here."""
    if group_size() > 1:
        dist.barrier()
