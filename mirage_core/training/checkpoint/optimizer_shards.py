"""Where the state of every trained parameter lies in this process: taken out as a shard, and put back.

An engine says which tensors its optimizer steps on, and which run of which parameter each of them holds; the rest is
the same for all engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.training.checkpoint.sharded_state import KINDS, MASTER, EngineState, Piece, Shapes, Shard
from mirage_core.training.engine.optimizers import moments, set_moments


@dataclass(frozen=True)
class Place:
    """``count`` values of the parameter ``name`` from ``begin`` on stand in the tensor ``stepped`` from ``offset`` on.

    ``stepped`` is what the optimizer steps on: float32 weights, of any shape, taken as flat.
    """

    name: str
    begin: int
    count: int
    stepped: Tensor
    offset: int

    def of(self, flat: Tensor) -> Tensor:
        """The place's values [count] in a tensor as long as ``stepped``, a view."""
        return flat.view(-1).narrow(0, self.offset, self.count)


def share(place: Place, rank: int, world_size: int) -> Place:
    """What one process writes of a place that all processes have alike: an equal part."""
    first, last = (place.count * edge // world_size for edge in (rank, rank + 1))
    return replace(place, begin=place.begin + first, offset=place.offset + first, count=last - first)


def take_shard(steps: int, shapes: Shapes, places: Sequence[Place], optimizer: torch.optim.Optimizer) -> Shard:
    """The state at these places; views where the optimizer keeps float32."""
    pieces: dict[str, Piece] = {}
    wide: dict[int, dict[str, Tensor]] = {}
    for place in places:
        if not place.count:
            continue
        if id(place.stepped) not in wide:
            wide[id(place.stepped)] = {MASTER: place.stepped.detach(), **moments(optimizer, place.stepped)}
        for kind in KINDS:
            pieces[f"{kind}/{place.name}"] = Piece(place.begin, place.of(wide[id(place.stepped)][kind]))
    return Shard(steps, shapes, pieces)


@torch.no_grad()
def put_back(state: EngineState, places: Sequence[Place], optimizer: torch.optim.Optimizer) -> None:
    """Fill these places, and the optimizer's moments, with a saved state."""
    by_tensor: dict[int, list[Place]] = {}
    for place in places:
        by_tensor.setdefault(id(place.stepped), []).append(place)
    for together in by_tensor.values():
        stepped = together[0].stepped
        found = {kind: torch.zeros(stepped.numel(), device=stepped.device) for kind in KINDS if kind != MASTER}
        for place in together:
            _fill(state, place, {MASTER: stepped.data, **found})
        set_moments(optimizer, stepped, state.steps, found)


def _fill(state: EngineState, place: Place, into: dict[str, Tensor]) -> None:
    for kind, flat in into.items():
        place.of(flat).copy_(state.part(kind, place.name, place.begin, place.count))
