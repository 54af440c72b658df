"""The plug-in on vLLM itself, its CPU wheel, Model Runner V2 with Triton's interpreter: the answers of ``decode``."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from safetensors.torch import load_file

from mirage_core.config import LatentSettings
from mirage_core.generation.decode import Trajectory
from mirage_core.model.loading import LoadedModel
from tests.servers.stack import free_port
from tests.vllm_plugin.environment import HERE, Environment, environment
from tests.vllm_plugin.imagining import PROMPT, Asked, answers, ask, make_model, problems, with_latents

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COUNT = 96
LATENT = LatentSettings()
BLOCK = 32
START_S = 1800
ENGINE = {"max_model_len": 512, "max_num_seqs": 32, "max_num_batched_tokens": 2048, "block_size": BLOCK}
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True)
class World:
    """A model that imagines, its problems, and what ``decode`` answers."""

    folder: Path
    model: LoadedModel
    asked: Sequence[Asked]
    expected: Sequence[Trajectory]

    def prompts(self, folder: Path, **arguments: object) -> list[dict[str, Any]]:
        """The problems as prompts of a job, their pictures as files in ``folder``."""
        made = []
        for number, one in enumerate(self.asked):
            picture = folder / f"{number}.png"
            picture.write_bytes(one.picture)
            text = f"<|im_start|>user\n{IMAGE.join(one.pieces)}<|im_end|>\n<|im_start|>assistant\n"
            made.append({"text": text, "picture": str(picture), "arguments": {"max_text_tokens": 24, **arguments}})
        return made


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment(tmp_path_factory.mktemp("vllm") / "plugin")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("models") / "imagines"
    model = make_model(folder, LATENT)
    asked = [ask(model, LATENT, problem) for problem in problems(COUNT)]
    return World(folder, model, asked, answers(model, LATENT, asked))


def run(vllm: Environment, folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Do a job in vLLM's environment; returns its runs by name, and latents by run and prompt."""
    source, out, latents = folder / "job.json", folder / "out.json", folder / "latents.safetensors"
    source.write_text(json.dumps(job))
    script = str(HERE / "answer_jobs.py")
    done = vllm.run(script, str(source), str(out), str(latents), VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return json.loads(out.read_text())["runs"], load_file(latents)


def check(world: World, name: str, found: dict[str, Any], latents: dict[str, torch.Tensor], prompts: range) -> None:
    """The same prompts, the same tokens, and latents within 1e-5 of their norm."""
    assert len(found["answers"]) == len(prompts)
    for number, answer in zip(prompts, found["answers"], strict=True):
        assert answer["prompt"] == world.asked[number].prompt.ids.tolist()
        assert answer["answer"] == with_latents(world.model, world.expected[number]), (name, number)
        if world.expected[number].latents:
            expected = torch.cat(world.expected[number].latents)
            error = (latents[f"{name}/{number}"] - expected).norm(dim=-1) / expected.norm(dim=-1)
            assert float(error.max()) < 1e-5, (name, number)


def test_the_answers_of_the_model_hang_on_its_latents(world: World) -> None:
    """Else equal answers would say little."""
    lost = answers(world.model, LATENT, world.asked, lose=True)
    changed = [mine.token_ids != its.token_ids for mine, its in zip(lost, world.expected, strict=True)]
    assert sum(changed) > COUNT / 2
    assert sum(bool(answer.spans) for answer in world.expected) > COUNT / 2
    assert sum(len(answer.spans) > 1 for answer in world.expected) > 5


def test_answers_and_latents_are_those_of_decode_whatever_is_asked_at_once(
    vllm: Environment, world: World, tmp_path: Path
) -> None:
    every, few = range(COUNT), range(0, COUNT, 4)
    runs = {
        "32": {"prompts": [*every], "at_once": 32},
        "8": {"prompts": [*every], "at_once": 8},
        "1": {"prompts": [*few], "at_once": 1},
    }
    job = {"model": str(world.folder), "engine": ENGINE, "prompts": world.prompts(tmp_path), "runs": runs}
    found, latents = run(vllm, tmp_path, job)
    check(world, "32", found["32"], latents, every)
    check(world, "8", found["8"], latents, every)
    check(world, "1", found["1"], latents, few)


def test_answers_are_the_same_where_prompts_come_from_the_prefix_cache(vllm: Environment, tmp_path: Path) -> None:
    longer, some = PROMPT.model_copy(update={"image_scale": 56 / 64}), range(4)
    model = make_model(tmp_path / "model", LATENT, longer)
    asked = [ask(model, LATENT, problem, longer) for problem in problems(len(some))]
    other = World(tmp_path / "model", model, asked, answers(model, LATENT, asked))
    runs = {name: {"prompts": [*some], "at_once": 4} for name in ("first", "again")}
    job = {"model": str(other.folder), "engine": ENGINE, "prompts": other.prompts(tmp_path), "runs": runs}
    found, latents = run(vllm, tmp_path, job)
    check(other, "first", found["first"], latents, some)
    check(other, "again", found["again"], latents, some)
    hits = [found[name]["prefix_cache_hits"] for name in runs]
    assert hits[1] - hits[0] >= len(some) * BLOCK


def test_preempted_requests_are_computed_again_with_their_own_latents(
    vllm: Environment, world: World, tmp_path: Path
) -> None:
    some = range(24)
    engine = {**ENGINE, "num_gpu_blocks_override": 9, "max_num_seqs": 8, "max_model_len": 192}
    runs = {"few blocks": {"prompts": [*some], "at_once": 24}}
    job = {"model": str(world.folder), "engine": engine, "prompts": world.prompts(tmp_path), "runs": runs}
    found, latents = run(vllm, tmp_path, job)
    assert found["few blocks"]["num_preemptions"] > 5
    check(world, "few blocks", found["few blocks"], latents, some)


@pytest.mark.parametrize("end", ["open", "free"])
def test_spans_that_end_otherwise_and_requests_that_never_imagine(
    end: str, vllm: Environment, world: World, tmp_path: Path
) -> None:
    latent = LatentSettings(end=end, max_latents=6, max_spans=2)  # type: ignore[arg-type]
    model, some = make_model(tmp_path / "model", latent), range(16)
    expected = answers(model, latent, world.asked[:16])
    other = World(tmp_path / "model", model, world.asked[:16], expected)
    never = World(tmp_path / "model", model, other.asked, answers(model, latent, other.asked, latents="off"))
    prompts = [*other.prompts(tmp_path), *other.prompts(tmp_path, latents="off")]
    runs = {"both": {"prompts": [*range(32)], "at_once": 32}}
    found, latents = run(
        vllm, tmp_path, {"model": str(other.folder), "engine": ENGINE, "prompts": prompts, "runs": runs}
    )
    both = found["both"]["answers"]
    check(other, "both", {"answers": both[:16]}, latents, some)
    check(never, "both", {"answers": both[16:]}, {}, some)


REFUSED = {
    "bottleneck": (LatentSettings(bottleneck="latent_kv"), {}, r"latent\.bottleneck 'latent_kv'"),
    "codes": (LatentSettings(input="code"), {}, r"latent\.input 'code'"),
    "pipeline": (LATENT, {"pipeline_parallel_size": 2}, "pipeline parallelism"),
    "priority": (LATENT, {"scheduling_policy": "priority"}, "--scheduling-policy"),
    "drafts": (
        LATENT,
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}},
        "speculative decoding",
    ),
}


def test_what_the_plug_in_cannot_do_is_refused_at_load_by_name(vllm: Environment, tmp_path: Path) -> None:
    cases = []
    for name, (latent, engine, _) in REFUSED.items():
        make_model(tmp_path / name, latent)
        cases.append({"name": name, "model": str(tmp_path / name), "engine": engine})
    done = vllm.run(str(HERE / "load_jobs.py"), json.dumps(cases), VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (_, _, word) in REFUSED.items():
        assert re.search(word, found[name] or "it was loaded"), (name, found[name])


@pytest.fixture(scope="module")
def client(vllm: Environment, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """vLLM's own server with the plug-in, on loopback."""
    log, port = tmp_path_factory.mktemp("server") / "log", free_port()
    options = [f"--{name.replace('_', '-')}={value}" for name, value in ENGINE.items()]
    command = [
        str(vllm.python), "-m", "vllm.entrypoints.openai.api_server", f"--model={world.folder}", "--dtype=float32",
        "--served-model-name=imagines", "--enforce-eager", "--reasoning-parser=mirage", "--host=127.0.0.1",
        f"--port={port}", *options,
    ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=vllm.variables)
        try:
            wait_until_served(process, f"http://127.0.0.1:{port}/health", log)
            with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600) as made:
                yield made
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(300)


def wait_until_served(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-6000:]
        try:
            if httpx.get(url, timeout=60).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(f"no answer in {START_S} s: {log.read_text()[-6000:]}")


def messages(one: Asked) -> list[Any]:
    url = "data:image/png;base64," + base64.b64encode(one.picture).decode()
    before, after = one.pieces
    picture = {"type": "image_url", "image_url": {"url": url}}
    texts = [{"type": "text", "text": text} for text in (before, after)]
    return [{"role": "user", "content": [part for part in (texts[0], picture, texts[1]) if part.get("text", "-")]}]


def test_the_server_answers_what_decode_does_and_counts_latents(client: OpenAI, world: World) -> None:
    number = next(at for at, answer in enumerate(world.expected) if answer.spans and answer.finished)
    expected, decode = world.expected[number], world.model.processor.tokenizer.decode
    reply = client.chat.completions.create(
        model="imagines", messages=messages(world.asked[number]), temperature=0.0,
        extra_body={"vllm_xargs": {"max_text_tokens": 24}},
    )  # fmt: skip
    text = decode([*expected.token_ids], skip_special_tokens=True)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (text, "stop")
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    latents = sum(span.num_latents for span in expected.spans)
    assert reply.usage.completion_tokens_details.reasoning_tokens == latents
    assert reply.usage.completion_tokens == latents + len(expected.token_ids)
    stream = client.chat.completions.create(
        model="imagines", messages=messages(world.asked[number]), temperature=0.0, stream=True,
        extra_body={"vllm_xargs": {"max_text_tokens": 24}},
    )  # fmt: skip
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == text


@pytest.mark.parametrize("text", ["<|latent_start|><|latent_pad|>", "a <|latent_end|>"])
def test_a_text_with_tokens_of_spans_is_refused(text: str, client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="only answers may hold"):
        client.chat.completions.create(model="imagines", messages=[{"role": "user", "content": text}])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"vllm_xargs": {"latents": "of"}}, "latents is 'of', expected on or off"),
        ({"response_format": {"type": "json_object"}}, "a grammar"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(body: dict[str, Any], word: str, client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match=word):
        client.chat.completions.create(model="imagines", messages=[{"role": "user", "content": "hm"}], extra_body=body)
