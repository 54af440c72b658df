"""GRPO's answers from vLLM itself (as test_on_vllm): those of ``decode`` with the weights that were pushed last."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mirage_core.config import Settings
from mirage_core.errors import TrainingError
from mirage_core.generation.decode import DecodeSettings, decode
from mirage_core.model.loading import LoadedModel
from mirage_core.training.grpo.objective import GRPOObjective
from mirage_core.training.grpo.served import ServedRollouts
from tests.servers.stack import free_port
from tests.training.small_world import even_length
from tests.vllm_plugin.environment import environment
from tests.vllm_plugin.imagining import PROMPT, ask, make_model, problems
from tests.vllm_plugin.test_on_vllm import ENGINE, LATENT, wait_until_served

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COUNT = 16
GRPO = {
    "rollouts": "served", "prompts_per_step": 4, "group_size": 2, "temperature": 1.2, "max_new_tokens": 24,
    "kl_weight": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the engine is started with."""
    return tmp_path_factory.mktemp("models") / "imagines"


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    """The model of that folder, with other weights."""
    loaded = make_model(folder, LATENT)
    _change(loaded, 1)
    return loaded


@pytest.fixture(scope="module")
def settings(folder: Path, model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Those of a training whose answers come from an engine that runs."""
    vllm, log = environment(tmp_path_factory.mktemp("vllm") / "plugin"), tmp_path_factory.mktemp("engine") / "log"
    port = free_port()
    options = json.dumps({**ENGINE, "dtype": "float32", "enforce_eager": True})
    command = [str(vllm.python), "-m", "mirage_vllm.rollouts", str(folder), f"--port={port}", f"--engine={options}"]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=vllm.variables)
        try:
            wait_until_served(process, f"{url}/about", log)
            yield Settings.model_validate(
                {"recipe": "served", "prompt": PROMPT.model_dump(), "grpo": GRPO, "runtime": {"rollouts_url": url}}
            )
        finally:
            process.terminate()
            process.wait(300)


def _change(model: LoadedModel, seed: int) -> None:
    """Move the first layer's weights, so that answers are others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.backbone.layers[0].parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)


def test_greedy_answers_are_those_of_decode_with_the_weights_that_were_pushed(
    model: LoadedModel, settings: Settings, tmp_path: Path
) -> None:
    some = problems(COUNT)
    prompts = [ask(model, LATENT, problem).prompt for problem in some]
    decoding = DecodeSettings.of(LATENT, max_new_tokens=24)
    served = ServedRollouts(model, settings, decoding, tmp_path / "pushed")
    with pytest.raises(TrainingError, match=r"409.*were asked for"):
        served.answers(some[:1], prompts[:1], [[1]], "others")
    before = decode(model.backbone, prompts, model.ids, decoding)
    for step in (0, 1):
        found = served.answers(some, prompts, [[1]] * COUNT, served.push(step))
        expected = decode(model.backbone, prompts, model.ids, decoding)
        assert sum(bool(its.spans) for (its,) in expected) > COUNT / 4
        for (mine,), (its,) in zip(found, expected, strict=True):
            assert (mine.token_ids, mine.spans, mine.sampled) == (its.token_ids, its.spans, its.sampled)
            assert mine.finished == its.finished
            assert mine.log_probs == pytest.approx(its.log_probs, abs=1e-4)
            for fed, own in zip(mine.latents, its.latents, strict=True):
                assert float(((fed - own).norm(dim=-1) / own.norm(dim=-1)).max()) < 1e-5
        if step:
            assert [one.token_ids for (one,) in expected] != [one.token_ids for (one,) in before]
        _change(model, 2)


def test_the_first_ratio_of_answers_that_vllm_samples_is_one(
    model: LoadedModel, settings: Settings, tmp_path: Path
) -> None:
    policy = GRPOObjective(settings, model, problems(COUNT), 7, pushed=tmp_path / "pushed", scorer=even_length)
    for step in (0, 1):
        found = [policy.loss(model.backbone, one.data, one.counts) for one in policy.micro_batches(step)]
        assert sum(float(one.parts["ratio_deviation"]) for one in found) < 1e-3
        assert sum(float(one.parts["num_latents"]) for one in found) > 0
        _change(model, 3)
