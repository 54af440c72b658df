"""Gradient checkpointing in every program: the same loss and gradients, less kept for the backward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mirage_core.config import GroundingSettings, LatentSettings, LoRASettings
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.lora import add_adapters
from mirage_core.training.sft.losses import grounding_loss, relaxation_loss, text_loss
from tests.latent.tiny import IDS, mixed_examples, tiny_backbone

LATENT = LatentSettings(num_latents=3)
Loss = Callable[[Backbone, LatentBatch, bool], Tensor]
PROGRAMS: dict[str, Loss] = {
    "text": lambda backbone, batch, on: text_loss(backbone, batch, checkpointing=on).total,
    "grounding": lambda backbone, batch, on: (
        grounding_loss(backbone, batch, GroundingSettings(gradient_checkpointing=on), LATENT).total
    ),
    "relaxation": lambda backbone, batch, on: relaxation_loss(backbone, batch, checkpointing=on).total,
}
LEARNING: dict[str, Callable[[Backbone], object]] = {
    "text model": lambda backbone: backbone.freeze_vision(),
    "adapters": lambda backbone: add_adapters(backbone, LoRASettings(rank=4, dropout=0.5), IDS, seed=1),
    "vision tower": lambda backbone: backbone.requires_grad_(True),
}


def step(program: str, what: str, *, checkpointing: bool) -> tuple[float, dict[str, Tensor], int]:
    """Loss and gradients of one step, and the bytes kept in between that are no weights."""
    backbone = copy.deepcopy(tiny_backbone())
    LEARNING[what](backbone)
    batch = collate(mixed_examples(), IDS, backbone.position_ids, align=True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(2)  # of the dropout
    with saved_tensors_hooks(count, lambda tensor: tensor):
        loss = PROGRAMS[program](backbone.train(), batch, checkpointing)
    loss.backward()
    gradients = {name: one.grad for name, one in backbone.named_parameters() if one.grad is not None}
    return loss.item(), gradients, sum(kept.values())


@pytest.mark.parametrize("what", LEARNING)
@pytest.mark.parametrize("program", PROGRAMS)
def test_checkpointing_keeps_less_and_changes_neither_loss_nor_gradients(program: str, what: str) -> None:
    loss, gradients, kept = step(program, what, checkpointing=False)
    other_loss, others, less = step(program, what, checkpointing=True)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == others.keys() and len(gradients) > 30
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-7)
    assert less < 0.5 * kept, (less, kept)
