"""CapImagine's captions by an endpoint, in three rounds: say what the picture shows, polish the chain, judge it.

The prompts of the paper (arXiv 2602.22766) are not published: those used here are template files with a version
(``caption``, ``polish``, ``judge``), part of the data's identity. Every answer is kept like a chain's, so a run that
was killed goes on without paying twice.
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
from mirage_core.llm_client.messages import Message, first_messages
from mirage_core.llm_client.prompt_templates import Prompt, load_prompt
from mirage_core.llm_client.response_cache import Answer
from mirage_core.store import Store
from mirage_core.teacher.attempts import Ask, Interview, interview_all, run
from mirage_core.teacher.captions import caption_faults, rejected, with_caption
from mirage_core.teacher.checks import Fault
from mirage_core.teacher.endpoint import EndpointTeacher, ending_fault
from mirage_core.teacher.protocol import Taught
from mirage_core.teacher.teacher import make_teacher
from mirage_core.types import Problem, Progress, ProgressEvent, ReasoningChain, Rejection, TrainingExample

Value = TypeVar("Value")
ROUNDS = ("caption", "polish", "judge")
_IMAGINED = re.compile(r"(.*?)<imagined>(.*?)</imagined>(.*)", re.DOTALL)
_VERDICT = re.compile(r"^\s*(conflict|ambiguous)\s*:\s*(yes|no)\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of a chain, in its own words too."""

    conflict: bool
    ambiguous: bool
    words: str


def captions_by_endpoint(
    examples: Sequence[TrainingExample], settings: Settings, store: Store, progress: Progress
) -> Taught:
    """Captioned chains in the order of the examples, what was left out and why, and the tokens of all rounds.

    Raises what an endpoint raises, and TeacherError when fewer than ``teacher.min_accepted`` get a caption.
    """
    teacher = make_teacher(settings.teacher, settings.runtime.teacher, store)
    if not isinstance(teacher, EndpointTeacher):
        raise TeacherError(f"teacher.kind {settings.teacher.kind!r} cannot be asked for captions")
    rounds = _Rounds(teacher, settings, progress)
    gone: dict[str, Rejection] = {}
    made = _captioned(rounds, examples, gone)
    if settings.captions.polish and settings.teacher.variant == "cot":
        made = _polished(rounds, made, gone)
    made = _checked(made, settings, teacher.name, gone)
    if settings.captions.judge:
        made = _judged(rounds, made, teacher.name, gone)
    order = [example.problem.id for example in examples]
    rejections = [gone[name] for name in order if name in gone]
    return Taught(examples=made, rejections=rejections, account={"tokens": dict(sorted(rounds.tokens.items()))})


def _captioned(
    rounds: _Rounds, examples: Sequence[TrainingExample], gone: dict[str, Rejection]
) -> list[TrainingExample]:
    """The first round: what each picture shows."""
    by_id = {example.problem.id: example for example in examples}

    def messages(example: TrainingExample, prompt: Prompt) -> tuple[Message, ...]:
        return first_messages(prompt, example.problem, example.auxiliary_image, example.chain.variant)

    def judge(problem: Problem, answer: Answer) -> str | list[Fault]:
        fault = ending_fault(answer)
        if fault:
            return [fault]
        caption = " ".join(answer.text.split())
        return caption_faults(with_caption(by_id[problem.id], caption), rounds.settings.captions) or caption

    told = rounds.ask("caption", examples, messages, judge)
    _note_lost(told, by_id, rounds.teacher.name, gone)
    return [with_caption(by_id[one.problem.id], one.value) for one in told if one.value is not None]


def _polished(
    rounds: _Rounds, examples: Sequence[TrainingExample], gone: dict[str, Rejection]
) -> list[TrainingExample]:
    """The second round: the whole chain written anew, so that its parts go together."""
    by_id = {example.problem.id: example for example in examples}

    def messages(example: TrainingExample, prompt: Prompt) -> tuple[Message, ...]:
        chain = example.chain
        whole = f"{chain.text_before}\n<imagined>{chain.caption}</imagined>\n{chain.text_after}"
        return _words(prompt, whole, example.problem.answer)

    def judge(problem: Problem, answer: Answer) -> ReasoningChain | list[Fault]:
        chain = read_polished(answer, by_id[problem.id].chain)
        if isinstance(chain, list):
            return chain
        return caption_faults(replace(by_id[problem.id], chain=chain), rounds.settings.captions) or chain

    told = rounds.ask("polish", examples, messages, judge)
    _note_lost(told, by_id, rounds.teacher.name, gone)
    return [replace(by_id[one.problem.id], chain=one.value) for one in told if one.value is not None]


def read_polished(answer: Answer, before: ReasoningChain) -> ReasoningChain | list[Fault]:
    """The chain of a polished text: thought, <imagined>caption</imagined>, thought, box; or what is wrong with it."""
    fault = ending_fault(answer)
    if fault:
        return [fault]
    found = _IMAGINED.fullmatch(answer.text.strip())
    if found is None or "<imagined>" in found.group(3):
        return [Fault("place", "expected <imagined>...</imagined> exactly once, between the two thoughts")]
    first, caption, second = (" ".join(part.split()) for part in found.groups())
    return replace(before, text_before=first, caption=caption, text_after=second)


def _checked(
    examples: Sequence[TrainingExample], settings: Settings, writer: str, gone: dict[str, Rejection]
) -> list[TrainingExample]:
    kept = []
    for example in examples:
        faults = caption_faults(example, settings.captions)
        if faults:
            gone[example.problem.id] = rejected(example, faults, writer)
        else:
            kept.append(example)
    return kept


def _judged(
    rounds: _Rounds, examples: Sequence[TrainingExample], writer: str, gone: dict[str, Rejection]
) -> list[TrainingExample]:
    """The third round: chains that conflict with their answer, or leave it open, are left out."""
    by_id = {example.problem.id: example for example in examples}

    def messages(example: TrainingExample, prompt: Prompt) -> tuple[Message, ...]:
        chain = example.chain
        shown = f"{_without_pictures(example.problem)}\n\n# The solution\n{chain.text_before}\n{chain.caption}\n"
        return _words(prompt, shown + chain.text_after, _answer_in_words(example.problem))

    def judge(problem: Problem, answer: Answer) -> Verdict | list[Fault]:  # noqa: ARG001
        return read_verdict(answer)

    told = rounds.ask("judge", examples, messages, judge)
    _note_lost(told, by_id, writer, gone)
    kept = []
    for one in told:
        faults = _verdict_faults(one.value) if one.value is not None else []
        if faults:
            gone[one.problem.id] = rejected(by_id[one.problem.id], faults, writer)
        elif one.value is not None:
            kept.append(by_id[one.problem.id])
    return kept


def read_verdict(answer: Answer) -> Verdict | list[Fault]:
    """The two lines of a judge, or what is wrong with them."""
    fault = ending_fault(answer)
    if fault:
        return [fault]
    said = {name.lower(): value.lower() == "yes" for name, value in _VERDICT.findall(answer.text)}
    if set(said) != {"conflict", "ambiguous"}:
        return [Fault("verdict", "expected a line `conflict: yes` or `no`, and a line `ambiguous: yes` or `no`")]
    return Verdict(said["conflict"], said["ambiguous"], " ".join(answer.text.split())[:400])


def _verdict_faults(verdict: Verdict) -> list[Fault]:
    faults = [Fault("conflict", f"the judge: {verdict.words}")] if verdict.conflict else []
    return faults + ([Fault("ambiguous", f"the judge: {verdict.words}")] if verdict.ambiguous else [])


def _words(prompt: Prompt, text: str, answer: str) -> tuple[Message, ...]:
    """A request without pictures."""
    system: list[Message] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return (*system, {"role": "user", "content": prompt.question(question=text, answer=answer)})


def _without_pictures(problem: Problem) -> str:
    return problem.question.replace("<image>", "[picture]").strip()


def _answer_in_words(problem: Problem) -> str:
    options = problem.facts.get("options")
    return f"{problem.answer} ({options[LETTERS.index(problem.answer)]})" if options else problem.answer


def _note_lost(
    told: Sequence[Interview[Any]], by_id: dict[str, TrainingExample], writer: str, gone: dict[str, Rejection]
) -> None:
    """Problems that no attempt of a round gave anything for."""
    for one in told:
        if one.value is None:
            last = one.failed[-1]
            told_of = rejected(by_id[one.problem.id], list(last.faults), writer, last.attempt)
            gone[one.problem.id] = replace(told_of, answer=last.text)


class _Rounds:
    """Asks an endpoint about many examples, and counts the tokens of every round."""

    def __init__(self, teacher: EndpointTeacher, settings: Settings, progress: Progress) -> None:
        self.teacher, self.settings, self._progress = teacher, settings, progress
        self.tokens: Counter[str] = Counter()

    def ask(
        self,
        kind: str,
        examples: Sequence[TrainingExample],
        messages: Callable[[TrainingExample, Prompt], tuple[Message, ...]],
        judge: Callable[[Problem, Answer], Value | list[Fault]],
    ) -> list[Interview[Value]]:
        """One round: the interviews in the order of the examples."""
        if not examples:
            return []
        settings, runtime = self.settings.teacher, self.settings.runtime.teacher
        prompts = {name: load_prompt(settings.template, kind, name) for name in {e.problem.benchmark for e in examples}}
        source = self.teacher.open_source(lambda said: self._progress(ProgressEvent(stage="captions", message=said)))

        def ask(number: int) -> Ask:
            example = examples[number]
            prompt = prompts[example.problem.benchmark]
            return Ask(problem=example.problem, prompt=prompt, messages=messages(example, prompt))

        def done(finished: int, accepted: int) -> None:
            figures = {"accepted": float(accepted)}
            event = ProgressEvent(stage="captions", message=kind, step=finished, total=len(examples), metrics=figures)
            self._progress(event)

        told: list[Interview[Value]] = run(
            interview_all(len(examples), ask, judge, source, settings, concurrency=runtime.concurrency, done=done)
        )
        for name, count in source.account.lasting().items():
            self.tokens[f"{kind} {name}"] += count
        return told
