"""GRPO whose answers come from an engine over loopback: the same answers, current weights, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mirage_core.config import identity
from mirage_core.errors import SettingsError, TrainingError
from mirage_core.generation.decode import DecodeSettings, decode
from mirage_core.latent.encoder import Encoder
from mirage_core.store.records import load_problems
from mirage_core.training.grpo.served import ServedRollouts, trajectory
from mirage_core.training.sft.train import load_trainable
from tests.training.grpo_world import objective, run_here
from tests.training.rollout_server import DecodingEngine, engine_tokens, numbers_of, served
from tests.training.small_world import make_job, small_settings

SERVED = {"rollouts": "served"}


@pytest.fixture
def engine(latent_inputs: Path, tmp_path: Path) -> DecodingEngine:
    problems = load_problems(latent_inputs / "problems", split="train")
    return DecodingEngine(latent_inputs / "model", problems, tmp_path)


def runtime(url: str) -> dict[str, Any]:
    return {"runtime": {"rollouts_url": url}}


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_answers_that_are_served_are_those_of_the_decoder_here_with_their_latents(
    temperature: float, latent_inputs: Path, engine: DecodingEngine, tmp_path: Path
) -> None:
    problems = load_problems(latent_inputs / "problems", split="train")[:4]
    with served(engine) as url:
        job = make_job(latent_inputs, tmp_path, "grpo", **runtime(url), grpo=SERVED)
        model = load_trainable(job)
        model.backbone.eval()
        with torch.no_grad():
            model.backbone.norm_weight.mul_(1.5)  # others than the engine's: they must be pushed
        decoding = DecodeSettings.of(job.settings.latent, max_new_tokens=8, temperature=temperature)
        rollouts = ServedRollouts(model, job.settings, decoding, tmp_path / "pushed")
        encoder = Encoder(model.processor, job.settings.latent, job.settings.prompt, job.settings.teacher.variant)
        prompts = [encoder.prompt(problem) for problem in problems]
        seeds = [[10 * at, 10 * at + 1] for at in range(4)]
        found = rollouts.answers(problems, prompts, seeds, rollouts.push(0))
    assert not (tmp_path / "pushed").exists()
    spans = 0
    for prompt, of_prompt, answers in zip(prompts, seeds, found, strict=True):
        for seed, answer in zip(of_prompt, answers, strict=True):
            numbers = numbers_of(seed, 8) if temperature else None
            expected = decode(model.backbone, [prompt], model.ids, decoding, uniform=numbers)[0][0]
            assert (answer.token_ids, answer.spans) == (expected.token_ids, expected.spans)
            assert (answer.sampled, answer.finished) == (expected.sampled, expected.finished)
            assert answer.log_probs == pytest.approx(expected.log_probs, abs=1e-6)
            for mine, its in zip(answer.latents, expected.latents, strict=True):
                torch.testing.assert_close(mine, its)
            spans += len(answer.spans)
    assert spans > 2


def test_the_first_ratio_is_one_and_the_engine_is_given_the_weights_of_every_round(
    latent_inputs: Path, engine: DecodingEngine, tmp_path: Path
) -> None:
    with served(engine) as url:
        policy, backbone = objective(latent_inputs, tmp_path, **SERVED, sections=runtime(url))
        for step in (0, 1):
            (batch,) = policy.micro_batches(step)
            found = policy.loss(backbone, batch.data, batch.counts)
            assert float(found.parts["ratio_deviation"]) < 1e-5
            assert float(found.parts["num_latents"]) > 0 or step
            found.total.backward()
            with torch.no_grad():
                for weight in backbone.parameters():
                    if weight.grad is not None:
                        weight -= 0.3 * weight.grad
                        weight.grad = None
    assert [name.rpartition(" ")[2] for name in engine.pushed] == ["0", "1"]


def test_a_whole_run_learns_from_served_answers(latent_inputs: Path, engine: DecodingEngine, tmp_path: Path) -> None:
    with served(engine) as url:
        output = run_here(make_job(latent_inputs, tmp_path / "work", "grpo", **runtime(url), grpo=SERVED))
    assert (output / "model.safetensors").read_bytes() != (latent_inputs / "model" / "model.safetensors").read_bytes()
    assert len(engine.pushed) == 4


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"dtype": "bfloat16"}, "dtype bfloat16, expected float32"),
        ({"sizes": {"hidden_size": 3584}}, "hidden_size': 3584"),
        ({"tokens": {}}, "tokens {}"),
        ({"latent": {"num_latents": 5}}, "num_latents 5, expected 2"),
        ({"latent": None}, "it never imagines"),
        ({"prompt": {"image_scale": 1.0}}, "prompt.image_scale 1.0, expected 0.4375"),
        ({"latent": {"unheard": 1}}, "does not know"),
    ],
)
def test_an_engine_of_another_model_or_with_other_settings_is_refused(
    about: dict[str, Any], word: str, latent_inputs: Path, tmp_path: Path
) -> None:
    other = DecodingEngine(latent_inputs / "model", [], tmp_path, **about)
    with served(other) as url, pytest.raises(SettingsError, match=word):
        objective(latent_inputs, tmp_path, **SERVED, sections=runtime(url))


def test_an_engine_that_does_not_answer_is_told_with_the_way_out(latent_inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no engine answers at http://127.0.0.1:9/about .* mirage_vllm.rollouts"):
        objective(latent_inputs, tmp_path, **SERVED, sections=runtime("http://127.0.0.1:9"))


def test_answers_that_break_the_rules_of_spans_are_not_learned_from(
    latent_inputs: Path, engine: DecodingEngine
) -> None:
    ids, decoding = engine.model.ids, DecodeSettings(max_new_tokens=8, num_latents=2)
    right = [ids.latent_start, ids.latent_pad, ids.latent_pad, ids.latent_end, ids.end_of_turn]
    answer = trajectory(torch.tensor(right), torch.zeros(5), torch.ones(2, 64), ids, decoding)
    assert engine_tokens(answer, ids.latent_pad, ids.end_of_turn) == [(token, 0.0) for token in right]
    for wrong, latents in ((right[:2] + right[3:], 1), (right[1:], 2), (right, 1), ([5] * 10, 0)):
        tokens = torch.tensor(wrong)
        with pytest.raises(ValueError, match=r"breaks the rules|came"):
            trajectory(tokens, torch.zeros(len(wrong)), torch.ones(latents, 64), ids, decoding)


def test_a_choice_to_go_on_counts_where_spans_end_freely(engine: DecodingEngine) -> None:
    ids, decoding = engine.model.ids, DecodeSettings(max_new_tokens=8, num_latents=2, end="free", max_latents=4)
    tokens = torch.tensor([ids.latent_start, ids.latent_pad, ids.latent_pad, ids.latent_end, ids.end_of_turn])
    answer = trajectory(tokens, torch.tensor([-1.0, 0.0, -0.25, -0.5, -2.0]), torch.ones(2, 64), ids, decoding)
    assert answer.log_probs == (-1.0, -0.75, -2.0)
    assert answer.sampled == (True, True, True)


def test_settings_that_an_engine_cannot_meet_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"needs runtime\.rollouts_url"):
        small_settings(grpo=SERVED)
    with pytest.raises(ValidationError, match="set top_p to 1"):
        small_settings(grpo={**SERVED, "top_p": 0.9})
    with pytest.raises(ValidationError, match="of this machine"):
        small_settings(runtime={"rollouts_url": "http://10.0.0.1:8766"})


def test_the_setting_changes_no_fingerprint_until_it_is_used() -> None:
    assert "rollouts" not in identity(small_settings().grpo)
    used = small_settings(grpo=SERVED, runtime={"rollouts_url": "http://127.0.0.1:8766"})
    assert identity(used.grpo)["rollouts"] == "served"
