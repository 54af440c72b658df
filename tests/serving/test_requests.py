"""What a request may ask, and what is refused by name."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from flows.commands.serve import read_key
from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings
from mirage_core.serving.app import check_host
from mirage_core.serving.limits import RequestError, ServingLimits
from mirage_core.serving.requests import parse_json, parse_request

LIMITS = ServingLimits(pictures=2, pixels=100, answer_tokens=50, choices=4)
DEFAULT = DecodeSettings(max_new_tokens=30, num_latents=4, temperature=0.5, top_p=0.9)


def picture(width: int = 4) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 4)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def body(*content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": list(content) or "Where?"}]
    return {"model": "m", "messages": messages, **fields}


def test_fields_left_out_are_the_models_own() -> None:
    found = parse_request(body(image(picture()), {"type": "text", "text": "Where?"}), LIMITS, DEFAULT)
    assert (found.max_tokens, found.temperature, found.top_p, found.n) == (30, 0.5, 0.9, 1)
    assert found.messages[0] == {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}
    assert len(found.images) == 1 and not found.stream and found.seed is None


def test_fields_that_change_nothing_are_taken() -> None:
    neutral = {"user": "x", "frequency_penalty": 0.0, "tools": [], "response_format": {"type": "text"}, "seed": None}
    assert parse_request(body(**neutral, max_completion_tokens=5, stop="a"), LIMITS, DEFAULT).stop == ("a",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": True}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"best_of": 2}, "best_of"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"max_tokens": 51}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": 1e-300}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 5}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"chunk": 3}}, "stream_options.chunk"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_request(body(**fields), LIMITS, DEFAULT)
    assert refused.value.status == 400
    assert refused.value.param is not None and refused.value.param.startswith(param)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([image("http://169.254.169.254/latest")], "fetches no URL"),
        ([image("file:///etc/passwd")], "fetches no URL"),
        ([image("data:text/plain;base64,AAAA")], "fetches no URL"),
        ([image("data:image/png;base64,AA*A")], "messages.0.content.0"),
        ([image("data:image/png;base64,AAAA")], "cannot be decoded"),
        ([image(picture(26))], "at most 100 pixels"),
        ([image(picture())] * 3, "at most 2"),
    ],
)
def test_pictures_are_small_data_uris(content: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        parse_request(body(*content), LIMITS, DEFAULT)
    assert refused.value.param


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": "\\ud800"}', b"[1, 2" + b"9" * 5000 + b"]"]
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON") as refused:
        parse_json(data)
    json.dumps(str(refused.value), ensure_ascii=False).encode()


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(RequestError, match="JSON object"):
        parse_request([1], LIMITS, DEFAULT)


def test_others_reach_a_server_only_with_a_key() -> None:
    with pytest.raises(SettingsError, match="--api-key-file"):
        check_host("0.0.0.0", None)
    check_host("0.0.0.0", SecretStr("k"))
    check_host("localhost", None)


def test_a_key_is_given_once_and_is_not_empty(tmp_path: Any) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "none").write_text("\n")
    key = read_key(None, tmp_path / "key")
    assert key is not None and key.get_secret_value() == "secret" and "secret" not in repr(key)
    assert read_key(None, None) is None
    with pytest.raises(InputError, match="one of them"):
        read_key("a", tmp_path / "key")
    with pytest.raises(InputError, match="empty"):
        read_key(None, tmp_path / "none")
