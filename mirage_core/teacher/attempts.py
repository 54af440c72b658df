"""Ask a model about many problems concurrently, each until an answer is accepted or the attempts are used up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mirage_core.config import TeacherSettings
from mirage_core.errors import TeacherError
from mirage_core.llm_client.cached_client import AnswerSource
from mirage_core.llm_client.client import RefusedError
from mirage_core.llm_client.messages import Message
from mirage_core.llm_client.request import make_request
from mirage_core.llm_client.response_cache import Answer
from mirage_core.teacher.checks import Fault
from mirage_core.teacher.prompt_templates import Prompt
from mirage_core.teacher.prompts import next_messages
from mirage_core.types import Problem

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A problem and the first messages about it."""

    problem: Problem
    prompt: Prompt
    messages: tuple[Message, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A rejected answer; without text: a request that the endpoint refused."""

    attempt: int
    faults: tuple[Fault, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLog(Generic[Value]):
    """The result of one problem: a value, None where no attempt gave one, and the failed attempts."""

    problem: Problem
    value: Value | None
    failed: tuple[FailedAttempt, ...]


Judge = Callable[[Problem, Answer], "Value | list[Fault]"]
MakeQuestion = Callable[[int], Question]
OnFinished = Callable[[int, int], None]


def run(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine; of several errors at once, raise the first."""
    try:
        return asyncio.run(coroutine)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
    raise first


async def run_attempts(
    count: int,
    question_at: MakeQuestion,
    judge: Judge[Value],
    source: AnswerSource,
    settings: TeacherSettings,
    *,
    concurrency: int,
    on_finished: OnFinished,
) -> list[AttemptLog[Value]]:
    """Ask ``question_at(0)`` to ``question_at(count - 1)``, ``concurrency`` at a time; results are in that order.

    ``on_finished`` gets the number of finished problems and of those with a value. Raises TeacherError as soon as
    ``teacher.min_accepted`` can no longer be reached.
    """
    numbers = iter(range(count))
    results: dict[int, AttemptLog[Value]] = {}
    guard = _AcceptanceGuard(count, settings)

    async def worker() -> None:
        for number in numbers:
            results[number] = await ask(question_at(number), judge, source, settings)
            guard.count(results[number])
            on_finished(len(results), len(results) - guard.left_out)

    async with source, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(worker())
    return [results[number] for number in range(count)]


async def ask(
    question: Question, judge: Judge[Value], source: AnswerSource, settings: TeacherSettings
) -> AttemptLog[Value]:
    """Ask about one problem until an answer is accepted, each time with the faults of the previous answer."""
    failed: list[FailedAttempt] = []
    messages = question.messages
    for attempt in range(1, settings.attempts + 1):
        request = make_request(settings, messages)
        try:
            answer = await source.answer(request, question.problem.id, question.prompt.label, attempt)
        except RefusedError as refused:
            # The same request would be refused again, and a correction has the same images.
            failed.append(FailedAttempt(attempt, (Fault("refused", refused.message),), ""))
            break
        verdict = judge(question.problem, answer)
        if not isinstance(verdict, list):
            return AttemptLog(problem=question.problem, value=verdict, failed=tuple(failed))
        failed.append(FailedAttempt(attempt, tuple(verdict), answer.text))
        messages = next_messages(question.messages, question.prompt, answer.text, _reasons(verdict))
    return AttemptLog(problem=question.problem, value=None, failed=tuple(failed))


class _AcceptanceGuard:
    """Raises TeacherError when too many problems are left out."""

    def __init__(self, count: int, settings: TeacherSettings) -> None:
        self.left_out = 0
        self._settings = settings
        self._count = count
        self._reasons: Counter[str] = Counter()
        self._samples: list[str] = []

    def count(self, log: AttemptLog[Any]) -> None:
        if log.value is not None:
            return
        self.left_out += 1
        self._reasons.update(failed.faults[0].reason for failed in log.failed)
        self._samples.append(f"{log.problem.id}: {_reasons(log.failed[-1].faults)}")
        possible = (self._count - self.left_out) / self._count
        if possible < self._settings.min_accepted:
            raise TeacherError(
                f"{self.left_out} of {self._count} problems have no acceptable answer from {self._settings.model} "
                f"after {self._settings.attempts} attempts, so no more than {possible:.1%} can get one, and "
                f"teacher.min_accepted is {self._settings.min_accepted:.1%}. Answers by reason: "
                f"{', '.join(f'{reason} {n}' for reason, n in self._reasons.most_common())}. For example "
                f"{' | '.join(self._samples[:3])[:600]}. Look at a few with `mirage teacher try`; the answers are "
                "cached, so changed checks or a lower share cost nothing again"
            )


def _reasons(faults: Sequence[Fault]) -> str:
    return "; ".join(dict.fromkeys(fault.message for fault in faults))
