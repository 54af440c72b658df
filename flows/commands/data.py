"""``mirage data check|preview``: look at data before it is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.text import Text

from flows.commands.printing import console
from mirage_core import benchmarks
from mirage_core.benchmarks.custom import jsonl_data as own
from mirage_core.config import OwnData, Settings
from mirage_core.dataset_card.preview import Preview, preview, preview_page
from mirage_core.errors import DataError
from mirage_core.recipes import load
from mirage_core.types import AuxiliaryImage, ReasoningChain, TrainingExample
from tasks.paths import open_store

SHOWN = 50
_STYLES = {"prompt": "bright_black", "image": "blue", "latent": "bold yellow", "supervised": "green"}


def check(file: Path) -> None:
    """Read every line of a user's JSONL file; DataError with every fault and its line where there are any."""
    faults: list[str] = []
    counts: Counter[str] = Counter()
    chains = 0
    for _, row, found in own.checked_rows(OwnData(file=str(file))):
        faults += found
        if row is not None:
            counts[row[0].split] += 1
            chains += row[1] is not None and row[1].text_before is not None
    if faults:
        more = f"\n... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{len(faults)} faults in {file}:\n" + "\n".join(faults[:SHOWN]) + more)
    if not counts:
        raise DataError(f"{file} holds no lines; expected one JSON object a line, such as {own.example_line()}")
    told = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
    console.print(f"{file}: good. {counts.total()} problems ({told}), {chains} with a chain of their own", markup=False)
    console.print(f"train on it: mirage run --set problems.own.file={file}", markup=False)


def show(source: str, recipe: str, sets: list[str], count: int, page: Path | None, store: str | None) -> None:
    """Print examples as the model will see them; ``page`` also writes them, with their pictures, as HTML."""
    settings = load(recipe, sets)
    benchmarks.use(settings.problems)
    previews = list(islice(_previews(source, settings, store), count))
    for one in previews:
        _print(one)
    if page is not None:
        page.write_text(preview_page(previews, f"{source}: {len(previews)} examples"), encoding="utf-8")
        console.print(f"written: {page}", markup=False)


def _previews(source: str, settings: Settings, store: str | None) -> Iterator[Preview]:
    from mirage_core.latent.encoder import Encoder

    processor = _processor(settings)
    for example in _examples(source, store, settings):
        encoder = Encoder(processor, settings.latent, settings.prompt, example.chain.variant)
        yield preview(example, encoder, processor, settings.latent)


def _processor(settings: Settings) -> Any:
    """The processor of the recipe's base model; only its tokenizer and picture sizes are needed, no weights."""
    from mirage_core.model.loading import load_processor_of

    return load_processor_of(settings.model)


def _examples(source: str, store: str | None, settings: Settings) -> Iterator[TrainingExample]:
    """Training examples of an artifact (path or digest), or of a user's JSONL file."""
    if Path(source).is_file():
        return _own_examples(source, settings)
    from mirage_core.store.records import load_examples

    opened = open_store(store)
    return iter(load_examples(opened.fetch(opened.get(source))))


def _own_examples(file: str, settings: Settings) -> Iterator[TrainingExample]:
    """The lines that are trained on, with their own chain or the bare answer (which a teacher would write round)."""
    for row in own.rows_of(OwnData(file=file)):
        given = row.given
        if given is None:
            continue
        chain = ReasoningChain(
            problem_id=row.problem.id,
            variant=settings.teacher.variant if given.text_before is not None else "direct",
            text_before=given.text_before or "",
            text_after=given.text_after or f"\\boxed{{{row.problem.answer}}}",
            teacher="data set" if given.text_before is not None else "nobody yet: the bare answer is shown",
        )
        picture = AuxiliaryImage(problem_id=row.problem.id, image=given.image, style=given.style)
        yield TrainingExample(problem=row.problem, auxiliary_image=picture, chain=chain)


def _print(one: Preview) -> None:
    console.print(
        f"\n{one.problem_id}: {one.benchmark}, {one.group}, {one.split}; {one.tokens} tokens, {one.supervised} "
        f"supervised; chain by {one.teacher}",
        style="bold",
        markup=False,
    )
    text = Text()
    for piece in one.pieces:
        text.append(piece.text, style=_STYLES[piece.part])
    console.print(text)
    console.print("the latent of each patch of the auxiliary image:", markup=False)
    for row in one.cells:
        console.print("  " + " ".join(f"{cell:2}" if cell >= 0 else " -" for cell in row), markup=False)
