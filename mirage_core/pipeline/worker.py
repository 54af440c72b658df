"""One process of a job: `python -m mirage_core.pipeline.worker JOB.json --rank R --world-size N --parent PID`.

It stands above training and evaluation, so that it may import their programs; distributed/worker.py does the rest.
`torchrun --nproc-per-node 8 -m mirage_core.pipeline.worker JOB.json` starts it without a rank (docs/several-hosts.md).
"""

from __future__ import annotations

from mirage_core.distributed.worker import exit_now, worker_process
from mirage_core.methods import import_registered

if __name__ == "__main__":
    import_registered()
    with worker_process() as (job, events):
        from mirage_core.pipeline.programs import program_of  # torch is imported with it, once its threads are set

        program_of(job.program)(job, events)
    exit_now()
