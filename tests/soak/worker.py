"""A training rank as in the product, which notes every optimizer step and takes its time over it.

A micro model's step is done in ten milliseconds, which is quicker than the launcher looks; real ones are not.
"""

from __future__ import annotations

import os
import time
from typing import Any

from mirage_core.distributed import worker
from tests.soak.victim import note


def watch_steps() -> None:
    """Note each step that was taken and each checkpoint that was announced."""
    from mirage_core.training import loop

    pace = float(os.environ["MIRAGE_SOAK_STEP_S"])
    step, save = loop._Run.step, loop._Run.save

    def noted_step(run: Any, number: int) -> Any:
        time.sleep(pace)
        figures = step(run, number)
        if run._rank == 0:
            note(event="step", program=run._job.program, step=number)
        return figures

    def noted_save(run: Any, number: int, *given: Any) -> None:
        save(run, number, *given)
        if run._rank == 0:
            note(event="announced", program=run._job.program, step=number)

    loop._Run.step, loop._Run.save = noted_step, noted_save  # type: ignore[method-assign, assignment]


def program(name: str) -> worker.RunProgram:
    """The function of a program, watched where it trains."""
    if name != "evaluate":
        watch_steps()
    return _program(name)


_program = worker.program

if __name__ == "__main__":
    worker.program = program
    worker.leave(worker.main())
