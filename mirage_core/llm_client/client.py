"""One request to an OpenAI-compatible endpoint: what may go wrong is told apart, and the key goes nowhere else.

The key is put on a request at the last moment, and only where it goes to the endpoint's own origin; redirects are not
followed. Answers are read up to a cap, uncompressed. TLS certificates are checked; proxies (HTTP_PROXY, HTTPS_PROXY,
NO_PROXY) and certificate files (SSL_CERT_FILE) of the environment are respected, and nothing else of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from mirage_core.config import TeacherRuntime
from mirage_core.errors import SettingsError
from mirage_core.llm_client.rate_limit import retry_after
from mirage_core.llm_client.request import Request
from mirage_core.llm_client.secrets import HIDDEN, logs_without

_SENT = (
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "content-type",
    "content-length",
    "transfer-encoding",
    "user-agent",
)
_TRY_AGAIN = (408, 409, 425, 429)
_KEY_REFUSED = (401, 403)


class Trouble(Exception):
    """The endpoint gave no answer; ``says`` is free of the key."""

    def __init__(self, says: str) -> None:
        super().__init__(says)
        self.says = says


class Again(Trouble):
    """It may answer later; ``wait_s`` is what it asked for, ``everybody``: no other request should go before that."""

    def __init__(self, says: str, wait_s: float | None = None, *, everybody: bool = False) -> None:
        super().__init__(says)
        self.wait_s = wait_s
        self.everybody = everybody


class Refused(Trouble):
    """It does not want this very request."""


class Hopeless(Trouble):
    """It will not answer any request as it was asked: the key, the address, the model, the account."""


class _TooMuch(Exception):
    """More bytes than an answer may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The text of an answer, why it ends, who wrote it, and its tokens where they were told."""

    text: str
    finish: str
    served: str
    prompt_tokens: int | None
    completion_tokens: int | None


class Endpoint:
    """A client of one endpoint; use it as an asynchronous context."""

    def __init__(self, runtime: TeacherRuntime, key: SecretStr | None) -> None:
        if runtime.base_url is None:
            raise SettingsError("runtime.teacher.base_url is not set: say where the endpoint is, with http(s)://")
        self._runtime = runtime
        self._key = key
        self._origin = _origin(runtime.base_url)
        self.host = urlsplit(runtime.base_url).netloc

    async def __aenter__(self) -> Endpoint:
        import openai

        await asyncio.to_thread(_tls)  # reading the certificates takes half a second
        self._logs = logs_without(self._key.get_secret_value() if self._key else None)
        self._logs.__enter__()
        limits = self._runtime
        timeout = openai.Timeout(limits.timeout_s, connect=limits.connect_timeout_s)
        self._http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,
            timeout=timeout,
            verify=_tls(),
            event_hooks={"request": [self._prepare], "response": [self._guard]},
        )
        # The client has no key and no retries of its own: both are ours. What else it takes from the environment
        # (organisation, project, extra headers) is dropped again in _prepare.
        self._client = openai.AsyncOpenAI(
            api_key="unused", base_url=limits.base_url, timeout=timeout, max_retries=0, http_client=self._http
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
        self._logs.__exit__(kind, problem, trace)

    async def send(self, request: Request) -> Reply:
        """Send one request; raises Again, Refused or Hopeless, none of which holds the client's own exceptions."""
        # Raised outside the except clauses: the client's exceptions carry the request, and the request the key.
        outcome = await self._outcome(request)
        if isinstance(outcome, Trouble):
            raise outcome
        return outcome

    async def _outcome(self, request: Request) -> Reply | Trouble:
        import httpx2
        import openai

        at = f"the endpoint {self.host}"
        try:
            async with asyncio.timeout(self._runtime.timeout_s):
                # Read by our own rules (_Completion): the client's own reading takes whatever comes for an answer.
                raw = await self._client.post("/chat/completions", body=request.body(), cast_to=httpx2.Response)
            return self._read(raw.content)
        except (TimeoutError, openai.APITimeoutError):
            return Again(f"{at} gave no whole answer within {self._runtime.timeout_s:g} s")
        except _TooMuch:
            return Hopeless(
                f"{at} sends more than {self._runtime.max_answer_bytes} bytes (or compressed ones) for an answer, "
                "which was not read on: is it a chat endpoint? The cap is runtime.teacher.max_answer_bytes"
            )
        except openai.APIStatusError as error:
            return self._status(error)
        except openai.APIConnectionError as error:
            return self._connection(error)

    async def _prepare(self, request: Any) -> None:
        """Send only what belongs to the request, and the key only to the endpoint's own origin."""
        for name in [name for name in request.headers if name.lower() not in _SENT]:
            del request.headers[name]
        request.headers["accept-encoding"] = "identity"
        if self._key is not None and _origin(str(request.url)) == self._origin:
            request.headers["authorization"] = f"Bearer {self._key.get_secret_value()}"

    async def _guard(self, response: Any) -> None:
        """Cap what is read of a response; a compressed one could grow without bound and was not asked for."""
        cap = self._runtime.max_answer_bytes
        length = response.headers.get("content-length", "")
        encoded = response.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        if encoded or (length.isdigit() and int(length) > cap):
            raise _TooMuch
        response.stream = _capped(response.stream, cap)

    def _read(self, body: bytes) -> Reply | Again:
        completion = _completion(body)
        if isinstance(completion, str):
            return Again(
                f"the endpoint {self.host} answered with something else than a chat completion ({completion}): "
                f"{self._shown(body.decode('utf-8', 'replace'))!r}"
            )
        choice = completion.choices[0]
        refusal = choice.message.refusal
        usage = completion.usage or _Usage()
        return Reply(
            text=self._clean(choice.message.content or refusal or ""),
            finish="refusal" if refusal and not choice.message.content else self._clean(choice.finish_reason or "stop"),
            served=self._clean(completion.model or ""),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )

    def _status(self, problem: Any) -> Trouble:
        status, headers = int(problem.status_code), problem.response.headers
        said = self._shown(_message(problem.body)) or "no message"
        at = f"the endpoint {self.host}"
        runtime = self._runtime
        if 300 <= status < 400:
            elsewhere = self._shown(urlsplit(headers.get("location", "")).netloc) or "another path"
            return Hopeless(
                f"{at} redirects to {elsewhere} ({status}), which is not followed, since the key would go there: set "
                "runtime.teacher.base_url to the address that answers"
            )
        if status in _KEY_REFUSED:
            key = f"the block {runtime.api_key_block}" if runtime.api_key_block else f"${runtime.api_key_variable}"
            sent = f"the key of {key}" if self._key else f"a request without a key (none in {key})"
            return Hopeless(f"{at} refused {sent} ({status}): {said}. Set the right key where the stage runs")
        if status == 404:
            return Hopeless(
                f"{at} knows no such model or path (404): {said}. Check teacher.model, and that "
                "runtime.teacher.base_url ends as the endpoint wants it (often /v1)"
            )
        if status == 429 and "insufficient_quota" in _message(problem.body) + str(problem.code):
            return Hopeless(f"{at} says that the account has no credit (429): {said}. The answers so far are kept")
        if status in _TRY_AGAIN or status >= 500:
            wait = retry_after(headers)
            return Again(f"{at} answered {status}: {said}", wait, everybody=status == 429 or wait is not None)
        return Refused(f"{at} refused the request ({status}): {said}")

    def _connection(self, problem: Any) -> Trouble:
        causes = list(_causes(problem))
        said = self._shown("; ".join(f"{type(cause).__name__}: {cause}" for cause in causes[1:3]))
        at = f"the endpoint {self.host}"
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return Hopeless(f"the certificate of {at} is not trusted ({said}): add its authority to SSL_CERT_FILE")
        return Again(f"the connection to {at} failed ({said})")

    def _clean(self, text: str) -> str:
        """Text that UTF-8 can hold and that does not hold the key, whatever an endpoint echoes."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return text.replace(self._key.get_secret_value(), HIDDEN) if self._key else text

    def _shown(self, text: str) -> str:
        """A short piece of the endpoint's own words, on one line."""
        return re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e\s\u00a0-\uffff]", "", self._clean(text))).strip()[:300]


class _Message(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)


class _Completion(BaseModel):
    """What of a chat completion is used; anything else in it does not matter."""

    model_config = ConfigDict(hide_input_in_errors=True)
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None


def _completion(body: bytes) -> _Completion | str:
    """A response's body as a completion, or what is wrong with it."""
    try:
        return _Completion.model_validate(json.loads(body))
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        return f"{'.'.join(str(part) for part in fault['loc']) or 'it'}: {fault['msg']}"
    except (ValueError, RecursionError):
        return "not JSON"


async def _read_up_to(stream: Any, cap: int) -> AsyncIterator[bytes]:
    read = 0
    async for chunk in stream:
        read += len(chunk)
        if read > cap:
            raise _TooMuch
        yield chunk


def _capped(stream: Any, cap: int) -> Any:
    """The stream of a response, of the client's own stream type, that ends with _TooMuch after ``cap`` bytes."""
    import httpx2

    class Capped(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in _read_up_to(stream, cap):
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Capped()


@cache
def _tls() -> ssl.SSLContext:
    """How certificates are checked: against the usual authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    import httpx2

    return httpx2.create_ssl_context()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _message(body: Any) -> str:
    """The endpoint's own words in an error's body."""
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if isinstance(body.get(name), str):
                return f"{body[name]} {body.get('code') or ''}".strip()
            if isinstance(body.get(name), dict):
                return _message(body[name])
    return str(body or "")


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
