"""A second model through the same seam: decoding, DeepStack, folders. The rest is in test_backbone and test_rollout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mirage_core.config import GroundingSettings, LatentSettings
from mirage_core.generation.decode import DecodeSettings, decode, sampling_rules
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.latent.tokens import token_ids
from mirage_core.model.backbone import Backbone
from mirage_core.model.features import with_features
from mirage_core.model.forward.forward import relaxation_forward, replay_forward, text_forward
from mirage_core.model.loading import load_model, save_model
from mirage_core.model.processing import build_processor
from mirage_core.training.grpo.log_probs import text_log_probs
from mirage_core.training.sft.losses import grounding_loss, relaxation_loss
from tests.latent.tiny import IDS, TEXT_IDS, Maker, mixed_examples, tiny_backbone, tiny_model, tiny_qwen3_config

KIND = "qwen3_vl"
SETTINGS = DecodeSettings(max_new_tokens=12, num_latents=3, max_spans=2, banned=tuple(range(14, TEXT_IDS)))


def backbone() -> Backbone:
    return tiny_backbone("sdpa", KIND)


def prompts() -> list[EncodedPrompt]:
    make = Maker(11)
    variants = [make.prompt(), make.prompt(9, [(3, 2), (2, 2)], 7), make.prompt(2, [], 1), make.prompt(4, [(4, 4)], 2)]
    begun = torch.tensor([IDS.latent_start])
    return [replace(one, ids=torch.cat([one.ids, begun])) if row % 2 else one for row, one in enumerate(variants)]


def laid_out(*examples: EncodedExample) -> LatentBatch:
    return collate(examples, IDS, backbone().position_ids)


@pytest.mark.parametrize("end", ["exact", "free"])
def test_training_latents_and_log_probs_equal_decoding_ones(end: str) -> None:
    settings = replace(SETTINGS, end=end, max_latents=5, temperature=1.3, samples=4)  # type: ignore[arg-type]
    queries = prompts()
    groups = decode(backbone(), queries, IDS, settings, torch.Generator().manual_seed(0))
    drawn = [(prompt, one) for prompt, group in zip(queries, groups, strict=True) for one in group]
    recorded = [latents for _, one in drawn for latents in one.latents]
    assert len(recorded) > 8
    batch = laid_out(*(encode_rollout(p, one.token_ids, one.spans, one.sampled, IDS) for p, one in drawn))
    relaxed = relaxation_forward(backbone(), batch)
    for latents, length, expected in zip(relaxed.latents, batch.span_lengths.tolist(), recorded, strict=True):
        torch.testing.assert_close(latents[:length], expected, atol=5e-5, rtol=0)
    for hidden in (relaxed.hidden, replay_forward(backbone(), batch, recorded)):
        log_probs = text_log_probs(backbone(), batch, hidden, sampling_rules(IDS, settings))
        for row, (_, one) in enumerate(drawn):
            wanted = torch.tensor([p for p, chosen in zip(one.log_probs, one.sampled, strict=True) if chosen])
            torch.testing.assert_close(log_probs[row][batch.labels[row] != -100], wanted, atol=1e-4, rtol=0)


def test_greedy_answers_do_not_depend_on_the_rest_of_the_batch_or_on_when_images_were_seen() -> None:
    queries = prompts()
    together = decode(backbone(), queries, IDS, SETTINGS)
    seen = decode(backbone(), with_features(backbone(), queries), IDS, SETTINGS)
    for prompt, (result,), (cached,) in zip(queries, together, seen, strict=True):
        ((alone,),) = decode(backbone(), [prompt], IDS, SETTINGS)
        assert result.token_ids == alone.token_ids == cached.token_ids
        assert result.spans == alone.spans == cached.spans
        for own, its in zip(result.latents, alone.latents, strict=True):
            torch.testing.assert_close(own, its, atol=5e-5, rtol=0)


def test_text_after_an_image_is_decoded_as_stock_generate_does() -> None:
    prompt = prompts()[0]
    stock = backbone().model.generate(
        input_ids=prompt.ids[None],
        attention_mask=torch.ones_like(prompt.ids)[None],
        mm_token_type_ids=(prompt.ids == IDS.image_pad).int()[None],
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.grid_thw,
        max_new_tokens=8,
        do_sample=False,
        suppress_tokens=[IDS.latent_start, IDS.latent_end, IDS.latent_pad, IDS.image_pad, IDS.video_pad],
        eos_token_id=[IDS.end_of_turn, IDS.pad],
    )[0, len(prompt.ids) :]
    settings = DecodeSettings(max_new_tokens=8, num_latents=1, latents="off")
    ((result,),) = decode(backbone(), [prompt], IDS, settings)
    assert list(result.token_ids) == stock.tolist()


def test_deep_features_reach_the_text() -> None:
    """What the other tests compare would be equal without them, if they were lost everywhere."""
    prompt = Maker(0).prompt()
    (image,) = backbone().image_features(prompt.pixel_values, prompt.grid_thw)
    shallow = image.clone()
    shallow[:, backbone().hidden_size :] = 0
    example = Maker(1).example(prompt, (4,))
    batches = [laid_out(replace(example, image_features=(features,))) for features in (image, shallow)]
    full, without = (text_forward(backbone(), batch) for batch in batches)
    assert (full - without)[:, -1].abs().max() > 0.1


def test_both_losses_have_gradients_for_every_trained_weight() -> None:
    batch = laid_out(*mixed_examples())
    latent = LatentSettings(num_latents=3)
    for loss in (grounding_loss(backbone(), batch, GroundingSettings(), latent), relaxation_loss(backbone(), batch)):
        backbone().zero_grad(set_to_none=True)
        loss.total.backward()
        trained = {name: weight for name, weight in backbone().named_parameters() if weight.requires_grad}
        assert trained and all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained.values())


def test_a_trained_vision_tower_gets_gradient_through_deep_features() -> None:
    trained = Backbone(tiny_model(KIND))
    batch = collate(mixed_examples(), IDS, trained.position_ids)
    relaxation_loss(trained, batch, checkpointing=True).total.backward()
    for merger in trained.model.model.visual.deepstack_merger_list:
        assert merger.linear_fc2.weight.grad.abs().max() > 0


def test_a_folder_is_saved_loaded_and_read_by_stock_classes(tmp_path: Path) -> None:
    model = published(tmp_path / "published")
    loaded = load_model(tmp_path / "published")
    assert loaded.processor.image_processor.patch_size == 16
    assert loaded.ids == token_ids(loaded.processor.tokenizer)
    save_model(tmp_path / "ours", loaded.backbone, loaded.processor, {"stage": "base"})
    again = load_model(tmp_path / "ours")
    assert again.about == {"stage": "base"} and again.processor.image_processor.patch_size == 16
    stock = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "ours").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(again.backbone.model.state_dict()[name], weight)
        assert torch.equal(stock[name], weight)


def test_a_picture_is_cut_into_patches_of_16_px(tmp_path: Path) -> None:
    published(tmp_path)
    loaded = load_model(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    encoded = loaded.processor(images=[picture], text=["<|image_pad|>"], return_tensors="pt")
    assert encoded["image_grid_thw"].tolist() == [[1, 4, 6]]
    assert encoded["input_ids"].tolist() == [[loaded.ids.image_pad] * 6]
    (features,) = loaded.backbone.image_features(encoded["pixel_values"], encoded["image_grid_thw"])
    assert features.shape == (6, loaded.backbone.feature_size)


def published(folder: Path) -> Qwen3VLForConditionalGeneration:
    """A folder in the layout of a published Qwen3-VL, with a small tokenizer."""
    processor = build_processor(512)
    ids = token_ids(processor.tokenizer)
    config = tiny_qwen3_config()
    config.vision_config.patch_size = 16
    config.image_token_id, config.video_token_id = ids.image_pad, ids.video_pad
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 32 * 32, "longest_edge": 4096 * 4096}
    Qwen2VLImageProcessorPil(size=size, patch_size=16, image_mean=half, image_std=half).save_pretrained(folder)
    return model
