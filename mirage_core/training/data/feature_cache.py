"""Examples made ready once: token ids, labels and, where the vision tower is frozen, the features of their pictures.

Processes share the work through files: each prepares its part, all map every part into memory, so that
the features exist once on the machine. Legend: F width of image features, n merged tokens of an image.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.distributed.collectives import added, group_size, wait_for_all
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedExample, no_pixels
from mirage_core.model.backbone import Backbone
from mirage_core.types import Progress, ProgressEvent, TrainingExample

FEATURE_LIMIT_BYTES = 2 * 1024**3
CHUNK = 32
REPORT_EVERY_S = 2.0

Encode = Callable[[int], EncodedExample]


class Source(Protocol):
    """Where the loop takes its examples from."""

    def get(self, index: int) -> EncodedExample:
        """The example of that index."""


@dataclass(frozen=True)
class EncodedOnDemand:
    """Examples encoded whenever they are needed, pixels included: for trained vision towers and large data."""

    encode: Encode

    def get(self, index: int) -> EncodedExample:
        """Encode the example now."""
        return self.encode(index)


def prepare(
    used: Sequence[int],
    encode: Encode,
    backbone: Backbone,
    folder: Path,
    rank: int,
    world_size: int,
    tell: Progress,
    *,
    limit_bytes: int = FEATURE_LIMIT_BYTES,
) -> Source:
    """Examples with the features of their images, computed once; on demand where these exceed ``limit_bytes``.

    ``folder``: local, the same for all processes, empty. ``tell`` hears how far it is.
    """
    mine = used[rank::world_size]
    if not _fits(mine, encode, backbone, len(used), limit_bytes):
        message = (
            f"the features of {len(used)} examples exceed {limit_bytes >> 20} MiB: pictures are encoded at every step"
        )
        tell(ProgressEvent(stage="prepare", message=message))
        return EncodedOnDemand(encode)
    folder.mkdir(parents=True, exist_ok=True)
    ready = [example for part in _ready(mine, encode, backbone, tell) for example in part]
    save_file(_packed(mine, ready, backbone), folder / f"part-{rank}.safetensors")
    wait_for_all()
    return Prepared([folder / f"part-{part}.safetensors" for part in range(world_size)])


def _fits(mine: Sequence[int], encode: Encode, backbone: Backbone, total: int, limit_bytes: int) -> bool:
    """Whether the features of all examples stay below the limit, judged by the first few of every process."""
    sample = _featured([encode(index) for index in mine[:8]], backbone)
    features = [tensor for ready in sample for tensor in ready.image_features + ready.auxiliary_features]
    held = sum(tensor.numel() * tensor.element_size() for tensor in features)
    seen = added({"bytes": held, "examples": len(sample)})
    return seen["bytes"] / max(1.0, seen["examples"]) * total <= limit_bytes


def _ready(mine: Sequence[int], encode: Encode, backbone: Backbone, tell: Progress) -> Iterator[list[EncodedExample]]:
    told = time.monotonic()
    for start in range(0, len(mine), CHUNK):
        yield _featured([encode(index) for index in mine[start : start + CHUNK]], backbone)
        release_memory()
        if time.monotonic() - told > REPORT_EVERY_S:
            told = time.monotonic()
            done = min(start + CHUNK, len(mine))
            tell(ProgressEvent(stage="prepare", message=f"prepared {done} of {len(mine)} examples of this process"))


@torch.no_grad()
def _featured(encoded: list[EncodedExample], backbone: Backbone) -> list[EncodedExample]:
    """Examples with the features of their images in place of the pixels."""
    images = _features(backbone, [(e.pixel_values, e.grid_thw) for e in encoded])
    auxiliary = _features(backbone, [(e.auxiliary_pixel_values, e.auxiliary_grid_thw) for e in encoded])
    return [
        replace(
            example,
            pixel_values=no_pixels(),
            auxiliary_pixel_values=no_pixels(),
            image_features=image,
            auxiliary_features=tuple(backbone.merged(features) for features in imagined),
        )
        for example, image, imagined in zip(encoded, images, auxiliary, strict=True)
    ]


def _features(backbone: Backbone, images: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, ...]]:
    """Merged features of the images of every example, on the CPU."""
    present = [pair for pair in images if len(pair[1])]
    if not present:
        return [() for _ in images]
    pixels, grids = (torch.cat(tensors) for tensors in zip(*present, strict=True))
    found = iter([features.cpu() for features in backbone.image_features(pixels, grids)])
    return [tuple(next(found) for _ in range(len(grid))) for _, grid in images]


def release_memory() -> None:
    """Give freed memory back to the system, where the C library knows how (glibc).

    Pixels of a few hundred KB come and go between small tensors that stay; without this the holes they leave
    are kept for the rest of the training.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_TABLES = (
    "ids", "labels", "grid_thw", "auxiliary_grid_thw", "image_features", "auxiliary_features", "auxiliary_kept",
)  # fmt: skip


def _packed(indices: Sequence[int], ready: Sequence[EncodedExample], backbone: Backbone) -> dict[str, Tensor]:
    """All examples of a process end to end: seven tables, and the number of rows of each example in each of them."""
    rows = [_rows(example, backbone) for example in ready]
    tables = {name: torch.cat([row[name] for row in rows]) for name in _TABLES} if rows else {}
    lengths = [[len(row[name]) for name in _TABLES] for row in rows]
    return {
        **tables,
        "index": torch.tensor(list(indices), dtype=torch.long),
        "lengths": torch.tensor(lengths, dtype=torch.long).reshape(len(rows), len(_TABLES)),
    }


def _rows(example: EncodedExample, backbone: Backbone) -> dict[str, Tensor]:
    return {
        "ids": example.ids,
        "labels": example.labels,
        "grid_thw": example.grid_thw,
        "auxiliary_grid_thw": example.auxiliary_grid_thw,
        "image_features": _joined(example.image_features, backbone.feature_size),
        "auxiliary_features": _joined(example.auxiliary_features, backbone.hidden_size),
        "auxiliary_kept": torch.cat([torch.empty(0, dtype=torch.bool), *example.auxiliary_kept]),
    }


def _joined(features: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat(list(features)) if features else torch.empty(0, width)


class Prepared:
    """The examples that all processes prepared, mapped from their files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts = [load_file(file) for file in files]  # mapped, not read
        self._ends = [part["lengths"].cumsum(0) for part in self._parts]
        self._place = {
            index: (number, row)
            for number, part in enumerate(self._parts)
            for row, index in enumerate(part["index"].tolist())
        }

    def get(self, index: int) -> EncodedExample:
        """One example; KeyError for one that was not prepared."""
        number, row = self._place[index]
        part, ends = self._parts[number], self._ends[number][row].tolist()
        lengths = part["lengths"][row].tolist()
        ids, labels, grid, auxiliary_grid, images, auxiliary, kept = (
            part[name][end - length : end] for name, end, length in zip(_TABLES, ends, lengths, strict=True)
        )
        return EncodedExample(
            ids=ids,
            labels=labels,
            pixel_values=no_pixels(),
            grid_thw=grid,
            auxiliary_pixel_values=no_pixels(),
            auxiliary_grid_thw=auxiliary_grid,
            image_features=_by_image(images, grid),
            auxiliary_features=_by_image(auxiliary, auxiliary_grid),
            auxiliary_kept=_by_image(kept, auxiliary_grid),
        )


def _by_image(features: Tensor, grid_thw: Tensor) -> tuple[Tensor, ...]:
    """Features of several images end to end, cut by image: as many rows each as its share of the patches."""
    patches = grid_thw.prod(1)
    if not len(patches) or not len(features):
        return ()
    merged = int(patches.sum()) // len(features)
    return features.split((patches // merged).tolist())


def lengths_of(
    examples: Sequence[TrainingExample], encoder: Encoder, *, with_latents: bool, rank: int, world_size: int
) -> list[int]:
    """Tokens of every example as it is trained on, those of its pictures too; no picture is decoded for that."""
    found = torch.zeros(len(examples), dtype=torch.int64)
    for index in range(rank, len(examples), world_size):
        found[index] = encoder.length(examples[index], with_latents=with_latents)
    if group_size() > 1:
        dist.all_reduce(found)
    lengths: list[int] = found.tolist()
    return lengths
