"""The weights of the best validation: kept in a file while a stage trains, its result in the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_core.errors import TrainingError
from mirage_core.training.engine import trained
from mirage_core.training.processes import wait_for_all

FILE = "best.safetensors"


def keep_best(module: nn.Module, folder: Path, step: int, rank: int) -> None:
    """Write the trained weights as they are after ``step``, in place of earlier ones; every process calls this alike.

    Weights sharded by ZeRO-3 are gathered one after the other; process 0 holds a copy of all in main memory meanwhile.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in trained(module):
        with _whole(parameter, written=False):
            if rank == 0:
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{FILE}.part"
        save_file(weights, half, metadata={"step": str(step)})
        os.replace(half, folder / FILE)


def check_best(folder: Path, step: int) -> None:
    """TrainingError where the file does not hold the weights after ``step``."""
    found = "nothing"
    if (folder / FILE).is_file():
        with safe_open(folder / FILE, "pt") as file:
            found = f"the weights after step {(file.metadata() or {}).get('step')}"
    if found != f"the weights after step {step}":
        raise TrainingError(
            f"{folder / FILE} holds {found}, expected those of the best validation, after step {step}. Delete the "
            "checkpoints of this run, then run again"
        )


def load_best(module: nn.Module, folder: Path, step: int) -> None:
    """Give the module the weights kept after ``step``; every process calls this alike. TrainingError as check_best."""
    wait_for_all()  # process 0 may have written just now
    check_best(folder, step)
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        for name, parameter in trained(module):
            with _whole(parameter, written=True):
                parameter.copy_(file.get_tensor(name))


@contextmanager
def _whole(parameter: Any, *, written: bool) -> Iterator[None]:
    """Inside the block a parameter that ZeRO-3 has sharded is whole; what process 0 writes to it stays."""
    if not hasattr(parameter, "ds_shape"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if written else None):
        yield
