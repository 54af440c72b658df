"""One process that trains a tiny module with every engine and writes what came out (run by test_engine.py).

With "cuda" as its last argument on a GPU, with fused kernels (run by test_engine_on_gpu.py).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mirage_core.distributed.collectives import torch_process_group, wait_for_all
from mirage_core.distributed.context import ProcessContext, as_process, current_process
from mirage_core.training.checkpoint.sharded_state import KINDS, EngineState, shapes_of, write_shard
from mirage_core.training.engine import deepspeed as engine_module
from mirage_core.training.engine.base import Engine, EngineSettings, Root, trained_parameters
from mirage_core.training.engine.make_engine import make_engine

STEPS, BATCH = 8, 6
BF16 = torch.bfloat16
ON_GPU = sys.argv[-1] == "cuda"
CASES: dict[str, tuple[EngineSettings, torch.dtype]] = {}


def case(name: str, zero: int | None, dtype: torch.dtype = torch.float32, **more: Any) -> None:
    kind = "plain" if zero is None else "deepspeed"
    CASES[name] = (
        EngineSettings(kind=kind, zero_stage=zero or 0, weight_decay=0.1, max_grad_norm=1.0, fused=ON_GPU, **more),
        dtype,
    )


case("plain", None)
for stage in range(4):
    case(f"zero-{stage}", stage)
for stage in (1, 2, 3):
    case(f"zero-{stage}-offload", stage, offload_optimizer=True)
case("zero-3-offload-all", 3, offload_optimizer=True, offload_parameters=True)
case("plain-bf16", None, BF16)
case("zero-1-bf16", 1, BF16)
case("zero-2-bf16", 2, BF16)
case("zero-3-bf16-offload", 3, BF16, offload_optimizer=True, offload_parameters=True)
case("muon", None, optimizer="muon")
case("muon-zero-0", 0, optimizer="muon")
case("muon-bf16", None, BF16, optimizer="muon")


def tiny(dtype: torch.dtype) -> Root:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 1))
    net[2].requires_grad_(False)
    return Root({"net": net.to(dtype), "unused": nn.Linear(2, 1).to(dtype)}).to("cuda" if ON_GPU else "cpu")


def shapes() -> dict[str, tuple[int, ...]]:
    return shapes_of(trained_parameters(tiny(torch.float32)))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 5, generator=generator)
    return inputs, 10 * inputs.sum(1, keepdim=True).sin()


def one_step(engine: Engine, root: Root, step: int) -> list[float]:
    process = current_process()
    inputs, targets = (part.to(next(root.parameters()).device) for part in batch(step))
    total, pieces = 0.0, 1 + step % 2
    for piece in range(pieces):
        chosen = torch.arange(BATCH)[process.rank :: process.world_size][piece::pieces]
        dtype = next(root.parameters()).dtype

        def work(chosen: torch.Tensor = chosen, dtype: torch.dtype = dtype) -> torch.Tensor:
            return ((root.parts["net"](inputs[chosen].to(dtype)) - targets[chosen]).float() ** 2).sum() / BATCH

        loss = engine.compute(work)
        engine.backward(loss)
        total += loss.item()
    return [total, engine.step(0.02 / (step + 1))]


def saved(engine: Engine, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / f"shard-{current_process().rank}.safetensors", engine.shard())
    wait_for_all()


def opened(folder: Path, steps: int) -> EngineState:
    return EngineState(steps, shapes(), sorted(folder.iterdir()))


def tensors(folder: Path) -> dict[str, list[float]]:
    state = opened(folder, STEPS)
    return {f"{kind}/{name}": state.part(kind, name).tolist() for name in shapes() for kind in KINDS}


def resumed(name: str, checkpoint: Path, end: Path) -> None:
    """Take the second half of the steps from somebody's checkpoint on."""
    settings, dtype = CASES[name]
    root = tiny(dtype)
    engine = make_engine(root, settings, opened(checkpoint, STEPS // 2))
    for step in range(STEPS // 2, STEPS):
        one_step(engine, root, step)
    saved(engine, end)


def run_case(name: str, folder: Path) -> dict[str, object]:
    settings, dtype = CASES[name]
    root = tiny(dtype)
    engine = make_engine(root, settings, None)
    figures = []
    for step in range(STEPS):
        if step == STEPS // 2:
            saved(engine, folder / name / "middle")
        figures.append(one_step(engine, root, step))
    saved(engine, folder / name / "straight")
    weights = {}
    for key, parameter in root.named_parameters():
        with engine.gather([parameter]):
            weights[key] = parameter.detach().float().flatten().tolist()
    resumed(name, folder / name / "middle", folder / name / "resumed")
    return {
        "figures": figures,
        "weights": weights,
        "state": tensors(folder / name / "straight"),
        "resumed": tensors(folder / name / "resumed"),
    }


def after_reset(name: str, folder: Path) -> dict[str, object]:
    """Take steps before and after the optimizer is reset; and those after it again, from the state of the reset."""
    settings, dtype = CASES[name]
    root = tiny(dtype)
    engine = make_engine(root, settings, None)
    for step in range(STEPS // 2):
        one_step(engine, root, step)
    engine.reset_optimizer()
    steps = engine.shard().steps
    saved(engine, folder / name / "reset")
    for step in range(STEPS // 2, STEPS):
        one_step(engine, root, step)
    saved(engine, folder / name / "straight-on")
    root = tiny(dtype)
    engine = make_engine(root, settings, opened(folder / name / "reset", steps))
    for step in range(STEPS // 2, STEPS):
        one_step(engine, root, step)
    saved(engine, folder / name / "reset-resumed")
    states = {end: tensors(folder / name / end) for end in ("reset", "straight-on", "reset-resumed")}
    return {"steps": steps, **states}


def many_micro_batches(name: str) -> float:
    """Return the gradient of a step of 300 micro-batches that each add 1 (bfloat16 cannot count beyond 256)."""
    settings, dtype = CASES[name]
    root = Root({"net": nn.Linear(1, 1, bias=False).to(dtype)}).to("cuda" if ON_GPU else "cpu")
    one = torch.ones(1, 1, dtype=dtype, device=next(root.parameters()).device)
    engine = make_engine(root, settings, None)
    for _ in range(300):
        engine.backward(engine.compute(lambda: root.parts["net"](one).float().sum()))
    return engine.step(0.0)


def crossed(folder: Path, others: Path) -> dict[str, object]:
    """Each engine goes on from the checkpoint of another engine, of another number of processes."""
    names = [name for name in CASES if "bf16" not in name and "muon" not in name]
    found = {}
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        end = folder / name / f"after-{other}"
        resumed(name, others / other / "middle", end)
        found[f"{name} after {other}"] = tensors(end)
    return found


def with_default_reduction(folder: Path) -> dict[str, object]:
    """The cases of ZeRO-1 and 2 again, with the gradients reduced as DeepSpeed does where nothing is set."""
    made = engine_module._zero_config
    engine_module._zero_config = lambda *given: {**made(*given), "reduce_scatter": True}
    try:
        return {name: run_case(name, folder / "default") for name in CASES if CASES[name][0].zero_stage in (1, 2)}
    finally:
        engine_module._zero_config = made


def main() -> None:
    folder, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder / "extensions")
    with as_process(ProcessContext.on_one_host(rank, world_size)), torch_process_group(folder / "rendezvous"):
        results: dict[str, object] = {name: run_case(name, folder) for name in CASES}
        results["many"] = {name: many_micro_batches(name) for name in CASES if "bf16" in name}
        results["default reduction"] = {} if ON_GPU else with_default_reduction(folder)
        results["reset"] = {name: after_reset(name, folder) for name in CASES}
        if len(sys.argv) > 4 and not ON_GPU:
            results["crossed"] = crossed(folder, Path(sys.argv[4]))
    (folder / f"rank-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
