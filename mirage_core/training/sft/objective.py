"""The objective of the supervised programs: micro-batches of examples, and their loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mirage_core.config import Settings, TrainSettings
from mirage_core.distributed.context import current_process
from mirage_core.distributed.job import ProgramName
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample
from mirage_core.methods import programs
from mirage_core.model.loading import LoadedModel
from mirage_core.training.data.sampler import MicroBatchIndices, split_batch
from mirage_core.training.engine.lockstep import Widths, dummy_row, sync_block_widths
from mirage_core.training.logging.throughput import work_of
from mirage_core.training.monet.losses import Teaching, learned_rows
from mirage_core.training.monet.sight import auxiliary_sight
from mirage_core.training.monet.teacher_states import teacher_batch
from mirage_core.training.objective import LossParts, MicroBatch, contribution
from mirage_core.training.sft.beside import Beside
from mirage_core.training.sft.codi import Teacher, cells_from_end
from mirage_core.training.sft.examples import SupervisedData
from mirage_core.training.sft.latent_noise import LatentNoise
from mirage_core.training.sft.losses import LossInputs, counts_of, loss_of
from mirage_core.training.sft.span_end import SpanEnds
from mirage_core.training.sft.step_decoder import Explanations
from mirage_core.training.stepwise.batch import step_batch, token_batch
from mirage_core.training.stepwise.heads import StepLoss

DIAGNOSTICS_EVERY = 10


@dataclass(frozen=True)
class SupervisedBatch:
    """A micro-batch on the device: the inputs of its loss, and the counts of its examples (no dummy row).

    ``figures``: to log beside the parts of the loss, means over its examples.
    """

    inputs: LossInputs
    counts: Mapping[str, float]
    figures: Mapping[str, float]


class SupervisedObjective:
    """Batches of examples under the loss of a supervised program.

    ``beside``: what the program has beside its model. ``micro_batch_size``: None takes that of the settings.
    """

    def __init__(
        self,
        program: ProgramName,
        settings: Settings,
        model: LoadedModel,
        data: SupervisedData,
        beside: Beside | None = None,
        *,
        micro_batch_size: int | None = None,
    ) -> None:
        self._program, self._loss, self._latent = programs()[program], loss_of(program), settings.latent
        self._settings = settings.section(program, TrainSettings)
        self._span_tokens = model.ids.latent_queries if settings.latent.input == "query" else ()
        self._bottleneck: Bottleneck = settings.latent.bottleneck if self._program.has_latents else "none"
        self._model, self._data, self._beside = model, data, beside or Beside()
        self._micro_batch_size = micro_batch_size or self._settings.micro_batch_size

    def modules(self) -> Mapping[str, nn.Module]:
        """Return what is trained beside the backbone: heads, a pooler, a readout, a step decoder; mostly nothing."""
        return self._beside.modules(self._program)

    def examples(self, step: int) -> Sequence[str]:
        """Return the problems of a step's examples."""
        return [self._data.names[index] for index in self._data.order.batch(step)]

    def micro_batches(self, step: int) -> Sequence[MicroBatch]:
        """Return this process's share of the step's examples."""
        indices, lengths = self._data.order.batch(step), self._data.lengths
        if lengths is not None:
            indices = tuple(sorted(indices, key=lambda index: (lengths[index], index)))
        process, by_length = current_process(), lengths is not None
        parts = split_batch(indices, process.rank, process.world_size, self._micro_batch_size, neighbours=by_length)
        batches = [self._collate(part, step) for part in parts]
        widths = [_block_widths(batch) for batch in batches]
        if process.world_size > 1 and self._model.backbone.sharded:
            widths = sync_block_widths(widths)
        return [self._micro_batch(*item, step) for item in zip(parts, batches, widths, strict=True)]

    def _collate(self, part: MicroBatchIndices, step: int, widths: Widths | None = None) -> LatentBatch:
        """Lay out the examples; with ``widths`` a dummy row is added that brings about latent blocks as wide."""
        rows = [self._row(index, step) for index in part.indices]
        regularizer = self._beside.regularizer
        bottleneck_rows = None if regularizer is None else regularizer.bottleneck_rows(step, part.indices)
        if widths is not None:
            rows = [*rows, dummy_row(widths, self._model.ids, rows)]
            bottleneck_rows = None if bottleneck_rows is None else [*bottleneck_rows, True]
        return collate(
            rows,
            self._model.ids,
            self._model.backbone.position_ids,
            align=self._latent.rolls_out and self._rolls_out,
            bottleneck=self._bottleneck if regularizer is None else regularizer.bottleneck(step, self._bottleneck),
            bottleneck_rows=bottleneck_rows,
            span_tokens=self._span_tokens,
        )

    def _row(self, index: int, step: int) -> EncodedExample:
        example = self._data.source.get(index)
        return example if self._beside.curriculum is None else self._beside.curriculum.row(index, step, example)

    @property
    def _rolls_out(self) -> bool:
        """Whether hidden states are fed back: not where targets, or the vectors of a pooler, are fed in their place."""
        if self._program.latents == "teacher_forced":
            return self._settings.feeds_predictions
        return self._program.has_latents

    def _micro_batch(self, part: MicroBatchIndices, batch: LatentBatch, widths: Widths, step: int) -> MicroBatch:
        counts, work, spans = counts_of(batch), work_of(batch), len(batch.span_rows)
        if self._program.observes:  # its parts are means over rows
            counts |= {"text": float(learned_rows(batch)), "alignment": float(learned_rows(batch))}
        if self._program.has_latents:
            counts["cosine_input"] = counts["visual"] if self._has_cosine_input(batch) else 0.0
            counts["cosine_constant"] = counts["visual"] if spans > 1 else 0.0
            counts["stop"] = float(spans if self._beside.readout is not None else batch.span_lengths.sum() + spans)
            counts["image_norm"] = float(batch.span_lengths[torch.isin(batch.span_rows, batch.image_rows)].sum())
        if widths != _block_widths(batch):
            batch = self._collate(part, step, widths)
        figures: dict[str, float] = {}
        if self._beside.curriculum is not None:
            counts["stage"] = float(len(part.indices))
            figures["stage"] = self._beside.curriculum.mean_stage(part.indices, step)
        stepwise, ends = self._step_loss(part, batch), self._span_ends(batch, spans)
        counts |= {} if stepwise is None else stepwise.batch.counts(stepwise.longest)
        counts |= {} if ends is None else {"end": ends.count}
        explanations, teacher = self._explanations(part, step, batch), self._teacher(part, batch)
        counts |= {} if explanations is None else {"explain": explanations.count}
        counts |= {} if teacher is None else teacher.counts
        inputs = LossInputs(
            batch=batch.to(self._model.backbone.device),
            settings=self._settings,
            latent=self._latent,
            spans=spans,
            diagnostics=step % DIAGNOSTICS_EVERY == 0,
            latent_transform=self._noise(part, step, batch),
            stepwise=None if stepwise is None else stepwise.to(self._model.backbone.device),
            ends=None if ends is None else ends.to(self._model.backbone.device),
            pooler=self._beside.pooler,
            readout=self._beside.readout,
            latent_end=self._model.ids.latent_end,
            explanations=None if explanations is None else explanations.to(self._model.backbone.device),
            teacher=None if teacher is None else teacher.to(self._model.backbone.device),
            teaching=self._teaching(part, batch),
        )
        return MicroBatch(SupervisedBatch(inputs, counts, figures), counts, part.filler, work)

    def _step_loss(self, part: MicroBatchIndices, batch: LatentBatch) -> StepLoss | None:
        """Return the targets of a micro-batch with the heads, on the CPU; dummy rows have no targets."""
        if self._beside.stepwise is None:
            return None
        stepwise = self._beside.stepwise
        targets = [stepwise.targets.get(index) for index in part.indices]
        if stepwise.plans is None:
            laid_out = step_batch(batch, targets, stepwise.image_pad, stepwise.heads.widths)
        else:
            columns = [stepwise.plans.columns(index, self._data.source.get(index).ids) for index in part.indices]
            laid_out = token_batch(batch, targets, columns, stepwise.image_pad, stepwise.heads.widths)
        return StepLoss(stepwise.heads, laid_out, stepwise.longest)

    def _teaching(self, part: MicroBatchIndices, batch: LatentBatch) -> Teaching | None:
        """Return what the teacher has for a micro-batch, on the device; dummy rows have nothing of it."""
        if self._beside.teacher is None:
            return None
        own = [self._beside.teacher.get(self._data.names[index]) for index in part.indices]
        states = teacher_batch(own, batch, at_latents=self._program.teacher == "latents")
        shown = self._program.shows_auxiliary
        sight = auxiliary_sight(batch, self._model.ids, len(own)) if shown else None
        return Teaching(states, sight).to(self._model.backbone.device)

    def _span_ends(self, batch: LatentBatch, spans: int) -> SpanEnds | None:
        """Return where spans end, on the CPU; None where all have one length, which decoding keeps to."""
        if self._latent.length == "fixed" or not self._program.learns_span_ends:
            return None
        return SpanEnds.of(batch, spans, self._model.ids.latent_end)

    def _explanations(self, part: MicroBatchIndices, step: int, batch: LatentBatch) -> Explanations | None:
        """Return what a step decoder must write from the latents of a micro-batch, on the CPU."""
        steps, decoding = self._beside.steps, self._beside.step_decoding
        if steps is None or decoding is None:
            return None
        texts = [steps.explained_at(index, step) for index in part.indices]
        return decoding.lay_out(batch, texts, steps.latents_per_step)

    def _teacher(self, part: MicroBatchIndices, batch: LatentBatch) -> Teacher | None:
        """Return the other task of the examples of a micro-batch, on the CPU."""
        rows, backbone = self._beside.teacher_rows, self._model.backbone
        if rows is None:
            return None
        words = [rows.row(index, self._data.source.get(index)) for index in part.indices]
        own, teachers = zip(*(rows.before_answer(index) for index in part.indices), strict=True)
        taught = collate(words, self._model.ids, backbone.position_ids, align=False)
        return Teacher(rows.weights(), taught, cells_from_end(taught, teachers), cells_from_end(batch, own))

    def _noise(self, part: MicroBatchIndices, step: int, batch: LatentBatch) -> LatentNoise | None:
        if self._beside.regularizer is None:
            return None
        backbone = self._model.backbone
        noise = self._beside.regularizer.noise(step, part.indices, batch, backbone.hidden_size)
        return None if noise is None else noise.to(backbone.device)

    def _has_cosine_input(self, batch: LatentBatch) -> bool:
        """Whether ``cosine_diagnostics`` can compute the cosine of this micro-batch's input images."""
        if self._beside.pooler is not None or self._program.targets != "auxiliary":
            return False
        sizes = self._model.backbone.image_tokens(batch.grid_thw)
        first = dict(reversed(list(zip(batch.image_rows.tolist(), sizes, strict=True))))
        most = int(batch.span_lengths.max()) if len(batch.span_lengths) else 0
        if self._latent.compression == "changed_patches":
            most = min(most, 1)  # fewer patches than latents are shared
        return all(first.get(row, 0) >= most for row in batch.span_rows.tolist())

    def loss(self, backbone: Any, data: SupervisedBatch, totals: Mapping[str, float]) -> LossParts:
        """Return what a micro-batch adds to the loss of the step: every part weighed by its share of the counts."""
        loss = self._loss(backbone, data.inputs)
        figures = {name: torch.tensor(value) for name, value in data.figures.items()}
        parts = {
            name: contribution(value, data.counts[_count_of(name)], totals[_count_of(name)])
            for name, value in (loss.parts | figures).items()
        }
        for name in ("cosine_input", "cosine_constant") if "cosine" in parts else ():
            if totals[name]:  # logged in every process, though not every one has it
                parts.setdefault(name, torch.zeros(()))
        total = LossParts.sum(parts, loss.weights).total
        return LossParts(total, {name: value.detach() for name, value in parts.items()})


def _block_widths(batch: LatentBatch) -> Widths:
    """Return the width of each latent block; nothing where latents are not rolled out."""
    return tuple(block.width for block in batch.blocks)


_OWN_COUNTS = (
    "text",
    "alignment",
    "end",
    "stop",
    "stage",
    "teacher",
    "distillation",
    "cosine_input",
    "cosine_constant",
    "image_norm",
)


def _count_of(part: str) -> str:
    """Return which count a part is a mean over: text over tokens, a figure of latents over those that have it."""
    if part.startswith(("where", "what", "explain")):
        return part.replace("_accuracy", "")
    return part if part in _OWN_COUNTS else "visual"
