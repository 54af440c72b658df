"""The endpoint teacher: chains written by a model that is shown the question, the answer and the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from mirage_core.config import TeacherRuntime, TeacherSettings
from mirage_core.llm_client.cached_client import Say, Source
from mirage_core.llm_client.messages import first_messages
from mirage_core.llm_client.prompt_templates import Prompt, load_prompt
from mirage_core.llm_client.response_cache import Answer
from mirage_core.teacher.attempts import Ask, Interview, interview_all, run
from mirage_core.teacher.checks import Fault, asked_faults, faults_of
from mirage_core.teacher.protocol import Lesson, Taught
from mirage_core.types import (
    AuxiliaryImage,
    Problem,
    Progress,
    ProgressEvent,
    ReasoningChain,
    Rejection,
    TrainingExample,
    Variant,
)

PLACE = "<output_image>"
_ENDS = {
    "length": Fault("cut", "the answer was cut at the longest length allowed: write less"),
    "content_filter": Fault("refused", "the endpoint's filter took the answer away"),
    "refusal": Fault("refused", "the model refused to answer"),
}


def ending_fault(answer: Answer) -> Fault | None:
    """What is wrong with an answer as a whole: cut, refused, or empty."""
    if answer.finish in _ENDS:
        return _ENDS[answer.finish]
    return None if answer.text.strip() else Fault("empty", "the answer has no text")


def read_chain(
    answer: Answer, problem: Problem, settings: TeacherSettings, variant: Variant, teacher: str
) -> ReasoningChain | list[Fault]:
    """The chain of an answer, or everything that is wrong with it."""
    fault = ending_fault(answer)
    if fault:
        return [fault]
    before, *rest = answer.text.split(PLACE)
    if len(rest) != 1:
        return [Fault("place", f"expected {PLACE} exactly once, got it {len(rest)} times")]
    chain = ReasoningChain(
        problem_id=problem.id,
        variant=variant,
        text_before=before.strip(),
        text_after=rest[0].strip(),
        teacher=teacher,
    )
    return [*faults_of(chain, problem), *asked_faults(chain, problem, settings)] or chain


class EndpointTeacher:
    """A model behind an OpenAI-compatible API, or recorded answers of one; ``source`` opens where answers come from."""

    def __init__(self, settings: TeacherSettings, runtime: TeacherRuntime, source: Callable[[Say], Source]) -> None:
        self.name = teacher_name(settings)
        self._settings = settings
        self._runtime = runtime
        self._source = source
        self._prompt = cache(lambda variant, benchmark: load_prompt(settings.template, variant, benchmark))

    def open_source(self, say: Say) -> Source:
        """Where this teacher's answers come from, for questions other than chains."""
        return self._source(say)

    def chain(self, problem: Problem, auxiliary_image: AuxiliaryImage, variant: Variant) -> ReasoningChain:
        """The chain of one problem; TeacherError when no attempt gave an acceptable one."""
        return self.teach([(problem, auxiliary_image)], variant, _quiet, least=1.0).examples[0].chain

    def teach(
        self, lessons: Sequence[Lesson], variant: Variant, progress: Progress, *, least: float | None = None
    ) -> Taught:
        """Chains for all problems but those left out; raises as ``interview_all`` does.

        ``least`` replaces ``teacher.min_accepted``.
        """
        settings = self._settings if least is None else self._settings.model_copy(update={"min_accepted": least})
        source = self._source(lambda said: progress(ProgressEvent(stage="examples", message=said)))
        prompts = {problem.benchmark: self._prompt(variant, problem.benchmark) for problem, _ in lessons}

        def ask(number: int) -> Ask:
            problem, picture = lessons[number]
            prompt: Prompt = prompts[problem.benchmark]
            return Ask(problem=problem, prompt=prompt, messages=first_messages(prompt, problem, picture, variant))

        def judge(problem: Problem, answer: Answer) -> ReasoningChain | list[Fault]:
            return read_chain(answer, problem, settings, variant, self.name)

        def done(finished: int, accepted: int) -> None:
            figures = {"accepted": float(accepted), "requests": float(source.account.requests)}
            progress(
                ProgressEvent(stage="examples", message=self.name, step=finished, total=len(lessons), metrics=figures)
            )

        told: list[Interview[ReasoningChain]] = run(
            interview_all(len(lessons), ask, judge, source, settings, concurrency=self._runtime.concurrency, done=done)
        )
        rejections = [rejection for interview in told for rejection in rejections_of(interview, variant, self.name)]
        examples = [
            TrainingExample(problem=problem, auxiliary_image=picture, chain=interview.value)
            for (problem, picture), interview in zip(lessons, told, strict=True)
            if interview.value is not None
        ]
        account = {
            "model": self._settings.model,
            "revision": self._settings.revision,
            **source.account.lasting(),
            "templates": sorted(prompt.label for prompt in prompts.values()),
        }
        return Taught(
            examples=examples, rejections=rejections, account=account, passing=source.account.passing(self._runtime)
        )


def teacher_name(settings: TeacherSettings) -> str:
    """Who is named in every chain: the model, with its revision where one is set."""
    return f"{settings.model}@{settings.revision}" if settings.revision else str(settings.model)


def rejections_of(interview: Interview[Any], variant: Variant, teacher: str) -> Iterator[Rejection]:
    """The attempts of a problem that failed, as records; the last one left the problem out where none succeeded."""
    problem = interview.problem
    for number, failed in enumerate(interview.failed, start=1):
        yield Rejection(
            problem_id=problem.id,
            benchmark=problem.benchmark,
            split=problem.split,
            group=problem.group,
            variant=variant,
            teacher=teacher,
            attempt=failed.attempt,
            reason=failed.faults[0].reason,
            faults="; ".join(dict.fromkeys(fault.says for fault in failed.faults)),
            answer=failed.text,
            left_out=interview.value is None and number == len(interview.failed),
        )


def _quiet(event: ProgressEvent) -> None:
    """Nobody listens."""
