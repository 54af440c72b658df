"""The training state as named float32 tensors in pieces: each process writes its own, and any part is read back.

A checkpoint has one file per process, with the pieces of the weights and of Adam's moments in that process. Nothing
gathers more; a run that goes on (another number of processes, another ZeRO stage, another engine) reads its part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mirage_core.errors import ArtifactDamaged, TrainingError
from mirage_core.json_values import read_json

MASTER, MEAN, SQUARE = "master", "exp_avg", "exp_avg_sq"
"""State by kind: weights in float32, Adam's mean of gradients and of their squares."""
KINDS = (MASTER, MEAN, SQUARE)
_OFFSETS_KEY = "pieces"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Piece:
    """A run of a flattened tensor: where it begins, and its values [n]."""

    begin: int
    values: Tensor


@dataclass(frozen=True)
class Shard:
    """One process's part of the state: steps done, shapes of ALL trained parameters, "kind/parameter" -> piece.

    The values may be views of the tensors that the optimizer steps on: ``copy_to_cpu`` detaches them from later steps.
    """

    steps: int
    shapes: Shapes
    pieces: Mapping[str, Piece]

    def copy_to_cpu(self) -> Shard:
        """Return a copy in main memory, untouched by later steps."""
        pieces = {
            name: Piece(piece.begin, piece.values.detach().to("cpu", torch.float32, copy=True))
            for name, piece in self.pieces.items()
        }
        return replace(self, pieces=pieces)


def write_shard(path: Path, shard: Shard) -> None:
    """Write the pieces of one process; the header records where each begins in its tensor."""
    tensors = {
        name: piece.values.detach().to("cpu", torch.float32).contiguous() for name, piece in shard.pieces.items()
    }
    offsets = {name: piece.begin for name, piece in shard.pieces.items()}
    save_file(tensors, path, metadata={_OFFSETS_KEY: json.dumps(offsets, sort_keys=True)})


class EngineState:
    """A state from which any engine can go on: any part of any tensor, put together from the files that hold it."""

    def __init__(self, steps: int, shapes: Shapes, files: Sequence[Path]) -> None:
        self.steps = steps
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._open_files = ExitStack()
        self._pieces: dict[str, list[tuple[int, int, Any]]] = {}
        for file in files:
            self._index(file)

    def check(self, shapes: Shapes) -> None:
        """Raise TrainingError unless the state is of a model whose trained parameters have these shapes."""
        for name, shape in shapes.items():
            saved = self._shapes.get(name)
            if saved != tuple(shape):
                raise TrainingError(
                    f"the checkpoint holds {'nothing' if saved is None else list(saved)} for {name}, expected "
                    f"{list(shape)}: it is of another model. Delete the checkpoints of this run, then run again"
                )

    def part(self, kind: str, name: str, begin: int = 0, count: int | None = None) -> Tensor:
        """Return ``count`` values of a flattened tensor from ``begin`` on; ArtifactDamaged where some are missing."""
        end = torch.Size(self._shapes[name]).numel() if count is None else begin + count
        values = torch.empty(end - begin)
        filled = 0
        for start, length, piece in self._pieces.get(f"{kind}/{name}", []):
            low, high = max(begin, start), min(end, start + length)
            if low < high:
                values[low - begin : high - begin] = piece[low - start : high - start]
                filled += high - low
        if filled != end - begin:
            raise ArtifactDamaged(
                f"a checkpoint holds {filled} of the values {begin} to {end} of {kind}/{name}: files are missing. "
                "Delete it, then run again"
            )
        return values

    def tensor(self, kind: str, name: str) -> Tensor:
        """Return a complete tensor in its shape."""
        return self.part(kind, name).view(self._shapes[name])

    def close(self) -> None:
        """Close the files."""
        self._pieces.clear()
        self._open_files.close()

    def _index(self, file: Path) -> None:
        try:
            opened = self._open_files.enter_context(safe_open(file, framework="pt"))
            for name, begin in dict(read_json(opened.metadata()[_OFFSETS_KEY])).items():
                if type(begin) is not int or begin < 0:
                    raise ValueError(f"the piece of {name!r:.80} begins at {begin!r:.80}, expected a whole number")
                values = opened.get_slice(name)
                self._pieces.setdefault(name, []).append((begin, values.get_shape()[0], values))
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            raise ArtifactDamaged(
                f"{file.parent} is not a training checkpoint: {file.name}: {error}. Delete it, then run again"
            ) from error


def shapes_of(parameters: Iterable[tuple[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Return the complete shapes of parameters, also of those that ZeRO-3 has sharded."""
    return {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in parameters}
