"""The endpoint teacher: chains written by a model that gets the question, the answer and the auxiliary image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from mirage_core.config import TeacherRuntime, TeacherSettings
from mirage_core.llm_client.cached_client import AnswerSource, Log
from mirage_core.llm_client.response_cache import Answer
from mirage_core.teacher.attempts import AttemptLog, Question, run, run_attempts
from mirage_core.teacher.checks import Fault, faults_of, leakage_faults
from mirage_core.teacher.prompt_templates import Prompt, load_prompt
from mirage_core.teacher.prompts import first_messages
from mirage_core.teacher.protocol import ProblemWithImage, TeachResult
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

IMAGE_MARK = "<output_image>"
_FINISH_FAULTS = {
    "length": Fault("cut", "the answer was cut at the longest length allowed: write less"),
    "content_filter": Fault("refused", "the endpoint's filter took the answer away"),
    "refusal": Fault("refused", "the model refused to answer"),
}


def ending_fault(answer: Answer) -> Fault | None:
    """Return the fault of an answer that was cut, refused, or is empty."""
    if answer.finish in _FINISH_FAULTS:
        return _FINISH_FAULTS[answer.finish]
    return None if answer.text.strip() else Fault("empty", "the answer has no text")


def read_chain(
    answer: Answer, problem: Problem, settings: TeacherSettings, variant: Variant, teacher: str
) -> ReasoningChain | list[Fault]:
    """Parse the chain of an answer; returns the chain, or all its faults."""
    fault = ending_fault(answer)
    if fault:
        return [fault]
    before, *rest = answer.text.split(IMAGE_MARK)
    if len(rest) != 1:
        return [Fault("place", f"expected {IMAGE_MARK} exactly once, got it {len(rest)} times")]
    chain = ReasoningChain(
        problem_id=problem.id,
        variant=variant,
        text_before=before.strip(),
        text_after=rest[0].strip(),
        teacher=teacher,
    )
    return [*faults_of(chain, problem), *leakage_faults(chain, problem, settings)] or chain


class EndpointTeacher:
    """A model behind an OpenAI-compatible API, or its recorded answers; ``source`` opens a source of answers."""

    def __init__(
        self, settings: TeacherSettings, runtime: TeacherRuntime, source: Callable[[Log], AnswerSource]
    ) -> None:
        self.name = teacher_name(settings)
        self._settings = settings
        self._runtime = runtime
        self._source = source
        self._prompt = cache(lambda variant, benchmark: load_prompt(settings.template, variant, benchmark))

    def open_source(self, log: Log) -> AnswerSource:
        """Return a source of this teacher's answers, for questions other than chains."""
        return self._source(log)

    def chain(self, problem: Problem, auxiliary_image: AuxiliaryImage, variant: Variant) -> ReasoningChain:
        """Write the chain of one problem; TeacherError when no attempt gave an acceptable one."""
        return self.teach([(problem, auxiliary_image)], variant, _quiet, min_accepted=1.0).examples[0].chain

    def teach(
        self,
        problems: Sequence[ProblemWithImage],
        variant: Variant,
        progress: Progress,
        *,
        min_accepted: float | None = None,
    ) -> TeachResult:
        """Write the chains of all problems; raises as ``run_attempts`` does.

        ``min_accepted`` overrides ``teacher.min_accepted``.
        """
        settings = self._settings.model_copy(update={} if min_accepted is None else {"min_accepted": min_accepted})
        source = self._source(lambda text: progress(ProgressEvent(stage="examples", message=text)))
        prompts = {problem.benchmark: self._prompt(variant, problem.benchmark) for problem, _ in problems}

        def question_at(number: int) -> Question:
            problem, image = problems[number]
            prompt: Prompt = prompts[problem.benchmark]
            return Question(problem=problem, prompt=prompt, messages=first_messages(prompt, problem, image, variant))

        def judge(problem: Problem, answer: Answer) -> ReasoningChain | list[Fault]:
            return read_chain(answer, problem, settings, variant, self.name)

        def on_finished(finished: int, accepted: int) -> None:
            metrics = {"accepted": float(accepted), "requests": float(source.usage.requests)}
            progress(
                ProgressEvent(stage="examples", message=self.name, step=finished, total=len(problems), metrics=metrics)
            )

        logs: list[AttemptLog[ReasoningChain]] = run(
            run_attempts(
                len(problems),
                question_at,
                judge,
                source,
                settings,
                concurrency=self._runtime.concurrency,
                on_finished=on_finished,
            )
        )
        return TeachResult(
            examples=[
                TrainingExample(problem=problem, auxiliary_image=image, chain=log.value)
                for (problem, image), log in zip(problems, logs, strict=True)
                if log.value is not None
            ],
            rejections=[rejection for log in logs for rejection in rejection_records(log, variant, self.name)],
            usage=self._usage(source, prompts.values()),
            this_run=source.usage.this_run(self._runtime),
        )

    def _usage(self, source: AnswerSource, prompts: Iterable[Prompt]) -> dict[str, Any]:
        return {
            "model": self._settings.model,
            "revision": self._settings.revision,
            **source.usage.deterministic(),
            "templates": sorted(prompt.label for prompt in prompts),
        }


def teacher_name(settings: TeacherSettings) -> str:
    """Return the source stored in every chain: the model, with its revision where one is set."""
    return f"{settings.model}@{settings.revision}" if settings.revision else str(settings.model)


def rejection_records(log: AttemptLog[Any], variant: Variant, teacher: str) -> Iterator[Rejection]:
    """Yield records of a problem's failed attempts; ``left_out`` marks the last one where none succeeded."""
    problem = log.problem
    for number, failed in enumerate(log.failed, start=1):
        yield Rejection(
            problem_id=problem.id,
            benchmark=problem.benchmark,
            split=problem.split,
            group=problem.group,
            variant=variant,
            teacher=teacher,
            attempt=failed.attempt,
            reason=failed.faults[0].reason,
            faults="; ".join(dict.fromkeys(fault.message for fault in failed.faults)),
            answer=failed.text,
            left_out=log.value is None and number == len(log.failed),
        )


def _quiet(event: ProgressEvent) -> None:
    """Ignore progress."""
