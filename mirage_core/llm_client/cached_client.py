"""Where answers come from: kept ones first, then the endpoint, at its pace and with patience; or a recording alone."""

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
from mirage_core.errors import TeacherError, TeacherUnavailable
from mirage_core.llm_client.client import Again, Endpoint, Hopeless, Refused
from mirage_core.llm_client.rate_limit import Pace
from mirage_core.llm_client.request import Request
from mirage_core.llm_client.response_cache import Answer, Answers
from mirage_core.llm_client.usage import Account

Say = Callable[[str], None]


class Source(Protocol):
    """Gives the answer to a request, as an asynchronous context; raises Refused for a request that gets none."""

    account: Account

    async def __aenter__(self) -> Source: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def answer(self, request: Request, problem: str, template: str, attempt: int) -> Answer: ...


class Replay:
    """Recorded answers and nothing else; TeacherError for a request that was not recorded."""

    def __init__(self, answers: Answers, where: str) -> None:
        self.account = Account()
        self._answers = answers
        self._where = where

    async def __aenter__(self) -> Replay:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    async def answer(self, request: Request, problem: str, template: str, attempt: int) -> Answer:
        """The recorded answer to exactly this request."""
        found = self._answers.find(request.digest)
        if found is None:
            raise TeacherError(
                f"{self._where} hold no answer to attempt {attempt} of problem {problem} (request "
                f"{request.digest[:12]}, template {template}): the problem, its pictures, the template or a teacher "
                "setting differ from when they were recorded. Record again with teacher.kind endpoint"
            )
        self.account.note(found, kept=True)
        return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request is about, for the records."""

    problem: str
    template: str
    attempt: int


class Asking:
    """Kept answers first, then an endpoint; what it answers is kept before anybody sees it.

    The first request goes alone: a wrong key, address or model costs one request. One that fails is sent again after
    a growing wait with jitter, or after what the endpoint asks for, up to ``runtime.tries`` times.
    """

    def __init__(
        self,
        runtime: TeacherRuntime,
        key: SecretStr | None,
        answers: Answers,
        say: Say,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.account = Account()
        self._runtime = runtime
        self._endpoint = Endpoint(runtime, key)
        self._answers = answers
        self._say = say
        self._sleep = sleep
        self._pace = Pace(runtime.requests_per_minute, runtime.tokens_per_minute, clock, sleep)
        self._first = asyncio.Lock()
        self._has_answered = False
        self._given_up: TeacherError | None = None
        self._jitter = random.Random()
        self._under_way: set[asyncio.Task[Answer | Again | Refused | Hopeless]] = set()
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __aenter__(self) -> Asking:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            # Something failed, or enough is known: what was already sent is still paid for, and kept.
            await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._endpoint.__aexit__(kind, problem, trace)

    async def answer(self, request: Request, problem: str, template: str, attempt: int) -> Answer:
        """The answer to a request, paid for at most once.

        Raises Refused where the endpoint answers others but not this one, TeacherError where it answers none,
        TeacherUnavailable when patience ends.
        """
        async with self._one_at_a_time[request.digest]:  # problems that are alike make the same request
            found = await asyncio.to_thread(self._answers.find, request.digest)
            if found is not None:
                self._has_answered = True
                self.account.note(found, kept=True)
                return found
            return await self._bought(request, _Asked(problem, template, attempt))

    async def _bought(self, request: Request, asked: _Asked) -> Answer:
        if not self._has_answered:
            async with self._first:
                if not self._has_answered:
                    return await self._patiently(request, asked)
        return await self._patiently(request, asked)

    async def _patiently(self, request: Request, asked: _Asked) -> Answer:
        trouble: Again | None = None
        for number in range(1, self._runtime.tries + 1):
            outcome = await self._once(request, asked)
            if isinstance(outcome, Answer):
                self._has_answered = True
                return outcome
            if isinstance(outcome, Hopeless) or (isinstance(outcome, Refused) and not self._has_answered):
                raise self._give_up(TeacherError(outcome.says))
            if isinstance(outcome, Refused):
                raise outcome
            trouble = outcome
            if number < self._runtime.tries:
                await self._wait(trouble, number, asked.problem)
        said = trouble.says if trouble else "nothing was tried"
        raise self._give_up(
            TeacherUnavailable(
                f"{said}. That was try {self._runtime.tries} for problem {asked.problem} (runtime.teacher.tries). "
                "Every answer so far is kept: run again when the endpoint is well, and only the rest is asked"
            )
        )

    async def _once(self, request: Request, asked: _Asked) -> Answer | Again | Refused | Hopeless:
        entry = await self._pace.admit(request.rough_tokens())
        if self._given_up is not None:
            raise self._given_up
        self.account.requests += 1
        sending = asyncio.create_task(self._sent_and_kept(request, asked))
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)
        outcome = await asyncio.shield(sending)
        if isinstance(outcome, Answer) and outcome.prompt_tokens is not None and outcome.completion_tokens is not None:
            self._pace.settle(entry, outcome.prompt_tokens + outcome.completion_tokens)
        return outcome

    async def _sent_and_kept(self, request: Request, asked: _Asked) -> Answer | Again | Refused | Hopeless:
        """Send a request and keep its answer, also where nobody waits for it any more: it is paid for."""
        try:
            reply = await self._endpoint.send(request)
        except (Again, Refused, Hopeless) as trouble:
            return trouble
        bought = Answer(
            request=request.digest,
            problem=asked.problem,
            template=asked.template,
            attempt=asked.attempt,
            model=request.model,
            served=reply.served,
            text=reply.text,
            finish=reply.finish,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
        )
        kept = await asyncio.to_thread(self._answers.keep, bought)
        self.account.note(kept, kept=False)
        return kept

    def _give_up(self, error: TeacherError) -> TeacherError:
        """Let no other request go: what ends one ends all."""
        self._given_up = self._given_up or error
        return self._given_up

    async def _wait(self, trouble: Again, number: int, problem: str) -> None:
        """Wait before another try: as long as the endpoint says, else longer each time."""
        growing = min(self._runtime.backoff_s * 2 ** (number - 1), self._runtime.backoff_max_s)
        seconds = trouble.wait_s if trouble.wait_s is not None else growing * self._jitter.uniform(0.5, 1.0)
        if seconds > self._runtime.retry_after_max_s:
            raise self._give_up(
                TeacherUnavailable(
                    f"{trouble.says}, and asks to wait {seconds:.0f} s, longer than runtime.teacher.retry_after_max_s "
                    f"({self._runtime.retry_after_max_s:.0f} s). Every answer so far is kept: run again later"
                )
            )
        self.account.retries += 1
        self._say(f"{trouble.says}: problem {problem} is asked again in {seconds:.1f} s (try {number})")
        if trouble.everybody:
            self._pace.hold(seconds)
        else:
            await self._sleep(seconds)
