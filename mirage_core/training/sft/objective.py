"""What a supervised program gives the loop: its micro-batches and its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mirage_core.config import GroundingSettings, RelaxationSettings, Settings, TrainSettings
from mirage_core.distributed.job import TEXT_ONLY, Program
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.model.loading import LoadedModel
from mirage_core.training.data.feature_cache import Source
from mirage_core.training.data.sampler import Batches, Portion, deal
from mirage_core.training.engine.lockstep import Widths, agreed, stand_in
from mirage_core.training.logging.throughput import work_of
from mirage_core.training.objective import MicroBatch, contribution
from mirage_core.training.sft.latent_noise import Disturbance, Hardening
from mirage_core.training.sft.losses import (
    Compared,
    LossParts,
    counts,
    grounding_loss,
    relaxation_loss,
    relaxation_total,
    text_loss,
)

DIAGNOSTICS_EVERY = 10


def section(settings: Settings, program: Program) -> TrainSettings:
    """The settings a supervised program reads."""
    return {
        "text": settings.direct_sft,
        "capimagine": settings.capimagine,
        "grounding": settings.grounding,
        "relaxation": settings.relaxation,
    }[program]


@dataclass(frozen=True)
class SupervisedData:
    """Encoded examples, the batches made of them, their names, and their lengths where batches go by them."""

    source: Source
    order: Batches
    names: Sequence[str]
    lengths: Sequence[int] | None = None


@dataclass(frozen=True)
class SupervisedBatch:
    """A laid-out micro-batch, what it holds (but for a row that only keeps processes in step), whether the cosines are
    wanted this time, and what becomes of its latents before they are fed."""

    batch: LatentBatch
    counts: Mapping[str, float]
    spans: int
    diagnostics: bool
    disturbance: Disturbance | None


class SupervisedObjective:
    """Batches of examples under one of the three supervised losses.

    ``hardening``: what makes stage 2 harder while it trains; None: every row is under the bottleneck, and its latents
    are fed as they are.
    """

    def __init__(
        self,
        program: Program,
        settings: Settings,
        model: LoadedModel,
        data: SupervisedData,
        portion: int | None = None,
        hardening: Hardening | None = None,
    ) -> None:
        self._program, self._latent = program, settings.latent
        self._settings = section(settings, program)
        self._bottleneck: Bottleneck = "none" if program in TEXT_ONLY else settings.latent.bottleneck
        self._model, self._data, self._hardening = model, data, hardening
        self._portion = portion or self._settings.micro_batch_size

    def modules(self) -> Mapping[str, nn.Module]:
        """Nothing beside the backbone."""
        return {}

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """This process's share of the step's examples."""
        indices, lengths = self._data.order.batch(step), self._data.lengths
        if lengths is not None:
            indices = tuple(sorted(indices, key=lambda index: (lengths[index], index)))
        portions = deal(indices, rank, world_size, self._portion, neighbours=lengths is not None)
        laid_out = [self._laid_out(portion, step) for portion in portions]
        widths = self._widths(laid_out, world_size)
        return [
            self._micro_batch(portion, step, batch, block)
            for portion, batch, block in zip(portions, laid_out, widths, strict=True)
        ]

    def examples(self, step: int) -> Sequence[str]:
        """The problems of a step's examples."""
        return [self._data.names[index] for index in self._data.order.batch(step)]

    def _laid_out(self, portion: Portion, step: int, widths: Widths | None = None) -> LatentBatch:
        """The rows of a portion; with ``widths`` another one that brings about latent blocks as wide."""
        rows = [self._data.source.get(index) for index in portion.indices]
        under = None if self._hardening is None else self._hardening.under(step, portion.indices)
        if widths is not None:
            rows = [*rows, stand_in(widths, self._model.ids, rows)]
            under = None if under is None else [*under, True]
        return collate(
            rows,
            self._model.ids,
            self._model.backbone.position_ids,
            align=self._rolls_out(),
            bottleneck=self._bottleneck,
            under=under,
        )

    def _rolls_out(self) -> bool:
        """Whether the model's own latents are fed, so that spans share columns."""
        led = isinstance(self._settings, GroundingSettings) and self._settings.horizon == 1
        return self._latent.fed == "own" and self._program not in TEXT_ONLY and not led

    def _widths(self, batches: Sequence[LatentBatch], world_size: int) -> Sequence[Widths]:
        """The latent blocks of each forward pass: those of all processes where these must keep in step."""
        own = [_blocks(batch) for batch in batches]
        return agreed(own) if world_size > 1 and self._model.backbone.sharded else own

    def _micro_batch(self, portion: Portion, step: int, batch: LatentBatch, widths: Widths) -> MicroBatch:
        held, work = counts(batch), work_of(batch)
        if self._program not in TEXT_ONLY:
            held["cosine_input"] = held["visual"] if self._compares_inputs(batch) else 0.0
            held["cosine_constant"] = held["visual"] if len(batch.span_rows) > 1 else 0.0
        spans = len(batch.span_rows)
        if widths != _blocks(batch):
            batch = self._laid_out(portion, step, widths)
        device, diagnostics = self._model.backbone.device, step % DIAGNOSTICS_EVERY == 0
        data = SupervisedBatch(batch.to(device), held, spans, diagnostics, self._disturbance(portion, step, batch))
        return MicroBatch(data, held, portion.filler, work)

    def _disturbance(self, portion: Portion, step: int, batch: LatentBatch) -> Disturbance | None:
        if self._hardening is None:
            return None
        backbone = self._model.backbone
        found = self._hardening.disturbance(step, portion.indices, batch, backbone.hidden_size)
        return None if found is None else found.to(backbone.device)

    def _compares_inputs(self, batch: LatentBatch) -> bool:
        """Whether ``cosine_diagnostics`` can tell the cosine of the input images of this micro-batch."""
        sizes = self._model.backbone.image_tokens(batch.grid_thw)
        first = dict(reversed(list(zip(batch.image_rows.tolist(), sizes, strict=True))))
        most = int(batch.span_lengths.max()) if len(batch.span_lengths) else 0
        if self._latent.compression == "changed":
            most = min(most, 1)  # fewer patches than latents are shared
        return all(first.get(row, 0) >= most for row in batch.span_rows.tolist())

    def loss(self, backbone: nn.Module, data: SupervisedBatch, totals: Mapping[str, float]) -> LossParts:
        """What a micro-batch adds to the loss of the step: every part weighed by its share of the counts."""
        found = self._found(backbone, data)
        parts = {
            name: contribution(value, data.counts[_counted_as(name)], totals[_counted_as(name)])
            for name, value in found.parts.items()
        }
        for name in ("cosine_input", "cosine_constant") if "cosine" in parts else ():
            if totals[name]:  # told in every process, though not every one has it
                parts.setdefault(name, torch.zeros(()))
        total = parts["text"]
        if isinstance(self._settings, GroundingSettings):
            total = parts["visual"] + self._settings.text_weight * parts["text"]
        if isinstance(self._settings, RelaxationSettings):
            total = relaxation_total(parts, self._settings.grounding_weight)
        return LossParts(total, {name: value.detach() for name, value in parts.items()})

    def _found(self, backbone: Any, data: SupervisedBatch) -> LossParts:
        if isinstance(self._settings, GroundingSettings):
            return grounding_loss(backbone, data.batch, self._settings, self._latent, diagnostics=data.diagnostics)
        if not isinstance(self._settings, RelaxationSettings):
            return text_loss(backbone, data.batch, checkpointing=self._settings.gradient_checkpointing)
        return relaxation_loss(
            backbone,
            data.batch,
            checkpointing=self._settings.gradient_checkpointing,
            compared=self._compared(self._settings.grounding_weight, data),
            blank=self._latent.fed == "blank",
            disturb=data.disturbance,
        )

    def _compared(self, weight: float, data: SupervisedBatch) -> Compared | None:
        """How stage 2 holds its latents against their targets: for the loss, or for figures where targets are there."""
        figures = data.diagnostics and len(data.batch.auxiliary_grid_thw) > 0
        if not figures and not weight:
            return None
        return Compared(compression=self._latent.compression, weight=weight, figures=figures, spans=data.spans)


def _blocks(batch: LatentBatch) -> Widths:
    """The most latents of each block of spans; nothing where latents are not rolled out."""
    return tuple(block.width for block in batch.blocks)


def _counted_as(part: str) -> str:
    """Which count a part is a mean over: text over tokens, the figures of latents over the latents that have them."""
    return part if part in ("text", "cosine_input", "cosine_constant") else "visual"
