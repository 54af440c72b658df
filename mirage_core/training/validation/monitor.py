"""Supervision of a run: it fails when its loss diverges, stops early, and ends with the best weights if wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from mirage_core.distributed.job import Job
from mirage_core.errors import TrainingError
from mirage_core.training.checkpoint.checkpoint import EXTRA_FILES
from mirage_core.training.engine.base import Engine
from mirage_core.training.logging.curves import Curves
from mirage_core.training.logging.run_log import RunLog
from mirage_core.training.validation.early_stopping import (
    PREFIX,
    EarlyStopping,
    LossDivergence,
    check_best_weights,
    load_best_weights,
    save_best_weights,
)
from mirage_core.training.validation.validation import Validation

BEST_STEP_KEY = "kept_step"
"""In mirage.json, the step of the best weights."""
MAX_NAMED = 20


class TrainingMonitor:
    """Follows a run from step to step; every process calls the same methods in the same order.

    ``module``: what is trained and saved, whose best weights may be kept.
    """

    def __init__(
        self,
        job: Job,
        steps: int,
        max_loss_ratio: float | None,
        validation: Validation | None,
        curves: Curves,
        module: nn.Module,
        engine: Engine,
        log: RunLog,
    ) -> None:
        self._steps, self._validation, self._curves = steps, validation, curves
        self._module, self._engine, self._log = module, engine, log
        self._best_folder = job.scratch / EXTRA_FILES
        self._divergence = LossDivergence(max_loss_ratio, curves)
        self._stopping = EarlyStopping(validation.settings, curves) if validation is not None else None
        if self._keep_best and self._stopping is not None and self._stopping.best is not None:
            check_best_weights(self._best_folder, self._stopping.best.step)

    @property
    def ended(self) -> bool:
        """Whether the run stops early now."""
        return self._stopping is not None and self._stopping.stop_reason is not None

    def on_step(self, step: int, figures: Mapping[str, float], examples: Sequence[str]) -> None:
        """Check the figures after ``step``. TrainingError for a loss that diverges."""
        message = self._divergence.check(step, figures["loss"])
        if message is not None:
            raise TrainingError(f"{message}. {loss_advice(examples)}, or raise max_loss_ratio")

    def validate(self, step: int, paused: AbstractContextManager[None]) -> None:
        """Validate after ``step`` if due, inside ``paused``; save the weights if they are the best so far."""
        if self._validation is None or self._stopping is None or not self._validation.due(step, self._steps):
            return
        with paused:
            measured = self._validation.measure(self._engine, self._module)
            figures = {f"{PREFIX}{name}": value for name, value in measured.items()}
            self._curves.add(step, figures)
            self._log.validated(step, figures)
            self._update_best(step, figures, self._stopping)

    def finish(self, step: int, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """Log why ``step`` was the last, and load the best weights if wanted.

        Returns ``metadata`` (mirage.json) with the step of the best weights in the last chapter of its history.
        """
        if self._stopping is None or self._stopping.best is None:
            return metadata
        if self._stopping.stop_reason is not None and step < self._steps:
            self._log.message(self._stopping.stop_reason)
        if not self._keep_best:
            return metadata
        best = self._stopping.best
        load_best_weights(self._module, self._best_folder, best.step)
        self._log.message(f"keeps the weights after step {best.step}: {self._stopping.metric} {best.value:.4g}")
        *before, chapter = metadata["history"]
        return {**metadata, "history": [*before, {**chapter, BEST_STEP_KEY: best.step}]}

    @property
    def _keep_best(self) -> bool:
        return self._validation is not None and self._validation.settings.keep_best

    def _update_best(self, step: int, figures: Mapping[str, float], stopping: EarlyStopping) -> None:
        if stopping.metric not in figures:
            return
        value = figures[stopping.metric]
        if not math.isfinite(value):
            raise TrainingError(f"after step {step} {stopping.metric} is {value}. Lower the learning rate")
        if stopping.update(step, value) and self._keep_best:
            save_best_weights(self._module, self._best_folder, step)


def loss_advice(examples: Sequence[str]) -> str:
    """Return what to do about a loss that went wrong in a step of these examples."""
    advice = "Lower the learning rate"
    if not examples:
        return advice
    names = ", ".join(examples[:MAX_NAMED])
    more = f" and {len(examples) - MAX_NAMED} more" if len(examples) > MAX_NAMED else ""
    return f"{advice}, or look at the examples of this step ({names}{more})"
