"""Checkpoints of LoRA training on one device: weights and AdamW's moments as safetensors, the rest as JSON."""

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


def save_checkpoint(
    folder: Path, job_digest: str, weights: dict[str, Any], optimizer: Any, losses: list[float]
) -> None:
    """Replace the checkpoint by the current state, completely or not at all."""
    from safetensors.torch import save_file

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {f"weight/{name}": weight.detach().cpu().contiguous() for name, weight in weights.items()}
    for name, weight in weights.items():
        for moment in _MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[weight][moment].cpu().contiguous()
    save_file(tensors, str(partial / _TENSORS))
    (partial / _STATE).write_text(json.dumps({"made_of": job_digest, "losses": losses}))
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, job_digest: str, weights: dict[str, Any], optimizer: Any) -> list[float]:
    """Load the checkpoint of the same training; return its losses so far, empty if there is none."""
    import torch
    from safetensors.torch import load_file

    state_file = next(
        (f / _STATE for f in (folder, folder.with_name(f"{folder.name}.old")) if (f / _STATE).is_file()), None
    )
    if state_file is None:
        return []
    state = json.loads(state_file.read_text())
    if state["made_of"] != job_digest:
        logger.warning(
            "%s belongs to another training (other pairs or settings): starting from the beginning", state_file.parent
        )
        return []
    tensors = load_file(str(state_file.with_name(_TENSORS)))
    losses: list[float] = state["losses"]
    for name, weight in weights.items():
        weight.data.copy_(tensors[f"weight/{name}"])
        moments = {moment: tensors[f"{moment}/{name}"].to(weight.device) for moment in _MOMENTS}
        optimizer.state[weight] = {"step": torch.tensor(float(len(losses))), **moments}
    return losses
