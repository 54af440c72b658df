"""One process that trains a tiny module with every engine and writes what came out (run by test_engine.py)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from mirage_core.training.engine import Engine, EngineSettings, EngineState, Root, make_engine
from mirage_core.training.processes import joined

STEPS, BATCH = 8, 6
CASES = {
    "plain": ("plain", 0, torch.float32),
    "zero-0": ("deepspeed", 0, torch.float32),
    "zero-1": ("deepspeed", 1, torch.float32),
    "zero-2": ("deepspeed", 2, torch.float32),
    "zero-3": ("deepspeed", 3, torch.float32),
    "plain-bf16": ("plain", 0, torch.bfloat16),
    "zero-1-bf16": ("deepspeed", 1, torch.bfloat16),
}


def tiny(dtype: torch.dtype) -> Root:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 1))
    net[2].requires_grad_(False)
    return Root({"net": net.to(dtype), "unused": nn.Linear(2, 1).to(dtype)})


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 5, generator=generator)
    return inputs, 10 * inputs.sum(1, keepdim=True).sin()


def one_step(engine: Engine, root: Root, step: int, rank: int, world_size: int, pieces: int) -> list[float]:
    inputs, targets = batch(step)
    total = 0.0
    for piece in range(pieces):
        chosen = torch.arange(BATCH)[rank::world_size][piece::pieces]
        dtype = next(root.parameters()).dtype

        def work(chosen: torch.Tensor = chosen, dtype: torch.dtype = dtype) -> torch.Tensor:
            return ((root.parts["net"](inputs[chosen].to(dtype)) - targets[chosen]).float() ** 2).sum() / BATCH

        loss = engine.compute(work)
        engine.backward(loss)
        total += loss.item()
    return [total, engine.step(0.02 / (step + 1))]


def kept(state: EngineState) -> EngineState:
    return EngineState(state.steps, {name: tensor.detach().clone() for name, tensor in state.tensors.items()})


def run_case(name: str, rank: int, world_size: int) -> dict[str, object]:
    kind, zero, dtype = CASES[name]
    settings = EngineSettings(kind=kind, zero_stage=zero, weight_decay=0.1, max_grad_norm=1.0)
    root = tiny(dtype)
    engine = make_engine(root, settings, None)
    figures, middle = [], None
    for step in range(STEPS):
        if step == STEPS // 2:
            middle = kept(engine.state())
        figures.append(one_step(engine, root, step, rank, world_size, pieces=1 + step % 2))
    straight = kept(engine.state())
    root = tiny(dtype)
    engine = make_engine(root, settings, middle)
    for step in range(STEPS // 2, STEPS):
        one_step(engine, root, step, rank, world_size, pieces=1 + step % 2)
    resumed = kept(engine.state())
    with engine.whole():
        weights = {key: value.detach().float().flatten().tolist() for key, value in root.named_parameters()}
    return {
        "figures": figures,
        "identical": all(torch.equal(straight.tensors[key], resumed.tensors[key]) for key in straight.tensors),
        "steps": resumed.steps,
        "weights": weights,
        "state": {key: value.flatten().tolist() for key, value in straight.tensors.items()},
    }


def main() -> None:
    folder, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder / "extensions")
    with joined(rank, world_size, folder / "rendezvous"):
        results = {name: run_case(name, rank, world_size) for name in CASES}
    (folder / f"rank-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
