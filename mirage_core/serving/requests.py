"""The body of a chat completion request, checked: what this server honours, and nothing dropped without a word."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from mirage_core.errors import DataError
from mirage_core.generation.decode import DecodeSettings
from mirage_core.image_files import read_header
from mirage_core.latent.examples import ChatMessage
from mirage_core.serving.limits import RequestError, ServingLimits

_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")
_NO_EFFECT = ("user", "safety_identifier", "metadata", "prompt_cache_key")
"""Fields that say nothing about the answer."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Values of fields that ask for what this server does anyway; any other value is refused."""

_MIN_TEMPERATURE = 0.001
"""Below it scores may overflow."""

Number = StrictFloat | StrictInt


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ImageUrl(_Strict):
    url: StrictStr
    detail: Literal["auto", "low", "high"] | None = None


class _TextPart(_Strict):
    type: Literal["text"]
    text: StrictStr


class _ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: StrictStr | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]]
    name: None = None


class _StreamOptions(_Strict):
    include_usage: StrictBool = False


class _OtherPicture(_Strict):
    image_url: _ImageUrl


class _Extension(_Strict):
    """What this server can tell and do that OpenAI's interface has no field for."""

    film: StrictBool = False
    spans: StrictBool = False
    latents_of: _OtherPicture | None = None


class _Body(_Strict):
    model: StrictStr
    messages: list[_Message] = Field(min_length=1)
    max_tokens: StrictInt | None = Field(None, ge=1)
    max_completion_tokens: StrictInt | None = Field(None, ge=1)
    temperature: Number | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: Number | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    n: StrictInt | None = Field(None, ge=1)
    seed: StrictInt | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StrictStr | list[StrictStr] | None = None
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: StrictBool | None = None
    trajectory: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(None, ge=0, le=20)
    mirage: _Extension = _Extension()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request for ``n`` answers to a conversation. ``seed`` None: any. ``images``: in the order of the messages.

    ``trajectory``: with all of each answer as predictions record it (an extension).
    ``film``: tell what each latent imagines; ``spans``: tell where latents are; ``latents_of``: a picture that stands
    in for the one of the messages while latents are computed, which are then fed in place of the answer's own.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    images: tuple[bytes, ...]
    max_tokens: int
    temperature: float
    top_p: float
    n: int
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    trajectory: bool
    top_logprobs: int
    film: bool
    spans: bool
    latents_of: bytes | None


def parse_json(body: bytes) -> Any:
    """Decode a JSON body. RequestError for what is none, or holds what is no text."""
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\u" in body:  # halves of surrogate pairs are JSON, but no text
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {type(error).__name__}: {str(error)[:200]!a}") from error
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def parse_request(data: Any, limits: ServingLimits, default: DecodeSettings) -> ChatRequest:
    """Check a decoded JSON body; fields that are left out are as ``default`` says.

    RequestError, which names the field, for what cannot be honoured.
    """
    if not isinstance(data, dict):
        raise RequestError(f"got a body that is a {type(data).__name__}, expected a JSON object")
    _refuse_unknown(data)
    known = {name: value for name, value in data.items() if name in _Body.model_fields and value is not None}
    try:
        body = _Body.model_validate(known)
    except ValidationError as error:
        raise invalid(error) from error
    messages, images = _conversation(body.messages, limits)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options is for streams: set stream to true", param="stream_options")
    if body.trajectory and (body.stream or body.stop):
        raise RequestError("a trajectory is of a whole answer: leave out stream and stop", param="trajectory")
    temperature = float(default.temperature if body.temperature is None else body.temperature)
    if 0 < temperature < _MIN_TEMPERATURE:
        raise RequestError(
            f"got temperature {temperature}, expected 0 (greedy) or {_MIN_TEMPERATURE} to 2", param="temperature"
        )
    return ChatRequest(
        model=body.model,
        messages=messages,
        images=images,
        max_tokens=_max_tokens(body, limits, default),
        temperature=temperature,
        top_p=float(default.top_p if body.top_p is None else body.top_p),
        n=_choices(body.n or 1, limits, temperature),
        seed=body.seed,
        stop=_stop(body.stop),
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        logprobs=bool(body.logprobs),
        trajectory=bool(body.trajectory),
        top_logprobs=_top_logprobs(body),
        film=body.mirage.film,
        spans=body.mirage.spans,
        latents_of=_latents_of(body.mirage, images, limits),
    )


def _refuse_unknown(data: Mapping[str, Any]) -> None:
    """RequestError for a field that this server cannot honour."""
    for name, value in data.items():
        if name in _Body.model_fields or name in _NO_EFFECT or value is None:
            continue
        if name not in _NEUTRAL:
            raise RequestError(f"the field {name} is not supported: leave it out", param=name)
        if not any(
            value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in _NEUTRAL[name]
        ):
            raise RequestError(
                f"got {name} {str(value)[:100]!r}, which is not supported, expected "
                f"{' or '.join(map(repr, _NEUTRAL[name]))}: leave it out",
                param=name,
            )


def invalid(error: ValidationError) -> RequestError:
    """Return the first fault that pydantic found."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return RequestError(f"{where}: {first['msg']}", param=where)


def _max_tokens(body: _Body, limits: ServingLimits, default: DecodeSettings) -> int:
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        raise RequestError(
            f"got max_tokens {body.max_tokens} and max_completion_tokens {body.max_completion_tokens}: give one",
            param="max_tokens",
        )
    wanted = int(next(iter(given), None) or min(default.max_new_tokens, limits.answer_tokens))
    if wanted > limits.answer_tokens:
        raise RequestError(
            f"got max_tokens {wanted}, expected at most {limits.answer_tokens} (--max-answer-tokens)",
            param="max_tokens",
        )
    return wanted


def _choices(n: int, limits: ServingLimits, temperature: float) -> int:
    if n > limits.choices:
        raise RequestError(f"got n {n}, expected at most {limits.choices} (--max-choices)", param="n")
    if n > 1 and temperature == 0:
        raise RequestError(f"{n} answers at temperature 0 are all the same: set a temperature above 0", param="n")
    return n


def _top_logprobs(body: _Body) -> int:
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs are told beside log-probabilities: set logprobs to true", param="top_logprobs")
    return body.top_logprobs or 0


def _latents_of(extension: _Extension, images: Sequence[bytes], limits: ServingLimits) -> bytes | None:
    """The picture whose latents are asked for; it stands in for the only one of the messages."""
    if extension.latents_of is None:
        return None
    where = "mirage.latents_of"
    if len(images) != 1:
        raise RequestError(
            f"{where}: got {len(images)} pictures in the messages, expected the one that this picture stands in for",
            param=where,
        )
    return read_picture(extension.latents_of.image_url.url, limits, where)


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    words = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(words) > 4 or not all(0 < len(word) <= 256 for word in words):
        raise RequestError("stop takes up to 4 texts of 1 to 256 characters", param="stop")
    return words


def _conversation(
    messages: Sequence[_Message], limits: ServingLimits
) -> tuple[tuple[ChatMessage, ...], tuple[bytes, ...]]:
    """Messages as the encoder takes them, and their pictures."""
    if messages[-1].role != "user":
        raise RequestError(f"the last message is the {messages[-1].role}'s, expected the user's", param="messages")
    chat: list[ChatMessage] = []
    images: list[bytes] = []
    for number, message in enumerate(messages):
        parts = [_TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        content: list[dict[str, str]] = []
        for place, part in enumerate(parts):
            where = f"messages.{number}.content.{place}"
            if isinstance(part, _TextPart):
                content += [{"type": "text", "text": part.text}] if part.text else []
                continue
            if message.role != "user" or len(images) == limits.pictures:
                raise RequestError(
                    f"{where}: pictures are the user's, and at most {limits.pictures} (--max-pictures)", param=where
                )
            images.append(read_picture(part.image_url.url, limits, where))
            content.append({"type": "image"})
        chat.append({"role": message.role, "content": content})
    return tuple(chat), tuple(images)


def read_picture(url: str, limits: ServingLimits, where: str) -> bytes:
    """Return the bytes of a data URI. RequestError for other URLs, and for pictures that are broken or too large."""
    match = _DATA_URI.match(url[:100])
    if match is None:
        raise RequestError(
            f"{where}: got {url[:40]!r}, expected data:image/png;base64,...: this server fetches no URL and no file",
            param=where,
        )
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
        read_header(data, where, limits.pixels)
    except (binascii.Error, ValueError, DataError) as error:
        raise RequestError(f"{where}: {error}", param=where) from error
    return data
