"""The course of a run: it ends when its loss runs away or validation gets no better, in the best weights if wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mirage_core.distributed.job import Job
from mirage_core.errors import TrainingError
from mirage_core.model.loading import LoadedModel
from mirage_core.training.engine.base import Engine
from mirage_core.training.logging.curves import Curves
from mirage_core.training.logging.run_log import RunLog
from mirage_core.training.validation.early_stopping import PREFIX, Divergence, Watch, check_best, keep_best, load_best
from mirage_core.training.validation.validation import Validation

KEPT = "kept"
"""The folder in a job's scratch whose files travel with every checkpoint."""
KEPT_STEP = "kept_step"
NAMED = 20


class Course:
    """Follows a run from step to step; every process calls the same methods in the same order."""

    def __init__(
        self,
        job: Job,
        steps: int,
        stop_above: float | None,
        validation: Validation | None,
        curves: Curves,
        model: LoadedModel,
        engine: Engine,
        rank: int,
        log: RunLog,
    ) -> None:
        self._steps, self._validation, self._curves = steps, validation, curves
        self._backbone, self._engine, self._rank, self._log = model.backbone, engine, rank, log
        self._kept = job.scratch / KEPT
        self._divergence = Divergence(stop_above, curves)
        self._watch = Watch(validation.settings, curves) if validation is not None else None
        if self._keeps_best and self._watch is not None and self._watch.best is not None:
            check_best(self._kept, self._watch.best.step)

    @property
    def ended(self) -> bool:
        """Whether no further step is wanted."""
        return self._watch is not None and self._watch.stop is not None

    def follow(self, step: int, figures: Mapping[str, float], examples: Sequence[str]) -> None:
        """Take the figures after ``step``. TrainingError for a loss that diverges."""
        said = self._divergence.follow(step, figures["loss"])
        if said is not None:
            raise TrainingError(f"{said}. {way_out(examples)}, or raise stop_above")

    def validate(self, step: int, paused: AbstractContextManager[None]) -> None:
        """Measure after ``step`` where that is due, inside ``paused``, and take the consequences."""
        if self._validation is None or self._watch is None or not self._validation.due(step, self._steps):
            return
        with paused:
            found = self._validation.measure(self._engine, self._backbone)
            figures = {f"{PREFIX}{name}": value for name, value in found.items()}
            self._curves.add(step, figures)
            self._log.validated(step, figures)
            self._judge(step, figures)

    def settle(self, step: int, about: Mapping[str, Any]) -> Mapping[str, Any]:
        """After the last step: say why it was the last, and go back to the best weights where they are wanted.

        Returns ``about`` (mirage.json) with the step whose weights are kept, in the last chapter of its history.
        """
        if self._watch is None or self._watch.best is None:
            return about
        if self._watch.stop is not None and step < self._steps:
            self._log.say(self._watch.stop)
        best = self._watch.best
        if not self._keeps_best:
            return about
        load_best(self._backbone, self._kept, best.step)
        self._log.say(f"keeps the weights after step {best.step}: {self._watch.metric} {best.value:.4g}")
        *before, chapter = about["history"]
        return {**about, "history": [*before, {**chapter, KEPT_STEP: best.step}]}

    @property
    def _keeps_best(self) -> bool:
        return self._validation is not None and self._validation.settings.keep_best

    def _judge(self, step: int, figures: Mapping[str, float]) -> None:
        """Whether these are the best weights so far."""
        if self._watch is None or self._watch.metric not in figures:
            return
        value = figures[self._watch.metric]
        if not math.isfinite(value):
            raise TrainingError(f"after step {step} {self._watch.metric} is {value}. Lower the learning rate")
        if self._watch.judge(step, value) and self._keeps_best:
            keep_best(self._backbone, self._kept, step, self._rank)


def way_out(examples: Sequence[str]) -> str:
    """What to do about a loss that went wrong in a step of these examples."""
    advice = "Lower the learning rate"
    if not examples:
        return advice
    named = ", ".join(examples[:NAMED])
    more = f" and {len(examples) - NAMED} more" if len(examples) > NAMED else ""
    return f"{advice}, or look at the examples of this step ({named}{more})"
