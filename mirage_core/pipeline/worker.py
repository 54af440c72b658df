"""One process of a job: `python -m mirage_core.pipeline.worker JOB.json --rank R --world-size N --parent PID`.

It stands above training and evaluation, so that it may import their programs; distributed/worker.py does the rest.
`torchrun --nproc-per-node 8 -m mirage_core.pipeline.worker JOB.json` starts it without a rank (docs/several-hosts.md).
"""

from __future__ import annotations

from collections.abc import Callable

from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.worker import exit_now, worker_process
from mirage_core.methods import import_registered, programs

RunProgram = Callable[[Job, EventWriter], None]
"""What a process runs; which process it is, is ``current_process()``."""


def program_of(name: str) -> RunProgram:
    """Return the function of a job's program; torch is imported with it."""
    if name == "warmup":
        from mirage_core.training.warmup.objective import run_warmup

        return run_warmup
    if name == "evaluate":
        from mirage_core.evaluation.evaluate import evaluate_rank

        return evaluate_rank
    if programs()[name].loss == "policy":
        from mirage_core.training.grpo.train import run_grpo

        return run_grpo
    from mirage_core.training.sft.train import run_supervised

    return run_supervised


if __name__ == "__main__":
    import_registered()
    with worker_process() as (job, events):
        program_of(job.program)(job, events)
    exit_now()
