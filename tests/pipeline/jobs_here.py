"""Jobs of one process run in the test's own: to start one, which imports torch, takes longer than a test's few steps.

For tests whose subject is not the launcher, the worker or their processes: tests/distributed tests those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.pipeline.programs import program_of


def run_here(job: Job, **_: Any) -> None:
    """Run a job's program in this process; its events go to a file that nobody reads."""
    assert job.settings.runtime.world_size == 1, "a job of several processes was to run in this one"
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    program_of(job.program)(job, EventWriter(job.scratch / "events.jsonl"))


@contextmanager
def jobs_here() -> Iterator[None]:
    """Run the training and evaluation jobs of the block in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirage_core.distributed.launch.run_job", run_here)
        patch.setattr("mirage_core.evaluation.evaluate.run_job", run_here)
        yield
