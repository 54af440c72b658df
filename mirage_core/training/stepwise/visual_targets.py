"""Targets that images alone give: where each frame changes, and the appearance of what is there then.

Computed once before training, by all processes together, and read from files; frames are never all in memory.
Legend: n frames of a film, W tokens of the problem's first image, D hidden, C codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.config import StepwiseSettings
from mirage_core.distributed.collectives import wait_for_all
from mirage_core.distributed.context import current_process
from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.frame_changes import changed_tokens
from mirage_core.model.backbone import Backbone
from mirage_core.store.records import iter_examples
from mirage_core.training.stepwise.codebook import Codebook, make_codebook
from mirage_core.training.stepwise.targets import StepTargets, frames_of_latents, rows_of_frames
from mirage_core.types import Split, TrainingExample
from mirage_core.worlds.maze import picture_bytes

SAMPLE = 512
"""Examples whose frames make the codebook, from the first of the split on."""
_CODEBOOK_FILE = "codebook.safetensors"


@dataclass(frozen=True, slots=True)
class FilmReader:
    """Reads what a film shows, as one model sees it."""

    encoder: Encoder
    backbone: Backbone
    settings: StepwiseSettings

    def changes(self, example: TrainingExample) -> Tensor:
        """Return the tokens of the problem's first image that each frame changes, bool [n, W]; [n, 0] without one."""
        frames = _frames(example)
        if not example.problem.images:
            return torch.zeros(len(frames), 0, dtype=torch.bool)
        what = f"an image of problem {example.problem.id}"
        image, *shown = (read_rgb(data, what) for data in (example.problem.images[0], *frames))
        shown = [frame if frame.size == image.size else frame.resize(image.size) for frame in shown]
        grid = self.encoder.token_grid(example.problem.images[0], what)
        return torch.from_numpy(changed_tokens(image, shown, grid, self.settings.tolerance))

    @torch.no_grad()
    def features(self, example: TrainingExample, changes: Tensor) -> list[Tensor]:
        """Return the features of each frame where it changes, [m, D] each; of all its tokens without an input image."""
        frames = _frames(example)
        if example.problem.images:
            frames = _in_size_of(example.problem.images[0], frames, example.problem.id)
        pixels, grids = self.encoder.pixels(frames, f"a frame of problem {example.problem.id}")
        images = self.backbone.image_features(pixels.to(self.backbone.device), grids)
        merged = [self.backbone.merged(image).float().cpu() for image in images]
        if not changes.shape[1]:
            return merged
        return [image[mask] for image, mask in zip(merged, changes, strict=True)]


def _frames(example: TrainingExample) -> tuple[bytes, ...]:
    if not example.film:
        raise DataError(
            f"the auxiliary image of problem {example.problem.id} has no frames, which stepwise grounding needs: set "
            "auxiliary_images.film to forward"
        )
    return example.film


def _in_size_of(image: bytes, frames: Sequence[bytes], problem: str) -> tuple[bytes, ...]:
    """Return frames in the size of an image, so that their tokens are in the same places."""
    size = read_rgb(image, f"an image of problem {problem}").size
    opened = [read_rgb(frame, f"a frame of problem {problem}") for frame in frames]
    return tuple(
        data if frame.size == size else picture_bytes(frame.resize(size))
        for data, frame in zip(frames, opened, strict=True)
    )


def shared_codebook(
    reader: FilmReader, examples: Path, settings: StepwiseSettings, folder: Path, seed: int
) -> Codebook:
    """Return the codebook of the training frames; process 0 makes it, the others read its file in ``folder``."""
    file = folder / _CODEBOOK_FILE
    if current_process().is_main:
        folder.mkdir(parents=True, exist_ok=True)
        sample = islice(iter_examples(examples, "train"), SAMPLE)
        features = [part for each in sample for part in reader.features(each, reader.changes(each))]
        book = make_codebook(torch.cat(features), settings.codebook_size, seed)
        save_file({"centre": book.centre, "codes": book.codes}, file)
    wait_for_all()
    return Codebook(**load_file(file))


class VisualTargets:
    """The targets of the examples that all processes have read, mapped from their files; by frame, not by latent."""

    def __init__(self, files: Sequence[Path], settings: StepwiseSettings, latents: Callable[[int], int]) -> None:
        """``latents`` returns the number of latents of the example of an index."""
        self._settings, self._latents = settings, latents
        self._tables = [load_file(file) for file in files]
        self._places = {
            index: (table, row) for table in self._tables for row, index in enumerate(table["index"].tolist())
        }

    def get(self, index: int) -> StepTargets:
        """Return the targets of an example; KeyError for one that was not read."""
        table, row = self._places[index]
        end, frames = int(table["ends"][row]), int(table["frames"][row])
        width, first = int(table["widths"][row]), int(table["where_starts"][row])
        where = table["where"][first : first + frames * width].view(frames, width)
        what = table["what"][end - frames : end]
        chosen = frames_of_latents(frames, self._latents(index), self._settings)
        return StepTargets(where=rows_of_frames(where, chosen), what=rows_of_frames(what, chosen))


@dataclass(frozen=True, slots=True)
class _Read:
    """What one example shows: ``where`` bool [n, W], ``what`` [n, C] or [n, D]."""

    index: int
    where: Tensor
    what: Tensor


def read_films(
    reader: FilmReader,
    examples: Path,
    split: Split,
    indices: Sequence[int],
    folder: Path,
    describe: Callable[[Sequence[Tensor]], Tensor] | None,
) -> list[Path]:
    """Read the films of the examples with these indices into files in ``folder``, each process a part; return them.

    ``describe`` makes the targets of ``what`` [n, C] from the features of each frame; None: there are none.
    """
    process = current_process()
    folder.mkdir(parents=True, exist_ok=True)
    share = frozenset(process.share(sorted(indices)))
    chosen = ((index, each) for index, each in enumerate(iter_examples(examples, split)) if index in share)
    save_file(_table(list(_read_all(reader, chosen, describe))), folder / f"films-{process.rank}.safetensors")
    wait_for_all()
    return [folder / f"films-{rank}.safetensors" for rank in range(process.world_size)]


def _read_all(
    reader: FilmReader,
    examples: Iterator[tuple[int, TrainingExample]],
    describe: Callable[[Sequence[Tensor]], Tensor] | None,
) -> Iterator[_Read]:
    for index, example in examples:
        where = reader.changes(example)
        nothing = torch.zeros(len(where), 0)
        what = nothing if describe is None else describe(reader.features(example, where))
        yield _Read(index, where, what)


def _table(read: Sequence[_Read]) -> dict[str, Tensor]:
    """Concatenate what was read: one row of ``what`` a frame, the bits of ``where`` end to end."""
    frames = torch.tensor([len(each.where) for each in read], dtype=torch.long)
    sizes = torch.tensor([each.where.numel() for each in read], dtype=torch.long)
    return {
        "index": torch.tensor([each.index for each in read], dtype=torch.long),
        "frames": frames,
        "ends": frames.cumsum(0),
        "widths": torch.tensor([each.where.shape[1] for each in read], dtype=torch.long),
        "where_starts": sizes.cumsum(0) - sizes,
        "where": torch.cat([torch.zeros(0, dtype=torch.bool), *(each.where.flatten() for each in read)]),
        "what": torch.cat([each.what for each in read]) if read else torch.zeros(0, 0),
    }


def code_shares(book: Codebook) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return the targets of a codebook head: how many of a frame's changed tokens look like each code [n, C]."""

    def describe(features: Sequence[Tensor]) -> Tensor:
        counts = [torch.bincount(book.nearest(frame), minlength=len(book.codes)).float() for frame in features]
        return torch.stack(counts)

    return describe


def mean_features(book: Codebook) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return the targets of a contrastive head: the mean centred feature of a frame's changed tokens [n, D]."""

    def describe(features: Sequence[Tensor]) -> Tensor:
        means = [book.centred(frame).mean(0) if len(frame) else torch.zeros_like(book.centre) for frame in features]
        return torch.stack(means)

    return describe
