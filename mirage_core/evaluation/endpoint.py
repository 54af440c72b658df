"""Evaluate a model behind an OpenAI-compatible endpoint with the same prompts, scorers and tables as any other.

Requests go through the teachers' client, with its rate limit, retries and response cache: no answer is paid for twice,
and an interrupted evaluation resumes where it stopped.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image

from mirage_core import benchmarks
from mirage_core.benchmarks.judge import judge
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.config import EvaluationSettings, TeacherRuntime, TeacherSettings
from mirage_core.errors import DataError, EndpointError, EndpointUnavailable, SettingsError
from mirage_core.evaluation.summary import metrics_of
from mirage_core.image_files import displayed_size
from mirage_core.llm_client.cached_client import AnswerSource
from mirage_core.llm_client.client import EndpointClient, FatalError, ListedModel, RefusedError, RetryableError
from mirage_core.llm_client.messages import IMAGE, Message, image_part, text_part
from mirage_core.llm_client.request import Request, make_request
from mirage_core.llm_client.response_cache import Answer
from mirage_core.llm_client.secrets import read_api_key
from mirage_core.llm_client.served_model import ServedModel
from mirage_core.store import Store
from mirage_core.teacher.attempts import run
from mirage_core.teacher.teacher import source_factory
from mirage_core.types import LatentSpan, Prediction, Problem, Progress, ProgressEvent, Scored, Variant

Form = Literal["official", "benchmark", "short"]
BLANK_SUFFIX = "-blank"
"""Follows a method's name where it saw grey pictures."""
_REFUSED = "refused"
_GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedModel:
    """A hosted model and how it is prompted.

    ``form`` official: the benchmark's own prompt, verbatim, if it has one; benchmark, short: the prompts of our own
    models, with the ending of ``variant``. ``seed`` plus the number of the sample is sent; None: not sent. ``served``:
    it is a model of this project behind ``mirage serve``, which gets the words as it was trained on them, and tells all
    of its answers, tokens and latents. ``blank``: every picture is a grey one of its size.
    """

    model: str
    form: Form
    variant: Variant
    evaluation: EvaluationSettings
    seed: int | None = 42
    revision: str | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    served: ServedModel | None = None
    blank: bool = False

    @property
    def method(self) -> str:
        """The label of its predictions."""
        return (self.served.method if self.served else self.model) + (BLANK_SUFFIX if self.blank else "")

    def request(self, problem: Problem, sample: int) -> Request:
        """The request for one sample of a problem."""
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
        if self.blank:
            problem = replace(problem, images=tuple(_grey(image, problem.id) for image in problem.images))
        messages = question_messages(problem, self.form, self.variant, verbatim=self.served is not None)
        request = make_request(settings, messages)
        return replace(request, options={**request.options, "trajectory": True}) if self.served else request


@dataclass(frozen=True, slots=True)
class HostedResult:
    """The scored answers in the problems' order, and the metrics with the usage of the endpoint."""

    scored: list[Scored]
    metrics: dict[str, Any]


def evaluate_endpoint(
    hosted: HostedModel, problems: Sequence[Problem], runtime: TeacherRuntime, store: Store, progress: Progress
) -> HostedResult:
    """Send, judge and count every problem; refused answers count as empty, truncated ones as they are.

    Raises:
        DataError: there are no problems.
        SettingsError: no endpoint is set, or all samples would be the same answer.
        EndpointError: the endpoint answers no request (the key, the model); EndpointUnavailable: it may later.
    """
    _check(hosted, problems)
    settings = TeacherSettings(kind="endpoint", variant="cot", model=hosted.model)

    def log(message: str) -> None:
        progress(ProgressEvent(stage="evaluation", message=message))

    def on_answered(count: int) -> None:
        progress(ProgressEvent(stage="evaluation", message=hosted.model, step=count, total=len(problems)))

    source = source_factory(settings, runtime, store)(log)
    answers = run(_answers(hosted, problems, source, runtime.concurrency, on_answered))
    scored = [
        (prediction, judge(problem, prediction, hosted.evaluation.planning_rule))
        for problem, samples in zip(problems, answers, strict=True)
        for sample, answer in enumerate(samples)
        for prediction in [_prediction(hosted, problem, sample, answer)]
    ]
    endings = Counter(answer.finish if answer else _REFUSED for samples in answers for answer in samples)
    usage = {**source.usage.deterministic(), **source.usage.this_run(runtime)}
    extra = {
        "prompt": hosted.form,
        "variant": hosted.variant,
        "endings": dict(sorted(endings.items())),
        "served": sorted({answer.served for samples in answers for answer in samples if answer}),
        "account": usage,
    }
    latents = hosted.served.latents if hosted.served else "off"
    return HostedResult(scored, {**metrics_of(scored, method=hosted.method, latents=latents), **extra})


def listed_model(runtime: TeacherRuntime, name: str | None) -> ListedModel | None:
    """The model of this name that the endpoint lists, or (None) the only one; None where it lists no such one.

    Raises:
        EndpointError: without ``name``, it lists no models, or several.
        EndpointUnavailable: it does not answer.
    """

    async def ask() -> list[ListedModel]:
        async with EndpointClient(runtime, read_api_key(runtime)) as client:
            return await client.models()

    try:
        models = run(ask())
    except RetryableError as error:
        raise EndpointUnavailable(f"{error.message}. Is it running?") from None
    except (RefusedError, FatalError) as error:
        if name is None:
            raise EndpointError(f"{error.message} (asked for its models, since --model does not name one)") from None
        return None
    if name is None and len(models) != 1:
        names = ", ".join(model.id for model in models) or "none"
        raise EndpointError(f"the endpoint has the models {names}; expected one: choose with --model")
    return next((model for model in models if name in (None, model.id)), None)


def question_messages(problem: Problem, form: Form, variant: Variant, *, verbatim: bool = False) -> tuple[Message, ...]:
    """The problem as one chat message, with images in place of their marks; DataError if the numbers differ.

    ``verbatim``: the words as our models were trained on them, with the line breaks around an image.
    """
    pieces = re.split(f"({IMAGE})", question_of(problem, form, variant))
    if pieces.count(IMAGE) != len(problem.images):
        raise DataError(
            f"{problem.id}: its prompt has {pieces.count(IMAGE)} times {IMAGE} for {len(problem.images)} images"
        )
    images = iter(problem.images)
    parts: list[Message] = []
    for piece in pieces:
        if piece == IMAGE:
            parts.append(image_part(next(images), problem.id))
        elif words := piece if verbatim else piece.strip():
            parts.append(text_part(words))
    return ({"role": "user", "content": parts},)


def question_of(problem: Problem, form: Form, variant: Variant) -> str:
    """The prompt, with one ``<image>`` an image; SettingsError if a benchmark has no official prompt."""
    if form == "official":
        official = benchmarks.get(problem.benchmark).official_prompt
        if "official" not in problem.facts and official is None:
            raise SettingsError(f"{problem.benchmark} has no official prompt besides its own: use --prompt benchmark")
        return official(problem) if official else str(problem.facts["official"])
    own_form: PromptForm = form
    return benchmarks.get(problem.benchmark).prompt(problem, own_form, variant)


def _grey(data: bytes, problem_id: str) -> bytes:
    """A picture of one colour, as large as this one is shown."""
    buffer = io.BytesIO()
    Image.new("RGB", displayed_size(data, f"an image of problem {problem_id}"), _GREY).save(buffer, "PNG")
    return buffer.getvalue()


def _check(hosted: HostedModel, problems: Sequence[Problem]) -> None:
    if not problems:
        raise DataError("nothing to evaluate: got no problems, expected at least one; look at the split and the file")
    if hosted.evaluation.samples > 1 and (hosted.evaluation.temperature == 0 or hosted.seed is None):
        raise SettingsError(
            f"evaluation.samples is {hosted.evaluation.samples}, which needs evaluation.temperature above 0 and a "
            "teacher.seed: the same request is answered once"
        )


async def _answers(
    hosted: HostedModel,
    problems: Sequence[Problem],
    source: AnswerSource,
    concurrency: int,
    on_answered: Callable[[int], None],
) -> list[list[Answer | None]]:
    """The samples of every problem, in order, ``concurrency`` problems at a time; None: refused by the endpoint."""
    numbers = iter(range(len(problems)))
    answers: dict[int, list[Answer | None]] = {}

    async def worker() -> None:
        for number in numbers:
            samples = range(hosted.evaluation.samples)
            answers[number] = [await _answer(hosted, problems[number], sample, source) for sample in samples]
            on_answered(len(answers))

    async with source, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(problems))):
            group.create_task(worker())
    return [answers[number] for number in range(len(problems))]


async def _answer(hosted: HostedModel, problem: Problem, sample: int, source: AnswerSource) -> Answer | None:
    try:
        return await source.answer(hosted.request(problem, sample), problem.id, f"evaluation/{hosted.form}", 1)
    except RefusedError:
        return None


def _prediction(hosted: HostedModel, problem: Problem, sample: int, answer: Answer | None) -> Prediction:
    trajectory = answer.trajectory if answer else None
    spans = trajectory.spans if trajectory else ()
    return Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method=hosted.method,
        output=trajectory.output if trajectory else answer.text if answer else "",
        token_ids=trajectory.token_ids if trajectory else (),
        spans=tuple(LatentSpan(position=span.position, num_latents=span.num_latents) for span in spans),
        finished=answer is None or answer.finish != "length",
        sample=sample,
    )
