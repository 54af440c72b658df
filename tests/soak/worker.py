"""A training rank as in the product, which notes every optimizer step and takes its time over it.

A micro model's step is done in ten milliseconds, which is quicker than the launcher polls; real ones are not.
"""

from __future__ import annotations

import os
import time
from typing import Any

from mirage_core.distributed.context import current_process
from mirage_core.distributed.worker import exit_now, worker_process
from tests.soak.victim import note


def watch_steps() -> None:
    """Note each step that was taken and each checkpoint that was announced."""
    from mirage_core.training import loop

    pace = float(os.environ["MIRAGE_SOAK_STEP_S"])
    step, save = loop.TrainingRun.step, loop.TrainingRun.save

    def noted_step(run: Any, number: int) -> Any:
        time.sleep(pace)
        figures = step(run, number)
        if current_process().is_main:
            note(event="step", program=run._job.program, step=number)
        return figures

    def noted_save(run: Any, number: int, *args: Any) -> None:
        save(run, number, *args)
        if current_process().is_main:
            note(event="announced", program=run._job.program, step=number)

    loop.TrainingRun.step, loop.TrainingRun.save = noted_step, noted_save  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    with worker_process() as (job, events):
        from mirage_core.pipeline.programs import program_of

        if job.program != "evaluate":
            watch_steps()
        program_of(job.program)(job, events)
    exit_now()
