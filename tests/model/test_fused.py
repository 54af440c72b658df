"""``runtime.fused``: what it computes is what stock layers compute, and the files stay as they are."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.latent import endless
from bench.launches import IMAGE, PROMPT, small_backbone
from bench.model import IDS, Rows
from mirage_core.config import LoRASettings
from mirage_core.errors import SettingsError
from mirage_core.generation.decode import decode
from mirage_core.latent.collate import collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.fused.caches import SpilledCache
from mirage_core.model.fused.projections import joined, lay_out
from mirage_core.model.lora import adapters_disabled, add_adapters
from mirage_core.training.sft.losses import relaxation_loss


def trained(*, lora: bool = False) -> Backbone:
    backbone = small_backbone(3)
    if lora:
        add_adapters(backbone, LoRASettings(), IDS, seed=0)
        torch.manual_seed(3)
        for name, weight in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    return backbone


def step(backbone: Backbone, before: tuple[int, ...], *, checkpointing: bool) -> tuple[Tensor, dict[str, Tensor]]:
    source = Rows(image=IMAGE)
    examples = [source.example(4, before=place, prompt=PROMPT, answer=16) for place in before]
    batch = collate(examples, IDS, backbone.position_ids)
    loss = relaxation_loss(backbone, batch, checkpointing=checkpointing).total
    loss.backward()
    gradients = {name: one.grad for name, one in backbone.named_parameters() if one.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("before", [(2, 2, 2), (2, 5, 9)], ids=["one shape", "padded"])
def test_loss_and_gradients_of_stage_2_are_those_of_stock_layers(
    before: tuple[int, ...], lora: bool, checkpointing: bool
) -> None:
    loss, gradients = step(trained(lora=lora), before, checkpointing=checkpointing)
    backbone = trained(lora=lora)
    backbone.fuse()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing falls back
        own_loss, own = step(backbone, before, checkpointing=checkpointing)
    torch.testing.assert_close(own_loss, loss, atol=1e-6, rtol=0)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"samples": 3, "temperature": 1.0},
        {"bottleneck": "latent_only"},
        {"bottleneck": "latent_kv"},
        {"max_new_tokens": 100},
    ],
    ids=["greedy", "sampled", "latent_only", "latent_kv", "cache that grows"],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_decoded_tokens_are_those_of_stock_layers(changes: dict[str, Any], padding: int) -> None:
    def answers(*, fused: bool) -> Any:
        backbone = small_backbone(3).eval()
        if fused:
            backbone.fuse()
            assert isinstance(backbone.decoding_cache(), SpilledCache)
        source = Rows(image=IMAGE)
        prompts = [source.prompt(PROMPT + padding * row, ends_in=(IDS.latent_start,)) for row in range(3)]
        settings = replace(endless(12, 4), max_spans=4, **changes)
        return decode(backbone, prompts, IDS, settings, torch.Generator().manual_seed(0))

    for rows, own_rows in zip(answers(fused=False), answers(fused=True), strict=True):
        for row, own in zip(rows, own_rows, strict=True):
            assert own.token_ids == row.token_ids
            for latents, own_latents in zip(row.latents, own.latents, strict=True):
                torch.testing.assert_close(own_latents, latents, atol=1e-5, rtol=1e-5)


def test_adapters_that_are_off_count_for_nothing() -> None:
    backbone, bare = trained(lora=True), small_backbone(3)
    backbone.fuse()
    embedded = torch.randn(2, 1, bare.hidden_size, generator=torch.Generator().manual_seed(1))
    rotary = bare.rotary(torch.zeros(3, 2, 1, dtype=torch.long))
    with torch.no_grad():
        on = backbone.hidden(embedded, rotary, None)
        with adapters_disabled(backbone):
            off = backbone.hidden(embedded, rotary, None)
    torch.testing.assert_close(off, bare.hidden(embedded, rotary, None), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(on, off, atol=1e-4)


def test_saved_weights_have_the_names_shapes_and_bytes_of_stock_ones(tmp_path: Path) -> None:
    folders = [tmp_path / "stock", tmp_path / "fused"]
    for folder in folders:
        backbone = small_backbone(2)
        if folder.name == "fused":
            backbone.fuse()
        backbone.model.save_pretrained(folder)
    stock, fused = (load_file(folder / "model.safetensors") for folder in folders)
    assert {name: weight.shape for name, weight in fused.items()} == {name: one.shape for name, one in stock.items()}
    assert all(torch.equal(fused[name], weight) for name, weight in stock.items())


def test_weights_that_are_moved_apart_run_as_stock_layers_and_a_warning_says_so() -> None:
    backbone = trained()
    backbone.fuse()
    for layer in backbone.layers:
        layer.self_attn.k_proj.weight.data = layer.self_attn.k_proj.weight.data.clone()
    with pytest.warns(RuntimeWarning, match="stock layers are run: the training engine has moved"):
        loss, _ = step(backbone, (2, 2), checkpointing=False)
    torch.testing.assert_close(loss, step(trained(), (2, 2), checkpointing=False)[0], atol=0, rtol=0)


def test_weights_in_the_order_of_their_names_as_deepspeed_lays_them_out_are_fused_too() -> None:
    backbone = trained()
    backbone.fuse()
    for layer in backbone.layers:
        heads = layer.self_attn
        lay_out([heads.q_proj.weight, heads.k_proj.weight, heads.v_proj.weight])
        lay_out([heads.q_proj.bias, heads.k_proj.bias, heads.v_proj.bias])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, own = step(backbone, (2, 2), checkpointing=False)
    assert not isinstance(backbone.decoding_cache(), SpilledCache)
    _, gradients = step(trained(), (2, 2), checkpointing=False)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_adapters_with_dropout_run_as_stock_layers() -> None:
    backbone = small_backbone(2)
    add_adapters(backbone, LoRASettings(dropout=0.1), IDS, seed=0)
    backbone.fuse()
    with pytest.warns(RuntimeWarning, match=r"model\.lora\.dropout is not 0"):
        step(backbone, (2, 2), checkpointing=False)


def test_a_copy_of_a_fused_model_has_weights_of_its_own() -> None:
    backbone = trained()
    backbone.fuse()
    copied = copy.deepcopy(backbone)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1.5)
    own, others = (step(each, (2, 2), checkpointing=False)[0] for each in (backbone, copied))
    torch.testing.assert_close(own, step(trained(), (2, 2), checkpointing=False)[0], atol=1e-6, rtol=0)
    assert abs(float(own - others)) > 1e-3


def test_a_view_of_tensors_exists_only_where_they_lie_behind_each_other() -> None:
    parts = [torch.randn(rows, 3) for rows in (2, 1, 4)]
    assert joined(parts) is None
    expected = torch.cat(parts)
    lay_out(parts)
    found = joined(parts)
    assert found is not None
    assert torch.equal(found, expected)
    assert found.data_ptr() == parts[0].data_ptr()
    assert joined(parts[::-1]) is None


def test_layers_of_another_form_are_refused() -> None:
    backbone = small_backbone(2)
    backbone.model.config._attn_implementation = "eager"
    with pytest.raises(SettingsError, match=r"model\.attention is not sdpa.*Set runtime\.fused to false"):
        backbone.fuse()
