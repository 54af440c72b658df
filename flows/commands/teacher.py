"""``mirage teacher try``: a few chains of a recipe's teacher, with what was wrong and what they cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flows.commands.printing import console
from flows.commands.session import DirectProgress, keys_of
from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stage import run_stage
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import load_auxiliary_images, load_given, load_problems
from mirage_core.teacher import make_teacher, teach
from mirage_core.teacher.protocol import Taught
from mirage_core.types import Problem
from tasks.paths import open_store

LONGEST = 800


def try_out(recipe: str, sets: list[str], count: int, store: str | None) -> None:
    """Ask for ``count`` chains, spread over the training problems; answers are kept, so a run pays for them no more."""
    if count < 1:
        raise InputError(f"got --n {count}, expected 1 or more")
    settings = load(recipe, sets)
    with keys_of(settings):
        taught = _taught(settings, count, open_store(store))
    for example in taught.examples:
        _heading(example.problem, f"accepted, written by {example.chain.teacher}")
        _text(f"{example.chain.text_before}\n[{example.auxiliary_image.style}]\n{example.chain.text_after}")
    for rejection in taught.rejections:
        fate = "left out" if rejection.left_out else "asked again"
        console.print(f"\n{rejection.problem_id} attempt {rejection.attempt}: {fate}", style="bold red", markup=False)
        console.print(f"{rejection.reason}: {rejection.faults}", style="red", markup=False)
        _text(rejection.answer)
    left_out = sum(rejection.left_out for rejection in taught.rejections)
    console.print(f"\naccepted {len(taught.examples)} of {len(taught.examples) + left_out}", style="bold")
    for name, value in _account(taught).items():
        console.print(f"{name:22} {value}", markup=False)


def _taught(settings: Settings, count: int, store: Store) -> Taught:
    """The chains of a few problems; nothing is published, and no share of them has to be good."""
    said = DirectProgress()
    problems = run_stage(STAGES["problems"], settings, {}, store, said).artifact
    drawn = run_stage(STAGES["auxiliary-images"], settings, {"problems": problems}, store, said).artifact
    folder = store.fetch(problems)
    chosen = spread(load_problems(folder, split="train"), count)
    # How many must be accepted is no part of a request: the answers are those of a run.
    teacher = settings.teacher.model_copy(update={"min_accepted": 0.0})
    return teach(
        make_teacher(teacher, settings.runtime.teacher, store),
        chosen,
        load_auxiliary_images(store.fetch(drawn)),
        teacher.variant,
        said,
        given=load_given(folder),
    )


def spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """``count`` of the problems, at equal distances."""
    if not problems:
        raise InputError("the recipe has no training problems: set problems.*.train")
    count = min(count, len(problems))
    return [problems[len(problems) * number // count] for number in range(count)]


def _account(taught: Taught) -> dict[str, Any]:
    return {name: value for name, value in {**taught.account, **taught.passing}.items() if value is not None}


def _heading(problem: Problem, said: str) -> None:
    console.print(f"\n{problem.id} ({problem.group}, answer {problem.answer}): {said}", style="bold", markup=False)


def _text(text: str) -> None:
    """A model's words, without what a terminal would obey."""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
    console.print(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...", markup=False)
