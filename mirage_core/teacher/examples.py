"""Write training examples: a checked chain for every problem and image, the data set's own or the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.errors import InputError
from mirage_core.teacher.checks import check_chain, faults_of
from mirage_core.teacher.endpoint import EndpointTeacher
from mirage_core.teacher.protocol import ProblemWithImage, Teacher, TeachResult
from mirage_core.types import (
    AuxiliaryImage,
    Problem,
    Progress,
    ProgressEvent,
    ProvidedImage,
    ReasoningChain,
    Rejection,
    TrainingExample,
    Variant,
    split_marked,
)

DATA_SET = "data set"
_REPORT_EVERY = 500


def teach(
    teacher: Teacher,
    problems: Sequence[Problem],
    auxiliary_images: Sequence[AuxiliaryImage],
    variant: Variant,
    progress: Progress,
    provided: Mapping[str, ProvidedImage] | None = None,
) -> TeachResult:
    """Write examples for the problems, in their order, with the rejections.

    A chain of the data set (``provided``) is used under the name "data set"; if it has faults, its problem is left out.
    Raises InputError for a problem without an image, and what the teacher raises.
    """
    pairs = _with_images(problems, auxiliary_images)
    own = _own_chains(pairs, variant, provided or {})
    result = _teach(teacher, [pair for pair in pairs if pair[0].id not in own], variant, progress)
    if not own:
        return result
    examples = {example.problem.id: example for example in result.examples}
    rejections: dict[str, list[Rejection]] = {}
    for rejection in result.rejections:
        rejections.setdefault(rejection.problem_id, []).append(rejection)
    for problem, image in pairs:
        if problem.id in own:
            rejections[problem.id] = _own_rejections(own[problem.id], problem)
            if not rejections[problem.id]:
                chain = own[problem.id]
                examples[problem.id] = TrainingExample(problem=problem, auxiliary_image=image, chain=chain)
    order = [problem.id for problem, _ in pairs]
    return TeachResult(
        examples=[examples[name] for name in order if name in examples],
        rejections=[rejection for name in order for rejection in rejections.get(name, [])],
        usage=result.usage,
        this_run=result.this_run,
    )


def write_examples(
    teacher: Teacher,
    problems: Sequence[Problem],
    auxiliary_images: Sequence[AuxiliaryImage],
    variant: Variant,
    progress: Progress,
) -> list[TrainingExample]:
    """Write an example for every problem, in their order.

    Raises InputError for a problem without an image, TeacherError for a chain with faults.
    """
    return _write(teacher, _with_images(problems, auxiliary_images), variant, progress)


def _with_images(problems: Sequence[Problem], auxiliary_images: Sequence[AuxiliaryImage]) -> list[ProblemWithImage]:
    images = {image.problem_id: image for image in auxiliary_images}
    for problem in problems:
        if problem.id not in images:
            raise InputError(f"problem {problem.id} has no auxiliary image; draw one for every problem first")
    return [(problem, images[problem.id]) for problem in problems]


def _teach(teacher: Teacher, pairs: Sequence[ProblemWithImage], variant: Variant, progress: Progress) -> TeachResult:
    """Write the chains of all problems: concurrently by an endpoint, one after the other by a local teacher."""
    if isinstance(teacher, EndpointTeacher):
        return teacher.teach(pairs, variant, progress)
    return TeachResult(examples=_write(teacher, pairs, variant, progress))


def _write(
    teacher: Teacher, pairs: Sequence[ProblemWithImage], variant: Variant, progress: Progress
) -> list[TrainingExample]:
    examples = []
    for problem, image in pairs:
        chain = teacher.chain(problem, image, variant)
        check_chain(chain, problem)
        examples.append(TrainingExample(problem=problem, auxiliary_image=image, chain=chain))
        if len(examples) % _REPORT_EVERY == 0 or len(examples) == len(pairs):
            progress(ProgressEvent(stage="examples", message=teacher.name, step=len(examples), total=len(pairs)))
    return examples


def _own_chains(
    pairs: Sequence[ProblemWithImage], variant: Variant, provided: Mapping[str, ProvidedImage]
) -> dict[str, ReasoningChain]:
    """Return the chains of data sets by problem id; none for the direct variant, which needs no text."""
    candidates: Iterator[tuple[Problem, ProvidedImage]] = (
        (problem, provided[problem.id]) for problem, _ in pairs if variant == "cot" and problem.id in provided
    )
    chains = {problem.id: own_chain(row, variant) for problem, row in candidates}
    return {name: chain for name, chain in chains.items() if chain is not None}


def own_chain(row: ProvidedImage, variant: Variant) -> ReasoningChain | None:
    """Return the chain that a data set gives, its caption the text up to the last mark if there are marks; or None."""
    if row.text_before is None or row.text_after is None:
        return None
    caption, after = split_marked(row.text_after) if row.style == jsonl_data.MONET else ("", row.text_after)
    return ReasoningChain(
        problem_id=row.problem_id,
        variant=variant,
        text_before=row.text_before,
        text_after=after,
        teacher=DATA_SET,
        caption=caption,
    )


def _own_rejections(chain: ReasoningChain, problem: Problem) -> list[Rejection]:
    """Return the rejection of a data set's own chain; empty for a valid chain."""
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
            faults="; ".join(fault.message for fault in faults),
            answer=f"{chain.text_before}\n<output_image>\n{chain.caption}{chain.text_after}",
            left_out=True,
        )
    ]
