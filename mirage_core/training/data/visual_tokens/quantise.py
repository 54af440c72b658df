"""The codebook of pictures, and the codes of examples: k-means over image features, then the nearest centre.

Legend: N patches of the sample, C codes, D hidden, k codes of an example.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.config import VisualTokenSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.latent.visual_codes import with_codes
from mirage_core.store.records import iter_examples
from mirage_core.training.data.visual_tokens.code_sheet import SHEET_FILE, CodeSheet
from mirage_core.training.data.visual_tokens.pictures import PictureReader
from mirage_core.training.stepwise.codebook import Codebook, make_codebook
from mirage_core.types import Progress, ProgressEvent, TrainingExample

CODEBOOK_FILE = "visual_codes.safetensors"
"""``centre`` [D] and ``codes`` [C, D], beside the examples that hold codes and the model that writes them."""
PATCHES_PER_EXAMPLE = 128
"""The most patches of an example in the sample, drawn at random: it bounds memory (7B, 512 examples: under 1 GB)."""
REPORT_EVERY = 256
Place = tuple[int, int, int]
"""Of a patch: the number of its example in the split, the picture, and the token."""


@dataclass(frozen=True)
class _Sample:
    """What the codebook is made from: ``patches`` [N, D] and their ``places``, and the ``pooled`` features."""

    patches: Tensor
    places: list[Place]
    pooled: Tensor


def make_codes(
    reader: PictureReader, examples: Path, settings: VisualTokenSettings, seed: int
) -> tuple[Codebook, CodeSheet]:
    """Return the codebook of the first training examples, and the patch that is nearest to each code.

    The same examples, model and seed give the same codebook. DataError for fewer different features than codes, and
    without a training example.
    """
    sample = _sample(reader, examples, settings, seed)
    features = sample.patches if settings.codebook_of == "patches" else sample.pooled
    book = make_codebook(features, settings.codebook_size, seed, setting="visual_tokens.codebook_size")
    nearest = nearest_patches(book, sample.patches)
    return book, CodeSheet.of(_tiles(reader, examples, [sample.places[at] for at in nearest]))


def nearest_patches(book: Codebook, patches: Tensor) -> list[int]:
    """Return the patch [N, D] that is nearest to each code [C]; the first of equal ones."""
    nearest: list[int] = torch.cdist(book.codes, book.centred(patches)).argmin(1).tolist()
    return nearest


def _sample(reader: PictureReader, examples: Path, settings: VisualTokenSettings, seed: int) -> _Sample:
    generator = torch.Generator().manual_seed(seed)
    patches: list[Tensor] = []
    pooled: list[Tensor] = []
    places: list[Place] = []
    for number, example in enumerate(islice(iter_examples(examples, "train"), settings.codebook_examples)):
        seen = reader.read(example)
        chosen = torch.randperm(len(seen.patches), generator=generator)[:PATCHES_PER_EXAMPLE]
        patches.append(seen.patches[chosen])
        pooled.append(seen.pooled)
        places += [(number, picture, token) for picture, token in seen.places[chosen].tolist()]
    if not patches:
        raise DataError(f"{examples} has no example of the split train, which a codebook needs; raise problems.*.train")
    return _Sample(torch.cat(patches), places, torch.cat(pooled))


def _tiles(reader: PictureReader, examples: Path, places: list[Place]) -> list[Image.Image]:
    """Return what is to be seen at these places; the examples are read again, up to the last that is needed."""
    wanted: dict[int, list[int]] = {}
    for code, (number, _, _) in enumerate(places):
        wanted.setdefault(number, []).append(code)
    tiles: dict[int, Image.Image] = {}
    for number, example in enumerate(islice(iter_examples(examples, "train"), max(wanted) + 1)):
        for code in wanted.get(number, ()):
            tiles[code] = reader.tile(example, places[code][1:])
    return [tiles[code] for code in range(len(places))]


@dataclass
class Quantiser:
    """Gives examples their codes, and counts which codes occur and how much of the features they keep."""

    reader: PictureReader
    book: Codebook
    used: set[int] = field(default_factory=set)
    _count: int = 0
    _squares: float = 0.0
    _errors: float = 0.0
    _sum: Tensor | float = 0.0

    def quantised(self, examples: Iterable[TrainingExample], progress: Progress) -> Iterator[TrainingExample]:
        """Yield the examples with the codes [k] nearest to what is quantised of each, and without frames."""
        for number, example in enumerate(examples):
            pooled = self.reader.read(example).pooled
            codes = self.book.nearest(pooled)
            self._add(self.book.centred(pooled).double(), codes)
            yield with_codes(example, codes.tolist())
            if not (number + 1) % REPORT_EVERY:
                progress(ProgressEvent(stage="visual-codes", message=f"{number + 1} pictures quantised"))

    def _add(self, vectors: Tensor, codes: Tensor) -> None:
        self.used.update(codes.tolist())
        self._count += len(vectors)
        self._sum = self._sum + vectors.sum(0)
        self._squares += float(vectors.square().sum())
        self._errors += float((vectors - self.book.codes[codes]).square().sum())

    @property
    def explained(self) -> float:
        """The share of the variance of what was quantised that the codes keep: 1 without any error, 0 for the mean."""
        mean = torch.as_tensor(self._sum) / max(1, self._count)
        variance = self._squares - self._count * float(mean.square().sum())
        return 1.0 - self._errors / variance if variance > 0 else 1.0


def save_codebook(folder: Path, book: Codebook) -> None:
    """Write a codebook into a folder."""
    save_file({"centre": book.centre, "codes": book.codes.contiguous()}, folder / CODEBOOK_FILE)


def load_codebook(folder: Path) -> Codebook:
    """Read the codebook of a folder; DataError where it has none."""
    file = folder / CODEBOOK_FILE
    if not file.is_file():
        raise DataError(
            f"{folder} has no {CODEBOOK_FILE}: explicit visual tokens are trained on the examples of the stage "
            "visual-codes, which come with their codebook"
        )
    return Codebook(**load_file(file))


def count_codes(examples: Path, settings: VisualTokenSettings) -> int:
    """Return the number of codes of a folder's examples. DataError without a codebook, SettingsError for another size.

    A model's record says what its recipe says, so the two must agree.
    """
    size = len(load_codebook(examples).codes)
    if size != settings.codebook_size:
        raise SettingsError(
            f"{examples} holds codes of a codebook of {size}, and visual_tokens.codebook_size is "
            f"{settings.codebook_size}: set it to {size}, or use the recipe's own examples"
        )
    return size


def copy_codebook(source: Path, model: Path) -> None:
    """Put the codebook and its sheet, of examples or of another model, beside one, so that what it writes is shown."""
    for name in (CODEBOOK_FILE, SHEET_FILE):
        shutil.copyfile(source / name, model / name)
