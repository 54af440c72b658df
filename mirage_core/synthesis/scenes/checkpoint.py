"""Checkpoints of a LoRA training on one device: weights and AdamW's moments as safetensors, the rest as JSON."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_TENSORS, _STATE = "tensors.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(folder: Path, made_of: str, weights: dict[str, Any], optimizer: Any, losses: list[float]) -> None:
    """Replace the checkpoint by the present state, whole or not at all."""
    from safetensors.torch import save_file

    fresh = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"weight/{name}": weight.detach().cpu().contiguous() for name, weight in weights.items()}
    for name, weight in weights.items():
        for moment in _MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[weight][moment].cpu().contiguous()
    save_file(tensors, str(fresh / _TENSORS))
    (fresh / _STATE).write_text(json.dumps({"made_of": made_of, "losses": losses}))
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, made_of: str, weights: dict[str, Any], optimizer: Any) -> list[float]:
    """Take the state of a checkpoint of this same training; the losses so far, none where there is no such one."""
    import torch
    from safetensors.torch import load_file

    state_file = next(
        (f / _STATE for f in (folder, folder.with_name(f"{folder.name}.old")) if (f / _STATE).is_file()), None
    )
    if state_file is None:
        return []
    state = json.loads(state_file.read_text())
    if state["made_of"] != made_of:
        logger.warning("%s is of another training (other pairs or settings): starting anew", state_file.parent)
        return []
    tensors = load_file(str(state_file.with_name(_TENSORS)))
    losses: list[float] = state["losses"]
    for name, weight in weights.items():
        weight.data.copy_(tensors[f"weight/{name}"])
        moments = {moment: tensors[f"{moment}/{name}"].to(weight.device) for moment in _MOMENTS}
        optimizer.state[weight] = {"step": torch.tensor(float(len(losses))), **moments}
    return losses
