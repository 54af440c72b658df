"""Number for number what the authors' code computes, on stock transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mirage_core.config import GroundingSettings, LatentSettings
from mirage_core.errors import SettingsError
from mirage_core.generation.decode import DecodeSettings, Step, decode
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import relaxation_forward, text_forward
from mirage_core.model.forward.grounding import grounding_forward
from mirage_core.model.loading import load_model, save_model
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.losses import cross_entropy, grounding_loss, relaxation_loss
from tests.golden.cases import Case, Golden
from tests.golden.released import write_released

LOSS, VALUES, NORM = 1e-5, 5e-5, 1e-4


def laid_out(golden: Golden, case: Case, *, align: bool = True) -> LatentBatch:
    return collate([case.example], golden.ids, golden.backbone().position_ids, align=align)


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach().reshape(expected.shape), expected, atol=VALUES, rtol=0)


def check_loss(golden: Golden, backbone: Backbone, case: Case, stage: str, loss: LossParts) -> None:
    """Loss, gradient norms, the norm of all, and the full gradients that the case has."""
    scalars, outputs = case.scalars, case.outputs
    assert loss.parts["text"].item() == pytest.approx(scalars[f"{stage}_ce"], abs=LOSS)
    backbone.zero_grad(set_to_none=True)
    loss.total.backward()
    found = {name: p.grad for name, p in backbone.model.named_parameters() if p.grad is not None}
    norms = dict(scalars[f"{stage}_grad_norms"])
    everything = torch.stack([gradient.norm() for gradient in found.values()]).norm().item()
    assert everything == pytest.approx(norms.pop("__global__"), rel=NORM)
    for name, norm in norms.items():
        assert found[golden.names[name]].norm().item() == pytest.approx(norm, rel=NORM), name
    prefix = f"{stage}_grad."
    for name in (key for key in outputs if key.startswith(prefix)):
        check(found[golden.names[name.removeprefix(prefix)]], outputs[name])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_plain_forward(golden: Golden, case: str, attention: str) -> None:
    backbone, data = golden.backbone(attention), golden.case(case)
    batch = laid_out(golden, data)
    outputs = data.outputs
    assert torch.equal(batch.position_ids, outputs["position_ids"])
    if len(batch.grid_thw):
        check(torch.cat(backbone.image_features(batch.pixel_values, batch.grid_thw)), outputs["image_embeds"])
    auxiliary = backbone.image_features(batch.auxiliary_pixel_values, batch.auxiliary_grid_thw)
    check(torch.cat(auxiliary), outputs["aux_image_embeds"])
    hidden = text_forward(backbone, batch)
    check(backbone.logits(hidden), outputs["plain_logits"])
    text = cross_entropy(backbone, hidden, batch.labels)
    assert text.item() == pytest.approx(data.scalars["plain_ce"], abs=LOSS)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stage_1(golden: Golden, case: str, attention: str, align: bool) -> None:
    backbone, data = golden.backbone(attention), golden.case(case)
    batch = laid_out(golden, data, align=align)
    grounded = grounding_forward(backbone, batch, "drop_tail")
    check(grounded.targets, data.outputs["s1_latent_targets"])
    check(grounded.predicted, data.outputs["s1_pred_hidden"])
    check(backbone.logits(grounded.hidden), data.outputs["s1_logits"])
    settings = LatentSettings(num_latents=grounded.targets.shape[1], compression="drop_tail")
    loss = grounding_loss(backbone, batch, GroundingSettings(), settings)
    assert loss.parts["visual"].item() == pytest.approx(data.scalars["s1_cos"], abs=LOSS)
    assert loss.total.item() == pytest.approx(data.scalars["s1_total"], abs=LOSS)
    check_loss(golden, backbone, data, "s1", loss)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stage_2(golden: Golden, case: str, attention: str, checkpointing: bool) -> None:
    backbone, data = golden.backbone(attention), golden.case(case)
    batch = laid_out(golden, data)
    relaxed = relaxation_forward(backbone, batch, checkpointing)
    check(relaxed.latents, data.outputs["s2_latents"])
    check(backbone.logits(relaxed.hidden), data.outputs["s2_logits"])
    check_loss(golden, backbone, data, "s2", relaxation_loss(backbone, batch, checkpointing=checkpointing))


def would_end(golden: Golden, new_tokens: list[int], logits: Tensor) -> bool:
    """Whether latent_end is the likeliest allowed token after some latent, before the last."""
    pad, end = golden.ids.latent_pad, golden.ids.latent_end
    banned = torch.tensor([token for token in golden.special.values() if token != end])
    likeliest = logits.index_fill(-1, banned, float("-inf")).argmax(-1).tolist()
    return any(new_tokens[at - 1] == new_tokens[at] == pad and likeliest[at] == end for at in range(1, len(new_tokens)))


@pytest.mark.parametrize("end", ["exact", "free"])
@pytest.mark.parametrize("name", ["gen_k", "gen_cap8"])
def test_generation(golden: Golden, case: str, name: str, end: str) -> None:
    data = golden.case(case)
    new_tokens = data.outputs[f"{name}.new_tokens"].tolist()
    # Where the model would close a free span itself, latent_end is banned, as it was in the authors' run.
    closes = end == "free" and would_end(golden, new_tokens, data.outputs[f"{name}.logits"])
    check_generation(golden, golden.backbone(), data, name, end, ban_end=closes)


def check_generation(
    golden: Golden, backbone: Backbone, data: Case, name: str, end: str, *, ban_end: bool = False
) -> None:
    """The authors' text, latents and logits, with what they forced already in the prompt."""
    ids, new_tokens = golden.ids, data.outputs[f"{name}.new_tokens"].tolist()
    fed = new_tokens.count(ids.latent_pad)
    forced = new_tokens.index(ids.latent_start) + 1
    text = [token for token in new_tokens[forced:] if token != ids.latent_pad]
    banned = tuple(token for token in golden.special.values() if ban_end or token != ids.latent_end)
    settings = DecodeSettings(
        max_new_tokens=len(text),
        num_latents=fed,
        max_latents=fed,
        end=end,
        banned=banned,  # type: ignore[arg-type]
    )
    steps: list[Step] = []
    prompt = data.prompt(new_tokens, forced)
    ((found,),) = decode(backbone, [prompt], ids, settings, observe=steps.append)
    assert list(found.token_ids) == text
    check(found.latents[0], data.outputs[f"{name}.latent_hidden_states"][:fed])
    for step, expected in zip(steps, data.outputs[f"{name}.logits"][forced:], strict=True):
        if step.logits is not None:
            check(step.logits[0], expected)
    assert sum(step.logits is not None for step in steps) >= len(text) - 1


@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint_saved_by_the_released_code(golden: Golden, case: str, shards: int, tmp_path: Path) -> None:
    released, ours, data = tmp_path / "released", tmp_path / "ours", golden.case(case)
    released.mkdir()
    write_released(released, golden.config, golden.weights, golden.ids, shards)
    for folder in (released, ours):
        loaded = load_model(folder)
        assert loaded.ids == golden.ids
        relaxed = relaxation_forward(loaded.backbone, laid_out(golden, data))
        check(relaxed.latents, data.outputs["s2_latents"])
        for name in ("gen_k", "gen_cap8"):
            check_generation(golden, loaded.backbone, data, name, "exact")
        if folder == released:  # and what we make of it
            save_model(ours, loaded.backbone, loaded.processor, {})


def test_a_checkpoint_of_the_released_code_sees_pictures_as_it_was_trained_to(golden: Golden, tmp_path: Path) -> None:
    write_released(tmp_path, golden.config, golden.weights, golden.ids)
    processor = load_model(tmp_path).processor
    assert dict(processor.image_processor.size) == {"shortest_edge": 3136, "longest_edge": 12845056}
    assert "<|vision_start|>" in processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}]}], tokenize=False
    )


def test_a_tokenizer_that_contradicts_the_released_config_is_refused(golden: Golden, tmp_path: Path) -> None:
    write_released(tmp_path, {**golden.config, "latent_start_id": 3}, golden.weights, golden.ids)
    with pytest.raises(SettingsError, match="latent_start_id 3, but its tokenizer has latent_start at"):
        load_model(tmp_path)


def test_a_released_checkpoint_with_tied_embeddings(golden: Golden, tmp_path: Path) -> None:
    """The 3B model ties them: its folders have no lm_head."""
    weights = {name: weight for name, weight in golden.weights.items() if name != "lm_head.weight"}
    write_released(tmp_path, {**golden.config, "tie_word_embeddings": True}, weights, golden.ids, shards=2)
    model = load_model(tmp_path).backbone.model
    assert torch.equal(model.lm_head.weight, golden.weights["model.embed_tokens.weight"])


def test_pictures(golden: Golden, case: str) -> None:
    inputs = golden.case(case).inputs
    processor = Qwen2VLImageProcessorPil()
    for kind, suffix in (("image", ""), ("aux_image", "_latent")):
        pictures = [
            Image.fromarray(np.asarray(inputs[name])) for name in sorted(inputs) if name.startswith(f"raw_{kind}_")
        ]
        if not pictures:
            continue
        encoded = processor(images=pictures, return_tensors="pt")
        assert torch.equal(encoded["image_grid_thw"], inputs["image_grid_thw" + suffix])
        check(encoded["pixel_values"], inputs["pixel_values" + suffix])
