"""A training checkpoint on disk: the engine's named tensors, the curves so far, and a small JSON; no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mirage_core.errors import ArtifactDamaged, TrainingError
from mirage_core.training.curves import Curves
from mirage_core.training.engine import EngineState

VERSION = 1
STATE_FILE, ABOUT_FILE, CURVES_FILE = "state.safetensors", "checkpoint.json", "curves.parquet"


def write_checkpoint(folder: Path, program: str, step: int, state: EngineState, curves: Curves) -> None:
    """Write what training needs to go on after ``step`` optimizer steps.

    The tensors are whole, so that any engine and any number of processes can go on from them.
    """
    folder.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    save_file(tensors, folder / STATE_FILE)
    curves.write(folder / CURVES_FILE)
    about = {"version": VERSION, "program": program, "step": step, "optimizer_steps": state.steps}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path, program: str) -> tuple[int, EngineState, Curves]:
    """Read a checkpoint back: the steps done, the state, the curves.

    ArtifactDamaged for a folder that is not one; TrainingError for one of another program.
    """
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        tensors: dict[str, torch.Tensor] = load_file(folder / STATE_FILE)
    except (OSError, ValueError, SafetensorError) as problem:
        raise ArtifactDamaged(
            f"{folder} is not a training checkpoint: {problem}. Delete it, then run again"
        ) from problem
    if (about.get("version"), about.get("program")) != (VERSION, program):
        raise TrainingError(
            f"{folder} is a checkpoint of {about.get('program')} (format {about.get('version')}), expected {program} "
            f"(format {VERSION}). Delete it, then run again"
        )
    return about["step"], EngineState(about["optimizer_steps"], tensors), Curves.read(folder / CURVES_FILE)
