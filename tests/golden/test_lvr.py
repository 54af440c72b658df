"""LVR, number for number what its authors' code computes: losses, gradients, decoded latents, policy gradient."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from mirage_core.config import LvrSettings
from mirage_core.generation.decode import DecodeSettings, decode
from mirage_core.latent.collate import collate
from mirage_core.latent.examples import IGNORED, EncodedExample, no_grids, no_pixels
from mirage_core.model.forward.forward import replay_forward
from mirage_core.model.forward.region import region_forward
from mirage_core.training.sft.region_loss import region_loss
from tests.golden.cases import Golden
from tests.golden.lvr_cases import LvrGolden, lvr_cases
from tests.golden.test_golden import LOSS, NORM, check

OWN = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("MIRAGE_GOLDEN_LVR", OWN / "lvr"))
"""Another folder of this layout can be checked too."""

VARIANTS = {
    "plain": LvrSettings(detached=False),
    "crop": LvrSettings(detached=False),
    "plain_mae": LvrSettings(distance="l1", detached=False),
    "plain_cosine": LvrSettings(distance="cosine", detached=False),
    "plain_unfrozen": LvrSettings(detached=False),
    "head_simple": LvrSettings(head="simple", detached=False),
    "head_glu": LvrSettings(head="glu", detached=False),
    "latent_end": LvrSettings(stop="vector", detached=False),
    "latent_end_not_added": LvrSettings(stop="vector", stop_weight=0.0, detached=False),
    "latent_end_head_simple": LvrSettings(head="simple", stop="vector", detached=False),
    "mode_switch_head_simple": LvrSettings.model_construct(head="simple", stop="switch", detached=False),
}


@pytest.fixture(scope="module")
def lvr() -> LvrGolden:
    return LvrGolden(FOLDER, Golden(OWN))


def pairs() -> list[tuple[str, str]]:
    scalars = json.loads((FOLDER / "scalars_sft.json").read_text())
    return [(case, variant) for case in lvr_cases(FOLDER) for variant in VARIANTS if variant in scalars[case]]


@pytest.mark.parametrize(("name", "variant"), pairs())
def test_losses_and_gradients(lvr: LvrGolden, name: str, variant: str) -> None:
    settings, expected = VARIANTS[variant], lvr.scalars("sft")[name][variant]
    stops = settings.stop == "vector"
    backbone, readout = lvr.backbone, lvr.readout(settings.head, stops=stops)
    backbone.requires_grad_(True)
    if variant != "plain_unfrozen":
        backbone.freeze_vision()
    backbone.zero_grad(set_to_none=True)
    batch = lvr.batch(name, learns_stop=stops)
    loss = region_loss(backbone, batch, settings, readout, latent_end=lvr.ids.latent_end)
    loss.total.backward()

    assert loss.parts["text"].item() == pytest.approx(expected["loss_ce"], abs=LOSS)
    assert loss.parts["visual"].item() == pytest.approx(expected["loss_lvr"], abs=LOSS)
    assert loss.total.item() == pytest.approx(expected["total"], abs=LOSS)
    if settings.stop != "text":
        assert loss.parts["stop"].item() == pytest.approx(expected["loss_mode_switch"], abs=LOSS)
    gradients = {weight: p.grad for weight, p in backbone.model.named_parameters() if p.grad is not None}
    beside = [] if readout is None else [p.grad for p in readout.parameters() if p.grad is not None]
    everything = torch.stack([gradient.norm() for gradient in [*gradients.values(), *beside]]).norm().item()
    assert everything == pytest.approx(expected["grad_norms"]["__global__"], rel=NORM)
    prefix = f"{variant}.grad."
    for weight, gradient in lvr.tensors(f"{name}.outputs").items():
        if weight.startswith(prefix):
            check(gradients[weight.removeprefix(prefix)], gradient)
    backbone.freeze_vision()


@pytest.mark.parametrize("name", lvr_cases(FOLDER))
def test_what_is_fed_and_what_it_is_held_to(lvr: LvrGolden, name: str) -> None:
    outputs, batch = lvr.tensors(f"{name}.outputs"), lvr.batch(name)
    found = region_forward(lvr.backbone, batch)
    assert torch.equal(found.rows, outputs["latent_rows"])
    assert torch.equal(found.columns, outputs["latent_columns"])
    check(found.targets, outputs["region_targets"])
    check(found.predicted, outputs["predicted"])
    mask = batch.attention_mask
    check(found.hidden[mask], outputs["hidden_after_final_norm"][mask])


def released_tokens(lvr: LvrGolden, name: str, latents: int) -> list[int]:
    """The tokens after the span: theirs keep junk ids where latents stand."""
    tokens: list[int] = lvr.tensors("decode.outputs")[f"{name}.new_tokens"].tolist()
    return tokens[latents:]


@pytest.mark.parametrize(("name", "k"), [("steps4", 4), ("steps6", 6), ("steps_scalar", 3)])
def test_a_fixed_number_of_latents_then_any_token(lvr: LvrGolden, name: str, k: int) -> None:
    expected = lvr.tensors("decode.outputs")
    settings = DecodeSettings(max_new_tokens=6, num_latents=k, end="open")
    ((found,),) = decode(lvr.backbone, [lvr.prompt()], lvr.ids, settings)
    check(found.latents[0], expected[f"{name}.latents_fed"])
    assert list(found.token_ids) == released_tokens(lvr, name, k)[:6]


def test_a_span_ends_at_a_latent_near_the_stop_vector(lvr: LvrGolden) -> None:
    how = lvr.scalars("decode")["latent_threshold"]["how"]
    expected = lvr.tensors("decode.outputs")["latent_threshold.latents_fed"]
    settings = DecodeSettings(
        max_new_tokens=6, num_latents=1, max_latents=how["lvr_steps"], end="near", near=how["lvr_end_threshold"]
    )
    readout = lvr.readout("none", stops=True)
    ((found,),) = decode(lvr.backbone, [lvr.prompt()], lvr.ids, settings, readout=readout)
    check(found.latents[0], expected)
    assert list(found.token_ids) == released_tokens(lvr, "latent_threshold", len(expected))[:6]


def test_a_span_without_a_latent_near_it_ends_at_the_cap(lvr: LvrGolden) -> None:
    expected = lvr.tensors("decode.outputs")
    settings = DecodeSettings(max_new_tokens=6, num_latents=1, max_latents=4, end="near")
    readout = lvr.readout("none", stops=True)
    ((found,),) = decode(lvr.backbone, [lvr.prompt()], lvr.ids, settings, readout=readout)
    check(found.latents[0], expected["latent_cap4.latents_fed"])
    assert list(found.token_ids) == released_tokens(lvr, "latent_cap4", 4)[:6]


def test_the_policy_gradient_over_recorded_latents(lvr: LvrGolden) -> None:
    """Their forward, given the latents that were really fed (as released, it replays other ones)."""
    expected, prompt = lvr.tensors("grpo.outputs"), lvr.prompt()
    tokens, begin = expected["prompt_completion_ids"][0], len(prompt.ids)
    latents = expected["latents_fed"]
    ids = tokens.clone()
    ids[begin : begin + len(latents)] = lvr.ids.latent_pad  # their sequences keep junk ids there
    labels = torch.full_like(ids, IGNORED)
    labels[begin + len(latents) :] = ids[begin + len(latents) :]
    row = EncodedExample(
        ids=ids,
        labels=labels,
        pixel_values=prompt.pixel_values,
        grid_thw=prompt.grid_thw,
        auxiliary_pixel_values=no_pixels(),
        auxiliary_grid_thw=no_grids(),
    )
    backbone = lvr.backbone
    backbone.zero_grad(set_to_none=True)
    batch = collate([row], lvr.ids, backbone.position_ids, align=False)
    hidden = replay_forward(backbone, batch, [latents])
    labelled = batch.labels != IGNORED  # they ban nothing, so that every token has its plain probability
    scores = (backbone.logits(hidden[labelled]) / 0.9).log_softmax(-1)
    log_probs = scores.gather(1, batch.labels[labelled][:, None])[:, 0]
    check(log_probs, expected["log_probs_with_generated_latents"][expected["final_mask"][0]])
    (-torch.exp(log_probs - log_probs.detach()).mean()).backward()
    gradients = dict(backbone.model.named_parameters())
    prefix = "grad_with_generated_latents."
    for name, gradient in expected.items():
        if name.startswith(prefix):
            check(gradients[lvr.names[name.removeprefix(prefix)]].grad, gradient)
