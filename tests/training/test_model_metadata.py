"""What mirage.json says of a trained model: its use, the stages that made it, and their data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirage_core.errors import SettingsError
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.store import Store
from mirage_core.training.model_metadata import check_own_settings, model_metadata, warmup_metadata
from tests.training.small_world import make_job


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
    metadata = warmup_metadata(make_job(inputs, tmp_path, "warmup"))
    assert (metadata["stage"], metadata["source"]) == ("base", "from_scratch")
    assert [chapter["stage"] for chapter in metadata["history"]] == ["warmup"]
