"""What one clean run of a model leaves for all measures: answers, latents, and the states beside them.

Two files: predictions.parquet (in the order of the instances) and latents.safetensors. Legend: N instances, k latents,
J places of the baselines, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.errors import DataError
from mirage_core.evaluation.metrics import Scored
from mirage_core.store.records import PREDICTIONS_FILE, load_predictions, save_predictions
from mirage_core.types import Problem

LATENTS_FILE = "latents.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A clean run. Tensors are on the CPU, float32; rows of instances without what a tensor holds are zero.

    ``latents`` [N, k, D] of the first span, where ``has_span`` [N]; k is 0 where no answer has one.
    ``text`` [N, J, D]: last hidden states from which text behind the span (all text, without one) was drawn, at J
    places spread evenly over it, where ``has_text`` [N]. ``image`` [N, J, D]: those at J of the image tokens, where
    ``has_image`` [N]. ``text_mean``, ``image_mean`` [N, D]: the means over all such states.
    ``text_before`` [N, D]: the last state before the span begins (of the prompt, where there is no span).
    ``image_features`` [N, D] and ``image_pooled`` [N, J, D]: what the vision tower says of the picture, its mean and
    its pooling to J vectors. ``first`` [N, V]: log-probabilities of the first token of the answer, where ``has_first``.
    """

    scored: tuple[Scored, ...]
    latents: Tensor
    has_span: Tensor
    text: Tensor
    has_text: Tensor
    text_mean: Tensor
    text_before: Tensor
    image: Tensor
    has_image: Tensor
    image_mean: Tensor
    image_features: Tensor
    image_pooled: Tensor
    first: Tensor
    has_first: Tensor

    @property
    def ids(self) -> tuple[str, ...]:
        """The instances' problems."""
        return tuple(prediction.problem_id for prediction, _ in self.scored)

    @property
    def num_latents(self) -> int:
        """k."""
        return self.latents.shape[1]

    def instances(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems of the instances, in their order. DataError where one of them is not among ``problems``."""
        known = {problem.id: problem for problem in problems}
        missing = [name for name in self.ids if name not in known]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.ids)} collected instances are not among the problems given, the first "
                f"is {missing[0]!r}; give the problems that were collected from"
            )
        return [known[name] for name in self.ids]

    def with_span(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Indices of the instances that have latents."""
        return np.flatnonzero(self.has_span.numpy())


def save_collected(folder: Path, collected: Collected) -> None:
    """Write a clean run into a folder; the same run, the same bytes."""
    save_predictions(folder / PREDICTIONS_FILE, collected.scored)
    tensors = {name: getattr(collected, name).contiguous() for name in _tensor_names()}
    save_file(tensors, folder / LATENTS_FILE)


def load_collected(folder: Path) -> Collected:
    """Read a clean run. DataError where the folder holds another thing."""
    tensors = load_file(folder / LATENTS_FILE)
    names = _tensor_names()
    if set(tensors) != set(names):
        raise DataError(f"{folder / LATENTS_FILE} holds {sorted(tensors)}, expected {sorted(names)}; collect again")
    return Collected(scored=tuple(load_predictions(folder)), **tensors)


def stacked(rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Rows of one shape as one tensor, zero where a row is None; and where they are not [N], boolean."""
    known = [row for row in rows if row is not None]
    present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    if not known:
        return torch.zeros(len(rows), 0), present
    empty = torch.zeros_like(known[0])
    return torch.stack([empty if row is None else row for row in rows]), present


def _tensor_names() -> list[str]:
    return [field.name for field in fields(Collected) if field.name != "scored"]
