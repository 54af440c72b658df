"""The training loop that every program shares: batches, backward passes, steps, curves, checkpoints, the result."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirage_core.errors import TrainingError
from mirage_core.model.base import LoadedModel, save_model
from mirage_core.training.checkpoint import read_checkpoint, write_checkpoint
from mirage_core.training.curves import TIMING, Curves
from mirage_core.training.engine import Engine, EngineSettings, EngineState, Root, make_engine
from mirage_core.training.events import EventWriter
from mirage_core.training.job import Job
from mirage_core.training.objective import MicroBatch, Objective
from mirage_core.training.processes import added, process_device, wait_for_all
from mirage_core.training.schedule import Schedule, learning_rate
from mirage_core.types import ProgressEvent

CURVES_FILE = "curves.parquet"
REPORT_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """How long and how fast: optimizer steps, AdamW's peak rate and its schedule, decay, clipping."""

    steps: int
    learning_rate: float
    warmup_steps: int
    schedule: Schedule
    weight_decay: float
    max_grad_norm: float

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
) -> None:
    """Train ``model`` and save it with its curves to ``job.output``; every process calls this alike.

    Goes on from ``job.resume_from`` exactly: batches and random numbers are functions of (seed, step).
    ``about`` becomes mirage.json. TrainingError for a loss or gradient that is not finite.
    """
    model.backbone.to(process_device(rank, world_size))
    step, restored, curves = _resumed(job)
    run = _Run(objective, model, plan, job, rank, world_size, emit, restored)
    if restored is not None and rank == 0:
        emit(ProgressEvent(stage=job.program, message=f"going on after step {step}", step=step, total=plan.steps))
    while step < plan.steps:
        figures = run.step(step)
        step += 1
        curves.add(step, figures)
        run.report(step, figures)
        if step % job.settings.runtime.checkpoint_every == 0 and step < plan.steps:
            run.save(step, curves)
    run.finish(curves, about)


def step_seed(*numbers: int) -> int:
    """A seed for torch out of several numbers (the job's seed, a step, ...), well spread."""
    digest = hashlib.sha256(",".join(str(number) for number in numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _resumed(job: Job) -> tuple[int, EngineState | None, Curves]:
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
    ) -> None:
        self._objective, self._model, self._plan, self._job = objective, model, plan, job
        self._rank, self._world_size, self._emit = rank, world_size, emit
        self._engine = _engine(objective, model, plan, job, restored)
        self._told, self._told_step = time.monotonic(), -1

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step on one batch; the figures of the step, the same in every process."""
        torch.manual_seed(step_seed(self._job.seed, step, self._rank))
        batches = self._objective.micro_batches(step, self._rank, self._world_size)
        totals = added(_counted(batches))
        figures: dict[str, float] = {}
        for batch in batches:
            for name, value in self._backward(batch, totals).items():
                figures[name] = figures.get(name, 0.0) + value
        figures = added(figures)
        _check_finite(step, figures, "loss")
        figures["learning_rate"] = self._plan.rate(step)
        figures["gradient_norm"] = self._engine.step(figures["learning_rate"])
        _check_finite(step, figures, "gradient_norm")
        return figures

    def _backward(self, batch: MicroBatch, totals: Mapping[str, float]) -> dict[str, float]:
        def work() -> tuple[Tensor, dict[str, Tensor]]:
            found = self._objective.loss(self._model.backbone, batch.data, totals)
            return found.total, dict(found.parts)

        total, parts = self._engine.compute(work)
        weight = 0.0 if batch.filler else 1.0
        self._engine.backward(total * weight)
        figures = {"loss": total, **parts}
        return {name: float(value.detach()) * weight for name, value in figures.items()}

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell the parent about a step, every few seconds, at the first and at the last."""
        now = time.monotonic()
        first, last = self._told_step < 0, step == self._plan.steps
        if self._rank != 0 or not (first or last or now - self._told >= REPORT_EVERY_S):
            return
        shown = {name.removeprefix(TIMING): value for name, value in figures.items()}
        if not first:
            shown["steps_per_second"] = (step - self._told_step) / max(now - self._told, 1e-9)
        self._told, self._told_step = now, step
        self._emit(
            ProgressEvent(
                stage=self._job.program, message=_sentence(shown), step=step, total=self._plan.steps, metrics=shown
            )
        )

    def save(self, step: int, curves: Curves) -> None:
        """Write a checkpoint and announce it (process 0; the others help to gather it)."""
        state = self._engine.state()
        if self._rank == 0:
            folder = self._job.scratch / "checkpoints" / f"step-{step:08d}"
            write_checkpoint(_fresh(folder), self._job.program, step, state, curves)
            self._emit.checkpoint(step, folder)

    def finish(self, curves: Curves, about: Mapping[str, Any]) -> None:
        """Save the trained model and its curves (process 0)."""
        with self._engine.whole():
            if self._rank == 0:
                save_model(self._job.output, self._model.backbone, self._model.processor, dict(about))
                curves.write(self._job.output / CURVES_FILE)
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
    )
    extra = {name: module.to(model.backbone.device) for name, module in objective.modules().items()}
    root = Root({"backbone": model.backbone, **extra})
    root.train()
    return make_engine(root, settings, restored)


def _counted(batches: Sequence[MicroBatch]) -> dict[str, float]:
    """The counts of all micro-batches of this process; fillers count nothing."""
    totals = dict.fromkeys(batches[0].counts, 0.0)
    for batch in batches:
        for name, count in batch.counts.items():
            totals[name] += 0.0 if batch.filler else count
    return totals


def _check_finite(step: int, figures: Mapping[str, float], name: str) -> None:
    if not math.isfinite(figures[name]):
        raise TrainingError(
            f"step {step + 1}: the {name} is {figures[name]}; figures: {_sentence(figures)}. "
            "Lower the learning rate, or look at the examples of this step"
        )


def _sentence(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _fresh(folder: Path) -> Path:
    """A folder that is not there yet (a checkpoint of an earlier attempt in the same place goes)."""
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return folder
