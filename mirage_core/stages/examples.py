"""Stage ``examples``: problems of the train and validation splits with their pictures and a teacher's chains."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.store.records import EXAMPLES_FILE, load_auxiliary_images, load_problems, save_examples


def examples_identity(settings: Settings) -> dict[str, Any]:
    """The teacher; what it sees comes with the inputs' digests."""
    return {"teacher": identity(settings.teacher)}


def run_examples(context: StageContext) -> dict[str, Any]:
    """Let the teacher write the chains; test problems never become examples. The summary names the teacher."""
    from mirage_core.teacher import make_teacher, write_examples

    settings = context.settings.teacher
    problems = [problem for problem in load_problems(context.input_paths["problems"]) if problem.split != "test"]
    pictures = load_auxiliary_images(context.input_paths["auxiliary_images"])
    examples = write_examples(make_teacher(settings), problems, pictures, settings.variant, context.progress)
    save_examples(context.output / EXAMPLES_FILE, examples)
    splits = Counter(str(example.problem.split) for example in examples)
    teachers = sorted({example.chain.teacher for example in examples})
    return {"examples": len(examples), **splits, "teacher": ", ".join(teachers), "variant": settings.variant}


EXAMPLES = Stage(
    name="examples",
    version=1,
    kind="examples",
    inputs=("problems", "auxiliary_images"),
    identity=examples_identity,
    run=run_examples,
)
