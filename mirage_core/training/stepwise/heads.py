"""The heads of stepwise grounding, their loss, and their file beside the model; an answer does not need them.

Legend: B rows, T columns, D hidden, n latents with targets, W places, C kinds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from mirage_core.config import StepwiseSettings
from mirage_core.errors import InputError, SettingsError
from mirage_core.json_values import read_json
from mirage_core.model.codes import HEADS_FILE, CodeReader, code_entries
from mirage_core.model.tensor_files import read_tensors
from mirage_core.model.weights import SavedModule
from mirage_core.training.stepwise.batch import StepBatch
from mirage_core.training.stepwise.codebook import Codebook

HIDDEN_SCORE = -1e9
_ABOUT = "stepwise"
POINTER_SIZE = 128


class PointerHead(nn.Module):
    """Scores of the tokens of an image for each latent: a bilinear form of both last hidden states, of small rank."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, POINTER_SIZE)
        self.key = nn.Linear(hidden_size, POINTER_SIZE, bias=False)  # a bias would add the same to every token

    def forward(self, latents: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        """Return scores [n, W] of latents [n, D] over images [B, W, D], of which ``rows`` [n] are theirs."""
        keys = self.key(images).index_select(0, rows)
        return torch.einsum("np,nwp->nw", self.query(latents), keys) / POINTER_SIZE**0.5


class AppearanceHead(nn.Module):
    """Scores of a frame's own feature among other appearances: the contrastive form of what is there."""

    def __init__(self, hidden_size: int, temperature: float) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.temperature = temperature

    def forward(self, latents: Tensor, features: Tensor, codes: Tensor) -> Tensor:
        """Return scores [n, 1 + C] of latents [n, D]: of their own ``features`` [n, D] first, then of ``codes`` [C, D].

        They are cosines over the temperature; features and codes are centred. The code nearest to the own feature
        stands for the same appearance: it does not count.
        """
        query, codes = normalize(self.query(latents).float(), dim=-1), codes.float()
        own = (query * normalize(features, dim=-1)).sum(-1, keepdim=True)
        same = torch.cdist(features, codes).argmin(-1, keepdim=True)
        others = (query @ normalize(codes, dim=-1).T).scatter(1, same, HIDDEN_SCORE)
        return torch.cat([own, others], dim=1) / self.temperature


class StepHeads(nn.Module):
    """One head for where a frame changed, one for what is there; None where its weight is 0.

    ``widths``: the widths of the targets of both (0 for a pointer, whose width is that of an image). ``codes`` [C, D]
    are saved with the heads: they are what the classes of a codebook look like.
    """

    codes: Tensor | None
    centre: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        settings: StepwiseSettings,
        places: int,
        kinds: int,
        codes: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> None:
        """``places``, ``kinds``: the classes of the linear heads; ``codes`` [C, D]: of codebook and contrastive.

        ``centre`` [D]: the codebook's, saved for those who look at what was imagined.
        """
        super().__init__()
        self.settings = settings
        self.register_buffer("codes", None if codes is None else codes.clone())
        self.register_buffer("centre", None if centre is None else centre.clone())
        self.where: nn.Module | None = None
        self.what: nn.Module | None = None
        if settings.where_head is not None:
            pointer = settings.where_head == "pointer"
            self.where = PointerHead(hidden_size) if pointer else nn.Linear(hidden_size, places)
        contrastive = settings.what_head == "contrastive"
        kinds = kinds if codes is None else len(codes)
        if settings.what_head is not None:
            head = AppearanceHead(hidden_size, settings.temperature) if contrastive else nn.Linear(hidden_size, kinds)
            self.what = head
        self.widths = (places, hidden_size if contrastive else kinds)

    @property
    def book(self) -> Codebook | None:
        """The codebook of the codes; None without one, and for heads saved without its centre."""
        return None if self.codes is None or self.centre is None else Codebook(self.centre.float(), self.codes.float())

    @property
    def code_reader(self) -> CodeReader | None:
        """What chooses the codes that are fed, by the head as it is now; None without a head over a codebook."""
        if not isinstance(self.what, nn.Linear) or self.codes is None or self.centre is None:
            return None
        return CodeReader(self.what, self.codes, self.centre)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the parts of the loss."""
        weights = {"where": self.settings.weight_where, "what": self.settings.weight_what}
        return {name: weight for name, weight in weights.items() if weight}

    def forward(self, hidden: Tensor, batch: StepBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return scores [n, C] in float32 and targets [n, C] of each head, from hidden states [B, T, D]."""
        latents = hidden[batch.rows, batch.columns]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if isinstance(self.where, PointerHead):
            found["where"] = self._pointed(self.where, hidden, latents, batch), batch.where
        elif self.where is not None:
            found["where"] = self.where(latents).float(), batch.where
        if isinstance(self.what, AppearanceHead) and self.codes is not None:
            scores = self.what(latents, batch.what, self.codes)
            own = torch.zeros_like(scores)
            own[:, 0] = batch.what.any(-1)
            found["what"] = scores, own
        elif self.what is not None:
            found["what"] = self.what(latents).float(), batch.what
        return found

    def _pointed(self, pointer: PointerHead, hidden: Tensor, latents: Tensor, batch: StepBatch) -> Tensor:
        """Return the scores of the tokens of each row's first image [n, W]; those after its last one do not count."""
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        images = hidden[rows, batch.image_columns.clamp_min(0)]
        scores = pointer(latents, images, batch.rows).float()
        return scores.masked_fill(batch.image_columns[batch.rows] < 0, HIDDEN_SCORE)


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
        scored = self.heads(hidden, self.batch)
        prefix = prefix_probabilities(scored.values(), self.batch.steps) if self._by_prefix else None
        for name, (scores, targets) in scored.items():
            weights = None if prefix is None else span_weights(prefix, targets.any(-1), self.batch.steps)
            parts[name] = soft_cross_entropy(scores, targets, weights)
            parts |= self._accuracies(name, scores.detach(), targets, diagnostics)
        return parts

    @property
    def _by_prefix(self) -> bool:
        return self.heads.settings.weighting == "prefix" and len(self.batch.steps) > 0

    def true_codes(self) -> Tensor:
        """Return the entry [n, D] of each latent's true code, constant: that of most of its frame's changed tokens.

        The first of several as frequent ones; the mean appearance where a frame shows nothing new.
        """
        codes, centre = self.heads.codes, self.heads.centre
        if codes is None or centre is None:
            raise InputError("the heads have no codebook, so no codes can be fed: set stepwise what to codebook")
        shares = self.batch.what
        chosen = code_entries(codes, centre).detach()[shares.argmax(-1)]
        return torch.where(shares.any(-1, keepdim=True), chosen, centre.float())

    def _accuracies(self, name: str, scores: Tensor, targets: Tensor, by_step: bool) -> dict[str, Tensor]:
        """A latent is right if its best class is one of its target's."""
        valid = targets.any(-1)
        right = (targets.gather(-1, scores.argmax(-1, keepdim=True))[:, 0] > 0).float()
        figures = {f"{name}_accuracy": _mean(right, valid)}
        for step in range(self.longest if by_step else 0):
            figures[f"{name}_accuracy_{step}"] = _mean(right, valid & (self.batch.steps == step))
        return figures


def soft_cross_entropy(scores: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of scores [n, C] against targets [n, C], each row scaled to sum 1.

    Rows of zeros do not count; 0, with a gradient of zeros, where no row counts. ``weights`` [n] have the mean 1 over
    the rows that count.
    """
    sums = targets.sum(-1, keepdim=True)
    wanted = targets / sums.clamp_min(1e-12)
    if weights is not None:
        wanted = wanted * weights[:, None]
    count = (sums > 0).sum().clamp_min(1)
    return -(wanted * log_softmax(scores, dim=-1)).sum() / count


def prefix_probabilities(scored: Iterable[tuple[Tensor, Tensor]], steps: Tensor) -> Tensor:
    """Return the probability [n] that all latents before each in its span are right, by every head; constant.

    ``scored``: scores and targets [n, C] of each head; the probability of a target is that of all its classes, and 1
    where there is none. ``steps`` [n]: the number of each latent in its span, span after span.
    """
    right = torch.zeros(len(steps), dtype=torch.float64, device=steps.device)
    for scores, targets in scored:
        mass = (scores.detach().double().softmax(-1) * (targets > 0)).sum(-1).clamp_min(1e-30).log()
        right += torch.where(targets.any(-1), mass, 0.0)
    before = right.cumsum(0) - right
    return (before - before[_span_numbers(steps)[1]]).exp()


def span_weights(prefix: Tensor, valid: Tensor, steps: Tensor) -> Tensor:
    """Return the weights [n], float32, of latents: in proportion to ``prefix`` [n] within a span.

    Their mean is 1 over the ``valid`` latents of each span, so that their sum does not depend on batches.
    """
    spans, _ = _span_numbers(steps)
    counted = prefix * valid
    sums = torch.zeros_like(prefix).index_add(0, spans, counted)[spans]
    counts = torch.zeros_like(prefix).index_add(0, spans, valid.double())[spans]
    return (counted * counts / sums.clamp_min(1e-300)).float()


def _span_numbers(steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the span of each latent, and the index of the span's first latent, [n] each."""
    places = torch.arange(len(steps), device=steps.device)
    return (steps == 0).cumsum(0) - 1, places - steps


def _mean(values: Tensor, selected: Tensor) -> Tensor:
    return (values * selected).sum() / selected.sum().clamp_min(1)


def head_metadata(settings: StepwiseSettings, names: Mapping[str, Any]) -> dict[str, str]:
    """Return what the heads' file says about them: the settings, and the names of the classes of each head."""
    return {_ABOUT: json.dumps({"settings": settings.model_dump(mode="json"), **names}, sort_keys=True)}


def load_heads(folder: Path, hidden_size: int) -> tuple[StepHeads, dict[str, Any]]:
    """Load the heads of a model folder, in float32, and the names of their classes ("cells", "kinds").

    InputError for a folder without heads.
    """
    file = folder / HEADS_FILE
    if not file.is_file():
        raise InputError(f"{folder} has no {HEADS_FILE}: its model was trained without stepwise grounding")
    tensors, metadata = read_tensors(file)
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    try:
        about = dict(read_json(metadata[_ABOUT]))
        settings = StepwiseSettings.model_validate(about.pop("settings"))
        codes = weights.get("codes")
        kinds = len(weights["what.bias"]) if "what.bias" in weights else 0
        heads = StepHeads(hidden_size, settings, len(about.get("cells", ())), kinds, codes, weights.get("centre"))
        heads.load_state_dict(weights)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise SettingsError(
            f"{file} holds no heads of stepwise grounding ({str(error)[:200]}): copy the file from where the model was "
            "trained"
        ) from error
    return heads, about


def kept_heads(folder: Path, hidden_size: int) -> SavedModule:
    """Return the heads of a model folder, to be saved beside a model that goes on without training them."""
    heads, names = load_heads(folder, hidden_size)
    return SavedModule(heads.requires_grad_(False), HEADS_FILE, head_metadata(heads.settings, names))
