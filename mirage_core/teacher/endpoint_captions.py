"""CapImagine's captions by an endpoint, in three rounds: caption the image, polish the chain, judge it.

The prompts of the paper (arXiv 2602.22766) are not published: those used here are template files with a version
(``caption``, ``polish``, ``judge``), part of the data's identity. Answers are cached like those for chains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.config import Settings
from mirage_core.errors import TeacherError
from mirage_core.llm_client.messages import Message
from mirage_core.llm_client.response_cache import Answer
from mirage_core.store import Store
from mirage_core.teacher.attempts import AttemptLog, Question, run, run_attempts
from mirage_core.teacher.captions import caption_faults, rejection_of, with_caption
from mirage_core.teacher.checks import Fault
from mirage_core.teacher.endpoint import EndpointTeacher, ending_fault
from mirage_core.teacher.prompt_templates import Prompt, load_prompt
from mirage_core.teacher.prompts import first_messages, text_messages
from mirage_core.teacher.protocol import TeachResult
from mirage_core.teacher.teacher import make_teacher
from mirage_core.types import Problem, Progress, ProgressEvent, ReasoningChain, Rejection, TrainingExample

Value = TypeVar("Value")
ROUNDS = ("caption", "polish", "judge")
_IMAGINED = re.compile(r"(.*?)<imagined>(.*?)</imagined>(.*)", re.DOTALL)
_VERDICT = re.compile(r"^\s*(conflict|ambiguous)\s*:\s*(yes|no)\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on a chain, and its text."""

    conflict: bool
    ambiguous: bool
    text: str


def captions_by_endpoint(
    examples: Sequence[TrainingExample], settings: Settings, store: Store, progress: Progress
) -> TeachResult:
    """Caption the examples, in their order; returns rejections and the tokens of all rounds too.

    Raises what an endpoint raises, and TeacherError when fewer than ``teacher.min_accepted`` get a caption.
    """
    teacher = make_teacher(settings.teacher, settings.runtime.teacher, store)
    if not isinstance(teacher, EndpointTeacher):
        raise TeacherError(f"teacher.kind {settings.teacher.kind!r} cannot be asked for captions")
    rounds = _Rounds(teacher, settings, progress)
    rejections: dict[str, Rejection] = {}
    accepted = _caption(rounds, examples, rejections)
    if settings.captions.polish and settings.teacher.variant == "cot":
        accepted = _polish(rounds, accepted, rejections)
    accepted = _check(accepted, settings, teacher.name, rejections)
    if settings.captions.judge:
        accepted = _judge(rounds, accepted, teacher.name, rejections)
    order = [example.problem.id for example in examples]
    return TeachResult(
        examples=accepted,
        rejections=[rejections[name] for name in order if name in rejections],
        usage={"tokens": dict(sorted(rounds.tokens.items()))},
    )


def _caption(
    rounds: _Rounds, examples: Sequence[TrainingExample], rejections: dict[str, Rejection]
) -> list[TrainingExample]:
    """Run the first round: a caption of each image."""
    by_id = {example.problem.id: example for example in examples}

    def messages(example: TrainingExample, prompt: Prompt) -> tuple[Message, ...]:
        return first_messages(prompt, example.problem, example.auxiliary_image, example.chain.variant)

    def judge(problem: Problem, answer: Answer) -> str | list[Fault]:
        fault = ending_fault(answer)
        if fault:
            return [fault]
        caption = " ".join(answer.text.split())
        return caption_faults(with_caption(by_id[problem.id], caption), rounds.settings.captions) or caption

    logs = rounds.run("caption", examples, messages, judge)
    _reject_failed(logs, by_id, rounds.teacher.name, rejections)
    return [with_caption(by_id[log.problem.id], log.value) for log in logs if log.value is not None]


def _polish(
    rounds: _Rounds, examples: Sequence[TrainingExample], rejections: dict[str, Rejection]
) -> list[TrainingExample]:
    """Run the second round: rewrite each chain so that its parts fit together."""
    by_id = {example.problem.id: example for example in examples}

    def messages(example: TrainingExample, prompt: Prompt) -> tuple[Message, ...]:
        chain = example.chain
        text = f"{chain.text_before}\n<imagined>{chain.caption}</imagined>\n{chain.text_after}"
        return text_messages(prompt, text, example.problem.answer)

    def judge(problem: Problem, answer: Answer) -> ReasoningChain | list[Fault]:
        chain = read_polished(answer, by_id[problem.id].chain)
        if isinstance(chain, list):
            return chain
        return caption_faults(replace(by_id[problem.id], chain=chain), rounds.settings.captions) or chain

    logs = rounds.run("polish", examples, messages, judge)
    _reject_failed(logs, by_id, rounds.teacher.name, rejections)
    return [replace(by_id[log.problem.id], chain=log.value) for log in logs if log.value is not None]


def read_polished(answer: Answer, before: ReasoningChain) -> ReasoningChain | list[Fault]:
    """Parse a polished chain: thought, <imagined>caption</imagined>, thought, box; returns its faults otherwise."""
    fault = ending_fault(answer)
    if fault:
        return [fault]
    match = _IMAGINED.fullmatch(answer.text.strip())
    if match is None or "<imagined>" in match.group(3):
        return [Fault("place", "expected <imagined>...</imagined> exactly once, between the two thoughts")]
    first, caption, second = (" ".join(part.split()) for part in match.groups())
    return replace(before, text_before=first, caption=caption, text_after=second)


def _check(
    examples: Sequence[TrainingExample], settings: Settings, writer: str, rejections: dict[str, Rejection]
) -> list[TrainingExample]:
    accepted = []
    for example in examples:
        faults = caption_faults(example, settings.captions)
        if faults:
            rejections[example.problem.id] = rejection_of(example, faults, writer)
        else:
            accepted.append(example)
    return accepted


def _judge(
    rounds: _Rounds, examples: Sequence[TrainingExample], writer: str, rejections: dict[str, Rejection]
) -> list[TrainingExample]:
    """Run the third round: leave out chains that conflict with their answer or are ambiguous."""
    by_id = {example.problem.id: example for example in examples}

    def messages(example: TrainingExample, prompt: Prompt) -> tuple[Message, ...]:
        chain = example.chain
        solution = f"{_question_text(example.problem)}\n\n# The solution\n{chain.text_before}\n{chain.caption}\n"
        return text_messages(prompt, solution + chain.text_after, _answer_text(example.problem))

    def judge(problem: Problem, answer: Answer) -> Verdict | list[Fault]:  # noqa: ARG001
        return read_verdict(answer)

    logs = rounds.run("judge", examples, messages, judge)
    _reject_failed(logs, by_id, writer, rejections)
    accepted = []
    for log in logs:
        faults = _verdict_faults(log.value) if log.value is not None else []
        if faults:
            rejections[log.problem.id] = rejection_of(by_id[log.problem.id], faults, writer)
        elif log.value is not None:
            accepted.append(by_id[log.problem.id])
    return accepted


def read_verdict(answer: Answer) -> Verdict | list[Fault]:
    """Parse the two lines of a judge; returns the fault otherwise."""
    fault = ending_fault(answer)
    if fault:
        return [fault]
    flags = {name.lower(): value.lower() == "yes" for name, value in _VERDICT.findall(answer.text)}
    if set(flags) != {"conflict", "ambiguous"}:
        return [Fault("verdict", "expected a line `conflict: yes` or `no`, and a line `ambiguous: yes` or `no`")]
    return Verdict(flags["conflict"], flags["ambiguous"], " ".join(answer.text.split())[:400])


def _verdict_faults(verdict: Verdict) -> list[Fault]:
    faults = [Fault("conflict", f"the judge: {verdict.text}")] if verdict.conflict else []
    return faults + ([Fault("ambiguous", f"the judge: {verdict.text}")] if verdict.ambiguous else [])


def _question_text(problem: Problem) -> str:
    return problem.question.replace("<image>", "[picture]").strip()


def _answer_text(problem: Problem) -> str:
    options = problem.facts.get("options")
    return f"{problem.answer} ({options[LETTERS.index(problem.answer)]})" if options else problem.answer


def _reject_failed(
    logs: Sequence[AttemptLog[Any]], by_id: dict[str, TrainingExample], writer: str, rejections: dict[str, Rejection]
) -> None:
    """Record the rejection of problems for which every attempt of a round failed."""
    for log in logs:
        if log.value is None:
            last = log.failed[-1]
            rejection = rejection_of(by_id[log.problem.id], list(last.faults), writer, last.attempt)
            rejections[log.problem.id] = replace(rejection, answer=last.text)


class _Rounds:
    """Runs rounds of questions to an endpoint, and counts the tokens of each."""

    def __init__(self, teacher: EndpointTeacher, settings: Settings, progress: Progress) -> None:
        self.teacher, self.settings, self._progress = teacher, settings, progress
        self.tokens: Counter[str] = Counter()

    def run(
        self,
        kind: str,
        examples: Sequence[TrainingExample],
        messages: Callable[[TrainingExample, Prompt], tuple[Message, ...]],
        judge: Callable[[Problem, Answer], Value | list[Fault]],
    ) -> list[AttemptLog[Value]]:
        """Run one round; the logs are in the order of the examples."""
        if not examples:
            return []
        settings, runtime = self.settings.teacher, self.settings.runtime.teacher
        prompts = {name: load_prompt(settings.template, kind, name) for name in {e.problem.benchmark for e in examples}}
        source = self.teacher.open_source(lambda text: self._progress(ProgressEvent(stage="captions", message=text)))

        def question_at(number: int) -> Question:
            example = examples[number]
            prompt = prompts[example.problem.benchmark]
            return Question(problem=example.problem, prompt=prompt, messages=messages(example, prompt))

        def on_finished(finished: int, accepted: int) -> None:
            metrics = {"accepted": float(accepted)}
            event = ProgressEvent(stage="captions", message=kind, step=finished, total=len(examples), metrics=metrics)
            self._progress(event)

        logs: list[AttemptLog[Value]] = run(
            run_attempts(
                len(examples),
                question_at,
                judge,
                source,
                settings,
                concurrency=runtime.concurrency,
                on_finished=on_finished,
            )
        )
        for name, count in source.usage.deterministic().items():
            self.tokens[f"{kind} {name}"] += count
        return logs
