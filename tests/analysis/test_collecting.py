"""The clean run: what it keeps is what the model computed, for every instance in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mirage_core.analysis.collect import chosen_instances, collect, load_collected, save_collected
from mirage_core.analysis.intervened_generation import Asker, latents_of_model
from mirage_core.analysis.measures.geometry import evenly
from mirage_core.errors import DataError
from mirage_core.latent.collate import collate
from mirage_core.latent.compress import compress
from mirage_core.latent.encoder import encode_rollout
from mirage_core.model.forward.forward import replayed_forward
from tests.analysis import toys

PROBLEMS = toys.toy_problems()


def test_states_are_those_of_one_pass_over_prompt_and_answer() -> None:
    asker, _ = toys.deaf()
    asker = Asker(asker.loaded, toys.toy_settings())
    collected = collect(asker, PROBLEMS[:5], toys.quiet)
    loaded, at = asker.loaded, 3
    prediction, prompt = collected.scored[at][0], asker.prompt(PROBLEMS[at])
    whole = encode_rollout(
        prompt, prediction.token_ids, prediction.spans, [True] * len(prediction.token_ids), loaded.ids
    )
    batch = collate([whole], loaded.ids, loaded.backbone.position_ids, align=False)
    with torch.inference_mode():
        hidden = replayed_forward(loaded.backbone, batch, [collected.latents[at]])[0]
        features = loaded.backbone.image_features(prompt.pixel_values, prompt.grid_thw)[0]
    ids, first = whole.ids, len(prompt.ids)
    start = int((ids == loaded.ids.latent_start).nonzero()[0])
    text = hidden[start + 3 : len(ids) - 1]  # behind two latents: latent_end and what follows, each drawing the next

    def alike(one: torch.Tensor, other: torch.Tensor) -> None:
        torch.testing.assert_close(one, other.float(), atol=2e-4, rtol=2e-4)

    alike(collected.text_before[at], hidden[start - 1])
    alike(collected.latents[at], hidden[start : start + 2])
    alike(collected.text[at], text[evenly(len(text), 2)])
    alike(collected.text_mean[at], text.mean(0))
    image = hidden[:first][ids[:first] == loaded.ids.image_pad]
    alike(collected.image[at], image[evenly(len(image), 2)])
    alike(collected.image_features[at], features.mean(0))
    alike(collected.image_pooled[at], compress(features, 2, "even"))
    with torch.inference_mode():
        box = loaded.backbone.logits(text[-3:]).log_softmax(-1)
    drawn = [int(ids[len(ids) - 3 + step]) for step in range(3)]  # letter, brace, end of turn
    assert [int(one.argmax()) for one in box] == drawn
    alike(collected.first[at], box[0])


def test_a_clean_run_is_read_back_as_it_was_and_its_bytes_are_its_own(tmp_path: Path) -> None:
    collected = toys.clean("deaf")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_collected(tmp_path / name, collected)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and set(files[0]) == {"predictions.parquet", "latents.safetensors"}
    again = load_collected(tmp_path / "one")
    assert again.scored == collected.scored and torch.equal(again.latents, collected.latents)
    assert again.instances(PROBLEMS[::-1]) == PROBLEMS
    with pytest.raises(DataError, match="1 of 24 collected instances"):
        again.instances(PROBLEMS[1:])


def test_a_model_without_latents_is_collected_with_its_text_alone(tmp_path: Path) -> None:
    loaded = replace(toys.trained("none"), about={"stages": ["base", "text"]})
    collected = collect(Asker(loaded, toys.toy_settings()), PROBLEMS[:4], toys.quiet)
    assert collected.num_latents == 0 and not bool(collected.has_span.any())
    assert bool((collected.text_mean != 0).any(1).all()) and bool(collected.has_image.all())
    assert collected.image.shape[1] == 4, "places of the baselines where there are no latents"
    assert all("<latents" not in prediction.output for prediction, _ in collected.scored)
    save_collected(tmp_path, collected)
    assert load_collected(tmp_path).latents.shape == collected.latents.shape == (4, 0, 64)


def test_no_problem_is_no_run() -> None:
    with pytest.raises(DataError, match="got no problems to collect"):
        collect(toys.deaf()[0], [], toys.quiet)


def test_only_models_that_were_taught_latents_may_use_them() -> None:
    assert latents_of_model({"stages": ["base", "grounding", "relaxation", "grpo"]}) == "on"
    assert latents_of_model({"stages": ["base", "text"]}) == latents_of_model({"stage": "base"}) == "off"
    assert latents_of_model({}) == "on", "a model that tells nothing is taken at its word when it opens a span"


def test_instances_are_spread_over_groups() -> None:
    chosen = chosen_instances(PROBLEMS, 6, 0)
    assert [problem.group for problem in chosen].count("level-3") == 3
    assert chosen == [problem for problem in PROBLEMS if problem in chosen]
