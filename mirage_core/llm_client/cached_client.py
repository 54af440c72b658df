"""Answers to requests: from the response cache or else from the endpoint, with retries; or from a recording only."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from pydantic import SecretStr

from mirage_core.config import TeacherRuntime
from mirage_core.errors import EndpointError, EndpointUnavailable
from mirage_core.llm_client.client import EndpointClient, FatalError, RefusedError, RetryableError
from mirage_core.llm_client.rate_limit import RateLimiter
from mirage_core.llm_client.request import Request
from mirage_core.llm_client.response_cache import Answer, ResponseCache
from mirage_core.llm_client.usage import Usage

Failure = RetryableError | RefusedError | FatalError
Log = Callable[[str], None]
"""Receives messages about retries and the like."""


class AnswerSource(Protocol):
    """Answers requests, as an asynchronous context; raises RefusedError for a request that gets no answer."""

    usage: Usage

    async def __aenter__(self) -> AnswerSource: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def answer(self, request: Request, problem: str, template: str, attempt: int) -> Answer: ...


class RecordedAnswers:
    """Answers from a recording only; EndpointError for a request that was not recorded."""

    def __init__(self, answers: ResponseCache, description: str) -> None:
        self.usage = Usage()
        self._answers = answers
        self._description = description

    async def __aenter__(self) -> RecordedAnswers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: nothing is open."""

    async def answer(self, request: Request, problem: str, template: str, attempt: int) -> Answer:
        """Return the recorded answer to exactly this request."""
        answer = self._answers.find(request.digest)
        if answer is None:
            raise EndpointError(
                f"{self._description} hold no answer to attempt {attempt} of problem {problem} (request "
                f"{request.digest[:12]}, template {template}): the problem, its images, the template or a setting of "
                "the model differ from the recorded ones. Record again with teacher.kind endpoint"
            )
        self.usage.count(answer, cached=True)
        return answer


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a request is about; saved with its answer."""

    problem: str
    template: str
    attempt: int


class CachedClient:
    """Answers from the response cache or else from an endpoint, whose answers are cached before they are returned.

    The first request is sent alone: a wrong key, address or model costs one request. A failed request is sent again
    after an exponential wait with jitter, or after the wait that the endpoint asks for, up to ``runtime.tries`` times.
    """

    def __init__(
        self,
        runtime: TeacherRuntime,
        key: SecretStr | None,
        answers: ResponseCache,
        log: Log,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.usage = Usage()
        self._runtime = runtime
        self._endpoint = EndpointClient(runtime, key)
        self._answers = answers
        self._log = log
        self._sleep = sleep
        self._limiter = RateLimiter(runtime.requests_per_minute, runtime.tokens_per_minute, clock, sleep)
        self._first = asyncio.Lock()
        self._has_answered = False
        self._fatal: EndpointError | None = None
        self._jitter = random.Random()
        self._under_way: set[asyncio.Task[Answer | Failure]] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __aenter__(self) -> CachedClient:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            # Requests that were sent are paid for: wait for their answers and cache them.
            await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._endpoint.__aexit__(kind, error, trace)

    async def answer(self, request: Request, problem: str, template: str, attempt: int) -> Answer:
        """Return the answer to a request, which is paid for at most once.

        Raises RefusedError where the endpoint answers other requests but not this one, EndpointError where it answers
        none, EndpointUnavailable after ``runtime.tries`` failures.
        """
        async with self._locks[request.digest]:  # similar problems may make the same request
            cached = await asyncio.to_thread(self._answers.find, request.digest)
            if cached is not None:
                self._has_answered = True
                self.usage.count(cached, cached=True)
                return cached
            origin = _Origin(problem, template, attempt)
            if not self._has_answered:
                async with self._first:
                    if not self._has_answered:
                        return await self._send_with_retries(request, origin)
            return await self._send_with_retries(request, origin)

    async def _send_with_retries(self, request: Request, origin: _Origin) -> Answer:
        message = "nothing was tried"
        for number in range(1, self._runtime.tries + 1):
            outcome = await self._send_once(request, origin)
            if isinstance(outcome, Answer):
                self._has_answered = True
                return outcome
            if isinstance(outcome, FatalError) or (isinstance(outcome, RefusedError) and not self._has_answered):
                raise self._fail_all(EndpointError(outcome.message))
            if isinstance(outcome, RefusedError):
                raise outcome
            message = outcome.message
            if number < self._runtime.tries:
                await self._wait(outcome, number, origin.problem)
        raise self._fail_all(
            EndpointUnavailable(
                f"{message}. That was try {self._runtime.tries} for problem {origin.problem} (runtime.teacher.tries). "
                "Every answer so far is saved: run again when the endpoint works, and only the rest is asked"
            )
        )

    async def _send_once(
        self, request: Request, origin: _Origin
    ) -> Answer | RetryableError | RefusedError | FatalError:
        entry = await self._limiter.acquire(request.rough_tokens())
        if self._fatal is not None:
            raise self._fatal
        self.usage.requests += 1
        sending = asyncio.create_task(self._send_and_cache(request, origin))
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)
        outcome = await asyncio.shield(sending)
        if isinstance(outcome, Answer) and outcome.prompt_tokens is not None and outcome.completion_tokens is not None:
            self._limiter.correct(entry, outcome.prompt_tokens + outcome.completion_tokens)
        return outcome

    async def _send_and_cache(self, request: Request, origin: _Origin) -> Answer | Failure:
        """Send a request and cache its answer, even if its caller was cancelled: the answer is paid for."""
        try:
            reply = await self._endpoint.send(request)
        except (RetryableError, RefusedError, FatalError) as error:
            return error
        answer = Answer(
            request=request.digest,
            problem=origin.problem,
            template=origin.template,
            attempt=origin.attempt,
            model=request.model,
            served=reply.served,
            text=reply.text,
            finish=reply.finish,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            trajectory=reply.trajectory,
        )
        saved = await asyncio.to_thread(self._answers.save, answer)
        self.usage.count(saved, cached=False)
        return saved

    def _fail_all(self, error: EndpointError) -> EndpointError:
        """Make every later request fail with the first such error; returns that error."""
        self._fatal = self._fatal or error
        return self._fatal

    async def _wait(self, error: RetryableError, number: int, problem: str) -> None:
        """Wait before the next try: as long as the endpoint asks for, else exponentially longer each time."""
        backoff = min(self._runtime.backoff_s * 2 ** (number - 1), self._runtime.backoff_max_s)
        seconds = error.wait_s if error.wait_s is not None else backoff * self._jitter.uniform(0.5, 1.0)
        if seconds > self._runtime.retry_after_max_s:
            raise self._fail_all(
                EndpointUnavailable(
                    f"{error.message}, and asks to wait {seconds:.0f} s, longer than runtime.teacher.retry_after_max_s "
                    f"({self._runtime.retry_after_max_s:.0f} s). Every answer so far is saved: run again later"
                )
            )
        self.usage.retries += 1
        self._log(f"{error.message}: problem {problem} is asked again in {seconds:.1f} s (try {number})")
        if error.all_requests:
            self._limiter.pause(seconds)
        else:
            await self._sleep(seconds)
