"""``mirage data check|preview``: check and show training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.text import Text

from flows.commands.printing import console, print_line
from mirage_core import benchmarks
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.config import OwnData, Settings
from mirage_core.dataset_card.preview import Preview, preview, preview_page
from mirage_core.errors import DataError
from mirage_core.recipes import load
from mirage_core.types import AuxiliaryImage, ReasoningChain, TrainingExample
from tasks.paths import open_store

MAX_FAULTS = 50
_STYLES = {"prompt": "bright_black", "image": "blue", "latent": "bold yellow", "supervised": "green"}


def check(file: Path) -> None:
    """Read every line of a user's JSONL file; DataError lists every fault with its line."""
    faults: list[str] = []
    counts: Counter[str] = Counter()
    chains = 0
    for _, row, line_faults in jsonl_data.checked_rows(OwnData(file=str(file))):
        faults += line_faults
        if row is not None:
            counts[row[0].split] += 1
            chains += row[1] is not None and row[1].text_before is not None
    if faults:
        more = f"\n... and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise DataError(f"{len(faults)} faults in {file}:\n" + "\n".join(faults[:MAX_FAULTS]) + more)
    if not counts:
        raise DataError(f"{file} holds no lines; expected one JSON object a line, such as {jsonl_data.example_line()}")
    splits = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
    print_line(f"{file}: good. {counts.total()} problems ({splits}), {chains} with a chain of their own")
    print_line(f"train on it: mirage run --set problems.own.file={file}")


def show(source: str, recipe: str, sets: list[str], count: int, page: Path | None, store: str | None) -> None:
    """Print examples as the model sees them; ``page`` also writes them, with their images, as HTML."""
    settings = load(recipe, sets)
    benchmarks.use(settings.problems)
    previews = list(islice(_previews(source, settings, store), count))
    for example in previews:
        _print(example)
    if page is not None:
        page.write_text(preview_page(previews, f"{source}: {len(previews)} examples"), encoding="utf-8")
        print_line(f"written: {page}")


def _previews(source: str, settings: Settings, store: str | None) -> Iterator[Preview]:
    from mirage_core.latent.encoder import Encoder

    processor = _processor(settings)
    for example in _examples(source, store, settings):
        encoder = Encoder(processor, settings.latent, settings.prompt, example.chain.variant)
        yield preview(example, encoder, processor, settings.latent)


def _processor(settings: Settings) -> Any:
    """Return the processor of the recipe's base model (tokenizer and image sizes), without loading weights."""
    from mirage_core.model.loading import load_base_processor

    return load_base_processor(settings.model)


def _examples(source: str, store: str | None, settings: Settings) -> Iterator[TrainingExample]:
    """Return the training examples of an artifact (path or digest), or of a user's JSONL file."""
    if Path(source).is_file():
        return _own_examples(source, settings)
    from mirage_core.store.records import load_examples

    opened = open_store(store)
    return iter(load_examples(opened.fetch(opened.get(source))))


def _own_examples(file: str, settings: Settings) -> Iterator[TrainingExample]:
    """Yield the training lines, with their own chain or only the answer (for which a teacher would write a chain)."""
    for row in jsonl_data.rows_of(OwnData(file=file)):
        given = row.provided
        if given is None:
            continue
        chain = ReasoningChain(
            problem_id=row.problem.id,
            variant=settings.teacher.variant if given.text_before is not None else "direct",
            text_before=given.text_before or "",
            text_after=given.text_after or f"\\boxed{{{row.problem.answer}}}",
            teacher="data set" if given.text_before is not None else "none yet: only the answer is shown",
        )
        image = AuxiliaryImage(problem_id=row.problem.id, image=given.image, style=given.style)
        yield TrainingExample(problem=row.problem, auxiliary_image=image, chain=chain)


def _print(example: Preview) -> None:
    console.print(
        f"\n{example.problem_id}: {example.benchmark}, {example.group}, {example.split}; {example.tokens} tokens, "
        f"{example.supervised} supervised; chain by {example.teacher}",
        style="bold",
        markup=False,
    )
    text = Text()
    for piece in example.pieces:
        text.append(piece.text, style=_STYLES[piece.part])
    console.print(text)
    print_line("the latent of each patch of the auxiliary image:")
    for row in example.cells:
        print_line("  " + " ".join(f"{cell:2}" if cell >= 0 else " -" for cell in row))
