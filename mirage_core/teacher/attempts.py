"""Asking a model about many problems at once: each until its answer is accepted, or its attempts are used up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mirage_core.config import TeacherSettings
from mirage_core.errors import TeacherError
from mirage_core.llm_client.cached_client import Source
from mirage_core.llm_client.client import Refused
from mirage_core.llm_client.messages import Message, next_messages
from mirage_core.llm_client.prompt_templates import Prompt
from mirage_core.llm_client.request import make_request
from mirage_core.llm_client.response_cache import Answer
from mirage_core.teacher.checks import Fault
from mirage_core.types import Problem

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked about one problem."""

    problem: Problem
    prompt: Prompt
    messages: tuple[Message, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that was not accepted; without text, a request that the endpoint refused."""

    attempt: int
    faults: tuple[Fault, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interview(Generic[Value]):
    """What came of one problem: a value, or None where no attempt gave one, and the attempts that failed."""

    problem: Problem
    value: Value | None
    failed: tuple[Failed, ...]


Judge = Callable[[Problem, Answer], "Value | list[Fault]"]
MakeAsk = Callable[[int], Ask]
Done = Callable[[int, int], None]


def run(work: Coroutine[Any, Any, Value]) -> Value:
    """Run asynchronous work to its end; of several errors at once, the first is raised."""
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
    raise first


async def interview_all(
    count: int,
    ask: MakeAsk,
    judge: Judge[Value],
    source: Source,
    settings: TeacherSettings,
    *,
    concurrency: int,
    done: Done,
) -> list[Interview[Value]]:
    """Interview about ``ask(0)`` to ``ask(count - 1)``, some at a time; the results are in that order.

    ``done`` is told after each how many are finished and how many have a value. Raises TeacherError as soon as
    ``teacher.min_accepted`` can no longer be reached.
    """
    numbers = iter(range(count))
    results: dict[int, Interview[Value]] = {}
    guard = _Guard(count, settings)

    async def worker() -> None:
        for number in numbers:
            results[number] = await interview(ask(number), judge, source, settings)
            guard.note(results[number])
            done(len(results), len(results) - guard.left_out)

    async with source, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(worker())
    return [results[number] for number in range(count)]


async def interview(ask: Ask, judge: Judge[Value], source: Source, settings: TeacherSettings) -> Interview[Value]:
    """Ask about one problem, each time saying what was wrong with the answer before."""
    failed: list[Failed] = []
    messages = ask.messages
    for attempt in range(1, settings.attempts + 1):
        request = make_request(settings, messages)
        try:
            answer = await source.answer(request, ask.problem.id, ask.prompt.label, attempt)
        except Refused as refused:
            # The same request would be refused again, and a re-ask holds the same pictures.
            failed.append(Failed(attempt, (Fault("refused", refused.says),), ""))
            break
        verdict = judge(ask.problem, answer)
        if not isinstance(verdict, list):
            return Interview(problem=ask.problem, value=verdict, failed=tuple(failed))
        failed.append(Failed(attempt, tuple(verdict), answer.text))
        messages = next_messages(ask.messages, ask.prompt, answer.text, _reasons(verdict))
    return Interview(problem=ask.problem, value=None, failed=tuple(failed))


class _Guard:
    """Stops the work when too many problems are left out to be worth going on."""

    def __init__(self, count: int, settings: TeacherSettings) -> None:
        self.left_out = 0
        self._settings = settings
        self._count = count
        self._reasons: Counter[str] = Counter()
        self._shown: list[str] = []

    def note(self, interview: Interview[Any]) -> None:
        if interview.value is not None:
            return
        self.left_out += 1
        self._reasons.update(failed.faults[0].reason for failed in interview.failed)
        self._shown.append(f"{interview.problem.id}: {_reasons(interview.failed[-1].faults)}")
        possible = (self._count - self.left_out) / self._count
        if possible < self._settings.min_accepted:
            raise TeacherError(
                f"{self.left_out} of {self._count} problems have no acceptable answer from {self._settings.model} "
                f"after {self._settings.attempts} attempts, so no more than {possible:.1%} can get one, and "
                f"teacher.min_accepted is {self._settings.min_accepted:.1%}. Answers by reason: "
                f"{', '.join(f'{reason} {n}' for reason, n in self._reasons.most_common())}. For example "
                f"{' | '.join(self._shown[:3])[:600]}. Look at a few with `mirage teacher try`; the answers are kept, "
                "so changed checks or a lower share cost nothing anew"
            )


def _reasons(faults: Sequence[Fault]) -> str:
    return "; ".join(_distinct(fault.says for fault in faults))


def _distinct(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(texts))
