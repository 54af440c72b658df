"""The upper bound's data: problems and examples with the auxiliary image as one more input."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mirage_core.config import Settings
from mirage_core.errors import DataError
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.pipeline.stages.examples import write_card
from mirage_core.pipeline.stages.problems import TASK_FILE
from mirage_core.store.records import (
    EXAMPLES_FILE,
    PROBLEMS_FILE,
    iter_auxiliary_images,
    iter_examples,
    iter_problems,
    save_examples,
    save_problems,
)
from mirage_core.types import Problem, Rejection, TrainingExample


def no_settings(settings: Settings) -> dict[str, Any]:  # noqa: ARG001 -- every stage's identity has this form
    """Return nothing: the result depends on the inputs alone."""
    return {}


def run_auxiliary_problems(context: StageContext) -> dict[str, Any]:
    """Append its auxiliary image to the images of every test problem; those without one are left out and counted.

    DataError when no test problem has one.
    """
    counts: Counter[str] = Counter()
    save_problems(context.output / PROBLEMS_FILE, _shown_problems(context, counts))
    if not counts["problems"]:
        raise DataError(
            "no test problem has an auxiliary image, so none can be an input: remove auxiliary-input from "
            "evaluation.methods, or test on a benchmark whose images are drawn"
        )
    task = context.input_paths["problems"] / TASK_FILE
    if task.is_file():
        shutil.copyfile(task, context.output / TASK_FILE)
    return dict(counts)


def _shown_problems(context: StageContext, counts: Counter[str]) -> Iterator[Problem]:
    """Yield the test problems with their images, which are stored in the order of the problems."""
    from mirage_core.benchmarks.auxiliary_input import with_auxiliary_input

    images = iter_auxiliary_images(context.input_paths["auxiliary_images"])
    image = next(images, None)
    for problem in iter_problems(context.input_paths["problems"]):
        own = image if image is not None and image.problem_id == problem.id else None
        if own is not None:
            image = next(images, None)
        if problem.split != "test":
            continue
        counts["left_out" if own is None else "problems"] += 1
        if own is not None:
            yield with_auxiliary_input(problem, own.image)


def run_auxiliary_examples(context: StageContext) -> dict[str, Any]:
    """Append the image that its chain imagines to the inputs of every training example; the chain is unchanged."""
    from mirage_core.dataset_card.statistics import Tally

    tally = Tally()
    examples = map(_shown_example, iter_examples(context.input_paths["examples"], frames=False))
    save_examples(context.output / EXAMPLES_FILE, tally.count_all(examples))
    write_card(context, tally, list[Rejection](), no_settings(context.settings), tests=())
    return {"examples": tally.total, **tally.splits, "teacher": ", ".join(sorted(tally.writers)) or "nobody"}


def _shown_example(example: TrainingExample) -> TrainingExample:
    from mirage_core.benchmarks.auxiliary_input import with_auxiliary_input

    return replace(example, problem=with_auxiliary_input(example.problem, example.auxiliary_image.image))


AUXILIARY_PROBLEMS = Stage(
    name="auxiliary-problems",
    version=1,
    kind="problems",
    inputs=("problems", "auxiliary_images"),
    identity=no_settings,
    run=run_auxiliary_problems,
)
AUXILIARY_EXAMPLES = Stage(
    name="auxiliary-examples",
    version=1,
    kind="examples",
    inputs=("examples",),
    identity=no_settings,
    run=run_auxiliary_examples,
)
