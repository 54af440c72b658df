"""The programs that processes of jobs run; torch is imported with this module, which worker.py imports late."""

from __future__ import annotations

from collections.abc import Callable

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.evaluation.evaluate import evaluate_rank
from mirage_core.methods import programs
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.sft.train import run_supervised
from mirage_core.training.warmup.objective import run_warmup

RunProgram = Callable[[Job, EventWriter], None]
"""What a process runs; which process it is, is ``current_process()``."""


def program_of(name: str) -> RunProgram:
    """Return the function of a job's program."""
    if name == "warmup":
        return run_warmup
    if name == "evaluate":
        return evaluate_rank
    return run_grpo if programs()[name].reinforces else run_supervised
