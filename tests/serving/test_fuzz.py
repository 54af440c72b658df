"""Whatever a request holds, it is answered or refused: no error of the server, and no place in the queue is lost."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from fastapi.testclient import TestClient

from mirage_core.generation.generator import Generator
from mirage_core.serving.app import make_app
from mirage_core.serving.limits import RequestError, ServingLimits
from mirage_core.serving.requests import ChatRequest, parse_json, parse_request
from mirage_core.serving.server import ModelServer
from tests.serving.test_requests import image, picture

PARSED, REQUESTS = 10_000, 500
LIMITS = ServingLimits(rows=4, choices=3, answer_tokens=20, prompt_tokens=200)
FIELDS = (
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed", "stop", "stream",
    "stream_options", "logprobs", "top_logprobs", "tools", "logit_bias", "user", "response_format", "trajectory",
    "nonsense", "mirage", "mirage",
)  # fmt: skip
GOOD, BROKEN = picture(8), "data:image/png;base64,iVBORw0KGgo="
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, 2**63, 2**70, 0.0, 0.5, 1e-300, 1e308, "", "a", "e", "<|im_end|>",
    "\x00", "é" * 50, "<think>", [], ["a"], ["", ""], [None], {}, {"include_usage": True}, {"type": "text"}, [[[]]],
    {"spans": True}, {"film": True}, {"latents_of": {"image_url": {"url": GOOD}}}, {"latents_of": 5}, {"film": None},
)  # fmt: skip


def content(chance: random.Random) -> Any:
    """Parts of a message, good and bad."""
    parts = [
        {"type": "text", "text": chance.choice(["Where?", "", "\ud7ff", "<image>", "\U0001f600"])},
        image(GOOD), image(BROKEN), image("http://127.0.0.1:1/x.png"), {"type": "video"}, {"type": "text"}, 5,
    ]  # fmt: skip
    weights = [8, 8, 1, 1, 1, 1, 1]
    return chance.choice(["Where?", *[chance.choices(parts, weights, k=chance.randint(0, 4))] * 3])


def body(chance: random.Random) -> bytes:
    """A request: mostly right, with a few fields of other values, and now and then with other bytes."""
    roles = chance.choice([["user"]] * 5 + [["system", "user"], ["user", "assistant"], ["tool", "user"], []])
    messages = [{"role": role, "content": content(chance)} for role in roles]
    data = {"model": "m", "messages": messages, "max_tokens": 4, "stream": chance.random() < 0.3}
    data |= {chance.choice(FIELDS): chance.choice(VALUES) for _ in range(chance.choice([0, 0, 1, 2]))}
    encoded = bytearray(json.dumps(data).encode())
    if chance.random() < 0.1:
        encoded[chance.randrange(len(encoded))] = chance.randrange(256)
    return bytes(encoded)


def test_what_is_parsed_is_a_request_or_refused_by_name(generator: Generator) -> None:
    chance, seen = random.Random(6), Counter[str]()
    for _ in range(PARSED):
        sent = body(chance)
        found = taken(sent, generator)
        assert not isinstance(found, RequestError) or (400 <= found.status < 500 and str(found)), sent
        if isinstance(found, ChatRequest):
            assert found.n <= LIMITS.choices and found.max_tokens <= LIMITS.answer_tokens, sent
        seen["taken" if isinstance(found, ChatRequest) else found.param or "body"] += 1
    assert seen["taken"] > PARSED / 10
    assert {"body", "n", "temperature", "mirage", "mirage.latents_of", "nonsense"} <= set(seen)


def taken(sent: bytes, generator: Generator) -> ChatRequest | RequestError:
    """The request of a body, or why it is refused."""
    try:
        return parse_request(parse_json(sent), LIMITS, generator.decoding)
    except RequestError as error:
        return error


def test_no_request_is_an_error_of_the_server(generator: Generator) -> None:
    server = ModelServer(generator, "m", LIMITS)
    chance, seen = random.Random(5), Counter[int]()
    with TestClient(make_app(server, None, local=False)) as client:
        for _ in range(REQUESTS):
            sent = body(chance)
            reply = client.post("/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"})
            seen[reply.status_code] += 1
            if reply.headers["content-type"].startswith("text/event-stream"):
                assert reply.text.endswith("data: [DONE]\n\n"), sent
            elif reply.status_code == 200:
                assert all(isinstance(one["message"]["content"], str) for one in reply.json()["choices"])
            else:
                assert reply.json()["error"]["message"], sent
        assert client.get("/health").status_code == 200
    assert {200, 400} <= set(seen) <= {200, 400, 404}, seen
    assert seen[200] > REQUESTS / 10, seen
    assert server.waiting == 0 and server.engine.running == 0
