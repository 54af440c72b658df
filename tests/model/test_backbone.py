"""The seam to the stock model gives the stock model's numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from mirage_core.errors import InputError, SettingsError
from mirage_core.latent.layout import collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.rollout import text_forward
from tests.latent.tiny import IDS, Maker, mixed_examples, tiny_backbone, tiny_config


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_equal_the_stock_forward_row_by_row(attention: str) -> None:
    backbone = tiny_backbone(attention)
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


def test_image_features_equal_the_stock_vision_tower_for_any_mixture_of_sizes() -> None:
    backbone, make = tiny_backbone(), Maker(0)
    sizes = [(2, 3), (5, 4), (2, 3), (1, 1), (3, 7)]
    images = [make.image(size) for size in sizes]
    pixels, grids = (torch.cat(parts) for parts in zip(*images, strict=True))
    expected = backbone.model.model.get_image_features(pixels, grids).pooler_output
    for _ in range(2):  # planned anew, then from the kept plan
        for found, wanted in zip(backbone.image_features(pixels, grids), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_positions_equal_stock_rope_index() -> None:
    backbone = tiny_backbone()
    for example in mixed_examples(3):
        types = (example.ids == IDS.image_pad).int()[None]
        grids = example.grid_thw if len(example.grid_thw) else None
        expected, _ = backbone.model.model.get_rope_index(example.ids[None], types, grids)
        found = backbone.position_ids(example.ids, torch.tensor([len(example.ids)]), example.grid_thw)
        assert torch.equal(found, expected[:, 0])


def test_a_plan_kept_from_inference_serves_training() -> None:
    config = tiny_config()
    backbone = Backbone(Qwen2_5_VLForConditionalGeneration(config))
    pixels, grid = Maker(0).image((2, 2))
    with torch.inference_mode():
        backbone.image_features(pixels, grid)
    backbone.image_features(pixels, grid)[0].sum().backward()
    assert backbone.model.model.visual.patch_embed.proj.weight.grad is not None


def test_checkpointed_vision_has_the_same_gradients() -> None:
    backbone = Backbone(Qwen2_5_VLForConditionalGeneration(tiny_config()))
    pixels, grid = Maker(0).image((3, 2))
    weight = backbone.model.model.visual.blocks[0].attn.qkv.weight
    gradients = []
    for checkpointing in (False, True):
        backbone.zero_grad()
        backbone.image_features(pixels, grid, checkpointing=checkpointing)[0].pow(2).sum().backward()
        gradients.append(weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_frozen_vision_tower_runs_without_gradient() -> None:
    pixels, grid = Maker(0).image((2, 2))
    assert not tiny_backbone().image_features(pixels, grid)[0].requires_grad


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
