"""VLPO as Monet's released code computes it (arXiv 2511.21395): its term in the policy, and the same term aligned."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample, no_grids, no_pixels
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import latent_cells, replay_forward
from mirage_core.training.grpo.latent_policy import replayed_log_probs, replayed_terms
from mirage_core.training.grpo.loss import policy_terms
from tests.golden.monet_cases import Model, MonetGolden, monet_folder

VALUES, NORM, TEMPERATURE, KL_WEIGHT = 5e-5, 1e-4, 0.5, 0.01
ROWS = ("r0", "r1")


class Vlpo:
    """The rollouts, and what the released code made of them.

    Their first latent takes the place of the start token's embedding: the span begins one column earlier than ours.
    """

    def __init__(self) -> None:
        self.golden = MonetGolden()
        self.tensors = load_file(monet_folder() / "vlpo.safetensors")
        self.scalars: dict[str, Any] = json.loads((monet_folder() / "vlpo.json").read_text())
        self.images = load_file(monet_folder() / "a_k4.stage3.inputs.safetensors")
        self.backbones: dict[Model, Backbone] = {}

    def backbone(self, model: Model) -> Backbone:
        if model not in self.backbones:
            self.backbones[model] = self.golden.backbone(model)
        return self.backbones[model]

    def latents(self, row: str) -> Tensor:
        return self.tensors[f"{row}.latents"]

    def batch(self, row: str) -> LatentBatch:
        """The row with latents from the start token's column on; the token before it stands for latent_start."""
        ids = self.tensors[f"{row}.input_ids"][0].clone()
        start, length = self.scalars[row]["start_column"], len(self.latents(row))
        ids[start : start + length] = self.golden.ids.latent_pad
        example = EncodedExample(
            ids=ids,
            labels=torch.full_like(ids, -100),
            pixel_values=self.images["pixel_values"],
            grid_thw=self.images["image_grid_thw"],
            auxiliary_pixel_values=no_pixels(),
            auxiliary_grid_thw=no_grids(),
        )
        before = replace(self.golden.ids, latent_start=int(ids[start - 1]))
        return collate([example], before, self.backbone("m1").position_ids, align=False)

    def hidden(self, row: str, model: Model) -> Tensor:
        return replay_forward(self.backbone(model), self.batch(row), [self.latents(row)])

    def terms(self, row: str, hidden: Tensor, sigma: float, *, late: bool) -> Tensor:
        rows, columns = latent_cells(self.batch(row), [len(self.latents(row))])
        return replayed_terms(hidden, [self.latents(row)], (rows, columns if late else columns - 1), sigma)

    def log_probs(self, row: str, model: Model, sigma: float) -> Tensor:
        """The text's log-probabilities of the answer, with the term in the place of four tokens' [1, response]."""
        hidden, scalars = self.hidden(row, model), self.scalars[row]
        logits = self.backbone(model).logits(hidden)[0] / TEMPERATURE
        text = logits.log_softmax(-1)[:-1].gather(-1, self.tensors[f"{row}.input_ids"][0, 1:, None])[:, 0]
        start = scalars["start_column"]
        terms = self.terms(row, hidden, sigma, late=True)
        return torch.cat([text[:start], terms, text[start + len(terms) :]])[None, -scalars["response_len"] :]


@pytest.fixture(scope="module")
def vlpo() -> Vlpo:
    return Vlpo()


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach().reshape(expected.shape), expected, atol=VALUES, rtol=VALUES)


@pytest.mark.parametrize("row", ROWS)
def test_the_log_probabilities_of_every_model(vlpo: Vlpo, row: str) -> None:
    assert torch.equal(vlpo.batch(row).position_ids, vlpo.tensors[f"{row}.position_ids"])
    models: tuple[tuple[str, Model], ...] = (("old", "m1"), ("new", "vlpo_new"), ("ref", "vlpo_ref"))
    for name, model in models:
        check(vlpo.log_probs(row, model, vlpo.scalars["sigma_released"]), vlpo.tensors[f"{row}.log_probs_{name}"])


@pytest.mark.parametrize("row", ROWS)
def test_released_the_mean_is_one_column_late_and_aligned_it_is_the_latent(vlpo: Vlpo, row: str) -> None:
    hidden = vlpo.hidden(row, "m1")
    late, aligned = (vlpo.terms(row, hidden, 1.0, late=late) for late in (True, False))
    check(late, vlpo.tensors[f"{row}.latent_log_probs_sigma1_theirs"])
    check(aligned, vlpo.tensors[f"{row}.latent_log_probs_sigma1_their_function_OUR_positions_one_earlier"])
    assert float(late.max()) < -1.0 and float(aligned.abs().max()) < 1e-6
    rows, columns = latent_cells(vlpo.batch(row), [4])
    for found, values in ((False, aligned), (True, late)):
        placed = replayed_log_probs(vlpo.batch(row), hidden, [vlpo.latents(row)], 1.0, late=found)
        check(placed[rows, columns - 1], values.detach())
        assert int((placed != 0).sum()) <= 4


@pytest.mark.parametrize("late", [True, False])
def test_aligned_the_term_has_no_gradient_on_policy(vlpo: Vlpo, late: bool) -> None:
    backbone = vlpo.backbone("m1")
    backbone.zero_grad(set_to_none=True)
    vlpo.terms("r0", vlpo.hidden("r0", "m1"), 1.0, late=late).sum().backward()
    gradients = [weight.grad for weight in backbone.parameters() if weight.grad is not None]
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    assert norm > 1.0 if late else norm < 1e-3


def their_name(name: str) -> str:
    """The name of a weight in the released code's transformers."""
    return name.removeprefix("model.") if name.startswith("model.visual.") else name.replace("model.language_", "", 1)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("sigma", [10.0, 1.0])
@pytest.mark.parametrize("advantage", [1.0, -0.7])
@pytest.mark.parametrize("on_policy", [False, True])
def test_an_update(vlpo: Vlpo, row: str, sigma: float, advantage: float, on_policy: bool) -> None:
    """Loss, KL and gradients, of the vision tower too, at the settings of their scripts."""
    name = f"{row}.sigma{sigma:g}.adv{advantage:g}" + ".on_policy" * on_policy
    wanted, policy = vlpo.scalars[name], vlpo.backbone("m1" if on_policy else "vlpo_new")
    policy.requires_grad_(True)
    policy.zero_grad(set_to_none=True)
    with torch.no_grad():
        sampled = vlpo.log_probs(row, "m1", sigma)
        reference = vlpo.log_probs(row, "m1" if on_policy else "vlpo_ref", sigma)
    terms = policy_terms(
        vlpo.log_probs(row, "m1" if on_policy else "vlpo_new", sigma),
        sampled,
        reference,
        torch.tensor([advantage]),
        torch.ones_like(sampled, dtype=torch.bool),
        clip=0.2,
        clip_high=0.3,
        dual_clip=3.0,
        kl_weight=KL_WEIGHT,
    )
    assert terms.kl.item() == pytest.approx(wanted["actor/kl_loss"], abs=VALUES)
    assert terms.loss.item() == pytest.approx(wanted["actor/pg_loss"], abs=1e-5)  # they log it with the KL in it
    assert terms.entropy.item() == pytest.approx(wanted["actor/entropy_loss"], abs=VALUES)
    terms.loss.sum().backward()
    found = {n: weight.grad for n, weight in policy.model.named_parameters() if weight.grad is not None}
    everything = torch.stack([gradient.norm() for gradient in found.values()]).norm().item()
    assert everything == pytest.approx(wanted["actor/grad_norm"], rel=NORM)
    theirs = {their_name(n): gradient for n, gradient in found.items()}
    for key, norm in wanted.get("grad_norms", {}).items():
        assert theirs[key].norm().item() == pytest.approx(norm, rel=NORM, abs=VALUES), key
    for key in (key for key in vlpo.tensors if key.startswith(f"{name}.grad.")):
        check(theirs[key.removeprefix(f"{name}.grad.")], vlpo.tensors[key])


def test_the_loss_of_a_policy(vlpo: Vlpo) -> None:
    """Theirs is a mean over all tokens: here every row is one token, and counts alike."""
    values = {name: vlpo.tensors[f"f.{name}"] for name in ("new", "old", "ref", "advantages", "mask")}
    counted = values["mask"].bool()
    new, old, ref, advantages = (values[name][counted] for name in ("new", "old", "ref", "advantages"))
    mask = torch.ones(len(new), 1, dtype=torch.bool)
    columns = (new[:, None], old[:, None], ref[:, None])
    found = policy_terms(*columns, advantages, mask, clip=0.2, clip_high=0.3, dual_clip=3.0, kl_weight=0.0)
    assert found.loss.mean().item() == pytest.approx(vlpo.scalars["functions"]["policy_loss"], abs=1e-5)
    check(found.kl, vlpo.tensors["f.kl_low_var"][counted])
