"""Training examples: a chain for every problem and its picture, each checked: the data set's own, or the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mirage_core.errors import InputError
from mirage_core.teacher.checks import check_chain, faults_of
from mirage_core.teacher.endpoint import EndpointTeacher
from mirage_core.teacher.protocol import Lesson, Taught, Teacher
from mirage_core.types import (
    AuxiliaryImage,
    Given,
    Problem,
    Progress,
    ProgressEvent,
    ReasoningChain,
    Rejection,
    TrainingExample,
    Variant,
)

DATA_SET = "data set"
_REPORT_EVERY = 500


def teach(
    teacher: Teacher,
    problems: Sequence[Problem],
    auxiliary_images: Sequence[AuxiliaryImage],
    variant: Variant,
    progress: Progress,
    given: Mapping[str, Given] | None = None,
) -> Taught:
    """Examples for the problems, in their order, and what was not accepted.

    A chain that the data set brings (``given``) is kept, under the name "data set"; one that may not be taught leaves
    its problem out. Raises InputError for a problem without a picture, and what the teacher raises.
    """
    lessons = _lessons(problems, auxiliary_images)
    own = _own_chains(lessons, variant, given or {})
    taught = _taught(teacher, [lesson for lesson in lessons if lesson[0].id not in own], variant, progress)
    if not own:
        return taught
    examples = {example.problem.id: example for example in taught.examples}
    rejections: dict[str, list[Rejection]] = {}
    for rejection in taught.rejections:
        rejections.setdefault(rejection.problem_id, []).append(rejection)
    for problem, picture in lessons:
        if problem.id in own:
            found = _own_faults(own[problem.id], problem)
            rejections[problem.id] = found
            if not found:
                chain = own[problem.id]
                examples[problem.id] = TrainingExample(problem=problem, auxiliary_image=picture, chain=chain)
    order = [problem.id for problem, _ in lessons]
    return Taught(
        examples=[examples[name] for name in order if name in examples],
        rejections=[rejection for name in order for rejection in rejections.get(name, [])],
        account=taught.account,
        passing=taught.passing,
    )


def write_examples(
    teacher: Teacher,
    problems: Sequence[Problem],
    auxiliary_images: Sequence[AuxiliaryImage],
    variant: Variant,
    progress: Progress,
) -> list[TrainingExample]:
    """An example for every problem, in their order.

    Raises InputError for a problem without a picture, TeacherError for a chain that may not be taught.
    """
    return _written(teacher, _lessons(problems, auxiliary_images), variant, progress)


def _lessons(problems: Sequence[Problem], auxiliary_images: Sequence[AuxiliaryImage]) -> list[Lesson]:
    pictures = {image.problem_id: image for image in auxiliary_images}
    for problem in problems:
        if problem.id not in pictures:
            raise InputError(f"problem {problem.id} has no auxiliary image; draw one for every problem first")
    return [(problem, pictures[problem.id]) for problem in problems]


def _taught(teacher: Teacher, lessons: Sequence[Lesson], variant: Variant, progress: Progress) -> Taught:
    """What a teacher makes of its lessons; one that costs nothing writes them one after the other."""
    if isinstance(teacher, EndpointTeacher):
        return teacher.teach(lessons, variant, progress)
    return Taught(examples=_written(teacher, lessons, variant, progress))


def _written(
    teacher: Teacher, lessons: Sequence[Lesson], variant: Variant, progress: Progress
) -> list[TrainingExample]:
    examples = []
    for problem, picture in lessons:
        chain = teacher.chain(problem, picture, variant)
        check_chain(chain, problem)
        examples.append(TrainingExample(problem=problem, auxiliary_image=picture, chain=chain))
        if len(examples) % _REPORT_EVERY == 0 or len(examples) == len(lessons):
            progress(ProgressEvent(stage="examples", message=teacher.name, step=len(examples), total=len(lessons)))
    return examples


def _own_chains(lessons: Sequence[Lesson], variant: Variant, given: Mapping[str, Given]) -> dict[str, ReasoningChain]:
    """The chains that data sets bring; a direct chain needs none of their words."""
    found: Iterator[tuple[Problem, Given]] = (
        (problem, given[problem.id]) for problem, _ in lessons if variant == "cot" and problem.id in given
    )
    return {
        problem.id: ReasoningChain(
            problem_id=problem.id,
            variant=variant,
            text_before=brought.text_before,
            text_after=brought.text_after,
            teacher=DATA_SET,
        )
        for problem, brought in found
        if brought.text_before is not None and brought.text_after is not None
    }


def _own_faults(chain: ReasoningChain, problem: Problem) -> list[Rejection]:
    """The rejection of a data set's own chain, none where it may be taught."""
    faults = faults_of(chain, problem)
    if not faults:
        return []
    return [
        Rejection(
            problem_id=problem.id,
            benchmark=problem.benchmark,
            split=problem.split,
            group=problem.group,
            variant=chain.variant,
            teacher=DATA_SET,
            attempt=1,
            reason=faults[0].reason,
            faults="; ".join(fault.says for fault in faults),
            answer=f"{chain.text_before}\n<output_image>\n{chain.text_after}",
            left_out=True,
        )
    ]
