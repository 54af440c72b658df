"""A teacher's states on disk: those of every example, computed once and read by a training stage.

Legend: L layers, n tokens of an example, D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mirage_core.errors import DataError, InputError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample
from mirage_core.model.loading import LoadedModel
from mirage_core.training.monet.forward import observed_cells, span_cells, teacher_latents, teacher_observations
from mirage_core.types import Progress, ProgressEvent

INDEX_FILE = "states.json"
EXAMPLES_OF_A_FILE = 512
EXAMPLES_OF_A_PASS = 8


class TeacherStates:
    """The states in a folder, by the id of the problem; DataError where the folder has none."""

    def __init__(self, folder: Path) -> None:
        try:
            index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no teacher's states ({error}): take the artifact of a stage that computes "
                            "them, as monet-observations does") from error  # fmt: skip
        self._folder, self._files = folder, dict[str, Any]()
        self._places = {name: (file, str(at)) for file, names in index.items() for at, name in enumerate(names)}

    def get(self, problem_id: str) -> Tensor:
        """Return the states [L + 1, n, D] of an example. DataError for one without any."""
        if problem_id not in self._places:
            raise DataError(
                f"{self._folder} has no states of problem {problem_id}, but of {len(self._places)} others: compute "
                "them for the examples that are trained on"
            )
        file, key = self._places[problem_id]
        if file not in self._files:
            self._files[file] = safe_open(self._folder / file, "pt")  # mapped, not read
        states: Tensor = self._files[file].get_tensor(key)
        return states


def save_teacher_states(folder: Path, states: Iterable[tuple[str, Tensor]]) -> int:
    """Write the states [L + 1, n, D] of examples, by the ids of their problems; returns how many states there are."""
    index: dict[str, list[str]] = {}
    tensors: list[Tensor] = []
    names: list[str] = []
    count = 0

    def flush() -> None:
        file = f"states-{len(index):05d}.safetensors"
        save_file({str(at): tensor.contiguous() for at, tensor in enumerate(tensors)}, folder / file)
        index[file] = list(names)
        tensors.clear()
        names.clear()

    for name, own in states:
        names.append(name)
        tensors.append(own.cpu())
        count += own.shape[1]
        if len(tensors) == EXAMPLES_OF_A_FILE:
            flush()
    if tensors:
        flush()
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    return count


def states_of(
    model: LoadedModel, encode: Callable[[int], EncodedExample], examples: int, *, at_latents: bool, progress: Progress
) -> Iterable[Tensor]:
    """Yield the states [L + 1, n, D] of every example: at its latents, or at its observed tokens.

    At latents the rows are plainly causal, as in the released code: their text sees the auxiliary images.
    """
    for first in range(0, examples, EXAMPLES_OF_A_PASS):
        rows = [encode(index) for index in range(first, min(first + EXAMPLES_OF_A_PASS, examples))]
        batch = collate(rows, model.ids, model.backbone.position_ids, align=at_latents).to(model.backbone.device)
        compute, cells = (teacher_latents, span_cells) if at_latents else (teacher_observations, observed_cells)
        counts = torch.bincount(cells(batch)[0], minlength=batch.rows).tolist()
        yield from compute(model.backbone, batch).split(counts, dim=1)
        progress(ProgressEvent(stage="states", step=first + len(rows), total=examples))


def teacher_batch(states: Sequence[Tensor], batch: LatentBatch, *, at_latents: bool) -> Tensor:
    """Return the states [L + 1, n, D] of the rows of a batch, one after the other.

    InputError unless each row has as many tokens as it has states; rows after the last are dummies without any.
    """
    rows = (span_cells if at_latents else observed_cells)(batch)[0]
    counts = torch.bincount(rows, minlength=batch.rows).tolist()[: len(states)]
    found = [own.shape[1] for own in states]
    if counts != found:
        raise InputError(
            f"The teacher has {found} states for rows with {counts} tokens: its states were computed with other "
            "examples, another prompt or another number of latents. Compute them again with these settings."
        )
    return torch.cat(list(states), dim=1)
