"""The problems of a user's own task, each checked: its form, its scorer, and that no split knows another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from mirage_core.benchmarks import multiple_choice as choices
from mirage_core.benchmarks.custom.task import OwnTask
from mirage_core.benchmarks.io.jsonl import decode_picture
from mirage_core.benchmarks.near_duplicates import text_key
from mirage_core.benchmarks.vsp_prompts import ENDINGS
from mirage_core.config import TaskData
from mirage_core.errors import DataError, InputError
from mirage_core.store.digests import canonical_json
from mirage_core.types import Problem, Progress, ProgressEvent, Split

_REPORT_EVERY = 200


@dataclass(slots=True)
class _Seen:
    """What was made so far: ids by split, and what a problem shows and asks."""

    ids: dict[str, Split] = field(default_factory=dict)
    shown: dict[str, tuple[str, Split]] = field(default_factory=dict)


def task_problems(task: OwnTask, data: TaskData, seed: int, progress: Progress) -> Iterator[Problem]:
    """The wanted number of problems of every split; DataError names the first that may not be one, and why.

    No two problems of different splits, nor two of validation or test, may show and ask the same; train may repeat.
    """
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation, "test": data.test}
    seen, made = _Seen(), 0
    for split, count in wanted.items():
        number = 0
        for number, problem in enumerate(islice(task.problems(split, count, seed, data.options), count), start=1):
            yield _checked(task, problem, split, number, seen)
            if number == 1:
                _made_again(task, data, problem, count, seed)
            made += 1
            if made % _REPORT_EVERY == 0 or made == sum(wanted.values()):
                progress(ProgressEvent(stage="problems", message=task.name, step=made, total=sum(wanted.values())))
        if number < count:
            raise DataError(
                f"{task.name}: problems({split!r}, {count}, ...) ended after {number}; make more of them, or ask for "
                f"fewer: problems.task.{split}"
            )


def _checked(task: OwnTask, problem: object, split: Split, number: int, seen: _Seen) -> Problem:
    """The problem, once everything about it is right."""
    where = f"{task.name}: problem {number} of {split}"
    if not isinstance(problem, Problem):
        raise DataError(f"{where} is {problem!r:.80}, expected a Problem (mirage_core.types)")
    where = f"{where} ({problem.id!r})"
    faults = [*_field_faults(task, problem, split), *_fact_faults(problem)]
    if faults:
        raise DataError(f"{where}: " + "; ".join(faults))
    pictures = [_pixels(image, f"{where}: picture {at}") for at, image in enumerate(problem.images, start=1)]
    _check_scorer(task, problem, where)
    for variant in ENDINGS:
        task.prompt(problem, "short", variant)
        task.prompt(problem, "benchmark", variant)
    _check_new(problem, where, " ".join([text_key(problem.question), *pictures]), seen)
    return problem


def _field_faults(task: OwnTask, problem: Problem, split: Split) -> Iterator[str]:
    if not isinstance(problem.id, str) or not problem.id.strip():
        yield "its id is empty"
    for key, got, expected in (("benchmark", problem.benchmark, task.name), ("split", problem.split, split)):
        if got != expected:
            yield f"its {key} is {got!r}, expected {expected!r}"
    if problem.group not in task.groups:
        yield f"its group is {problem.group!r}, expected one of GROUPS: {', '.join(task.groups)}"
    if not isinstance(problem.answer, str) or not problem.answer.strip():
        yield f"its answer is {problem.answer!r}, expected text"
    if not isinstance(problem.images, tuple) or not problem.images:
        yield f"its images are {problem.images!r:.40}, expected a tuple of encoded pictures (bytes), at least one"
    elif not all(isinstance(image, bytes) for image in problem.images):
        yield "its images are not all bytes; picture_bytes(...) encodes one"
    elif not isinstance(problem.question, str) or problem.question.count("<image>") != len(problem.images):
        yield f"its question needs <image> {len(problem.images)} times, where each picture stands"


def _fact_faults(problem: Problem) -> Iterator[str]:
    if "map" in problem.facts:
        yield "the fact 'map' means a maze in this project: call yours something else"
    if "options" in problem.facts:
        yield from _option_faults(problem.facts["options"], problem.answer)
    try:
        kept = json.loads(canonical_json(dict(problem.facts)))
    except InputError as error:
        yield f"its facts: {error}"
    else:
        if kept != problem.facts:
            yield "its facts are not the same after JSON, in which they are kept: use lists, not tuples, and text keys"


def _option_faults(options: object, answer: str) -> Iterator[str]:
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        yield f"the fact 'options' is {options!r:.40}, expected a list of texts"
        return
    try:
        letters = choices.lettered(options)
    except DataError as error:
        yield str(error)
        return
    if answer not in letters:
        yield f"it has options, so its answer is one of {', '.join(letters)}, got {answer!r}"


def _pixels(image: bytes, what: str) -> str:
    """A digest of what a picture shows, however it is encoded."""
    picture = decode_picture(image, what).convert("RGB")
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def _check_scorer(task: OwnTask, problem: Problem, where: str) -> None:
    right, nothing = f"\\boxed{{{problem.answer}}}", ""
    if not task.score(problem, right).correct:
        raise DataError(f"{where}: score() calls its own answer wrong: {right}; answers stand in \\boxed{{}}")
    if task.score(problem, nothing).correct:
        raise DataError(f"{where}: score() calls an empty output right")


def _check_new(problem: Problem, where: str, shown: str, seen: _Seen) -> None:
    """Ids are unique everywhere; what is shown and asked, in all of validation and test and across splits."""
    if problem.id in seen.ids:
        raise DataError(f"{where}: the id {problem.id!r} stands in {seen.ids[problem.id]} already: ids are unique")
    seen.ids[problem.id] = problem.split
    twin, split = seen.shown.setdefault(shown, (problem.id, problem.split))
    if twin != problem.id and (split != problem.split or split != "train"):
        raise DataError(
            f"{where} shows and asks the same as {twin!r} of {split}. Keep the splits apart, for example by "
            "split_of_form(what makes it what it is) == split, and do not repeat a problem outside train"
        )


def _made_again(task: OwnTask, data: TaskData, first: Problem, count: int, seed: int) -> None:
    """The first problem of a split has to come out the same a second time."""
    again = next(iter(task.problems(first.split, count, seed, data.options)), None)
    if again != first:
        raise DataError(
            f"{task.name}: problems({first.split!r}, {count}, seed={seed}) gave another first problem the second time; "
            "draw only from a generator made of the arguments: random.Random(f'{seed}/{split}')"
        )
