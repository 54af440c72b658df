"""The problems of a user's own task, each checked: its fields, its scorer, and that splits share no problem."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from mirage_core.benchmarks import multiple_choice
from mirage_core.benchmarks.custom.task import OwnTask
from mirage_core.benchmarks.io.jsonl import decode_image
from mirage_core.benchmarks.near_duplicates import text_key
from mirage_core.benchmarks.vsp_prompts import ENDINGS
from mirage_core.config import TaskData
from mirage_core.errors import DataError, InputError
from mirage_core.store.digests import canonical_json
from mirage_core.types import Problem, Progress, ProgressEvent, Split

_REPORT_EVERY = 200


@dataclass(slots=True)
class _Seen:
    """The problems so far: split by id, and (id, split) by content (question and pixels)."""

    ids: dict[str, Split] = field(default_factory=dict)
    contents: dict[str, tuple[str, Split]] = field(default_factory=dict)


def task_problems(task: OwnTask, data: TaskData, seed: int, progress: Progress) -> Iterator[Problem]:
    """Yield the requested number of problems of every split; DataError names the first invalid one, and why.

    No two problems of different splits, nor two of validation or test, may be the same; train may repeat problems.
    """
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation, "test": data.test}
    seen, done = _Seen(), 0
    for split, count in wanted.items():
        number = 0
        for number, problem in enumerate(islice(task.problems(split, count, seed, data.options), count), start=1):
            yield _checked(task, problem, split, number, seen)
            if number == 1:
                _check_deterministic(task, data, problem, count, seed)
            done += 1
            if done % _REPORT_EVERY == 0 or done == sum(wanted.values()):
                progress(ProgressEvent(stage="problems", message=task.name, step=done, total=sum(wanted.values())))
        if number < count:
            raise DataError(
                f"{task.name}: problems({split!r}, {count}, ...) ended after {number}; yield more, or ask for "
                f"fewer: problems.task.{split}"
            )


def _checked(task: OwnTask, problem: object, split: Split, number: int, seen: _Seen) -> Problem:
    """The problem, after all checks."""
    where = f"{task.name}: problem {number} of {split}"
    if not isinstance(problem, Problem):
        raise DataError(f"{where} is {problem!r:.80}, expected a Problem (mirage_core.types)")
    where = f"{where} ({problem.id!r})"
    faults = [*_field_faults(task, problem, split), *_fact_faults(problem)]
    if faults:
        raise DataError(f"{where}: " + "; ".join(faults))
    pixels = [_pixel_digest(image, f"{where}: image {at}") for at, image in enumerate(problem.images, start=1)]
    _check_scorer(task, problem, where)
    for variant in ENDINGS:
        task.prompt(problem, "short", variant)
        task.prompt(problem, "benchmark", variant)
    _check_unique(problem, where, " ".join([text_key(problem.question), *pixels]), seen)
    return problem


def _field_faults(task: OwnTask, problem: Problem, split: Split) -> Iterator[str]:
    if not isinstance(problem.id, str) or not problem.id.strip():
        yield "its id is empty"
    for key, value, expected in (("benchmark", problem.benchmark, task.name), ("split", problem.split, split)):
        if value != expected:
            yield f"its {key} is {value!r}, expected {expected!r}"
    if problem.group not in task.groups:
        yield f"its group is {problem.group!r}, expected one of GROUPS: {', '.join(task.groups)}"
    if not isinstance(problem.answer, str) or not problem.answer.strip():
        yield f"its answer is {problem.answer!r}, expected text"
    if not isinstance(problem.images, tuple) or not problem.images:
        yield f"its images are {problem.images!r:.40}, expected a tuple of encoded images (bytes), at least one"
    elif not all(isinstance(image, bytes) for image in problem.images):
        yield "its images are not all bytes; picture_bytes(...) encodes one"
    elif not isinstance(problem.question, str) or problem.question.count("<image>") != len(problem.images):
        yield f"its question needs <image> {len(problem.images)} times, at the position of each image"


def _fact_faults(problem: Problem) -> Iterator[str]:
    if "map" in problem.facts:
        yield "the fact 'map' means a maze in this project: give yours another name"
    if "options" in problem.facts:
        yield from _option_faults(problem.facts["options"], problem.answer)
    try:
        decoded = json.loads(canonical_json(dict(problem.facts)))
    except InputError as error:
        yield f"its facts: {error}"
    else:
        if decoded != problem.facts:
            yield "its facts change when they are stored as JSON: use lists, not tuples, and text keys"


def _option_faults(options: object, answer: str) -> Iterator[str]:
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        yield f"the fact 'options' is {options!r:.40}, expected a list of texts"
        return
    try:
        letters = multiple_choice.lettered(options)
    except DataError as error:
        yield str(error)
        return
    if answer not in letters:
        yield f"it has options, so its answer is one of {', '.join(letters)}, got {answer!r}"


def _pixel_digest(image: bytes, what: str) -> str:
    """A digest of an image's pixels, the same for every encoding."""
    pixels = decode_image(image, what).convert("RGB")
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()


def _check_scorer(task: OwnTask, problem: Problem, where: str) -> None:
    right, empty = f"\\boxed{{{problem.answer}}}", ""
    if not task.score(problem, right).correct:
        raise DataError(f"{where}: score() calls its own answer wrong: {right}; answers are in \\boxed{{}}")
    if task.score(problem, empty).correct:
        raise DataError(f"{where}: score() calls an empty output right")


def _check_unique(problem: Problem, where: str, content: str, seen: _Seen) -> None:
    """Raise DataError for a repeated id, or content that repeats outside train or across splits."""
    if problem.id in seen.ids:
        raise DataError(f"{where}: the id {problem.id!r} is in {seen.ids[problem.id]} already: ids must be unique")
    seen.ids[problem.id] = problem.split
    twin, split = seen.contents.setdefault(content, (problem.id, problem.split))
    if twin != problem.id and (split != problem.split or split != "train"):
        raise DataError(
            f"{where} has the same question and images as {twin!r} of {split}. Separate the splits, for example by "
            "split_of_form(what identifies a problem) == split, and do not repeat a problem outside train"
        )


def _check_deterministic(task: OwnTask, data: TaskData, first: Problem, count: int, seed: int) -> None:
    """Raise DataError if the first problem of a split differs the second time."""
    again = next(iter(task.problems(first.split, count, seed, data.options)), None)
    if again != first:
        raise DataError(
            f"{task.name}: problems({first.split!r}, {count}, seed={seed}) gave another first problem the second time; "
            "use only a random generator seeded by the arguments: random.Random(f'{seed}/{split}')"
        )
