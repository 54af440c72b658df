"""Stage ``examples``: problems of the train and validation splits with their pictures and a teacher's chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.stage import Cut, Share, Stage, StageContext
from mirage_core.pipeline.stages.auxiliary_images import auxiliary_images_identity
from mirage_core.pipeline.stages.problems import problems_identity
from mirage_core.store.records import (
    EXAMPLES_FILE,
    REJECTIONS_FILE,
    count_problems,
    iter_auxiliary_images,
    iter_problems,
    load_examples,
    load_given,
    load_rejections,
    save_examples,
    save_rejections,
)
from mirage_core.types import AuxiliaryImage, Problem, Progress, Rejection, TrainingExample

if TYPE_CHECKING:
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.teacher.protocol import Taught
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirage_core.dataset_card.statistics import Tally


CARD_FILE, CARD_PAGE = "card.json", "card.md"
SHEET_FILE, SHEET_PAGE = "contact-sheet.png", "contact-sheet.html"


def write_card(
    context: StageContext,
    tally: Tally,
    rejections: Sequence[Rejection],
    settings: Mapping[str, Any],
    tests: Iterable[Problem],
) -> None:
    """Write the card and the contact sheet into the output folder; ``tests`` are looked through for duplicates."""
    from mirage_core.dataset_card.card import card_markdown, data_card
    from mirage_core.dataset_card.contact_sheet import contact_page, contact_sheet
    from mirage_core.dataset_card.duplicates import trace_of

    inputs = {name: artifact.digest for name, artifact in sorted(context.inputs.items())}
    card = data_card(tally, rejections, [trace_of(problem) for problem in tests], settings, inputs)
    write_json(context.output / CARD_FILE, card)
    (context.output / CARD_PAGE).write_text(card_markdown(card), encoding="utf-8")
    (context.output / SHEET_FILE).write_bytes(contact_sheet(tally.sample()))
    page = contact_page(tally.sample(), f"A sample of {tally.total} examples")
    (context.output / SHEET_PAGE).write_text(page, encoding="utf-8")


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whose bytes depend on its content only."""
    file.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


ACCOUNT_FILE = "account.json"
WINDOW = 256
WHOLE = Share(index=0, count=1)


def examples_identity(settings: Settings) -> dict[str, Any]:
    """The teacher, its prompts by content; what it sees comes with the inputs' digests."""
    from mirage_core.teacher import teacher_identity

    return {"teacher": teacher_identity(settings.teacher)}


def run_examples(context: StageContext) -> dict[str, Any]:
    """Let the teacher write the chains; test problems never become examples. The summary names the teacher."""
    return _save(context, _write(context, WHOLE), described=True)


def run_share(context: StageContext, share: Share) -> dict[str, Any]:
    """Let the teacher write the chains of a share of the problems."""
    return _save(context, _write(context, share))


def merge_shares(context: StageContext, folders: Sequence[Path]) -> dict[str, Any]:
    """Put the examples and rejections of all shares into one table each, in the order of the problems."""
    return _save(context, map(_of_folder, folders), described=True)


def _of_folder(folder: Path) -> Taught:
    from mirage_core.teacher.protocol import Taught

    return Taught(examples=load_examples(folder), rejections=load_rejections(folder))


def _pieces(context: StageContext) -> int:
    """The number of problems; an endpoint is asked by one process, since its limits are counted there."""
    return _count(context) if context.settings.teacher.kind == "oracle" else 1


def _count(context: StageContext) -> int:
    return count_problems(context.input_paths["problems"], without="test")


def _write(context: StageContext, share: Share) -> Iterator[Taught]:
    """What the teacher makes of a share, window by window: the oracle's problems are never in memory all at once.

    An endpoint is given all its problems together, so that no window waits for the slowest answer of the one before.
    """
    from mirage_core.teacher import make_teacher, teach

    settings = context.settings
    teacher = make_teacher(settings.teacher, settings.runtime.teacher, context.store)
    given = load_given(context.input_paths["problems"])
    begin, end = share.bounds(_count(context))
    lessons = islice(_lessons(context), begin, end)
    size = WINDOW if settings.teacher.kind == "oracle" else max(1, end - begin)
    done = 0
    while window := list(islice(lessons, size)):
        problems, pictures = zip(*window, strict=True)
        progress = _onward(context.progress, done, end - begin)
        yield teach(teacher, problems, pictures, settings.teacher.variant, progress, given=given)
        done += len(window)


def _onward(progress: Progress, done: int, total: int) -> Progress:
    """The progress of a window as progress of the whole."""
    return lambda event: progress(event if event.step is None else replace(event, step=done + event.step, total=total))


def _lessons(context: StageContext) -> Iterator[tuple[Problem, AuxiliaryImage]]:
    """The problems that are taught, each with its picture: pictures stand in the order of the problems."""
    pictures = iter_auxiliary_images(context.input_paths["auxiliary_images"])
    for problem in iter_problems(context.input_paths["problems"]):
        if problem.split == "test":
            continue
        picture = next((found for found in pictures if found.problem_id == problem.id), None)
        if picture is None:
            raise InputError(f"problem {problem.id} has no auxiliary image; draw one for every problem first")
        yield problem, picture


def _save(context: StageContext, parts: Iterable[Taught], *, described: bool = False) -> dict[str, Any]:
    """Write examples, rejections and the account; requests, money and seconds go into the summary alone."""
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.teacher.protocol import counts

    tally, rejections = Tally(), []
    account: dict[str, Any] = {}
    passing: dict[str, Any] = {}

    def written() -> Iterator[TrainingExample]:
        for part in parts:
            rejections.extend(part.rejections)
            account.update(part.account)  # only an endpoint has one, and it comes in one part
            passing.update(part.passing)
            yield from tally.noted(part.examples)

    save_examples(context.output / EXAMPLES_FILE, written())
    save_rejections(context.output / REJECTIONS_FILE, rejections)
    told = counts(tally.writers, rejections)
    write_json(context.output / ACCOUNT_FILE, {**told, **account})
    if described:
        _describe(context, tally, rejections)
    return {
        "examples": tally.total,
        **tally.splits,
        "teacher": ", ".join(told["written_by"]) or "nobody",
        "variant": context.settings.teacher.variant,
        "left_out": told["left_out"],
        "rejected": told["rejected"],
        **({"account": {**account, **passing}} if account else {}),
    }


def _describe(context: StageContext, tally: Tally, rejections: Sequence[Rejection]) -> None:
    """Write the card and the contact sheet, for people."""
    settings = {
        **problems_identity(context.settings),
        **auxiliary_images_identity(context.settings),
        **examples_identity(context.settings),
    }
    write_card(context, tally, rejections, settings, iter_problems(context.input_paths["problems"], "test"))


EXAMPLES = Stage(
    name="examples",
    version=2,
    kind="examples",
    inputs=("problems", "auxiliary_images"),
    identity=examples_identity,
    run=run_examples,
    cut=Cut(pieces=_pieces, run=run_share, merge=merge_shares),
)
