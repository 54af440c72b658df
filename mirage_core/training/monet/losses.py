"""The losses of Monet's three supervised stages (arXiv 2511.21395).

Every part is a mean over rows of what a row gives: with rows of different lengths that is another number than a mean
over tokens, and the one of the released code. Legend: B rows, T columns, n latents, m aligned tokens, L layers,
D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.nn.functional import cross_entropy as token_cross_entropy

from mirage_core.config import MonetTargetSettings, MonetTrainSettings, MonetWarmupSettings, TrainSettings
from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.examples import IGNORED
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import text_forward
from mirage_core.training.monet.forward import (
    StudentOutput,
    observed_cells,
    span_cells,
    student_forward,
)
from mirage_core.training.monet.sight import AuxiliarySight
from mirage_core.training.objective import LossParts

Axis = Literal["paper", "released"]


def learned_rows(batch: LatentBatch) -> int:
    """Return how many rows have a label: all but dummy rows."""
    return int((batch.labels != IGNORED).any(1).sum())


def weighted_cross_entropy(backbone: Backbone, hidden: Tensor, batch: LatentBatch, weight: float) -> Tensor:
    """Return the mean over rows of sum(w nll) / sum(w); w is ``weight`` where the label is an observed token, else 1.

    0 without labels. ``hidden`` [B, T, D].
    """
    labelled = batch.labels != IGNORED
    targets = batch.labels[labelled]
    if not len(targets):
        return hidden.sum() * 0.0
    losses = token_cross_entropy(backbone.logits(hidden[labelled]).float(), targets, reduction="none")
    weights = torch.ones_like(losses)
    if batch.observed_labels is not None:
        weights = weights.masked_fill(batch.observed_labels[labelled], weight)
    rows = labelled.nonzero()[:, 0]
    sums = losses.new_zeros(batch.rows).index_add(0, rows, losses * weights)
    totals = losses.new_zeros(batch.rows).index_add(0, rows, weights)
    return (sums / totals.clamp_min(1e-12)).sum() / (totals > 0).sum()


def alignment(teacher: Tensor, student: Tensor, rows: Tensor, num_rows: int, axis: Axis) -> Tensor:
    """Return the mean over rows of the mean of 1 - cos(teacher, student), both [L + 1, m, D]; ``rows`` [m].

    "paper": the cosine of two states, along their features. "released": of two features, along the row's tokens (the
    released code's ``cosine_similarity`` takes axis 1). A row without an aligned token counts as 0 among ``num_rows``.
    InputError for another number of states.
    """
    if teacher.shape != student.shape:
        raise InputError(
            f"The teacher's states are {tuple(teacher.shape)}, the student's {tuple(student.shape)} (depths, tokens, "
            "features): compute them for the same examples with a model of the same shape."
        )
    if not len(rows):
        return student.sum() * 0.0
    total = student.new_zeros((), dtype=torch.float32)
    for row in rows.unique():
        own = (rows == row).nonzero().squeeze(1)
        theirs, ours = teacher.index_select(1, own).float(), student.index_select(1, own).float()
        total = total + 1.0 - cosine_similarity(theirs, ours, dim=-1 if axis == "paper" else 1).mean()
    return total / max(num_rows, 1)


def through_latents(value: Tensor, latents: Tensor, weight: float = 1.0) -> Tensor:
    """Return ``value``, with ``weight`` times its gradient by way of ``latents`` [n, D] alone (latent-only backward).

    Where nothing is trained, or nothing is fed, it has no gradient.
    """
    if not (value.requires_grad and latents.requires_grad):
        return value.detach()
    (gradient,) = torch.autograd.grad(value, latents, retain_graph=True)
    path = weight * (latents * gradient.detach()).sum()
    return value.detach() + path - path.detach()


def warmup_loss(
    backbone: Backbone, batch: LatentBatch, *, observation_weight: float, checkpointing: bool = False
) -> LossParts:
    """Return the loss of stage 1: weighted cross-entropy, with auxiliary images in the rows and no latents."""
    hidden = text_forward(backbone, batch, checkpointing=checkpointing)
    return LossParts.sum({"text": weighted_cross_entropy(backbone, hidden, batch, observation_weight)})


def target_loss(
    backbone: Backbone,
    batch: LatentBatch,
    teacher: Tensor,
    sight: AuxiliarySight,
    *,
    observation_weight: float,
    alignment_weight: float,
    latent_weight: float,
    axis: Axis,
    checkpointing: bool = False,
) -> LossParts:
    """Return the loss of stage 2: cross-entropy, and alignment of the observed tokens through the latents alone.

    ``teacher`` [L + 1, m, D]: of the observed tokens, row by row. The alignment's gradient has the weight
    ``alignment_weight`` times ``latent_weight``, as released; with ``latent_weight`` 0 it is an ordinary part of the
    loss.
    """
    output = student_forward(backbone, batch, observed_cells(batch), sight, checkpointing=checkpointing)
    value = _aligned(output, batch, teacher, axis)
    weight = alignment_weight
    if latent_weight:
        value, weight = through_latents(value, output.latents), alignment_weight * latent_weight
    return _with_alignment(backbone, output, batch, value, observation_weight, weight)


def latent_loss(
    backbone: Backbone,
    batch: LatentBatch,
    teacher: Tensor,
    *,
    observation_weight: float,
    alignment_weight: float,
    axis: Axis,
    checkpointing: bool = False,
) -> LossParts:
    """Return the loss of stage 3: cross-entropy, and alignment of the latents with ``teacher`` [L + 1, n, D].

    There is no auxiliary image in the rows; gradient flows everywhere, and through the latents.
    """
    rows, columns = span_cells(batch)
    learned = rows < learned_rows(batch)  # dummy rows come last
    output = student_forward(backbone, batch, (rows[learned], columns[learned]), checkpointing=checkpointing)
    value = _aligned(output, batch, teacher, axis)
    return _with_alignment(backbone, output, batch, value, observation_weight, alignment_weight)


def _aligned(output: StudentOutput, batch: LatentBatch, teacher: Tensor, axis: Axis) -> Tensor:
    return alignment(teacher.to(output.states.device), output.states, output.rows, learned_rows(batch), axis)


def _with_alignment(
    backbone: Backbone,
    output: StudentOutput,
    batch: LatentBatch,
    value: Tensor,
    observation_weight: float,
    alignment_weight: float,
) -> LossParts:
    text = weighted_cross_entropy(backbone, output.hidden, batch, observation_weight)
    return LossParts.sum({"text": text, "alignment": value}, {"text": 1.0, "alignment": alignment_weight})


@dataclass(frozen=True, slots=True)
class Teaching:
    """What Monet's losses need beside a batch: a teacher's states [L + 1, m, D], the sight of auxiliary images."""

    states: Tensor | None = None
    sight: AuxiliarySight | None = None

    def to(self, device: torch.device) -> Teaching:
        """Return a copy on ``device``."""
        states = None if self.states is None else self.states.to(device, non_blocking=True)
        return Teaching(states, None if self.sight is None else self.sight.to(device))


class MonetInputs(Protocol):
    """The inputs of a supervised loss, as far as Monet's read them."""

    @property
    def batch(self) -> LatentBatch: ...
    @property
    def settings(self) -> TrainSettings: ...
    @property
    def teaching(self) -> Teaching | None: ...


def warmup(backbone: Backbone, inputs: MonetInputs) -> LossParts:
    """``warmup_loss`` of the program's settings."""
    settings = inputs.settings
    assert isinstance(settings, MonetWarmupSettings)
    weight, checkpointing = settings.observation_weight, settings.gradient_checkpointing
    return warmup_loss(backbone, inputs.batch, observation_weight=weight, checkpointing=checkpointing)


def targets(backbone: Backbone, inputs: MonetInputs) -> LossParts:
    """``target_loss`` of the program's settings."""
    settings, teaching = inputs.settings, inputs.teaching
    assert isinstance(settings, MonetTargetSettings)
    assert teaching is not None and teaching.states is not None and teaching.sight is not None
    return target_loss(
        backbone,
        inputs.batch,
        teaching.states,
        teaching.sight,
        observation_weight=settings.observation_weight,
        alignment_weight=settings.alignment_weight,
        latent_weight=settings.latent_weight,
        axis=settings.alignment,
        checkpointing=settings.gradient_checkpointing,
    )


def latents(backbone: Backbone, inputs: MonetInputs) -> LossParts:
    """``latent_loss`` of the program's settings."""
    settings, teaching = inputs.settings, inputs.teaching
    assert isinstance(settings, MonetTrainSettings)
    assert teaching is not None and teaching.states is not None
    return latent_loss(
        backbone,
        inputs.batch,
        teaching.states,
        observation_weight=settings.observation_weight,
        alignment_weight=settings.alignment_weight,
        axis=settings.alignment,
        checkpointing=settings.gradient_checkpointing,
    )
