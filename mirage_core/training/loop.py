"""The training loop that every program shares: batches, backward passes, steps, curves, checkpoints, the result."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from mirage_core.distributed.collectives import added, process_device, wait_for_all
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.interruption import INTERRUPTED, Asked, hearing_sigterm
from mirage_core.distributed.job import Job
from mirage_core.errors import TrainingError, TrainingInterrupted
from mirage_core.model.loading import LoadedModel, save_model
from mirage_core.training.checkpoint.async_save import Saver
from mirage_core.training.checkpoint.checkpoint import read_checkpoint, restore_kept
from mirage_core.training.engine.base import Engine, EngineSettings, Root
from mirage_core.training.engine.make_engine import EngineState, make_engine
from mirage_core.training.engine.optimizers import OptimizerKind, Schedule, learning_rate
from mirage_core.training.logging.curves import STEP_TOKENS, Curves
from mirage_core.training.logging.run_log import RunLog, sentence
from mirage_core.training.logging.tensorboard import board
from mirage_core.training.logging.throughput import Meter
from mirage_core.training.objective import MicroBatch, Objective, counted, worked
from mirage_core.training.validation.monitor import Course, way_out
from mirage_core.training.validation.validation import Validation

CURVES_FILE = "curves.parquet"
WORK = "work/"  # what is counted for the speed alone, beside the counts of the losses


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """How long and how fast: optimizer steps, AdamW's peak rate and its schedule, decay, clipping.

    ``stop_above``: how many times the loss of the first steps is too much (``watch.Divergence``); None: nothing is.
    """

    steps: int
    learning_rate: float
    warmup_steps: int
    schedule: Schedule
    weight_decay: float
    max_grad_norm: float
    stop_above: float | None = None
    optimizer: OptimizerKind = "adamw"

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        return learning_rate(
            step, steps=self.steps, peak=self.learning_rate, warmup_steps=self.warmup_steps, schedule=self.schedule
        )


def train(
    objective: Objective,
    model: LoadedModel,
    plan: TrainPlan,
    job: Job,
    rank: int,
    world_size: int,
    emit: EventWriter,
    about: Mapping[str, Any],
    validation: Validation | None = None,
) -> None:
    """Train ``model`` and save it with its curves to ``job.output``; every process calls this alike.

    Goes on from ``job.resume_from`` exactly: batches and random numbers are functions of (seed, step), and what
    ``validation`` decides is told from the curves. ``about`` becomes mirage.json. TrainingError for a loss or
    gradient that is not finite, or a loss that diverges; it names the examples of the step.
    """
    with hearing_sigterm() as asked:
        model.backbone.to(process_device(rank, world_size))
        step, restored, curves = _resumed(job, rank)
        run = _Run(objective, model, plan, job, rank, world_size, emit, restored, asked)
        with board(job, rank, step) as write:
            log = RunLog(job.program, plan.steps, rank, emit, write, run.meter)
            if restored is not None:
                log.say(f"going on after step {step}")
            course = Course(job, plan.steps, plan.stop_above, validation, curves, model, run.engine, rank, log)
            last = run.steps(step, curves, course, log)
            about = course.settle(last, about)
        run.finish(curves, about)


def step_seed(*numbers: int) -> int:
    """A seed for torch out of several numbers (the job's seed, a step, ...), well spread."""
    digest = hashlib.sha256(",".join(str(number) for number in numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _resumed(job: Job, rank: int) -> tuple[int, EngineState | None, Curves]:
    if rank == 0:
        restore_kept(job.resume_from, job.scratch)
    wait_for_all()
    return (0, None, Curves()) if job.resume_from is None else read_checkpoint(job.resume_from, job.program)


class _Run:
    """One process's part of a training run."""

    def __init__(
        self,
        objective: Objective,
        model: LoadedModel,
        plan: TrainPlan,
        job: Job,
        rank: int,
        world_size: int,
        emit: EventWriter,
        restored: EngineState | None,
        asked: Asked,
    ) -> None:
        self._objective, self._model, self._plan, self._job = objective, model, plan, job
        self._rank, self._world_size, self._emit = rank, world_size, emit
        self.engine = _engine(objective, model, plan, job, restored)
        self._saver = Saver(job, rank, world_size, emit)
        self._asked, self.interrupted, self._saved = asked, False, -1
        self.meter = Meter(model.backbone.device)

    def steps(self, step: int, curves: Curves, course: Course, log: RunLog) -> int:
        """The steps after ``step``, with what is told, measured and saved between them; the last one's number."""
        if step == 0:
            course.validate(step, self.meter.paused())
        while step < self._plan.steps and not course.ended:
            figures = self.step(step)
            step += 1
            curves.add(step, figures)
            log.step(step, figures)
            course.follow(step, figures, self._objective.examples(step - 1))
            course.validate(step, self.meter.paused())
            if step < self._plan.steps and not course.ended:
                self._save_when_due(step, curves)
        return step

    def _save_when_due(self, step: int, curves: Curves) -> None:
        if step % self._job.settings.runtime.checkpoint_every == 0:
            with self.meter.paused():
                self.save(step, curves)
        if self.interrupted:
            self.end_early(step, curves)

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step on one batch; the figures of the step, the same in every process."""
        torch.manual_seed(step_seed(self._job.seed, step, self._rank))
        batches = self._objective.micro_batches(step, self._rank, self._world_size)
        totals = added({**counted(batches), **{f"{WORK}{name}": done for name, done in worked(batches).items()}})
        self.meter.count({name.removeprefix(WORK): done for name, done in totals.items() if name.startswith(WORK)})
        figures: dict[str, float] = {}
        for batch in batches:
            for name, value in self._backward(batch, totals).items():
                figures[name] = figures.get(name, 0.0) + value
        figures = added({**figures, INTERRUPTED: float(bool(self._asked))})
        self.interrupted = figures.pop(INTERRUPTED) > 0
        _check_finite(step, figures, "loss", self._objective.examples(step))
        figures[STEP_TOKENS] = totals.get(f"{WORK}tokens", 0.0)
        figures["learning_rate"] = self._plan.rate(step)
        figures["gradient_norm"] = self.engine.step(figures["learning_rate"])
        _check_finite(step, figures, "gradient_norm", self._objective.examples(step))
        return figures

    def _backward(self, batch: MicroBatch, totals: Mapping[str, float]) -> dict[str, float]:
        def work() -> tuple[Tensor, dict[str, Tensor]]:
            found = self._objective.loss(self._model.backbone, batch.data, totals)
            return found.total, dict(found.parts)

        total, parts = self.engine.compute(work)
        weight = 0.0 if batch.filler else 1.0
        self.engine.backward(total * weight)
        figures = {"loss": total, **parts}
        return {name: float(value.detach()) * weight for name, value in figures.items()}

    def save(self, step: int, curves: Curves) -> None:
        """Save a checkpoint, each process its part."""
        self._saver.save(step, self.engine.shard(), curves)
        self._saved = step

    def end_early(self, step: int, curves: Curves) -> NoReturn:
        """Save, and end as somebody has asked: TrainingInterrupted in every process."""
        if self._saved != step:
            self.save(step, curves)
        self._saver.wait()
        wait_for_all()  # nobody ends before all have saved
        raise TrainingInterrupted(
            f"{self._job.program} was interrupted at step {step} of {self._plan.steps}, and saved there: run again"
        )

    def finish(self, curves: Curves, about: Mapping[str, Any]) -> None:
        """Save the trained model and its curves (process 0; the others help it to gather one weight at a time)."""
        self._saver.wait()
        output, model, writes = self._job.output, self._model, self._rank == 0
        save_model(output, model.backbone, model.processor, dict(about), gather=self.engine.gather, writes=writes)
        if writes:
            curves.write(output / CURVES_FILE)
        wait_for_all()


def _engine(
    objective: Objective, model: LoadedModel, plan: TrainPlan, job: Job, restored: EngineState | None
) -> Engine:
    runtime = job.settings.runtime
    settings = EngineSettings(
        kind=runtime.engine,
        zero_stage=runtime.zero_stage,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.max_grad_norm,
        optimizer=plan.optimizer,
        fused=runtime.fused_optimizer,
        offload_optimizer=runtime.offload_optimizer,
        offload_parameters=runtime.offload_parameters,
    )
    extra = {name: module.to(model.backbone.device) for name, module in objective.modules().items()}
    root = Root({"backbone": model.backbone, **extra})
    root.train()
    return make_engine(root, settings, restored)


def _check_finite(step: int, figures: Mapping[str, float], name: str, examples: Sequence[str]) -> None:
    if not math.isfinite(figures[name]):
        raise TrainingError(
            f"step {step + 1}: the {name} is {figures[name]}; figures: {sentence(figures)}. {way_out(examples)}"
        )
