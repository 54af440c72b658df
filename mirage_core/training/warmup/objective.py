"""The warm-up of a from-scratch base: copying maps and reading arrows, with dense heads discarded afterwards.

It replaces pretraining. What makes it work at this size was measured: weights of 0.08, dense labels on
every cell (from the visual features and from the text model's image positions), and a penalty that centres the
visual features, without which one constant vector scores a cosine above .9 against every target of stage 1.
Legend: B images, T columns, D hidden, N cells of all images, n cells of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.functional import cross_entropy as class_cross_entropy

from mirage_core.benchmarks.generate import excluded_forms
from mirage_core.config import Settings, WarmupSettings
from mirage_core.distributed.context import current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.oom import WARMUP_GROUP, micro_batch_size
from mirage_core.errors import SettingsError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import IGNORED, EncodedExample, no_grids, no_pixels
from mirage_core.latent.images import scale_image
from mirage_core.model.backbone import Backbone
from mirage_core.model.loading import FROM_SCRATCH, LoadedModel, build_base_model
from mirage_core.training.checkpoint.model_metadata import warmup_metadata
from mirage_core.training.logging.throughput import work_of
from mirage_core.training.loop import TrainPlan, step_seed, train
from mirage_core.training.objective import LossParts, MicroBatch, contribution
from mirage_core.training.sft.losses import cross_entropy
from mirage_core.training.warmup.tasks import KINDS, Exercise, ExerciseSource, Task

GROUP = WARMUP_GROUP  # fixed, so that the loss does not depend on the number of processes
ARROWS = 8
LARGEST_LEVEL = 8
# Few of a cell's eight arrow bits are set: with a plain mean they would hardly count beside the kind.
ARROW_WEIGHT = 4.0
_TURN = "<|im_start|>assistant"


def run_warmup(job: Job, events: EventWriter) -> None:
    """Build the random model, warm it up, and save it to ``job.output``: one process of a warm-up job."""
    settings = job.settings
    if settings.model.source != FROM_SCRATCH:
        raise SettingsError(
            f"A warm-up is for model.source from_scratch, got {settings.model.source}; load that model instead."
        )
    model = build_base_model(settings.model, job.seed)
    objective = WarmupObjective(settings, model, job.seed, micro_batch_size(job))
    train(
        objective, model, _train_plan(settings.model.warmup), job, events, warmup_metadata(job, model.backbone.device)
    )


def _train_plan(settings: WarmupSettings) -> TrainPlan:
    return TrainPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
    )


@dataclass(frozen=True)
class WarmupBatch:
    """Exercises of one process: their layout, and the facts of their cells.

    ``kind`` [B, n] class of each cell, ``elf`` [B, n], ``arrows`` [B, n, 8] in 0 and 1.
    """

    layout: LatentBatch
    level: int
    kind: Tensor
    elf: Tensor
    arrows: Tensor


class DenseHeads(nn.Module):
    """Linear heads on every cell: kind, elf, arrows; on the text model's features also its row and column."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        cell = len(KINDS) + 1 + ARROWS
        self.visual = nn.Linear(hidden_size, cell)
        self.contextual = nn.Linear(hidden_size, cell + 2 * LARGEST_LEVEL)

    def loss(self, visual: Tensor, contextual: Tensor, batch: WarmupBatch) -> tuple[Tensor, Tensor]:
        """Return the dense loss over both features [N, D], and the share of cells whose kind both predict."""
        visual_scores, text_scores = self.visual(visual), self.contextual(contextual)
        cell = visual_scores.shape[-1]
        rows = torch.arange(batch.level, device=visual_scores.device)
        row = rows.repeat_interleave(batch.level).repeat(len(batch.kind))
        column = rows.repeat(batch.level).repeat(len(batch.kind))
        row_scores, column_scores = text_scores[:, cell:].split(LARGEST_LEVEL, dim=-1)
        loss = _cell_loss(visual_scores, batch) + _cell_loss(text_scores[:, :cell], batch)
        loss = loss + class_cross_entropy(row_scores, row) + class_cross_entropy(column_scores, column)
        kinds = [scores[:, : len(KINDS)].argmax(-1) == batch.kind.flatten() for scores in (visual_scores, text_scores)]
        return loss, (kinds[0] & kinds[1]).float().mean()


def _cell_loss(scores: Tensor, batch: WarmupBatch) -> Tensor:
    """Return the loss of kind, elf and arrows of every cell from scores [N, 4 + 1 + 8]."""
    kind, elf, arrows = scores.split([len(KINDS), 1, ARROWS], dim=-1)
    return (
        class_cross_entropy(kind, batch.kind.flatten())
        + binary_cross_entropy_with_logits(elf.squeeze(-1), batch.elf.flatten())
        + ARROW_WEIGHT * binary_cross_entropy_with_logits(arrows, batch.arrows.flatten(0, 1))
    )


def centring_loss(features: Tensor) -> Tensor:
    """Return |mean f|^2 / E|f|^2 of features [N, D]: 0 when they are centred, 1 when they are all the same."""
    return features.mean(0).square().sum() / features.square().sum(-1).mean().clamp_min(1e-12)


class WarmupObjective:
    """The objective of the warm-up: exercises drawn on the fly, three weighted losses."""

    def __init__(self, settings: Settings, model: LoadedModel, seed: int, micro_batch_size: int | None = None) -> None:
        if len(settings.model.warmup.levels) == 0:
            raise SettingsError("model.warmup.levels is empty; name at least one level.")
        self._settings, self._model, self._micro_batch_size = settings, model, micro_batch_size
        excluded = excluded_forms([Path(name) for name in settings.problems.exclude])
        self._source = ExerciseSource(
            settings.model.warmup,
            settings.auxiliary_images,
            settings.problems.hole_probability,
            settings.problems.cell_px,
            excluded,
            seed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, 0, len(KINDS)))
            self._heads = DenseHeads(model.backbone.hidden_size)

    def modules(self) -> Mapping[str, nn.Module]:
        """Return the dense heads, discarded after the warm-up."""
        return {"dense_heads": self._heads}

    def micro_batches(self, step: int) -> Sequence[MicroBatch]:
        """Return complete groups of images, dealt in turn; a process without any computes the first one as a filler."""
        size = self._settings.model.warmup.batch_size
        groups = [range(first, min(first + GROUP, size)) for first in range(0, size, GROUP)]
        process = current_process()
        local = process.share(groups)
        most = -(-len(groups) // process.world_size)
        number = max(1, (self._micro_batch_size or size) // GROUP)
        firsts = range(0, most, number)
        return [self._micro_batch(step, local[first : first + number], groups[:1]) for first in firsts]

    def _micro_batch(self, step: int, groups: Sequence[range], filler: Sequence[range]) -> MicroBatch:
        indices = [index for group in groups or filler for index in group]
        batch = self.batch(step, indices)
        counts = {
            "tokens": float((batch.layout.labels != IGNORED).sum()),
            "pictures": float(len(indices)),
        }
        return MicroBatch(batch, counts, filler=not groups, work=work_of(batch.layout))

    def batch(self, step: int, indices: Sequence[int]) -> WarmupBatch:
        """Lay out the exercises of a step with these indices."""
        exercises = [self._source.exercise(step, index) for index in indices]
        encoded = [_encode(exercise, self._model, self._settings) for exercise in exercises]
        layout = collate(encoded, self._model.ids, self._model.backbone.position_ids, align=False)
        facts = [exercise.facts for exercise in exercises]
        return WarmupBatch(
            layout=layout,
            level=exercises[0].level,
            kind=torch.stack([torch.from_numpy(fact.kind) for fact in facts]),
            elf=torch.stack([torch.from_numpy(fact.elf) for fact in facts]),
            arrows=torch.stack([torch.from_numpy(fact.arrows) for fact in facts]),
        )

    def examples(self, step: int) -> Sequence[str]:  # noqa: ARG002 -- exercises have no names
        """Return nothing: exercises are drawn for their step and saved nowhere."""
        return ()

    def loss(self, backbone: nn.Module, data: WarmupBatch, totals: Mapping[str, float]) -> LossParts:
        """Return what a micro-batch adds to text + dense_weight * dense + centring_weight * centring."""
        if not isinstance(backbone, Backbone):
            raise SettingsError(f"The warm-up trains a Backbone, got {type(backbone).__name__}.")
        weights = self._settings.model.warmup
        batch = _to_device(data, backbone.device)
        images = backbone.image_features(batch.layout.pixel_values, batch.layout.grid_thw)
        embedded = backbone.embed(batch.layout.input_ids, images)
        hidden = backbone.hidden(embedded, backbone.rotary(batch.layout.position_ids), None)
        image_positions = hidden[batch.layout.input_ids == self._model.ids.image_pad]
        images = [backbone.merged(image) for image in images]
        dense, kind_accuracy = self._heads.loss(torch.cat(images), image_positions, batch)
        tokens, num_images = float((batch.layout.labels != IGNORED).sum()), float(len(images))
        text = contribution(cross_entropy(backbone, hidden, batch.layout.labels), tokens, totals["tokens"])
        parts = {
            "text": text,
            "dense": contribution(dense, num_images, totals["pictures"]),
            "centring": contribution(_centring(images), num_images, totals["pictures"]),
        }
        total = text + weights.dense_weight * parts["dense"] + weights.centring_weight * parts["centring"]
        accuracy = contribution(kind_accuracy, num_images, totals["pictures"])
        return LossParts(total, {**parts, "cell_accuracy": accuracy.detach()})


def _centring(images: Sequence[Tensor]) -> Tensor:
    """Return the mean centring loss of the groups of images, weighted by their size."""
    groups = [images[first : first + GROUP] for first in range(0, len(images), GROUP)]
    return torch.stack([centring_loss(torch.cat(list(group))) * len(group) for group in groups]).sum() / len(images)


def _to_device(batch: WarmupBatch, device: torch.device) -> WarmupBatch:
    return WarmupBatch(
        layout=batch.layout.to(device),
        level=batch.level,
        kind=batch.kind.to(device),
        elf=batch.elf.to(device),
        arrows=batch.arrows.to(device),
    )


def _encode(exercise: Exercise, model: LoadedModel, settings: Settings) -> EncodedExample:
    """Encode an exercise in the project's chat form; labels are everything after the assistant's header."""
    image = scale_image(exercise.image, settings.prompt.image_scale)
    pixels = model.processor.image_processor(images=[image], return_tensors="pt")
    cells = int(pixels["image_grid_thw"].prod()) // model.processor.image_processor.merge_size**2
    if cells != exercise.level**2:
        raise SettingsError(
            f"A level-{exercise.level} map becomes {cells} visual tokens; the warm-up needs one a cell. Set "
            f"prompt.image_scale to {28 / settings.problems.cell_px:g} (28 px of {settings.problems.cell_px} px cells)."
        )
    tokenizer = model.processor.tokenizer
    before, after = _prompt_ids(tokenizer, exercise.task)
    answer = tokenizer(f"\n{exercise.answer}<|im_end|>\n", add_special_tokens=False).input_ids
    prompt = [*before, *([model.ids.image_pad] * cells), *after]
    return EncodedExample(
        ids=torch.tensor([*prompt, *answer]),
        labels=torch.tensor([IGNORED] * len(prompt) + answer),
        pixel_values=pixels["pixel_values"],
        grid_thw=pixels["image_grid_thw"],
        auxiliary_pixel_values=no_pixels(),
        auxiliary_grid_thw=no_grids(),
    )


@lru_cache(maxsize=16)
def _prompt_ids(tokenizer: object, task: Task) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the prompt's token ids before and after those of the image, up to the assistant's header."""
    content = [{"type": "image"}, {"type": "text", "text": f"\n{task}:"}]
    text = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    before, after = text.split("<|image_pad|>")
    after = after[: after.rindex(_TURN)] + _TURN
    return tuple(tokenizer(before).input_ids), tuple(tokenizer(after).input_ids)  # type: ignore[operator]
