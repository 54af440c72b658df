"""The state of training as named float32 tensors in pieces: what each process keeps, and any part of it read back.

A checkpoint has one file a process, with the pieces that process holds of the weights and of Adam's moments. None
ever gathers more; whoever goes on (another number of processes, another ZeRO stage, another engine) reads its part.
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

MASTER, MEAN, SQUARE = "master", "exp_avg", "exp_avg_sq"
"""State by kind: weights in float32, Adam's mean of gradients and of their squares."""
KINDS = (MASTER, MEAN, SQUARE)
_PLACES = "pieces"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Piece:
    """A run of a flattened tensor: where it begins, and its values [n]."""

    begin: int
    values: Tensor


@dataclass(frozen=True)
class Shard:
    """What one process holds of the state: steps done, the shapes of ALL trained parameters, "kind/parameter" -> piece.

    The values may be views of what the optimizer steps on: ``copied`` keeps them as they are now.
    """

    steps: int
    shapes: Shapes
    pieces: Mapping[str, Piece]

    def copied(self) -> Shard:
        """The same in main memory, untouched by later steps."""
        pieces = {
            name: Piece(piece.begin, piece.values.detach().to("cpu", torch.float32, copy=True))
            for name, piece in self.pieces.items()
        }
        return replace(self, pieces=pieces)


def write_shard(path: Path, shard: Shard) -> None:
    """Write the pieces of one process; the header says where in its tensor each begins."""
    tensors = {
        name: piece.values.detach().to("cpu", torch.float32).contiguous() for name, piece in shard.pieces.items()
    }
    places = {name: piece.begin for name, piece in shard.pieces.items()}
    save_file(tensors, path, metadata={_PLACES: json.dumps(places, sort_keys=True)})


class EngineState:
    """A state that any engine can go on from: any part of any tensor, put together from the files that hold it."""

    def __init__(self, steps: int, shapes: Shapes, files: Sequence[Path]) -> None:
        self.steps = steps
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._opened = ExitStack()
        self._found: dict[str, list[tuple[int, int, Any]]] = {}
        for file in files:
            self._index(file)

    def check(self, shapes: Shapes) -> None:
        """TrainingError where the state is not of a model whose trained parameters have these shapes."""
        for name, shape in shapes.items():
            found = self._shapes.get(name)
            if found != tuple(shape):
                raise TrainingError(
                    f"the checkpoint holds {_shown(found)} for {name}, expected {_shown(shape)}: it is "
                    "of another model. Delete the checkpoints of this run, then run again"
                )

    def part(self, kind: str, name: str, begin: int = 0, count: int | None = None) -> Tensor:
        """``count`` values of a flattened tensor from ``begin`` on; ArtifactDamaged where some are missing."""
        end = _numel(self._shapes[name]) if count is None else begin + count
        found = torch.empty(end - begin)
        filled = 0
        for start, length, values in self._found.get(f"{kind}/{name}", []):
            low, high = max(begin, start), min(end, start + length)
            if low < high:
                found[low - begin : high - begin] = values[low - start : high - start]
                filled += high - low
        if filled != end - begin:
            raise ArtifactDamaged(
                f"a checkpoint holds {filled} of the values {begin} to {end} of {kind}/{name}: files are missing. "
                "Delete it, then run again"
            )
        return found

    def whole(self, kind: str, name: str) -> Tensor:
        """One tensor in its shape."""
        return self.part(kind, name).view(self._shapes[name])

    def close(self) -> None:
        """Let go of the files."""
        self._found.clear()
        self._opened.close()

    def _index(self, file: Path) -> None:
        try:
            opened = self._opened.enter_context(safe_open(file, framework="pt"))
            for name, begin in json.loads(opened.metadata()[_PLACES]).items():
                values = opened.get_slice(name)
                self._found.setdefault(name, []).append((begin, values.get_shape()[0], values))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactDamaged(
                f"{file.parent} is not a training checkpoint: {file.name}: {error}. Delete it, then run again"
            ) from error


def shapes_of(parameters: Iterable[tuple[str, Any]]) -> dict[str, tuple[int, ...]]:
    """The whole shapes of parameters, also of those that ZeRO-3 has sharded."""
    return {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in parameters}


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _shown(shape: Sequence[int] | None) -> str:
    return "nothing" if shape is None else str(list(shape))
