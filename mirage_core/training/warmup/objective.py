"""The warm-up of a from-scratch base: copying maps and reading arrows, with dense heads that are thrown away after it.

It stands in for a pretrained model. What makes it work at this size was measured: weights of 0.08, dense labels on
every cell (from the visual features and from the text model's image positions), and a penalty that centres the
visual features, without which one constant vector scores a cosine above .9 against every target of stage 1.
Legend: B pictures, T columns, D hidden, N cells of all pictures, n cells of one picture.
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
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.oom import WARMUP_GROUP, portion_of
from mirage_core.errors import SettingsError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import IGNORED, EncodedExample, no_grids, no_pixels
from mirage_core.latent.images import scaled
from mirage_core.model.backbone import Backbone
from mirage_core.model.loading import FROM_SCRATCH, LoadedModel, build_base
from mirage_core.training.logging.throughput import work_of
from mirage_core.training.loop import TrainPlan, step_seed, train
from mirage_core.training.model_metadata import about_warmup
from mirage_core.training.objective import MicroBatch, contribution
from mirage_core.training.sft.losses import LossParts, cross_entropy
from mirage_core.training.warmup.tasks import KINDS, Exercise, ExerciseSource, Task

GROUP = WARMUP_GROUP  # fixed, so that the loss knows no number of processes
ARROWS = 8
LARGEST_LEVEL = 8
# An arrow bit is rare among the eight of a cell: as a plain mean it would hardly count beside the kind.
ARROW_WEIGHT = 4.0
_TURN = "<|im_start|>assistant"


def run_warmup(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    """The program "warmup": build the random model, warm it up, save it to ``job.output``."""
    settings = job.settings
    if settings.model.source != FROM_SCRATCH:
        raise SettingsError(
            f"A warm-up is for model.source from_scratch, got {settings.model.source}; load that instead."
        )
    model = build_base(settings.model, job.seed)
    objective = WarmupObjective(settings, model, job.seed, portion_of(job))
    train(objective, model, _plan(settings.model.warmup), job, rank, world_size, emit, about_warmup(job))


def _plan(settings: WarmupSettings) -> TrainPlan:
    return TrainPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


@dataclass(frozen=True)
class WarmupBatch:
    """Exercises of one process: their layout, the facts of their cells, pictures a centred group.

    ``kind`` [B, n] class of each cell, ``elf`` [B, n], ``arrows`` [B, n, 8] in 0 and 1.
    """

    layout: LatentBatch
    level: int
    kind: Tensor
    elf: Tensor
    arrows: Tensor


class DenseHeads(nn.Module):
    """Linear read-outs of every cell: kind, elf, arrows; from the text model also its row and column."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        cell = len(KINDS) + 1 + ARROWS
        self.visual = nn.Linear(hidden_size, cell)
        self.contextual = nn.Linear(hidden_size, cell + 2 * LARGEST_LEVEL)

    def loss(self, visual: Tensor, contextual: Tensor, batch: WarmupBatch) -> tuple[Tensor, Tensor]:
        """The dense loss over features [N, D] of both kinds, and the share of cells whose kind both read right."""
        seen, thought = self.visual(visual), self.contextual(contextual)
        cell = seen.shape[-1]
        rows = torch.arange(batch.level, device=seen.device)
        row = rows.repeat_interleave(batch.level).repeat(len(batch.kind))
        column = rows.repeat(batch.level).repeat(len(batch.kind))
        place = thought[:, cell:].split(LARGEST_LEVEL, dim=-1)
        loss = _cell_loss(seen, batch) + _cell_loss(thought[:, :cell], batch)
        loss = loss + class_cross_entropy(place[0], row) + class_cross_entropy(place[1], column)
        kinds = [scores[:, : len(KINDS)].argmax(-1) == batch.kind.flatten() for scores in (seen, thought)]
        return loss, (kinds[0] & kinds[1]).float().mean()


def _cell_loss(scores: Tensor, batch: WarmupBatch) -> Tensor:
    """Kind, elf and arrows of every cell from scores [N, 4 + 1 + 8]."""
    kind, elf, arrows = scores.split([len(KINDS), 1, ARROWS], dim=-1)
    return (
        class_cross_entropy(kind, batch.kind.flatten())
        + binary_cross_entropy_with_logits(elf.squeeze(-1), batch.elf.flatten())
        + ARROW_WEIGHT * binary_cross_entropy_with_logits(arrows, batch.arrows.flatten(0, 1))
    )


def centring_loss(features: Tensor) -> Tensor:
    """|mean f|^2 / E|f|^2 of features [N, D]: 0 when they are centred, 1 when they are all the same."""
    return features.mean(0).square().sum() / features.square().sum(-1).mean().clamp_min(1e-12)


class WarmupObjective:
    """The warm-up as the common loop drives it: batches drawn on the fly, three weighted losses."""

    def __init__(self, settings: Settings, model: LoadedModel, seed: int, portion: int | None = None) -> None:
        if len(settings.model.warmup.levels) == 0:
            raise SettingsError("model.warmup.levels is empty; name at least one level.")
        self._settings, self._model, self._portion = settings, model, portion
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
        """The dense heads, thrown away after the warm-up."""
        return {"dense_heads": self._heads}

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """Whole groups of pictures, dealt in turn; a process without any computes the first group as a filler."""
        size = self._settings.model.warmup.batch_size
        groups = [range(first, min(first + GROUP, size)) for first in range(0, size, GROUP)]
        mine = groups[rank::world_size]
        most = -(-len(groups) // world_size)  # groups of a process, and at once
        at_once = max(1, (self._portion or size) // GROUP)
        cuts = range(0, most, at_once)
        return [self._micro_batch(step, mine[first : first + at_once], groups[:1]) for first in cuts]

    def _micro_batch(self, step: int, groups: Sequence[range], stand_in: Sequence[range]) -> MicroBatch:
        indices = [index for group in groups or stand_in for index in group]
        batch = self.batch(step, indices)
        counts = {
            "tokens": float((batch.layout.labels != IGNORED).sum()),
            "pictures": float(len(indices)),
        }
        return MicroBatch(batch, counts, filler=not groups, work=work_of(batch.layout))

    def batch(self, step: int, indices: Sequence[int]) -> WarmupBatch:
        """The exercises of a step with these indices, laid out."""
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

    def examples(self, step: int) -> Sequence[str]:  # noqa: ARG002 -- exercises have no name to look them up by
        """Exercises are drawn for their step, and kept nowhere."""
        return ()

    def loss(self, backbone: nn.Module, data: WarmupBatch, totals: Mapping[str, float]) -> LossParts:
        """What one micro-batch adds to text + dense_weight * dense + centring_weight * centring."""
        if not isinstance(backbone, Backbone):
            raise SettingsError(f"The warm-up trains a Backbone, got {type(backbone).__name__}.")
        weights = self._settings.model.warmup
        batch = _on(data, backbone.device)
        images = backbone.image_features(batch.layout.pixel_values, batch.layout.grid_thw)
        embedded = backbone.embed(batch.layout.input_ids, images)
        hidden = backbone.hidden(embedded, backbone.rotary(batch.layout.position_ids), None)
        image_positions = hidden[batch.layout.input_ids == self._model.ids.image_pad]
        images = [backbone.merged(image) for image in images]
        dense, kind_accuracy = self._heads.loss(torch.cat(images), image_positions, batch)
        tokens, pictures = float((batch.layout.labels != IGNORED).sum()), float(len(images))
        text = contribution(cross_entropy(backbone, hidden, batch.layout.labels), tokens, totals["tokens"])
        parts = {
            "text": text,
            "dense": contribution(dense, pictures, totals["pictures"]),
            "centring": contribution(_centring(images), pictures, totals["pictures"]),
        }
        total = text + weights.dense_weight * parts["dense"] + weights.centring_weight * parts["centring"]
        accuracy = contribution(kind_accuracy, pictures, totals["pictures"])
        return LossParts(total, {**parts, "cell_accuracy": accuracy.detach()})


def _centring(images: Sequence[Tensor]) -> Tensor:
    """The centring loss of every group of pictures, weighted by its size."""
    groups = [images[first : first + GROUP] for first in range(0, len(images), GROUP)]
    return torch.stack([centring_loss(torch.cat(list(group))) * len(group) for group in groups]).sum() / len(images)


def _on(batch: WarmupBatch, device: torch.device) -> WarmupBatch:
    return WarmupBatch(
        layout=batch.layout.to(device),
        level=batch.level,
        kind=batch.kind.to(device),
        elf=batch.elf.to(device),
        arrows=batch.arrows.to(device),
    )


def _encode(exercise: Exercise, model: LoadedModel, settings: Settings) -> EncodedExample:
    """An exercise in the project's chat form; labels are everything after the assistant's header."""
    picture = scaled(exercise.picture, settings.prompt.image_scale)
    pixels = model.processor.image_processor(images=[picture], return_tensors="pt")
    cells = int(pixels["image_grid_thw"].prod()) // model.processor.image_processor.merge_size**2
    if cells != exercise.level**2:
        raise SettingsError(
            f"A level-{exercise.level} map becomes {cells} visual tokens; the warm-up needs one a cell. Set "
            f"prompt.image_scale to {28 / settings.problems.cell_px:g} (28 px of {settings.problems.cell_px} px cells)."
        )
    before, after = _frame(model.processor.tokenizer, exercise.task)
    tokenizer = model.processor.tokenizer
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
def _frame(tokenizer: object, task: Task) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of the prompt before and after the picture's tokens, up to the assistant's header."""
    content = [{"type": "image"}, {"type": "text", "text": f"\n{task}:"}]
    text = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    before, after = text.split("<|image_pad|>")
    after = after[: after.rindex(_TURN)] + _TURN
    return tuple(tokenizer(before).input_ids), tuple(tokenizer(after).input_ids)  # type: ignore[operator]
