"""What comes over the wire: replies of an endpoint, its errors, its list of models, and requests to `mirage serve`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from pydantic import SecretStr, ValidationError

from mirage_core.config import TeacherRuntime
from mirage_core.generation.decode import DecodeSettings
from mirage_core.llm_client import client as clients
from mirage_core.llm_client.client import EndpointClient, RequestError
from mirage_core.serving.limits import ServingLimits
from mirage_core.serving.requests import parse_json, parse_request
from tests.serving.test_fuzz import body
from tests.soak.fuzz.mutate import mutated_bytes, mutated_json
from tests.soak.fuzz.target import Target

Prepared = tuple[Callable[[Random], Any], Callable[[Any], object]]
TRAJECTORY = {"output": "A<latents:2>", "token_ids": [1, 2], "spans": [{"position": 1, "num_latents": 2}]}
COMPLETION = {
    "id": "x",
    "model": "m",
    "object": "chat.completion",
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "A", "refusal": None, "trajectory": TRAJECTORY},
        }
    ],
}
SERVED = {
    "method": "stage-2",
    "latents": "on",
    "prompt": "short",
    "variant": "direct",
    "planning_rule": "mirage",
    "max_tokens": 9,
    "temperature": 0.0,
    "top_p": 1.0,
}
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x", "mirage": SERVED}]}
ERROR = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "insufficient_quota"}}
STATUSES = (300, 302, 400, 401, 403, 404, 408, 409, 418, 422, 429, 500, 503, 599)
HEADERS = (
    "",
    "0",
    "1",
    "-1",
    "nan",
    "inf",
    "1e400",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "Wed, 99 Oct",
    "\u0661",
    "x" * 400,
)


def _client() -> EndpointClient:
    return EndpointClient(TeacherRuntime(base_url="http://127.0.0.1:1/v1"), SecretStr("sk-secret"))


def _replies(_: Path) -> Prepared:
    client = _client()

    def read(data: bytes) -> object:
        reply = client._parse(data)
        if isinstance(reply, RequestError):
            assert "sk-secret" not in reply.message
            raise reply
        for text in (reply.text, reply.finish, reply.served):
            text.encode()
        return reply

    return lambda chance: mutated_json(COMPLETION, chance), read


def _models(_: Path) -> Prepared:
    return lambda chance: mutated_json(MODELS, chance), clients._ModelList.model_validate_json


def _errors(_: Path) -> Prepared:
    client = _client()

    def draw(chance: Random) -> Any:
        names = ("retry-after", "retry-after-ms", "location", "x-ratelimit-reset")
        headers = {name: chance.choice(HEADERS) for name in names if chance.random() < 0.4}
        try:
            content = json.loads(mutated_json(ERROR, chance))
        except (ValueError, RecursionError):
            content = "no JSON"
        return chance.choice(STATUSES), headers, content

    def read(case: tuple[int, dict[str, str], Any]) -> object:
        status, headers, content = case
        code = content.get("code") if isinstance(content, dict) else None
        response = SimpleNamespace(headers=headers)
        raise client._status_error(SimpleNamespace(status_code=status, response=response, body=content, code=code))

    return draw, read


def _requests(_: Path) -> Prepared:
    limits = ServingLimits(rows=4, choices=3, answer_tokens=20, prompt_tokens=200, pixels=10_000)
    default = DecodeSettings(max_new_tokens=8, num_latents=2)

    def draw(chance: Random) -> bytes:
        data = body(chance)
        way = chance.random()
        if way < 0.3:
            return mutated_bytes(data, data, chance)
        try:
            return mutated_json(json.loads(data), chance) if way < 0.8 else data
        except (ValueError, RecursionError):
            return data

    return draw, lambda data: parse_request(parse_json(data), limits, default)


WIRE_TARGETS = (
    Target("replies of an endpoint", _replies, refusal=(RequestError,)),
    Target("an endpoint's models", _models, refusal=(ValidationError,)),
    Target("an endpoint's errors", _errors, refusal=(RequestError,)),
    Target("chat requests", _requests, 5_000),
)
