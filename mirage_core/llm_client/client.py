"""One request to an OpenAI-compatible endpoint, with errors by what can be done about them.

The key is added to a request last, and only if it goes to the endpoint's own origin; redirects are not followed.
Responses are uncompressed and limited in size. TLS certificates are checked. Of the environment only proxies
(HTTP_PROXY, HTTPS_PROXY, NO_PROXY) and certificate files (SSL_CERT_FILE) are used.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from mirage_core.config import TeacherRuntime
from mirage_core.errors import SettingsError
from mirage_core.llm_client.rate_limit import retry_after
from mirage_core.llm_client.request import Request
from mirage_core.llm_client.secrets import REDACTED, redact_logs
from mirage_core.llm_client.served_model import ServedModel, ServedTrajectory

_HEADERS = (
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "content-type",
    "content-length",
    "transfer-encoding",
    "user-agent",
)
_RETRYABLE = (408, 409, 425, 429)
_UNAUTHORIZED = (401, 403)
Outcome = TypeVar("Outcome")


class RequestError(Exception):
    """The endpoint gave no answer; ``message`` never contains the key."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RetryableError(RequestError):
    """It may answer later; ``wait_s``: the wait it asked for; ``all_requests``: other requests should wait too."""

    def __init__(self, message: str, wait_s: float | None = None, *, all_requests: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.all_requests = all_requests


class RefusedError(RequestError):
    """It refuses this request; others may succeed."""


class FatalError(RequestError):
    """It answers no request as configured: wrong key, address or model, or no credit."""


class _TooLarge(Exception):
    """A response exceeds the size limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The text of an answer, why it ends, the model that wrote it, and its tokens where they were reported.

    ``trajectory``: all of the answer of a model of this project, where it was asked for.
    """

    text: str
    finish: str
    served: str
    prompt_tokens: int | None
    completion_tokens: int | None
    trajectory: ServedTrajectory | None = None


class ListedModel(BaseModel):
    """A model that an endpoint lists; ``mirage``: how it is to be asked, if it is one of this project's."""

    model_config = ConfigDict(hide_input_in_errors=True)
    id: str
    created: int = 0
    mirage: ServedModel | None = None


class _ModelList(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    data: list[ListedModel]


class EndpointClient:
    """A client of one endpoint; use it as an asynchronous context."""

    def __init__(self, runtime: TeacherRuntime, key: SecretStr | None) -> None:
        if runtime.base_url is None:
            raise SettingsError(
                "runtime.teacher.base_url is not set: set it to the address of the endpoint, with http(s)://"
            )
        self._runtime = runtime
        self._key = key
        self._origin = _origin(runtime.base_url)
        self.host = urlsplit(runtime.base_url).netloc

    async def __aenter__(self) -> EndpointClient:
        import openai

        await asyncio.to_thread(_tls)  # reading the certificates takes half a second
        self._logs = redact_logs(self._key.get_secret_value() if self._key else None)
        self._logs.__enter__()
        runtime = self._runtime
        timeout = openai.Timeout(runtime.timeout_s, connect=runtime.connect_timeout_s)
        self._http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,
            timeout=timeout,
            verify=_tls(),
            event_hooks={"request": [self._clean_request], "response": [self._limit_response]},
        )
        # The library gets no key and does not retry: both are done here. What it takes from the environment
        # (organisation, project, extra headers) is removed in _clean_request.
        self._client = openai.AsyncOpenAI(
            api_key="unused", base_url=runtime.base_url, timeout=timeout, max_retries=0, http_client=self._http
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
        self._logs.__exit__(kind, error, trace)

    async def send(self, request: Request) -> Reply:
        """Send one request; raises RetryableError, RefusedError or FatalError, without a cause or context."""
        import httpx2

        async def send() -> Reply | RequestError:
            # Parsed by _Completion: the library does not validate responses.
            raw = await self._client.post("/chat/completions", body=request.body(), cast_to=httpx2.Response)
            return self._parse(raw.content)

        return await self._checked(send)

    async def models(self) -> list[ListedModel]:
        """The models that the endpoint lists; raises as ``send``."""
        import httpx2

        async def ask() -> list[ListedModel] | RequestError:
            raw = await self._client.get("/models", cast_to=httpx2.Response)
            try:
                return _ModelList.model_validate_json(raw.content).data
            except ValidationError as error:
                return RefusedError(f"{self.host} lists its models in another form: {error.error_count()} faults")

        return await self._checked(ask)

    async def _checked(self, ask: Callable[[], Awaitable[Outcome | RequestError]]) -> Outcome:
        # Raised outside the except clauses: the library's exceptions hold the request, and the request the key.
        outcome = await self._outcome(ask)
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    async def _outcome(self, ask: Callable[[], Awaitable[Outcome | RequestError]]) -> Outcome | RequestError:
        import openai

        endpoint = f"the endpoint {self.host}"
        try:
            async with asyncio.timeout(self._runtime.timeout_s):
                return await ask()
        except (TimeoutError, openai.APITimeoutError):
            return RetryableError(f"{endpoint} gave no complete answer within {self._runtime.timeout_s:g} s")
        except _TooLarge:
            return FatalError(
                f"{endpoint} sends more than {self._runtime.max_answer_bytes} bytes (or compressed ones) for an "
                "answer, so reading was stopped: is it a chat endpoint? The limit is runtime.teacher.max_answer_bytes"
            )
        except openai.APIStatusError as error:
            return self._status_error(error)
        except openai.APIConnectionError as error:
            return self._connection_error(error)

    async def _clean_request(self, request: Any) -> None:
        """Remove foreign headers, and add the key if the request goes to the endpoint's own origin."""
        for name in [name for name in request.headers if name.lower() not in _HEADERS]:
            del request.headers[name]
        request.headers["accept-encoding"] = "identity"
        if self._key is not None and _origin(str(request.url)) == self._origin:
            request.headers["authorization"] = f"Bearer {self._key.get_secret_value()}"

    async def _limit_response(self, response: Any) -> None:
        """Limit the size of a response; compressed ones are refused, since they could expand without bound."""
        limit = self._runtime.max_answer_bytes
        length = response.headers.get("content-length", "")
        encoded = response.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        if encoded or (length.isdigit() and int(length) > limit):
            raise _TooLarge
        response.stream = _limited(response.stream, limit)

    def _parse(self, body: bytes) -> Reply | RetryableError:
        completion = _completion(body)
        if isinstance(completion, str):
            return RetryableError(
                f"the endpoint {self.host} answered with something other than a chat completion ({completion}): "
                f"{self._excerpt(body.decode('utf-8', 'replace'))!r}"
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
            trajectory=self._cleaned(choice.message.trajectory),
        )

    def _status_error(self, error: Any) -> RequestError:
        status, headers = int(error.status_code), error.response.headers
        message = self._excerpt(_message(error.body)) or "no message"
        endpoint = f"the endpoint {self.host}"
        runtime = self._runtime
        if 300 <= status < 400:
            target = self._excerpt(urlsplit(headers.get("location", "")).netloc) or "another path"
            return FatalError(
                f"{endpoint} redirects to {target} ({status}), which is not followed, since the key would go there: "
                "set runtime.teacher.base_url to the final address"
            )
        if status in _UNAUTHORIZED:
            key = f"the block {runtime.api_key_block}" if runtime.api_key_block else f"${runtime.api_key_variable}"
            credentials = f"the key of {key}" if self._key else f"a request without a key (none in {key})"
            return FatalError(
                f"{endpoint} refused {credentials} ({status}): {message}. Set the right key where the stage runs"
            )
        if status == 404:
            return FatalError(
                f"{endpoint} has no such model or path (404): {message}. Check teacher.model, and that "
                "runtime.teacher.base_url ends as the endpoint expects (often /v1)"
            )
        if status == 429 and "insufficient_quota" in _message(error.body) + str(error.code):
            return FatalError(
                f"{endpoint} reports no credit in the account (429): {message}. The answers so far are saved"
            )
        if status in _RETRYABLE or status >= 500:
            wait = retry_after(headers)
            return RetryableError(
                f"{endpoint} answered {status}: {message}", wait, all_requests=status == 429 or wait is not None
            )
        return RefusedError(f"{endpoint} refused the request ({status}): {message}")

    def _connection_error(self, error: Any) -> RequestError:
        causes = list(_causes(error))
        message = self._excerpt("; ".join(f"{type(cause).__name__}: {cause}" for cause in causes[1:3]))
        endpoint = f"the endpoint {self.host}"
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return FatalError(
                f"the certificate of {endpoint} is not trusted ({message}): add its authority to SSL_CERT_FILE"
            )
        return RetryableError(f"the connection to {endpoint} failed ({message})")

    def _clean(self, text: str) -> str:
        """Return valid UTF-8 text with the key redacted, in case an endpoint echoes it."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return text.replace(self._key.get_secret_value(), REDACTED) if self._key else text

    def _cleaned(self, trajectory: ServedTrajectory | None) -> ServedTrajectory | None:
        return trajectory and trajectory.model_copy(update={"output": self._clean(trajectory.output)})

    def _excerpt(self, text: str) -> str:
        """Return a short excerpt of the endpoint's text, on one line."""
        return re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e\s\u00a0-\uffff]", "", self._clean(text))).strip()[:300]


class _Message(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    content: str | None = None
    refusal: str | None = None
    trajectory: ServedTrajectory | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)


class _Completion(BaseModel):
    """The used fields of a chat completion; others are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None


def _completion(body: bytes) -> _Completion | str:
    """Parse a response's body; returns the completion, or a description of the error."""
    try:
        return _Completion.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'it'}: {first['msg']}"
    except (ValueError, RecursionError):
        return "not JSON"


async def _read_up_to(stream: Any, limit: int) -> AsyncIterator[bytes]:
    read = 0
    async for chunk in stream:
        read += len(chunk)
        if read > limit:
            raise _TooLarge
        yield chunk


def _limited(stream: Any, limit: int) -> Any:
    """Return a response stream, of the library's type, that raises _TooLarge after ``limit`` bytes."""
    import httpx2

    class Limited(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in _read_up_to(stream, limit):
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Limited()


@cache
def _tls() -> ssl.SSLContext:
    """Return the TLS context: the usual authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    import httpx2

    return httpx2.create_ssl_context()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _message(body: Any) -> str:
    """Return the endpoint's message in an error's body."""
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if isinstance(body.get(name), str):
                return f"{body[name]} {body.get('code') or ''}".strip()
            if isinstance(body.get(name), dict):
                return _message(body[name])
    return str(body or "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
