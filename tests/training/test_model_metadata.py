"""What mirage.json says of a trained model: its use, the stages that made it, and their data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.distributed.job import ProgramName
from mirage_core.errors import SettingsError
from mirage_core.model.loading import LoadedModel, load_model, save_model
from mirage_core.pipeline.stage import StageContext
from mirage_core.pipeline.stages.base_model import import_base
from mirage_core.store import Store
from mirage_core.training.checkpoint.model_metadata import check_own_settings, model_metadata, warmup_metadata
from mirage_core.training.sft.train import load_trainable
from tests.training.small_world import make_job, quiet, small_settings


@pytest.fixture
def model(inputs: Path) -> LoadedModel:
    return load_model(inputs / "model")


def as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """As it is read back."""
    read: dict[str, Any] = json.loads(json.dumps(metadata))
    return read


def test_every_stage_adds_its_chapter_and_the_use_is_that_of_the_last(
    inputs: Path, model: LoadedModel, tmp_path: Path
) -> None:
    first = model_metadata(make_job(inputs, tmp_path, "grounding"), model)
    before = LoadedModel(model.backbone, model.processor, model.ids, {**first, "scores": [1], "adapter": "only"})
    second = as_json(model_metadata(make_job(inputs, tmp_path, "relaxation", latent={"num_latents": 3}), before))
    assert second["stages"] == ["base", "grounding", "relaxation"]
    assert [chapter["stage"] for chapter in second["history"]] == ["grounding", "relaxation"]
    assert second["latent"]["num_latents"] == 3 and second["history"][0] == as_json(first)["history"][0]
    assert second["history"][1]["settings"]["learning_rate"] == 2e-3
    assert "text_weight" in second["history"][0]["settings"]
    assert not {"scores", "adapter"} & second.keys()  # those were of the model it began with


def test_a_policy_goes_on_under_the_models_own_settings_or_not_at_all(
    inputs: Path, model: LoadedModel, tmp_path: Path
) -> None:
    own = {"num_latents": 8, "bottleneck": "latent_only"}
    trained = make_job(inputs, tmp_path, "relaxation", latent=own, teacher={"variant": "cot"})
    about = as_json(model_metadata(trained, model))
    check_own_settings(make_job(inputs, tmp_path, "grpo", latent=own, teacher={"variant": "cot"}), about)
    check_own_settings(  # only targets depend on it
        make_job(inputs, tmp_path, "grpo", latent={**own, "compression": "drop_tail"}, teacher={"variant": "cot"}),
        about,
    )
    with pytest.raises(SettingsError) as error:
        check_own_settings(make_job(inputs, tmp_path, "grpo", latent={"num_latents": 2}), about)
    for said in (
        "latent.num_latents is 8 in the model, 2 in the recipe",
        "latent.bottleneck is 'latent_only' in the model, 'none' in the recipe",
        "teacher.variant is 'cot' in the model, 'direct' in the recipe",
    ):
        assert said in str(error.value)
    check_own_settings(make_job(inputs, tmp_path, "grpo", latent={"num_latents": 2}), {})  # of another project


@pytest.mark.parametrize("program", ["relaxation", "film", "text", "capimagine", "grpo"])
def test_every_stage_refuses_to_train_a_model_under_other_settings_than_its_own(
    inputs: Path, model: LoadedModel, tmp_path: Path, program: ProgramName
) -> None:
    own = {"latent": {"num_latents": 3}, "teacher": {"variant": "cot"}}
    about = as_json(model_metadata(make_job(inputs, tmp_path, "grounding", **own), model))
    save_model(tmp_path / "grounded", model.backbone, model.processor, about)

    def begin(**sections: Any) -> None:
        job = make_job(inputs, tmp_path, program, **sections)
        load_trainable(job.model_copy(update={"inputs": {**job.inputs, "model": tmp_path / "grounded"}}))

    begin(**own)
    with pytest.raises(SettingsError, match=f"{program} would train .*teacher.variant is 'cot' in the model, 'direct'"):
        begin(latent=own["latent"])
    if program in ("text", "capimagine"):  # its answers have no latents, whatever their number
        begin(latent={"num_latents": 2}, teacher=own["teacher"])
        return
    with pytest.raises(SettingsError, match=r"latent\.num_latents is 3 in the model, 2 in the recipe"):
        begin(latent={"num_latents": 2}, teacher=own["teacher"])


def test_a_trained_model_as_a_base_keeps_its_own_settings(inputs: Path, model: LoadedModel, tmp_path: Path) -> None:
    trained = make_job(inputs, tmp_path, "relaxation", latent={"num_latents": 3}, teacher={"variant": "cot"})
    about = as_json(model_metadata(trained, model))
    save_model(tmp_path / "trained", model.backbone, model.processor, about)
    for folder, kept in (("trained", True), ("untrained", False)):
        if not kept:  # its settings are those of a recipe that only loaded it
            save_model(tmp_path / folder, model.backbone, model.processor, {**about, "history": []})
        settings = small_settings(model={"source": str(tmp_path / folder)}, prompt={"image_scale": 0.5})
        context = StageContext(
            settings=settings,
            params={},
            inputs={},
            input_paths={},
            output=tmp_path / f"base-{folder}",
            scratch=tmp_path / "scratch",
            fingerprint="f" * 64,
            store=Store.open(tmp_path / "store"),
            progress=quiet,
        )
        import_base(context)
        read = json.loads((context.output / "mirage.json").read_text(encoding="utf-8"))
        assert ("latent" in read, read.get("variant")) == (kept, "cot" if kept else None)
        assert read["prompt"]["image_scale"] == (0.4375 if kept else 0.5)


def test_data_are_told_by_the_digest_of_their_artifact_and_their_rows(
    inputs: Path, model: LoadedModel, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "store")
    artifact = store.publish("examples", "a" * 64, inputs / "examples", summary={}, about={})
    data = model_metadata(make_job(inputs, tmp_path, "text"), model)["history"][0]["data"]
    expected = {"digest": artifact.digest, "counts": {"vsp-planning": {"train": 14, "validation": 2}}}
    assert data["examples"] == expected
    job = make_job(inputs, tmp_path, "text").model_copy(update={"digests": {"examples": "known", "model": "input"}})
    (chapter,) = model_metadata(job, model)["history"]
    assert (chapter["data"]["examples"]["digest"], chapter["begun_with"]) == ("known", "input")


def test_the_same_job_is_told_in_the_same_words_and_nothing_of_this_machine(
    inputs: Path, model: LoadedModel, tmp_path: Path
) -> None:
    texts = {
        json.dumps(
            model_metadata(
                make_job(inputs, tmp_path / name, "text", runtime={"processes": size}, grpo={"steps": size}), model
            )
        )
        for name, size in (("a", 1), ("b", 2))
    }
    (text,) = texts
    assert str(tmp_path) not in text and str(inputs) not in text and '"runtime"' not in text


def test_a_warm_up_is_the_first_chapter(inputs: Path, tmp_path: Path) -> None:
    metadata = warmup_metadata(make_job(inputs, tmp_path, "warmup"), torch.device("cpu"))
    assert (metadata["stage"], metadata["source"]) == ("base", "from_scratch")
    assert [chapter["stage"] for chapter in metadata["history"]] == ["warmup"]
