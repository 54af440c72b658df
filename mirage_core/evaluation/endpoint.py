"""A model behind an OpenAI-compatible endpoint, evaluated like any other: the same prompts, scorers and tables.

Requests go through the teachers' client: its pace, its patience, and its ledger, so that no answer is paid for twice
and an evaluation that was cut short goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mirage_core import benchmarks
from mirage_core.benchmarks.judge import judge
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.config import EvaluationSettings, TeacherRuntime, TeacherSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.evaluation.summary import metrics_of
from mirage_core.llm_client.cached_client import Source
from mirage_core.llm_client.client import Refused
from mirage_core.llm_client.messages import IMAGE, Message, data_url
from mirage_core.llm_client.request import Request, make_request
from mirage_core.llm_client.response_cache import Answer
from mirage_core.store import Store
from mirage_core.teacher.attempts import run
from mirage_core.teacher.teacher import source_of
from mirage_core.types import Prediction, Problem, Progress, ProgressEvent, Scored, Variant

Form = Literal["official", "benchmark", "short"]
_REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A hosted model and how it is asked.

    ``form`` official: the benchmark's own prompt to the last word, where it has one; benchmark, short: the prompts of
    our own models, with the ending of ``variant``. ``seed`` is sent, plus the number of the sample; None: not sent.
    """

    model: str
    form: Form
    variant: Variant
    evaluation: EvaluationSettings
    seed: int | None = 42
    revision: str | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def request(self, problem: Problem, sample: int) -> Request:
        """Exactly what is sent for one sample of a problem."""
        settings = TeacherSettings(
            kind="endpoint",
            variant="cot",
            model=self.model,
            revision=self.revision,
            temperature=min(2.0, self.evaluation.temperature),
            top_p=self.evaluation.top_p if self.evaluation.top_p < 1 else None,
            seed=None if self.seed is None else self.seed + sample,
            max_tokens=self.evaluation.max_new_tokens,
            max_tokens_field=self.max_tokens_field,
        )
        return make_request(settings, question_messages(problem, self.form, self.variant))


@dataclass(frozen=True, slots=True)
class HostedAnswers:
    """The judged answers in the problems' order, the metrics, and what the answers cost."""

    scored: list[Scored]
    metrics: dict[str, Any]


def evaluate_endpoint(
    hosted: Hosted, problems: Sequence[Problem], runtime: TeacherRuntime, store: Store, progress: Progress
) -> HostedAnswers:
    """Ask about every problem, judge, and count; answers that the endpoint refuses or cuts are judged as they are.

    Raises:
        DataError: there are no problems.
        SettingsError: no endpoint is set, or several samples would be one answer many times.
        TeacherError: the endpoint answers nothing (the key, the model); TeacherUnavailable: it may later.
    """
    _check(hosted, problems)
    chosen = TeacherSettings(kind="endpoint", variant="cot", model=hosted.model)

    def say(said: str) -> None:
        progress(ProgressEvent(stage="evaluation", message=said))

    source = source_of(chosen, runtime, store)(say)
    answers = run(_answers(hosted, problems, source, runtime.concurrency, _told(progress, hosted, problems)))
    scored = [
        (prediction, judge(problem, prediction, hosted.evaluation.planning_rule))
        for problem, samples in zip(problems, answers, strict=True)
        for sample, answer in enumerate(samples)
        for prediction in [_prediction(hosted, problem, sample, answer)]
    ]
    endings = Counter(answer.finish if answer else _REFUSED for samples in answers for answer in samples)
    account = {**source.account.lasting(), **source.account.passing(runtime)}
    told = {
        "prompt": hosted.form,
        "variant": hosted.variant,
        "endings": dict(sorted(endings.items())),
        "served": sorted({answer.served for samples in answers for answer in samples if answer}),
        "account": account,
    }
    return HostedAnswers(scored, {**metrics_of(scored, method=hosted.model, latents="off"), **told})


def question_messages(problem: Problem, form: Form, variant: Variant) -> tuple[Message, ...]:
    """The problem as one chat message, its pictures where they stand; DataError when marks and pictures disagree."""
    pieces = re.split(f"({IMAGE})", question_of(problem, form, variant))
    if pieces.count(IMAGE) != len(problem.images):
        raise DataError(
            f"{problem.id}: its prompt has {pieces.count(IMAGE)} times {IMAGE} for {len(problem.images)} pictures"
        )
    pictures = iter(problem.images)
    parts: list[Message] = []
    for piece in pieces:
        if piece == IMAGE:
            parts.append({"type": "image_url", "image_url": {"url": data_url(next(pictures), problem.id)}})
        elif piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return ({"role": "user", "content": parts},)


def question_of(problem: Problem, form: Form, variant: Variant) -> str:
    """What is asked, with one ``<image>`` a picture; SettingsError where a benchmark has no official prompt."""
    if form == "official":
        if "official" not in problem.facts:
            raise SettingsError(f"{problem.benchmark} has no official prompt beside its own: use --prompt benchmark")
        return str(problem.facts["official"])
    asked: PromptForm = form
    return benchmarks.get(problem.benchmark).prompt(problem, asked, variant)


def _check(hosted: Hosted, problems: Sequence[Problem]) -> None:
    if not problems:
        raise DataError("nothing to evaluate: got no problems, expected at least one; look at the split and the file")
    if hosted.evaluation.samples > 1 and (hosted.evaluation.temperature == 0 or hosted.seed is None):
        raise SettingsError(
            f"evaluation.samples is {hosted.evaluation.samples}, which needs evaluation.temperature above 0 and a "
            "teacher.seed: the same request is answered once"
        )


def _told(progress: Progress, hosted: Hosted, problems: Sequence[Problem]) -> Callable[[int], None]:
    """Tell how many of all problems are answered."""

    def done(finished: int) -> None:
        progress(ProgressEvent(stage="evaluation", message=hosted.model, step=finished, total=len(problems)))

    return done


async def _answers(
    hosted: Hosted, problems: Sequence[Problem], source: Source, concurrency: int, done: Callable[[int], None]
) -> list[list[Answer | None]]:
    """The samples of every problem, in order, some problems at a time; None for what the endpoint refuses."""
    numbers = iter(range(len(problems)))
    found: dict[int, list[Answer | None]] = {}

    async def worker() -> None:
        for number in numbers:
            samples = range(hosted.evaluation.samples)
            found[number] = [await _answer(hosted, problems[number], sample, source) for sample in samples]
            done(len(found))

    async with source, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(problems))):
            group.create_task(worker())
    return [found[number] for number in range(len(problems))]


async def _answer(hosted: Hosted, problem: Problem, sample: int, source: Source) -> Answer | None:
    try:
        return await source.answer(hosted.request(problem, sample), problem.id, f"evaluation/{hosted.form}", 1)
    except Refused:
        return None


def _prediction(hosted: Hosted, problem: Problem, sample: int, answer: Answer | None) -> Prediction:
    return Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method=hosted.model,
        output=answer.text if answer else "",
        token_ids=(),
        spans=(),
        finished=answer is None or answer.finish != "length",
        sample=sample,
    )
