"""The clean run: what it keeps is what the model computed, for every instance in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mirage_core.analysis.collect import collect, evenly_spaced, load_clean_run, save_clean_run, select_instances
from mirage_core.analysis.intervened_generation import InterventionRunner, latents_of_model
from mirage_core.errors import DataError
from mirage_core.latent.collate import collate
from mirage_core.latent.compress import compress
from mirage_core.latent.encoder import encode_rollout
from mirage_core.model.forward.forward import replay_forward
from tests.analysis import toys

PROBLEMS = toys.toy_problems()


def test_states_are_those_of_one_pass_over_prompt_and_answer() -> None:
    runner, _ = toys.deaf()
    runner = InterventionRunner(runner.loaded, toys.toy_settings())
    clean_run = collect(runner, PROBLEMS[:5], toys.quiet)
    loaded, at = runner.loaded, 3
    prediction, prompt = clean_run.scored[at][0], runner.prompt(PROBLEMS[at])
    whole = encode_rollout(
        prompt, prediction.token_ids, prediction.spans, [True] * len(prediction.token_ids), loaded.ids
    )
    batch = collate([whole], loaded.ids, loaded.backbone.position_ids, align=False)
    with torch.inference_mode():
        hidden = replay_forward(loaded.backbone, batch, [clean_run.latents[at]])[0]
        features = loaded.backbone.image_features(prompt.pixel_values, prompt.grid_thw)[0]
    ids, first = whole.ids, len(prompt.ids)
    start = int((ids == loaded.ids.latent_start).nonzero()[0])
    text = hidden[start + 3 : len(ids) - 1]  # behind two latents: latent_end and what follows, each drawing the next

    def alike(stored: torch.Tensor, other: torch.Tensor) -> None:
        torch.testing.assert_close(stored, other.float(), atol=2e-4, rtol=2e-4)

    alike(clean_run.text_before[at], hidden[start - 1])
    alike(clean_run.latents[at], hidden[start : start + 2])
    alike(clean_run.text[at], text[evenly_spaced(len(text), 2)])
    alike(clean_run.text_mean[at], text.mean(0))
    image = hidden[:first][ids[:first] == loaded.ids.image_pad]
    alike(clean_run.image[at], image[evenly_spaced(len(image), 2)])
    alike(clean_run.image_features[at], features.mean(0))
    alike(clean_run.image_pooled[at], compress(features, 2, "even"))
    with torch.inference_mode():
        box = loaded.backbone.logits(text[-3:]).log_softmax(-1)
    drawn = [int(ids[len(ids) - 3 + step]) for step in range(3)]  # letter, brace, end of turn
    assert [int(each.argmax()) for each in box] == drawn
    alike(clean_run.first[at], box[0])


def test_a_clean_run_is_read_back_as_it_was_and_its_bytes_are_its_own(tmp_path: Path) -> None:
    clean_run = toys.clean("deaf")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_clean_run(tmp_path / name, clean_run)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and set(files[0]) == {"predictions.parquet", "latents.safetensors"}
    again = load_clean_run(tmp_path / "one")
    assert again.scored == clean_run.scored and torch.equal(again.latents, clean_run.latents)
    assert again.instances(PROBLEMS[::-1]) == PROBLEMS
    with pytest.raises(DataError, match="1 of 24 collected instances"):
        again.instances(PROBLEMS[1:])


def test_a_model_without_latents_is_collected_with_its_text_alone(tmp_path: Path) -> None:
    loaded = replace(toys.trained("none"), about={"stages": ["base", "text"]})
    clean_run = collect(InterventionRunner(loaded, toys.toy_settings()), PROBLEMS[:4], toys.quiet)
    assert clean_run.num_latents == 0 and not bool(clean_run.has_span.any())
    assert bool((clean_run.text_mean != 0).any(1).all()) and bool(clean_run.has_image.all())
    assert clean_run.image.shape[1] == 4, "positions of the baselines where there are no latents"
    assert all("<latents" not in prediction.output for prediction, _ in clean_run.scored)
    save_clean_run(tmp_path, clean_run)
    assert load_clean_run(tmp_path).latents.shape == clean_run.latents.shape == (4, 0, 64)


def test_no_problem_is_no_run() -> None:
    with pytest.raises(DataError, match="got no problems to collect"):
        collect(toys.deaf()[0], [], toys.quiet)


def test_only_models_that_were_taught_latents_may_use_them() -> None:
    assert latents_of_model({"stages": ["base", "grounding", "relaxation", "grpo"]}) == "on"
    assert latents_of_model({"stages": ["base", "text"]}) == latents_of_model({"stage": "base"}) == "off"
    assert latents_of_model({}) == "on", "a model without a record of its stages is taken at its word"


def test_instances_are_spread_over_groups() -> None:
    chosen = select_instances(PROBLEMS, 6, 0)
    assert [problem.group for problem in chosen].count("level-3") == 3
    assert chosen == [problem for problem in PROBLEMS if problem in chosen]
