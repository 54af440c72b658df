"""Which fragment of which parameter lies where in this process's optimizer: read as a shard, and restored from one.

An engine lists the fragments of the tensors that its optimizer steps on; the rest is the same for all engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.distributed.context import current_process
from mirage_core.training.checkpoint.sharded_state import KINDS, MASTER, EngineState, Piece, Shapes, Shard
from mirage_core.training.engine.optimizers import moments, set_moments


@dataclass(frozen=True)
class Fragment:
    """``count`` values of the parameter ``name`` from ``begin`` on, in the tensor ``stepped`` from ``offset`` on.

    ``stepped`` is what the optimizer steps on: float32 weights of any shape, treated as flat.
    """

    name: str
    begin: int
    count: int
    stepped: Tensor
    offset: int

    def of(self, flat: Tensor) -> Tensor:
        """Return the fragment's values [count] in a tensor as long as ``stepped``, as a view."""
        return flat.view(-1).narrow(0, self.offset, self.count)


def own_part(fragment: Fragment) -> Fragment:
    """Return the part that this process writes of a fragment that all processes have alike: an equal share."""
    process = current_process()
    first, last = (fragment.count * edge // process.world_size for edge in (process.rank, process.rank + 1))
    return replace(fragment, begin=fragment.begin + first, offset=fragment.offset + first, count=last - first)


def read_shard(steps: int, shapes: Shapes, fragments: Sequence[Fragment], optimizer: torch.optim.Optimizer) -> Shard:
    """Return the state of these fragments; views where the optimizer's state is float32."""
    pieces: dict[str, Piece] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for fragment in fragments:
        if not fragment.count:
            continue
        stepped = fragment.stepped
        if id(stepped) not in states:
            states[id(stepped)] = {MASTER: stepped.detach(), **moments(optimizer, stepped)}
        for kind in KINDS:
            pieces[f"{kind}/{fragment.name}"] = Piece(fragment.begin, fragment.of(states[id(stepped)][kind]))
    return Shard(steps, shapes, pieces)


@torch.no_grad()
def restore(state: EngineState, fragments: Sequence[Fragment], optimizer: torch.optim.Optimizer) -> None:
    """Fill these fragments, and the optimizer's moments, from a saved state."""
    by_tensor: dict[int, list[Fragment]] = {}
    for fragment in fragments:
        by_tensor.setdefault(id(fragment.stepped), []).append(fragment)
    for together in by_tensor.values():
        stepped = together[0].stepped
        saved = {kind: torch.zeros(stepped.numel(), device=stepped.device) for kind in KINDS if kind != MASTER}
        for fragment in together:
            for kind, flat in {MASTER: stepped.data, **saved}.items():
                fragment.of(flat).copy_(state.part(kind, fragment.name, fragment.begin, fragment.count))
        set_moments(optimizer, stepped, state.steps, saved)
