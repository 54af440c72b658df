"""SAT, spatial aptitude: questions about one or two frames of a scene, with two answers to choose from.

Published as ``array/SAT``: image_bytes (a list of images), question, answers, question_type, correct_answer; as
``array/SAT-v2`` the column of images is ``images``. Every test row is asked in
both orders of its options, since models favour a position; a training row is asked in one, chosen by its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from mirage_core.benchmarks.benchmark import OFFICIAL, Benchmark, OptionOrders, check_rule
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.multiple_choice import LETTER_RULES, LETTERS, prompt, with_options
from mirage_core.benchmarks.multiple_choice import score as score_letter
from mirage_core.benchmarks.official.sat import text_match
from mirage_core.errors import DataError
from mirage_core.types import Problem, Score, Split

NAME = "sat"
SOURCE = "array/SAT"
# The data set's own types: motion of objects or of the viewer (dynamic), and one frame (static).
DYNAMIC = ("action_consequence", "action_sequence", "ego_movement", "goal_aim", "obj_movement", "perspective")
GROUPS = (*DYNAMIC, "static")
IMAGE_COLUMNS = ("image_bytes", "images")
"""Of SAT, and of SAT-v2."""
OFFICIAL_RULE = "sat-official"
RULES = (*LETTER_RULES, OFFICIAL_RULE)
ORDERS = OptionOrders("both-orders", 2, per_row=True)


def load(file: str | object, split: Split = "test") -> list[Problem]:
    """Every row of a file, folder or hub id; DataError names the row."""
    rows = published_rows(str(file), split=split)
    return [problem for problems in converted(rows, lambda row: [*problems_of_row(row, split)]) for problem in problems]


def problems_of_row(row: PublishedRow, split: Split) -> Iterator[Problem]:
    """The problems of a row: both orders of the options for testing, one for training.

    The id contains the digest of the row's question and images: a row has the same id in any file.
    """
    question, answers, right = row.text("question"), row.texts("answers"), row.text("correct_answer")
    column = next((name for name in IMAGE_COLUMNS if name in row.values), IMAGE_COLUMNS[0])
    encoded = row.value(column)
    if not isinstance(encoded, list) or not encoded:
        raise DataError(f"{row.where}: {column} is {type(encoded).__name__}, expected a list of images")
    images = tuple(row.image(image, f"image {number}") for number, image in enumerate(encoded, start=1))
    if right not in answers:
        raise DataError(f"{row.where}: correct_answer {right!r:.200} is none of the answers {answers!r:.300}")
    digest = _digest(question, images)
    orders = [answers, answers[::-1]]
    chosen = range(2) if split == "test" else [int(digest[0], 16) % 2]
    for order in chosen:
        yield _problem(f"{NAME}-{digest[:16]}-{order}", split, row, question, orders[order], right, images, order)


def _problem(
    identity: str,
    split: Split,
    row: PublishedRow,
    question: str,
    options: list[str],
    right: str,
    images: tuple[bytes, ...],
    order: int,
) -> Problem:
    try:
        words = with_options("<image>\n" * len(images) + question.strip(), options)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    kind = row.text("question_type")
    return Problem(
        id=identity,
        benchmark=NAME,
        split=split,
        group=kind if kind in DYNAMIC else "static",
        question=words,
        images=images,
        answer=LETTERS[options.index(right)],
        facts={"options": options, "order": order, "type": kind, "scene": question.strip()},
    )


def _digest(question: str, images: tuple[bytes, ...]) -> str:
    digest = hashlib.sha256(question.encode())
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Compare the chosen letter with the answer, or under ``sat-official`` the words with the right option's."""
    check_rule(rule, (*RULES, OFFICIAL), NAME)
    if rule not in (OFFICIAL, OFFICIAL_RULE):
        return score_letter(problem, output, rule)
    right = problem.facts["options"][LETTERS.index(problem.answer)]
    correct, words = text_match(output, str(problem.facts.get("scene", problem.question)), right)
    return Score(problem_id=problem.id, correct=correct, parsed=words, rule=OFFICIAL_RULE)


def official_prompt(problem: Problem) -> str:
    """SAT's own prompt (custom_datasets/dataloaders.py): in words, the options in quotes, no letters."""
    options = " or ".join(f'"{option}"' for option in problem.facts["options"])
    return (
        "<image>" * len(problem.images) + f"\nAnswer in natural language. {problem.facts['scene']} Answer the question "
        f"using a single word or phrase. Choose between the following options: {options}."
    )


BENCHMARK = Benchmark(
    NAME,
    GROUPS,
    RULES,
    load,
    score,
    prompt,
    ORDERS,
    official=OFFICIAL_RULE,
    official_prompt=official_prompt,
)
