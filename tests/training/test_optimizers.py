"""AdamW in its forms: the same steps fused or not, and moments that survive a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mirage_core.config import OptimizerName
from mirage_core.training.checkpoint.sharded_state import MEAN, SQUARE, EngineState, shapes_of, write_shard
from mirage_core.training.engine.base import Engine, EngineSettings, Root, trained_parameters
from mirage_core.training.engine.make_engine import make_engine
from mirage_core.training.engine.optimizers import make_optimizer, moments, set_moments


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layers.0.weight": (96, 64), "layers.0.bias": (64,)}
    return {name: nn.Parameter(torch.randn(*shape, generator=generator)) for name, shape in shapes.items()}


def steps(optimizer: torch.optim.Optimizer, given: dict[str, nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for parameter in given.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()


def test_decay_is_on_matrices_only() -> None:
    groups = make_optimizer(parameters(), 0.1).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.1, [2]), (0.0, [1])]


def test_one_kernel_takes_the_same_steps_up_to_rounding() -> None:
    plain, fused = parameters(), parameters()
    steps(make_optimizer(plain, 0.1), plain, 0, 5)
    steps(make_optimizer(fused, 0.1, fused=True), fused, 0, 5)
    for one, other in zip(plain.values(), fused.values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(False, False), (True, True), (False, True), (True, False)])
def test_moments_carry_over_to_another_optimizer(before: bool, after: bool) -> None:
    straight = parameters()
    steps(make_optimizer(straight, 0.1), straight, 0, 6)
    given = parameters()
    first = make_optimizer(given, 0.1, fused=before)
    assert all(not found.any() for found in moments(first, given["layers.0.weight"]).values())
    steps(first, given, 0, 3)
    second = make_optimizer(given, 0.1, fused=after)
    for parameter in given.values():
        kept = {kind: values.clone() for kind, values in moments(first, parameter).items()}
        assert kept.keys() == {MEAN, SQUARE} and kept[MEAN].shape == (parameter.numel(),)
        set_moments(second, parameter, 3, kept)
    steps(second, given, 3, 6)
    for one, other in zip(straight.values(), given.values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def wide(seed: int) -> Root:
    torch.manual_seed(seed)
    return Root({"net": nn.Sequential(nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 4))})


def trained_on(root: Root, kind: OptimizerName, first: int, last: int, state: EngineState | None = None) -> Engine:
    settings = EngineSettings(kind="plain", zero_stage=0, weight_decay=0.1, max_grad_norm=1.0, optimizer=kind)
    engine = make_engine(root, settings, state)
    for step in range(first, last):
        inputs = torch.randn(16, 80, generator=torch.Generator().manual_seed(step))
        loss = engine.compute(lambda inputs=inputs: root.parts["net"](inputs).square().mean())  # type: ignore[misc]
        engine.backward(loss)
        engine.step(1e-2)
    return engine


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_portable_math_steps_by_the_fused_kernel_on_a_cpu(kind: OptimizerName) -> None:
    torch.manual_seed(0)
    root = Root({"net": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))})
    settings = EngineSettings(kind="plain", zero_stage=0, weight_decay=0.1, max_grad_norm=1.0, optimizer=kind)
    for on_cpu in (False, True):
        engine = make_engine(root, replace(settings, fused=True, fused_on_cpu=on_cpu), None)
        optimizer: torch.optim.Optimizer = vars(engine)["_optimizer"]
        assert bool(optimizer.param_groups[-1].get("fused")) is on_cpu


def saved(engine: Engine, root: Root, steps_done: int, path: Path) -> EngineState:
    write_shard(path, engine.shard())
    return EngineState(steps_done, shapes_of(trained_parameters(root)), [path])


def weights(root: Root) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in root.named_parameters()}


def test_moments_in_eight_bits_survive_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    straight = wide(0)
    engine = trained_on(straight, "adamw_8bit", 0, 6)
    big = engine._optimizer.state[engine._masters[0]]  # type: ignore[attr-defined]
    assert big["state1"].dtype == torch.uint8  # it is the real thing
    halfway = wide(0)
    state = saved(trained_on(halfway, "adamw_8bit", 0, 3), halfway, 3, tmp_path / "shard.safetensors")
    resumed = wide(1)
    trained_on(resumed, "adamw_8bit", 3, 6, state)
    for name, weight in weights(straight).items():
        assert torch.allclose(weight, weights(resumed)[name], rtol=0, atol=1e-7), name
    exact = wide(0)
    trained_on(exact, "adamw", 0, 6)
    for name, weight in weights(straight).items():  # near the same steps, in an eighth of the memory
        assert (weight - weights(exact)[name]).abs().max() < 0.02, name


def test_a_run_goes_on_in_eight_bits_from_a_checkpoint_in_full(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    first = wide(0)
    state = saved(trained_on(first, "adamw", 0, 3), first, 3, tmp_path / "shard.safetensors")
    second = wide(1)
    trained_on(second, "adamw_8bit", 3, 6, state)
    full = wide(0)
    trained_on(full, "adamw", 0, 6)
    for name, weight in weights(full).items():
        assert (weight - weights(second)[name]).abs().max() < 0.02, name
