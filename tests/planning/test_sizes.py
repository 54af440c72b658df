"""The sizes of models from their configurations alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mirage_core.config import LoRASettings, ModelSettings, ReadoutKind
from mirage_core.errors import SettingsError
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.model.lora import add_adapters
from mirage_core.model.readout import new_readout
from mirage_core.planning.known_configs import KNOWN
from mirage_core.planning.sizes import model_sizes

PUBLISHED = {"Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976, "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656}


def learned(model: object) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", sorted(PUBLISHED))
def test_a_known_model_has_the_parameters_that_its_page_states(source: str) -> None:
    sizes = model_sizes(ModelSettings(source=source))
    assert sizes.total == PUBLISHED[source]
    assert sizes.tied == source.endswith("3B-Instruct")


def test_a_model_from_scratch_has_the_parameters_that_are_counted() -> None:
    settings = ModelSettings()
    base, sizes = build_base_model(settings, seed=0), model_sizes(settings)
    assert sizes.total == learned(base.backbone)
    base.backbone.freeze_vision()
    assert sizes.trained(settings) == learned(base.backbone) == sizes.language
    assert sizes.trained(settings.model_copy(update={"train_vision": True})) == sizes.total
    layer = base.backbone.layers[0]
    assert sizes.layer == sum(weight.numel() for weight in layer.parameters())


@pytest.mark.parametrize("rows", [True, False])
def test_adapters_are_counted_as_they_are_put_in(rows: bool) -> None:
    lora = LoRASettings(rank=8, train_latent_tokens=rows, target_modules=("q_proj", "v_proj", "down_proj"))
    settings = ModelSettings(lora=lora)
    base = build_base_model(settings, seed=0)
    base.backbone.freeze_vision()
    add_adapters(base.backbone, lora, base.ids, 0)
    assert model_sizes(settings).trained(settings) == learned(base.backbone)


def test_a_folder_says_its_sizes_without_its_weights(tmp_path: Path) -> None:
    base = build_base_model(ModelSettings(), seed=0)
    save_model(tmp_path, base.backbone, base.processor, {})
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert model_sizes(ModelSettings(source=str(tmp_path))).total == model_sizes(ModelSettings()).total


def test_a_folder_without_a_readable_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config\.json"):
        model_sizes(ModelSettings(source=str(tmp_path)))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(SettingsError, match="expected an object"):
        model_sizes(ModelSettings(source=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(SettingsError, match="llama"):
        model_sizes(ModelSettings(source=str(tmp_path)))


@pytest.mark.parametrize(
    "kind",
    [
        ReadoutKind("mlp", width=24),
        ReadoutKind("glu", stops=True),
        ReadoutKind("simple"),
        ReadoutKind("none", stops=True),
    ],
)
@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)])
def test_what_reads_latents_is_counted_with_the_weights_that_are_trained(
    kind: ReadoutKind, lora: LoRASettings | None
) -> None:
    settings = ModelSettings(lora=lora)
    sizes = model_sizes(settings)
    inner = kind.width or sizes.text.intermediate
    readout = new_readout(sizes.text.hidden, inner, kind.head, stops=kind.stops, seed=0, dtype=torch.float32)
    more = sizes.with_readout(kind)
    assert sizes.with_readout(None) is sizes
    assert more.total - sizes.total == more.trained(settings) - sizes.trained(settings) == learned(readout) > 0


def test_an_unknown_hub_id_without_a_hub_names_those_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"Qwen2\.5-VL-7B-Instruct"):
        model_sizes(ModelSettings(source="somebody/something"))


def test_the_built_in_configurations_are_those_of_the_recipes() -> None:
    from mirage_core.recipes import load

    assert {load(name).model.source for name in ("qwen2.5-vl-3b", "qwen2.5-vl-7b")} == set(KNOWN)
