"""Folders in the layouts that LVR's and Monet's authors released: loaded, and decoded by their rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flows.trained import find_checkpoint
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import InferenceSettings, LatentSettings, identity
from mirage_core.distributed.job import Job
from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings, decode
from mirage_core.generation.generator import Generator
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.latent.span_tokens import SPAN_TOKENS
from mirage_core.latent.tokens import TokenIds
from mirage_core.methods import get_method
from mirage_core.model.loading import load_model
from mirage_core.model.processing import build_processor, save_processor
from mirage_core.model.readout import LatentReadout
from mirage_core.pipeline.runner import StageRunner
from mirage_core.pipeline.stages.base_model import base_identity
from mirage_core.store import Store
from mirage_core.training.checkpoint.model_metadata import check_own_settings
from tests.golden.cases import Golden
from tests.golden.lvr_cases import LvrGolden
from tests.golden.monet_cases import MonetGolden, monet_case_names
from tests.golden.released import TOKENS, write_tokenizer, write_weights
from tests.golden.test_golden import check
from tests.training.small_world import quiet, small_settings

OWN = Path(__file__).parent / "data"


def written(
    folder: Path, family: str, config: dict[str, Any], weights: dict[str, Tensor], ids: TokenIds, shards: int = 1
) -> Path:
    """A folder as those authors leave it: stock files, tokens of their own, no mirage.json."""
    folder.mkdir()
    save_processor(folder, build_processor(512))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", **config}))
    write_weights(folder, weights, shards)
    write_tokenizer(folder, ids, int(config["vocab_size"]), {**TOKENS, **SPAN_TOKENS[family]})
    return folder


@pytest.fixture(scope="module")
def lvr() -> LvrGolden:
    return LvrGolden(OWN / "lvr", Golden(OWN))


def lvr_folder(folder: Path, lvr: LvrGolden, more: dict[str, Tensor] | None = None, shards: int = 1) -> Path:
    config = json.loads((OWN / "lvr" / "config.json").read_text())
    config.pop("token_ids")
    weights = load_file(OWN / "model_fork_names.safetensors")
    return written(folder, "lvr", config, {**weights, **(more or {})}, lvr.ids, shards)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_released_lvr_decodes_a_number_of_latents_and_then_any_token(
    lvr: LvrGolden, tmp_path: Path, shards: int
) -> None:
    model = load_model(lvr_folder(tmp_path / "lvr", lvr, shards=shards))
    latent = InferenceSettings.from_metadata(model.about, small_settings()).latent
    assert (latent.end, latent.num_latents, model.readout) == ("open", 8, None)
    assert model.ids == replace(lvr.ids, latent_queries=())
    expected = lvr.tensors("decode.outputs")
    settings = replace(DecodeSettings.of(latent, max_new_tokens=6), num_latents=6)  # they publish 4, 8 and 16
    ((found,),) = decode(model.backbone, [lvr.prompt()], model.ids, settings, readout=model.readout)
    check(found.latents[0], expected["steps6.latents_fed"])
    assert list(found.token_ids) == expected["steps6.new_tokens"].tolist()[6:12]


def test_its_head_and_its_stop_vector_are_found_among_the_weights_and_kept(lvr: LvrGolden, tmp_path: Path) -> None:
    prefix = "lvr_head.glu."
    more = {
        **{name.replace(prefix, "lvr_head."): one for name, one in lvr.extra.items() if name.startswith(prefix)},
        "lvr_latent_end_emb": lvr.extra["lvr_latent_end_emb"],
    }
    model = load_model(lvr_folder(tmp_path / "lvr", lvr, more, shards=2))
    expected = lvr.readout("glu", stops=True)
    assert isinstance(model.readout, LatentReadout) and expected is not None
    states = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.readout(states), expected(states))
    settings = DecodeSettings(max_new_tokens=2, num_latents=1, max_latents=3, end="near", near=1e9)
    ((found,),) = decode(model.backbone, [lvr.prompt()], model.ids, settings, readout=model.readout)
    assert len(found.latents[0]) == 1  # everything is near


def test_a_damaged_tokenizer_is_named(lvr: LvrGolden, tmp_path: Path) -> None:
    folder = lvr_folder(tmp_path / "lvr", lvr)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config.json is not JSON"):
        find_checkpoint(str(folder), None, Store.open(str(tmp_path / "store")))


def test_a_head_of_another_kind_is_refused(lvr: LvrGolden, tmp_path: Path) -> None:
    folder = lvr_folder(tmp_path / "lvr", lvr, {"lvr_head.attention.weight": torch.zeros(2, 2)})
    with pytest.raises(SettingsError, match=r"has a head lvr_head\.\* that is none of LVR's \(simple, glu\)"):
        load_model(folder)


@pytest.mark.parametrize("name", monet_case_names())
def test_a_released_monet_decodes_the_latents_that_its_code_feeds(tmp_path: Path, name: str) -> None:
    golden = MonetGolden()
    weights = load_file(golden.folder / "model_m1.safetensors")
    model = load_model(
        written(tmp_path / "monet", "monet", golden.config | {"pad_token_id": None}, weights, golden.ids)
    )
    latent = InferenceSettings.from_metadata(model.about, small_settings()).latent
    assert (latent.end, latent.max_latents) == ("free", 10)

    case = golden.case(name)
    row, latents = case.example(3), case.tensors("stage3.outputs")["s3_latents"]
    k = int(case.scalars["k"])
    begin = int((row.ids == golden.ids.latent_pad).nonzero()[0])
    prompt = EncodedPrompt(ids=row.ids[:begin], pixel_values=row.pixel_values, grid_thw=row.grid_thw)
    settings = replace(DecodeSettings.of(latent, max_new_tokens=3), num_latents=k, end="exact")
    ((found,),) = decode(model.backbone, [prompt], model.ids, settings)
    check(found.latents[0], latents[:k])
    assert found.token_ids[0] == golden.ids.latent_end


def test_a_command_that_is_given_such_a_folder_uses_its_method_with_latents(lvr: LvrGolden, tmp_path: Path) -> None:
    golden = MonetGolden()
    weights = load_file(golden.folder / "model_m1.safetensors")
    folders = {
        "lvr": lvr_folder(tmp_path / "lvr", lvr),
        "monet": written(tmp_path / "monet", "monet", golden.config, weights, golden.ids),
    }
    for method, folder in folders.items():
        found = find_checkpoint(str(folder), None, Store.open(str(tmp_path / "store")))
        assert (found.method, get_method(found.method).latents) == (method, "on")


def test_such_a_model_answers_problems_as_any_other(lvr: LvrGolden, tmp_path: Path) -> None:
    model = load_model(lvr_folder(tmp_path / "lvr", lvr))
    generator = Generator.for_evaluation(model, small_settings(), method="lvr")
    assert generator.decoding.end == "open" and generator.decoding.num_latents == 8
    problems = generate_problems(small_settings().problems, 7, quiet)
    assert len(generator.scored(problems[:2])) == 2


def test_a_recipe_that_begins_with_such_a_folder_keeps_its_head(lvr: LvrGolden, tmp_path: Path) -> None:
    prefix = "lvr_head.simple."
    more = {name.replace(prefix, "lvr_head."): one for name, one in lvr.extra.items() if name.startswith(prefix)}
    settings = small_settings(model={"source": str(lvr_folder(tmp_path / "lvr", lvr, more))})
    base = StageRunner(Store.open(str(tmp_path / "store")), quiet).run("base", {}, settings, {}).artifact
    loaded = load_model(Store.open(str(tmp_path / "store")).fetch(base))
    expected, states = lvr.readout("simple", stops=False), torch.ones(2, 64)
    assert isinstance(loaded.readout, LatentReadout) and expected is not None
    assert torch.equal(loaded.readout(states), expected(states))


def test_a_recipe_that_begins_with_such_a_folder_keeps_its_rule_and_is_told_of_another(
    lvr: LvrGolden, tmp_path: Path
) -> None:
    """Its latents are decoded as its authors do; a stage that would train it by another rule says what to set."""
    settings = small_settings(model={"source": str(lvr_folder(tmp_path / "lvr", lvr))}, lvr={"steps": 1})
    store = Store.open(str(tmp_path / "store"))
    base = store.fetch(StageRunner(store, quiet).run("base", {}, settings, {}).artifact)
    about = load_model(base).about
    assert InferenceSettings.from_metadata(about, settings).latent == LatentSettings(num_latents=8, end="open")
    assert base_identity(settings)["latent"] != identity(settings.latent)

    def job(**latent: Any) -> Job:
        chosen = small_settings(lvr={"steps": 1}, latent=latent)
        folders = {"output": tmp_path / "output", "scratch": tmp_path / "scratch"}
        return Job(program="lvr", settings=chosen, seed=1, inputs={"model": base}, label="lvr", **folders)

    with pytest.raises(SettingsError, match=r"num_latents is 8 in the model, 2 in the recipe; latent.end is 'open'"):
        check_own_settings(job(), about)
    check_own_settings(job(num_latents=8, end="open"), about)
