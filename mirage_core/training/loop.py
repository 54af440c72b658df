"""The training loop that every program shares: batches, backward passes, steps, curves, checkpoints, the result."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from mirage_core.config import OptimizerName
from mirage_core.distributed.collectives import process_device, sum_over_processes, wait_for_all
from mirage_core.distributed.context import StopRequest, catch_sigterm, current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.errors import TrainingError, TrainingInterrupted
from mirage_core.model.loading import LoadedModel, save_model
from mirage_core.model.weights import SavedModule
from mirage_core.training.checkpoint.checkpoint import (
    CURVES_FILE,
    CheckpointSaver,
    read_checkpoint,
    restore_extra_files,
)
from mirage_core.training.checkpoint.sharded_state import EngineState
from mirage_core.training.engine.base import Engine, EngineSettings, Root
from mirage_core.training.engine.make_engine import make_engine
from mirage_core.training.engine.optimizers import Schedule, learning_rate
from mirage_core.training.logging.curves import STEP_TOKENS, Curves
from mirage_core.training.logging.run_log import RunLog, format_figures, tensorboard_writer
from mirage_core.training.logging.throughput import ThroughputMeter
from mirage_core.training.objective import MicroBatch, Objective, total_counts, total_work
from mirage_core.training.validation.monitor import TrainingMonitor, loss_advice
from mirage_core.training.validation.validation import Validation

STOP_REQUESTED = "stop_requested"  # summed over the processes, so that all of them stop after the same step
WORK = "work/"  # prefix of what is counted for the throughput alone, beside the counts of the losses


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Number of optimizer steps, the peak rate and its schedule, decay, clipping.

    ``max_loss_ratio``: the run fails when its loss exceeds that of the first steps so many times (None: never).
    ``resets``: the steps (from 0) before which the optimizer's moments are cleared.
    """

    steps: int
    learning_rate: float
    warmup_steps: int
    schedule: Schedule
    weight_decay: float
    max_grad_norm: float
    max_loss_ratio: float | None = None
    optimizer: OptimizerName = "adamw"
    resets: frozenset[int] = frozenset()

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (from 0)."""
        return learning_rate(
            step, steps=self.steps, peak=self.learning_rate, warmup_steps=self.warmup_steps, schedule=self.schedule
        )


def train(
    objective: Objective,
    model: LoadedModel,
    plan: TrainPlan,
    job: Job,
    events: EventWriter,
    metadata: Mapping[str, Any],
    validation: Validation | None = None,
    beside: Sequence[SavedModule] = (),
) -> None:
    """Train ``model`` and save it with its curves to ``job.output``; every process calls this alike.

    Goes on from ``job.resume_from`` exactly: batches and random numbers are functions of (seed, step), and decisions
    about ``validation`` are functions of the curves. ``metadata`` becomes mirage.json. ``beside``: modules of the
    objective that are saved too. TrainingError for a loss or
    gradient that is not finite, or a loss that diverges; it names the examples of the step.
    """
    with catch_sigterm() as stop_request:
        model.backbone.to(process_device())
        step, restored, curves = _resume_point(job)
        run = TrainingRun(objective, model, plan, job, events, restored, stop_request)
        with tensorboard_writer(job, step) as write_scalars:
            log = RunLog(job.program, plan.steps, events, write_scalars, run.meter)
            if restored is not None:
                log.message(f"going on after step {step}")
            kept = _kept(model, beside)
            monitor = TrainingMonitor(job, plan.steps, plan.max_loss_ratio, validation, curves, kept, run.engine, log)
            last = run.steps(step, curves, monitor, log)
            metadata = monitor.finish(last, metadata)
        run.finish(curves, metadata, beside)


def _kept(model: LoadedModel, beside: Sequence[SavedModule]) -> nn.Module:
    """Return the module whose best weights are kept: all that is saved."""
    if not beside:
        return model.backbone
    return Root({"backbone": model.backbone, **{Path(saved.file).stem: saved.module for saved in beside}})


def step_seed(*numbers: int) -> int:
    """Return a well-spread seed for torch from several numbers (the job's seed, a step, ...)."""
    digest = hashlib.sha256(",".join(str(number) for number in numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _resume_point(job: Job) -> tuple[int, EngineState | None, Curves]:
    if current_process().is_main:
        restore_extra_files(job.resume_from, job.scratch)
    wait_for_all()
    return (0, None, Curves()) if job.resume_from is None else read_checkpoint(job.resume_from, job.program)


class TrainingRun:
    """One process's part of a training run."""

    def __init__(
        self,
        objective: Objective,
        model: LoadedModel,
        plan: TrainPlan,
        job: Job,
        events: EventWriter,
        restored: EngineState | None,
        stop_request: StopRequest,
    ) -> None:
        self._objective, self._model, self._plan, self._job = objective, model, plan, job
        self.engine = _make_engine(objective, model, plan, job, restored)
        self._saver = CheckpointSaver(job, events)
        self._stop_request, self._stopping, self._saved_step = stop_request, False, -1
        self.meter = ThroughputMeter(model.backbone.device)

    def steps(self, step: int, curves: Curves, monitor: TrainingMonitor, log: RunLog) -> int:
        """Train from ``step`` to the end, logging, validating and checkpointing; returns the last step."""
        if step == 0:
            monitor.validate(step, self.meter.paused())
        while step < self._plan.steps and not monitor.ended:
            figures = self.step(step)
            step += 1
            curves.add(step, figures)
            log.step(step, figures)
            monitor.on_step(step, figures, self._objective.examples(step - 1))
            monitor.validate(step, self.meter.paused())
            if step < self._plan.steps and not monitor.ended:
                self._save_if_due(step, curves)
        return step

    def _save_if_due(self, step: int, curves: Curves) -> None:
        if step % self._job.settings.runtime.checkpoint_every == 0:
            with self.meter.paused():
                self.save(step, curves)
        if self._stopping:
            self._interrupt(step, curves)

    def step(self, step: int) -> dict[str, float]:
        """Take one optimizer step on one batch; returns the step's figures, the same in every process."""
        torch.manual_seed(step_seed(self._job.seed, step, current_process().rank))
        if step in self._plan.resets:
            self.engine.reset_optimizer()
        batches = self._objective.micro_batches(step)
        work = {f"{WORK}{name}": amount for name, amount in total_work(batches).items()}
        totals = sum_over_processes({**total_counts(batches), **work})
        self.meter.count({name.removeprefix(WORK): totals[name] for name in totals if name.startswith(WORK)})
        figures: dict[str, float] = {}
        for batch in batches:
            for name, value in self._backward(batch, totals).items():
                figures[name] = figures.get(name, 0.0) + value
        figures = sum_over_processes({**figures, STOP_REQUESTED: float(bool(self._stop_request))})
        self._stopping = figures.pop(STOP_REQUESTED) > 0
        _check_finite(step, figures, "loss", self._objective.examples(step))
        figures[STEP_TOKENS] = totals.get(f"{WORK}tokens", 0.0)
        figures["learning_rate"] = self._plan.rate(step)
        figures["gradient_norm"] = self.engine.step(figures["learning_rate"])
        _check_finite(step, figures, "gradient_norm", self._objective.examples(step))
        return figures

    def _backward(self, batch: MicroBatch, totals: Mapping[str, float]) -> dict[str, float]:
        """Run one micro-batch forward and backward; returns what it adds to the step's figures."""

        def forward() -> tuple[Tensor, dict[str, Tensor]]:
            loss = self._objective.loss(self._model.backbone, batch.data, totals)
            return loss.total, dict(loss.parts)

        total, parts = self.engine.compute(forward)
        weight = 0.0 if batch.filler else 1.0
        self.engine.backward(total * weight)
        figures = {"loss": total, **parts}
        return {name: float(value.detach()) * weight for name, value in figures.items()}

    def save(self, step: int, curves: Curves) -> None:
        """Save a checkpoint, each process its part."""
        self._saver.save(step, self.engine.shard(), curves)
        self._saved_step = step

    def _interrupt(self, step: int, curves: Curves) -> NoReturn:
        """Save, and raise TrainingInterrupted in every process."""
        if self._saved_step != step:
            self.save(step, curves)
        self._saver.wait()
        wait_for_all()  # no process ends before all have saved
        raise TrainingInterrupted(
            f"{self._job.program} was interrupted at step {step} of {self._plan.steps}, and saved there: run again"
        )

    def finish(self, curves: Curves, metadata: Mapping[str, Any], beside: Sequence[SavedModule] = ()) -> None:
        """Save the trained model and its curves (process 0; the others help it to gather one weight at a time)."""
        self._saver.wait()
        output, model, writes = self._job.output, self._model, current_process().is_main
        save_model(output, model.backbone, model.processor, dict(metadata), gather=self.engine.gather, write=writes)
        for saved in beside:
            saved.save(output, self.engine.gather, write=writes)
        if writes:
            curves.write(output / CURVES_FILE)
        wait_for_all()


def _make_engine(
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
        fused_on_cpu=runtime.portable_math,
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
            f"step {step + 1}: the {name} is {figures[name]}; figures: {format_figures(figures)}. "
            f"{loss_advice(examples)}"
        )
