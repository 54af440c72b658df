"""The model card: a function of mirage.json, for people and for the hub."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from mirage_core.model.card import LICENCES, NOT_EVALUATED, model_card

CHAPTER: dict[str, Any] = {
    "stage": "grounding",
    "seed": 42,
    "settings": {"learning_rate": 1e-5, "text_weight": 0.1},
    "model": {"dtype": "bfloat16", "attention": "sdpa", "train_vision": False, "lora": None},
    "arithmetic": "CPU, AVX2, portable",
    "begun_with": "12" * 32,
    "data": {"examples": {"digest": "ab" * 32, "counts": {"vsp-planning": {"train": 1000, "validation": 100}}}},
}
ABOUT: dict[str, Any] = {
    "source": "Qwen/Qwen2.5-VL-7B-Instruct",
    "revision": "cd" * 20,
    "recipe": "qwen2.5-vl-7b",
    "stage": "grounding",
    "latent": {"num_latents": 4, "end": "exact"},
    "history": [CHAPTER],
    "made_with": {"commit": "ef" * 20, "versions": {"torch": "2.13.0", "transformers": "5.23.0"}},
}
SCORES = [
    {
        "benchmark": "vsp-planning",
        "method": "stage-1",
        "level": "all",
        "accuracy": 0.5,
        "interval": [0.4, 0.6],
        "n": 100,
        "unparsed": 3,
        "rule": "a|b",
    }
]


def front_matter(card: str) -> dict[str, Any]:
    result: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return result


def test_a_card_tells_data_making_versions_and_what_is_still_to_come() -> None:
    card = model_card(ABOUT)
    assert card.startswith("---\n") and card.endswith("\n")
    for text in (
        "| stage 1, grounding | examples | vsp-planning | train 1,000, validation 100 | `abababababababab` |",
        '"text_weight": 0.1',
        "- revision of that: `" + "cd" * 20,
        f"Commit of this project: `{'ef' * 20}`",
        "| torch | 2.13.0 |",
        "4 times (end: exact)",
        f"Begun with the model of sha256 `{'12' * 32}`.",
        "Arithmetic: CPU, AVX2, portable.",
        NOT_EVALUATED,
    ):
        assert text in card
    assert "adapter" not in card
    matter = front_matter(card)
    assert matter["license"] == "apache-2.0" and matter["base_model"] == ABOUT["source"]
    assert "model-index" not in matter


@pytest.mark.parametrize(("fed", "text"), [("own", "its own last hidden state is"), ("query", "a learned token of")])
def test_a_card_says_what_is_fed(fed: str, text: str) -> None:
    card = model_card({**ABOUT, "latent": {**ABOUT["latent"], "fed": fed}})
    assert f"where it decides to imagine, {text}" in card


def test_scores_stand_with_their_intervals_for_people_and_for_the_hub() -> None:
    card = model_card({**ABOUT, "scores": SCORES})
    assert "| vsp-planning | all | stage-1 | 50.0% | 40.0% to 60.0% | 100 | 3 | a\\|b |" in card
    (result,) = front_matter(card)["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.5 and "0.4000 to 0.6000" in result["metrics"][0]["name"]
    assert NOT_EVALUATED not in card


def test_the_hubs_own_reader_finds_the_scores_the_licence_and_the_base_model() -> None:
    data = ModelCard(model_card({**ABOUT, "scores": SCORES})).data
    (score,) = data.eval_results
    assert (score.dataset_type, score.dataset_name) == ("vsp-planning", "vsp-planning, level all, stage-1")
    assert (score.metric_type, score.metric_value) == ("accuracy", 0.5)
    assert (data.license, data.base_model, data.pipeline_tag) == (
        "apache-2.0",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "image-text-to-text",
    )


def test_the_front_matter_of_a_stored_model_keeps_its_bytes_since_they_enter_the_models_digest() -> None:
    front = "license: apache-2.0\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n"
    tags = "tags:\n- mirage\n- latent-visual-tokens\n"
    base = "base_model: Qwen/Qwen2.5-VL-7B-Instruct\nbase_model_relation: finetune\n"
    assert model_card({**ABOUT, "source": "from_scratch"}).startswith(f"---\n{front}{tags}---\n\n# Mirage")
    assert model_card(ABOUT).startswith(f"---\n{front}{tags}{base}---\n\n# Mirage")


@pytest.mark.parametrize(
    ("source", "licence"),
    (
        ("from_scratch", {"license": "apache-2.0"}),
        ("Qwen/Qwen2.5-VL-3B-Instruct", {"license": "other", "license_name": "qwen-research"}),
        ("somebody/model", {"license": "unknown"}),
        (None, {"license": "unknown"}),
    ),
)
def test_the_licence_is_that_of_the_base_model_and_unknown_where_it_is_not_known(
    source: str | None, licence: dict[str, str]
) -> None:
    about = {**ABOUT, "source": source} if source else {"stage": "base"}
    assert licence.items() <= front_matter(model_card(about)).items()
    assert front_matter(model_card({**about, "licence": "mit"}))["license"] == "mit"
    assert all("license" in known for known in LICENCES.values())


def test_adapters_are_told_of_where_the_last_stage_trained_them() -> None:
    lora = {**CHAPTER, "model": {**CHAPTER["model"], "lora": {"rank": 4}}}
    assert "`adapter/` has them alone" in model_card({**ABOUT, "history": [CHAPTER, lora]})
    assert "adapter/" not in model_card({**ABOUT, "history": [lora, CHAPTER]})


def test_a_folder_that_tells_nothing_has_a_card_too() -> None:
    card = model_card({})
    assert front_matter(card)["license"] == "unknown" and "No data was used yet" in card
