"""Examples encoded once: token ids, labels and, where the vision tower is frozen, the features of their images.

Processes share the work through files: each encodes its part, all map every part into memory, so that the features
exist once per machine. Legend: F width of image features, n merged tokens of an image.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.distributed.collectives import all_reduce_sum, sum_over_processes, wait_for_all
from mirage_core.distributed.context import current_process
from mirage_core.latent.encoder import Encoder, RegionLayout
from mirage_core.latent.examples import EncodedExample, no_pixels
from mirage_core.model.backbone import Backbone
from mirage_core.types import Progress, ProgressEvent, TrainingExample

FEATURE_LIMIT_BYTES = 2 * 1024**3
CHUNK = 32
REPORT_EVERY_S = 2.0
_TABLES = (
    "ids", "labels", "grid_thw", "auxiliary_grid_thw", "image_features", "auxiliary_features", "auxiliary_patch_masks",
    "region_tokens",
    "observed",
)  # fmt: skip

Encode = Callable[[int], EncodedExample]
"""Encodes the example of an index."""


class ExampleSource(Protocol):
    """Where the loop takes its encoded examples from."""

    def get(self, index: int) -> EncodedExample:
        """Return the example of an index."""


@dataclass(frozen=True)
class OnDemandSource:
    """Examples encoded whenever they are needed, pixels included: for trained vision towers and large data."""

    encode: Encode

    def get(self, index: int) -> EncodedExample:
        """Encode the example now."""
        return self.encode(index)


class FeatureCache:
    """The examples that all processes have encoded, mapped from their files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts = [load_file(file) for file in files]  # mapped, not read
        self._ends = [part["lengths"].cumsum(0) for part in self._parts]
        self._location = {
            index: (number, row)
            for number, part in enumerate(self._parts)
            for row, index in enumerate(part["index"].tolist())
        }

    def get(self, index: int) -> EncodedExample:
        """Return an example; KeyError for one that was not encoded."""
        number, row = self._location[index]
        part, ends = self._parts[number], self._ends[number][row].tolist()
        lengths = part["lengths"][row].tolist()
        ids, labels, grid, auxiliary_grid, images, auxiliary, masks, regions, observed = (
            part[name][end - length : end] for name, end, length in zip(_TABLES, ends, lengths, strict=True)
        )
        return EncodedExample(
            ids=ids,
            labels=labels,
            pixel_values=no_pixels(),
            grid_thw=grid,
            auxiliary_pixel_values=no_pixels(),
            auxiliary_grid_thw=auxiliary_grid,
            image_features=_split_by_image(images, grid),
            auxiliary_features=_split_by_image(auxiliary, auxiliary_grid),
            auxiliary_patch_masks=_split_by_image(masks, auxiliary_grid),
            region_tokens=regions,
            observed=observed if len(observed) else None,
        )


def precompute_features(
    used: Sequence[int],
    encode: Encode,
    backbone: Backbone,
    folder: Path,
    progress: Progress,
    *,
    limit_bytes: int = FEATURE_LIMIT_BYTES,
) -> ExampleSource:
    """Compute the image features of the ``used`` examples once; where they exceed ``limit_bytes``, encode on demand.

    ``folder``: local, the same for all processes, empty. ``progress`` is called every few seconds.
    """
    process = current_process()
    local = process.share(used)
    if not _fits(local, encode, backbone, len(used), limit_bytes):
        message = (
            f"the features of {len(used)} examples exceed {limit_bytes >> 20} MiB: images are encoded at every step"
        )
        progress(ProgressEvent(stage="prepare", message=message))
        return OnDemandSource(encode)
    folder.mkdir(parents=True, exist_ok=True)
    examples = [example for chunk in _encoded_chunks(local, encode, backbone, progress) for example in chunk]
    save_file(_tables(local, examples, backbone), folder / f"part-{process.rank}.safetensors")
    wait_for_all()
    return FeatureCache([folder / f"part-{rank}.safetensors" for rank in range(process.world_size)])


def _fits(local: Sequence[int], encode: Encode, backbone: Backbone, total: int, limit_bytes: int) -> bool:
    """Whether the features of all examples stay below the limit, estimated from the first few of every process."""
    sample = _with_features([encode(index) for index in local[:8]], backbone)
    features = [tensor for example in sample for tensor in example.image_features + example.auxiliary_features]
    size = sum(tensor.numel() * tensor.element_size() for tensor in features)
    sums = sum_over_processes({"bytes": size, "examples": len(sample)})
    return sums["bytes"] / max(1.0, sums["examples"]) * total <= limit_bytes


def _encoded_chunks(
    local: Sequence[int], encode: Encode, backbone: Backbone, progress: Progress
) -> Iterator[list[EncodedExample]]:
    last_report = time.monotonic()
    for start in range(0, len(local), CHUNK):
        yield _with_features([encode(index) for index in local[start : start + CHUNK]], backbone)
        release_memory()
        if time.monotonic() - last_report > REPORT_EVERY_S:
            last_report = time.monotonic()
            message = f"prepared {min(start + CHUNK, len(local))} of {len(local)} examples of this process"
            progress(ProgressEvent(stage="prepare", message=message))


@torch.no_grad()
def _with_features(examples: list[EncodedExample], backbone: Backbone) -> list[EncodedExample]:
    """Replace the pixels of examples by the features of their images."""
    images = _image_features(backbone, [(e.pixel_values, e.grid_thw) for e in examples])
    auxiliary = _image_features(backbone, [(e.auxiliary_pixel_values, e.auxiliary_grid_thw) for e in examples])
    return [
        replace(
            example,
            pixel_values=no_pixels(),
            auxiliary_pixel_values=no_pixels(),
            image_features=of_inputs,
            auxiliary_features=tuple(backbone.merged(features) for features in of_auxiliary),
        )
        for example, of_inputs, of_auxiliary in zip(examples, images, auxiliary, strict=True)
    ]


def _image_features(backbone: Backbone, images: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, ...]]:
    """Return the features of the images of every example, on the CPU."""
    present = [pair for pair in images if len(pair[1])]
    if not present:
        return [() for _ in images]
    pixels, grids = (torch.cat(tensors) for tensors in zip(*present, strict=True))
    features = iter([tensor.cpu() for tensor in backbone.image_features(pixels, grids)])
    return [tuple(next(features) for _ in range(len(grid))) for _, grid in images]


def release_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    Pixels of a few hundred KB come and go between small tensors that stay; without this the gaps they leave stay
    allocated for the rest of the training.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tables(indices: Sequence[int], examples: Sequence[EncodedExample], backbone: Backbone) -> dict[str, Tensor]:
    """Concatenate the examples of a process: its tables, and each example's number of rows in each of them."""
    rows = [_example_rows(example, backbone) for example in examples]
    tables = {name: torch.cat([row[name] for row in rows]) for name in _TABLES} if rows else {}
    lengths = [[len(row[name]) for name in _TABLES] for row in rows]
    return {
        **tables,
        "index": torch.tensor(list(indices), dtype=torch.long),
        "lengths": torch.tensor(lengths, dtype=torch.long).reshape(len(rows), len(_TABLES)),
    }


def _example_rows(example: EncodedExample, backbone: Backbone) -> dict[str, Tensor]:
    return {
        "ids": example.ids,
        "labels": example.labels,
        "grid_thw": example.grid_thw,
        "auxiliary_grid_thw": example.auxiliary_grid_thw,
        "image_features": _concatenated(example.image_features, backbone.feature_size),
        "auxiliary_features": _concatenated(example.auxiliary_features, backbone.hidden_size),
        "auxiliary_patch_masks": torch.cat([torch.empty(0, dtype=torch.bool), *example.auxiliary_patch_masks]),
        "region_tokens": example.region_tokens,
        "observed": torch.empty(0, dtype=torch.bool) if example.observed is None else example.observed,
    }


def _concatenated(features: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat(list(features)) if features else torch.empty(0, width)


def _split_by_image(features: Tensor, grid_thw: Tensor) -> tuple[Tensor, ...]:
    """Split the concatenated features of several images: each has rows in proportion to its patches."""
    patches = grid_thw.prod(1)
    if not len(patches) or not len(features):
        return ()
    merged = int(patches.sum()) // len(features)
    return features.split((patches // merged).tolist())


def lengths_of(
    examples: Sequence[TrainingExample],
    encoder: Encoder,
    *,
    with_latents: bool,
    regions: RegionLayout | None = None,
) -> list[int]:
    """Return the number of tokens of every example, image tokens included; no image is decoded for that, but crops."""
    return lengths_by(examples, partial(encoder.length, with_latents=with_latents, regions=regions))


def lengths_by(examples: Sequence[TrainingExample], length: Callable[[TrainingExample], int]) -> list[int]:
    """Return the length of every example, each measured by one process."""
    counts = torch.zeros(len(examples), dtype=torch.int64)
    for index in current_process().share(range(len(examples))):
        counts[index] = length(examples[index])
    all_reduce_sum(counts)
    lengths: list[int] = counts.tolist()
    return lengths
