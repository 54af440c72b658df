"""From a teacher's text to a chain: exactly one place for the picture, and nothing that may not be taught."""

from __future__ import annotations

from mirage_core.config import TeacherSettings
from mirage_core.teacher.answers import Answer
from mirage_core.teacher.checks import Fault, asked_faults, faults_of
from mirage_core.types import Problem, ReasoningChain, Variant

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
