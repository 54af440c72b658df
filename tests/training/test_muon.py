"""Muon: the steps of torch's own, on the matrices of layers alone; refused where matrices are sharded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mirage_core.config import StepwiseSettings
from mirage_core.errors import SettingsError
from mirage_core.recipes import load
from mirage_core.training.engine import muon
from mirage_core.training.engine.base import EngineSettings, Root
from mirage_core.training.engine.make_engine import make_engine
from mirage_core.training.engine.muon import is_hidden_matrix, orthogonalised
from mirage_core.training.engine.optimizers import make_optimizer
from mirage_core.training.stepwise.heads import StepHeads
from tests.latent.tiny import tiny_model

SHAPES = ((24, 40), (40, 24), (24, 40), (24, 24))


def layers() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = {f"layers.{n}.weight": torch.randn(*shape, generator=generator) for n, shape in enumerate(SHAPES)}
    return {name: nn.Parameter(tensor) for name, tensor in made.items()}


def take_steps(optimizer: torch.optim.Optimizer, given: dict[str, nn.Parameter]) -> None:
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        for parameter in given.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 / (step + 1)
        optimizer.step()


@pytest.mark.parametrize("limit", (1 << 24, 2 * 24 * 40, 1))
def test_the_steps_are_those_of_torchs_muon_but_for_its_bfloat16(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """However many matrices are orthogonalised at a time."""
    monkeypatch.setattr(muon, "STACK_LIMIT", limit)
    ours, theirs, before = layers(), layers(), layers()
    take_steps(make_optimizer(ours, 0.1, "muon"), ours)
    take_steps(torch.optim.Muon(theirs.values(), weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), theirs)
    for name, weight in ours.items():
        moved = (theirs[name] - before[name]).norm()
        assert moved > 0.2
        assert (weight - theirs[name]).norm() < 0.02 * moved, name


def test_singular_values_come_near_one_and_directions_stay() -> None:
    left, _ = torch.linalg.qr(torch.randn(30, 20, generator=torch.Generator().manual_seed(1)))
    right, _ = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(2)))
    given = left @ torch.diag(torch.linspace(0.1, 3.0, 20)) @ right.T
    found = orthogonalised(torch.stack([given, 100 * given, -given]))
    assert torch.allclose(found[0], found[1], atol=1e-4) and torch.allclose(found[0], -found[2], atol=1e-5)
    inside = left.T @ found[0] @ right
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-4)
    assert inside.diagonal().min() > 0.6 and inside.diagonal().max() < 1.25


def test_embeddings_output_layer_heads_and_norms_are_left_to_adamw() -> None:
    root = Root({"backbone": tiny_model(), "heads": StepHeads(64, StepwiseSettings(where="cell", what="kind"), 36, 4)})
    hidden = {name for name, parameter in root.named_parameters() if is_hidden_matrix(name, parameter)}
    assert {name.rsplit(".", 2)[-2] for name in hidden} >= {"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"}
    assert not [name for name in hidden if any(part in name for part in ("embed", "lm_head", "heads", "norm", "bias"))]


def test_a_matrix_without_a_gradient_and_a_model_without_layers_are_no_fault() -> None:
    given = {**layers(), "layers.9.weight": nn.Parameter(torch.ones(24, 40))}
    optimizer = make_optimizer(given, 0.1, "muon")
    given["layers.0.weight"].grad = torch.ones(24, 40)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert torch.equal(given["layers.9.weight"], torch.ones(24, 40))
    assert isinstance(make_optimizer({"embedding": nn.Parameter(torch.ones(3, 2))}, 0.1, "muon"), torch.optim.AdamW)


@pytest.mark.parametrize("section", ("film", "direct_sft", "model.warmup"))
def test_sharded_matrices_are_refused_before_anything_runs(section: str) -> None:
    chosen = [f"{section}.optimizer=muon", "runtime.engine=deepspeed"]
    with pytest.raises(
        SettingsError, match=rf"{section}.optimizer is muon.*zero_stage 1 shards.*set runtime.zero_stage"
    ):
        load("tiny", [*chosen, "runtime.zero_stage=1"])
    assert load("tiny", [*chosen, "runtime.zero_stage=0"]).runtime.zero_stage == 0
    assert load("tiny", [f"{section}.optimizer=muon", "runtime.engine=plain"]).runtime.engine == "plain"


def test_an_engine_that_shards_refuses_it_too() -> None:
    settings = EngineSettings(kind="deepspeed", zero_stage=2, weight_decay=0.1, max_grad_norm=1.0, optimizer="muon")
    with pytest.raises(SettingsError, match=r"whole matrices, and runtime.zero_stage 2 shards them: set"):
        make_engine(Root({"net": nn.Linear(2, 2)}), settings, None)
