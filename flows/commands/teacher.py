"""``mirage teacher try``: a few chains of a recipe's teacher, its rejected answers, and the cost."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flows.commands.printing import DirectProgress, print_line
from flows.commands.session import provide_teacher_key
from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stage import run_stage
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import load_auxiliary_images, load_problems, load_provided_images
from mirage_core.teacher import make_teacher, teach
from mirage_core.teacher.protocol import TeachResult
from mirage_core.types import Problem
from tasks.paths import open_store

MAX_SHOWN = 800


def try_out(recipe: str, sets: list[str], count: int, store: str | None) -> None:
    """Ask for ``count`` chains, spread over the training problems; a later run finds the answers cached."""
    if count < 1:
        raise InputError(f"got --n {count}, expected 1 or more")
    settings = load(recipe, sets)
    with provide_teacher_key(settings):
        result = _teach(settings, count, open_store(store))
    for example in result.examples:
        _heading(example.problem, f"accepted, written by {example.chain.teacher}")
        _text(f"{example.chain.text_before}\n[{example.auxiliary_image.style}]\n{example.chain.text_after}")
    for rejection in result.rejections:
        outcome = "left out" if rejection.left_out else "asked again"
        print_line(f"\n{rejection.problem_id} attempt {rejection.attempt}: {outcome}", "bold red")
        print_line(f"{rejection.reason}: {rejection.faults}", "red")
        _text(rejection.answer)
    left_out = sum(rejection.left_out for rejection in result.rejections)
    print_line(f"\naccepted {len(result.examples)} of {len(result.examples) + left_out}", "bold")
    for name, value in {**result.usage, **result.this_run}.items():
        if value is not None:
            print_line(f"{name:22} {value}")


def _teach(settings: Settings, count: int, store: Store) -> TeachResult:
    """Return the chains of a few problems; publish nothing, and require no minimum of accepted ones."""
    progress = DirectProgress()
    problems = run_stage(STAGES["problems"], settings, {}, store, progress).artifact
    images = run_stage(STAGES["auxiliary-images"], settings, {"problems": problems}, store, progress).artifact
    folder = store.fetch(problems)
    chosen = spread(load_problems(folder, split="train"), count)
    # The minimum is no part of a request: a run gets the same answers.
    teacher = settings.teacher.model_copy(update={"min_accepted": 0.0})
    return teach(
        make_teacher(teacher, settings.runtime.teacher, store),
        chosen,
        load_auxiliary_images(store.fetch(images)),
        teacher.variant,
        progress,
        provided=load_provided_images(folder),
    )


def spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Return ``count`` of the problems, at equal distances."""
    if not problems:
        raise InputError("the recipe has no training problems: set problems.*.train")
    count = min(count, len(problems))
    return [problems[len(problems) * number // count] for number in range(count)]


def _heading(problem: Problem, outcome: str) -> None:
    print_line(f"\n{problem.id} ({problem.group}, answer {problem.answer}): {outcome}", "bold")


def _text(text: str) -> None:
    """Print a model's text without control characters."""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
    print_line(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ...")
