"""Stage ``examples``: problems of the train and validation splits with their images and a teacher's chains."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.pipeline.stage import Sharding, ShardSpec, Stage, StageContext
from mirage_core.pipeline.stages.auxiliary_images import auxiliary_images_identity
from mirage_core.pipeline.stages.problems import problems_identity
from mirage_core.store.records import (
    EXAMPLES_FILE,
    REJECTIONS_FILE,
    count_problems,
    iter_auxiliary_images,
    iter_problems,
    load_examples,
    load_provided_images,
    load_rejections,
    save_examples,
    save_rejections,
)
from mirage_core.types import AuxiliaryImage, Problem, Progress, Rejection, TrainingExample

if TYPE_CHECKING:
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.teacher.protocol import TeachResult

CARD_FILE, CARD_PAGE = "card.json", "card.md"
SHEET_FILE, SHEET_PAGE = "contact-sheet.png", "contact-sheet.html"
ACCOUNT_FILE = "account.json"
WINDOW = 256
"""Problems that the oracle has in memory at a time."""
WHOLE = ShardSpec(index=0, count=1)


def write_card(
    context: StageContext,
    tally: Tally,
    rejections: Sequence[Rejection],
    settings: Mapping[str, Any],
    tests: Iterable[Problem],
) -> None:
    """Write the card and the contact sheet into the output folder; ``tests`` are searched for duplicates."""
    from mirage_core.dataset_card.card import card_markdown, data_card
    from mirage_core.dataset_card.contact_sheet import contact_page, contact_sheet
    from mirage_core.dataset_card.duplicates import problem_key

    inputs = {name: artifact.digest for name, artifact in sorted(context.inputs.items())}
    card = data_card(tally, rejections, [problem_key(problem) for problem in tests], settings, inputs)
    write_json(context.output / CARD_FILE, card)
    (context.output / CARD_PAGE).write_text(card_markdown(card), encoding="utf-8")
    (context.output / SHEET_FILE).write_bytes(contact_sheet(tally.sample()))
    page = contact_page(tally.sample(), f"A sample of {tally.total} examples")
    (context.output / SHEET_PAGE).write_text(page, encoding="utf-8")


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whose bytes depend on its content only."""
    file.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def examples_identity(settings: Settings) -> dict[str, Any]:
    """Return the teacher and its prompts by content; the problems come with the inputs' digests."""
    from mirage_core.teacher import teacher_identity

    return {"teacher": teacher_identity(settings.teacher)}


def run_examples(context: StageContext) -> dict[str, Any]:
    """Let the teacher write the chains; test problems never become examples. The summary names the teacher."""
    return _save(context, _write(context, WHOLE), with_card=True)


def write_shard(context: StageContext, spec: ShardSpec) -> dict[str, Any]:
    """Let the teacher write the chains of a shard of the problems."""
    return _save(context, _write(context, spec))


def merge_shards(context: StageContext, folders: Sequence[Path]) -> dict[str, Any]:
    """Write the examples and rejections of all shards into one table each, in the order of the problems."""
    return _save(context, map(_load_shard, folders), with_card=True)


def _load_shard(folder: Path) -> TeachResult:
    from mirage_core.teacher.protocol import TeachResult

    return TeachResult(examples=load_examples(folder), rejections=load_rejections(folder))


def _max_shards(context: StageContext) -> int:
    """Return the number of problems; 1 for an endpoint, whose rate limits are counted in one process."""
    return _count(context) if context.settings.teacher.kind == "oracle" else 1


def _count(context: StageContext) -> int:
    return count_problems(context.input_paths["problems"], without="test")


def _write(context: StageContext, spec: ShardSpec) -> Iterator[TeachResult]:
    """Yield the teacher's results of a shard, window by window: the oracle's problems are never all in memory.

    An endpoint gets all its problems together, so that no window waits for the slowest answer of the one before.
    """
    from mirage_core.teacher import make_teacher, teach

    settings = context.settings
    teacher = make_teacher(settings.teacher, settings.runtime.teacher, context.store)
    provided = load_provided_images(context.input_paths["problems"])
    begin, end = spec.bounds(_count(context))
    pairs = islice(_problems_with_images(context), begin, end)
    size = WINDOW if settings.teacher.kind == "oracle" else max(1, end - begin)
    done = 0
    while window := list(islice(pairs, size)):
        problems, images = zip(*window, strict=True)
        progress = _overall(context.progress, done, end - begin)
        yield teach(teacher, problems, images, settings.teacher.variant, progress, provided=provided)
        done += len(window)


def _overall(progress: Progress, done: int, total: int) -> Progress:
    """Report the progress of a window as that of all windows."""
    return lambda event: progress(event if event.step is None else replace(event, step=done + event.step, total=total))


def _problems_with_images(context: StageContext) -> Iterator[tuple[Problem, AuxiliaryImage]]:
    """Yield the training and validation problems with their images, which are stored in the order of the problems."""
    images = iter_auxiliary_images(context.input_paths["auxiliary_images"])
    for problem in iter_problems(context.input_paths["problems"]):
        if problem.split == "test":
            continue
        image = next((image for image in images if image.problem_id == problem.id), None)
        if image is None:
            raise InputError(f"problem {problem.id} has no auxiliary image; draw one for every problem first")
        yield problem, image


def _save(context: StageContext, parts: Iterable[TeachResult], *, with_card: bool = False) -> dict[str, Any]:
    """Write examples, rejections and the account; requests, money and seconds go into the summary alone."""
    from mirage_core.dataset_card.statistics import Tally
    from mirage_core.teacher.protocol import counts

    tally, rejections = Tally(), []
    usage: dict[str, Any] = {}
    this_run: dict[str, Any] = {}

    def written() -> Iterator[TrainingExample]:
        for part in parts:
            rejections.extend(part.rejections)
            usage.update(part.usage)  # only an endpoint has one, and it comes in one part
            this_run.update(part.this_run)
            yield from tally.count_all(part.examples)

    save_examples(context.output / EXAMPLES_FILE, written(), film=context.settings.keeps_frames)
    save_rejections(context.output / REJECTIONS_FILE, rejections)
    totals = counts(tally.writers, rejections)
    write_json(context.output / ACCOUNT_FILE, {**totals, **usage})
    if with_card:
        _write_card(context, tally, rejections)
    return {
        "examples": tally.total,
        **tally.splits,
        "teacher": ", ".join(totals["written_by"]) or "nobody",
        "variant": context.settings.teacher.variant,
        "left_out": totals["left_out"],
        "rejected": totals["rejected"],
        **({"account": {**usage, **this_run}} if usage else {}),
    }


def _write_card(context: StageContext, tally: Tally, rejections: Sequence[Rejection]) -> None:
    """Write the data set's card and contact sheet."""
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
    sharding=Sharding(max_shards=_max_shards, run=write_shard, merge=merge_shards),
)
