"""Training examples: a teacher's chain for every problem and its picture, each checked."""

from __future__ import annotations

from collections.abc import Sequence

from mirage_core.errors import InputError
from mirage_core.teacher.checks import check_chain
from mirage_core.teacher.protocol import Teacher
from mirage_core.types import AuxiliaryImage, Problem, Progress, ProgressEvent, TrainingExample, Variant

_REPORT_EVERY = 500


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
    pictures = {image.problem_id: image for image in auxiliary_images}
    examples = []
    for problem in problems:
        if problem.id not in pictures:
            raise InputError(f"problem {problem.id} has no auxiliary image; draw one for every problem first")
        picture = pictures[problem.id]
        chain = teacher.chain(problem, picture, variant)
        check_chain(chain, problem)
        examples.append(TrainingExample(problem=problem, auxiliary_image=picture, chain=chain))
        if len(examples) % _REPORT_EVERY == 0 or len(examples) == len(problems):
            progress(ProgressEvent(stage="examples", message=teacher.name, step=len(examples), total=len(problems)))
    return examples
