"""Adapters on the text model: what learns, what they change, leaving them out, and the folder they leave."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirage_core.config import LoRASettings, ModelSettings
from mirage_core.errors import SettingsError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import relaxation_forward
from mirage_core.model.loading import LoadedModel, load_model, save_model
from mirage_core.model.lora import adapters_disabled, add_adapters, has_adapters, latent_token_ids
from mirage_core.training.sft.losses import relaxation_loss
from tests.latent.tiny import IDS, KINDS, mixed_examples, tiny_backbone
from tests.model.test_loading import saved, small

LORA = LoRASettings(rank=4, alpha=8.0)


def adapted(settings: LoRASettings = LORA, kind: str = "qwen2_5_vl", tied: bool = False) -> Backbone:
    """A tiny model with adapters that have learnt something."""
    backbone = copy.deepcopy(tiny_backbone(kind=kind))
    if tied:
        tie(backbone)
    add_adapters(backbone, settings, IDS, seed=1)
    return learnt(backbone)


def tie(backbone: Backbone) -> None:
    for config in (backbone.model.config, backbone.model.config.text_config):
        config.tie_word_embeddings = True
    backbone.model.tie_weights()


def learnt(backbone: Backbone) -> Backbone:
    """The model with noise on all that learns."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


def laid_out(backbone: Backbone) -> LatentBatch:
    return collate(mixed_examples(), IDS, backbone.position_ids, align=True)


def logits(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return backbone.logits(relaxation_forward(backbone, laid_out(backbone)).hidden)


def learning(backbone: Backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_adapters_change_nothing_and_nothing_else_learns(kind: str) -> None:
    plain = tiny_backbone(kind=kind)
    backbone = copy.deepcopy(plain)
    add_adapters(backbone, LORA, IDS, seed=1)
    torch.testing.assert_close(logits(backbone.eval()), logits(plain), rtol=1e-5, atol=1e-5)
    names = learning(backbone)
    assert len(names) == 3 * 7 * 2 + 2  # layers, matrices, A and B; input and output rows
    assert all(".lora_" in name or name.endswith(".rows") for name in names)
    assert not any("visual" in name for name in names)
    assert not backbone.trains_vision


def test_the_seed_alone_decides_the_adapters() -> None:
    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    one, same, other = ({n: p for n, p in made(seed).named_parameters() if "lora_A" in n} for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), drawn), "the caller's generator must not move"
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def made(seed: int) -> Backbone:
    backbone = copy.deepcopy(tiny_backbone())
    add_adapters(backbone, LORA, IDS, seed)
    return backbone


def test_left_out_adapters_leave_the_model_it_was_and_are_back_afterwards() -> None:
    backbone = adapted()
    before = logits(backbone)
    names = learning(backbone)
    with adapters_disabled(backbone):
        torch.testing.assert_close(logits(backbone), logits(tiny_backbone()), rtol=0, atol=0)
        assert learning(backbone) == names
        with adapters_disabled(backbone):
            pass
        torch.testing.assert_close(logits(backbone), logits(tiny_backbone()), rtol=0, atol=0)
    torch.testing.assert_close(logits(backbone), before, rtol=0, atol=0)
    assert (before - logits(tiny_backbone())).abs().max() > 0.1
    with pytest.raises(RuntimeError, match="inside"), adapters_disabled(backbone):
        raise RuntimeError("inside")
    torch.testing.assert_close(logits(backbone), before, rtol=0, atol=0)


def test_a_pass_without_adapters_in_the_middle_of_a_step_does_not_disturb_its_gradients() -> None:
    def gradients(disturbed: bool) -> list[Tensor]:
        backbone = adapted()
        loss = relaxation_loss(backbone, laid_out(backbone), checkpointing=True).total
        if disturbed:
            with adapters_disabled(backbone):
                logits(backbone)
        loss.backward()
        return [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]

    plain, disturbed = gradients(False), gradients(True)
    assert len(plain) == 3 * 7 * 2 + 2
    assert all(torch.equal(one, other) for one, other in zip(plain, disturbed, strict=True))


def test_a_model_without_adapters_has_none_to_leave_out() -> None:
    assert not has_adapters(tiny_backbone())
    with pytest.raises(SettingsError, match=r"no adapters.*frozen copy"), adapters_disabled(tiny_backbone()):
        pass


def test_adapters_are_put_in_once() -> None:
    with pytest.raises(SettingsError, match="already has adapters"):
        add_adapters(adapted(), LORA, IDS, seed=1)


def test_a_matrix_that_is_not_there_is_named() -> None:
    settings = LORA.model_copy(update={"target_modules": ("q_proj", "qkv", "lm_head")})
    with pytest.raises(SettingsError, match=r"names qkv, lm_head.*expected some of down_proj, gate_proj"):
        add_adapters(copy.deepcopy(tiny_backbone()), settings, IDS, seed=1)


def test_the_vision_tower_is_not_trained_beside_adapters() -> None:
    with pytest.raises(ValueError, match="train_vision"):
        ModelSettings(lora=LORA, train_vision=True)


def test_rows_of_the_latent_tokens_get_the_gradient_that_whole_tables_get() -> None:
    settings = LORA.model_copy(update={"target_modules": ("q_proj",)})
    rows, full = copy.deepcopy(tiny_backbone()), copy.deepcopy(tiny_backbone())
    add_adapters(rows, settings, IDS, seed=1)
    for backbone in (rows, full):
        relaxation_loss(backbone, laid_out(backbone)).total.backward()
    ids = latent_token_ids(IDS)
    tables = (rows.model.get_input_embeddings(), rows.model.get_output_embeddings())
    expected = (full.model.get_input_embeddings(), full.model.get_output_embeddings())
    for learned, table in zip(tables, expected, strict=True):
        assert learned.rows.grad.abs().max() > 0
        torch.testing.assert_close(learned.rows.grad, table.weight.grad[ids], rtol=1e-4, atol=1e-6)


def test_rows_of_tied_tables_are_one_and_get_both_gradients() -> None:
    settings = LORA.model_copy(update={"target_modules": ("q_proj",)})
    rows, full = copy.deepcopy(tiny_backbone()), copy.deepcopy(tiny_backbone())
    for backbone in (rows, full):
        tie(backbone)
    add_adapters(rows, settings, IDS, seed=1)
    assert sum(name.endswith(".rows") for name in learning(rows)) == 1
    for backbone in (rows, full):
        relaxation_loss(backbone, laid_out(backbone)).total.backward()
    learned = rows.model.get_input_embeddings().rows.grad
    expected = full.model.get_input_embeddings().weight.grad[latent_token_ids(IDS)]
    torch.testing.assert_close(learned, expected, rtol=1e-4, atol=1e-6)


def test_latent_tokens_stay_where_they_are_when_told_so() -> None:
    backbone = adapted(LORA.model_copy(update={"train_latent_tokens": False}))
    assert all(".lora_" in name for name in learning(backbone))


def plain_folder(folder: Path, *, tied: bool) -> LoadedModel:
    """A small model's folder, loaded."""
    model = small()
    if tied:
        tie(model.backbone)
    saved(folder, model)
    return load_model(folder)


def scores(model: object) -> Tensor:
    """Logits of a stock model for a line with latent tokens in it."""
    ids = torch.arange(40).view(2, 20) + 470  # up to the last id: the latent tokens are among them
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=ids).logits  # type: ignore[attr-defined]
    return result


@pytest.mark.parametrize("tied", (False, True))
def test_the_saved_folder_is_plain_and_its_adapter_gives_the_same_on_the_model_it_began_with(
    tmp_path: Path, tied: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = plain_folder(tmp_path / "base", tied=tied)
    add_adapters(model.backbone, LORA, model.ids, seed=1)
    expected = scores(learnt(model.backbone).model)
    save_model(tmp_path / "out", model.backbone, model.processor, {})
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True)
    torch.testing.assert_close(scores(stock), expected, rtol=1e-5, atol=1e-5)
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", local_files_only=True)
    assert (scores(base) - expected).abs().max() > 0.1
    again = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    torch.testing.assert_close(scores(again), expected, rtol=1e-5, atol=1e-5)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= names
    assert stock.lm_head.weight.data_ptr() == stock.get_input_embeddings().weight.data_ptr() or not tied
    assert not has_adapters(load_model(tmp_path / "out").backbone)


def test_a_saved_folder_tells_nothing_of_where_it_was_made_and_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model = plain_folder(tmp_path / f"base-{name}", tied=False)
        add_adapters(model.backbone, LORA, model.ids, seed=1)
        save_model(tmp_path / name, model.backbone, model.processor, {})
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    config = json.loads((tmp_path / "one" / "adapter" / "adapter_config.json").read_text())
    assert str(tmp_path) not in json.dumps(config)
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8.0, True)


def test_bfloat16_weights_are_folded_in_float32_and_rounded_once(tmp_path: Path) -> None:
    saved(tmp_path / "base", small())
    model = load_model(tmp_path / "base", dtype="bfloat16")
    add_adapters(model.backbone, LORA, model.ids, seed=1)
    learnt(model.backbone)
    layer = model.backbone.layers[0].self_attn.q_proj
    assert layer.lora_A["default"].weight.dtype == torch.bfloat16
    exact = layer.base_layer.weight.double() + 2 * (
        layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    )
    save_model(tmp_path / "out", model.backbone, model.processor, {})
    merged = load_model(tmp_path / "out", dtype="bfloat16").backbone.layers[0].self_attn.q_proj.weight
    assert torch.equal(merged, exact.float().bfloat16())


def test_every_part_is_made_whole_before_it_is_read_and_by_processes_that_keep_nothing_too(tmp_path: Path) -> None:
    from contextlib import contextmanager

    model = small()
    add_adapters(model.backbone, LORA, model.ids, seed=1)
    calls: list[list[int]] = []

    @contextmanager
    def gather(parts):  # type: ignore[no-untyped-def]
        calls.append([id(part) for part in parts])
        yield

    save_model(tmp_path / "kept", model.backbone, model.processor, {}, gather=gather)
    first, calls = calls, []
    save_model(tmp_path / "none", model.backbone, model.processor, {}, gather=gather, write=False)
    assert calls == first and not (tmp_path / "none").exists()
    assert {part for parts in first for part in parts} == {id(part) for part in model.backbone.parameters()}
