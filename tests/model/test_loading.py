"""Models from scratch, from folders and hub ids; what a saved folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.config import ArchitectureSettings, ModelSettings
from mirage_core.errors import SettingsError
from mirage_core.latent.tokens import LATENT_TOKENS
from mirage_core.model import loading as base
from mirage_core.model.loading import LoadedModel, build_base_model, load_model, save_model

SMALL = ArchitectureSettings(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1)
ABOUT = {"stage": "base", "seed": 42}


def small(seed: int = 42, **changes: Any) -> LoadedModel:
    return build_base_model(ModelSettings(architecture=SMALL.model_copy(update=changes)), seed)


def saved(folder: Path, model: LoadedModel) -> dict[str, bytes]:
    save_model(folder, model.backbone, model.processor, ABOUT)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_base_from_scratch_is_a_function_of_its_seed() -> None:
    torch.manual_seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (small(seed).backbone.model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), drawn), "the caller's generator must not move"
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_a_base_from_scratch_has_the_recipes_size_and_attends_fully_in_every_vision_layer() -> None:
    model = build_base_model(ModelSettings(), 42)
    config = model.backbone.model.config
    assert 1.1e6 < sum(weight.numel() for weight in model.backbone.parameters()) < 1.25e6
    assert config.text_config.rope_parameters["mrope_section"] == [4, 6, 6]
    assert list(config.vision_config.fullatt_block_indexes) == [0, 1]
    assert config.image_token_id == model.ids.image_pad
    assert model.backbone.model.lm_head.weight.std().item() == pytest.approx(0.08, rel=0.05)


def test_a_model_folder_loads_without_a_hub_and_saves_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.huggingface_hub, "snapshot_download", _no_hub)
    model = small()
    files = saved(tmp_path / "a", model)
    loaded = load_model(tmp_path / "a")
    assert saved(tmp_path / "b", loaded) == files
    assert loaded.about == ABOUT and loaded.ids == model.ids
    before, after = model.backbone.model.state_dict(), loaded.backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= set(files)


def test_a_large_model_is_saved_in_shards_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LARGEST_SHARD", "200KB")
    model = small()
    files = saved(tmp_path, model)
    assert "model.safetensors.index.json" in files and sum(name.endswith(".safetensors") for name in files) > 1
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.backbone.model.lm_head.weight, model.backbone.model.lm_head.weight)


def test_latent_tokens_are_added_to_a_foreign_folder_without_shrinking_its_padded_vocabulary(tmp_path: Path) -> None:
    saved(tmp_path, small())
    (tmp_path / "mirage.json").unlink()
    strip_latent_tokens(tmp_path)
    rows = pad_vocabulary(tmp_path, 640)
    loaded = load_model(tmp_path)
    weight = loaded.backbone.model.get_input_embeddings().weight
    assert weight.shape[0] == 640 and torch.equal(weight, rows)
    assert loaded.about == {}
    assert max(loaded.ids.latent_start, loaded.ids.latent_pad, loaded.ids.latent_end) < 640


def strip_latent_tokens(folder: Path) -> None:
    """Make the tokenizer one that has never heard of latents, as a published one is."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in LATENT_TOKENS]
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if k not in LATENT_TOKENS}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def pad_vocabulary(folder: Path, rows: int) -> torch.Tensor:
    """Widen the embedding tables of a saved model; returns the input embeddings as they are then."""
    loaded = load_model(folder)
    loaded.backbone.model.resize_token_embeddings(rows, mean_resizing=False)
    loaded.backbone.model.save_pretrained(folder)
    widened: torch.Tensor = loaded.backbone.model.get_input_embeddings().weight.detach().clone()
    return widened


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "nowhere", "a/b/c", Path("nowhere")])
def test_a_folder_that_is_missing_is_named_and_no_hub_is_asked(
    source: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.huggingface_hub, "snapshot_download", pytest.fail)
    with pytest.raises(SettingsError, match="no folder"):
        load_model(source)


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.huggingface_hub, "snapshot_download", _no_hub)
    with pytest.raises(SettingsError, match=r"some/model .*could not be fetched.*no network"):
        load_model("some/model")


def test_a_hub_id_is_loaded_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshots" / "abc123"
    saved(snapshot, small())
    calls = {}

    def download(name: str, **rest: Any) -> str:
        calls.update(name=name, **rest)
        return str(snapshot)

    monkeypatch.setattr(base.huggingface_hub, "snapshot_download", download)
    loaded = load_model("some/model", revision="main")
    assert loaded.backbone.model.config._commit_hash == "abc123"
    assert calls["name"] == "some/model" and calls["revision"] == "main"
    assert not any("py" in pattern or "bin" in pattern for pattern in calls["allow_patterns"])


def _no_hub(*_: Any, **__: Any) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "llama"}'),
        ("config.json", None),
        ("model.safetensors", "cut"),
        ("mirage.json", "["),
        ("mirage.json", "3"),
    ],
)
def test_a_broken_model_folder_is_named(tmp_path: Path, file: str, content: str | None) -> None:
    saved(tmp_path, small())
    if content is None:
        (tmp_path / file).unlink()
    elif content == "cut":
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:1000])
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(SettingsError, match=str(tmp_path)):
        load_model(tmp_path)


def test_missing_weights_are_an_error_and_not_random_numbers(tmp_path: Path) -> None:
    saved(tmp_path, small())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"]["layer_types"] = ["full_attention"] * 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="not a complete"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_heads": 3}, "num_heads 3"),
        ({"num_kv_heads": 4}, "num_kv_heads 4"),
        ({"mrope_section": (4, 4, 4)}, "mrope_section"),
        ({"vision_num_heads": 5}, "vision_hidden_size"),
        ({"vocab_size": 200}, "vocab_size"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        small(**change)
