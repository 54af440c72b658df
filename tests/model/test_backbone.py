"""The seam to the stock model gives the stock model's numbers."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

import mirage_core
from mirage_core.errors import InputError, SettingsError
from mirage_core.latent.collate import collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import text_forward
from tests.latent.tiny import IDS, KINDS, Maker, mixed_examples, tiny_backbone, tiny_config, tiny_model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_equal_the_stock_forward_row_by_row(attention: str, kind: str) -> None:
    backbone = tiny_backbone(attention, kind)
    examples = mixed_examples()
    for align in (True, False):
        batch = collate(examples, IDS, backbone.position_ids, align=align)
        logits = backbone.logits(text_forward(backbone, batch))
        for row, example in enumerate(examples):
            pixels = {"pixel_values": example.pixel_values, "image_grid_thw": example.grid_thw}
            expected = backbone.model(
                input_ids=example.ids[None],
                mm_token_type_ids=(example.ids == IDS.image_pad).int()[None],
                **(pixels if len(example.grid_thw) else {}),
            ).logits[0]
            torch.testing.assert_close(logits[row][batch.attention_mask[row]], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_image_features_equal_the_stock_vision_tower_for_any_mixture_of_sizes(kind: str) -> None:
    backbone, make = tiny_backbone("sdpa", kind), Maker(0)
    sizes = [(2, 3), (5, 4), (2, 3), (1, 1), (3, 7)]
    images = [make.image(size) for size in sizes]
    pixels, grids = (torch.cat(parts) for parts in zip(*images, strict=True))
    stock = backbone.model.model.get_image_features(pixels, grids)
    deep = getattr(stock, "deepstack_features", [])
    expected = [torch.cat(parts, dim=-1) for parts in zip(stock.pooler_output, *deep, strict=True)]
    for _ in range(2):  # planned anew, then from the kept plan
        for result, wanted in zip(backbone.image_features(pixels, grids), expected, strict=True):
            assert result.shape[1] == backbone.feature_size
            torch.testing.assert_close(result, wanted, atol=1e-5, rtol=0)
            torch.testing.assert_close(backbone.merged(result), wanted[:, : backbone.hidden_size], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_equal_stock_rope_index(kind: str) -> None:
    backbone = tiny_backbone("sdpa", kind)
    for example in mixed_examples(3):
        types = (example.ids == IDS.image_pad).int()[None]
        grids = example.grid_thw if len(example.grid_thw) else None
        expected, _ = backbone.model.model.get_rope_index(example.ids[None], types, grids)
        result = backbone.position_ids(example.ids, torch.tensor([len(example.ids)]), example.grid_thw)
        assert torch.equal(result, expected[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_kept_from_inference_serves_training(kind: str) -> None:
    backbone = Backbone(tiny_model(kind))
    pixels, grid = Maker(0).image((2, 2))
    with torch.inference_mode():
        backbone.image_features(pixels, grid)
    backbone.image_features(pixels, grid)[0].sum().backward()
    assert backbone.model.model.visual.patch_embed.proj.weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_vision_has_the_same_gradients(kind: str) -> None:
    backbone = Backbone(tiny_model(kind))
    pixels, grid = Maker(0).image((3, 2))
    weight = backbone.model.model.visual.blocks[0].attn.qkv.weight
    gradients = []
    for checkpointing in (False, True):
        backbone.zero_grad()
        backbone.image_features(pixels, grid, checkpointing=checkpointing)[0].pow(2).sum().backward()
        gradients.append(weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_vision_tower_runs_without_gradient(kind: str) -> None:
    pixels, grid = Maker(0).image((2, 2))
    assert not tiny_backbone("sdpa", kind).image_features(pixels, grid)[0].requires_grad


def test_too_many_or_too_few_image_features_are_refused() -> None:
    backbone = tiny_backbone()
    ids = torch.tensor([[1, IDS.image_pad, 2]])
    with pytest.raises(InputError, match="2 image features for 1 image_pad"):
        backbone.embed(ids, [torch.zeros(2, backbone.hidden_size)])
    with pytest.raises(InputError, match=r"3 patches for image grids"):
        backbone.image_features(torch.zeros(3, 1176), torch.tensor([[1, 2, 2]]))


def test_an_image_split_over_two_runs_is_refused() -> None:
    ids = torch.tensor([1, IDS.image_pad, 2, IDS.image_pad])
    with pytest.raises(InputError, match="not one run of 2"):
        tiny_backbone().position_ids(ids, torch.tensor([4]), torch.tensor([[1, 2, 4]]))


def test_nothing_outside_the_backbones_reaches_into_a_stock_model() -> None:
    inside = re.compile(r"model\.visual|\.language_model|\.lm_head|embed_tokens|rotary_emb|modeling_qwen")
    core = Path(mirage_core.__file__ or "").parent
    others = ("backbones", "scenes")  # scenes know CogVideoX
    files = [file for file in core.rglob("*.py") if file.parent.name not in others]
    assert len(files) > 50
    assert not [f"{file.name}: {result.group()}" for file in files if (result := inside.search(file.read_text()))]


def test_a_model_of_an_unknown_type_is_refused_with_the_known_ones() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    with pytest.raises(SettingsError, match=r"'llama' is not known, .*qwen2_5_vl, qwen3_vl.*docs/add-a-backbone.md"):
        Backbone(model)


def test_attention_that_cannot_take_the_masks_is_refused() -> None:
    model = tiny_backbone().model
    config = tiny_config(use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with pytest.raises(SettingsError, match="sliding-window"):
        Backbone(Qwen2_5_VLForConditionalGeneration(config))
    attention = model.config._attn_implementation
    model.config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(SettingsError, match="flash_attention_2"):
            Backbone(model)
    finally:
        model.config._attn_implementation = attention
