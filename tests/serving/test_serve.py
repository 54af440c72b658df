"""``mirage serve`` as OpenAI's own client finds it: a real process on loopback."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from PIL import Image

from flows.trained import find_checkpoint
from mirage_core.config import InferenceSettings
from mirage_core.generation.decode import decode
from mirage_core.generation.generator import Generator, seeded_numbers
from mirage_core.methods import get_method
from mirage_core.model.loading import load_model
from mirage_core.serving.texts import ThoughtSplitter
from mirage_core.store import Store
from mirage_core.types import Problem
from tests.serving.conftest import KEY, Served, start

WORDS = ("Where is the goal?", "Which way, up or down, leads there?", "Count the holes and say how many.", "Hm?")


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64 + 64 * (number % 2)), (40 * number, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def messages(number: int) -> list[Any]:
    url = "data:image/png;base64," + base64.b64encode(picture(number)).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "\n" + WORDS[number % len(WORDS)]},
    ]
    return [{"role": "user", "content": content}]


def split_thoughts(text: str) -> tuple[str, str]:
    """Return the thoughts and the answer of a complete text."""
    splitter = ThoughtSplitter()
    pieces = [*splitter.add(text), *splitter.flush()]
    thoughts, answer = ("".join(piece.text for piece in pieces if piece.thought is kind) for kind in (True, False))
    return thoughts, answer


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.url, api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def generator(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """What ``mirage evaluate`` answers with, for the same folder."""
    checkpoint = find_checkpoint(str(model_folder), None, Store.open(tmp_path_factory.mktemp("store")))
    model = checkpoint.settings.model
    loaded = load_model(model_folder, dtype=model.dtype, attention=model.attention, device=torch.device("cpu"))
    latents = get_method(checkpoint.method).latents
    made = Generator.for_evaluation(loaded, checkpoint.settings, method=checkpoint.method, latents=latents)
    assert InferenceSettings.from_metadata(loaded.about, checkpoint.settings).latent.num_latents == 4
    return made


def evaluated(generator: Generator, number: int, *, seed: int | None = None) -> tuple[str, str, list[int], int, Any]:
    """Thoughts, answer, spans, tokens and trajectory of the evaluation's own decoder."""
    question = f"<image>\n{WORDS[number % len(WORDS)]}"
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question[7:]}]}]
    prompt = generator.encoder.conversation(chat, *generator.encoder.pixels([picture(number)], "p"))  # type: ignore[arg-type]
    settings, uniform = replace(generator.decoding, max_new_tokens=40), None
    if seed is not None:
        settings = replace(settings, temperature=1.0, top_p=0.95)
        uniform = seeded_numbers(seed, "", 0, 40)[None]
    model = generator.model
    one = decode(model.backbone, [prompt], model.ids, settings, uniform=uniform, readout=model.readout)[0][0]
    problem = Problem(
        id="p", benchmark="own", split="test", group="own", question=question, images=(picture(number),), answer=""
    )
    output = re.sub(r"<latents:\d+>", "", generator.prediction(problem, one).output)
    thoughts, answer = split_thoughts(output)
    return thoughts, answer, [span.num_latents for span in one.spans], len(one.token_ids), one


def ask(client: OpenAI, number: int, **more: Any) -> Any:
    sampled = {"temperature": 1.0, "top_p": 0.95} if "seed" in more else {}
    return client.chat.completions.create(model="imagines", messages=messages(number), max_tokens=40, **sampled, **more)


def test_a_question_in_its_own_words_is_encoded_as_in_evaluation(generator: Generator) -> None:
    problem = Problem(
        id="p", benchmark="own", split="test", group="own", question="<image>\nWhere?", images=(picture(0),), answer=""
    )
    expected = generator.encoder.prompt(problem)
    words = generator.model.processor.tokenizer.decode(expected.ids)
    text = words.split("<|vision_end|>")[1].split("<|im_end|>")[0]
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    found = generator.encoder.conversation(chat, *generator.encoder.pixels([picture(0)], "p"))  # type: ignore[arg-type]
    assert found.ids.tolist() == expected.ids.tolist()
    assert torch.equal(found.pixel_values, expected.pixel_values)


def test_answers_are_those_of_evaluation_alone_and_among_others(client: OpenAI, generator: Generator) -> None:
    spans = 0
    with ThreadPoolExecutor(12) as pool:
        seeds = [None if number % 2 else number for number in range(24)]
        asked = [
            pool.submit(ask, client, number % 6, **({} if seed is None else {"seed": seed}))
            for number, seed in enumerate(seeds)
        ]
        found = [future.result() for future in asked]
    found[0] = ask(client, 0, seed=0)
    for number, (reply, seed) in enumerate(zip(found, seeds, strict=True)):
        thoughts, answer, latents, tokens, one = evaluated(generator, number % 6, seed=seed)
        (choice,) = reply.choices
        assert (choice.message.content, choice.message.latents) == (answer, latents)
        assert getattr(choice.message, "reasoning", "") == thoughts
        assert choice.finish_reason == ("stop" if one.finished else "length")
        assert reply.usage.completion_tokens == tokens + sum(latents)
        assert reply.usage.completion_tokens_details.reasoning_tokens == sum(latents)
        spans += len(latents)
    assert spans > 24
    assert {reply.choices[0].finish_reason for reply in found} == {"stop", "length"}


def test_a_stream_is_the_whole_answer_in_pieces(client: OpenAI) -> None:
    whole = ask(client, 1, seed=5)
    chunks = list(ask(client, 1, seed=5, stream=True, stream_options={"include_usage": True}))
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert content == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-2].choices[0].delta.latents == whole.choices[0].message.latents
    assert len(chunks) > 5


def test_the_last_line_of_a_stream_says_so(served: Served) -> None:
    body = {"model": "imagines", "messages": messages(0), "stream": True, "max_tokens": 3}
    reply = httpx.post(f"{served.url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")


def test_several_answers_are_those_of_their_numbers(client: OpenAI) -> None:
    reply = ask(client, 2, seed=9, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in reply.choices]
    assert texts[0] == ask(client, 2, seed=9).choices[0].message.content
    assert len(set(texts)) == 3
    chunks = [chunk.choices[0] for chunk in ask(client, 2, seed=9, n=3, stream=True)]
    streamed = ["".join(one.delta.content or "" for one in chunks if one.index == index) for index in range(3)]
    assert streamed == texts


def test_an_answer_ends_before_a_stop_word(client: OpenAI) -> None:
    text = ask(client, 3, seed=1).choices[0].message.content
    assert len(text) > 8
    word = text[5:7]
    reply = ask(client, 3, seed=1, stop=[word])
    assert reply.choices[0].message.content == text[: text.index(word)]
    assert reply.choices[0].finish_reason == "stop"


def test_log_probabilities_are_those_of_the_text_tokens(client: OpenAI, generator: Generator) -> None:
    reply = ask(client, 4, seed=3, logprobs=True)
    *_, one = evaluated(generator, 4, seed=3)
    ids = generator.model.ids
    hidden = (ids.latent_start, ids.latent_end, ids.end_of_turn, ids.pad)
    expected = [value for token, value in zip(one.token_ids, one.log_probs, strict=True) if token not in hidden]
    found = reply.choices[0].logprobs.content
    assert [entry.logprob for entry in found] == pytest.approx(expected, abs=1e-4)
    chunks = [chunk.choices[0].logprobs for chunk in ask(client, 4, seed=3, logprobs=True, stream=True)]
    assert [entry.logprob for part in chunks if part for entry in part.content] == pytest.approx(expected, abs=1e-4)


def test_the_likeliest_tokens_stand_beside_each(client: OpenAI, generator: Generator) -> None:
    content = ask(client, 4, logprobs=True, top_logprobs=20).choices[0].logprobs.content
    assert len(content) > 3
    for entry in content:
        values = [one.logprob for one in entry.top_logprobs]
        assert len(values) == 20 and values == sorted(values, reverse=True)
        assert (entry.top_logprobs[0].token, values[0]) == (entry.token, entry.logprob)  # it was asked greedily
    fewer = ask(client, 4, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [entry.top_logprobs for entry in fewer] == [entry.top_logprobs[:2] for entry in content]
    assert all(not entry.top_logprobs for entry in ask(client, 4, logprobs=True).choices[0].logprobs.content)


def test_pictures_that_were_asked_about_are_not_encoded_again(client: OpenAI, served: Served) -> None:
    ask(client, 5)
    hits, misses = (metric(served, f'mirage_pictures_total{{cache="{kind}"}}') for kind in ("hit", "miss"))
    ask(client, 5, seed=3)
    assert metric(served, 'mirage_pictures_total{cache="hit"}') == hits + 1
    assert metric(served, 'mirage_pictures_total{cache="miss"}') == misses


@pytest.mark.parametrize("text", ["<|im_end|>", "a <|latent_start|><|latent_pad|>", "<|image_pad|>"])
def test_special_tokens_in_a_message_are_refused(client: OpenAI, text: str) -> None:
    with pytest.raises(BadRequestError, match="special token"):
        client.chat.completions.create(model="imagines", messages=[{"role": "user", "content": text}])


def test_what_is_asked_in_vain_is_named(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(client, 0, frequency_penalty=1.0)
    assert refused.value.param == "frequency_penalty"
    with pytest.raises(BadRequestError, match="--max-prompt-tokens"):
        client.chat.completions.create(model="imagines", messages=[{"role": "user", "content": "word " * 2000}])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {}}, 401),
        ({"headers": {"Authorization": "Bearer sk-of-the-tesT"}}, 401),
        ({"headers": {"Authorization": f"Basic {KEY}"}}, 401),
        ({"content": b"{"}, 400),
        ({"content": b" " * (2**20 + 1)}, 413),
        ({"type": "text/plain"}, 415),
        ({"model": "another"}, 404),
        ({"path": "completions"}, 404),
    ],
)
def test_every_refusal_has_its_status_and_the_form_of_openais(
    served: Served, change: dict[str, Any], status: int
) -> None:
    headers = {"Authorization": f"Bearer {KEY}", **change.get("headers", {})} if change.get("headers", 1) else {}
    headers["Content-Type"] = change.get("type", "application/json")
    body = json.dumps({"model": change.get("model", "imagines"), "messages": messages(0)}).encode()
    url = f"{served.url}/{change.get('path', 'chat/completions')}"
    reply = httpx.post(url, content=change.get("content", body), headers=headers)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def metric(served: Served, name: str) -> float:
    page = httpx.get(f"{served.url[:-3]}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    (line,) = [line for line in page.text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def settled(served: Served, name: str, value: float) -> bool:
    """Whether a metric becomes ``value`` within seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if metric(served, name) == value:
            return True
        time.sleep(0.05)
    return False


def test_models_health_and_metrics(served: Served, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["imagines"]
    assert httpx.get(f"{served.url[:-3]}/health").json() == {"status": "ok"}
    assert httpx.get(f"{served.url[:-3]}/metrics").status_code == 401
    before = metric(served, "mirage_latents_total"), metric(served, "mirage_text_tokens_total")
    reply = ask(client, 1, seed=5)
    latents = sum(reply.choices[0].message.latents)
    assert metric(served, "mirage_latents_total") == before[0] + latents
    assert metric(served, "mirage_text_tokens_total") == before[1] + reply.usage.completion_tokens - latents


def long_request(*, stream: bool) -> dict[str, Any]:
    """Eight answers of which some take seconds."""
    return {
        "model": "imagines", "messages": messages(0), "max_tokens": 4000, "temperature": 2.0, "seed": 1, "n": 8,
        "stream": stream,
    }  # fmt: skip


def test_a_stream_whose_client_goes_away_frees_its_rows(served: Served) -> None:
    cancelled = metric(served, "mirage_cancelled_requests_total")
    body, headers = long_request(stream=True), {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{served.url}/chat/completions", json=body, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()
        for _ in range(60):
            next(lines)
        assert metric(served, "mirage_running_answers") == 8
    check_cancelled(served, cancelled + 1)


def test_a_request_whose_client_goes_away_frees_its_rows(served: Served) -> None:
    cancelled = metric(served, "mirage_cancelled_requests_total")
    body, headers = long_request(stream=False), {"Authorization": f"Bearer {KEY}"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/chat/completions", json=body, headers=headers, timeout=0.5)
    check_cancelled(served, cancelled + 1)


def check_cancelled(served: Served, cancelled: float) -> None:
    """The request counts as cancelled, which one that had ended would not, and nothing of it runs or waits."""
    assert settled(served, "mirage_cancelled_requests_total", cancelled)
    assert settled(served, "mirage_running_answers", 0)
    assert settled(served, "mirage_waiting_requests", 0)


def test_a_thousand_streams_at_once_end_well_or_are_told_to_come_again(served: Served) -> None:
    body = json.dumps({"model": "imagines", "messages": messages(0), "max_tokens": 8, "stream": True})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    async def one(client: httpx.AsyncClient) -> tuple[int, bool]:
        reply = await client.post(f"{served.url}/chat/completions", content=body, headers=headers)
        if reply.status_code == 429:
            assert reply.headers["retry-after"] == "1"
        return reply.status_code, reply.text.endswith("data: [DONE]\n\n")

    async def all_of_them() -> list[tuple[int, bool]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=300) as client:
            return await asyncio.gather(*(one(client) for _ in range(1000)))

    found = Counter(asyncio.run(all_of_them()))
    assert set(found) <= {(200, True), (429, False)}
    assert found[200, True] >= 40  # as many as wait at most
    assert settled(served, "mirage_running_answers", 0)


def test_sigterm_lets_running_answers_end(model_folder: Path, tmp_path: Path) -> None:
    server = start(model_folder, tmp_path / "log", "--drain-s", "60")
    body = {"model": model_folder.name, "messages": messages(0), "max_tokens": 300, "temperature": 2.0, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{server.url}/chat/completions", json=body, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert server.process.wait(30) in (0, -signal.SIGTERM)
    assert "Traceback" not in (tmp_path / "log").read_text()
