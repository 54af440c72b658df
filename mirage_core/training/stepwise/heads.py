"""The heads of stepwise grounding, their loss, and their file beside the model; an answer does not need them.

Legend: B rows, T columns, D hidden, n latents with targets, W places, C kinds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from mirage_core.config import StepwiseSettings
from mirage_core.training.stepwise.batch import StepBatch

HEADS_FILE = "step_heads.safetensors"
HIDDEN_SCORE = -1e9
POINTER_SIZE = 128


class PointerHead(nn.Module):
    """Scores of the tokens of an image for each latent: a bilinear form of both last hidden states, of small rank."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, POINTER_SIZE)
        self.key = nn.Linear(hidden_size, POINTER_SIZE)

    def forward(self, latents: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        """Return scores [n, W] of latents [n, D] over images [B, W, D], of which ``rows`` [n] are theirs."""
        keys = self.key(images).index_select(0, rows)
        return torch.einsum("np,nwp->nw", self.query(latents), keys) / POINTER_SIZE**0.5


class StepHeads(nn.Module):
    """One head for where a frame changed, one for what is there; None where its weight is 0."""

    def __init__(self, hidden_size: int, settings: StepwiseSettings, places: int, kinds: int) -> None:
        """``places``, ``kinds``: the classes of the linear heads (a pointer has none)."""
        super().__init__()
        where: nn.Module = PointerHead(hidden_size) if settings.where == "pointer" else nn.Linear(hidden_size, places)
        self.settings, self.places, self.kinds = settings, places, kinds
        self.where = where if settings.weight_where else None
        self.what = nn.Linear(hidden_size, kinds) if settings.weight_what else None

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the parts of the loss."""
        weights = {"where": self.settings.weight_where, "what": self.settings.weight_what}
        return {name: weight for name, weight in weights.items() if weight}

    def forward(self, hidden: Tensor, batch: StepBatch) -> dict[str, Tensor]:
        """Return the scores of each head, [n, W] and [n, C], in float32, from hidden states [B, T, D]."""
        latents = hidden[batch.rows, batch.columns]
        scores: dict[str, Tensor] = {}
        if isinstance(self.where, PointerHead):
            rows = torch.arange(len(hidden), device=hidden.device)[:, None]
            images = hidden[rows, batch.image_columns.clamp_min(0)]
            found = self.where(latents, images, batch.rows).float()
            scores["where"] = found.masked_fill(batch.image_columns[batch.rows] < 0, HIDDEN_SCORE)
        elif self.where is not None:
            scores["where"] = self.where(latents).float()
        if self.what is not None:
            scores["what"] = self.what(latents).float()
        return scores


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The heads and the targets of a micro-batch; ``longest``: the most latents of a span in the whole run."""

    heads: StepHeads
    batch: StepBatch
    longest: int

    def to(self, device: torch.device) -> StepLoss:
        """The same with its targets on ``device``."""
        return replace(self, batch=self.batch.to(device))

    def parts(self, hidden: Tensor, *, diagnostics: bool) -> dict[str, Tensor]:
        """Return the cross-entropy of each head, mean over the latents with a target, and the shares of right ones.

        ``diagnostics``: also the shares by the number of the latent in its span ("where_accuracy_0", ...).
        """
        parts: dict[str, Tensor] = {}
        for name, scores in self.heads(hidden, self.batch).items():
            targets = getattr(self.batch, name)
            parts[name] = soft_cross_entropy(scores, targets)
            parts |= self._accuracies(name, scores.detach(), targets, diagnostics)
        return parts

    def _accuracies(self, name: str, scores: Tensor, targets: Tensor, by_step: bool) -> dict[str, Tensor]:
        """A latent is right if its best class is one of its target's."""
        valid = targets.any(-1)
        right = (targets.gather(-1, scores.argmax(-1, keepdim=True))[:, 0] > 0).float()
        figures = {f"{name}_accuracy": _mean(right, valid)}
        for step in range(self.longest if by_step else 0):
            figures[f"{name}_accuracy_{step}"] = _mean(right, valid & (self.batch.steps == step))
        return figures


def soft_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of scores [n, C] against targets [n, C], each row scaled to sum 1.

    Rows of zeros do not count; 0, with a gradient of zeros, where no row counts.
    """
    sums = targets.sum(-1, keepdim=True)
    wanted = targets / sums.clamp_min(1e-12)
    count = (sums > 0).sum().clamp_min(1)
    return -(wanted * log_softmax(scores, dim=-1)).sum() / count


def _mean(values: Tensor, selected: Tensor) -> Tensor:
    return (values * selected).sum() / selected.sum().clamp_min(1)


def head_metadata(settings: StepwiseSettings, names: Mapping[str, Any]) -> dict[str, str]:
    """Return what the heads' file says about them: the settings, and the names of the classes of each head."""
    return {"stepwise": json.dumps({"settings": settings.model_dump(mode="json"), **names}, sort_keys=True)}


def load_heads(folder: Path, hidden_size: int) -> tuple[StepHeads, dict[str, Any]]:
    """Load the heads saved in a model folder, and the names of their classes ("cells", "kinds")."""
    with safe_open(folder / HEADS_FILE, "pt") as file:
        about = json.loads(file.metadata()["stepwise"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    settings = StepwiseSettings.model_validate(about.pop("settings"))
    heads = StepHeads(hidden_size, settings, len(about.get("cells", ())), len(about.get("kinds", ())))
    heads.load_state_dict(weights)
    return heads, about
