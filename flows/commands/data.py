"""``mirage data check|preview``: check and show training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flows.commands.printing import console, print_line
from mirage_core import benchmarks
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.config import OwnData, Settings
from mirage_core.dataset_card.preview import Preview, preview, preview_page
from mirage_core.errors import DataError
from mirage_core.image_files import remarks
from mirage_core.recipes import load
from mirage_core.teacher.checks import chain_faults
from mirage_core.types import AuxiliaryImage, Problem, ProvidedImage, ReasoningChain, TrainingExample, Variant
from tasks.paths import open_store

if TYPE_CHECKING:
    from mirage_core.latent.encoder import Encoder

MAX_FAULTS = 50
_STYLES = {"prompt": "bright_black", "image": "blue", "latent": "bold yellow", "supervised": "green"}


def check(file: Path, recipe: str = "tiny", sets: list[str] | None = None) -> None:
    """Read every line of a user's JSONL file, and encode it as training does; DataError lists every fault by line."""
    trial = _Trial(load(recipe, sets or []))
    faults: list[str] = []
    counts: Counter[str] = Counter()
    chains = 0
    for line, row, line_faults in jsonl_data.checked_rows(OwnData(file=str(file))):
        faults += line_faults
        if row is not None:
            faults += [f"{file}, line {line}: {fault}" for fault in trial.faults(*row)]
            counts[row[0].split] += 1
            chains += row[1] is not None and row[1].text_before is not None
    if faults:
        more = f"\n... and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise DataError(f"{len(faults)} faults in {file}:\n" + "\n".join(faults[:MAX_FAULTS]) + more)
    if not counts:
        raise DataError(f"{file} holds no lines; expected one JSON object a line, such as {jsonl_data.example_line()}")
    splits = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
    print_line(f"{file}: good. {counts.total()} problems ({splits}), {chains} with a chain of their own")
    for remark, number in sorted(trial.remarks.items()):
        print_line(f"{number} {'image' if number == 1 else 'images'}: {remark}")
    print_line(f"train on it: mirage run --set problems.own.file={file}")


class _Trial:
    """Encodes lines as training does, with a recipe's prompt and processor."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processor = _processor(settings)
        self._encoders: dict[Variant, Encoder] = {}
        self.remarks: Counter[str] = Counter()
        """What a person should know of how images are read, with the number of such images."""

    def faults(self, problem: Problem, provided: ProvidedImage | None) -> list[str]:
        """Return why a line cannot be trained on or answered; empty where it can."""
        try:
            images = (*problem.images, *((provided.image,) if provided else ()))
            for number, image in enumerate(images, start=1):
                self.remarks.update(remarks(image, f"image {number}", self._settings.prompt.background))
            example = _own_example(problem, provided, self._settings) if provided else None
            encoder = self._encoder(example.chain.variant if example else self._settings.teacher.variant)
            if example is None:
                encoder.prompt(problem)
            else:
                encoder.example(example, with_latents=True, with_targets=True)
        except DataError as error:
            return [str(error)]
        if example is None or provided is None or provided.text_before is None:
            return []
        faults = chain_faults(replace(example.chain, variant="cot"), problem)
        return [f"its own chain would be left out: {fault}" for fault in faults]

    def _encoder(self, variant: Variant) -> Encoder:
        from mirage_core.latent.encoder import Encoder

        if variant not in self._encoders:
            settings = self._settings
            self._encoders[variant] = Encoder(self._processor, settings.latent, settings.prompt, variant)
        return self._encoders[variant]


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
        if row.provided is not None:
            yield _own_example(row.problem, row.provided, settings)


def _own_example(problem: Problem, provided: ProvidedImage, settings: Settings) -> TrainingExample:
    has_chain = provided.text_before is not None
    chain = ReasoningChain(
        problem_id=problem.id,
        variant=settings.teacher.variant if has_chain else "direct",
        text_before=provided.text_before or "",
        text_after=provided.text_after or f"\\boxed{{{problem.answer}}}",
        teacher="data set" if has_chain else "none yet: only the answer is shown",
    )
    image = AuxiliaryImage(problem_id=problem.id, image=provided.image, style=provided.style)
    return TrainingExample(problem=problem, auxiliary_image=image, chain=chain)


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
